"""One of the ranks is killed after some calls; the others say what their error ends with."""

import os
import signal

import numpy as np
from mpi4py import MPI
from report import facts_of, report

from gloompi import Context

rank = MPI.COMM_WORLD.Get_rank()
ctx = Context.from_mpi(timeout=60, connect_timeout=30)
x = np.full(3, rank + 1.0)
for _ in range(11):
    ctx.allreduce(x)
if rank == 2:
    report(rank, killed=True)
    os.kill(os.getpid(), signal.SIGKILL)
try:
    ctx.allreduce(x)
except Exception as exc:
    history = [[record.number, record.name, record.state] for record in ctx.history()]
    report(rank, **facts_of(exc), notes=getattr(exc, "__notes__", []), history=history)
os._exit(0)
