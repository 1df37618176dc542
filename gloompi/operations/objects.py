"""The collectives on Python objects."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from ..plans.objects import ObjectOp
from ..request import Request
from .running import Running

__all__ = ["Objects"]


class Objects(Running):
    """Broadcast, gather, allgather, scatter, alltoall, reduce, allreduce, scan and exscan of objects."""

    def broadcast_object(self, obj: Any = None, *, root: int = 0, timeout: float | None = None) -> Any:
        """Return the root's object on every rank.

        Pickled (protocol 5); an array in an object is copied once.  Unpickling runs code that the sender chooses: every rank
        of a Context is trusted.
        """
        return self._run(self._plan.broadcast_object(obj, root), timeout)

    def ibroadcast_object(self, obj: Any = None, *, root: int = 0) -> Request:
        """Non-blocking `broadcast_object`; what is passed may be changed at once."""
        return self._start(self._plan.broadcast_object(obj, root))

    def gather_object(self, obj: Any, *, root: int = 0, timeout: float | None = None) -> list[Any] | None:
        """Return the list of all ranks' objects at the root, None elsewhere."""
        result: list[Any] | None = self._run(self._plan.gather_object(obj, root), timeout)
        return result

    def igather_object(self, obj: Any, *, root: int = 0) -> Request:
        """Non-blocking `gather_object`; what is passed may be changed at once."""
        return self._start(self._plan.gather_object(obj, root))

    def allgather_object(self, obj: Any, *, timeout: float | None = None) -> list[Any]:
        """Return the list of all ranks' objects on all ranks."""
        result: list[Any] = self._run(self._plan.allgather_object(obj), timeout)
        return result

    def iallgather_object(self, obj: Any) -> Request:
        """Non-blocking `allgather_object`; what is passed may be changed at once."""
        return self._start(self._plan.allgather_object(obj))

    def scatter_object(self, objects: Sequence[Any] | None = None, *, root: int = 0, timeout: float | None = None) -> Any:
        """Return item r of the root's sequence on rank r; `objects` has one item per rank, and is ignored elsewhere."""
        return self._run(self._plan.scatter_object(objects, root), timeout)

    def iscatter_object(self, objects: Sequence[Any] | None = None, *, root: int = 0) -> Request:
        """Non-blocking `scatter_object`; what is passed may be changed at once."""
        return self._start(self._plan.scatter_object(objects, root))

    def alltoall_object(self, objects: Sequence[Any], *, timeout: float | None = None) -> list[Any]:
        """Return the list of what each rank has at this rank's place of its `objects`, which are one per rank."""
        result: list[Any] = self._run(self._plan.alltoall_object(objects), timeout)
        return result

    def ialltoall_object(self, objects: Sequence[Any]) -> Request:
        """Non-blocking `alltoall_object`; what is passed may be changed at once."""
        return self._start(self._plan.alltoall_object(objects))

    def reduce_object(self, obj: Any, *, op: ObjectOp = operator.add, root: int = 0, timeout: float | None = None) -> Any:
        """Return ``op`` over all ranks' objects at the root, None elsewhere.

        `op` is ``f(a, b) -> c`` and associative; it is called in rank order, on the ranks that get a result, and may change
        what it is given, which are copies.  Python's sum, any and all take a sequence, and stand for what they do to two.
        """
        return self._run(self._plan.reduce_object(obj, op, root), timeout)

    def ireduce_object(self, obj: Any, *, op: ObjectOp = operator.add, root: int = 0) -> Request:
        """Non-blocking `reduce_object`; what is passed may be changed at once."""
        return self._start(self._plan.reduce_object(obj, op, root))

    def allreduce_object(self, obj: Any, *, op: ObjectOp = operator.add, timeout: float | None = None) -> Any:
        """Return ``op`` over all ranks' objects on all ranks; see `reduce_object`."""
        return self._run(self._plan.allreduce_object(obj, op), timeout)

    def iallreduce_object(self, obj: Any, *, op: ObjectOp = operator.add) -> Request:
        """Non-blocking `allreduce_object`; what is passed may be changed at once."""
        return self._start(self._plan.allreduce_object(obj, op))

    def scan_object(self, obj: Any, *, op: ObjectOp = operator.add, timeout: float | None = None) -> Any:
        """Return ``op`` over the objects of the ranks up to and including this one; see `reduce_object`."""
        return self._run(self._plan.scan_object(obj, op), timeout)

    def iscan_object(self, obj: Any, *, op: ObjectOp = operator.add) -> Request:
        """Non-blocking `scan_object`; what is passed may be changed at once."""
        return self._start(self._plan.scan_object(obj, op))

    def exscan_object(self, obj: Any, *, op: ObjectOp = operator.add, timeout: float | None = None) -> Any:
        """Return ``op`` over the objects of the ranks before this one, None on rank 0; see `reduce_object`."""
        return self._run(self._plan.exscan_object(obj, op), timeout)

    def iexscan_object(self, obj: Any, *, op: ObjectOp = operator.add) -> Request:
        """Non-blocking `exscan_object`; what is passed may be changed at once."""
        return self._start(self._plan.exscan_object(obj, op))
