"""A store in a ZooKeeper ensemble (package kazoo)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from ..signatures import public
from .address import parse_url
from .remote import extra, unreachable
from .store import Store

__all__ = ["ZooKeeperStore"]

_ROOT = "/gloompi"
# For one answer of a server.
_SECONDS = 10.0
# A server drops the connection of whoever sends more than its jute.maxbuffer, 1 MiB with everything around the value.
_MAX_NBYTES = 1_000_000


@public
class ZooKeeperStore(Store):
    """A store in a ZooKeeper ensemble; each key is a node below ``/gloompi``.

    Parameters
    ----------
    hosts : str
        ``"host:port"``, or several with commas between them.

    Raises
    ------
    ImportError
        The package kazoo is missing: ``pip install 'gloompi[zookeeper]'``.
    RendezvousError
        No server answers within 10 s.

    Notes
    -----
    Connects at once; kazoo keeps threads until `close`.  Values have up to 1,000,000 bytes.  A server takes 60 connections
    from one host unless its ``maxClientCnxns`` says otherwise.
    """

    def __init__(self, hosts: str = "127.0.0.1:2181") -> None:
        with extra("zookeeper", "ZooKeeperStore"):
            from kazoo import exceptions
            from kazoo.client import KazooClient
            from kazoo.handlers.threading import KazooTimeoutError
        try:
            parts = parse_url(f"zookeeper://{hosts}")
        except ValueError as exc:
            raise ValueError(f"hosts must be host:port, or several with commas between them: {exc}") from None
        if not parts.hosts or parts.options:
            raise ValueError(f"hosts must be host:port, or several with commas, not {parts.netloc + parts.path!r}")
        self._hosts = parts.netloc + parts.path
        self._errors = exceptions
        self._late = KazooTimeoutError
        # Whoever has lost its connection has lost its place in the rendezvous: kazoo would try again for ever.
        self._client: Any = KazooClient(self._hosts, timeout=_SECONDS, logger=_quiet(), connection_retry={"max_tries": 1})
        try:
            _check_reachable(self._client.hosts)
            self._client.start(_SECONDS)
        except (OSError, KazooTimeoutError) as exc:
            self.close()
            raise unreachable(self, "ZooKeeper", exc) from exc
        try:
            with self._asking(), suppress(exceptions.NodeExistsError):
                self._client.create_async(_ROOT).get(timeout=_SECONDS)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"ZooKeeperStore({self._hosts!r})"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around requests: what kazoo raises when the server has gone becomes a RendezvousError."""
        errors = self._errors
        gone = (
            errors.ConnectionLoss,
            errors.ConnectionClosedError,
            errors.SessionExpiredError,
            errors.OperationTimeoutError,
            self._late,
        )
        try:
            yield
        except gone as exc:
            raise unreachable(self, "ZooKeeper", str(exc) or type(exc).__name__) from exc

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._asking():
            # All are on their way before the first answer is waited for: one round trip.
            asked = [self._client.get_async(_path(key)) for key in keys]
            return [self._value_of(each) for each in asked]

    def _value_of(self, asked: Any) -> bytes | None:
        try:
            return bytes(asked.get(timeout=_SECONDS)[0])
        except self._errors.NoNodeError:
            return None

    def _write(self, items: Mapping[str, bytes]) -> None:
        _check_sizes(items)
        with self._asking():
            pending = dict(items)
            while pending:  # a second time for those that are not there yet, a third if another rank deletes them
                pending = self._refused("set", pending, self._errors.NoNodeError)
                pending = self._refused("create", pending, self._errors.NodeExistsError)

    def _refused(self, request: str, items: Mapping[str, bytes], refusal: type[Exception]) -> dict[str, bytes]:
        """Set or create all keys at once; return those for which the server refused it."""
        method = getattr(self._client, f"{request}_async")
        asked = [(key, value, method(_path(key), value)) for key, value in items.items()]
        refused = {}
        for key, value, answer in asked:
            try:
                answer.get(timeout=_SECONDS)
            except refusal:
                refused[key] = value
        return refused

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        _check_sizes({key: new})
        errors = self._errors
        with self._asking():
            try:
                if old is None:
                    self._client.create_async(_path(key), new).get(timeout=_SECONDS)
                    return True
                value, state = self._client.get_async(_path(key)).get(timeout=_SECONDS)
                if value != old:
                    return False
                # A key that is deleted and made again has its old version numbers: nobody here does that to a counter.
                self._client.set_async(_path(key), new, version=state.version).get(timeout=_SECONDS)
            except (errors.NoNodeError, errors.NodeExistsError, errors.BadVersionError):
                return False
            return True

    def _remove(self, keys: Sequence[str]) -> None:
        with self._asking():
            asked = [self._client.delete_async(_path(key)) for key in keys]
            for each in asked:
                with suppress(self._errors.NoNodeError):
                    each.get(timeout=_SECONDS)

    def close(self) -> None:
        self._client.stop()
        self._client.close()


def _check_reachable(hosts: Sequence[tuple[str, int]]) -> None:
    """Raise the OSError of the last server if none of them can be reached; kazoo would spend its whole budget first."""
    for number, address in enumerate(hosts, 1):
        try:
            socket.create_connection(address, _SECONDS).close()
            return
        except OSError:
            if number == len(hosts):
                raise


def _check_sizes(items: Mapping[str, bytes]) -> None:
    for key, value in items.items():
        if len(value) > _MAX_NBYTES:
            raise ValueError(f"the value of {key!r} has {len(value)} bytes; ZooKeeper takes up to {_MAX_NBYTES}")


def _path(key: str) -> str:
    # A slash would make a node within a node, which has to be there first; "." and ".." are no names.
    return f"{_ROOT}/key=" + quote(key, safe="")


def _quiet() -> logging.Logger:
    """kazoo reports every attempt to connect; what matters is in our errors."""
    log = logging.getLogger("gloompi.kazoo")
    log.setLevel(logging.CRITICAL + 1)
    return log
