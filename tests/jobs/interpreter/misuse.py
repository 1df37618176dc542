"""Deliberate mistakes that all ranks make alike and that mpi4py or MPI refuses before anything is sent.

The list holds those that MPICH and Open MPI refuse with the same class of error.  The result is the class of the
exception, and MPI's class of error where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .scene import Scene


class Mistakes:
    """The arguments that the mistakes share."""

    def __init__(self, MPI: Any, comm: Any, tag: int) -> None:
        self.MPI, self.comm, self.tag = MPI, comm, tag
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.ints, self.others, self.floats = np.arange(4, dtype="i"), np.zeros(4, "i"), np.zeros(4)
        self.many = np.zeros(4 * self.size, "i")

    def freed(self) -> Any:
        copy = self.comm.Dup()
        copy.Free()
        return copy


MISTAKES: dict[str, Callable[[Mistakes], Any]] = {
    "Bcast root size": lambda m: m.comm.Bcast(m.ints, m.size),
    "Ibcast root size": lambda m: m.comm.Ibcast(m.ints, m.size),
    "Bcast root -5": lambda m: m.comm.Bcast(m.ints, -5),
    "Reduce root size": lambda m: m.comm.Reduce(m.ints, m.others, m.MPI.SUM, m.size),
    "Gather root size": lambda m: m.comm.Gather(m.ints, None, m.size),
    "bcast root size": lambda m: m.comm.bcast(1, m.size),
    "gather root -9": lambda m: m.comm.gather(1, -9),
    "root is text": lambda m: m.comm.Bcast(m.ints, "0"),
    "Send dest size": lambda m: m.comm.Send(m.ints, m.size, m.tag),
    "Send dest -5": lambda m: m.comm.Send(m.ints, -5, m.tag),
    "Isend dest size": lambda m: m.comm.Isend(m.ints, m.size, m.tag),
    "send dest size": lambda m: m.comm.send(1, m.size, m.tag),
    "Recv source size": lambda m: m.comm.Recv(m.ints, m.size, m.tag),
    "recv source size": lambda m: m.comm.recv(None, m.size, m.tag),
    "Probe source size": lambda m: m.comm.Probe(m.size, m.tag),
    "Send tag -5": lambda m: m.comm.Send(m.ints, m.rank, -5),
    "send tag -4": lambda m: m.comm.send(1, m.rank, -4),
    "Irecv tag -7": lambda m: m.comm.Irecv(m.ints, m.rank, -7),
    "unpicklable": lambda m: m.comm.send(lambda: 0, m.rank, m.tag),
    "no such code": lambda m: m.comm.Bcast([m.ints, "nope"]),
    "count -1": lambda m: m.comm.Bcast([m.ints, -1, m.MPI.INT]),
    "displacement -1": lambda m: m.comm.Bcast([m.ints, (1, -1), m.MPI.INT]),
    "displacement too large": lambda m: m.comm.Bcast([m.ints, (1, 9), m.MPI.INT]),
    "count of None": lambda m: m.comm.Send([None, 3, m.MPI.INT], m.rank, m.tag),
    "no multiple": lambda m: m.comm.Send([np.zeros(7, "u1"), m.MPI.INT], m.rank, m.tag),
    "a number": lambda m: m.comm.Bcast(5),
    "None": lambda m: m.comm.Bcast(None),
    "a text": lambda m: m.comm.Bcast("text"),
    "a list of numbers": lambda m: m.comm.Bcast([1, 2, 3, 4]),
    "one item": lambda m: m.comm.Bcast([m.ints]),
    "five items": lambda m: m.comm.Bcast([m.ints, 1, 0, m.MPI.INT, 0]),
    "strided": lambda m: m.comm.Bcast(m.ints[::2]),
    "objects": lambda m: m.comm.Bcast(np.array([None, 1], dtype=object)),
    "other byte order": lambda m: m.comm.Bcast(m.ints.astype(">i4")),
    "received into bytes": lambda m: m.comm.Irecv(b"1234", m.rank, m.tag),
    "null datatype": lambda m: m.comm.Bcast([m.ints, 1, m.MPI.DATATYPE_NULL]),
    "two datatypes": lambda m: m.comm.Allreduce(m.ints, m.floats),
    "two counts": lambda m: m.comm.Allreduce(m.ints, m.others[:2]),
    "Iallreduce two counts": lambda m: m.comm.Iallreduce(m.ints, m.others[:2]),
    "no receive buffer": lambda m: m.comm.Allreduce(m.ints, None),
    "no operation": lambda m: m.comm.Allreduce(m.ints, m.others, None),
    "operation is text": lambda m: m.comm.Allreduce(m.ints, m.others, "sum"),
    "null operation": lambda m: m.comm.Allreduce(m.ints, m.others, m.MPI.OP_NULL),
    "REPLACE": lambda m: m.comm.Allreduce(m.ints, m.others, m.MPI.REPLACE),
    "bits of floats": lambda m: m.comm.Allreduce(m.floats, m.floats.copy(), m.MPI.BAND),
    "too many counts": lambda m: m.comm.Reduce_scatter(m.ints, m.others, [4] * (m.size + 1)),
    "counts of other sum": lambda m: m.comm.Reduce_scatter(m.ints, m.others, [5] * m.size),
    "Allgatherv too many counts": lambda m: m.comm.Allgatherv(m.ints, [m.many, [1] * (m.size + 1)]),
    "Alltoallw one item": lambda m: m.comm.Alltoallw([m.ints], [m.others]),
    "alltoall too many": lambda m: m.comm.alltoall([0] * (m.size + 1)),
    "Barrier after Free": lambda m: m.freed().Barrier(),
    "Bcast after Free": lambda m: m.freed().Bcast(m.ints),
}


def misuse(scene: Scene, step: dict[str, Any], comm: Any, tag: int) -> Any:
    try:
        MISTAKES[step["mistake"]](Mistakes(scene.MPI, comm, tag))
    except Exception as exc:
        code = exc.Get_error_class() if isinstance(exc, scene.MPI.Exception) else None
        return [type(exc).__name__, code]
    return ["no error"]
