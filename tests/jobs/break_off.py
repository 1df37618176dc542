"""A rank whose streams end in the middle of a frame: ``FOLDER RANK SIZE VICTIM TRANSPORT HOW NBYTES``.

NBYTES is how much of what it sends in an allreduce still goes out, over all its connections; HOW is ``end`` or ``reset``.
"""

import os
import socket
import struct
import sys
import time

import numpy as np
from aftermath import Remains, later, outcome_of
from report import report

from gloompi import Context, Device, FileStore
from gloompi.transport.pair import Pair

folder, rank, size, victim, transport, how, allowed = sys.argv[1:]
rank, size, victim, allowed = int(rank), int(size), int(victim), int(allowed)
COUNT = 2000


def connect():
    device = Device(transport=transport, single_copy=False)
    return Context.from_store(store, rank, size, device=device, timeout=60, connect_timeout=20)


class Breaking(socket.socket):
    """Sends what is allowed; then this stream ends, and the others when its peer has noticed."""

    left = 0

    def send(self, data, *_flags):
        return self.sendmsg([data])

    def sendmsg(self, buffers, *_rest):
        sent = super().send(b"".join(buffers)[: Breaking.left])
        Breaking.left -= sent
        if not Breaking.left:
            leave(self)
        return sent


def leave(broken):
    began = time.monotonic()
    if how == "reset":
        # No FIN, and nothing more is sent: the peer gets a RST.
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broken.close()
    else:
        broken.shutdown(socket.SHUT_WR)
    for link in sorted(links, key=lambda link: link.sock is not broken):
        if link.sock.fileno() >= 0:
            drain(link.sock)  # unread input would make the end a reset
    report(rank, pid=os.getpid(), broke=began)
    os._exit(0)


def drain(sock):
    sock.settimeout(10)
    while sock.recv(65536):
        pass


store = FileStore(folder)
with connect() as first:
    first.barrier()
remains = Remains()
ctx = connect()
x = np.arange(COUNT) * 3.0 + rank
ctx.allreduce(x)
report(rank, pid=os.getpid())
if rank == victim:
    sys.stdin.readline()  # all are out of the first allreduce
    links = [link for link in ctx._engine._links if isinstance(link, Pair)]
    Breaking.left = allowed
    for link in links:
        link.sock = Breaking(fileno=link.sock.detach())
outcome = outcome_of(lambda: ctx.allreduce(x))
afterwards = later(ctx)
closing = outcome_of(ctx.close)
report(rank, pid=os.getpid(), outcome=outcome, later=afterwards, closing=closing, remains=remains.new())
