"""A job whose ranks write traces: one of them comes late, or is killed, or there are Contexts of some ranks each."""

import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI
from report import facts_of, report

import gloompi.engine.trace
from gloompi import Context

what = sys.argv[1]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def late(victim):
    with Context.from_mpi() as ctx:
        for _ in range(20):
            time.sleep(0.02 if rank == victim else 0)
            ctx.allreduce(np.full(1000, rank + 1.0))
        ctx.barrier()
        ctx.sendrecv(np.ones(1), (rank + 1) % size, np.empty(1), (rank - 1) % size)
    report(rank, pid=os.getpid())


def killed(victim):
    gloompi.engine.trace._WRITE_SECONDS = 0.0
    ctx = Context.from_mpi(timeout=60, connect_timeout=30)
    ctx.barrier()
    ctx.barrier()
    if rank == victim:
        gloompi.engine.trace._WRITE_SECONDS = 3600.0
    ctx.barrier()
    if rank == victim:
        report(rank, pid=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        ctx.allreduce(np.ones(3))
    except Exception as exc:
        report(rank, pid=os.getpid(), **facts_of(exc))
    os._exit(0)


def halves():
    half = MPI.COMM_WORLD.Split(rank % 2)
    with Context.from_mpi() as world, Context.from_mpi(half) as ctx:
        world.barrier()
        ctx.allreduce(np.ones(5 + rank % 2))
    half.Free()
    report(rank, pid=os.getpid(), done=True)


{"late": late, "killed": killed, "halves": halves}[what](*map(int, sys.argv[2:]))
