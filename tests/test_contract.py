"""The contract of stores as a test: the faults that check_store finds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from time import sleep

import pytest

from gloompi import (
    HashStore,
    Store,
)
from gloompi.testing import check_store

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class LosesUpdates(HashStore):
    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        if self._read([key]) != [old]:
            return False
        sleep(0.001)  # lets the other threads in
        self._write({key: new})
        return True


class SwapsAlways(HashStore):
    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        self._write({key: new})
        return True


class TakesEmptyForAbsent(HashStore):
    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return super()._swap(key, old or None, new)


class AddsInTwoSteps(HashStore):
    def _add(self, key: str, n: int) -> int:
        total = int(self._read([key])[0] or b"0") + n
        sleep(0.001)
        self._write({key: b"%d" % total})
        return total


class ReturnsTheOldCount(HashStore):
    def _add(self, key: str, n: int) -> int:
        return super()._add(key, n) - n


class CountsInBinary(HashStore):
    def _add(self, key: str, n: int) -> int:
        old = self._read([key])[0]
        total = int.from_bytes(old or b"", "little", signed=True) + n
        self._write({key: total.to_bytes(8, "little", signed=True)})
        return total


class AppendsInTwoSteps(HashStore):
    def _append(self, key: str, value: bytes) -> None:
        whole = (self._read([key])[0] or b"") + value
        sleep(0.001)
        self._write({key: whole})


class DoesNotWait(HashStore):
    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [value or b"" for value in super()._read(keys)]


class LosesEmptyValues(HashStore):
    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [value or None for value in super()._read(keys)]


class SortsKeys(HashStore):
    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return super()._read(sorted(keys))


class EndsValuesAtZeros(HashStore):
    def _write(self, items: Mapping[str, bytes]) -> None:
        super()._write({key: value.split(b"\0")[0] for key, value in items.items()})


class ForgetsToDelete(HashStore):
    def _remove(self, keys: Sequence[str]) -> None:
        pass


class DeletesWhatIsThere(HashStore):
    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self._items[key]


class DeletesBelow(HashStore):
    def _remove(self, keys: Sequence[str]) -> None:
        super()._remove([each for each in self._items if each.startswith(tuple(keys))])


class Renames(HashStore):
    """Keys do not stay what they are."""

    def _name(self, key: str) -> str:
        raise NotImplementedError

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return super()._read([self._name(key) for key in keys])

    def _write(self, items: Mapping[str, bytes]) -> None:
        super()._write({self._name(key): value for key, value in items.items()})

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return super()._swap(self._name(key), old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        super()._remove([self._name(key) for key in keys])


class BlindToCase(Renames):
    def _name(self, key: str) -> str:
        return key.lower()


class CutsKeys(Renames):
    def _name(self, key: str) -> str:
        return key[:255]


class QuotesSlashes(Renames):
    def _name(self, key: str) -> str:
        return key.replace("/", "%2F")


class FlattensSlashes(Renames):
    def _name(self, key: str) -> str:
        return key.replace("/", "_")


class FlattensSlashesToDots(Renames):
    def _name(self, key: str) -> str:
        return key.replace("/", ".")


class ForgetsThePrefix(Renames):
    def _name(self, key: str) -> str:
        return key.rpartition("/")[2]


class NormalizesPaths(Renames):
    def _name(self, key: str) -> str:
        return os.path.normpath(key)


KEYS = "keys of all kinds, none mistaken for another: "


@pytest.mark.parametrize(
    ("faulty", "text"),
    [
        (LosesUpdates, "every add returns a number of its own: "),
        (SwapsAlways, "compare_set of a key that is not there with an empty value: expected False, not True"),
        (TakesEmptyForAbsent, "compare_set of a key that is not there with an empty value: expected False, not True"),
        (AddsInTwoSteps, "every add returns a number of its own: "),
        (ReturnsTheOldCount, r"add, in turn: expected \[5, -2, -2\], not \[0, 5, -2\]"),
        (CountsInBinary, "a counter's value is a decimal number: expected b'-2', not b"),
        (AppendsInTwoSteps, "append of several clients at once: "),
        (DoesNotWait, "peek: "),
        (LosesEmptyValues, "get after set of 0 bytes: "),
        (SortsKeys, "multi_get, in the order asked for: "),
        (EndsValuesAtZeros, "get after set of 8 bytes: "),
        (ForgetsToDelete, "peek after delete: "),
        (DeletesWhatIsThere, ".*(delete|KeyError)"),
        (DeletesBelow, r"delete of one key: expected \[b'a', None, b'a/b/c'\], not \[b'a', None, None\]"),
        (BlindToCase, KEYS),
        (CutsKeys, KEYS),
        (QuotesSlashes, KEYS),
        (FlattensSlashes, KEYS),
        (FlattensSlashesToDots, KEYS),
        (ForgetsThePrefix, KEYS),
        (NormalizesPaths, KEYS),
    ],
)
def test_check_store_finds(faulty: type[Store], text: str) -> None:
    with pytest.raises(AssertionError, match=f"^{text}"):
        check_store(faulty())


def test_check_store_finds_clients_that_do_not_see_each_other() -> None:
    with pytest.raises(AssertionError, match=r"^get after set of 0 bytes: "):
        check_store(HashStore)


def test_check_store_finds_clients_that_see_the_past() -> None:
    shared = HashStore()

    class Remembers(HashStore):
        def _write(self, items: Mapping[str, bytes]) -> None:
            self._items.update(items)
            shared._write(items)

        def _read(self, keys: Sequence[str]) -> list[bytes | None]:
            fresh = zip(keys, shared._read(keys), strict=True)
            return [self._items.setdefault(key, value) if value is not None else None for key, value in fresh]

    with pytest.raises(AssertionError, match=r"^get after set of 5 bytes: expected b'value', not b''"):
        check_store(Remembers)
