"""Matching: which message goes to which receive.

MPI's rules (MPI-4.1, 3.5): by (source, tag) within one channel, receives in the order of posting, messages of one
source in the order of sending, wildcards allowed.

What is wanted is a pattern: source and tag, or a wildcard for either.  A receive or a probe is filed under its own pattern,
and a message is looked for under the four that admit it.  A message is filed under its source and tag, and for as long as
wildcards ask for messages, under those patterns too, so that the first one is found at once.  Nothing is searched.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, TypeVar

from .operation import ANY_SOURCE, ANY_TAG, Operation, Receive
from .queues import Queues

if TYPE_CHECKING:
    from ..transport.memory import Offer
    from .channel import Channel

__all__ = ["Arrival", "Matcher", "Probe"]


class Arrival:
    """A message that came, or was announced, before its receive was posted; sink of its own payload.

    Attributes
    ----------
    payload : bytearray or None
        None if the message waits at the sender.
    offer : Offer or None
        Where in the sender's memory it waits.
    kept : int
        Bytes that are counted for it among what is kept for its sender.
    number : int
        Of its announcement on the connection; 0 if it has not been announced, or is offered.
    pushed : bool
        It has come after its announcement without being asked for, and its sender has not had the answer that it expects.
    complete : bool
        All of the payload is here.
    receive : Receive or None
        The receive that was posted while the payload was still arriving.
    order : int
        Number of the coming, for MPI's matching order.
    """

    __slots__ = (
        "complete",
        "fingerprint",
        "kept",
        "nbytes",
        "number",
        "offer",
        "order",
        "payload",
        "position",
        "pushed",
        "receive",
        "source",
        "tag",
    )

    def __init__(
        self, source: int, tag: int, nbytes: int, fingerprint: bytes, announced: bool, offer: Offer | None = None
    ) -> None:
        self.source = source
        self.tag = tag
        self.nbytes = nbytes
        self.fingerprint = fingerprint
        self.offer = offer
        self.payload = None if announced else bytearray(nbytes)
        self.position = 0
        self.kept = self.number = 0
        self.pushed = self.complete = False
        self.receive: Receive | None = None
        self.order = 0

    def feed(self, data: memoryview) -> None:
        assert self.payload is not None
        stop = self.position + len(data)
        self.payload[self.position : stop] = data
        self.position = stop

    def window(self) -> memoryview:
        assert self.payload is not None
        return memoryview(self.payload)[self.position :]

    def advance(self, nbytes: int) -> None:
        self.position += nbytes

    def finish(self) -> None:
        self.complete = True
        if self.receive is not None:
            self.deliver(self.receive)

    def deliver(self, receive: Receive) -> None:
        """Hand a complete payload to its receive."""
        if self.payload:
            receive.feed(memoryview(self.payload))
        receive.finish()


class Probe(Operation):
    """Completes when there is a message that no receive has matched.

    Attributes
    ----------
    source, tag : int
        Wildcards included.
    takes : bool
        The message is kept for the one who probes: no receive matches it any more.
    arrival : Arrival or None
    order : int
        Number of the asking.
    """

    __slots__ = ("arrival", "channel", "order", "source", "tag", "takes")

    def __init__(self, channel: Channel, source: int, tag: int, takes: bool) -> None:
        super().__init__()
        self.channel = channel
        self.source = source
        self.tag = tag
        self.takes = takes
        self.arrival: Arrival | None = None
        self.order = 0

    def find(self, arrival: Arrival) -> None:
        """Give it its message, and hold that for it if it takes it: what comes next may already be about it."""
        self.arrival = arrival
        if self.takes:
            self.channel.hold(arrival)
        self.complete()


Wanted = TypeVar("Wanted", Receive, Probe)


class Matcher:
    """Posted receives, probes and early messages of one channel.

    As long as there are none of them, the next message is for the next receive that fits it.

    Attributes
    ----------
    receives : Queues of Receive
        By pattern.
    probes : Queues of Probe
        By pattern.
    arrivals : Queues of Arrival
        By source and tag.
    """

    __slots__ = ("_by_pattern", "_kinds", "_order", "_wild", "arrivals", "probes", "receives")

    def __init__(self) -> None:
        self._order = count(1)
        self.receives: Queues[Receive] = Queues()
        self._wild = 0  # of them, those with a wildcard
        self.probes: Queues[Probe] = Queues()
        self.arrivals: Queues[Arrival] = Queues()
        self._by_pattern: Queues[Arrival] = Queues()  # arrivals, by each pattern of the kinds that have been asked for
        self._kinds: tuple[tuple[bool, bool], ...] = ()

    # -- receives ---------------------------------------------------------------------------------------------------------

    def post(self, receive: Receive) -> Arrival | None:
        """Return the early message that `receive` gets, removed from the queue; post the receive if there is none."""
        source, tag = receive.source, receive.tag
        if self.arrivals:
            arrival = self.take(source, tag)
            if arrival is not None:
                return arrival
        receive.order = next(self._order)
        self.receives.put(source, tag, receive)
        self._wild += source == ANY_SOURCE or tag == ANY_TAG
        return None

    def match(self, source: int, tag: int) -> Receive | None:
        """Return the receive that a message from `source` gets, removed from the queue, or None."""
        posted = self.receives
        if not self._wild:
            return posted.take(source, tag) if posted else None
        receive = _earliest(posted, source, tag)
        if receive is not None:
            posted.take(receive.source, receive.tag)
            self._wild -= receive.source == ANY_SOURCE or receive.tag == ANY_TAG
        return receive

    def withdraw(self, receive: Receive) -> bool:
        """Take back a receive; return False if a message has matched it."""
        source, tag = receive.source, receive.tag
        removed = self.receives.remove(source, tag, receive)
        self._wild -= removed and (source == ANY_SOURCE or tag == ANY_TAG)
        return removed

    def posted(self) -> list[Receive]:
        """The receives that wait for a message."""
        return list(self.receives.items_of_all())

    def awaits(self, source: int) -> bool:
        """Whether a receive waits for a message of this very source."""
        return source in self.receives

    # -- messages ---------------------------------------------------------------------------------------------------------

    def keep(self, arrival: Arrival) -> None:
        """Queue a message that no receive wants yet."""
        arrival.order = next(self._order)
        if self.probes and self._probed(arrival):
            return
        source, tag = arrival.source, arrival.tag
        self.arrivals.put(source, tag, arrival)
        for any_source, any_tag in self._kinds:
            self._by_pattern.put(ANY_SOURCE if any_source else source, ANY_TAG if any_tag else tag, arrival)

    def find(self, source: int, tag: int) -> Arrival | None:
        """Return the early message that a receive would get, without removing it."""
        if source != ANY_SOURCE and tag != ANY_TAG:
            return self.arrivals.first(source, tag)
        if not self.arrivals:
            return None
        kind = (source == ANY_SOURCE, tag == ANY_TAG)
        if kind not in self._kinds:
            only = self.arrivals.only()  # as nearly always: then the patterns are not worth it
            if only is not None:
                return only if source in (ANY_SOURCE, only.source) and tag in (ANY_TAG, only.tag) else None
            self._file(*kind)
        return self._by_pattern.first(source, tag)

    def take(self, source: int, tag: int) -> Arrival | None:
        """Return the early message that a receive would get, removed from the queue."""
        if source != ANY_SOURCE and tag != ANY_TAG:
            arrival = self.arrivals.take(source, tag)
            if arrival is None:
                return None
        else:
            arrival = self.find(source, tag)
            if arrival is None:
                return None
            source, tag = arrival.source, arrival.tag
            self.arrivals.take(source, tag)  # the first there too
        if self._kinds:
            for any_source, any_tag in self._kinds:
                self._by_pattern.remove(ANY_SOURCE if any_source else source, ANY_TAG if any_tag else tag, arrival)
            if not self.arrivals:
                self._kinds = ()
        return arrival

    def _file(self, any_source: bool, any_tag: bool) -> None:
        """File the early messages by the patterns of a kind, and those that come, until none is left."""
        for arrival in sorted(self.arrivals.items_of_all(), key=lambda arrival: arrival.order):
            source, tag = ANY_SOURCE if any_source else arrival.source, ANY_TAG if any_tag else arrival.tag
            self._by_pattern.put(source, tag, arrival)
        self._kinds = (*self._kinds, (any_source, any_tag))

    def early(self) -> list[Arrival]:
        """The messages that no receive has matched."""
        return list(self.arrivals.items_of_all())

    # -- probes -----------------------------------------------------------------------------------------------------------

    def probe(self, probe: Probe) -> Probe:
        """Give a probe its message, now or when it comes."""
        if not self.look(probe):
            probe.order = next(self._order)
            self.probes.put(probe.source, probe.tag, probe)
        return probe

    def look(self, probe: Probe) -> bool:
        """Give a probe its message if there is one; return whether there is."""
        arrival = self.take(probe.source, probe.tag) if probe.takes else self.find(probe.source, probe.tag)
        if arrival is None:
            return False
        probe.find(arrival)
        return True

    def _probed(self, arrival: Arrival) -> bool:
        """Give a message to the probes that wait for it; return whether one has taken it."""
        while (probe := _earliest(self.probes, arrival.source, arrival.tag)) is not None:
            self.probes.take(probe.source, probe.tag)
            probe.find(arrival)
            if probe.takes:
                return True
        return False


def _earliest(waiting: Queues[Wanted], source: int, tag: int) -> Wanted | None:
    """What was first to want a message of this source and tag."""
    earliest = None
    for its_source in (source, ANY_SOURCE):
        firsts = waiting.get(its_source)
        if firsts is not None:
            for its_tag in (tag, ANY_TAG):
                first = firsts.get(its_tag)
                if first is not None and (earliest is None or first.order < earliest.order):
                    earliest = first
    return earliest
