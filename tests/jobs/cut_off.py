"""A rank whose connections fail while it works, waits or is idle: ``FOLDER RANK SIZE SCENE NBYTES TIMEOUT KEEPALIVE``.

KEEPALIVE is idle,interval,count in seconds and probes, in place of the library's, or ``default``.
"""

import os
import sys

import numpy as np
from aftermath import Remains, later, outcome_of
from report import report

from gloompi import Context, Device, FileStore
from gloompi.transport import options

folder, rank, size, scene, nbytes, timeout, keepalive = sys.argv[1:]
rank, size, nbytes, timeout = int(rank), int(size), int(nbytes), None if timeout == "None" else float(timeout)
if keepalive != "default":
    options.KEEPALIVE = options.Keepalive(*map(int, keepalive.split(",")))


def connect():
    return Context.from_store(store, rank, size, device=Device(single_copy=False), timeout=timeout, connect_timeout=20)


def work():
    while True:
        ctx.allreduce(x, out)
        if not np.array_equal(out, total):
            wrong.append(finished[0])
        finished[0] += 1
        if finished[0] == 3:
            report(rank, pid=os.getpid(), ready=True)


def ready():
    report(rank, pid=os.getpid(), ready=True)


def idle():
    ready()
    sys.stdin.readline()
    ctx.allreduce(x, out)


def receive():
    """From the next rank, which sends nothing."""
    ready()
    ctx.recv(out, (rank + 1) % size)


store = FileStore(folder)
with connect() as first:
    first.barrier()
remains = Remains()
finished, wrong = [0], []
base = np.arange(nbytes // 8) % 1000 * 3.0
x, out, total = base * (rank + 1), np.empty_like(base), base * (size * (size + 1) // 2)
ctx = connect()
ctx.barrier()
outcome = outcome_of({"work": work, "idle": idle, "receive": receive}[scene])
afterwards = later(ctx) if outcome["error"] else []
closing = outcome_of(ctx.close)
report(
    rank,
    pid=os.getpid(),
    outcome=outcome,
    finished=finished[0],
    wrong=wrong,
    right=np.array_equal(out, total),
    later=afterwards,
    closing=closing,
    remains=remains.new(),
)
