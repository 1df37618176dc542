"""Processes that change a store's keys without end, each killed at some moment; what is found after each."""

import os
import random
import re
import signal
import sys
import time

from report import report

from gloompi import Store
from gloompi.stores.url import open_store

url, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

KEYS = ["value", "swapped", "fleeting"]


def value(n: int) -> bytes:
    return b"%d" % n * 20_000


def change(store: Store) -> None:
    while True:
        n = store.add("counter", 1)
        store.append("pieces", b"(%d)" % n)
        store.set("value", value(n))
        store.compare_set("swapped", store.peek(["swapped"])[0], value(n))
        store.delete(["fleeting"])
        store.set("fleeting", value(n))


moments = random.Random(seed)
counts = [0]
with open_store(url) as store:
    store.timeout = 20.0
    for number in range(kills):
        child = os.fork()
        if child == 0:
            change(store)
        time.sleep(moments.uniform(0.0, 0.02))  # no wait for anything: all moments are as good
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        # Everything is whole and the newest or the one before, nothing was done twice, and all can be changed.
        counter, pieces, *values = store.peek(["counter", "pieces", *KEYS])
        n = int(counter or b"0")
        assert n >= counts[-1], (number, counter)
        for key, each in zip(KEYS, values, strict=True):
            whole = [value(n), value(n - 1), *([None] if key == "fleeting" or not number else [])]
            assert each in whole, (number, n, key, each and each[:40])
        appended = [int(piece) for piece in re.findall(rb"\((\d+)\)", pieces or b"")]
        assert b"".join(b"(%d)" % piece for piece in sorted(set(appended))) == (pieces or b""), (number, pieces)
        counts.append(store.add("counter", 1))
        assert counts[-1] == n + 1
        store.append("pieces", b"(%d)" % counts[-1])
        for key in KEYS:
            store.set(key, value(counts[-1]))
    store.delete(["counter", "pieces", *KEYS])
report(0, counts=counts)
