"""Ranks that wait in a receive: how much of a core they use."""

import resource
import time

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, Device

SECONDS = 3.0

rank = MPI.COMM_WORLD.Get_rank()
contexts = [
    Context.from_mpi(device=Device(transport=transport), timeout=30, connect_timeout=30) for transport in ("unix", "tcp")
]
MPI.Finalize()  # from here on, MPI's own threads are not counted

# Rank 1 waits over AF_UNIX, rank 2 over TCP.
for ctx in contexts:
    ctx.barrier()
if rank:
    used = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    contexts[rank - 1].recv(np.zeros(1), 0)
    waited = time.monotonic() - began
    now = resource.getrusage(resource.RUSAGE_SELF)
    busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    report(rank, transport=contexts[rank - 1].peers[0].transport, waited=waited, share=busy / waited)
else:
    time.sleep(SECONDS)
    contexts[0].send(np.zeros(1), 1)
    contexts[1].send(np.zeros(1), 2)
for ctx in contexts:
    ctx.close()
