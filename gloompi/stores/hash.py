"""A store in the memory of one process, for ranks that are threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from ..signatures import public
from .store import Store

__all__ = ["HashStore"]


@public
class HashStore(Store):
    """A store in memory that the threads of one process share."""

    def __init__(self) -> None:
        self._items: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            return [self._items.get(key) for key in keys]

    def _write(self, items: Mapping[str, bytes]) -> None:
        with self._lock:
            self._items.update(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        with self._lock:
            if self._items.get(key) != old:
                return False
            self._items[key] = new
            return True

    def _remove(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._items.pop(key, None)
