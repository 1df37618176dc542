"""What every store has from its base class: waiting, and checks of arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from gloompi import (
    HashStore,
    OperationTimeoutError,
    PrefixStore,
    Store,
)

pytestmark = pytest.mark.usefixtures("nothing_leaks")


# -- waiting ------------------------------------------------------------------------------------------------------------


class Clock(HashStore):
    """A store that is looked at in a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer_seconds: float = 0.0) -> None:
        super().__init__()
        self.now, self.looks, self._answer_seconds = 1000.0, list[float](), answer_seconds
        for name in ("gloompi.stores.store.monotonic", "gloompi.deadline.monotonic"):
            monkeypatch.setattr(name, lambda: self.now)
        monkeypatch.setattr("gloompi.stores.store.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        self.looks.append(self.now - 1000.0)
        self.now += self._answer_seconds
        return super()._read(keys)

    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.looks)]


def test_waiting_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clock(monkeypatch)
    with pytest.raises(OperationTimeoutError) as caught:
        store.get("absent", 10.0)
    assert str(caught.value) == (
        "get timed out after 10.0 s: 1 of 1 keys not in Clock(): 'absent'; whoever sets them is late, has died, or uses "
        "another store or prefix"
    )
    *pauses, _ = store.pauses()
    assert store.looks[0] == 0.0
    assert store.looks[-1] == pytest.approx(10.0)
    assert min(pauses) > 0.999e-3  # 1000 looks a second at most, from the first two on
    assert all(shorter < longer + 1e-9 for shorter, longer in pairwise(pauses))
    assert sum(look < 1.0 for look in store.looks) < 50
    assert len(store.looks) < 250


def test_waiting_asks_a_slow_store_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clock(monkeypatch, answer_seconds=0.5)
    with pytest.raises(OperationTimeoutError):
        store.wait(["absent"], 10.0)
    assert store.pauses()[:-1] == [pytest.approx(1.0)] * 9
    assert store.now - 1000.0 == pytest.approx(10.0, abs=0.6)


def test_no_time_to_wait_is_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clock(monkeypatch)
    with pytest.raises(OperationTimeoutError, match=r"^get timed out after 0\.0 s: "):
        store.get("absent", 0.0)
    assert store.looks == [0.0]


def test_what_is_set_at_the_last_moment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clock(monkeypatch)

    def sleep_until_set(seconds: float) -> None:
        store.now += seconds
        if store.now >= 1003.0:
            store.set("late", b"value")

    monkeypatch.setattr("gloompi.stores.store.sleep", sleep_until_set)
    assert store.get("late", 3.0) == b"value"
    assert store.now == pytest.approx(1003.0)


def test_default_budget_is_the_stores_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clock(monkeypatch)
    store.timeout = 2.0
    with pytest.raises(
        OperationTimeoutError, match=r"^multi_get timed out after 2\.0 s: 1 of 1 keys not in PrefixStore\('p', "
    ):
        PrefixStore("p", store).multi_get(["absent"])
    with pytest.raises(ValueError, match=r"^timeout must be seconds >= 0 or None, not -1$"):
        store.get("absent", -1)


def test_timeout_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clock(monkeypatch)
    store.set("b", b"")
    with pytest.raises(OperationTimeoutError) as caught:
        store.wait(["a", "b", "c", "d", "c", "e", "f"], 1.0)
    assert str(caught.value).startswith(
        "wait timed out after 1.0 s: 5 of 6 keys not in Clock(): 'a', 'c', 'd' and 2 more; whoever sets them "
    )


# -- arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda store: store.set(b"key", b""), TypeError, "a key must be a str, not bytes"),
        (lambda store: store.get("", 0.0), ValueError, "a key must not be empty"),
        (lambda store: store.get("\udcc3", 0.0), ValueError, r"the key '\\udcc3' has surrogates, which are no characters"),
        (lambda store: store.set("key", "text"), TypeError, "a value must be bytes, not str"),
        (lambda store: store.append("key", 7), TypeError, "a value must be bytes, not int"),
        (lambda store: store.compare_set("key", "old", b""), TypeError, "a value must be bytes, not str"),
        (lambda store: store.multi_get("key"), TypeError, "keys must be a list of str, not the str 'key'"),
        (lambda store: store.delete("key"), TypeError, "keys must be a list of str, not the str 'key'"),
        (lambda store: store.multi_set({"key": b""}, [b""]), TypeError, "give a mapping, or keys and values, not "),
        (lambda store: store.add("key", True), TypeError, "n must be an int, not bool"),
        (lambda store: store.add("text", 1), ValueError, "the key 'text' holds b'abc', which is no number"),
    ],
)
def test_misuse(call: Callable[[Store], object], error: type[Exception], text: str) -> None:
    store = HashStore()
    store.set("text", b"abc")
    with pytest.raises(error, match=f"^{text}"):
        call(store)
    assert store._items == {"text": b"abc"}


@pytest.mark.parametrize("values", [[], [b"1"], [b"1", b"2", b"3"], None])
def test_not_as_many_values_as_keys(values: list[bytes] | None) -> None:
    store = HashStore()
    with pytest.raises(ValueError, match=r"^zip\(\) argument 2 is "):
        store.multi_set(["a", "b"], values)
    assert store._items == {}


def test_values_are_copied() -> None:
    store = HashStore()
    value = bytearray(b"before")
    store.set("array", value)  # type: ignore[arg-type]
    store.set("view", memoryview(value)[1:3])  # type: ignore[arg-type]
    value[:] = b"after!"
    assert store.multi_get(["array", "view"], 0.0) == [b"before", b"ef"]


@pytest.mark.parametrize(("one", "other"), [("\udcc3\udca9", "é"), ("a/b", "a"), ("a%2Fb", "a/b"), ("\udce9", "é")])
def test_different_prefixes_share_no_key(one: str, other: str) -> None:
    store = HashStore()
    PrefixStore(one, store).set("key", b"one")
    assert PrefixStore(other, store).peek(["key"]) == [None]
