"""A rank is killed by another one's hand while no rank is in an operation; each Context then has another next operation."""

import os
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np
from aftermath import Remains, later, outcome_of
from mpi4py import MPI
from report import report

from gloompi import ANY_SOURCE, Context, Device

victim, transport, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
killer = (victim + 1) % size
LARGE = 2**20

NEXT = {
    "barrier": lambda ctx: ctx.barrier(),
    "small allreduce": lambda ctx: ctx.allreduce(np.full(1, rank)),
    "large allreduce": lambda ctx: ctx.allreduce(np.full(LARGE, rank)),
    "broadcast from it": lambda ctx: ctx.broadcast(np.full(3, rank), root=victim),
    "reduce": lambda ctx: ctx.reduce(np.full(LARGE, rank), root=killer),
    "allgather": lambda ctx: ctx.allgather(np.full(3, rank)),
    "alltoall": lambda ctx: ctx.alltoall(np.full((size, 3), rank)),
    "receive from it": lambda ctx: ctx.recv(np.empty(3), victim),
    "receive from any": lambda ctx: ctx.recv(np.empty(3), ANY_SOURCE),
    "send to it": lambda ctx: ctx.send(np.full(LARGE, rank), victim),
    "object": lambda ctx: ctx.allgather_object({"rank": rank}),
}


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


with connect() as first:
    first.barrier()
remains = Remains()
contexts = {name: connect() for name in NEXT}
pid = contexts["barrier"].peers[victim].pid
death = os.pidfd_open(pid)
for ctx in contexts.values():
    ctx.barrier()
if rank == victim:
    report(rank, pid=pid)
(folder / f"{rank} is idle").touch()
if rank == victim:
    while True:
        signal.pause()
if rank == killer:
    while len(list(folder.glob("* is idle"))) < size:
        os.sched_yield()
    os.kill(pid, signal.SIGKILL)
assert select.select([death], [], [], 20)[0]
killed = time.monotonic()
os.close(death)
outcomes, afterwards = {}, {}
for name, ctx in contexts.items():
    outcomes[name] = outcome_of(lambda name=name, ctx=ctx: NEXT[name](ctx))
    afterwards[name] = later(ctx)
    ctx.close()
report(rank, pid=os.getpid(), killed=killed, outcomes=outcomes, later=afterwards, remains=remains.new())
os._exit(0)
