"""Matching: which message goes to which receive.

MPI's rules (MPI-4.1, 3.5): by (source, tag) within one channel, receives in the order of posting, messages of one
source in the order of sending, wildcards allowed.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from .operation import ANY_SOURCE, ANY_TAG, Operation, Receive

if TYPE_CHECKING:
    from ..transport.memory import Offer
    from .channel import Channel

__all__ = ["Arrival", "Matcher", "Probe"]

Key = tuple[int, int]  # source, tag


class Arrival:
    """A message that came, or was announced, before its receive was posted; sink of its own payload.

    Attributes
    ----------
    announced : bool
        It has not been sent without asking.
    payload : bytearray or None
        None if the message waits at the sender.
    offer : Offer or None
        Where in the sender's memory it waits.
    kept : bool
        It came without being asked for, and counts among what is kept for its sender.
    complete : bool
        All of the payload is here.
    receive : Receive or None
        The receive that was posted while the payload was still arriving.
    """

    __slots__ = (
        "announced",
        "complete",
        "fingerprint",
        "kept",
        "nbytes",
        "offer",
        "order",
        "payload",
        "position",
        "receive",
        "source",
        "tag",
    )

    def __init__(
        self, source: int, tag: int, nbytes: int, fingerprint: bytes, announced: bool, offer: Offer | None = None
    ) -> None:
        self.announced = announced
        self.source = source
        self.tag = tag
        self.nbytes = nbytes
        self.fingerprint = fingerprint
        self.offer = offer
        self.payload = None if announced else bytearray(nbytes)
        self.position = 0
        self.kept = self.complete = False
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
    """

    __slots__ = ("arrival", "channel", "source", "tag", "takes")

    def __init__(self, channel: Channel, source: int, tag: int, takes: bool) -> None:
        super().__init__()
        self.channel = channel
        self.source = source
        self.tag = tag
        self.takes = takes
        self.arrival: Arrival | None = None


class Matcher:
    """Posted receives, probes and early messages of one channel."""

    __slots__ = ("_arrivals", "_order", "_posted", "_probes", "_wild")

    def __init__(self) -> None:
        self._probes: list[Probe] = []
        self._posted: dict[Key, deque[Receive]] = {}
        self._wild: list[Receive] = []
        self._arrivals: dict[Key, deque[Arrival]] = {}
        self._order = count(1)

    @property
    def idle(self) -> bool:
        """Whether nothing is posted and nothing has come: the next message is for the next receive that fits it."""
        return not (self._posted or self._arrivals or self._wild or self._probes)

    def post(self, receive: Receive) -> Arrival | None:
        """Return the early message that `receive` gets, removed from the queue; post the receive if there is none."""
        source, tag = receive.source, receive.tag
        if self._arrivals:
            arrival = self.take(source, tag)
            if arrival is not None:
                return arrival
        receive.order = next(self._order)
        if source != ANY_SOURCE and tag != ANY_TAG:
            key = (source, tag)
            queue = self._posted.get(key)
            if queue is None:
                self._posted[key] = deque((receive,))
            else:
                queue.append(receive)
        else:
            self._wild.append(receive)
        return None

    def find(self, source: int, tag: int) -> Arrival | None:
        """Return the early message that a receive would get, without removing it."""
        if source != ANY_SOURCE and tag != ANY_TAG:
            queue = self._arrivals.get((source, tag))
            return queue[0] if queue else None
        heads = [queue[0] for key, queue in self._arrivals.items() if _admits(source, tag, key)]
        return min(heads, key=lambda arrival: arrival.order, default=None)

    def take(self, source: int, tag: int) -> Arrival | None:
        """Return the early message that a receive would get, removed from the queue."""
        key = (source, tag)
        if source == ANY_SOURCE or tag == ANY_TAG:
            found = self.find(source, tag)
            if found is None:
                return None
            key = (found.source, found.tag)
        queue = self._arrivals.get(key)
        if queue is None:
            return None
        if len(queue) == 1:
            del self._arrivals[key]
        return queue.popleft()

    def unarrived(self, source: int, tag: int) -> Arrival | None:
        """Return the first announced message from a rank whose payload is still there."""
        return next((arrival for arrival in self._arrivals.get((source, tag), ()) if arrival.payload is None), None)

    def probe(self, probe: Probe) -> Probe:
        """Give a probe its message, now or when it comes."""
        probe.arrival = self.take(probe.source, probe.tag) if probe.takes else self.find(probe.source, probe.tag)
        if probe.arrival is None:
            self._probes.append(probe)
        else:
            probe.done = True
        return probe

    def early(self) -> list[Arrival]:
        """The messages that no receive has matched."""
        return [arrival for queue in self._arrivals.values() for arrival in queue]

    def withdraw(self, receive: Receive) -> bool:
        """Take back a receive; return False if a message has matched it."""
        if receive in self._wild:
            self._wild.remove(receive)
            return True
        key = (receive.source, receive.tag)
        queue = self._posted.get(key)
        if queue is None or receive not in queue:
            return False
        queue.remove(receive)
        if not queue:
            del self._posted[key]
        return True

    def match(self, source: int, tag: int) -> Receive | None:
        """Return the receive that a message from `source` gets, removed from the queue, or None."""
        key = (source, tag)
        queue = self._posted.get(key)
        if self._wild:
            wild = next((receive for receive in self._wild if _admits(receive.source, receive.tag, key)), None)
            if wild is not None and (queue is None or wild.order < queue[0].order):
                self._wild.remove(wild)
                return wild
        if queue is None:
            return None
        if len(queue) == 1:
            del self._posted[key]
            return queue[0]
        return queue.popleft()

    def keep(self, arrival: Arrival) -> None:
        """Queue a message that no receive wants yet."""
        arrival.order = next(self._order)
        if self._probes and self._probed(arrival):
            return
        self._arrivals.setdefault((arrival.source, arrival.tag), deque()).append(arrival)

    def _probed(self, arrival: Arrival) -> bool:
        """Give a message to the probes that wait for it; return whether one has taken it."""
        for probe in [probe for probe in self._probes if _admits(probe.source, probe.tag, (arrival.source, arrival.tag))]:
            self._probes.remove(probe)
            probe.arrival = arrival
            probe.complete()
            if probe.takes:
                return True
        return False

    def posted(self) -> list[Receive]:
        """The receives that wait for a message."""
        return [receive for queue in self._posted.values() for receive in queue] + self._wild


def _admits(source: int, tag: int, key: Key) -> bool:
    return source in (ANY_SOURCE, key[0]) and tag in (ANY_TAG, key[1])
