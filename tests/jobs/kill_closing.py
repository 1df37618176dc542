"""A rank kills itself while all others close: one Context that owes nothing, and one with a message for that rank."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from aftermath import Remains, outcome_of, within
from mpi4py import MPI
from report import report

from gloompi import Context, Device

victim, transport, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


def say_so(_signal, frame):
    if within("close", frame):
        (folder / f"{rank} closes").touch()
    else:
        signal.setitimer(signal.ITIMER_REAL, 0.01)


with connect() as first:
    first.barrier()
remains = Remains()
plain, owing = connect(), connect()
plain.barrier()
owing.barrier()
if rank == victim:
    while len(list(folder.glob("* closes"))) < size - 1:
        os.sched_yield()
    report(rank, pid=os.getpid(), killed=time.monotonic())
    os.kill(os.getpid(), signal.SIGKILL)
# Too large to go without being asked for, and nobody asks: this close waits for the message to be received.
owing.isend(np.full(100_000, rank), victim)
signal.signal(signal.SIGALRM, say_so)
signal.setitimer(signal.ITIMER_REAL, 0.01)
outcomes = {"owing": outcome_of(owing.close), "plain": outcome_of(plain.close)}
report(rank, pid=os.getpid(), outcomes=outcomes, remains=remains.new())
os._exit(0)
