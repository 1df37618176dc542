"""A store in a Redis server (package redis)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..signatures import public
from .address import parse_url, shown
from .remote import extra, refused, unreachable
from .store import Store, number

__all__ = ["RedisStore"]

_DATABASE = re.compile(r"(?:/[0-9]*)?")
# Seconds for one answer of the server.
_ANSWER_SECONDS = 10.0


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
    Connects at the first use.  A server that cannot be reached, or refuses the password, is a RendezvousError.
    """

    def __init__(self, url: str = "redis://127.0.0.1:6379/0") -> None:
        with extra("redis", "RedisStore"):
            import redis

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
                url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS, decode_responses=False
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
            yield
        except (self._response_error, self._denied) as exc:
            raise refused(self, exc) from exc
        except self._errors as exc:
            raise unreachable(self, "redis-server", exc) from exc

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._asking():
            return list(self._client.mget(keys)) if keys else []

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
        with self._asking():
            try:
                return int(self._client.incrby(key, n))
            except self._response_error:
                number(key, self._client.get(key))  # says so if it is no number
                raise

    def _append(self, key: str, value: bytes) -> None:
        with self._asking():
            self._client.append(key, value)

    def close(self) -> None:
        self._client.close()
