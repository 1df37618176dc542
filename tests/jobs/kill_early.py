"""One rank kills itself at some stage of the rendezvous."""

import os
import signal
import sys
import time

from mpi4py import MPI
from report import facts_of, report
from traces import listening, open_files

from gloompi import Context, Device
from gloompi.rendezvous import mesh

stage, victim, transport, connect_timeout = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
rank = MPI.COMM_WORLD.Get_rank()


def die(*_args):
    report(rank, pid=os.getpid(), killed=time.time())
    os.kill(os.getpid(), signal.SIGKILL)


if rank == victim:
    if stage == "before":
        die()
    elif stage == "records exchanged":
        mesh.Connecting.run = die
    elif stage == "connected":
        mesh._agree = die
files, listeners, began = open_files(), listening(), time.monotonic()
try:
    Context.from_mpi(device=Device(transport=transport), connect_timeout=connect_timeout)
    outcome = {}
except Exception as exc:
    outcome = facts_of(exc)
seconds = time.monotonic() - began
leaked = [open_files() - files, sorted(listening() - listeners)]
report(rank, pid=os.getpid(), **outcome, seconds=seconds, leaked=leaked)
os._exit(0)  # MPI_Finalize could wait for the dead rank
