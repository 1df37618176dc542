"""A rank is killed by another one's hand: while idle, or while the others are on their way out."""

import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI
from report import facts_of, report

from gloompi import Context, Device

victim, transport = int(sys.argv[1]), sys.argv[2]
rank = MPI.COMM_WORLD.Get_rank()
ctx = Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)
waiting = Context.from_mpi(device=Device(transport=transport), timeout=60, connect_timeout=30)
ctx.barrier()
pids = [peer.pid for peer in ctx.peers]
if rank == victim:
    report(rank, pid=pids[rank])
    while True:  # in no call of gloompi's, until the killer comes
        time.sleep(60)
if rank != (victim + 1) % ctx.size:
    # Nobody has called it for the victim yet: this close waits for the message to be received.
    waiting.isend(np.zeros(100_000), victim)
killed = None
if rank == (victim + 1) % ctx.size:
    time.sleep(0.3)  # for the others to have begun to close
    killed = time.time()
    os.kill(pids[victim], signal.SIGKILL)
outcomes = {}
for name, operation in (("close", waiting.close), ("next", lambda: ctx.allreduce(1.0))):
    try:
        operation()
        outcomes[name] = {}
    except Exception as exc:
        outcomes[name] = facts_of(exc)
    outcomes[name]["ended"] = time.time()
report(rank, pid=pids[rank], killed=killed, outcomes=outcomes)
os._exit(0)
