"""Ends without having closed its Context, after MPI_Finalize: calls into MPI are counted until the very end (`shim.py`)."""

import json
import os
import sys
import time

from door import Door

library = sys.argv[1]
Door(library)

import ctypes  # noqa: E402

calls = ctypes.CDLL(library).mpi_calls
calls.restype = ctypes.c_long

from mpi4py import MPI  # noqa: E402

from gloompi import Context  # noqa: E402


class Last:
    """Goes with the `sys` module, after the goodbye; all other modules are gone by then."""

    def __init__(self, facts):
        self.text = json.dumps(facts)[:-1]

    def __del__(self, write=os.write, calls=calls):
        write(1, f'{self.text}, "end": {calls()}, "closed": {str(self.engine.closed).lower()}}}\n'.encode())


rank = MPI.COMM_WORLD.Get_rank()
ctx = Context.from_mpi(timeout=30, connect_timeout=30)
MPI.Finalize()
finalized = calls()
total = int(ctx.allreduce(1))
ctx.barrier()
sys.last_to_go = Last({"rank": rank, "finalized": finalized, "total": total, "leaves": time.time()})
sys.last_to_go.engine = ctx._engine
