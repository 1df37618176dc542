"""How often the MPI library was called: after from_mpi, after every operation, after close."""

import ctypes
import os
import sys

shim = sys.argv[1]
if os.environ.get("LD_PRELOAD") != shim:  # for the ranks alone: a launcher may be a script
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": shim})

from mpi4py import MPI  # noqa: E402
from operations import public_operations, run_all  # noqa: E402
from report import report  # noqa: E402

from gloompi import Context, Device  # noqa: E402

library = ctypes.CDLL(shim)
library.mpi_calls.restype = ctypes.c_long
calls = library.mpi_calls

rank = MPI.COMM_WORLD.Get_rank()
facts = {"imported": calls()}
missing = public_operations()
for transport in ("unix", "tcp"):
    ctx = Context.from_mpi(device=Device(transport=transport), timeout=30, connect_timeout=30)
    counted = [calls()]
    missing -= set(run_all(ctx))
    counted.append(calls())
    ctx.close()
    del ctx
    counted.append(calls())
    facts[transport] = counted
MPI.COMM_WORLD.Get_rank()
report(rank, **facts, end=calls(), missing=sorted(missing))
