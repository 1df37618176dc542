"""The thread in which a process serves its TCPStore: one loop for all clients, in slices that no one of them can stretch.

A client has one request under way, and is read again when it has its answer.  Small requests are served in the order in
which they came, after them larger ones and those of clients whose last one took long, for some milliseconds until the
sockets are looked at again.  A frame or an answer that is not small needs one of a few places, for which clients queue: that
bounds the memory of all of them together, and whoever dawdles in a place that others wait for is dropped.  Strangers, who
have not greeted, have places of their own, so that they do not take those of the ranks, and are dropped sooner when all are
taken.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from secrets import token_bytes
from time import monotonic

from ..deadline import Deadline
from .bounded import MAX_NBYTES
from .greeting import NONCE_NBYTES, PROOF_NBYTES, line, proof, same
from .places import Places
from .serving import ANSWER, LENGTH, REFUSAL, ServedStore, answer, pack, packed_nbytes, unpack

__all__ = ["Server"]

_log = logging.getLogger("gloompi")

# Seconds until a stranger that does not greet is dropped; while all their places are taken; and how many there are.
_GREETING_SECONDS, _HURRIED_SECONDS = 5.0, 0.2
_MAX_STRANGERS = 256
# Clients that are served, more than are expected, or if nobody knows how many are.
_SPARE_CLIENTS, _MAX_CLIENTS = 64, 1024
# When all of these are there: whoever has not asked for so long may be dropped for a new one.
_QUIET_SECONDS = 1.0
# Without a secret anybody may be a client: one that asks for nothing is dropped after this.
_IDLE_SECONDS = 900.0
# For all of a request, or of an answer; and if others wait for the place that it takes.
_TRANSFER_SECONDS, _DAWDLING_SECONDS = 30.0, 5.0
# A frame beyond the first is served after others; one beyond the second takes one of so many places.
_QUICK_NBYTES, _SMALL_NBYTES, _PLACES = 4096, 64 * 1024, 4
# Who has asked for something that took longer is served after others next time, however little it asks for then.
_QUICK_SECONDS = 1e-3
_REPORT_SECONDS = 1.0
_SLICE_SECONDS = 0.02
_TICK_SECONDS = 0.1
_PIECE_NBYTES = 256 * 1024
_ACCEPTED = 64


class _Client:
    """A connection, from its first byte on.

    Attributes
    ----------
    since : float
        When it came, began with a request or an answer, or had the last one.
    moving : bool
        A request or an answer is on its way.
    slow : bool
        Its last request took long.
    name : bytes
        By which it has joined; empty before.
    need : int
        Bytes of the next unit; with all of them, `then` is called.
    """

    __slots__ = (
        *("ending", "greeted", "mask", "moving", "name", "need", "nonces", "outgoing", "received", "request", "since"),
        *("slow", "sock", "then"),
    )

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.since = now
        self.greeted = self.moving = self.ending = self.slow = False
        self.mask = 0
        self.need = 0
        self.then: Callable[[_Client, bytes], None]
        self.received = bytearray()
        self.outgoing: memoryview | None = None
        self.nonces = self.name = self.request = b""


class Server:
    """A thread that answers requests to a store, from `start` to `close`.

    Parameters
    ----------
    sockets : list of socket
        Listening; the server's from now on.
    port : int
        The port that the store is known by, the first of those that were tried.
    clients : int or None
        So many are expected.  With a secret, listening ends when so many of different names have joined.
    secret : bytes
        Clients have to show that they have it; empty if they need none.
    """

    def __init__(
        self, store: ServedStore, sockets: list[socket.socket], port: int, clients: int | None, secret: bytes
    ) -> None:
        self._store = store
        self._listeners = {sock.fileno(): sock for sock in sockets}
        self._line, self._other_line = line(port, secret), line(port, b"" if secret else b"some")
        self._secret = secret
        self._expected = clients if secret else None
        self._most = _MAX_CLIENTS if clients is None else clients + _SPARE_CLIENTS
        self._clients: dict[int, _Client] = {}  # all that are connected, by descriptor, the oldest first
        self._strangers = 0
        self._quick: deque[_Client] = deque()
        self._slow: deque[_Client] = deque()
        self._places: Places[_Client] = Places(_PLACES)
        self._closing = self._stopping = self._deaf = False
        self._looked = 0.0
        self._told = -_REPORT_SECONDS
        self._alone = threading.Event()
        self._accepting = True
        self._epoll = select.epoll()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._waker, select.EPOLLIN)
        for sock in sockets:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="gloompi store", daemon=True)

    def start(self) -> None:
        """Serve, in a thread, until `close`."""
        self._thread.start()

    def stop_listening(self) -> None:
        """Let nobody else in."""
        self._deaf = True
        if self._waker >= 0:
            self._wake()

    def close(self, deadline: Deadline) -> None:
        """Wait until the clients that have joined have gone, stop listening, end the thread."""
        if self._waker < 0:
            return
        try:
            self._closing = True
            self._wake()
            self._alone.wait(deadline.remaining())
        finally:
            self._stopping = True
            self._wake()
            self._thread.join()
            os.close(self._waker)
            self._waker = -1

    def _wake(self) -> None:
        os.eventfd_write(self._waker, 1)

    # -- in the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._stop_listening()
            for client in list(self._clients.values()):
                self._drop(client)
            self._epoll.close()

    def _turn(self) -> None:
        for fd, event in self._epoll.poll(self._patience()):
            client = self._clients.get(fd)
            if client is not None:
                self._attend(client, event)
            elif fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd == self._waker:
                os.eventfd_read(self._waker)
        self._serve(self._quick)
        self._serve(self._slow)
        self._expire(monotonic())
        if self._deaf:
            self._stop_listening()
        if self._closing and not any(client.name for client in self._clients.values()):
            self._alone.set()

    def _patience(self) -> float | None:
        """Seconds until somebody may be late."""
        if self._quick or self._slow:
            return 0.0
        if self._strangers or self._places.wanted or not self._accepting:
            return _TICK_SECONDS
        return 10 * _TICK_SECONDS if self._clients else None

    # Who is let in, and for how long.

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED):
            if self._strangers >= _MAX_STRANGERS:
                self._listen(False)
                return
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:  # such as no descriptor free
                _log.debug("store: %s", exc)
                self._listen(False)
                return
            sock.setblocking(False)
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._meet(sock)

    def _meet(self, sock: socket.socket) -> None:
        client = _Client(sock, monotonic())
        self._clients[sock.fileno()] = client
        self._strangers += 1
        self._epoll.register(sock.fileno(), 0)
        self._expect(client, len(self._line), self._take_line)

    def _listen(self, on: bool) -> None:
        """Accept connections, or leave them to the kernel until a place is free."""
        if on != self._accepting:
            self._accepting = on
            for fd in self._listeners:
                self._epoll.modify(fd, select.EPOLLIN if on else 0)

    def _stop_listening(self) -> None:
        for fd, sock in self._listeners.items():
            self._epoll.unregister(fd)
            sock.close()
        self._listeners.clear()

    def _expire(self, now: float) -> None:
        if now - self._looked < _TICK_SECONDS / 2:
            return
        self._looked = now
        greeting = _GREETING_SECONDS if self._accepting else _HURRIED_SECONDS
        idle = float("inf") if self._secret else _IDLE_SECONDS
        for client in list(self._clients.values()):
            if not client.greeted:
                limit = greeting
            elif not client.moving:
                limit = idle
            else:
                limit = _DAWDLING_SECONDS if self._places.delays(client) else _TRANSFER_SECONDS
            if now - client.since > limit:
                self._drop(client)
        if not self._accepting and self._strangers < _MAX_STRANGERS:
            self._listen(True)

    def _drop(self, client: _Client) -> None:
        if client.sock.fileno() < 0:
            return
        del self._clients[client.sock.fileno()]
        self._strangers -= not client.greeted
        self._epoll.unregister(client.sock.fileno())
        client.sock.close()
        client.moving = False
        self._places.release(client)

    # What they say, unit by unit.

    def _expect(self, client: _Client, nbytes: int, then: Callable[[_Client, bytes], None]) -> None:
        client.need, client.then = nbytes, then
        self._watch(client, select.EPOLLIN)

    def _watch(self, client: _Client, mask: int) -> None:
        if client.mask != mask:
            client.mask = mask
            self._epoll.modify(client.sock.fileno(), mask)

    def _attend(self, client: _Client, event: int) -> None:
        try:
            if client.outgoing is not None:
                self._flush(client)
            elif client.mask:
                self._read(client)
            else:  # it has gone, and its request with it
                self._drop(client)
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        while client.mask == select.EPOLLIN and client.sock.fileno() >= 0:
            wanted = client.need - len(client.received)
            try:
                piece = client.sock.recv(min(wanted, _PIECE_NBYTES))
            except BlockingIOError:
                return
            if not piece:
                self._drop(client)
                return
            if client.greeted and not client.moving:
                client.moving, client.since = True, monotonic()
            client.received += piece
            if client.then == self._take_line and not self._is_line(client.received):
                self._drop(client)
                return
            if len(piece) == wanted:
                unit, client.received = bytes(client.received), bytearray()
                client.then(client, unit)
            elif wanted > _SMALL_NBYTES:
                return  # others are to be read too

    def _is_line(self, said: bytearray) -> bool:
        """Return whether it may become one, as far as it goes: nobody has to wait for the rest of something else."""
        return self._line.startswith(said) or self._other_line.startswith(said)

    def _take_line(self, client: _Client, said: bytes) -> None:
        if said == self._line:
            if self._secret:
                self._expect(client, NONCE_NBYTES, self._take_nonce)
            else:
                self._let_in(client, self._line)
        else:  # it is told what it lacks
            self._report(
                client, "has no secret, and the store has one" if self._secret else "has a secret, the store has none"
            )
            client.ending = True
            self._send(client, self._line)

    def _take_nonce(self, client: _Client, nonce: bytes) -> None:
        mine = token_bytes(NONCE_NBYTES)
        client.nonces = nonce + mine
        self._expect(client, PROOF_NBYTES, self._take_proof)
        client.sock.send(self._line + mine)  # there is room: it is the first that is sent

    def _take_proof(self, client: _Client, said: bytes) -> None:
        if same(said, proof(self._secret, "client", self._line, client.nonces)):
            self._let_in(client, proof(self._secret, "server", self._line, client.nonces))
        else:
            self._report(client, "does not know its secret, or has another one")
            self._drop(client)

    def _report(self, client: _Client, what: str) -> None:
        """Tell people of somebody who may be a rank, once in a while."""
        now = monotonic()
        if now - self._told >= _REPORT_SECONDS:
            self._told = now
            host, port = client.sock.getpeername()[:2]
            _log.warning("who connects to the store from %s port %d %s (secret=, GLOOMPI_SECRET_FILE)", host, port, what)

    def _let_in(self, client: _Client, told: bytes) -> None:
        if len(self._clients) - self._strangers >= self._most:
            oldest = min((each for each in self._clients.values() if each.greeted), key=lambda each: each.since)
            if monotonic() - oldest.since < _QUIET_SECONDS:
                self._drop(client)
                return
            self._drop(oldest)
        client.greeted, client.since = True, monotonic()
        self._strangers -= 1
        self._send(client, told)

    def _take_length(self, client: _Client, packed: bytes) -> None:
        (nbytes,) = LENGTH.unpack(packed)
        if not 0 < nbytes <= MAX_NBYTES:
            self._drop(client)
        elif nbytes <= _SMALL_NBYTES or self._has_place(client, lambda: self._expect(client, nbytes, self._take_body)):
            self._expect(client, nbytes, self._take_body)

    def _take_body(self, client: _Client, packed: bytes) -> None:
        client.request = packed
        self._watch(client, 0)
        (self._slow if client.slow or len(packed) > _QUICK_NBYTES else self._quick).append(client)

    def _has_place(self, client: _Client, go_on: Callable[[], None]) -> bool:
        """Return whether it has a place for what is not small; if not, it goes on when it has."""

        def resume() -> None:
            client.moving, client.since = True, monotonic()
            go_on()

        if self._places.take(client):
            return True
        self._watch(client, 0)
        client.moving = False
        self._places.queue(client, resume)
        return False

    # What they get.

    def _serve(self, waiting: deque[_Client]) -> None:
        began = monotonic()
        while waiting and monotonic() - began < _SLICE_SECONDS:
            client = waiting.popleft()
            if client.sock.fileno() >= 0:
                try:
                    self._answer(client)
                except (OSError, ValueError):  # it has gone, or talks another language: there is nobody to tell
                    self._drop(client)

    def _answer(self, client: _Client) -> None:
        began = monotonic()
        match unpack(client.request):
            case [b"join", bytes(name)]:
                self._join(client, name)
                found: list[bytes | None] = [ANSWER]
            case request:
                found = answer(self._store, request)
        client.slow = monotonic() - began > _QUICK_SECONDS
        nbytes = packed_nbytes(found)
        if nbytes > MAX_NBYTES:
            found = [REFUSAL, f"an answer of {nbytes} bytes; a TCPStore gives up to {MAX_NBYTES}".encode()]
        elif nbytes > _SMALL_NBYTES and not self._has_place(client, lambda: self._slow.append(client)):
            return  # only what is read is as long: it is read again then
        client.request = b""
        self._send(client, pack(found))

    def _join(self, client: _Client, name: bytes) -> None:
        # All at the same time: one that has gone, or is there twice, does not take another's place.
        client.name = name or b"?"
        if self._expected is not None and len({each.name for each in self._clients.values()} - {b""}) >= self._expected:
            self._stop_listening()

    def _send(self, client: _Client, data: bytes) -> None:
        client.outgoing, client.since = memoryview(data), monotonic()
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        assert client.outgoing is not None
        with suppress(BlockingIOError):
            client.outgoing = client.outgoing[client.sock.send(client.outgoing) :]
        if client.outgoing:
            self._watch(client, select.EPOLLOUT)
        elif client.ending:
            self._drop(client)
        else:
            client.outgoing, client.moving, client.since = None, False, monotonic()
            self._places.release(client)
            self._expect(client, LENGTH.size, self._take_length)
