"""MPI, through mpi4py, as a candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .candidate import Work
from .case import Buffers, Case

__all__ = ["MPICandidate"]

_METHODS = {
    "reduce": "Reduce",
    "allreduce": "Allreduce",
    "reduce_scatter": "Reduce_scatter_block",
    "scan": "Scan",
    "exscan": "Exscan",
    "gather": "Gather",
    "allgather": "Allgather",
    "scatter": "Scatter",
    "alltoall": "Alltoall",
}


class MPICandidate:
    """The operations of a communicator, on NumPy arrays as a program would pass them."""

    name = "mpi"

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.barrier = comm.Barrier

    def work(self, case: Case, buffers: Buffers) -> Work:
        from mpi4py import MPI

        comm, operation, x, out = self._comm, case.operation, buffers.x, buffers.out
        rank, size = comm.Get_rank(), comm.Get_size()
        if operation == "barrier":
            return Work(comm.Barrier)
        if operation == "broadcast":
            return Work(lambda: comm.Bcast(x))
        if operation == "sendrecv":
            after, before = (rank + 1) % size, (rank - 1) % size
            return Work(lambda: comm.Sendrecv(x, after, recvbuf=out, source=before))
        if operation == "send/recv":
            return Work(self._ping_pong(x, out))
        method = getattr(comm, _METHODS[operation])
        if not case.reduces:
            return Work(lambda: method(x, out))
        op = {"sum": MPI.SUM, "prod": MPI.PROD, "min": MPI.MIN, "max": MPI.MAX}[case.op]
        return Work(lambda: method(x, out, op=op))

    def _ping_pong(self, x: Any, out: Any) -> Callable[[], object]:
        comm = self._comm

        def ping() -> None:
            comm.Send(x, 1)
            comm.Recv(out, 1)

        def pong() -> None:
            comm.Recv(out, 0)
            comm.Send(x, 0)

        return pong if comm.Get_rank() else ping

    def close(self) -> None:
        """The communicator belongs to others."""
