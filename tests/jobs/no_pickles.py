"""GLOOMPI_PICKLE=off with the face of mpi4py: what each way of sending or receiving an object says."""

import numpy as np
from report import report

from gloompi import MPI

comm = MPI.COMM_WORLD
rank = comm.Get_rank()
ways = [
    lambda: comm.send(1, 1 - rank),
    lambda: comm.ssend(1, 1 - rank),
    lambda: comm.bsend(1, 1 - rank),
    lambda: comm.isend(1, 1 - rank),
    lambda: comm.recv(source=1 - rank),
    lambda: comm.irecv(source=1 - rank),
    lambda: comm.bcast(1, root=0),
    lambda: comm.Dup().allgather(1),
    lambda: comm.sendrecv(1, 1 - rank, source=1 - rank),
]
refused = []
for way in ways:
    try:
        way()
    except RuntimeError as exc:
        refused.append(str(exc))
total = np.zeros(1)
comm.Allreduce(np.ones(1), total)
report(rank, refused=refused, tried=len(ways), total=float(total[0]))
