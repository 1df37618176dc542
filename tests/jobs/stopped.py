"""One rank is slow, then it is stopped for longer than the others wait; rank 0 lets it go on."""

import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI
from report import facts_of, report

from gloompi import Context, Device

transport, nbytes, timeout, late = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
ctx = Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)
MPI.Finalize()
victim = size - 1
x = np.full(nbytes // 8, rank + 1.0)

ctx.barrier()
if rank == victim:
    time.sleep(late)
total = ctx.allreduce(x, timeout=timeout)
slow = float(total[-1])

ctx.barrier()
began = time.monotonic()
if rank == victim:
    os.kill(os.getpid(), signal.SIGSTOP)
    began = time.monotonic()
try:
    assert (ctx.allreduce(x, timeout=timeout) == total).all()
    outcome = {"error": "", "text": ""}  # all that this rank needed had been sent before
except Exception as exc:
    outcome = facts_of(exc)
finally:
    seconds = time.monotonic() - began
    if rank == 0:
        os.kill(ctx.peers[victim].pid, signal.SIGCONT)
again = ""
try:
    ctx.barrier()
except Exception as exc:
    again = str(exc)
report(rank, pid=os.getpid(), slow=slow, seconds=seconds, **outcome, again=again)
