"""Stores by URL, for settings such as GLOOMPI_STORE."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from ..store_url import StoreURL, check_url
from .file import FileStore
from .store import Store

__all__ = ["open_store"]


class _Serving(NamedTuple):
    """What only a store needs that one of its users serves; as for `open_store`."""

    clients: int | None
    rank: int | None
    secret: bytes | str | None
    timeout: float | None


def _redis(url: str, parts: StoreURL, serving: _Serving) -> Store:
    from .redis import RedisStore

    return RedisStore(url)


def _etcd(url: str, parts: StoreURL, serving: _Serving) -> Store:
    from .etcd import EtcdStore

    return EtcdStore(f"{'https' if parts.scheme == 'etcds' else 'http'}://{url.partition('://')[2]}")


def _zookeeper(url: str, parts: StoreURL, serving: _Serving) -> Store:
    from .zookeeper import ZooKeeperStore

    return ZooKeeperStore(url.partition("://")[2])


def _file(url: str, parts: StoreURL, serving: _Serving) -> Store:
    return FileStore(unquote(parts.path))


def _tcp(url: str, parts: StoreURL, serving: _Serving) -> Store:
    from .tcp import TCPStore

    assert parts.port is not None
    return TCPStore(parts.host, parts.port, serve=serving.clients is not None, **serving._asdict())


_MAKERS: dict[str, Callable[[str, StoreURL, _Serving], Store]] = {
    "redis": _redis,
    "rediss": _redis,
    "file": _file,
    "etcd": _etcd,
    "etcds": _etcd,
    "zookeeper": _zookeeper,
    "tcp": _tcp,
}


def open_store(
    url: str,
    *,
    clients: int | None = None,
    rank: int | None = None,
    secret: bytes | str | None = None,
    timeout: float | None = Store.timeout,
) -> Store:
    """Open the store that a URL names.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS), ``file:///folder``, ``etcd://`` (``etcds://`` for TLS), ``zookeeper://`` or
        ``tcp://``.
    clients : int, optional
        For ``tcp://``: this process serves the store to so many others.
    rank, secret, timeout
        For ``tcp://``: see `TCPStore`.

    Raises
    ------
    ValueError
        The URL names no store.
    ImportError
        The store's package is missing; the text names the extra.
    """
    parts = check_url(url)
    return _MAKERS[parts.scheme](url, parts, _Serving(clients, rank, secret, timeout))
