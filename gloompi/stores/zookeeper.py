"""A store in a ZooKeeper ensemble (package kazoo)."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from urllib.parse import quote

from ..deadline import Deadline
from ..signatures import public
from ..store_url import parse_url
from .bounded import MAX_NBYTES, BoundedSocket, budget, connect, request
from .remote import USERS, extra, refused, unreachable
from .store import Store

__all__ = ["ZooKeeperStore"]

_ROOT = "/gloompi"
# For one answer of a server, and for reaching one of its addresses.
_SECONDS = 10.0
# A server drops the connection of whoever sends more than its jute.maxbuffer, 1 MiB with everything around the value.
_MAX_NBYTES = 1_000_000
_MAX_PACKET = 2 * 1024**2
# For the goodbye; between two looks at a connection that is being made; no time at all, which sockets cannot have.
_PARTING_SECONDS, _GLANCE_SECONDS, _INSTANT_SECONDS = 2.0, 0.05, 1e-3


@public
class ZooKeeperStore(Store):
    """A store in a ZooKeeper ensemble; each key is a node below ``/gloompi``, or a user's own such node.

    Parameters
    ----------
    hosts : str
        ``"[user:password@]host:port"``, or several with commas between them, and a path that is there already.

    Raises
    ------
    ImportError
        The package kazoo is missing: ``pip install 'gloompi[zookeeper]'``.
    RendezvousError
        No server answers within 10 s, or the path is not there.
    ValueError
        `hosts` has no meaning.

    Notes
    -----
    Connects at once; kazoo keeps threads until `close`.  A server has 10 s for an answer, of 16 MiB at most; values have up
    to 1,000,000 bytes.  A server takes 60 connections from one host unless its ``maxClientCnxns`` says otherwise.

    A user is authenticated by ZooKeeper's digest scheme, and nobody else can read or write his nodes; without one, everybody
    can.  There is no TLS: who reads the network reads the password too.
    """

    _exposed = USERS

    def __init__(self, hosts: str = "127.0.0.1:2181") -> None:
        with extra("zookeeper", "ZooKeeperStore"):
            from kazoo import exceptions
            from kazoo.client import KazooClient
            from kazoo.handlers.threading import KazooTimeoutError
            from kazoo.security import make_digest_acl
        try:
            parts = parse_url(f"zookeeper://{hosts}")
        except ValueError as exc:
            raise ValueError(f"hosts must be host:port, or several with commas between them: {exc}") from None
        if not parts.hosts or parts.options:
            raise ValueError(f"hosts must be host:port, or several with commas, not {parts.netloc + parts.path!r}")
        credentials: dict[str, Any] = {}
        self._root = _ROOT
        if parts.user is not None:
            if not parts.user or not parts.password or ":" in parts.user:
                raise ValueError(f"a user of ZooKeeper has a name without a colon, and a password: {parts.netloc!r}")
            if not (parts.user + parts.password).isprintable():  # nor would an error of kazoo's keep the password to itself
                raise ValueError("name and password of a user of ZooKeeper are characters that can be printed")
            acl = [make_digest_acl(parts.user, parts.password, all=True)]
            credentials = {"auth_data": [("digest", f"{parts.user}:{parts.password}")], "default_acl": acl}
            self._root = f"{_ROOT}-{quote(parts.user, safe='')}"
        self._hosts = parts.netloc + parts.path
        self._errors = exceptions
        self._late = KazooTimeoutError
        self._handler = _handler()
        # Whoever has lost its connection has lost its place in the rendezvous: kazoo would try again for ever.
        self._client: Any = KazooClient(
            self._hosts,
            timeout=_SECONDS,
            handler=self._handler,
            logger=_quiet(),
            connection_retry={"max_tries": 1},
            **credentials,
        )
        try:
            with self._asking() as deadline:
                _check_reachable(self._client.hosts)
                self._start(deadline)
                with suppress(exceptions.NodeExistsError):
                    self._client.create_async(self._root).get(timeout=deadline.remaining())
                if credentials:
                    # Whoever may delete in a node may put nodes of his own in the place of those in it.
                    found, _ = self._client.get_acls_async(self._root).get(timeout=deadline.remaining())
                    if found != credentials["default_acl"]:
                        raise refused(self, f"others have rights to the node {self._root}, which somebody else has made")
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"ZooKeeperStore({self._hosts!r})"

    @contextmanager
    def _asking(self) -> Iterator[Deadline]:
        """Around requests: what kazoo raises when the server has gone becomes a RendezvousError."""
        errors = self._errors
        gone = (
            errors.ConnectionLoss,
            errors.ConnectionClosedError,
            errors.SessionExpiredError,
            errors.OperationTimeoutError,
            self._late,
            OSError,
        )
        try:
            with request(_SECONDS) as deadline:
                self._handler.begin(deadline)
                yield deadline
        except gone as exc:
            raise unreachable(self, "ZooKeeper", str(exc) or type(exc).__name__) from exc
        except errors.NoNodeError as exc:
            raise refused(self, "the path behind the hosts is not there") from exc
        except (errors.NoAuthError, errors.AuthFailedError) as exc:
            raise refused(self, f"this user has no right to {self._root} ({type(exc).__name__})") from exc

    def _start(self, deadline: Deadline) -> None:
        """As kazoo's own method, which waits without limit for the rest of an answer."""
        live = self._client.start_async()
        while not live.wait(deadline.before(_GLANCE_SECONDS).timeout):
            if self._handler.failure is not None:
                raise ConnectionError(f"what answers is not ZooKeeper ({self._handler.failure})")
            if deadline.expired():
                raise TimeoutError(f"no session within {deadline.timeout or 0:.1f} s")

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._asking() as deadline:
            # All are on their way before the first answer is waited for: one round trip.
            asked = [self._client.get_async(self._path(key)) for key in keys]
            return [self._value_of(each, deadline) for each in asked]

    def _value_of(self, asked: Any, deadline: Deadline) -> bytes | None:
        try:
            return bytes(asked.get(timeout=deadline.remaining())[0])
        except self._errors.NoNodeError:
            return None

    def _write(self, items: Mapping[str, bytes]) -> None:
        _check_sizes(items)
        with self._asking() as deadline:
            pending = dict(items)
            while pending:  # a second time for those that are not there yet, a third if another rank deletes them
                pending = self._refused("set", pending, self._errors.NoNodeError, deadline)
                pending = self._refused("create", pending, self._errors.NodeExistsError, deadline)

    def _refused(
        self, what: str, items: Mapping[str, bytes], refusal: type[Exception], deadline: Deadline
    ) -> dict[str, bytes]:
        """Set or create all keys at once; return those for which the server refused it."""
        method = getattr(self._client, f"{what}_async")
        asked = [(key, value, method(self._path(key), value)) for key, value in items.items()]
        refused = {}
        for key, value, answer in asked:
            try:
                answer.get(timeout=deadline.remaining())
            except refusal:
                refused[key] = value
        return refused

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        _check_sizes({key: new})
        errors = self._errors
        with self._asking() as deadline:
            try:
                if old is None:
                    self._client.create_async(self._path(key), new).get(timeout=deadline.remaining())
                    return True
                value, state = self._client.get_async(self._path(key)).get(timeout=deadline.remaining())
                if value != old:
                    return False
                # A key that is deleted and made again has its old version numbers: nobody here does that to a counter.
                self._client.set_async(self._path(key), new, version=state.version).get(timeout=deadline.remaining())
            except (errors.NoNodeError, errors.NodeExistsError, errors.BadVersionError):
                return False
            return True

    def _remove(self, keys: Sequence[str]) -> None:
        with self._asking() as deadline:
            asked = [self._client.delete_async(self._path(key)) for key in keys]
            for each in asked:
                with suppress(self._errors.NoNodeError):
                    each.get(timeout=deadline.remaining())

    def _path(self, key: str) -> str:
        # A slash would make a node within a node, which has to be there first; "." and ".." are no names.
        return f"{self._root}/key=" + quote(key, safe="")

    def close(self) -> None:
        # kazoo waits without limit for a server that has not said goodbye in full.
        timer = threading.Timer(budget(_PARTING_SECONDS).remaining() or 0.0, self._handler.hang_up)
        timer.start()
        try:
            self._client.stop()
        finally:
            timer.cancel()
            timer.join()
            self._client.close()


def _handler() -> Any:
    """The sockets and threads of kazoo, held to the deadline and the length of a request."""
    from kazoo.handlers.threading import SequentialThreadingHandler

    class Handler(SequentialThreadingHandler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failure: Exception | None = None
            self.nbytes = 0  # that the server may still send
            self._until = Deadline(0.0)
            self._sock: _Packets | None = None

        def begin(self, deadline: Deadline) -> None:
            self._until, self.nbytes = deadline, MAX_NBYTES

        def create_connection(self, *arguments: Any, **more: Any) -> _Packets:
            more["timeout"] = self._until.before(_SECONDS).remaining() or _INSTANT_SECONDS
            self._sock = _Packets(super().create_connection(*arguments, **more), self)
            return self._sock

        def spawn(self, call: Callable[[], None]) -> threading.Thread:
            def run() -> None:
                try:
                    call()
                except Exception as exc:  # on bytes that are no packet; the thread's end is what the others see
                    self.failure = exc

            thread: threading.Thread = super().spawn(run)
            return thread

        def hang_up(self) -> None:
            """End the wait of kazoo's thread for the server."""
            if self._sock is not None:
                with suppress(OSError):  # it has ended
                    self._sock.shutdown(socket.SHUT_RDWR)

    return Handler()


class _Packets(BoundedSocket):
    """A socket from which kazoo reads packets: it asks for as much as the server has announced."""

    def __init__(self, sock: socket.socket, handler: Any) -> None:
        super().__init__(sock)
        self._handler = handler

    def recv(self, nbytes: int, *flags: int) -> bytes:
        if nbytes > _MAX_PACKET:
            self._refuse(f"a packet of {nbytes} bytes; there are none of more than {_MAX_PACKET}")
        data = super().recv(nbytes, *flags)
        self._handler.nbytes -= len(data)
        if self._handler.nbytes < 0:
            self._refuse(f"answers of more than {MAX_NBYTES} bytes")
        return data

    def _refuse(self, why: str) -> NoReturn:
        self._handler.failure = ConnectionError(why)
        raise self._handler.failure


def _check_reachable(hosts: Sequence[tuple[str, int]]) -> None:
    """Raise the OSError of the last server if none of them can be reached; kazoo would spend its whole budget first."""
    for number, address in enumerate(hosts, 1):
        try:
            connect(*address, _SECONDS).close()
            return
        except OSError:
            if number == len(hosts):
                raise


def _check_sizes(items: Mapping[str, bytes]) -> None:
    for key, value in items.items():
        if len(value) > _MAX_NBYTES:
            raise ValueError(f"the value of {key!r} has {len(value)} bytes; ZooKeeper takes up to {_MAX_NBYTES}")


def _quiet() -> logging.Logger:
    """kazoo reports every attempt to connect; what matters is in our errors."""
    log = logging.getLogger("gloompi.kazoo")
    log.setLevel(logging.CRITICAL + 1)
    return log
