"""A name space within another store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ..signatures import public
from .store import Store

__all__ = ["PrefixStore"]


@public
class PrefixStore(Store):
    """A view of `store` in which every key has a prefix, so that users with different prefixes do not meet.

    Parameters
    ----------
    prefix : str
        Such as a job id.  May be any text: ``PrefixStore("a/b", store)`` and ``PrefixStore("a", store)`` share no key.
    store : Store
        Stays open when this one is closed.
    """

    def __init__(self, prefix: str, store: Store) -> None:
        if not isinstance(prefix, str) or not prefix:
            raise ValueError(f"prefix must be a str that is not empty, not {prefix!r}")
        if not isinstance(store, Store):
            raise TypeError(f"store must be a gloompi.Store, not {type(store).__name__}")
        # The first slash ends the prefix: it must not have one itself.
        self._prefix = quote(prefix, safe="", errors="surrogatepass") + "/"
        self._shown = prefix
        self._store = store
        self._exposed = store._exposed
        self.timeout = store.timeout

    def __repr__(self) -> str:
        return f"PrefixStore({self._shown!r}, {self._store!r})"

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._store._read([self._prefix + key for key in keys])

    def _write(self, items: Mapping[str, bytes]) -> None:
        self._store._write({self._prefix + key: value for key, value in items.items()})

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return self._store._swap(self._prefix + key, old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        self._store._remove([self._prefix + key for key in keys])

    def _add(self, key: str, n: int) -> int:
        return self._store._add(self._prefix + key, n)

    def _met(self) -> None:
        self._store._met()

    def _append(self, key: str, value: bytes) -> None:
        self._store._append(self._prefix + key, value)
