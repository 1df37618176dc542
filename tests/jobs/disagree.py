"""Calls on which the last rank disagrees with the others, one Context each; and one that it does not make at all."""

import sys
import time

import numpy as np
from mpi4py import MPI
from report import facts_of, report
from traces import open_files

from gloompi import Context, Device

transport, skipped = sys.argv[1], sys.argv[2:] == ["skipped"]
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
odd = rank == size - 1
SMALL, LARGE = 7, 100_000
TIMEOUT = 1.0

CALLS = {
    "dtype": lambda ctx, count: ctx.allreduce(np.ones(count, "f4" if odd else "f8")),
    "count": lambda ctx, count: ctx.allreduce(np.ones(count + odd)),
    "op": lambda ctx, count: ctx.allreduce(np.ones(count), op="max" if odd else "sum"),
    "root": lambda ctx, count: ctx.broadcast(np.ones(count), root=1 if odd else 0),
    "order": lambda ctx, count: (
        (ctx.allgather(np.ones(count)), ctx.allreduce(np.ones(count)))
        if odd
        else (ctx.allreduce(np.ones(count)), ctx.allgather(np.ones(count)))
    ),
    "operation": lambda ctx, count: ctx.alltoall(np.ones((size, count))) if odd else ctx.reduce(np.ones(count)),
}


def outcome(call):
    """What came of a call and of the next one, how soon, and what was left open."""
    files = open_files()
    facts = {"error": None}
    with Context.from_mpi(world, device=Device(transport=transport), timeout=10, connect_timeout=30) as ctx:
        began = time.monotonic()
        try:
            call(ctx)
            ctx.barrier()  # whoever was done before the others disagreed learns of it here
        except Exception as exc:
            facts = facts_of(exc) | {
                name: getattr(exc, name, None) for name in ("rank", "other", "here", "there", "timeout")
            }
        facts["seconds"] = time.monotonic() - began
        try:
            ctx.allreduce(np.ones(3))
        except Exception as exc:
            facts["again"] = f"{type(exc).__name__}: {exc}"
    facts["leaked"] = open_files() - files
    return facts


def skip(ctx):
    if odd:
        world.Barrier()  # when the others have failed
        ctx.recv(np.ones(3), 0)
    else:
        try:
            ctx.allreduce(np.ones(SMALL), timeout=TIMEOUT)
        finally:
            world.Barrier()


with Context.from_mpi(world):
    pass
if skipped:
    report(rank, skipped=outcome(skip))
else:
    outcomes = {}
    for name, call in CALLS.items():
        for count in (SMALL, LARGE):
            outcomes[f"{name} of {count}"] = outcome(lambda ctx, call=call, count=count: call(ctx, count))
    report(rank, outcomes=outcomes)
