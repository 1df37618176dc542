"""One rank kills itself at some stage of the rendezvous."""

import os
import signal
import sys
import time

from aftermath import Remains
from mpi4py import MPI
from report import facts_of, report
from traces import listening

from gloompi import Context, Device
from gloompi.rendezvous import mesh

stage, victim, transport, connect_timeout = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
rank = MPI.COMM_WORLD.Get_rank()


def die(*_args):
    report(rank, pid=os.getpid(), killed=time.monotonic())
    os.kill(os.getpid(), signal.SIGKILL)


def die_then(finish):
    def patched(*args):
        finish(*args)
        die()

    return patched


MPI.COMM_WORLD.Barrier()  # how long they took to start is nobody's connect_timeout
if rank == victim:
    if stage == "before":
        die()
    elif stage == "records exchanged":
        mesh.Connecting.run = die
    elif stage == "half connected":
        mesh.Connecting._finish = die_then(mesh.Connecting._finish)
    elif stage == "connected":
        mesh._agree = die
# What the first one loads and MPI opens is not the fault's.
Context.from_mpi(MPI.COMM_SELF).close()
remains, listeners, began = Remains(), listening(), time.monotonic()
try:
    Context.from_mpi(device=Device(transport=transport), connect_timeout=connect_timeout)
    outcome = {}
except Exception as exc:
    outcome = facts_of(exc)
seconds = time.monotonic() - began
report(
    rank,
    pid=os.getpid(),
    **outcome,
    seconds=seconds,
    listening=sorted(listening() - listeners),
    remains=remains.new(),
)
os._exit(0)  # MPI_Finalize could wait for the dead rank
