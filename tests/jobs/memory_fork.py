"""Children are forked while memory is offered and read; they change what is theirs, and end."""

import os

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, ContextClosedError, Device
from gloompi.transport.memory import Reader

COUNT = 3 * 1024 * 1024  # doubles, of which six slices are made
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
ctx = Context.from_mpi(device=Device(transport="unix"), timeout=30, connect_timeout=30)
children, wrong = [], []
after, before = (rank + 1) % size, (rank - 1) % size
x, out = np.arange(COUNT) + 10.0 * rank, np.full(COUNT, -1.0)


def fork():
    child = os.fork()
    if not child:
        code = 1
        try:
            x[:] = -3
            out[:] = -4
            try:
                ctx.isend(x, after)
            except ContextClosedError:
                code = 0
        finally:
            os._exit(code)
    children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def between(reader, pid, offer, position, into):
    if position and len(children) == 1:
        fork()
    read(reader, pid, offer, position, into)


request = ctx.isend(x, after)
ctx.barrier()
fork()
read, Reader.read = Reader.read, between
ctx.recv(out, before)
if not np.array_equal(out, np.arange(COUNT) + 10.0 * before):
    wrong.append("recv")
request.wait()
if not np.array_equal(ctx.allreduce(x), size * np.arange(COUNT) + 10.0 * sum(range(size))):
    wrong.append("allreduce")
if len(children) == 1:
    fork()  # where reading is forbidden
ctx.close()
report(rank, children=children, wrong=wrong)
