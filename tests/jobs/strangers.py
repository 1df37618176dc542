"""Strangers flood the listening sockets of rank 0 from before the rendezvous to its end."""

import logging
import os
import socket
import sys
import threading
import time

from mpi4py import MPI
from report import report
from traces import listening, open_files

from gloompi import Context, Device

transport = sys.argv[1]
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
    return listeners


with Context.from_mpi(world):
    pass
files, listeners = open_files(), listening()
Device.listen = listen_and_be_found
if rank:
    # By then there are more strangers waiting than a backlog holds, even where rank 0 leaves their thread little time.
    time.sleep(3.0)
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
