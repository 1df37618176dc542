"""Large messages between processes, read in each other's memory; or as users without rights, to whom that is forbidden."""

import ctypes
import logging
import os
import sys

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.transport.memory import Reader

NOBODY = 65534
PR_SET_DUMPABLE = 4
COUNT = 6 * EAGER_NBYTES // 4 + 3  # of 4 bytes, of which quarters are read, too
SLICES = 9 * 1024 * 1024 // 4


class Lines(logging.Handler):
    def emit(self, record):
        if "cannot be read" in record.getMessage():
            lines.append(record.getMessage())


def counted(reader, pid, offer, position, into):
    global nbytes
    read(reader, pid, offer, position, into)
    nbytes += len(into)


def numbers(owner, salt, count):
    return (np.arange(count) % 1009 + 10_000 * owner + 100_000 * salt).astype("i4")


def compare(name, found, wanted):
    if not np.array_equal(found, wanted):
        wrong.append(name)


way = sys.argv[1]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
lines, wrong, nbytes = [], [], 0
logging.getLogger("gloompi").addHandler(Lines())
logging.getLogger("gloompi").setLevel(logging.DEBUG)
read, Reader.read = Reader.read, counted
ctx = Context.from_mpi(device=Device(transport="unix"), timeout=60, connect_timeout=30)
MPI.Finalize()  # as long as this process may
if way == "refused":
    # Who may trace may read: so nobody has a right, and all have said that they are not to be looked into.
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError("PR_SET_DUMPABLE")
    ctx.barrier()
after, before = (rank + 1) % size, (rank - 1) % size
for salt, count in enumerate((COUNT, SLICES)):
    every = np.array([numbers(owner, salt, count) for owner in range(size)])
    x = every[rank].copy()
    out = np.empty(count, "i4")
    ctx.sendrecv(x, after, out, before)
    compare("sendrecv", out, every[before])
    compare("allreduce", ctx.allreduce(x), every.sum(0, dtype="i4"))
    compare("allgather", ctx.allgather(x), every)
    compare("broadcast", ctx.broadcast(x.copy(), root=size - 1), every[size - 1])
    requests = [ctx.isend(x[: count - tag], other, tag=tag) for tag in range(3) for other in range(size) if other != rank]
    for other in range(size):
        for tag in (2, 0, 1):
            if other != rank:
                ctx.recv(out, other, tag=tag)
                compare(f"recv {other} {tag}", out[: count - tag], every[other][: count - tag])
    for request in requests:
        request.wait()
readable = [link.readable for link in ctx._engine._links]
ctx.close()
report(rank, wrong=wrong, read=nbytes, readable=readable, log=lines)
