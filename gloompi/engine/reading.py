"""Reading: large messages taken from the memory of their senders, a slice at a time."""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import sleep
from typing import TYPE_CHECKING, NamedTuple

from ..transport.failures import SHORTAGE, extent, name
from ..transport.frames import Kind, pack_header
from ..transport.link import Link
from ..transport.memory import OFFER_NBYTES, Offer, Reader, Unwritable
from ..transport.pair import Pair

if TYPE_CHECKING:
    from .channel import Channel
    from .matching import Arrival
    from .operation import Receive

__all__ = ["Offered", "Reading"]

# Bytes taken in one turn, so that other connections have theirs. Reads of 1 MiB had 0.93 of the rate of those of 16 MiB,
# reads of 256 KiB 0.75.
SLICE_NBYTES = 4 * 1024 * 1024

# How long to leave a read alone for which the kernel has no memory.
_SHORTAGE_SECONDS = 5e-3


class _Read(NamedTuple):
    """A message that is to be taken, or without an offer, to be asked for when those before it have been."""

    link: Link
    channel: Channel
    wanted: Receive | Arrival
    offer: Offer | None


class Reading:
    """The reads that are under way, first come first served.

    Parameters
    ----------
    request : callable
        Called with a channel and a receive whose message has to be sent.
    lose : callable
        Called with a link and a reason: that peer is of no use any more.

    Attributes
    ----------
    queue : deque
        What is to be taken.
    shortage : str
        Why the last try has moved nothing, if the kernel lacked memory.
    """

    def __init__(self, request: Callable[[Channel, Receive | Arrival], None], lose: Callable[[Link, str], None]) -> None:
        self._request = request
        self._lose = lose
        self._reader = Reader()
        self.queue: deque[_Read] = deque()
        self._queued: Counter[tuple[Channel, Link]] = Counter()  # of them, by conversation
        self.shortage = ""
        self._position = 0  # in the first of them

    def __bool__(self) -> bool:
        return bool(self.queue)

    def add(self, link: Link, channel: Channel, wanted: Receive | Arrival, offer: Offer | None) -> None:
        """Have a message taken, or sent if it was not offered, in the order of the calls."""
        if not link.readable:
            offer = None
        if offer is None and not (self.queue and self._queued[channel, link]):
            self._request(channel, wanted)
            return
        # An answer stands for the first message of its tag that has none yet: so what has no offer is queued too.
        self.queue.append(_Read(link, channel, wanted, offer))
        self._queued[channel, link] += 1

    def clear(self) -> None:
        self.queue.clear()
        self._queued.clear()

    def _count(self) -> None:
        self._queued = Counter((read.channel, read.link) for read in self.queue)

    def _next(self) -> None:
        """Be done with the first message."""
        read = self.queue.popleft()
        self._position = 0
        self._queued[read.channel, read.link] -= 1
        if not self.queue:
            self._queued.clear()

    def drop(self, channels: Sequence[Channel]) -> None:
        """Take nothing more for these channels; what was offered for them counts as taken, and the rest is asked for."""
        queue, self.queue = self.queue, deque()
        for read in queue:
            if read.channel not in channels:
                self.queue.append(read)
                continue
            if read is queue[0]:
                self._position = 0
            if read.offer is None:
                self._request(read.channel, read.wanted)
            else:
                read.link.write(pack_header(Kind.TAKEN, read.channel.id, read.wanted.tag, 0, read.wanted.fingerprint))
        self._count()

    def turn(self) -> None:
        """Take a slice of the first message; tell its sender when that was the last."""
        read = self.queue[0]
        link, channel, wanted, offer = read
        if offer is None:
            self._next()
            self._request(channel, wanted)
            return
        self.shortage = ""
        limit = min(self._position + SLICE_NBYTES, offer.nbytes)
        while self._position < limit:
            window = wanted.window()[: limit - self._position]
            try:
                self._reader.read(link.peer.pid, offer, self._position, window)
            except OSError as exc:
                if exc.errno in SHORTAGE:  # it passes, as a rule
                    self.shortage = f"the kernel had no memory for reading that of {link.peer}: {name(exc)}"
                    sleep(_SHORTAGE_SECONDS)
                    return
                self._failed(read, offer.nbytes, window, exc)
                return
            self._position += len(window)
            wanted.advance(len(window))
        if self._position == offer.nbytes:
            self._next()
            link.write(pack_header(Kind.TAKEN, channel.id, wanted.tag, 0, wanted.fingerprint))
            wanted.finish()

    def _failed(self, read: _Read, nbytes: int, window: memoryview, exc: OSError) -> None:
        link, position = read.link, self._position
        self._next()
        link.readable = False
        if not position:
            import logging

            text = "memory of %s cannot be read, sockets are used instead: %s"
            logging.getLogger("gloompi").debug(text, link.peer, exc.strerror)
            # All of this peer at once: later offers are refused when they come, and answers keep the order of offers.
            refused = [other for other in self.queue if other.link is link]
            self.queue = deque(other for other in self.queue if other.link is not link)
            self._count()
            for each in (read, *refused):
                self._request(each.channel, each.wanted)
        elif isinstance(exc, Unwritable):
            assert isinstance(link, Pair)
            link.fail(f"receiving {extent((window,))}, of a message of {nbytes} from {link.peer},", exc)
        elif exc.errno not in (errno.ESTALE, errno.ESRCH):  # else it has ended, and the connection says why
            reason = (
                f"{position} bytes of a message of {nbytes} could be read in its memory, then: {exc.strerror}; its program "
                f"has unmapped or truncated what it is sending (GLOOMPI_SINGLE_COPY=0 sends it over the socket instead)"
            )
            self._lose(link, reason)


class Offered:
    """The sink of an offer; calls `taken` with it."""

    __slots__ = ("_packed", "_position", "_taken")

    def __init__(self, taken: Callable[[Offer], None]) -> None:
        self._packed = bytearray(OFFER_NBYTES)
        self._position = 0
        self._taken = taken

    def feed(self, data: memoryview) -> None:
        stop = self._position + len(data)
        self._packed[self._position : stop] = data
        self._position = stop

    def window(self) -> memoryview:
        return memoryview(self._packed)[self._position :]

    def advance(self, nbytes: int) -> None:
        self._position += nbytes

    def finish(self) -> None:
        self._taken(Offer.unpack(self._packed))
