"""One rank is stopped for longer than the others wait, before an allreduce or in the middle of one; rank 0 lets it go on."""

import os
import signal
import sys
import time

import numpy as np
from aftermath import Remains, later, outcome_of, within
from mpi4py import MPI
from report import report

from gloompi import Context, Device

transport, nbytes, timeout, moment = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


def stop(_signal, frame):
    if not within("allreduce", frame):
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        return
    os.kill(os.getpid(), signal.SIGSTOP)
    woken[0] = time.monotonic()


def work():
    while True:
        ctx.allreduce(x, out, timeout=timeout)
        if not np.array_equal(out, total):
            wrong.append(finished[0])
        finished[0] += 1
        began[0] = time.monotonic()


with connect() as first:
    first.barrier()
remains = Remains()
ctx = connect()
victim = size - 1
finished, wrong, began, woken = [0], [], [0.0], [0.0]
base = np.arange(nbytes // 8) % 1000 * 3.0
x, out, total = base * (rank + 1), np.empty_like(base), base * (size * (size + 1) // 2)

ctx.allreduce(x)
ctx.barrier()
began[0] = time.monotonic()
if rank == victim and moment == "before":
    os.kill(os.getpid(), signal.SIGSTOP)
    woken[0] = time.monotonic()
elif rank == victim:
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
outcome = outcome_of(work)
if rank == 0:
    os.kill(ctx.peers[victim].pid, signal.SIGCONT)
afterwards = later(ctx)
closing = outcome_of(ctx.close)
report(
    rank,
    pid=os.getpid(),
    outcome=outcome,
    last_began=began[0],
    woken=woken[0],
    wrong=wrong,
    finished=finished[0],
    later=afterwards,
    closing=closing,
    remains=remains.new(),
)
MPI.Finalize()
