"""One rank cannot take part, for one reason after another: all ranks get the same error, and the next try succeeds."""

import os
import resource
import socket
import time
from itertools import count, islice

from mpi4py import MPI
from report import facts_of, report
from traces import listening, open_files

from gloompi import Context, Device

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)


def allow(more):
    """Let this process open so many more files: the limit is on the number of a new descriptor, and it gets the lowest."""
    free = (fd for fd in count() if not os.path.exists(f"/proc/self/fd/{fd}"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, more, None)), hard))


def attempt(device=None, connect_timeout=30.0):
    files, listeners, began = open_files(), listening(), time.monotonic()
    try:
        with Context.from_mpi(world, device=device, connect_timeout=connect_timeout) as ctx:
            outcome = {"total": int(ctx.allreduce(1))}
    except Exception as exc:
        outcome = facts_of(exc)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    outcome["seconds"] = time.monotonic() - began
    outcome["leaked"] = [open_files() - files, sorted(listening() - listeners)]
    return outcome


outcomes = {"first": attempt()}

outcomes["interface"] = attempt(Device("nosuch0") if rank == 1 else None)

with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    device = Device(host="127.0.0.1", port=(port, port)) if rank == 2 else None
    outcomes["ports"] = attempt(device)

if rank == 0:
    allow(5)
outcomes["descriptors"] = attempt()

# The same, but unforeseen: after this rank has told the others that it takes part. Epoll needs one, each peer one.
listen = Device.listen
for name, more in (("none left", 1), ("one left", 2)):

    def listen_and_run_out(device, backlog, more=more):
        listeners = listen(device, backlog)
        allow(more)
        return listeners

    if rank == 0:
        Device.listen = listen_and_run_out
    outcomes[name] = attempt(connect_timeout=2.0)
    Device.listen = listen

outcomes["last"] = attempt()
report(rank, port=port, outcomes=outcomes)
