"""Stores by URL, for settings such as GLOOMPI_STORE."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from .address import StoreURL, parse_url, shown
from .file import FileStore
from .store import Store

__all__ = ["SCHEMES", "check_url", "open_store"]


class _Serving(NamedTuple):
    """What only a store needs that one of its users serves; as for `open_store`."""

    clients: int | None
    rank: int | None
    secret: bytes | str | None
    timeout: float | None


class _Scheme(NamedTuple):
    """What URLs of a scheme look like, and the store that they name.

    Attributes
    ----------
    form : str
        For people.
    fits : callable
        Whether the parts of a URL are as in the form.
    make : callable
        The store, of the URL, its parts and a `_Serving`.
    """

    form: str
    fits: Callable[[StoreURL], object]
    make: Callable[[str, StoreURL, _Serving], Store]


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


def _has_host(parts: StoreURL) -> bool:
    return bool(parts.host)


def _is_folder(parts: StoreURL) -> bool:
    return bool(parts.path) and not parts.hosts and parts.user is None and not parts.options


def _is_port(parts: StoreURL) -> bool:
    return parts.port is not None and parts.user is None and not parts.path.strip("/") and not parts.options


# Each store knows better what else its URLs may have.
SCHEMES = {
    "redis": _Scheme("redis://host:port/db", _has_host, _redis),
    "rediss": _Scheme("rediss://host:port/db", _has_host, _redis),
    "file": _Scheme("file:///folder", _is_folder, _file),
    "etcd": _Scheme("etcd://host:port", _has_host, _etcd),
    "etcds": _Scheme("etcds://host:port", _has_host, _etcd),
    "zookeeper": _Scheme("zookeeper://host:port", lambda parts: parts.hosts, _zookeeper),
    "tcp": _Scheme("tcp://host:port", _is_port, _tcp),
}
"""The kinds of URLs that there are."""


def check_url(url: str) -> StoreURL:
    """Return the parts of a URL that names a store; opens nothing.

    Raises
    ------
    ValueError
        The URL names no store.
    """
    forms = ", ".join(scheme.form for scheme in SCHEMES.values())
    try:
        parts = parse_url(url)
    except ValueError as exc:
        raise ValueError(f"{shown(url)!r} ({exc}) names no store; there are: {forms}") from None
    if parts.scheme not in SCHEMES or not SCHEMES[parts.scheme].fits(parts):
        raise ValueError(f"{shown(url)!r} names no store; there are: {forms}")
    return parts


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
    return SCHEMES[parts.scheme].make(url, parts, _Serving(clients, rank, secret, timeout))
