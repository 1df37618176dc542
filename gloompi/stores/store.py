"""The Store: what every key-value store can do, built on four hooks that a subclass gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import TypeVar

from ..deadline import Deadline, check_timeout
from ..errors import OperationTimeoutError
from ..signatures import public
from .bounded import budget, within

__all__ = ["Store", "looks", "number"]

Self = TypeVar("Self", bound="Store")

# Pauses between looks at a store: never more than 1000 looks a second, and not many when the wait is long.
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 1e-3, 0.05, 1.5


def looks(deadline: Deadline) -> Iterator[None]:
    """Yield for every look that a waiting rank takes: at once, then with growing pauses, and once more at the deadline.

    A store that is slow to answer is asked less often: no pause is shorter than the look before it took.
    """
    pause = _FIRST_PAUSE
    while True:
        began = monotonic()
        yield
        if deadline.expired():
            return
        sleep(deadline.before(max(pause, monotonic() - began)).timeout or 0.0)
        pause = min(_GROWTH * pause, _LONGEST_PAUSE)


@public
class Store(ABC):
    """A key-value store that several processes see: keys are str, values are bytes.

    A subclass gives four methods, each one round trip if it can: ``_read(keys)`` returns what is there now, None for a key
    that is not; ``_write(items)`` sets keys; ``_swap(key, old, new)`` sets a key if it has the value `old` (None: if it is
    not there) and says whether it did, atomically; ``_remove(keys)`` deletes those that are there.  Where the store can add
    or append by itself, it may also override ``_add`` and ``_append``, and ``close`` if it holds a connection.
    `gloompi.testing.check_store` tests a store.

    Attributes
    ----------
    timeout : float or None
        Default budget for waiting, seconds; None is no limit.
    """

    timeout: float | None = 300.0
    # For people: who can read and write this store beside the ranks, where that is not for the file system to decide.
    _exposed = ""
    # And how they could be kept out by a secret of its own, if it takes one and has none.
    _unguarded = ""

    @abstractmethod
    def _read(self, keys: Sequence[str]) -> list[bytes | None]: ...

    @abstractmethod
    def _write(self, items: Mapping[str, bytes]) -> None: ...

    @abstractmethod
    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool: ...

    @abstractmethod
    def _remove(self, keys: Sequence[str]) -> None: ...

    def _add(self, key: str, n: int) -> int:
        return int(self._change(key, lambda old: b"%d" % (number(key, old) + n), "add"))

    def _append(self, key: str, value: bytes) -> None:
        self._change(key, lambda old: (old or b"") + value, "append")

    def _change(self, key: str, change: Callable[[bytes | None], bytes], operation: str) -> bytes:
        """Replace a value by what `change` makes of it; return the new one."""
        deadline = budget(self.timeout)
        while not deadline.expired():  # somebody else got through each time it goes round
            old = self._read([key])[0]
            new = change(old)
            if self._swap(key, old, new):
                return new
        raise OperationTimeoutError(operation, deadline.timeout or 0.0, f"others kept changing {key!r} in {self!r}")

    def _met(self) -> None:  # noqa: B027 - a server goes on
        """Take note that all ranks which were to come are there: nobody else needs to find this store."""

    # -- for users ------------------------------------------------------------------------------------------------------

    def set(self, key: str, value: bytes) -> None:
        """Set a key, whatever it was."""
        self._write({_key(key): _value(value)})

    def multi_set(self, keys: Sequence[str] | Mapping[str, bytes], values: Sequence[bytes] | None = None) -> None:
        """Set many keys in one round trip.

        Parameters
        ----------
        keys : sequence of str, or mapping
            A mapping has the values too.
        values : sequence of bytes, optional
            One for each key.

        Raises
        ------
        ValueError
            There are not as many values as keys.
        """
        if isinstance(keys, Mapping):
            if values is not None:
                raise TypeError("give a mapping, or keys and values, not a mapping and values")
            items = list(keys.items())
        else:
            items = list(zip(_keys(keys), values or (), strict=True))
        self._write({_key(key): _value(value) for key, value in items})

    def get(self, key: str, timeout: float | None = None) -> bytes:
        """Return the value of a key; wait until it is there.

        Parameters
        ----------
        key : str
        timeout : float, optional
            Seconds.  Default: the store's `timeout`.

        Raises
        ------
        OperationTimeoutError
            Nobody set it within the budget.
        """
        return self._wait([_key(key)], timeout, "get")[0]

    def multi_get(self, keys: Sequence[str], timeout: float | None = None) -> list[bytes]:
        """Return the values of many keys, one round trip a look; wait until all are there.  See `get`."""
        return self._wait([_key(key) for key in _keys(keys)], timeout, "multi_get")

    def wait(self, keys: Sequence[str], timeout: float | None = None) -> None:
        """Wait until all keys are there.  See `get`."""
        self._wait([_key(key) for key in _keys(keys)], timeout, "wait")

    def peek(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what is there now, None for each key that is not, in one round trip."""
        return self._read([_key(key) for key in _keys(keys)])

    def add(self, key: str, n: int) -> int:
        """Add to a counter, atomically, and return its new value.

        The counter is a decimal number; a key that is not there counts as 0.

        Raises
        ------
        ValueError
            The key's value is no number.
        """
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n must be an int, not {type(n).__name__}")
        return self._add(_key(key), n)

    def append(self, key: str, value: bytes) -> None:
        """Append to a value, atomically; a key that is not there counts as empty."""
        self._append(_key(key), _value(value))

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bool:
        """Set a key to `desired` if its value is `expected` (None: if it is not there), atomically; say whether it was."""
        return self._swap(_key(key), None if expected is None else _value(expected), _value(desired))

    def delete(self, keys: Sequence[str]) -> None:
        """Delete those keys that are there."""
        self._remove([_key(key) for key in _keys(keys)])

    def close(self) -> None:  # noqa: B027 - there may be nothing to close
        """Give up the connection, if the store has one."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _wait(self, keys: list[str], timeout: float | None, operation: str) -> list[bytes]:
        deadline = Deadline(self.timeout if timeout is None else check_timeout(timeout))
        found: dict[str, bytes] = {}
        missing = list(dict.fromkeys(keys))
        for _ in looks(deadline):
            with within(deadline):
                values = zip(missing, self._read(missing), strict=True)
            found.update((key, value) for key, value in values if value is not None)
            missing = [key for key in missing if key not in found]
            if not missing:
                return [found[key] for key in keys]
        shown = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise OperationTimeoutError(
            operation,
            deadline.timeout or 0.0,
            f"{len(missing)} of {len(set(keys))} keys not in {self!r}: {shown}; whoever sets them is late, has died, or "
            f"uses another store or prefix",
        )


def number(key: str, value: bytes | None) -> int:
    """The number that a counter's value stands for."""
    try:
        return int(value or b"0")
    except ValueError:
        raise ValueError(f"the key {key!r} holds {(value or b'')[:40]!r}, which is no number") from None


def _key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {type(key).__name__}")
    if not key:
        raise ValueError("a key must not be empty")
    if not key.isascii() and any("\ud800" <= each <= "\udfff" for each in key):
        raise ValueError(f"the key {key!r} has surrogates, which are no characters")
    return key


def _keys(keys: Sequence[str]) -> Sequence[str]:
    if isinstance(keys, str):  # a sequence of one-letter keys otherwise
        raise TypeError(f"keys must be a list of str, not the str {keys!r}")
    return keys


def _value(value: bytes) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"a value must be bytes, not {type(value).__name__}")
    return bytes(value)
