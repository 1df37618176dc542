"""Every operation over sockets that take and give little: ``FOLDER RANK SIZE TRANSPORT WHAT``.

WHAT is the most bytes that a system call moves, or ``buffers`` for the smallest socket buffers that the kernel has.
"""

import os
import socket
import sys

import numpy as np
import operations
from aftermath import Remains
from report import report

from gloompi import Context, Device, FileStore
from gloompi.rendezvous import connecting
from gloompi.transport import device as listening

folder, rank, size, transport, what = sys.argv[1:]
rank, size = int(rank), int(size)
LARGE = 40_000  # bytes, more than goes without being asked for


class Sliced(socket.socket):
    """Every call moves `most` bytes at most."""

    most = 1

    def send(self, data, *_flags):
        return super().send(memoryview(data)[: self.most])

    def sendmsg(self, buffers, *_rest):
        return super().send(next(buffer for buffer in buffers if len(buffer))[: self.most])

    def recv_into(self, buffer, nbytes=0, *_flags):
        return super().recv_into(buffer, min(nbytes or len(buffer), self.most))


def sliced(connections):
    sockets, taken = hand_over(connections)
    return [sock and Sliced(fileno=sock.detach()) for sock in sockets], taken


def narrow(sock):
    tune(sock)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)  # the kernel raises it to its least


def connect():
    device = Device(transport=transport, single_copy=False)
    return Context.from_store(store, rank, size, device=device, timeout=60, connect_timeout=20)


if what == "buffers" and transport == "tcp":
    operations.COUNTS = (0, 1, 7)  # with a window smaller than a packet, TCP waits after each
if what == "buffers":
    tune = connecting.tune
    connecting.tune = listening.tune = narrow
else:
    Sliced.most = int(what)
    hand_over, connecting.Connecting.hand_over = connecting.Connecting.hand_over, sliced
    operations.COUNTS = (0, 1, 7)
store = FileStore(folder)
with connect() as first:
    first.barrier()
remains = Remains()
with connect() as ctx:
    (*_, link) = (link for link in ctx._engine._links if link.rank != rank)
    buffers = [link.sock.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
    kind = type(link.sock).__name__
    operations.run_all(ctx)
    x = np.arange(LARGE // 8) * 3.0
    assert np.array_equal(ctx.allreduce(x + rank), x * size + size * (size - 1) / 2)
report(rank, pid=os.getpid(), buffers=buffers, kind=kind, remains=remains.new())
