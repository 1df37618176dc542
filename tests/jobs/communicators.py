"""Contexts from every kind of communicator, several at once; nothing listens afterwards."""

import numpy as np
from mpi4py import MPI
from operations import run_all
from report import report
from traces import listening, open_files

from gloompi import Context

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
facts = {}

with Context.from_mpi(world):  # MPI may open what it needs for its first messages
    pass
files, listeners = open_files(), listening()

halves = world.Split(rank % 2, key=-rank)  # ranks in reverse order
duplicate = world.Dup()
for name, comm in (("none", None), ("world", world), ("self", MPI.COMM_SELF), ("split", halves), ("dup", duplicate)):
    expected = world if comm is None else comm
    with Context.from_mpi(comm, timeout=30, connect_timeout=30) as ctx:
        assert (ctx.rank, ctx.size) == (expected.Get_rank(), expected.Get_size()), name
        assert listening() <= listeners, name
        run_all(ctx)
    assert ctx.closed
    facts[name] = [ctx.rank, ctx.size]
    assert listening() <= listeners
    assert open_files() == files, name

# Several Contexts of one communicator and of another, used in turn: their messages do not meet.
contexts = [Context.from_mpi(comm, timeout=30, connect_timeout=30) for comm in (world, world, halves)]
requests = [ctx.iallreduce(np.full(50_000, ctx.rank + 100.0 * index)) for index, ctx in enumerate(contexts)]
for index, (ctx, request) in reversed(list(enumerate(zip(contexts, requests, strict=True)))):
    expected = 100.0 * index * ctx.size + sum(range(ctx.size))
    assert (request.wait() == expected).all()
facts["peers"] = [peer.pid for peer in contexts[0].peers]
for ctx in contexts:
    ctx.close()
assert open_files() == files

halves.Free()
duplicate.Free()
report(rank, **facts)
