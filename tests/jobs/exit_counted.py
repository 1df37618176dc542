"""Ends without having closed its Context, after MPI_Finalize: calls into MPI are counted until the very end (`shim.py`)."""

import atexit
import sys
import time

from door import Door

library = sys.argv[1]
Door(library)

import ctypes  # noqa: E402

from report import report  # noqa: E402

calls = ctypes.CDLL(library).mpi_calls
calls.restype = ctypes.c_long


@atexit.register  # registered first: it runs last
def tell():
    report(rank, finalized=finalized, end=calls(), total=total, leaves=leaves, closed=ctx.closed)


from mpi4py import MPI  # noqa: E402

from gloompi import Context  # noqa: E402

rank = MPI.COMM_WORLD.Get_rank()
ctx = Context.from_mpi(timeout=30, connect_timeout=30)
MPI.Finalize()
finalized = calls()
total = int(ctx.allreduce(1))
ctx.barrier()
leaves = time.time()
