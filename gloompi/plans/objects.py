"""Plans of the collectives on Python objects: their bytes are pieces, and the reductions call the operator on objects."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from ..arrays import Array
from ..collectives import allgather, alltoall, broadcast, gather, scatter
from ..engine.fingerprint import fingerprint
from ..engine.task import Task
from ..objects import decode, encode
from .base import NO_DTYPE, PlanBase

__all__ = ["ObjectOp", "ObjectPlans"]

ObjectOp = Callable[[Any, Any], Any]

# Python's functions of a sequence, by what they are of two: sum(a, b) adds all of a to b.
_OF_TWO: tuple[tuple[object, ObjectOp], ...] = (
    (sum, operator.add),
    (any, lambda a, b: bool(a or b)),
    (all, lambda a, b: bool(a and b)),
)


class ObjectPlans(PlanBase):
    """Broadcast, gather, allgather, scatter, alltoall, reduce, allreduce, scan and exscan of objects."""

    def broadcast_object(self, obj: Any, root: int, *, copy: bool = False) -> Task:
        """With `copy`, the root gets a copy too."""
        root = self._peer(root, "root")
        at_root = self._rank == root
        message = [encode(obj, self.pickler)] if at_root else []
        return self._collective(
            "broadcast_object",
            _mark("broadcast_object", root),
            lambda call: broadcast.broadcastv(call, message, root),
            lambda: obj if at_root and not copy else self._decode(message[0]),
        )

    def gather_object(self, obj: Any, root: int) -> Task:
        return self._gathered("gather_object", obj, root, lambda found: found)

    def reduce_object(self, obj: Any, op: ObjectOp, root: int) -> Task:
        function = _of_two(op)
        return self._gathered("reduce_object", obj, root, lambda found: reduce(function, found))

    def _gathered(self, name: str, obj: Any, root: int, make: Callable[[list[Any]], Any]) -> Task:
        root = self._peer(root, "root")
        message = encode(obj, self.pickler)
        pieces: list[Array] = []
        return self._collective(
            name,
            _mark(name, root),
            lambda call: gather.gatherv(call, message, pieces, root),
            lambda: make(self._objects(pieces)) if self._rank == root else None,
        )

    def allgather_object(self, obj: Any) -> Task:
        return self._allgathered("allgather_object", obj, lambda found: found)

    def allreduce_object(self, obj: Any, op: ObjectOp) -> Task:
        function = _of_two(op)
        return self._allgathered("allreduce_object", obj, lambda found: reduce(function, found))

    def scan_object(self, obj: Any, op: ObjectOp) -> Task:
        function = _of_two(op)
        return self._allgathered("scan_object", obj, lambda found: reduce(function, found[: self._rank + 1]))

    def exscan_object(self, obj: Any, op: ObjectOp) -> Task:
        function = _of_two(op)
        return self._allgathered(
            "exscan_object", obj, lambda found: reduce(function, found[: self._rank]) if self._rank else None
        )

    def _allgathered(self, name: str, obj: Any, make: Callable[[list[Any]], Any]) -> Task:
        message = encode(obj, self.pickler)
        pieces: list[Array] = []
        return self._collective(
            name,
            _mark(name),
            lambda call: allgather.allgatherv(call, message, pieces),
            lambda: make(self._objects(pieces)),
        )

    def scatter_object(self, objects: Sequence[Any] | None, root: int) -> Task:
        root = self._peer(root, "root")
        messages = self._messages(objects) if self._rank == root else None
        piece: list[Array] = []
        return self._collective(
            "scatter_object",
            _mark("scatter_object", root),
            lambda call: scatter.scatterv(call, messages, piece, root),
            lambda: self._decode(piece[0]),
        )

    def alltoall_object(self, objects: Sequence[Any]) -> Task:
        messages = self._messages(objects)
        pieces: list[Array] = []
        return self._collective(
            "alltoall_object",
            _mark("alltoall_object"),
            lambda call: alltoall.alltoallv(call, messages, pieces),
            lambda: self._objects(pieces),
        )

    def _messages(self, objects: Sequence[Any] | None) -> list[Array]:
        given = None if objects is None else list(objects)
        if given is None or len(given) != self._size:
            found = "None" if given is None else str(len(given))
            raise ValueError(f"objects must be {self._size}, one for each rank, not {found}")
        return [encode(obj, self.pickler) for obj in given]

    def _objects(self, pieces: list[Array]) -> list[Any]:
        return [self._decode(piece) for piece in pieces]

    def _decode(self, piece: Array) -> Any:
        return decode(piece.data, self.pickler)


def _mark(name: str, root: int = -1) -> bytes:
    return fingerprint(name, NO_DTYPE, 0, root)


def _of_two(op: ObjectOp) -> ObjectOp:
    """The function of two objects that is meant."""
    if not callable(op):
        raise TypeError(f"op must be a callable f(a, b) -> c, not {type(op).__name__}")
    return next((function for known, function in _OF_TWO if op is known), op)
