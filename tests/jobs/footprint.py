"""How much memory an allreduce of 1 GiB in place takes beyond the array, and what 10,000 calls leave behind."""

import gc
import sys

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, Device


def peak() -> int:
    """Bytes of memory that this process has had at most since the last `forget`."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def calls(ctx: Context, count: int) -> None:
    x, out, block = np.ones(100), np.empty(100), np.empty((ctx.size, 100))
    long = np.ones(40_000)
    after, before = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for n in range(count // 8):
        ctx.allreduce(x, out=out)
        ctx.barrier()
        ctx.broadcast(x, root=n % ctx.size)
        ctx.allgather(x, out=block)
        ctx.iallreduce(x, out=out).wait()
        ctx.sendrecv(x, after, out, before)
        ctx.allreduce(long, out=long, op="max")
        ctx.allgather_object(n)


with Context.from_mpi(device=Device(transport=sys.argv[1]), timeout=60) as ctx:
    x = np.ones(2**28, np.float32)
    calls(ctx, 80)
    forget()
    before = peak()
    ctx.allreduce(x, out=x)
    beyond = peak() - before
    assert np.all(x[:: 2**20] == ctx.size)
    del x

    calls(ctx, 2000)  # of which the last 1024 are remembered, for error texts
    gc.collect()
    blocks = sys.getallocatedblocks()
    calls(ctx, 10_000)
    gc.collect()
    report(MPI.COMM_WORLD.Get_rank(), beyond=beyond, grown=sys.getallocatedblocks() - blocks)
