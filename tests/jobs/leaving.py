"""A forked child may not use the Context and disturbs nobody; the process then ends without having closed it."""

import os
import sys
import time

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, ContextClosedError

finalize = sys.argv[1] == "finalized"
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
ctx = Context.from_mpi(timeout=30, connect_timeout=30)
ctx.barrier()
child = os.fork()
if not child:
    try:
        ctx.barrier()
    except ContextClosedError as exc:
        os._exit(7 if f"belongs to process {os.getppid()}, which forked this one" in str(exc) else 8)
    finally:
        os._exit(9)
_, status = os.waitpid(child, 0)
total = int(ctx.allreduce(np.ones(1))[0])
ctx.barrier()
if finalize:
    MPI.Finalize()
report(rank, total=total, child=os.waitstatus_to_exitcode(status), leaves=time.time())
