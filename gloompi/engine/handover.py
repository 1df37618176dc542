"""Handing over: how large messages, and those without credit, get from their sender to the receive that they are for.

Such a message is announced, and waits at its sender.  The receiver answers with CLEAR when it has a receive for it, and then
the message is sent as DATA.  Where it was announced for lack of credit alone, and there is credit before the answer, it is
PUSHED, with the number of its announcement, and the answer to come means nothing.  Where the receiver can read the sender's
memory, the message is offered instead, with its address; the receiver takes it, and answers with TAKEN.  An answer stands
for the first message of its tag that has none yet, pushed or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import GloompiError, MismatchError
from ..transport.frames import HEADER_NBYTES, Kind, pack_header
from ..transport.link import Link, Sink
from ..transport.memory import OFFER_NBYTES, Offer
from .channel import Channel, Disagreement
from .matching import Arrival
from .operation import Receive, Send
from .reading import Reading

__all__ = ["CLEARED_NBYTES", "Handover"]

# What leave to send counts as that comes before there is something to send. It takes less, but stands for a receive of more
# than 256 KiB at the peer: nobody has very many.
CLEARED_NBYTES = 8 * 1024


class Handover:
    """The messages of one rank that wait at their sender.

    Parameters
    ----------
    rank : int
    links : list of Link
        By rank.
    fail : callable
        Called with an error that breaks the engine.
    lose : callable
        Called with a link and a reason: that peer is of no use any more.

    Attributes
    ----------
    reading : Reading
        Takes what others offer.
    """

    def __init__(
        self,
        rank: int,
        links: Sequence[Link],
        fail: Callable[[GloompiError], None],
        lose: Callable[[Link, str], None],
    ) -> None:
        self._rank = rank
        self._links = links
        self._fail = fail
        self._lose = lose
        self.reading = Reading(self._request, lose)

    def _arrived(self, link: Link, nbytes: int) -> None:
        """Count a message that came without asking."""
        raise NotImplementedError

    def _count(self, link: Link, nbytes: int) -> bool:
        """Count memory that a peer makes this rank keep; False, and the peer is lost, where that is too much."""
        raise NotImplementedError

    def _release(self, link: Link, nbytes: int) -> None:
        """Note that memory which was counted is free."""
        raise NotImplementedError

    def _overdrawn(self, link: Link, nbytes: int) -> bool:
        """Return whether a peer has sent more without asking than it may: then it is lost."""
        raise NotImplementedError

    def _announce(self, send: Send, large: bool) -> None:
        """Tell the peer of a message that it has to ask for; if it has asked already, send it."""
        link, channel, key = self._links[send.dest], send.channel, (send.dest, send.tag)
        if key in channel.cleared:
            channel.cleared.discard(key)
            self._release(link, CLEARED_NBYTES)
            self._transmit(link, send)
            return
        send.waits = True
        link.announced = send.number = link.announced + 1
        channel.waiting.put(send.dest, send.tag, send)
        channel.unanswered.put(send.dest, send.tag, send.number)
        if large and link.readable:
            header = pack_header(Kind.OFFER, channel.id, send.tag, OFFER_NBYTES, send.fingerprint)
            link.write(header + channel.offer(send.payload))
        else:
            link.write(pack_header(Kind.ANNOUNCE, channel.id, send.tag, len(send.payload), send.fingerprint))

    def _transmit(self, link: Link, send: Send) -> None:
        """Send a message that the peer has cleared."""
        self._write(link, send, Kind.DATA, send.tag)

    def _write(self, link: Link, send: Send, kind: int, tag: int) -> None:
        send.waits = False
        nbytes = len(send.payload)
        header = pack_header(kind, send.channel.id, tag, nbytes, send.fingerprint)
        if link.write(header, send.payload if nbytes else None):
            send.complete()
        else:
            link.when_taken(send)

    def _push(self, link: Link) -> None:
        """Send what was announced for lack of credit, as far as there is credit now."""
        for send in tuple(link.starved):
            if not send.waits:  # one before it has brought credit, to this rank itself
                continue
            taken = len(send.payload) + HEADER_NBYTES
            if link.credit >= taken:
                link.credit -= taken
                del link.starved[send]
                send.channel.waiting.remove(send.dest, send.tag, send)
                self._write(link, send, Kind.PUSHED, send.number)

    def _pushed(self, link: Link, channel: Channel, number: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Take the message that has been announced with this number."""
        wanted = channel.announced.pop((link.rank, number), None)
        if wanted is None and channel.closed:  # nobody will ever ask for it
            if self._overdrawn(link, nbytes):
                return None
            wanted = Arrival(link.rank, 0, nbytes, fingerprint, announced=False)
        elif wanted is None or (isinstance(wanted, Arrival) and wanted.payload is None):
            return self._come(link, wanted, nbytes)
        elif wanted.nbytes != nbytes:
            self._unannounced(link, nbytes)
            return None
        channel.awaiting.remove(link.rank, wanted.tag, wanted)  # if it has been asked for: see also `_request`
        self._arrived(link, nbytes)
        return wanted

    def _come(self, link: Link, arrival: Arrival | None, nbytes: int) -> Sink | None:
        """Make room for a pushed message that nothing has asked for."""
        if self._overdrawn(link, nbytes):
            return None
        if arrival is None or arrival.nbytes != nbytes:
            self._unannounced(link, nbytes)
            return None
        arrival.payload = bytearray(nbytes)
        arrival.pushed = True
        arrival.kept += nbytes
        if not self._count(link, nbytes):
            return None
        self._arrived(link, nbytes)
        return arrival

    def _unannounced(self, link: Link, nbytes: int) -> None:
        self._garbled(link.rank, f"{nbytes} bytes that were not announced")

    def _pull_before(self, channel: Channel, wanted: Receive | Arrival) -> None:
        """Have the announced messages sent that matched probes have taken before this one, of the same source and tag.

        They are answered for in the order in which they were announced, whatever the order in which they are received here.
        """
        if isinstance(wanted, Arrival) and wanted.payload is not None and not wanted.pushed:
            return  # it was not announced, or has been answered, and those before it have
        while (held := channel.unasked.take(wanted.source, wanted.tag)) is not None and held is not wanted:
            if held.pushed:
                self._answer(channel, held)
                continue
            try:
                held.payload = bytearray(held.nbytes)
            except (MemoryError, OverflowError) as exc:
                self._too_long(held.source, held.nbytes, exc)
                return
            self._ask_for(channel, held, held.offer)

    def _answer(self, channel: Channel, pushed: Arrival) -> None:
        """Give the sender of a pushed message the answer that it expects, when those before it have had theirs."""
        pushed.pushed = False
        self._ask_for(channel, pushed, None)

    def _clear(self, receive: Receive, offer: Offer | None = None) -> None:
        """Have the message of a receive, after those that probes have taken before it."""
        if receive.channel.unasked:
            self._pull_before(receive.channel, receive)
        self._ask_for(receive.channel, receive, offer)

    def _ask_for(self, channel: Channel, wanted: Receive | Arrival, offer: Offer | None) -> None:
        """Have a message that waits at its sender: take it, or ask to have it sent."""
        self.reading.add(self._links[wanted.source], channel, wanted, offer)

    def _request(self, channel: Channel, wanted: Receive | Arrival) -> None:
        if not wanted.number or (wanted.source, wanted.number) in channel.announced:  # else it has been pushed meanwhile
            channel.awaiting.put(wanted.source, wanted.tag, wanted)
        header = pack_header(Kind.CLEAR, channel.id, wanted.tag, 0, wanted.fingerprint)
        self._links[wanted.source].write(header)

    def _data(self, rank: int, channel: Channel, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        receive = channel.awaiting.first(rank, tag)
        if receive is None or receive.nbytes != nbytes:
            if self._agrees(channel, rank, tag, fingerprint):
                self._garbled(rank, f"{nbytes} bytes that nothing was cleared for")
            return None
        channel.awaiting.take(rank, tag)
        channel.announced.pop((rank, receive.number), None)
        if channel.collective and not self._agrees(channel, rank, tag, fingerprint):
            return None
        return receive

    def _answered(self, link: Link, channel: Channel, tag: int) -> Send | None:
        """Remove and return the message that an answer is for; None if there is none, or it has been pushed."""
        number = channel.unanswered.take(link.rank, tag)
        send = channel.waiting.first(link.rank, tag)
        if send is None or send.number != number:
            return None
        channel.waiting.take(link.rank, tag)
        link.starved.pop(send, None)
        return send

    def _taken(self, link: Link, channel: Channel, tag: int) -> None:
        """A peer has read a message that was offered to it."""
        send = self._answered(link, channel, tag)
        if send is not None:
            send.waits = False
            send.complete()
        elif not channel.closed:
            self._garbled(link.rank, "word that it has read what was not offered")

    def _cleared(self, link: Link, channel: Channel, tag: int, fingerprint: bytes) -> None:
        if channel.closed or (channel.collective and not self._agrees(channel, link.rank, tag, fingerprint)):
            return
        key = (link.rank, tag)
        if channel.unanswered.first(*key) is not None:
            send = self._answered(link, channel, tag)
            if send is not None:
                self._transmit(link, send)
        elif channel.collective:
            if key not in channel.cleared and self._count(link, CLEARED_NBYTES):
                channel.cleared.add(key)
        else:
            self._garbled(link.rank, "leave to send what was not announced")

    def _garbled(self, rank: int, what: str) -> None:
        self._lose(self._links[rank], f"it sent {what}: the ranks run different versions, or memory is corrupt")

    def _too_long(self, rank: int, nbytes: int, exc: Exception) -> None:
        """There is no memory for a message of any length."""
        error = GloompiError(
            f"no memory for the {nbytes} bytes of a message from {self._links[rank].peer} to rank {self._rank}; send it in "
            f"parts, or it was not meant for a receive that takes any length"
        )
        error.__cause__ = exc
        self._fail(error)

    def _agrees(self, channel: Channel, source: int, tag: int, fingerprint: bytes) -> bool:
        """Whether a frame of a collective fits what this rank has called; if not, that breaks the engine."""
        try:
            channel.check(source, tag, fingerprint)
        except Disagreement as exc:
            self.disagree(exc)
            return False
        return True

    def disagree(self, found: Disagreement) -> MismatchError:
        """Break the engine, for a peer makes another call."""
        error = MismatchError(found.operation, self._rank, found.here, found.other, found.there)
        self._fail(error)
        return error
