"""Calls of the mpi4py-compatible module, and what the flight recorder says of them."""

import numpy as np
from report import report

from gloompi import MPI

comm = MPI.COMM_WORLD
rank, other = comm.rank, 1 - comm.rank
comm.Barrier()
comm.Allreduce(np.ones(4), np.empty(4))
comm.Bcast(np.zeros(3, "i4"), root=1)
comm.Sendrecv(np.ones(3), other, 0, np.empty(3), MPI.ANY_SOURCE, 0)
comm.bcast("text")
request = comm.Isend(np.ones(2), other)
comm.Recv(np.empty(2), MPI.ANY_SOURCE)
request.Wait()
comm.send("text", other)
comm.recv(source=other)
context = comm._context
history = [[r.number, r.name, r.peer, r.dtype, r.count, r.nbytes, r.state] for r in context.history()]
report(rank, history=history)
