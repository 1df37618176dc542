"""A rendezvous that strangers besiege (`faults/flood.py`), after one without: how long each took, and what was left of it.

The last rank dials nobody before the strangers have made the connections that they are to make, so that all of those come
during the rendezvous.  The clock runs from then on.
"""

import json
import logging
import os
import resource
import sys
import threading
import time
from pathlib import Path

from mpi4py import MPI
from report import report
from traces import listening, open_files

from gloompi import Context, Device
from gloompi.rendezvous.connecting import Connecting, _transport

folder, transport = Path(sys.argv[1]), sys.argv[2]
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
last = rank == size - 1
device = Device(transport=transport) if transport == "unix" else Device(host="127.0.0.1", transport=transport)

lines = []
logging.getLogger("gloompi").addHandler(type("Lines", (logging.Handler,), {"emit": lambda _, line: lines.append(line)})())

released = 0.0
besieged = False
run = Connecting.run


def run_when_besieged(connecting, deadline):
    """As `run`, but the strangers learn where the door is, and the last rank waits for them."""
    global released
    if besieged and not last:
        (listener,) = connecting._listeners.values()
        address = listener.getsockname()
        shown = address.hex() if isinstance(address, bytes) else address
        hello = connecting._session.hello(size - 1, rank, _transport(listener))
        part = folder / f"{rank}.part"
        part.write_text(json.dumps([rank, int(listener.family), shown, hello.hex()]))
        part.rename(folder / f"{rank}.json")
    if besieged and last:
        while not (folder / "made").exists():
            time.sleep(0.005)
    released = time.monotonic()
    return run(connecting, deadline)


def meet():
    """When the last rank went, when this one was through, and what ``allreduce`` says."""
    with Context.from_mpi(world, device=device, timeout=30, connect_timeout=60) as ctx:
        done = time.monotonic()
        total = int(ctx.allreduce(ctx.rank + 1))
        ctx.barrier()
        if besieged and rank == 0:
            (folder / "over").touch()
    return {"released": released, "done": done, "total": total}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


Connecting.run = run_when_besieged
meet()  # everything is imported, and MPI has opened what it needs
calm = meet()
files, listeners, threads, memory = open_files(), listening(), threading.active_count(), peak()
assert not lines
besieged = True
began = time.monotonic()
under_siege = meet()
report(
    rank,
    calm=calm,
    besieged=under_siege,
    seconds=time.monotonic() - began,
    lines=[line.created for line in lines],
    leaked=[open_files() - files, sorted(listening() - listeners), threading.active_count() - threads],
    grown=peak() - memory,
    pid=os.getpid(),
)
