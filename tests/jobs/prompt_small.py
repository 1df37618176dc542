"""Small collectives and messages between processes, with ranks that are late; how many were taken where they came."""

import os
import random

import numpy as np
from report import report

from gloompi import Context
from gloompi.transport.pair import Pair

taken = 0
expect = Pair.expect


def counting(pair, header, nbytes, waits):
    global taken
    payload = expect(pair, header, nbytes, waits)
    taken += payload is not None
    return payload


Pair.expect = counting
ctx = Context.from_mpi(timeout=30, connect_timeout=30)
rank, size = ctx.rank, ctx.size
own = random.Random(rank)
wrong = []


def compare(name, found, wanted):
    if not np.array_equal(found, wanted):
        wrong.append(name)


for turn in range(1500):
    for _ in range(own.choice((0, 0, 0, 3, 30))):
        os.sched_yield()
    count = (1, 0, 2, 100, 2000)[turn % 5]
    x = np.arange(count) + 1000 * rank + turn
    every = np.array([np.arange(count) + 1000 * other + turn for other in range(size)])
    root = turn % size
    ctx.barrier()
    compare(f"allreduce {turn}", ctx.allreduce(x), every.sum(0))
    compare(f"broadcast {turn}", ctx.broadcast(x.copy(), root=root), every[root])
    found = ctx.reduce(x, root=root)
    if rank == root:
        compare(f"reduce {turn}", found, every.sum(0))
    after, before = (rank + 1) % size, (rank - 1) % size
    for tag in range(3):
        ctx.send(x + tag, after, tag=tag)
    for tag in (0, 2, 1):
        out = np.full(count, -1)
        ctx.recv(out, before, tag=tag)
        compare(f"recv {turn}", out, every[before] + tag)
ctx.close()
report(rank, wrong=wrong, taken=taken)
