"""Plans of the collectives on Python objects: their bytes are pieces, and the reductions call the operator on objects."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..arrays import Array
from ..collectives import allgather, alltoall, broadcast, gather, in_order, scatter
from ..engine.call import Call
from ..engine.fingerprint import fingerprint
from ..engine.operation import Steps
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
        pickler = self.pickler  # who only receives is refused before, too
        message = [encode(obj, pickler)] if at_root else []
        return self._collective(
            "broadcast_object",
            _mark("broadcast_object", root),
            lambda call: broadcast.broadcastv(call, message, root),
            lambda: obj if at_root and not copy else decode(message[0].data, pickler),
        )

    def gather_object(self, obj: Any, root: int) -> Task:
        root = self._peer(root, "root")
        message = encode(obj, self.pickler)
        pieces: list[Array] = []
        return self._collective(
            "gather_object",
            _mark("gather_object", root),
            lambda call: gather.gatherv(call, message, pieces, root),
            lambda: self._objects(pieces) if self._rank == root else None,
        )

    def allgather_object(self, obj: Any) -> Task:
        message = encode(obj, self.pickler)
        pieces: list[Array] = []
        return self._collective(
            "allgather_object",
            _mark("allgather_object"),
            lambda call: allgather.allgatherv(call, message, pieces),
            lambda: self._objects(pieces),
        )

    def reduce_object(self, obj: Any, op: ObjectOp, root: int) -> Task:
        root = self._peer(root, "root")
        wanted = self._size if self._rank == root else 0
        return self._reduced("reduce_object", obj, op, wanted, partial(in_order.to_root, root=root), root)

    def allreduce_object(self, obj: Any, op: ObjectOp) -> Task:
        return self._reduced("allreduce_object", obj, op, self._size, in_order.to_all)

    def scan_object(self, obj: Any, op: ObjectOp) -> Task:
        return self._reduced("scan_object", obj, op, self._rank + 1, in_order.upwards)

    def exscan_object(self, obj: Any, op: ObjectOp) -> Task:
        return self._reduced("exscan_object", obj, op, self._rank, in_order.upwards)

    def _reduced(
        self, name: str, obj: Any, op: ObjectOp, wanted: int, hand_over: Callable[..., Steps], root: int = -1
    ) -> Task:
        function = _of_two(op)
        given = [encode(obj, self.pickler)]
        total = _Total(function, wanted, self._decode)

        def steps(call: Call) -> Steps:
            yield from hand_over(call, given.pop(), total.take)

        return self._collective(name, _mark(name, root), steps, total.result)

    def scatter_object(self, objects: Sequence[Any] | None, root: int) -> Task:
        root = self._peer(root, "root")
        pickler = self.pickler
        messages = self._messages(objects) if self._rank == root else None
        piece: list[Array] = []
        return self._collective(
            "scatter_object",
            _mark("scatter_object", root),
            lambda call: scatter.scatterv(call, messages, piece, root),
            lambda: decode(piece[0].data, pickler),
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


class _Total:
    """Objects reduced as they come.

    Every operand is a copy that nobody else has: the operator may change it, and return it.

    Parameters
    ----------
    op : callable
    wanted : int
        Operands that it is made of; others are left out.
    decode : callable
        Makes an object of its bytes.
    """

    def __init__(self, op: ObjectOp, wanted: int, decode: Callable[[Array], Any]) -> None:
        self._op = op
        self._wanted = wanted
        self._decode = decode
        self._taken = 0
        self._total: Any = None
        self._failure: Exception | None = None

    def take(self, piece: Array) -> None:
        """Add the object of the next rank.

        What fails here fails in the result alone: this rank has to pass on the rest all the same.
        """
        if self._taken == self._wanted or self._failure is not None:
            return
        try:
            operand = self._decode(piece)
            self._total = self._op(self._total, operand) if self._taken else operand
        except Exception as exc:
            self._total, self._failure = None, exc
        self._taken += 1

    def result(self) -> Any:
        """All of them, None if there are none; raises what the operator has raised."""
        if self._failure is not None:
            raise self._failure
        return self._total


def _mark(name: str, root: int = -1) -> bytes:
    return fingerprint(name, NO_DTYPE, 0, root)


def _of_two(op: ObjectOp) -> ObjectOp:
    """The function of two objects that is meant."""
    if not callable(op):
        raise TypeError(f"op must be a callable f(a, b) -> c, not {type(op).__name__}")
    return next((function for known, function in _OF_TWO if op is known), op)
