"""Processes that add, append, set, delete and read the same keys of a store at once; each number is how often."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from report import report

from gloompi import OperationTimeoutError
from gloompi.stores.url import open_store

url, clients, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

# Long enough that no file system or server writes it in one go.
VALUES = [bytes([n]) * (100_000 + n) for n in range(clients)]


def add(n: int) -> list[int]:
    return [store.add("counter", 1) for _ in range(times)]


def append(n: int) -> None:
    for i in range(times):
        store.append("pieces", b"(%d.%d)" % (n, i))


def write(n: int) -> None:
    for _ in range(times):
        store.set("value", VALUES[n])


def come_and_go(n: int) -> None:
    for _ in range(times):
        store.set("fleeting", VALUES[n])
        store.delete(["fleeting"])


def read(n: int) -> int:
    """How often there was a value, from the first one on; it was always a whole one."""
    store.wait(["value"], 20.0)
    seen = 0
    for _ in range(times):
        for value in store.peek(["value", "fleeting"]):
            assert value is None or value in VALUES, (len(value), set(value))
            seen += value is not None
        with suppress(OperationTimeoutError):
            assert store.get("fleeting", 0.0) in VALUES
    return seen


def forked(number: int, work: Callable[[int], object], n: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            report(number, work=work.__name__, result=work(n))
            os._exit(0)
        except BaseException as exc:
            report(number, work=work.__name__, error=f"{type(exc).__name__}: {exc}")
            os._exit(1)
    return child


with open_store(url) as store:
    work = [(each, n) for each in (add, append, write, come_and_go, read) for n in range(clients)]
    children = [forked(number, each, n) for number, (each, n) in enumerate(work)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(codes))
