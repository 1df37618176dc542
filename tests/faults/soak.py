"""A million calls, ten thousand Contexts: memory, descriptors and threads stay as they are.

    python -m tests.faults.soak --calls 1000000 --cycles 10000

Both with 4 ranks, which are processes that find each other over a FileStore.  Every rank looks at itself ten times on its
way; what it prints is the largest of all ranks.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import psutil

from gloompi import Context, Device, FileStore, PrefixStore

__all__ = ["main"]

_RANKS = 4
_LOOKS = 10
# What counts as growth between the second look and the last: allocators round.
_GROWTH_NBYTES = 2 * 1024 * 1024


class Look(NamedTuple):
    """What a process has: descriptors, threads, bytes of memory that are its own."""

    descriptors: int
    threads: int
    nbytes: int


def _look() -> Look:
    gc.collect()
    me = psutil.Process()
    return Look(me.num_fds(), me.num_threads(), me.memory_full_info().uss)


def _calls(rank: int, folder: str, transport: str, number: int) -> list[Look]:
    looks = []
    device = Device(transport=transport)
    with Context.from_store(FileStore(folder), rank, _RANKS, device=device, timeout=60.0) as ctx:
        x, out = np.full(2, rank, "f4"), np.empty(2, "f4")
        for index in range(number):
            ctx.allreduce(x, out)
            if index % (number // _LOOKS) == 0:
                assert out[0] == sum(range(_RANKS))
                looks.append(_look())
    return [*looks, _look()._replace(descriptors=looks[-1].descriptors)]


def _cycles(rank: int, folder: str, transport: str, number: int) -> list[Look]:
    looks = []
    store = FileStore(folder)
    device = Device(transport=transport)
    for index in range(number):
        with Context.from_store(PrefixStore(f"{index}", store), rank, _RANKS, device=device, timeout=60.0) as ctx:
            total = ctx.allreduce(np.full(1, rank))
        assert total[0] == sum(range(_RANKS))
        if index % (number // _LOOKS) == 0:
            looks.append(_look())
    return [*looks, _look()]


def _soak(what: Callable[[int, str, str, int], list[Look]], transport: str, number: int) -> list[Look]:
    """Let `_RANKS` processes do it; return their looks, the largest of all ranks each time."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = []
        for rank in range(_RANKS):
            read, write = os.pipe()
            if os.fork() == 0:
                code = 1
                try:
                    os.close(read)
                    looks = what(rank, folder, transport, number)
                    os.write(write, json.dumps(looks).encode())
                    code = 0
                finally:
                    os._exit(code)
            os.close(write)
            pipes.append(read)
        texts = []
        for read in pipes:
            with open(read, "rb") as file:
                texts.append(file.read())
        codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in pipes]
    if any(codes):
        raise RuntimeError(f"the ranks' exit codes are {codes}")
    ranks = [[Look(*look) for look in json.loads(text)] for text in texts]
    return [Look(*map(max, zip(*looks, strict=True))) for looks in zip(*ranks, strict=True)]


def main(arguments: list[str] | None = None) -> int:
    """Soak; return 1 if anything has grown."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--transport", default="auto", choices=["auto", "tcp", "unix"])
    options = parser.parse_args(arguments)
    grown = False
    for name, what, number in (
        ("allreduces of 8 B", _calls, options.calls),
        ("Contexts made and closed", _cycles, options.cycles),
    ):
        began = time.monotonic()
        looks = _soak(what, options.transport, number)
        second, last = looks[1], looks[-1]
        seconds = time.monotonic() - began
        print(f"{number:,} {name}, {_RANKS} ranks, {seconds:.0f} s")
        for label, early, late in zip(("descriptors", "threads"), second, last, strict=False):
            print(f"  {label}: {early} early, {late} at the end")
        print(f"  memory: {second.nbytes / 2**20:.1f} MiB early, {last.nbytes / 2**20:.1f} MiB at the end", flush=True)
        grown |= last[:2] > second[:2] or last.nbytes > second.nbytes + _GROWTH_NBYTES
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
