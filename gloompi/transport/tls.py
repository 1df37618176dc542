"""A pair whose stream is encrypted: TLS 1.3 between the frames and a TCP socket.

The handshake is over when a pair begins, see `gloompi.rendezvous.securing`.  Two things differ from a plain pair.  What is
sealed has to be sent as it is: a frame counts as sent when the kernel has the last byte of its records, not when it is
sealed.  And what has come may be here without epoll's knowledge: nothing that can be opened is left for later.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, cast

from .frames import HEADER_NBYTES
from .link import Completion, Patience
from .pair import EXPECTED_NBYTES, SLICE_NBYTES, Pair, PairHandler

if TYPE_CHECKING:
    import socket

    from .endpoint import Peer

__all__ = ["RECORD_NBYTES", "SEAL_NBYTES", "Encrypted", "TlsPair"]

# The most that a record of TLS holds (RFC 8446, 5.1), and what each is longer by: 5 bytes of header, 1 of type, and the tag
# of 16 that all suites have which OpenSSL offers by itself.
RECORD_NBYTES = 16 * 1024
_OVERHEAD_NBYTES = 22

# Bytes sealed before they are sent: a few system calls for a large message, and memory that the cache holds.
SEAL_NBYTES = 256 * 1024


class Encrypted(NamedTuple):
    """A connection after the handshake.

    Attributes
    ----------
    sock : socket.socket
        Where the records go and come from.
    tls : ssl.SSLObject
    incoming, outgoing : ssl.MemoryBIO
        What `tls` opens, and what it has sealed.
    """

    sock: socket.socket
    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket, without a word."""
        self.sock.close()


class TlsPair(Pair):
    """The encrypted connection to one peer.

    Parameters
    ----------
    stream : Encrypted
        The pair owns it.
    peer, handler, credit, staging
        As for `Pair`.
    """

    __slots__ = ("_altered", "_incoming", "_outgoing", "_paused", "_read", "_sealed", "_telling", "_tls")

    def __init__(self, stream: Encrypted, peer: Peer, handler: PairHandler, credit: int, staging: memoryview) -> None:
        super().__init__(stream.sock, peer, handler, credit, staging)
        self._tls, self._incoming, self._outgoing = stream.tls, stream.incoming, stream.outgoing
        self._read = cast("Callable[[int, memoryview], int]", stream.tls.read)  # as it is with a buffer
        self._sealed = memoryview(b"")  # records that the kernel has not taken yet
        self._telling: list[Completion] = []  # whose payloads end in them
        self._altered = False
        self._paused = False

    @property
    def sending(self) -> bool:
        return bool(self._queue or self._sealed) and not self._mute

    @property
    def likely(self) -> str:
        return "something between the two ranks alters what they send" if self._altered else super().likely

    # -- sending --------------------------------------------------------------------------------------------------------

    def write(self, header: bytes, payload: memoryview | None = None) -> bool:
        if self._mute or self._queue or self._sealed:
            return self._write_behind(header, payload)
        self._queue.append((header, None))
        if payload is not None:
            self._queue.append((payload, None))
        self._send()
        if self._write_error is not None:
            self.owes |= payload is not None
            return True
        if not self._queue and not self._sealed:
            return True
        self._handler.watch(self, True)
        if self.shortage:
            self._handler.hold(self)
        return False

    def when_taken(self, completion: Completion) -> None:
        if self._queue:
            super().when_taken(completion)
        else:  # all of it is sealed
            self._telling.append(completion)

    def flush(self) -> bool:
        if self.sock is None or self._mute or not (self._queue or self._sealed):
            return False
        self.shortage = ""
        took = self._send()
        if self.shortage:
            self._handler.hold(self)
        elif not self._queue and not self._sealed and not self._mute:
            self._handler.watch(self, False)
        return took

    def _send(self) -> bool:
        """Seal and hand over up to `SLICE_NBYTES`; return whether the kernel took any."""
        assert self.sock is not None
        took, room = False, SLICE_NBYTES
        self._mute = True  # as in `Pair`: an exception from a signal handler in between leaves half a record
        try:
            while True:
                if not self._sealed:
                    if not self._queue or room <= 0:
                        break
                    self._seal()
                    room -= len(self._sealed)
                sent = self.sock.send(self._sealed)
                took = True
                self._sealed = self._sealed[sent:]
                if not self._sealed:
                    telling, self._telling = self._telling, []
                    for completion in telling:
                        completion.complete()
        except BlockingIOError:
            pass
        except ssl.SSLError as exc:
            self._handler.lost(self, f"TLS cannot seal what is to be sent ({exc.reason})", exc)
            return True
        except OSError as exc:
            if not self._lacks(exc):
                self._refused(exc, (self._sealed,), whole=False)
                return True
        self._mute = False
        return took

    def _seal(self) -> None:
        """Make records of about `SEAL_NBYTES` of what waits."""
        queue, tls, room = self._queue, self._tls, SEAL_NBYTES
        while queue and room > 0:
            piece, completion = queue[0]
            if len(piece) < RECORD_NBYTES:
                plain = self._gathered()
            elif len(piece) <= room:
                plain = memoryview(piece)
                queue.popleft()
                if completion is not None:
                    self._telling.append(completion)
            else:
                rest = memoryview(piece)
                plain, queue[0] = rest[:room], (rest[room:], completion)
            room -= len(plain)
            while plain:  # a record at a time, as Python sets OpenSSL up
                plain = plain[tls.write(plain) :]
        self._sealed = memoryview(self._outgoing.read())

    def _gathered(self) -> memoryview:
        """What waits, up to one full record: a header and a small payload leave as one."""
        queue, room = self._queue, RECORD_NBYTES
        pieces = []
        while queue and room:
            piece, completion = queue[0]
            if len(piece) > room:
                pieces.append(piece[:room])
                queue[0] = (piece[room:], completion)
                break
            pieces.append(piece)
            room -= len(piece)
            queue.popleft()
            if completion is not None:
                self._telling.append(completion)
        return memoryview(b"".join(pieces))

    def _drop(self) -> None:
        self.owes |= bool(self._telling)
        self._telling = []
        self._sealed = memoryview(b"")
        super()._drop()

    def end(self) -> None:
        """Send TLS's own word that nothing follows; without effect in the middle of a record."""
        if self.sock is None or self._mute or self._sealed:
            return
        with suppress(OSError):  # the peer's answer is not waited for: ssl.SSLWantReadError
            self._tls.unwrap()
        with suppress(OSError):
            self.sock.send(self._outgoing.read())

    # -- receiving ------------------------------------------------------------------------------------------------------

    def receive(self) -> bool:
        if self.sock is None:
            return False
        try:
            received = self.sock.recv_into(self._staging)
        except BlockingIOError:
            return False
        except OSError as exc:
            return self._unreadable(exc, None)
        if received:
            self._incoming.write(self._staging[:received])
            self._open()
        else:
            self._ended(None)
        return True

    def pause(self) -> None:
        self._paused = True

    def catch_up(self) -> None:
        self._open()

    def cut(self) -> None:
        sealed = self._sealed  # what is sealed has to be sent
        super().cut()
        self._sealed = sealed

    def detach(self) -> Encrypted:
        sock = super().detach()
        assert not isinstance(sock, tuple)
        return Encrypted(sock, self._tls, self._incoming, self._outgoing)

    def _open(self) -> None:
        """Open everything that has come, and take it."""
        read, staging = self._read, self._staging
        while self.sock is not None and not self._paused:
            sink, held = self._sink, len(self._kept)
            try:
                if sink is not None:
                    received = read(RECORD_NBYTES, sink.window())
                else:
                    staging[:held] = self._kept
                    received = read(RECORD_NBYTES, staging[held:])
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError as exc:
                self._refuse(exc)
                return
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

    def expect(self, header: bytes, nbytes: int, waits: Patience) -> memoryview | None:
        sock, read, staging, total = self.sock, self._read, self._staging, HEADER_NBYTES + nbytes
        if sock is None or self._sink is not None or self._kept or nbytes > EXPECTED_NBYTES:
            return None
        # No byte of what follows the frame is read, as long as the frame has the records that `_seal` makes of it.
        wanted = total + _OVERHEAD_NBYTES * -(-total // RECORD_NBYTES)
        came, began = 0, 0.0
        while wanted and came < total:
            try:
                received = sock.recv_into(staging[came:], min(wanted, len(staging) - came))
            except BlockingIOError:
                now = monotonic()
                began = began or now
                if now - began >= waits.prompt:
                    break
                waits.pause(now - began)
                continue
            except OSError as exc:
                self._parse(came)
                self._unreadable(exc, None)
                return None
            if not received:
                self._parse(came)
                self._ended(None)
                return None
            wanted -= received
            self._incoming.write(staging[came : came + received])
            try:
                while came < total:
                    opened = read(RECORD_NBYTES, staging[came:total])
                    if not opened:
                        wanted = 0  # the end, which `_open` meets again
                        break
                    came += opened
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as exc:
                self._parse(came)
                self._refuse(exc)
                return None
            if came >= HEADER_NBYTES and not self._begins_with(header):
                break
        if came == total and self._begins_with(header) and not self._incoming.pending and not self._tls.pending():
            return staging[HEADER_NBYTES:total]
        self._parse(came)
        self._open()
        return None

    def _refuse(self, exc: ssl.SSLError) -> None:
        """Report a record that cannot be opened, or that the peer has met one; tell the peer if it does not know."""
        self._altered = True
        if not self._mute and not self._sealed and self.sock is not None:
            with suppress(OSError):
                self.sock.send(self._outgoing.read())
        met = "it got a record" if "ALERT" in (exc.reason or "") else "a record came"
        reason = f"{met} that was changed or forged ({exc.reason}){self._progress()}"
        self._handler.lost(self, reason, exc)
