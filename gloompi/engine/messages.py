"""Messages: how they travel between this rank and the others, and what each frame does.

Up to `EAGER_NBYTES` a message is sent at once, as long as the peer has granted credit for it; the peer keeps it until a
receive matches.  A larger message, or one without credit, waits until it is asked for, see `Handover`.  The receiver of a
large message of a collective knows that it comes, and clears it in advance unless it can read it in its sender's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import GloompiError, MismatchError, PeerLostError
from ..transport.abort import MAX_ABORT_NBYTES, Abort
from ..transport.frames import HEADER_NBYTES, Kind, pack_header
from ..transport.link import Link, Patience, Sink
from ..transport.memory import OFFER_NBYTES, Offer
from .channel import REMEMBERED, STEP_BITS, Channel, label
from .fingerprint import describe, same_items
from .handover import CLEARED_NBYTES, Handover
from .matching import Arrival, Matcher, Probe
from .operation import DONE, OpenReceive, Operation, Receive, Send
from .reading import Offered
from .unjoined import Parked, Unjoined

__all__ = ["CLOSED", "CREDIT_NBYTES", "EAGER_NBYTES", "Messages"]

# Messages up to this size go out without asking. Asking costs a round trip; not asking costs the receiver a copy where
# its receive is late. With 256 KiB instead of 64, allreduces of 128 KiB took 0.66 of the time with 2 ranks and 0.5 with 4
# ranks on 2 cores, of 256 KiB 0.95 and 0.6 (recursive doubling, AF_UNIX).
EAGER_NBYTES = 256 * 1024

# What a peer may send without asking, headers included, beyond what this rank has seen.
CREDIT_NBYTES = 1024 * 1024

# Credit is given back when a peer has less than this left: enough for two messages that both sides of an exchange send
# before they receive.
_LOW_NBYTES = CREDIT_NBYTES // 2

# Memory for messages that no receive has matched, of all peers together. Up to here a message gives its credit back when it
# has come, whether it was received or not, so that it makes no difference to others what is left unreceived; above, those
# of a peer count against its credit, which in the end they use up.
EARLY_NBYTES = 64 * 1024 * 1024

# What an early message counts as, or any frame that waits for its Context, besides a payload: itself, and its place among
# the others. By tracemalloc, 20,000 of them take 350 bytes each, 420 where each has a tag of its own and a wildcard has been
# used.
_ENTRY_NBYTES = 512

# What an announcement counts as: each of a collective may say of another call which that is, and then takes 750.
_ANNOUNCED_NBYTES = 1024

# What the first frame for a Context counts as that this rank has not made, besides. It takes less, but nobody makes very
# many Contexts that others do not.
_UNJOINED_NBYTES = 4 * 1024

# What one peer makes this rank keep at most, with all that costs it no credit: announcements, leave to send what there is
# not yet, and what waits for a Context. Who announces 130,000 messages that no receive asks for is lost; 50,000, where as
# much is kept of it as credit allows.
MOST_NBYTES = 2 * EARLY_NBYTES

_MESSAGE, _ANNOUNCE, _CLEAR, _DATA = Kind.MESSAGE, Kind.ANNOUNCE, Kind.CLEAR, Kind.DATA

# What one rank sees of another's clean exit, if it still needs it.
CLOSED = "it closed its Context while this rank still needed it"


class Messages(Handover):
    """The messages of one rank, on all channels.

    Parameters
    ----------
    rank, links, fail, lose
        As for `Handover`.
    waits : Patience
        How to wait for what should come at once.

    Attributes
    ----------
    departures : int
        How often a peer has closed a Context.
    """

    def __init__(
        self,
        rank: int,
        links: Sequence[Link],
        fail: Callable[[GloompiError], None],
        lose: Callable[[Link, str], None],
        waits: Patience,
    ) -> None:
        super().__init__(rank, links, fail, lose)
        self._waits = waits
        self._channels: dict[int, Channel] = {}
        self._unjoined = Unjoined()
        self._kept = 0  # of all links
        self.departures = 0

    def join(self, number: int, ranks: Iterable[int]) -> tuple[Channel, Channel]:
        """Make the channels of a Context, of its messages and of its collectives, and take what has come for it already."""
        others = frozenset(ranks) - {self._rank}
        mine = Channel(number, False, others)
        calls = Channel(number + 1, True, others)
        self._channels.update({number: mine, number + 1: calls})
        waiting = self._unjoined.take(number)
        if waiting:
            self._release(waiting[0].link, _UNJOINED_NBYTES)
            self._resumed(waiting)
        return mine, calls

    def knows(self, number: int) -> bool:
        """Whether the channels with this number and the next belong to a Context of this rank, open or not over yet."""
        return number in self._channels or number + 1 in self._channels

    def send(
        self, channel: Channel, dest: int, tag: int, payload: memoryview, fingerprint: bytes, synchronous: bool = False
    ) -> Operation:
        """Begin to send `payload` (bytes, contiguous), which must not change before the operation is done.

        A synchronous send is not done before a receive has matched it.
        """
        link = self._links[dest]
        nbytes = len(payload)
        if dest in channel.departed:
            self._lose(link, CLOSED)
        if nbytes <= EAGER_NBYTES and link.credit >= nbytes + HEADER_NBYTES and not synchronous:
            header = pack_header(_MESSAGE, channel.id, tag, nbytes, fingerprint)
            return self._send_now(link, header, channel, tag, payload, fingerprint)
        operation = Send(channel, dest, tag, payload, fingerprint)
        self._announce(operation, large=nbytes > EAGER_NBYTES)
        if operation.waits and nbytes <= EAGER_NBYTES and not synchronous:
            link.starved[operation] = None
        return operation

    def exchange(
        self,
        channel: Channel,
        dest: int,
        source: int,
        tag: int,
        payload: memoryview,
        buffer: memoryview,
        fingerprint: bytes,
        prompt: bool,
    ) -> Operation | Sequence[Operation]:
        """Send `payload` to one rank of a collective, and receive as much from it or another into `buffer`.

        If `prompt`, the caller can do nothing before both are done.
        """
        link = self._links[dest]
        nbytes = len(payload)
        sent = None
        if nbytes <= EAGER_NBYTES and link.credit >= nbytes + HEADER_NBYTES and dest not in channel.departed:
            header = pack_header(_MESSAGE, channel.id, tag, nbytes, fingerprint)
            sent = self._send_now(link, header, channel, tag, payload, fingerprint)
            if prompt and sent is DONE:
                came = self._expect(channel, source, header, nbytes)
                if came is not None:
                    if nbytes:
                        buffer[:] = came
                    return DONE
        receive = Receive(channel, source, tag, buffer, nbytes, fingerprint)
        if sent is None:
            return self.receive(receive), self.send(channel, dest, tag, payload, fingerprint)
        return sent, self.receive(receive)

    def receive_now(self, channel: Channel, source: int, tag: int, nbytes: int, fingerprint: bytes) -> memoryview | None:
        """Wait a moment for a small message; return its payload if it was the next thing that came from its source.

        The payload lasts until something else is received.  For calls that can do nothing else meanwhile: no receive is
        posted and nothing is matched.  After None, the message is to be received as any other.
        """
        return self._expect(channel, source, pack_header(_MESSAGE, channel.id, tag, nbytes, fingerprint), nbytes)

    def _send_now(
        self, link: Link, header: bytes, channel: Channel, tag: int, payload: memoryview, fingerprint: bytes
    ) -> Operation:
        """Send without asking."""
        link.credit -= HEADER_NBYTES + len(payload)
        if link.write(header, payload or None):
            return DONE
        operation = Send(channel, link.rank, tag, payload, fingerprint)
        link.when_taken(operation)
        return operation

    def _expect(self, channel: Channel, source: int, header: bytes, nbytes: int) -> memoryview | None:
        if not self._waits.alone() or self.reading.queue:
            return None
        matcher = channel.matcher
        if matcher.arrivals or matcher.receives or matcher.probes:
            return None
        link = self._links[source]
        payload = link.expect(header, nbytes, self._waits)
        if payload is not None:  # as `_arrived`: one call less for every small message
            link.granted = granted = link.granted - nbytes - HEADER_NBYTES
            if granted < _LOW_NBYTES:
                self._repay(link)
        return payload

    def receive(self, receive: Receive, now: bool = False) -> Receive:
        """Post a receive; `now`: as long as it is not done, its caller can do nothing else."""
        channel = receive.channel
        if now and receive.exact and receive.source >= 0 and receive.tag >= 0:
            payload = self.receive_now(channel, receive.source, receive.tag, receive.capacity, receive.fingerprint)
            if payload is not None:
                receive.nbytes = receive.capacity
                if payload:
                    receive.feed(payload)
                receive.done = True
                return receive
        large = receive.capacity > EAGER_NBYTES
        if large and channel.collective and receive.ahead and not self._links[receive.source].readable:
            arrival = channel.matcher.take(receive.source, receive.tag)
            if arrival is None:
                receive.nbytes = receive.capacity
                self._clear(receive)
        else:
            arrival = channel.matcher.post(receive)
        if arrival is not None:
            self.settle(receive, arrival)
        if channel.collective and not receive.done:
            source = receive.source
            if source in channel.departed:
                self._lose(self._links[source], CLOSED)
        return receive

    def settle(self, receive: Receive, arrival: Arrival) -> None:
        """Give a receive the message that was there before it."""
        channel = receive.channel
        if channel.held:
            self._pull_before(channel, arrival)
            channel.held.discard(arrival)
        if not self._accept(receive, arrival.source, arrival.tag, arrival.nbytes, arrival.fingerprint):
            return
        if arrival.payload is None:
            if arrival.number:
                receive.number = arrival.number
                channel.announced[arrival.source, arrival.number] = receive
            self._ask_for(channel, receive, arrival.offer)
        else:
            if arrival.pushed:
                self._answer(channel, arrival)
            if arrival.complete:
                arrival.deliver(receive)
            else:
                arrival.receive = receive
        if arrival.kept:  # last: the credit may push what this rank sends to itself
            self._let_go(arrival)

    def _accept(self, receive: Receive, source: int, tag: int, nbytes: int, fingerprint: bytes) -> bool:
        """Bind a message to a receive; if they do not fit, break the engine and return False."""
        try:
            if receive.channel.collective:
                if fingerprint != receive.fingerprint or not receive.admits(nbytes):
                    if self._agrees(receive.channel, source, tag, fingerprint):
                        here = f"{describe(receive.fingerprint)} with {receive.capacity} bytes from rank {source}"
                        there = f"{describe(fingerprint)} with {nbytes} bytes to rank {self._rank}"
                        self._fail(MismatchError(label(fingerprint, tag), self._rank, here, source, there))
                    return False
            elif not same_items(fingerprint, receive.fingerprint) or not receive.admits(nbytes):
                here = describe(receive.fingerprint).replace("send", "recv", 1)
                if not isinstance(receive, OpenReceive):
                    here += f" of at most {receive.capacity} bytes"
                there = f"{describe(fingerprint)} of {nbytes} bytes"
                operation = f"the message from rank {source} to rank {self._rank} with tag {tag}"
                self._fail(MismatchError(operation, self._rank, here, source, there))
                return False
        except MemoryError as exc:
            self._too_long(source, nbytes, exc)
            return False
        receive.source, receive.tag, receive.nbytes, receive.fingerprint = source, tag, nbytes, fingerprint
        return True

    def _arrived(self, link: Link, nbytes: int) -> None:
        """Count a message that came without asking against the peer's credit; give it back in time."""
        link.granted = granted = link.granted - nbytes - HEADER_NBYTES
        if granted < _LOW_NBYTES:
            self._repay(link)

    def _repay(self, link: Link) -> None:
        """Let a peer send as much as it may have on its way, if that is much more than it knows of."""
        allowed = CREDIT_NBYTES if self._kept <= EARLY_NBYTES else max(0, CREDIT_NBYTES - link.kept)
        given = allowed - link.granted
        if given > allowed // 4:
            link.granted = allowed
            link.write(pack_header(Kind.CREDIT, 0, 0, given))

    def _overdrawn(self, link: Link, nbytes: int) -> bool:
        # It is looked at where a message is to be kept: what finds its receive costs no memory.
        taken = nbytes + HEADER_NBYTES
        if nbytes <= EAGER_NBYTES and taken <= link.granted:
            return False
        reason = f"{taken} bytes without asking, header included; it was given leave for {link.granted}"
        if nbytes > EAGER_NBYTES:
            reason = f"{nbytes} bytes without asking; {EAGER_NBYTES} are the limit"
        self._garbled(link.rank, reason)
        return True

    def _keep(self, link: Link, arrival: Arrival) -> bool:
        """Count the memory of a message that no receive has matched; see `_count`."""
        arrival.kept = kept = _ANNOUNCED_NBYTES if arrival.payload is None else _ENTRY_NBYTES + arrival.nbytes
        self._kept += kept
        link.kept = kept = link.kept + kept
        return kept <= MOST_NBYTES or self._count(link, 0)

    def _count(self, link: Link, nbytes: int) -> bool:
        link.kept += nbytes
        self._kept += nbytes
        if link.kept <= MOST_NBYTES:
            return True
        reason = (
            f"what has come of it and nothing has asked for takes {link.kept} bytes here, and {MOST_NBYTES} are the limit: "
            f"receive earlier what it sends, or have it send less before it is received"
        )
        self._lose(link, reason)
        return False

    def _release(self, link: Link, nbytes: int) -> None:
        link.kept -= nbytes
        before, self._kept = self._kept, self._kept - nbytes
        # Where this makes room for all, so that what is kept counts no more, others have waited for it too.
        for each in self._links if before > EARLY_NBYTES >= self._kept else (link,):
            if each.granted < _LOW_NBYTES:
                self._repay(each)

    # -- what arrives -------------------------------------------------------------------------------------------------

    def frame(self, link: Link, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Take a header; return where its payload goes, or None if none follows."""
        rank = link.rank
        on = self._channels.get(channel)
        if on is None:
            return self._park(link, kind, channel, tag, nbytes, fingerprint)
        if kind == _MESSAGE:
            receive = on.matcher.match(rank, tag)
            if receive is None or nbytes > EAGER_NBYTES:  # an `OpenReceive` would make room for any length
                return self._early(on, link, tag, nbytes, fingerprint)
            if not self._accept(receive, rank, tag, nbytes, fingerprint):
                return None
            self._arrived(link, nbytes)
            return receive
        if kind == _DATA:
            return self._data(rank, on, tag, nbytes, fingerprint)
        if kind == _CLEAR:
            self._cleared(link, on, tag, fingerprint)
        elif kind == _ANNOUNCE:
            link.heard += 1
            self._announced(link, on, tag, nbytes, fingerprint, None, link.heard)
            self._repay(link)  # it had no credit left, or more than any message that goes without asking
        elif kind == Kind.PUSHED:
            return self._pushed(link, on, tag, nbytes, fingerprint)
        elif kind == Kind.REFUSED:
            if on.waiting.first(rank, tag) is not None:  # else it has been pushed meanwhile
                on.refused.add((rank, tag))
                self.departures += 1
        elif kind == Kind.OFFER and nbytes == OFFER_NBYTES:
            link.heard += 1
            return Offered(lambda offer: self._announced(link, on, tag, offer.nbytes, fingerprint, offer))
        elif kind == Kind.TAKEN:
            self._taken(link, on, tag)
        elif kind == Kind.WAITING:
            if tag >> STEP_BITS <= on.sequence + REMEMBERED:  # so much ahead, it is no help
                self._agrees(on, rank, tag, fingerprint)
        elif kind == Kind.LEAVE:
            self._departed(link, on)
            calls = self._channels.get(channel + 1)
            if calls is not None:
                self._departed(link, calls)
        else:
            return self._of_link(link, kind, nbytes)
        return None

    def _of_link(self, link: Link, kind: int, nbytes: int) -> Sink | None:
        """Take a header that is of no Context."""
        rank = link.rank
        if kind == Kind.CREDIT:
            link.credit += nbytes
            if link.starved:
                self._push(link)
        elif kind == Kind.GOODBYE:
            link.finished = True
            if link.sending:
                self._lose(link, CLOSED)
            for on in tuple(self._channels.values()):
                if rank in on.members:
                    self._departed(link, on)
        elif kind == Kind.ABORT and 0 < nbytes <= MAX_ABORT_NBYTES:
            link.aborted = True
            return Abort(rank, nbytes, self._told)
        else:
            self._garbled(rank, f"a frame of kind {kind} with {nbytes} bytes")
        return None

    def _park(self, link: Link, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Take a header that is of no Context that this rank has made: of one that it will make, or of none."""
        rank = link.rank
        arrival = None
        if kind == _MESSAGE:
            if self._overdrawn(link, nbytes):
                return None
            arrival = Arrival(rank, tag, nbytes, fingerprint, announced=False)
            self._arrived(link, nbytes)
        elif kind == _ANNOUNCE:
            arrival = Arrival(rank, tag, nbytes, fingerprint, announced=True)
            link.heard = arrival.number = link.heard + 1
            self._repay(link)
        elif kind == Kind.PUSHED:
            return self._come(link, self._unjoined.come(channel, rank, tag), nbytes)
        elif kind == Kind.OFFER and nbytes == OFFER_NBYTES:
            link.heard += 1
            return Offered(lambda offer: self._offered(link, channel, tag, fingerprint, offer))
        elif kind not in (_CLEAR, Kind.WAITING, Kind.LEAVE):  # others answer what this rank has sent
            return self._of_link(link, kind, nbytes)
        came = self._wait(Parked(link, kind, channel, tag, fingerprint, arrival))
        return arrival if came and kind != _ANNOUNCE else None

    def _offered(self, link: Link, channel: int, tag: int, fingerprint: bytes, offer: Offer) -> None:
        """Take an offer for a Context that this rank had not made when its header came."""
        on = self._channels.get(channel)
        if on is not None:
            self._announced(link, on, tag, offer.nbytes, fingerprint, offer)
        else:
            arrival = Arrival(link.rank, tag, offer.nbytes, fingerprint, announced=True, offer=offer)
            self._wait(Parked(link, Kind.OFFER, channel, tag, fingerprint, arrival))

    def _wait(self, frame: Parked) -> bool:
        """Have a frame wait for its Context; False if there are too many."""
        link, arrival = frame.link, frame.arrival
        counted = self._count(link, _ENTRY_NBYTES) if arrival is None else self._keep(link, arrival)
        if counted and not self._unjoined.knows(frame.channel):
            counted = self._count(link, _UNJOINED_NBYTES)
        if counted:
            self._unjoined.put(frame)
        return counted

    def _resumed(self, waiting: Sequence[Parked]) -> None:
        """Take the frames that have waited for a Context, now that it is made."""
        for frame in waiting:
            link, arrival, on = frame.link, frame.arrival, self._channels[frame.channel]
            if arrival is None:
                self._release(link, _ENTRY_NBYTES)
                self.frame(link, frame.kind, frame.channel, frame.tag, 0, frame.fingerprint)
            elif not on.collective or self._agrees(on, link.rank, frame.tag, frame.fingerprint):
                on.matcher.keep(arrival)
                if arrival.number and arrival.payload is None:
                    on.announced[link.rank, arrival.number] = arrival

    def _early(self, channel: Channel, link: Link, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Keep a message that no receive waits for."""
        rank = link.rank
        if self._overdrawn(link, nbytes):
            return None
        if channel.collective and not self._agrees(channel, rank, tag, fingerprint):
            return None
        arrival = Arrival(rank, tag, nbytes, fingerprint, announced=False)
        if not channel.closed:  # else nobody will ever ask for it
            if not self._keep(link, arrival):
                return None
            channel.matcher.keep(arrival)
        self._arrived(link, nbytes)
        return arrival

    def _let_go(self, arrival: Arrival) -> None:
        """Note that a message that was kept has found its receive, or will have none."""
        kept, arrival.kept = arrival.kept, 0
        self._release(self._links[arrival.source], kept)

    def _departed(self, link: Link, channel: Channel) -> None:
        """A peer has closed its Context of this channel."""
        channel.departed.add(link.rank)
        self.departures += 1
        if channel.closed:
            self._forget_if_over(channel)
        elif channel.involves(link.rank):
            self._lose(link, CLOSED)

    def gone(self, operation: Operation) -> Link | None:
        """The peer without which an operation cannot complete, if it has closed its Context."""
        if isinstance(operation, Send):
            on = operation.channel
            left = operation.dest in on.departed or (operation.dest, operation.tag) in on.refused
            return self._links[operation.dest] if left and operation.waits else None
        assert isinstance(operation, Receive | Probe)
        channel, source = operation.channel, operation.source
        if source < 0:
            return self._links[max(channel.departed)] if channel.over and channel.departed else None
        return self._links[source] if source in channel.departed else None

    def _announced(
        self,
        link: Link,
        channel: Channel,
        tag: int,
        nbytes: int,
        fingerprint: bytes,
        offer: Offer | None,
        number: int = 0,
    ) -> None:
        """Take an announcement, or an offer, which has no number here: it is never pushed."""
        rank = link.rank
        if channel.collective and not self._agrees(channel, rank, tag, fingerprint):
            return
        if channel.closed or (channel.collective and channel.awaiting.first(rank, tag) is not None):
            return  # nobody will ask for it; or its receive has cleared it without being asked
        receive = channel.matcher.match(rank, tag)
        if receive is None:
            arrival = Arrival(rank, tag, nbytes, fingerprint, announced=True, offer=offer)
            if not self._keep(link, arrival):
                return
            if number:
                arrival.number = number
                channel.announced[rank, number] = arrival
            channel.matcher.keep(arrival)
            if channel.closing:
                self._refuse(channel, rank, tag)
        elif self._accept(receive, rank, tag, nbytes, fingerprint):
            if number:
                receive.number = number
                channel.announced[rank, number] = receive
            self._clear(receive, offer)

    def _told(self, error: GloompiError) -> None:
        """A peer's engine is broken."""
        if isinstance(error, PeerLostError) and error.rank == error.reported_by:
            for link in self._links:
                if link.rank == error.rank:
                    error.address = link.peer.link  # it aborted, and to itself it is "self"
        self._fail(error)

    def ask(self, receive: Receive) -> None:
        """Tell the peer that a collective waits for which call that is.

        Ranks that disagree about a call may all be waiting to receive, two roots of a gather for example: then this is
        the only frame that lets them find out.
        """
        if receive.channel.collective:
            header = pack_header(Kind.WAITING, receive.channel.id, receive.tag, 0, receive.fingerprint)
            self._links[receive.source].write(header)

    def revoke(self) -> None:
        """What this rank has offered may change from now on."""
        for channel in self._channels.values():
            channel.revoke()

    def clear(self) -> None:
        """Forget everything that is under way."""
        self._channels.clear()
        self._unjoined.clear()
        self.reading.clear()

    def leave(self, channels: Sequence[Channel], ranks: Iterable[int]) -> None:
        """Close the channels of one Context of several, and tell the ranks that it had.

        What still comes for them goes nowhere: the users' arrays are left alone from now on.
        """
        self._drop_receives(channels)
        for rank in ranks:
            if rank != self._rank:
                self._links[rank].write(pack_header(Kind.LEAVE, channels[0].id, 0, 0))
        for channel in channels:
            for send in channel.waiting.items_of_all():  # to itself: nothing of it is pushed when credit comes back
                self._links[send.dest].starved.pop(send, None)
            channel.waiting.clear()
            channel.unanswered.clear()
            coming = [each for each in channel.awaiting.items_of_all() if each.number]
            channel.announced = {(each.source, each.number): each for each in coming}
            for arrival in channel.unreceived():
                if arrival.kept:
                    self._let_go(arrival)
            for dest, _ in channel.cleared:
                self._release(self._links[dest], CLEARED_NBYTES)
            channel.cleared.clear()
            channel.forget_early()
            channel.closed, channel.matcher = True, Matcher()
            channel.revoke()
            channel.held.clear()
            channel.unasked.clear()
            self._forget_if_over(channel)

    def _drop_receives(self, channels: Sequence[Channel]) -> None:
        """Part the messages that are on their way from the memory that they were to go to."""
        self.reading.drop(channels)
        coming: list[object] = [link.receiving for link in self._links]
        coming += [wanted for channel in channels for wanted in channel.awaiting.items_of_all()]
        for wanted in coming:
            receive = wanted.receive if isinstance(wanted, Arrival) else wanted
            if isinstance(receive, Receive) and receive.channel in channels:
                receive.drop()

    def refuse(self, channels: Iterable[Channel] | None = None) -> None:
        """From now on, tell the senders of announced messages that nobody will ask for them: this rank is closing."""
        for channel in channels or self._channels.values():
            channel.closing = True
            waiting = (each for each in channel.unreceived() if each.payload is None)
            for source, tag in {(each.source, each.tag) for each in waiting}:
                self._refuse(channel, source, tag)

    def _refuse(self, channel: Channel, source: int, tag: int) -> None:
        self._links[source].write(pack_header(Kind.REFUSED, channel.id, tag, 0))

    def hopeless(self, channels: Iterable[Channel] | None = None) -> list[int]:
        """Other ranks that will not ask for an announced message any more, because they are closing, or have closed."""
        found: set[int] = set()
        for channel in channels or self._channels.values():
            found.update(key[0] for key in channel.refused if channel.waiting.first(*key) is not None)
            found.update(channel.departed.intersection(channel.waiting))
        return sorted(found)

    def _forget_if_over(self, channel: Channel) -> None:
        # Whoever has left sends nothing more on it, so nothing can bring the channel back.
        if channel.over:
            self._channels.pop(channel.id, None)

    def unmatched(self, channels: Iterable[Channel] | None = None) -> list[int]:
        """Other ranks that have not asked for an announced message, or not finished reading an offered one."""
        found = {dest for channel in channels or self._channels.values() for dest in channel.waiting}
        return sorted(found - {self._rank})
