"""Strangers flood the listening sockets of rank 0 from before the rendezvous to its end."""

import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path

from mpi4py import MPI
from report import report
from traces import listening, open_files

from gloompi import Context, Device

transport, crowded = sys.argv[1], Path(sys.argv[2])
world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()

lines = []
logging.getLogger("gloompi").addHandler(type("Lines", (logging.Handler,), {"emit": lambda _, line: lines.append(line)})())

HELLO = b"gloompi\x01" + bytes(16) + (1).to_bytes(4, "little") + bytes(4) + bytes(32)  # as rank 1, of another session
GREETINGS = (
    None,  # connects and closes
    b"",  # silent
    b"GET / HTTP/1.1\r\nHost: rank0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),  # the start of a TLS client's hello
    os.urandom(64),
    HELLO,
    b"gloompi\x02" + HELLO[8:],  # another version
    HELLO[:20],  # half of a hello
)


# An AF_UNIX backlog holds 67, and takes no more.
CROWD = 60


class Flood(threading.Thread):
    """Connects to all listeners in turn, with every greeting."""

    def __init__(self):
        super().__init__(daemon=True)
        self.addresses = []
        self.over = threading.Event()
        self.visits = 0

    def run(self):
        silent = []
        while not self.over.is_set():
            for greeting in GREETINGS:
                for family, address in self.addresses:
                    sock = socket.socket(family)
                    sock.settimeout(0.2)
                    try:
                        sock.connect(address)
                        if greeting:
                            sock.send(greeting)
                    except OSError:  # full, or over
                        sock.close()
                        continue
                    self.visits += 1
                    if self.visits == CROWD:
                        crowded.touch()
                    if greeting is None:
                        sock.close()
                    else:
                        silent.append(sock)
                        if len(silent) > 300:
                            silent.pop(0).close()
        for sock in silent:
            sock.close()


flood = Flood()
listen = Device.listen


def listen_and_be_found(device, backlog):
    listeners = listen(device, backlog)
    if rank == 0:
        flood.addresses = [(listener.family, listener.getsockname()) for listener in listeners.sockets]
        flood.start()
    else:  # rank 0 listens, and has no record of this rank yet
        limit = time.monotonic() + 20
        while not crowded.exists() and time.monotonic() < limit:
            time.sleep(0.01)
    return listeners


with Context.from_mpi(world):
    pass
files, listeners = open_files(), listening()
Device.listen = listen_and_be_found
began = time.monotonic()
with Context.from_mpi(world, device=Device(transport=transport), timeout=30, connect_timeout=40) as ctx:
    seconds = time.monotonic() - began
    total = int(ctx.allreduce(ctx.rank + 1))
    flood.over.set()
    if rank == 0:
        flood.join()
    still_listening = sorted(listening() - listeners)
leaked = open_files() - files
report(rank, seconds=seconds, total=total, visits=flood.visits, lines=len(lines), listening=still_listening, leaked=leaked)
