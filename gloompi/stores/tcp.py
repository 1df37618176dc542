"""A store that one rank serves to the others over TCP, where there is no server to ask."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from time import sleep
from types import TracebackType

from ..deadline import Deadline, check_timeout
from ..errors import RendezvousError
from ..signatures import public
from .bounded import MAX_NBYTES, BoundedSocket, budget, connect, request
from .hash import HashStore
from .remote import unreachable
from .serving import ANSWER, LENGTH, Server, answer, greeting, listen, pack, unpack
from .store import Store

__all__ = ["TCPStore"]

_log = logging.getLogger("gloompi")

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 30.0
_RETRY_SECONDS, _INSTANT_SECONDS = 0.05, 1e-3
# A process that is stopped must not keep the one that serves for ever.
_LINGER_SECONDS, _FAILURE_SECONDS = 30.0, 1.0


@public
class TCPStore(Store):
    """A store that one process keeps in memory and serves to the others.

    Parameters
    ----------
    host : str
        Name or address of the host that serves, the same for all; an IPv6 address with or without brackets.
    port : int or sequence of int
        Ports to try in this order: the first that is free is served, the first that answers is used.
    serve : bool
        Whether this process serves; then `close` waits until the others have closed theirs, 30 s at most.
    clients : int, optional
        For the process that serves: stop listening when so many others are connected.  Default: go on until `close`.
    rank : int, optional
        Of a process that does not serve: counts as one client however often it connects.
    timeout : float, optional
        Default budget for waiting, and for reaching the process that serves; seconds.

    Raises
    ------
    RendezvousError
        Nobody serves there within the budget, or `host` cannot be resolved.
    OSError
        All ports are taken.

    Notes
    -----
    Serving takes a thread, until `close`.  Nothing is authenticated: whoever can reach the port can read and write.  The
    records of a rendezvous with a secret are safe nevertheless.
    """

    def __init__(
        self,
        host: str,
        port: int | Sequence[int],
        *,
        serve: bool = False,
        clients: int | None = None,
        rank: int | None = None,
        timeout: float | None = Store.timeout,
    ) -> None:
        self.timeout = check_timeout(timeout)
        self._host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        self._ports = [port] if isinstance(port, int) else list(port)
        if not self._ports or not all(0 < each < 65536 for each in self._ports):
            raise ValueError(f"port must be one or several of 1-65535, not {port!r}")
        self._greeting = greeting(self._ports[0])
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._sock: BoundedSocket | None = None
        if serve:
            self._items = HashStore()
            try:
                listeners = listen(self._host, self._ports)
            except (socket.gaierror, UnicodeError) as exc:
                raise self._unresolved(exc) from exc
            self._server = Server(self._items, listeners, self._ports[0], clients)
        else:
            self._sock = self._connect(Deadline(self.timeout))
            self._ask(b"join", (token_hex(8) if rank is None else str(rank)).encode())

    def __repr__(self) -> str:
        ports = ", ".join(map(str, self._ports))
        return f"TCPStore({self._host!r}, {ports if len(self._ports) == 1 else f'[{ports}]'})"

    def _connect(self, deadline: Deadline) -> BoundedSocket:
        failure: OSError | None = None
        warned = False
        while True:
            for port in self._ports:
                try:
                    return self._greet(port, deadline)
                except UnicodeError as exc:
                    raise self._unresolved(exc) from exc
                except OSError as exc:
                    failure = exc
            if isinstance(failure, socket.gaierror):
                error = self._unresolved(failure)
                if deadline.expired():
                    raise error from failure
                if not warned:  # it may become known in time, or be misspelt
                    _log.warning("%s; trying on", error.reason)
                    warned = True
            elif deadline.expired():
                raise RendezvousError(
                    f"nobody serves {self!r}: {failure} after {deadline.timeout or 0:.1f} s; the rank that serves is late, "
                    f"has died or is behind a firewall, or host and port are wrong"
                ) from failure
            sleep(_RETRY_SECONDS)

    def _unresolved(self, why: socket.gaierror | UnicodeError) -> RendezvousError:
        text = why.strerror if isinstance(why, OSError) else "it is no name of a host"
        return RendezvousError(
            f"{self!r} cannot be found: {socket.gethostname()} cannot resolve {self._host!r} ({text}); check its spelling "
            f"(getent hosts {self._host}), or give an IP address"
        )

    def _greet(self, port: int, deadline: Deadline) -> BoundedSocket:
        with request(deadline.before(_CONNECT_SECONDS).timeout or _INSTANT_SECONDS):
            sock = BoundedSocket(connect(self._host, port, _CONNECT_SECONDS))
            try:
                if sock.getsockname() == sock.getpeername():
                    # The kernel has drawn this very port for a client of its own, and TCP lets both ends open at once.
                    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
                sock.settimeout(None)  # the request has its time
                sock.sendall(self._greeting)
                if sock.receive(len(self._greeting)) != self._greeting:
                    raise ConnectionError(f"what answers on port {port} is not the store")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except BaseException:
                sock.close()
                raise
            return sock

    def _ask(self, *parts: bytes | None) -> list[bytes | None]:
        if self._server is not None:
            status, *result = answer(self._items, list(parts))
        else:
            if not self._lock.acquire(timeout=budget(_ANSWER_SECONDS).remaining() or 0.0):
                raise unreachable(self, "the rank that serves it", "another thread of this process waits for it")
            try:
                status, *result = self._ask_remote(parts)
            finally:
                self._lock.release()
        if status != ANSWER:
            raise ValueError((status or b"").decode())
        return result

    def _ask_remote(self, parts: Sequence[bytes | None]) -> list[bytes | None]:
        if self._sock is None:
            raise RendezvousError(f"{self!r} was closed")
        packed = pack(parts)
        if len(packed) > MAX_NBYTES:
            raise ValueError(f"a request of {len(packed)} bytes; a TCPStore takes up to {MAX_NBYTES}")
        try:
            with request(_ANSWER_SECONDS, MAX_NBYTES + LENGTH.size):
                self._sock.sendall(packed)
                (nbytes,) = LENGTH.unpack(self._sock.receive(LENGTH.size))
                if nbytes > MAX_NBYTES:
                    raise ConnectionError(f"it has announced an answer of {nbytes} bytes, and may give {MAX_NBYTES}")
                return _unpacked(self._sock.receive(nbytes))
        except BaseException as exc:
            # An answer that is late would be taken for that to the next request.
            self._sock.close()
            self._sock = None
            if isinstance(exc, OSError):
                raise unreachable(self, "the rank that serves it", exc) from exc
            raise

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        values = self._ask(b"read", *(key.encode() for key in keys))
        if len(values) != len(keys):
            raise unreachable(self, "the rank that serves it", f"it has given {len(values)} values for {len(keys)} keys")
        return values

    def _write(self, items: Mapping[str, bytes]) -> None:
        self._ask(b"write", *(part for key, value in items.items() for part in (key.encode(), value)))

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return self._ask(b"swap", key.encode(), old, new) == [b"1"]

    def _remove(self, keys: Sequence[str]) -> None:
        self._ask(b"remove", *(key.encode() for key in keys))

    def _add(self, key: str, n: int) -> int:
        return int(b"".join(each or b"" for each in self._ask(b"add", key.encode(), b"%d" % n)))

    def _append(self, key: str, value: bytes) -> None:
        self._ask(b"append", key.encode(), value)

    def close(self) -> None:
        """Disconnect; the process that serves waits until the others have, 30 s at most, and stops serving."""
        self._end(_LINGER_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        # After a failure there is little to wait for: just what the others are reading at this moment.
        self._end(_LINGER_SECONDS if kind is None else _FAILURE_SECONDS)

    def _end(self, linger: float) -> None:
        if self._server is not None:
            self._server.close(Deadline(self.timeout).before(linger))
        with self._lock, suppress(OSError):
            if self._sock is not None:
                self._sock.close()
                self._sock = None


def _unpacked(packed: bytes) -> list[bytes | None]:
    try:
        strings = unpack(packed)
    except ValueError as exc:
        raise ConnectionError(f"its answer is none: {exc}") from exc
    if not strings:
        raise ConnectionError("its answer is empty")
    return strings
