"""What listens before, during and after the rendezvous: as the kernel says, and as ``ss`` does."""

import os
import shutil
import subprocess
import sys

from mpi4py import MPI
from report import report
from traces import listening

from gloompi import Context, Device

world = MPI.COMM_WORLD
rank = world.Get_rank()


def shown():
    """The listening sockets of this process: two lists, the second empty where there is no ``ss``."""
    told = []
    if shutil.which("ss"):
        for family in "t", "x":
            lines = subprocess.run(["ss", f"-Hlnp{family}"], capture_output=True, text=True, check=True).stdout.splitlines()
            # Queues and users change by themselves: what another rank starts has its descriptors for a moment.
            mine = [line.split() for line in lines if f"pid={os.getpid()}," in line]
            told += [f"{family} {fields[-3 if family == 't' else -5]} {fields[-2]}" for fields in mine]
    return [sorted(listening()), sorted(told)]


listen = Device.listen
during = []


def listen_and_look(device, backlog):
    listeners = listen(device, backlog)
    during.extend(shown())
    return listeners


with Context.from_mpi(world):
    pass
before = shown()
Device.listen = listen_and_look
with Context.from_mpi(world, device=Device(transport=sys.argv[1]), timeout=30, connect_timeout=30) as ctx:
    after = shown()
    total = int(ctx.allreduce(1))
report(rank, before=before, during=during, after=after, total=total)
