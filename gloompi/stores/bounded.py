"""One deadline over all that is asked of a store, and a cap on each answer.

The clients of servers have timeouts for each system call, which a server that drips a byte a second never meets, and take
as much as it announces.  Here a caller says until when it can wait (`within`), a store how long and how large one answer
may be (`request`), and a `BoundedSocket` below the client keeps to both.  Not bounded: the resolution of host names, which
the system does, and a file system that does not answer.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline

if TYPE_CHECKING:
    import socket

__all__ = ["MAX_NBYTES", "BoundedSocket", "budget", "connect", "request", "within"]

# No answer is longer; a rendezvous of 10,000 ranks has 3 MB of records.
MAX_NBYTES = 16 * 1024**2
# What a caller whose time is up still has for the last look, the reasons, and what it leaves to the others.
_GRACE_SECONDS = 2.0
_PIECE_NBYTES = 256 * 1024


class _Request:
    """The time and the bytes that are left to one request."""

    __slots__ = ("deadline", "limit", "nbytes")

    def __init__(self, deadline: Deadline, limit: int) -> None:
        self.deadline = deadline
        self.limit = self.nbytes = limit

    def take(self, nbytes: int) -> None:
        self.nbytes -= nbytes
        if self.nbytes < 0:
            raise ConnectionError(f"an answer of more than {self.limit} bytes")


# Of the thread that asks: several may share a store.
_caller: ContextVar[Deadline | None] = ContextVar("gloompi store caller", default=None)
_current: ContextVar[_Request | None] = ContextVar("gloompi store request", default=None)


@contextmanager
def within(deadline: Deadline) -> Iterator[None]:
    """Have all that this thread asks of stores end soon after the deadline, whatever becomes of it."""
    remaining = deadline.remaining()
    if remaining is None:
        yield
        return
    token = _caller.set(budget(remaining + _GRACE_SECONDS))
    try:
        yield
    finally:
        _caller.reset(token)


def budget(seconds: float | None) -> Deadline:
    """So many seconds, or what the caller has if that is less; None is no limit of one's own."""
    caller = _caller.get()
    if caller is None:
        return Deadline(seconds)
    return caller if seconds is None else caller.before(seconds)


@contextmanager
def request(seconds: float, nbytes: int = MAX_NBYTES) -> Iterator[Deadline]:
    """Around the system calls of one request of this thread: their one deadline, and how long the answer may be."""
    deadline = budget(seconds)
    token = _current.set(_Request(deadline, nbytes))
    try:
        yield deadline
    finally:
        _current.reset(token)


def _left(deadline: Deadline) -> float | None:
    """Seconds for the next system call; TimeoutError if there are none, because 0 would mean not to wait."""
    seconds = deadline.remaining()
    if seconds == 0.0:
        raise TimeoutError(f"no whole answer within {deadline.timeout or 0:.1f} s")
    return seconds


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to one of the addresses of a host, within the request's time; so many seconds at most for each.

    Raises
    ------
    OSError
        None of them can be reached; that of the last one.
    """
    import socket  # all stores come by here, and most have no use for it

    current = _current.get()
    deadline = budget(None) if current is None else current.deadline
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (*_, address) in enumerate(found, 1):
        zone = f"%{address[3]}" if len(address) == 4 and address[3] else ""  # of an IPv6 address of this link
        try:
            sock = socket.create_connection((f"{address[0]}{zone}", port), _left(deadline.before(seconds)))
        except OSError:
            if number == len(found):
                raise
        else:
            sock.settimeout(deadline.remaining() or None)  # for a TLS handshake; `BoundedSocket` has it anew each time
            return sock
    raise OSError(f"{host} has no address")


class BoundedSocket:
    """A connected socket, plain or of `ssl`, whose calls keep to the `request` of the thread that makes them.

    Parameters
    ----------
    sock : socket.socket
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._timeout = sock.gettimeout()  # what the client has set
        self._files = 0
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def setblocking(self, blocking: bool) -> None:
        self._timeout = None if blocking else 0.0

    def gettimeout(self) -> float | None:
        return self._timeout

    def _begin(self) -> _Request | None:
        current, timeout = _current.get(), self._timeout
        if current is not None and timeout != 0.0:
            left = _left(current.deadline)
            timeout = left if timeout is None else timeout if left is None else min(left, timeout)
        self._sock.settimeout(timeout)
        return current

    def sendall(self, data: Any, *flags: int) -> None:
        left = memoryview(data)
        while left:
            left = left[self.send(left, *flags) :]

    def send(self, data: Any, *flags: int) -> int:
        self._begin()
        return self._sock.send(data, *flags)

    def recv(self, nbytes: int, *flags: int) -> bytes:
        current = self._begin()
        # Python allocates what is asked for, and what is announced need not come.
        data = self._sock.recv(min(nbytes, _PIECE_NBYTES), *flags)
        if current is not None:
            current.take(len(data))
        return data

    def recv_into(self, buffer: Any, *arguments: int) -> int:
        current = self._begin()
        nbytes = self._sock.recv_into(buffer, *arguments)
        if current is not None:
            current.take(nbytes)
        return nbytes

    def receive(self, nbytes: int) -> bytes:
        """So many bytes.  ConnectionError if the connection is closed before."""
        received = bytearray()
        while len(received) < nbytes:
            piece = self.recv(nbytes - len(received))
            if not piece:
                raise ConnectionError("the connection was closed")
            received += piece
        return bytes(received)

    def makefile(self, mode: str = "rb", *arguments: Any, **more: Any) -> io.BufferedReader:
        """As http.client reads answers; not for writing."""
        self._files += 1
        return io.BufferedReader(_Raw(self))

    def close(self) -> None:
        """Close the socket once its files are closed too."""
        self._closed = True
        if self._files == 0:
            self._sock.close()


class _Raw(io.RawIOBase):
    def __init__(self, sock: BoundedSocket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            self._sock._files -= 1
            if self._sock._closed:
                self._sock.close()
        super().close()
