"""The last rank never calls from_mpi."""

import sys
import time

from mpi4py import MPI
from report import facts_of, report
from traces import leave_together, listening, open_files

from gloompi import Context

connect_timeout, folder = float(sys.argv[1]), sys.argv[2]
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
if rank < size - 1:
    files, listeners, began = open_files(), listening(), time.monotonic()
    try:
        Context.from_mpi(world, connect_timeout=connect_timeout)
    except Exception as exc:
        seconds = time.monotonic() - began
        leaked = [open_files() - files, sorted(listening() - listeners)]
        report(rank, **facts_of(exc), seconds=seconds, leaked=leaked)
leave_together(folder, rank, size)
