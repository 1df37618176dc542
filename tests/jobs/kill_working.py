"""One rank is killed while all are in allreduces, and while they have idle and closing Contexts beside."""

import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI
from report import facts_of, report
from traces import open_files

from gloompi import Context, Device

victim, nbytes, transport = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def connect():
    return Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)


def die(*_args):
    report(rank, pid=os.getpid(), killed=time.time())
    os.kill(os.getpid(), signal.SIGKILL)


def outcome_of(operation):
    began = time.time()
    try:
        operation()
        facts = {}
    except Exception as exc:
        facts = facts_of(exc)
    return {**facts, "began": began, "ended": time.time()}


with connect():
    pass
files = open_files()
busy, idle, closing, unsent = connect(), connect(), connect(), connect()
outcomes = {}
x = np.full(nbytes // 8, rank + 1.0)
out = np.empty_like(x)
finished = 0


def work():
    global finished
    while True:
        busy.allreduce(x, out)
        assert out[0] == out[-1] == size * (size + 1) / 2
        finished += 1


if rank != victim:
    # Too large to go without being asked for: this Context cannot close before the victim receives.
    unsent.isend(np.zeros(100_000), victim)
busy.barrier()
if rank == victim:
    # Wherever the work is by then.
    signal.signal(signal.SIGALRM, die)
    signal.setitimer(signal.ITIMER_REAL, 0.3 if nbytes > 10_000 else 0.1)
outcomes["busy"] = outcome_of(work)
outcomes["busy again"] = outcome_of(busy.barrier)
outcomes["idle"] = outcome_of(idle.barrier)
outcomes["closing"] = outcome_of(closing.close)
outcomes["unsent"] = outcome_of(unsent.close)
leaked = open_files() - files
report(rank, pid=os.getpid(), finished=finished, outcomes=outcomes, leaked=leaked)
os._exit(0)
