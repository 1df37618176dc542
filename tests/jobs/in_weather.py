"""Collectives and messages over a network that is bad: ``FOLDER RANK SIZE INTERFACE TURNS``."""

import os
import sys

import numpy as np
from aftermath import Remains
from report import report

from gloompi import Context, Device, FileStore

folder, rank, size, interface, turns = sys.argv[1:]
rank, size, turns = int(rank), int(size), int(turns)


def connect():
    return Context.from_store(store, rank, size, device=Device(interface), timeout=60, connect_timeout=30)


def values(other, turn, count):
    return np.arange(count) % 1000 * 7.0 + 100 * other + 10_000 * turn


store = FileStore(folder)
with connect() as first:
    first.barrier()
remains = Remains()
wrong = []
after, before = (rank + 1) % size, (rank - 1) % size
with connect() as ctx:
    transports = [peer.transport for peer in ctx.peers]
    for turn in range(turns):
        for count in (1, 100_000):
            every = np.array([values(other, turn, count) for other in range(size)])
            if not np.array_equal(ctx.allreduce(every[rank]), every.sum(0)):
                wrong.append(["allreduce", turn, count])
            out = np.empty(count)
            ctx.sendrecv(every[rank], after, out, before)
            if not np.array_equal(out, every[before]):
                wrong.append(["sendrecv", turn, count])
            if not np.array_equal(ctx.allgather(every[rank]), every):
                wrong.append(["allgather", turn, count])
        ctx.barrier()
report(rank, pid=os.getpid(), wrong=wrong, transports=transports, remains=remains.new())
