"""An exception that nobody catches ends one rank's program, whose Context is in no with statement."""

import os
import sys
import time

import numpy as np
from aftermath import Remains, later, outcome_of
from mpi4py import MPI
from report import report

from gloompi import Context, Device

victim, transport = int(sys.argv[1]), sys.argv[2]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=20, connect_timeout=20)


with connect() as first:
    first.barrier()
remains = Remains()
ctx = connect()
ctx.barrier()
if rank == victim:
    report(rank, pid=os.getpid(), raised=time.monotonic())
    raise FileNotFoundError("no such file: data.bin")  # and then waits in MPI_Finalize, which mpi4py calls at the end
outcome = outcome_of(lambda: ctx.allreduce(np.ones(100_000)))
afterwards = later(ctx)
ctx.close()
report(rank, pid=os.getpid(), outcome=outcome, later=afterwards, remains=remains.new())
