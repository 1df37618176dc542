"""One rank leaves a with statement with an exception: once over each transport, once by Control-C."""

import os
import signal
import sys
import time

import numpy as np
from aftermath import Remains, later
from mpi4py import MPI
from report import facts_of, report

from gloompi import Context, Device

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
victim = int(sys.argv[1])


def read():
    raise FileNotFoundError("no such file: data.bin")


def interrupt():
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def connect(transport):
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
with connect("unix") as first:
    first.barrier()
remains = Remains()
outcomes, afterwards = {}, {}
for name, transport, fault in (("unix", "unix", read), ("tcp", "tcp", read), ("interrupt", "unix", interrupt)):
    raised = 0.0
    try:
        with connect(transport) as ctx:
            ctx.barrier()
            if rank == victim:
                raised = time.monotonic()
                fault()
                ctx.recv(np.zeros(1), (victim + 1) % size)  # nobody sends
            else:
                ctx.allreduce(np.ones(100_000))
        outcomes[name] = {}
    except BaseException as exc:
        outcomes[name] = facts_of(exc)
    outcomes[name]["ended"] = time.monotonic()
    outcomes[name]["raised"] = raised
    afterwards[name] = later(ctx)
report(rank, pid=os.getpid(), outcomes=outcomes, later=afterwards, remains=remains.new())
