"""Collectives on Python objects: the lower-case methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI as mpi

from .checks import known_root
from .communicator import CommBase

__all__ = ["ObjectComm"]

_Op = mpi.Op | Callable[[Any, Any], Any]


class ObjectComm(CommBase):
    """bcast, gather, ...: anything that can be pickled."""

    def barrier(self) -> None:
        self._context.barrier()

    def bcast(self, obj: Any, root: int = 0) -> Any:
        context = self._context
        return context._run(context._plan.broadcast_object(obj, known_root(context, root), copy=True), None)

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        return self._context.gather_object(sendobj, root=known_root(self._context, root))

    def scatter(self, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        return self._context.scatter_object(self._one_each(sendobj), root=known_root(self._context, root))

    def allgather(self, sendobj: Any) -> list[Any]:
        return self._context.allgather_object(sendobj)

    def alltoall(self, sendobj: Sequence[Any]) -> list[Any]:
        return self._context.alltoall_object(self._one_each(sendobj))

    def _one_each(self, objects: Sequence[Any] | None) -> Sequence[Any]:
        """What each rank gets; nothing is None for each, as mpi4py has it."""
        return [None] * self._context.size if objects is None else objects

    def reduce(self, sendobj: Any, op: _Op = mpi.SUM, root: int = 0) -> Any:
        return self._context.reduce_object(sendobj, op=op, root=known_root(self._context, root))

    def allreduce(self, sendobj: Any, op: _Op = mpi.SUM) -> Any:
        return self._context.allreduce_object(sendobj, op=op)

    def scan(self, sendobj: Any, op: _Op = mpi.SUM) -> Any:
        return self._context.scan_object(sendobj, op=op)

    def exscan(self, sendobj: Any, op: _Op = mpi.SUM) -> Any:
        return self._context.exscan_object(sendobj, op=op)
