"""A rank is killed with an offer of memory open: before anything of it is read, or between two slices."""

import os
import signal
import sys

import numpy as np
from mpi4py import MPI
from report import facts_of, report

from gloompi import Context, Device
from gloompi.transport.memory import Reader

COUNT = 3 * 1024 * 1024  # doubles, of which six slices are made
victim, stage = sys.argv[1], sys.argv[2]
rank = MPI.COMM_WORLD.Get_rank()
ctx = Context.from_mpi(device=Device(transport="unix"), timeout=30, connect_timeout=30)
complete = False


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, or between that and reading
        return False


def kill():
    if victim == "receiver":
        report(rank)
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(ctx.peers[0].pid, signal.SIGKILL)
    while running(ctx.peers[0].pid):
        os.sched_yield()


def interrupted(reader, pid, offer, position, into):
    global reads
    reads += 1
    if reads == 3:
        kill()
    read(reader, pid, offer, position, into)


if rank == 0:
    request = ctx.isend(np.arange(COUNT) * 0.5, 1)
reads, read = 0, Reader.read
facts = {}
try:
    ctx.barrier()  # in which others may notice the death already
    if stage == "reading":
        Reader.read = interrupted
    elif rank == 1:
        kill()
    if rank == 0:
        request.wait()
    elif rank == 1:
        ctx.recv(np.empty(COUNT), 0)
        complete = True
    ctx.barrier()
except Exception as exc:
    facts = facts_of(exc)
report(rank, **facts, complete=complete)
os._exit(0)
