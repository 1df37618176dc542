"""A Link: the way to one rank, as a stream of frames; to oneself it is a function call.

What frames mean is the handler's business; where a payload goes is the sink's, so that it is received straight into its
destination.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

from .frames import unpack_header

if TYPE_CHECKING:
    from .endpoint import Peer

__all__ = ["Completion", "Handler", "Link", "Loopback", "Patience", "Sink"]


class Completion(Protocol):
    """Told when the kernel has taken the last byte of a payload."""

    def complete(self) -> None: ...


class Sink(Protocol):
    """Where a payload goes."""

    def feed(self, data: memoryview) -> None:
        """Take bytes that are in memory already."""

    def window(self) -> memoryview:
        """Where the next bytes go: not empty, and never beyond the end of the payload."""

    def advance(self, nbytes: int) -> None:
        """Note that `nbytes` were written to the window."""

    def finish(self) -> None:
        """Note that the payload is complete."""


class Patience(Protocol):
    """How to wait for what should come at once."""

    prompt: float
    """Seconds to keep trying."""

    def pause(self, tried: float) -> None:
        """Called between two tries, the first of them that many seconds ago."""

    def alone(self) -> bool:
        """Whether one connection may be waited on by itself; serves all if they have been left alone for long enough."""


class Handler(Protocol):
    """Who a link reports to."""

    def frame(self, link: Link, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """A header has arrived.  A sink says that a payload of `nbytes` follows, None that nothing does."""


class Link:
    """What a pair and the way to oneself have in common.

    Attributes
    ----------
    peer : Peer
    rank : int
        The peer's.
    credit : int
        Bytes that may still be sent without asking.
    granted : int
        Bytes that the peer may still send without asking, as far as this rank knows.
    kept : int
        Memory for what came without asking and no receive has matched, bytes.
    announced, heard : int
        Announcements and offers that have been sent on it, and that have come: by their numbers both sides know them.
    starved : ordered set of Send
        Announced for lack of credit alone, and neither asked for nor sent.
    finished : bool
        The peer has said that it sends nothing more.
    owes : bool
        A payload was dropped that somebody may still wait to see sent.
    aborted : bool
        The peer has broken its side: it reads nothing more as frames.
    readable : bool
        The peer's memory may be readable, and this process's for the peer.
    """

    __slots__ = (
        "_handler",
        "aborted",
        "announced",
        "credit",
        "finished",
        "granted",
        "heard",
        "kept",
        "owes",
        "peer",
        "rank",
        "readable",
        "starved",
    )

    def __init__(self, peer: Peer, handler: Handler, credit: int) -> None:
        self.peer = peer
        self.rank = peer.rank
        self.credit = credit
        self.granted = credit
        self.kept = 0
        self.announced = self.heard = 0
        self.starved: OrderedDict[Any, None] = OrderedDict()
        self.finished = False
        self.owes = False
        self.aborted = False
        self.readable = False
        self._handler = handler

    @property
    def sending(self) -> bool:
        """Whether something waits for the kernel to take it."""
        return False

    @property
    def receiving(self) -> Sink | None:
        """The sink of a payload that has begun to come."""
        return None

    def write(self, header: bytes, payload: memoryview | None = None) -> bool:
        """Send a frame; return whether `payload` may be changed again, and if not, call `when_taken`.

        A payload that nobody else changes may also follow in `header` itself.
        """
        raise NotImplementedError

    def when_taken(self, completion: Completion) -> None:
        """Have `completion` told when the kernel has taken the payload of the last `write`."""
        raise NotImplementedError

    def expect(self, header: bytes, nbytes: int, waits: Patience) -> memoryview | None:
        """Return the payload of the next frame if it is the one with this header; it lasts until something is received.

        Tries for as long as `waits` has patience.  Whatever else comes meanwhile is handled as `receive` does, and the
        answer is None.
        """
        return None


class Loopback(Link):
    """The way from a rank to itself: a frame arrives the moment it is written."""

    __slots__ = ()

    def write(self, header: bytes, payload: memoryview | None = None) -> bool:
        _, kind, channel, tag, nbytes, fingerprint = unpack_header(header, 0)
        sink = self._handler.frame(self, kind, channel, tag, nbytes, fingerprint)
        if sink is not None:
            if payload is not None and nbytes:
                sink.feed(payload)
            sink.finish()
        return True
