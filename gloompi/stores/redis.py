"""A store in a Redis server (package redis)."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from ..errors import RendezvousError
from ..signatures import public
from ..store_url import StoreURL, parse_url, shown
from .bounded import BoundedSocket, connect, request
from .remote import USERS, extra, refused, unreachable
from .store import Store, number

__all__ = ["RedisStore"]

_DATABASE = re.compile(r"(?:/[0-9]*)?")
# Seconds for one answer of the server.
_ANSWER_SECONDS = 10.0
_NO_REDIS = "what answers is not Redis"


@public
class RedisStore(Store):
    """A store in a Redis server.

    Parameters
    ----------
    url : str
        ``"redis://[[user]:password@]host:port/db"``; ``rediss://`` for TLS, with options of redis-py behind a question mark,
        such as ``?ssl_ca_certs=/path/ca.pem``.

    Raises
    ------
    ImportError
        The package redis is missing: ``pip install 'gloompi[redis]'``.
    ValueError
        The URL has no meaning.

    Notes
    -----
    Connects at the first use.  A server that cannot be reached, or refuses the password, is a RendezvousError.  It has 10 s
    for an answer, of 16 MiB at most.  With ``rediss://`` its certificate has to be valid and for this host.
    """

    _exposed = USERS

    def __init__(self, url: str = "redis://127.0.0.1:6379/0") -> None:
        with extra("redis", "RedisStore"):
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

        self._shown = shown(url)
        self._errors = redis.RedisError
        self._watch_error = redis.WatchError
        self._response_error = redis.ResponseError
        self._denied = redis.AuthenticationError
        try:
            parts = parse_url(url)
        except ValueError as exc:
            raise ValueError(f"{self._shown!r} is no URL of a Redis server: {exc}") from None
        if parts.scheme not in ("redis", "rediss") or not parts.host or not _DATABASE.fullmatch(parts.path):
            raise ValueError(f"{self._shown!r} is no URL of a Redis server: redis://host:port/db or rediss://host:port/db")
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                connection_class=_connection_class(parts.scheme == "rediss"),
                socket_timeout=_ANSWER_SECONDS,
                socket_connect_timeout=_ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),  # redis-py's own has no deadline
                decode_responses=False,
                **_identity(parts),
            )
            self._client.connection_pool.make_connection()
        except (ValueError, TypeError) as exc:
            text = str(exc) if isinstance(exc, TypeError) else "port or option"
            raise ValueError(f"{self._shown!r} is no URL of a Redis server: {text}") from None

    def __repr__(self) -> str:
        return f"RedisStore({self._shown!r})"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with request(_ANSWER_SECONDS):
                yield
        except (self._response_error, self._denied) as exc:
            raise refused(self, exc) from exc
        except (self._errors, OSError) as exc:
            raise unreachable(self, "redis-server", exc) from exc
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as exc:  # bytes that are no answer
            raise unreachable(self, "redis-server", f"{_NO_REDIS} ({type(exc).__name__})") from exc

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        with self._asking():
            values = self._client.mget(keys)
        if not isinstance(values, list) or len(values) != len(keys) or not all(map(_is_value, values)):
            raise unreachable(self, "redis-server", _NO_REDIS)
        return values

    def _write(self, items: Mapping[str, bytes]) -> None:
        with self._asking():
            if items:
                self._client.mset(dict(items))

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        with self._asking(), self._client.pipeline() as pipeline:
            pipeline.watch(key)
            if pipeline.get(key) != old:
                return False
            pipeline.multi()
            pipeline.set(key, new)
            try:
                pipeline.execute()
            except self._watch_error:
                return False
            return True

    def _remove(self, keys: Sequence[str]) -> None:
        with self._asking():
            if keys:
                self._client.delete(*keys)

    def _add(self, key: str, n: int) -> int:
        try:
            with self._asking():
                return int(self._client.incrby(key, n))
        except RendezvousError as exc:
            if isinstance(exc.__cause__, self._response_error):
                number(key, self._read([key])[0])  # says so if it is no number
            raise

    def _append(self, key: str, value: bytes) -> None:
        with self._asking():
            self._client.append(key, value)

    def close(self) -> None:
        self._client.close()


def _identity(parts: StoreURL) -> dict[str, bool]:
    """The option that has the certificate be for this host, which is not redis-py's own choice before version 6."""
    unchecked = "none" in parse_qs(parts.options).get("ssl_cert_reqs", [])  # there is nothing to compare then
    return {"ssl_check_hostname": True} if parts.scheme == "rediss" and not unchecked else {}


def _is_value(value: object) -> bool:
    return value is None or isinstance(value, bytes)


class _Reaching:
    """Mixin below TLS: redis-py gives every address of a name its whole timeout."""

    host: str
    port: int
    socket_connect_timeout: float

    def _connect(self) -> socket.socket:
        sock = connect(self.host, int(self.port), self.socket_connect_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


class _Bounding:
    """Mixin above TLS: what is sent and received keeps to the request."""

    socket_timeout: float | None

    def _connect(self) -> BoundedSocket:
        sock = BoundedSocket(super()._connect())  # type: ignore[misc]
        sock.settimeout(self.socket_timeout)
        return sock


def _connection_class(tls: bool) -> type:
    import redis

    reaching = type("Reaching", (_Reaching, redis.Connection), {})
    return type("TLS", (_Bounding, redis.SSLConnection, reaching), {}) if tls else type("Plain", (_Bounding, reaching), {})
