"""One rank sends, or receives, an array over a file that was truncated: once in each of several Contexts."""

import os
import sys
import tempfile
import time

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, Device, GloompiError

rank = MPI.COMM_WORLD.Get_rank()
transport, single_copy = sys.argv[1], sys.argv[2] == "1"
LENGTH = 9_000_000

outcomes = {}
for name, culprit in (("small send", 0), ("large send", 0), ("large receive", 2)):
    nbytes = 1000 if name == "small send" else LENGTH
    outcome = {}
    began = time.monotonic()
    try:
        with (
            tempfile.TemporaryFile() as file,
            Context.from_mpi(
                device=Device(transport=transport, single_copy=single_copy), timeout=20.0, connect_timeout=30.0
            ) as ctx,
        ):
            file.truncate(nbytes)
            x = np.memmap(file, np.uint8, "r+", shape=(nbytes,))
            if rank == culprit:
                os.ftruncate(file.fileno(), 5_000_000 if nbytes == LENGTH else 0)
            ctx.barrier()
            began = time.monotonic()
            if rank == 0:
                ctx.send(x, 2)
            elif rank == 2:
                ctx.recv(x, 0)
            ctx.barrier()
    except GloompiError as exc:
        outcome = {"error": type(exc).__name__, "text": str(exc)}
    outcomes[name] = {**outcome, "seconds": time.monotonic() - began}
report(rank, outcomes=outcomes)
