"""Each rank in turn is slow, by less than the others wait: over each transport, with arrays of each size."""

import os
import sys
import time

import numpy as np
from aftermath import Remains
from mpi4py import MPI
from report import report

from gloompi import Context, Device

timeout, late, sizes = float(sys.argv[1]), float(sys.argv[2]), [int(nbytes) for nbytes in sys.argv[3:]]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def connect(transport):
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


with connect("unix") as first:
    first.barrier()
remains = Remains()
turns = []
for transport in ("unix", "tcp"):
    with connect(transport) as ctx:
        for nbytes in sizes:
            base = np.arange(nbytes // 8) % 1000 * 3.0
            for slow in range(size):
                ctx.barrier()
                if rank == slow:
                    time.sleep(late)  # the fault itself
                began = time.monotonic()
                total = ctx.allreduce(base * (rank + 1) + slow, timeout=timeout)
                ended = time.monotonic()
                right = np.array_equal(total, base * (size * (size + 1) // 2) + slow * size)
                turns.append({"slow": slow, "began": began, "ended": ended, "right": right})
report(rank, pid=os.getpid(), turns=turns, remains=remains.new())
