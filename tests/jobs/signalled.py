"""Signals that are handled, a thousand a second; and one that raises KeyboardInterrupt in rank 0, which the others need."""

import os
import signal
import sys
import threading
import time

import numpy as np
from mpi4py import MPI
from report import facts_of, report
from traces import leave_together, open_files

from gloompi import Context, Device
from gloompi.rendezvous import mesh
from gloompi.rendezvous.connecting import Connecting

what, how = sys.argv[1:3]
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
handled = 0


def handle(*_):
    global handled
    handled += 1


def values(of):
    return np.arange(300_000) * 3.0 + of


def work():
    """Signals all the time, in the rendezvous too; what came out wrong."""
    wrong = []
    with Context.from_mpi(world, device=Device(transport=how), timeout=30, connect_timeout=30) as ctx:
        for number in range(8):
            for count in (1, 1000, 300_000):
                total = ctx.allreduce(values(rank)[:count])
                if not np.array_equal(total, sum(values(peer)[:count] for peer in range(size))):
                    wrong.append(f"allreduce {number} of {count}")
            out = np.empty(300_000)
            ctx.sendrecv(values(rank), (rank + 1) % size, out, (rank - 1) % size)
            if not np.array_equal(out, values((rank - 1) % size)):
                wrong.append(f"sendrecv {number}")
            if rank == 0:
                time.sleep(0.05)  # the others wait, which signals interrupt
            ctx.barrier()
    return wrong


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    """The error that ends this rank's part, and the one that it gets when it tries again."""
    ctx = None
    if rank == 0 and how == "connecting":
        Connecting.run = lambda *_: (interrupt(), time.sleep(20))
    elif rank == 0 and how == "agreeing":
        mesh.pack_verdict = lambda *_: (interrupt(), time.sleep(20))
    elif rank == 0:
        threading.Timer(0.3, interrupt).start()
    try:
        with Context.from_mpi(world, timeout=30, connect_timeout=30) as ctx:
            if how == "recv":
                ctx.recv(np.empty(1), (rank + 1) % size)
            elif rank == 0:
                time.sleep(30)
            else:
                ctx.allreduce(np.ones(300_000))
    except BaseException as exc:
        facts = {"at": time.time(), "notes": getattr(exc, "__notes__", []), **facts_of(exc)}
    try:
        if ctx is not None:
            ctx.barrier()
    except Exception as exc:
        facts["again"] = str(exc)
    return facts


with Context.from_mpi(world):
    pass
if what == "handled":
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    wrong = work()
    signal.setitimer(signal.ITIMER_REAL, 0)
    report(rank, handled=handled, wrong=wrong)
else:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files, threads = open_files(), threading.active_count()
    facts = fail()
    facts["leaked"] = [open_files() - files, threading.active_count() - threads]
    report(rank, **facts)
    leave_together(sys.argv[3], rank, size)
