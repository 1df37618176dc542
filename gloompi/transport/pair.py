"""A Pair: the connection to one peer.

Non-blocking: `write` and `flush` hand over what the kernel takes, `receive` takes what has come.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from .failures import GONE, SHORTAGE, explain, extent, name
from .frames import HEADER_NBYTES, VERSION, unpack_header
from .link import Completion, Handler, Link, Patience, Sink

if TYPE_CHECKING:
    import socket

    from .endpoint import Peer
    from .tls import Encrypted

__all__ = ["SLICE_NBYTES", "STAGING_NBYTES", "Pair"]

# Bytes handed to the kernel in one call, so that sending a large message leaves turns for receiving. Measured with
# 16 MiB allreduces of 2 ranks: 4 MiB took 0.9 of the time of 512 KiB over AF_UNIX, the same over TCP.
SLICE_NBYTES = 4 * 1024 * 1024

# Headers and small payloads are read here, many frames in one call, and copied to their destination; the rest of a
# larger payload is received in place.
_READ_NBYTES = 32 * 1024

# A frame that is expected is read here as a whole.
EXPECTED_NBYTES = 256 * 1024
STAGING_NBYTES = HEADER_NBYTES + EXPECTED_NBYTES

_MAX_PIECES = 16


class PairHandler(Handler, Protocol):
    """Who a pair reports to."""

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        """The stream has ended."""

    def failed(self, pair: Pair, reason: str, cause: OSError) -> None:
        """A system call has failed, and not because the stream has ended; raises that, or has known of an error before."""

    def hold(self, pair: Pair) -> None:
        """The kernel has no memory for the pair, although it may say that it is ready: serve it again in a moment."""

    def watch(self, pair: Pair, writing: bool) -> None:
        """The pair has begun or ceased to wait for room to write."""


class Pair(Link):
    """The connection to one peer.

    Parameters
    ----------
    sock : socket.socket
        Connected and authenticated; the pair owns it.
    staging : memoryview
        Scratch that the pairs of a thread share: nothing stays in it between calls.
    """

    __slots__ = (
        "_begins_with",
        "_end",
        "_kept",
        "_left",
        "_mute",
        "_position",
        "_queue",
        "_reading",
        "_sink",
        "_staging",
        "_write_error",
        "fd",
        "shortage",
        "sock",
    )

    _handler: PairHandler

    def __init__(self, sock: socket.socket, peer: Peer, handler: PairHandler, credit: int, staging: memoryview) -> None:
        super().__init__(peer, handler, credit)
        self.sock: socket.socket | None = sock
        self.fd = sock.fileno()
        self._staging = staging
        self._reading = staging[:_READ_NBYTES]
        assert isinstance(staging.obj, bytearray)
        self._begins_with = staging.obj.startswith
        # A header is bytes as long as nothing of it was sent: then all that was is whole frames.
        self._queue: deque[tuple[bytes | memoryview, Completion | None]] = deque()
        self._kept = b""  # the start of a header whose rest has not come
        self._sink: Sink | None = None  # of a payload whose rest has not come
        self._left = 0
        self._write_error: OSError | None = None
        self.shortage = ""  # why the last try has moved nothing, if the kernel lacked memory
        # Nothing more can be sent: closed, failed, or, for as long as a system call goes on, in the middle of a frame. A
        # signal handler may raise between the call and the note of what it took: then nobody knows any more where the
        # stream is, and nothing may follow.
        self._mute = False
        # In the staging area, what came behind that which the handler is being told of. Empty while it is told of nothing:
        # the area is shared.
        self._position = self._end = 0

    @property
    def sending(self) -> bool:
        return bool(self._queue) and not self._mute

    @property
    def failed(self) -> bool:
        """Whether a write has failed: reading says why."""
        return self._write_error is not None

    @property
    def receiving(self) -> Sink | None:
        return self._sink

    @property
    def cut_short(self) -> bool:
        """Whether an exception has ended a system call in the middle of a frame: nothing can be sent any more."""
        return self._mute and self.sock is not None and self._write_error is None

    @property
    def likely(self) -> str:
        """What a loss means, and where to look."""
        return "its process has ended or its link is down, see its log"

    def write(self, header: bytes, payload: memoryview | None = None) -> bool:
        if self._mute or self._queue:
            return self._write_behind(header, payload)
        assert self.sock is not None
        self._mute = True
        try:
            if payload is None:
                sent = self.sock.send(header)
                total = len(header)
            else:
                sent = self.sock.sendmsg((header, payload if len(payload) <= SLICE_NBYTES else payload[:SLICE_NBYTES]))
                total = len(header) + len(payload)
        except BlockingIOError:
            sent, total = 0, -1
        except OSError as exc:
            if not self._lacks(exc):
                self._refused(exc, (header,) if payload is None else (header, payload), whole=True)
                self.owes |= payload is not None
                return True
            sent, total = 0, -1
        if sent == total:
            self._mute = False
            return True
        queue = self._queue
        if sent < len(header):
            queue.append((memoryview(header)[sent:] if sent else header, None))
            sent = len(header)
        if payload is not None:
            queue.append((payload[sent - len(header) :], None))
        self._mute = False
        self._handler.watch(self, True)
        if self.shortage:  # now, or when it last tried to read
            self._handler.hold(self)
        return False

    def _write_behind(self, header: bytes, payload: memoryview | None) -> bool:
        if self._mute:
            if self.sock is None or self._write_error is not None:
                self.owes |= payload is not None  # whoever reads from this pair learns why
            return True
        self._queue.append((header, None))
        if payload is not None:
            self._queue.append((payload, None))
        return False

    def when_taken(self, completion: Completion) -> None:
        self._queue[-1] = (self._queue[-1][0], completion)

    def flush(self) -> bool:
        """Hand the kernel up to `SLICE_NBYTES` of what waits; return whether it took any."""
        queue = self._queue
        if not queue or self.sock is None or self._mute:
            return False
        self._mute = True
        self.shortage = ""
        try:
            if len(queue) == 1:
                sent = self.sock.send(queue[0][0][:SLICE_NBYTES])
            else:
                sent = self.sock.sendmsg(tuple(self._pieces()))
        except BlockingIOError:
            self._mute = False
            return False
        except OSError as exc:
            if self._lacks(exc):
                self._mute = False
                self._handler.hold(self)
                return False
            self._refused(exc, tuple(self._pieces()), whole=isinstance(queue[0][0], bytes))
            return True
        while queue:
            piece, completion = queue[0]
            if sent < len(piece):
                if sent:
                    queue[0] = (memoryview(piece)[sent:], completion)
                break
            queue.popleft()
            sent -= len(piece)
            if completion is not None:
                completion.complete()
        self._mute = False
        if not queue:
            self._handler.watch(self, False)
        return True

    def _pieces(self) -> Iterator[bytes | memoryview]:
        room = SLICE_NBYTES
        for index, (piece, _) in enumerate(self._queue):
            if not room or index == _MAX_PIECES:
                return
            yield piece[:room]
            room -= min(room, len(piece))

    def _lacks(self, exc: OSError) -> bool:
        """Whether the kernel lacks memory; if so, that is noted."""
        if exc.errno not in SHORTAGE:
            return False
        self.shortage = f"the kernel had no memory for the connection to {self.peer}: {name(exc)}"
        return True

    def _refused(self, exc: OSError, pieces: Sequence[bytes | memoryview], whole: bool) -> None:
        """The kernel has taken nothing, and will not; `whole`: what it has taken before are whole frames."""
        self._drop()
        if exc.errno in GONE:
            # Not yet lost: what the peer sent before it went may say why, so the reading side decides.
            self._write_error = exc
            self._handler.watch(self, False)
            return
        self._handler.watch(self, False)
        self._mute = not whole  # then the peer can be told
        self._handler.failed(self, explain(f"sending {extent(pieces)} to {self.peer}", exc), exc)
        self._mute = True  # it could not be told

    def _drop(self) -> None:
        """Forget what waits to be sent."""
        self.owes |= any(completion is not None for _, completion in self._queue)
        self._queue.clear()

    def receive(self) -> bool:
        """Take what has come, one system call's worth; return whether there was any."""
        sock, sink = self.sock, self._sink
        if sock is None:
            return False
        held = len(self._kept)
        try:
            if sink is not None:
                received = sock.recv_into(sink.window())
            elif held:
                self._reading[:held] = self._kept
                received = sock.recv_into(self._reading[held:])
            else:
                received = sock.recv_into(self._reading)
        except BlockingIOError:
            return False
        except OSError as exc:
            return self._unreadable(exc, None if sink is None else sink.window())
        if not received:
            self._ended(None)
        elif sink is None:
            self._parse(held + received)
        else:
            sink.advance(received)
            self._left -= received
            if not self._left:
                self._sink = None
                sink.finish()
        return True

    def expect(self, header: bytes, nbytes: int, waits: Patience) -> memoryview | None:
        sock, staging, total = self.sock, self._staging, HEADER_NBYTES + nbytes
        if sock is None or self._sink is not None or self._kept or nbytes > EXPECTED_NBYTES:
            return None
        came, began = 0, 0.0
        while True:
            try:
                received = sock.recv_into(staging[came:] if came else staging, total - came)
                if received == total and self._begins_with(header):
                    return staging[HEADER_NBYTES:total]
            except BlockingIOError:
                now = monotonic()
                began = began or now
                if now - began >= waits.prompt:
                    break
                waits.pause(now - began)
            except OSError as exc:
                self._parse(came)
                self._unreadable(exc, None)
                return None
            else:
                if not received:
                    self._parse(came)
                    self._ended(None)
                    return None
                came += received
                if came == total or (came >= HEADER_NBYTES and not self._begins_with(header)):
                    break
        if came == total and self._begins_with(header):
            return staging[HEADER_NBYTES:total]
        self._parse(came)
        return None

    def _unreadable(self, exc: OSError, window: memoryview | None) -> bool:
        """Nothing could be read, into `window` if that is the user's; return whether that has changed anything."""
        if self._lacks(exc):
            self._handler.hold(self)
            return False
        if exc.errno in GONE:
            self._ended(exc)
        else:
            what = "" if window is None else f" {extent((window,))}"
            self.fail(f"receiving{what} from {self.peer}", exc)
        return True

    def fail(self, doing: str, exc: OSError) -> None:
        """Report a system call that has failed although the stream goes on; `doing` names bytes and peer."""
        self._handler.failed(self, explain(doing, exc), exc)

    def _ended(self, cause: OSError | None) -> None:
        """Report the end of the stream, or the error that reading has met."""
        if cause is None and not isinstance(self._write_error, BrokenPipeError):
            cause = self._write_error  # the kernel reports a reset once: after a write was told, reads merely end
        if cause is None:
            self._handler.lost(self, f"connection closed by peer{self._progress()}", self._write_error)
        else:
            self._handler.lost(self, f"{cause.strerror or cause}{self._progress()}", cause)

    def give_up(self, reason: str) -> None:
        """Report the stream as lost, which the kernel has not done."""
        self._handler.lost(self, reason + self._progress(), None)

    def _parse(self, end: int) -> None:
        staging = self._staging
        position = 0
        self._kept = b""
        self._end = end
        while end - position >= HEADER_NBYTES:
            self._position = position + HEADER_NBYTES
            sink = self._begin(position)
            position += HEADER_NBYTES
            if sink is not None and self._sink is None:
                stop = position + self._left
                if stop > end:
                    self._position = end
                    if position < end:
                        sink.feed(staging[position:end])
                    if self._sink is None:
                        self._sink, self._left = sink, stop - end
                    return
                self._position = stop
                if stop > position:
                    sink.feed(staging[position:stop])
                    position = stop
                sink.finish()
            if self._sink is not None or self.sock is None:
                return  # the handler has diverted or closed this
        self._position = end
        if position < end:
            self._kept = bytes(staging[position:end])

    def _begin(self, position: int) -> Sink | None:
        """Take the header there; return where its payload of `_left` bytes goes, if one follows."""
        version, kind, channel, tag, self._left, fingerprint = unpack_header(self._staging, position)
        if version != VERSION:
            self._handler.lost(self, f"it speaks frame version {version}, this rank version {VERSION}", None)
            return None
        return self._handler.frame(self, kind, channel, tag, self._left, fingerprint)

    def _progress(self) -> str:
        if self._sink is not None:
            return f", {self._left} bytes short of a message"
        return f", {len(self._kept)} bytes into a header" if self._kept else ""

    def divert(self, handler: PairHandler, sink: Sink, staging: memoryview) -> None:
        """From here on give all that comes to `sink`, also what was read already and the handler was not told of yet.

        What was read but not opened, of an encrypted connection, comes with `catch_up`.
        """
        self._handler = handler
        self._sink, self._left = sink, sys.maxsize
        kept = self._kept or bytes(self._staging[self._position : self._end])
        self._kept, self._position = b"", self._end
        self._staging = staging
        if kept:
            sink.feed(memoryview(kept))

    def cut(self) -> None:
        """Forget what waits to be sent, in the middle of a frame maybe: the peer would drop it."""
        self._drop()

    def detach(self) -> socket.socket | Encrypted:
        """Give the connection away, without what waits to be sent; the pair is closed then."""
        assert self.sock is not None
        sock, self.sock = self.sock, None
        self._mute = True
        self._drop()
        self._sink = None
        return sock

    def sleep(self) -> None:
        """Keep the descriptor open without a socket object."""
        assert self.sock is not None
        self.sock.detach()
        self.sock, self._mute = None, True

    def wake(self) -> None:
        """End `sleep`."""
        import socket

        self.sock = socket.socket(fileno=self.fd)
        self.sock.setblocking(False)
        self._mute = self._write_error is not None

    def pause(self) -> None:
        """Take nothing more: it is for whoever the connection is given to."""

    def catch_up(self) -> None:
        """Take what has come without the kernel's knowing that it is still here."""

    def end(self) -> None:
        """Say in the stream that nothing follows, where it has a word for that; its half of the socket is shut next."""

    def close(self) -> None:
        """Close the socket; what waits to be sent is dropped."""
        if self.sock is not None:
            self._mute = True
            with suppress(OSError):  # the program has closed the descriptor already
                self.sock.close()
            self.sock = None  # not before: whoever is interrupted closes it again
            self._drop()
            self._sink = None
