"""Each rank in turn is slow, by less than the others wait."""

import os
import sys
import time

import numpy as np
from aftermath import Remains
from mpi4py import MPI
from report import report

from gloompi import Context, Device

transport, nbytes, timeout, late = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


with connect() as first:
    first.barrier()
remains = Remains()
right, seconds = [], []
base = np.arange(nbytes // 8) % 1000 * 3.0
with connect() as ctx:
    for slow in range(size):
        ctx.barrier()
        began = time.monotonic()
        if rank == slow:
            time.sleep(late)  # the fault itself
        total = ctx.allreduce(base * (rank + 1) + slow, timeout=timeout)
        seconds.append(time.monotonic() - began)
        right.append(np.array_equal(total, base * (size * (size + 1) // 2) + slow * size))
report(rank, pid=os.getpid(), right=right, seconds=seconds, remains=remains.new())
