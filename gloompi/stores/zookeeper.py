"""A store in a ZooKeeper ensemble (package kazoo)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from .remote import extra, unreachable
from .store import Store

__all__ = ["ZooKeeperStore"]

_CONNECT_SECONDS = 10.0


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
    Connects at once; kazoo keeps threads until `close`.  ZooKeeper takes values of up to 1 MiB.
    """

    def __init__(self, hosts: str = "127.0.0.1:2181") -> None:
        with extra("zookeeper", "ZooKeeperStore"):
            from kazoo import exceptions
            from kazoo.client import KazooClient
            from kazoo.handlers.threading import KazooTimeoutError
        self._hosts = hosts
        self._exceptions = exceptions
        self._timeout_error = KazooTimeoutError
        self._client: Any = KazooClient(hosts, timeout=_CONNECT_SECONDS, logger=_quiet())
        try:
            self._client.start(_CONNECT_SECONDS)
            with self._asking():
                self._client.ensure_path("/gloompi")
        except KazooTimeoutError as exc:
            self.close()
            raise unreachable(self, "ZooKeeper", exc) from exc
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"ZooKeeperStore({self._hosts!r})"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around requests: what kazoo raises when the server has gone becomes a RendezvousError."""
        try:
            yield
        except (
            self._exceptions.ConnectionLossException,
            self._exceptions.SessionExpiredError,
            self._exceptions.ConnectionClosedError,
            self._exceptions.OperationTimeoutException,
            self._timeout_error,
        ) as exc:
            raise unreachable(self, "ZooKeeper", exc) from exc

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._asking():
            # All are on their way before the first answer is waited for: one round trip.
            asked = [self._client.get_async(_path(key)) for key in keys]
            return [self._value_of(each) for each in asked]

    def _value_of(self, asked: Any) -> bytes | None:
        try:
            return bytes(asked.get(_CONNECT_SECONDS)[0])
        except self._exceptions.NoNodeError:
            return None

    def _write(self, items: Mapping[str, bytes]) -> None:
        with self._asking():
            asked = [(key, value, self._client.set_async(_path(key), value)) for key, value in items.items()]
            for key, value, answer in asked:
                try:
                    answer.get(_CONNECT_SECONDS)
                except self._exceptions.NoNodeError:
                    self._create(key, value)

    def _create(self, key: str, value: bytes) -> None:
        try:
            self._client.create(_path(key), value)
        except self._exceptions.NodeExistsError:
            self._client.set(_path(key), value)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        with self._asking():
            try:
                if old is None:
                    self._client.create(_path(key), new)
                    return True
                value, state = self._client.get(_path(key))
                if value != old:
                    return False
                self._client.set(_path(key), new, version=state.version)
            except (self._exceptions.NoNodeError, self._exceptions.NodeExistsError, self._exceptions.BadVersionError):
                return False
            return True

    def _remove(self, keys: Sequence[str]) -> None:
        with self._asking():
            asked = [self._client.delete_async(_path(key)) for key in keys]
            for each in asked:
                with suppress(self._exceptions.NoNodeError):
                    each.get(_CONNECT_SECONDS)

    def close(self) -> None:
        self._client.stop()
        self._client.close()


def _path(key: str) -> str:
    # A slash would make a node within a node, which has to be there first; "." and ".." are no names.
    return "/gloompi/key=" + quote(key, safe="")


def _quiet() -> logging.Logger:
    """kazoo reports every attempt to connect; what matters is in our errors."""
    log = logging.getLogger("gloompi.kazoo")
    log.setLevel(logging.CRITICAL)
    return log
