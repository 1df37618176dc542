"""One rank of a job that meets over a store: `meet.py URL PREFIX RANK SIZE [HALT]`.

With HALT the rank stops, and says so, before it first writes a key that has this text in it: to be killed there.
"""

import signal
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from report import facts_of, report

from gloompi import Context, PrefixStore, Store
from gloompi.stores.url import open_store

url, prefix, rank, size, halt = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), "".join(sys.argv[5:])


class Halting(Store):
    def __init__(self, store: Store) -> None:
        self._store = store

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._store._read(keys)

    def _write(self, items: Mapping[str, bytes]) -> None:
        if any(halt in key for key in items):
            report(rank, halted=halt)
            signal.pause()
        self._store._write(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return self._store._swap(key, old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        self._store._remove(keys)


serving = url.startswith("tcp:") and rank == 0
with open_store(url, clients=size - 1 if serving else None) as store:
    shared = PrefixStore(prefix, Halting(store) if halt else store)
    try:
        with Context.from_store(shared, rank, size, connect_timeout=20.0) as ctx:
            total = ctx.allreduce(np.full(1000, 10.0**ctx.rank))
            report(rank, total=float(total[0]), pids=[peer.pid for peer in ctx.peers])
    except Exception as exc:
        report(rank, **facts_of(exc))
