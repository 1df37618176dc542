"""Ranks are killed while all are in allreduces: one by itself, or several at once by another's hand.

Arguments: the victims, such as ``0,2``; the bytes of an array; the transport.
"""

import os
import random
import signal
import sys
import time

import numpy as np
from aftermath import Remains, later, outcome_of, within
from mpi4py import MPI
from report import report

from gloompi import Context, Device

victims, nbytes, transport = [int(each) for each in sys.argv[1].split(",")], int(sys.argv[2]), sys.argv[3]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
killer = victims[0] if len(victims) == 1 else next(other for other in range(size) if other not in victims)


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


def kill(_signal, frame):
    """Wherever the work is by then, but in an allreduce."""
    if not within("allreduce", frame):
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        return
    killed[0] = time.monotonic()
    if rank in victims:
        report(rank, pid=os.getpid(), killed=killed[0])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def work():
    while True:
        ctx.allreduce(x, out)
        if not np.array_equal(out, total):
            wrong.append(finished[0])
        finished[0] += 1
        np.add(x, 1.0, out=x)
        np.add(total, size, out=total)


with connect() as first:
    first.barrier()
remains = Remains()
ctx = connect()
killed, finished, wrong = [0.0], [0], []
base = np.arange(nbytes // 8) % 1000 * 3.0
x, out, total = base * (rank + 1), np.empty_like(base), base * (size * (size + 1) // 2)
pids = [ctx.peers[victim].pid for victim in victims]
ctx.barrier()
if rank == killer:
    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.02, 0.4) if nbytes > 10_000 else random.uniform(0.01, 0.1))
outcome = outcome_of(work)
afterwards = later(ctx)
closing = outcome_of(ctx.close)
report(
    rank,
    pid=os.getpid(),
    killed=killed[0],
    finished=finished[0],
    wrong=wrong,
    outcome=outcome,
    later=afterwards,
    closing=closing,
    remains=remains.new(),
)
os._exit(0)  # MPI_Finalize could wait for the dead rank
