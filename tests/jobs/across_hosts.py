"""A Context over several hosts: every operation, messages of some MiB, who the peers are and how soon it was there."""

import os
import socket
import sys
import time

import numpy as np
from mpi4py import MPI
from operations import run_all
from report import facts_of, report

from gloompi import Context, Device, RendezvousError

COUNT = 500_000  # 4 MB, and with ranks of its own in each


def values(rank: int) -> np.ndarray:
    return np.arange(COUNT) * 3 + 1000 * rank


def check_large(ctx: Context) -> None:
    total = sum(values(rank) for rank in range(ctx.size))
    np.testing.assert_array_equal(ctx.allreduce(values(ctx.rank)), total)
    x = values(ctx.rank)
    np.testing.assert_array_equal(ctx.broadcast(x, root=ctx.size - 1), values(ctx.size - 1))
    right, left = (ctx.rank + 2) % ctx.size, (ctx.rank - 2) % ctx.size  # with 2 ranks a host: on the next ones
    out = np.empty(COUNT, int)
    ctx.sendrecv(values(ctx.rank), right, out, left)
    np.testing.assert_array_equal(out, values(left))


connect_timeout, only_tcp = float(sys.argv[1]), sys.argv[2].split(",")
rank = MPI.COMM_WORLD.Get_rank()
who = {"host": socket.gethostname(), "pid": os.getpid()}
device = Device(transport="tcp") if str(rank) in only_tcp else Device()
began = time.monotonic()
try:
    ctx = Context.from_mpi(device=device, timeout=30, connect_timeout=connect_timeout)
except RendezvousError as exc:
    report(rank, **who, seconds=time.monotonic() - began, **facts_of(exc))
else:
    seconds = time.monotonic() - began
    with ctx:
        run_all(ctx)
        check_large(ctx)
        report(
            rank, **who, seconds=seconds, peers=[(peer.host, peer.pid, peer.transport, peer.address) for peer in ctx.peers]
        )
