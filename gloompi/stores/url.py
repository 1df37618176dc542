"""Stores by URL, for settings such as GLOOMPI_STORE."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from .file import FileStore
from .remote import without_password
from .store import Store

__all__ = ["open_store"]

_FORMS = (
    "redis://host:port/db, rediss://host:port/db, file:///folder, etcd://host:port, zookeeper://host:port, tcp://host:port"
)


def open_store(
    url: str, *, clients: int | None = None, rank: int | None = None, timeout: float | None = Store.timeout
) -> Store:
    """Open the store that a URL names.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS), ``file:///folder``, ``etcd://`` (``etcds://`` for TLS), ``zookeeper://`` or
        ``tcp://``.
    clients : int, optional
        For ``tcp://``: this process serves the store to so many others.
    rank, timeout
        For ``tcp://``: see `TCPStore`.

    Raises
    ------
    ValueError
        The URL names no store.
    ImportError
        The store's package is missing; the text names the extra.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port if parts.scheme != "zookeeper" else None
    except ValueError:
        raise ValueError(f"{without_password(url)!r} has no port that is a number") from None
    if parts.scheme in ("redis", "rediss"):
        from .redis import RedisStore

        return RedisStore(url)
    if parts.scheme in ("etcd", "etcds") and parts.netloc:
        from .etcd import EtcdStore

        return EtcdStore(f"{'https' if parts.scheme == 'etcds' else 'http'}://{parts.netloc}")
    if parts.scheme == "zookeeper" and parts.netloc:
        from .zookeeper import ZooKeeperStore

        return ZooKeeperStore(parts.netloc.rpartition("@")[2] + parts.path)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileStore(unquote(parts.path))
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        from .tcp import TCPStore  # brings asyncio

        return TCPStore(parts.hostname, parts.port, serve=clients is not None, clients=clients, rank=rank, timeout=timeout)
    raise ValueError(f"{without_password(url)!r} names no store; there are: {_FORMS}")
