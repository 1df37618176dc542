"""The contract of stores as a test: what every Store must do, checked on a live one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from secrets import token_hex
from time import monotonic

import numpy as np

from .context import Context
from .errors import OperationTimeoutError
from .stores.prefix import PrefixStore
from .stores.store import Store

__all__ = ["check_store"]

_TIMEOUT = 30.0
_RANKS = 4
_SHARED = "contract of stores"
_CHANGES = 20  # by each of four clients at once


def check_store(make: Store | Callable[[], Store]) -> None:
    """Check that a store keeps the contract of `gloompi.Store`; for tests of this project's stores and of your own.

    Works under a random prefix, and leaves nothing there.

    Parameters
    ----------
    make : Store or callable
        The store, or a function that opens it once more: then several clients at the same time are checked too, each with
        a connection of its own.

    Raises
    ------
    AssertionError
        The store does something else; the text says what was expected.
    """
    try:
        _check(make)
    except AssertionError:
        raise
    except Exception as exc:
        raise AssertionError(f"the store raised {type(exc).__name__}: {exc}") from exc


def _check(make: Store | Callable[[], Store]) -> None:
    prefix = f"check {token_hex(8)}"

    @contextmanager
    def client() -> Iterator[Store]:
        if isinstance(make, Store):
            yield PrefixStore(prefix, make)
        else:
            with make() as store:
                yield PrefixStore(prefix, store)

    with client() as store, client() as other:
        _check_values(store, other)
        _check_keys(store, other)
        _check_waiting(store, other)
        _check_changes(store, other)
        _check_misuse(store)
    _check_concurrency(client)
    for _ in range(2):  # the second time on what the first has left
        _check_rendezvous(client)


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: expected {wanted!r:.200}, not {found!r:.200}")


def _check_values(store: Store, other: Store) -> None:
    values = [b"", b"value", b"\0\n\r\xff=%/ ", bytes(range(256)) * 400]
    for value in values:
        store.set("value", value)
        what = f"get after set of {len(value)} bytes"
        try:
            _expect(other.get("value", 1.0), value, what)
        except OperationTimeoutError as exc:
            raise AssertionError(f"{what}: {exc}") from exc
    keys = [f"many {number}" for number in range(200)]
    store.multi_set(keys, [key.encode() for key in keys])
    _expect(other.multi_get(keys[::-1], 5.0), [key.encode() for key in keys[::-1]], "multi_get, in the order asked for")
    _expect(other.multi_get([keys[0], keys[0]], 1.0), [keys[0].encode()] * 2, "multi_get of one key twice")
    _expect(other.peek([keys[1], "absent", keys[0]]), [keys[1].encode(), None, keys[0].encode()], "peek")
    _expect((other.multi_get([]), other.peek([])), ([], []), "multi_get and peek of no key")
    store.multi_set({keys[1]: b"from", keys[0]: b"a mapping"})
    _expect(other.multi_get(keys[:2], 1.0), [b"a mapping", b"from"], "multi_set with a mapping")
    store.multi_set([], [])
    store.delete([*keys, "value", "absent"])
    _expect(other.peek([*keys, "value"]), [None] * 201, "peek after delete")


def _check_keys(store: Store, other: Store) -> None:
    long = "long" * 100
    keys = [
        "a",
        "A",
        "a/b",
        "a_b",
        "a-b",
        "a:b",
        "a/b/c",
        "/a",
        "a/",
        "a b",
        "a%2Fb",
        "ä☃",
        ".",
        "..",
        "a.b",
        "*",
        "\\",
        long,
        long + "x",
        long + "y",
    ]
    store.multi_set(keys, [key.encode() for key in keys])
    _expect(other.peek(keys), [key.encode() for key in keys], "keys of all kinds, none mistaken for another")
    store.delete(["a/b"])
    _expect(other.peek(["a", "a/b", "a/b/c"]), [b"a", None, b"a/b/c"], "delete of one key")
    one, two = PrefixStore("x", store), PrefixStore("x/y", store)
    one.set("y/key", b"one")
    two.set("key", b"two")
    _expect(PrefixStore("x", other).get("y/key", 1.0), b"one", "a key under a prefix that begins another prefix")
    one.delete(["y/key"])
    two.delete(["key"])
    store.delete(keys)


def _check_waiting(store: Store, other: Store) -> None:
    began = monotonic()
    try:
        store.get("absent", 0.2)
    except OperationTimeoutError as exc:
        _expect("absent" in str(exc), True, f"a timeout names the key, not: {exc}")
    else:
        raise AssertionError("get of a key that is not there must raise OperationTimeoutError after its timeout")
    _expect(0.2 <= monotonic() - began < 5.0, True, "get with a timeout of 0.2 s waits for about so long")

    def set_late() -> None:
        other.set("late 1", b"1")
        other.multi_set(["late 2", "late 3"], [b"2", b"3"])

    setter = threading.Timer(0.1, set_late)
    setter.start()
    try:
        store.wait(["late 1", "late 2"], _TIMEOUT)
        _expect(
            store.multi_get(["late 3", "late 1"], _TIMEOUT), [b"3", b"1"], "multi_get of keys that were set while waiting"
        )
    finally:
        setter.join(_TIMEOUT)
    store.delete(["late 1", "late 2", "late 3"])


def _check_changes(store: Store, other: Store) -> None:
    _expect([store.add("counter", 5), other.add("counter", -7), store.add("counter", 0)], [5, -2, -2], "add, in turn")
    _expect(other.get("counter", 1.0), b"-2", "a counter's value is a decimal number")
    store.append("text", b"one\0")
    other.append("text", b"two")
    _expect(store.get("text", 1.0), b"one\0two", "append, first to a key that was not there")
    _expect(store.compare_set("new", b"", b"x"), False, "compare_set of a key that is not there with an empty value")
    _expect(store.compare_set("new", None, b"1"), True, "compare_set of a key that is not there with None")
    _expect(other.compare_set("new", None, b"2"), False, "compare_set with None of a key that is there")
    _expect(other.compare_set("new", b"2", b"3"), False, "compare_set with another value")
    _expect(other.compare_set("new", b"1", b"2"), True, "compare_set with the right value")
    _expect(store.get("new", 1.0), b"2", "get after compare_set")
    store.delete(["counter", "text", "new"])


def _check_misuse(store: Store) -> None:
    store.set("text", b"abc")
    for call, error in (
        (lambda: store.set("key", "text"), TypeError),  # type: ignore[arg-type]
        (lambda: store.set(b"key", b""), TypeError),  # type: ignore[arg-type]
        (lambda: store.set("", b""), ValueError),
        (lambda: store.multi_get("key"), TypeError),
        (lambda: store.multi_set(["a", "b"], [b""]), ValueError),
        (lambda: store.add("text", 1), ValueError),
        (lambda: store.add("counter", 1.5), TypeError),  # type: ignore[arg-type]
    ):
        try:
            call()
        except error:
            continue
        raise AssertionError(f"misuse must raise {error.__name__}")
    _expect(store.peek(["text", "key", "a", "b", "counter"]), [b"abc", None, None, None, None], "misuse changes nothing")
    store.delete(["text"])


def _check_concurrency(client: Callable[[], AbstractContextManager[Store]]) -> None:
    totals: list[int] = []

    def change(number: int) -> None:
        with client() as store:
            for _ in range(_CHANGES):
                totals.append(store.add("counter", 1))
                store.append("pieces", b"(%d)" % number)
                store.set("shared", b"%d" % number)

    _in_threads(change)
    with client() as store:
        _expect(sorted(totals), list(range(1, _RANKS * _CHANGES + 1)), "every add returns a number of its own")
        pieces = store.get("pieces", 1.0).decode()
        counts = [pieces.count(f"({number})") for number in range(_RANKS)]
        _expect((counts, len(pieces)), ([_CHANGES] * _RANKS, 3 * _RANKS * _CHANGES), "append of several clients at once")
        _expect(store.get("shared", 1.0) in [b"%d" % number for number in range(_RANKS)], True, "set of several clients")
        store.delete(["counter", "pieces", "shared"])


def _check_rendezvous(client: Callable[[], AbstractContextManager[Store]]) -> None:
    totals = [0.0] * _RANKS

    def meet(rank: int) -> None:
        with client() as store:
            with Context.from_store(store, rank, _RANKS, secret=_SHARED, timeout=_TIMEOUT, connect_timeout=_TIMEOUT) as ctx:
                totals[rank] = float(ctx.allreduce(np.float64(rank + 1)))

    _in_threads(meet)
    _expect(totals, [10.0] * _RANKS, "allreduce of 1 + 2 + 3 + 4 on ranks that met through the store")


def _in_threads(run: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            run(number)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(_RANKS)]
    for thread in threads:
        thread.start()
    deadline = monotonic() + 2 * _TIMEOUT
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    if failures:
        raise AssertionError(f"{type(failures[0]).__name__}: {failures[0]}") from failures[0]
    if any(thread.is_alive() for thread in threads):
        raise AssertionError(f"clients were still busy after {2 * _TIMEOUT:.0f} s")
