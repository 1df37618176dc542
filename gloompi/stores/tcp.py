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
from time import monotonic, sleep
from types import TracebackType

from ..deadline import Deadline, check_timeout
from ..errors import RendezvousError
from ..signatures import public
from .bounded import MAX_NBYTES, BoundedSocket, budget, connect, request
from .greeting import SecretError, greet
from .remote import refused, unreachable
from .server import Server
from .serving import ANSWER, LENGTH, MAX_STRINGS, REFUSAL, ServedStore, answer, listen, pack, unpack
from .store import Store

__all__ = ["TCPStore"]

_log = logging.getLogger("gloompi")

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 30.0
# See `Store._exposed`.
_ANYBODY = "whoever can reach its port, or takes it before rank 0 does,"
# What has another secret may be left of an earlier job, for so long.
_DIFFERS_SECONDS = 5.0
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
        For the process that serves: so many others are expected.  With a secret, listening ends when they are connected;
        without, anybody could claim to be one of them, and it ends when the ranks of a Context have met, or with `close`.
    rank : int, optional
        Of a process that does not serve: counts as one client however often it connects.
    secret : bytes or str, optional
        The same for all: whoever does not have it gets nothing from the store, not even an answer.  Default: the content of
        the file that GLOOMPI_SECRET_FILE names; without one whoever can reach the port can read and write.
    timeout : float, optional
        Default budget for waiting, and for reaching the process that serves; seconds.

    Raises
    ------
    RendezvousError
        Nobody serves there within the budget, or `host` cannot be resolved.
    OSError
        All ports are taken.
    TypeError, ValueError
        `port` or `secret` has no meaning.

    Notes
    -----
    Serving takes a thread, until `close`.  Requests and answers have up to 16 MiB and 65,536 keys and values, the store up
    to 262,144 keys and 64 MiB; it serves `clients` + 64 connections, or 1024 if it does not know how many come.  Nothing is
    encrypted.
    """

    def __init__(
        self,
        host: str,
        port: int | Sequence[int],
        *,
        serve: bool = False,
        clients: int | None = None,
        rank: int | None = None,
        secret: bytes | str | None = None,
        timeout: float | None = Store.timeout,
    ) -> None:
        self.timeout = check_timeout(timeout)
        self._host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        self._ports = [port] if isinstance(port, int) else list(port)
        if not self._ports or not all(0 < each < 65536 for each in self._ports):
            raise ValueError(f"port must be one or several of 1-65535, not {port!r}")
        from ..secret import shared_secret

        self._secret = shared_secret(secret)
        self._exposed = "whoever is between two ranks" if self._secret else _ANYBODY
        self._unguarded = "" if self._secret else "TCPStore(secret=...), or GLOOMPI_SECRET_FILE"
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._sock: BoundedSocket | None = None
        if serve:
            self._items = ServedStore()
            try:
                listeners = listen(self._host, self._ports)
            except (socket.gaierror, UnicodeError) as exc:
                raise self._unresolved(exc) from exc
            self._server = Server(self._items, listeners, self._ports[0], clients, self._secret)
            self._server.start()
        else:
            self._sock = self._connect(Deadline(self.timeout))
            self._ask(b"join", (token_hex(8) if rank is None else str(rank)).encode())

    def __repr__(self) -> str:
        ports = ", ".join(map(str, self._ports))
        return f"TCPStore({self._host!r}, {ports if len(self._ports) == 1 else f'[{ports}]'})"

    def _connect(self, deadline: Deadline) -> BoundedSocket:
        warned = False
        differs: tuple[float, SecretError] | None = None  # since when, and how
        while True:
            failure: OSError | None = None
            for port in self._ports:
                try:
                    return self._greet(port, deadline)
                except UnicodeError as exc:
                    raise self._unresolved(exc) from exc
                except OSError as exc:
                    if not isinstance(failure, SecretError):  # which says most
                        failure = exc
            if isinstance(failure, socket.gaierror):
                error = self._unresolved(failure)
                if deadline.expired():
                    raise error from failure
                if not warned:  # it may become known in time, or be misspelt
                    _log.warning("%s; trying on", error.reason)
                    warned = True
                sleep(_RETRY_SECONDS)
                continue
            if isinstance(failure, SecretError):
                differs = differs or (monotonic(), failure)
            elif differs is not None and isinstance(failure, TimeoutError) and deadline.expired():
                failure = differs[1]  # the last try was cut short
            else:
                differs = None
            if differs is not None and monotonic() - differs[0] > _DIFFERS_SECONDS:
                raise RendezvousError(f"what serves {self!r} cannot be the rank of this job: {failure}") from failure
            if deadline.expired():
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
                greet(sock, self._ports[0], self._secret)
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
        if status == REFUSAL:
            raise refused(self, b"".join(each or b"" for each in result).decode(errors="replace"))
        if status != ANSWER:
            raise ValueError((status or b"").decode())
        return result

    def _ask_remote(self, parts: Sequence[bytes | None]) -> list[bytes | None]:
        if self._sock is None:
            raise RendezvousError(f"{self!r} was closed")
        if len(parts) > MAX_STRINGS:
            raise ValueError(f"a request of {len(parts)} keys and values; a TCPStore takes up to {MAX_STRINGS}")
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

    def _met(self) -> None:
        if self._server is not None:
            self._server.stop_listening()

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
