"""MPI without threads, busy with the caller's own messages, then finalized: the Context does not care."""

import mpi4py

mpi4py.rc.thread_level = "single"

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402
from operations import public_operations, run_all  # noqa: E402
from report import report  # noqa: E402

from gloompi import Context  # noqa: E402

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
right, left = (rank + 1) % size, (rank - 1) % size
single = MPI.Query_thread() == MPI.THREAD_SINGLE

# Pending all the while: a receive of the caller's own, from a known rank and from any, on the same communicator.
mine, anybodys = np.zeros(1000), np.zeros(3)
pending = [world.Irecv(mine, left, tag=0), world.Irecv(anybodys, MPI.ANY_SOURCE, tag=MPI.ANY_TAG)]
ctx = Context.from_mpi(world, timeout=30, connect_timeout=30)
other = np.zeros(1000)
ctx.sendrecv(np.full(1000, -1.0), right, other, left)
ctx.barrier()
untouched = not any(request.Test() for request in pending) and not mine.any() and not anybodys.any()
ctx.barrier()  # nobody sends before everybody has looked
world.Send(np.arange(1000.0) + rank, right, tag=0)
world.Send(np.full(3, float(rank)), right, tag=9)
MPI.Request.Waitall(pending)
right_data = bool((mine == np.arange(1000.0) + left).all() and (anybodys == left).all() and (other == -1).all())

MPI.Finalize()
run = run_all(ctx)
missing = sorted(public_operations() - set(run))
ctx.close()
report(rank, single=single, untouched=untouched, right_data=right_data, finalized=MPI.Is_finalized(), missing=missing)
