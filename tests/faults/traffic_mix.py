"""Operations drawn at random, the same on all ranks, with results that every rank can compute by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gloompi import Context

__all__ = ["Operation", "WrongResult", "draw", "perform"]

# Items of an array: what goes at once, what is announced or read in memory, what takes many system calls.
_COUNTS = (0, 1, 100, 10_000, 300_000)
_LARGE_COUNT, _LARGE_SHARE = 2_000_000, 0.03


class WrongResult(Exception):
    """An operation has returned without an error, and not what it should."""


class Operation(NamedTuple):
    """One operation of a run.

    Attributes
    ----------
    name : str
    index : int
        In the run.
    count : int
        Items of a rank's array.
    root : int
    op : str
    """

    name: str
    index: int
    count: int
    root: int
    op: str


def draw(source: random.Random, size: int, number: int, more: Sequence[str] = ()) -> list[Operation]:
    """Return `number` operations for `size` ranks; `more` are names that `perform` does not know."""
    names = [*sorted(_PERFORM), *more]
    found = []
    for index in range(number):
        large = source.random() < _LARGE_SHARE
        count = _LARGE_COUNT // size if large else source.choice(_COUNTS)
        name, root, op = source.choice(names), source.randrange(size), source.choice(["sum", "max", "min"])
        found.append(Operation(name, index, count, root, op))
    return found


def perform(ctx: Context, operation: Operation) -> None:
    """Do an operation and compare its result.

    Raises
    ------
    WrongResult
    """
    found, expected = _PERFORM[operation.name](ctx, operation)
    if not np.array_equal(found, expected):
        raise WrongResult(f"{operation} of rank {ctx.rank}: {found!r} instead of {expected!r}")


def _values(rank: int, operation: Operation) -> np.ndarray:
    """What a rank contributes: small whole numbers, whose sums are exact."""
    return (np.arange(operation.count) * (rank + 3) + operation.index) % 97.0


def _all(ctx: Context, operation: Operation) -> np.ndarray:
    return np.array([_values(rank, operation) for rank in range(ctx.size)])


def _reduced(rows: np.ndarray, op: str) -> np.ndarray:
    reduced: np.ndarray = {"sum": np.sum, "max": np.max, "min": np.min}[op](rows, axis=0)
    return reduced


Outcome = tuple[Any, Any]


def _allreduce(ctx: Context, operation: Operation) -> Outcome:
    found = ctx.allreduce(_values(ctx.rank, operation), op=operation.op)
    return found, _reduced(_all(ctx, operation), operation.op)


def _iallreduce(ctx: Context, operation: Operation) -> Outcome:
    requests = [ctx.iallreduce(_values(ctx.rank, operation), op=operation.op) for _ in range(2)]
    results = [request.wait() for request in reversed(requests)]
    return results, [_reduced(_all(ctx, operation), operation.op)] * 2


def _reduce(ctx: Context, operation: Operation) -> Outcome:
    found = ctx.reduce(_values(ctx.rank, operation), root=operation.root, op=operation.op)
    return (found, _reduced(_all(ctx, operation), operation.op)) if ctx.rank == operation.root else (0, 0)


def _reduce_scatter(ctx: Context, operation: Operation) -> Outcome:
    rows = np.tile(_values(ctx.rank, operation), (ctx.size, 1))
    return ctx.reduce_scatter(rows, op=operation.op)[0], _reduced(_all(ctx, operation), operation.op)


def _scan(ctx: Context, operation: Operation) -> Outcome:
    found = ctx.scan(_values(ctx.rank, operation), op=operation.op)
    return found, _reduced(_all(ctx, operation)[: ctx.rank + 1], operation.op)


def _broadcast(ctx: Context, operation: Operation) -> Outcome:
    x = _values(ctx.rank, operation)
    return ctx.broadcast(x, root=operation.root), _values(operation.root, operation)


def _allgather(ctx: Context, operation: Operation) -> Outcome:
    return ctx.allgather(_values(ctx.rank, operation)), _all(ctx, operation)


def _gather(ctx: Context, operation: Operation) -> Outcome:
    found = ctx.gather(_values(ctx.rank, operation), root=operation.root)
    return (found, _all(ctx, operation)) if ctx.rank == operation.root else (0, 0)


def _scatter(ctx: Context, operation: Operation) -> Outcome:
    rows = _all(ctx, operation) if ctx.rank == operation.root else None
    return ctx.scatter(rows, np.empty(operation.count), root=operation.root), _values(ctx.rank, operation)


def _alltoall(ctx: Context, operation: Operation) -> Outcome:
    rows = np.array([_values(ctx.rank + other, operation) for other in range(ctx.size)])
    return ctx.alltoall(rows), np.array([_values(ctx.rank + other, operation) for other in range(ctx.size)])


def _barrier(ctx: Context, operation: Operation) -> Outcome:
    ctx.barrier()
    return 0, 0


def _ring(ctx: Context, operation: Operation) -> Outcome:
    after, before = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    out = np.empty(operation.count)
    ctx.sendrecv(_values(ctx.rank, operation), after, out, before, sendtag=7, recvtag=7)
    return out, _values(before, operation)


def _messages(ctx: Context, operation: Operation) -> Outcome:
    out = np.empty((ctx.size, operation.count))
    receives = [ctx.irecv(out[rank], rank, tag=operation.index) for rank in range(ctx.size)]
    sends = [ctx.isend(_values(ctx.rank, operation), rank, tag=operation.index) for rank in range(ctx.size)]
    for request in [*sends, *receives]:
        request.wait()
    return out, _all(ctx, operation)


def _objects(ctx: Context, operation: Operation) -> Outcome:
    found = ctx.allgather_object((ctx.rank, operation.index, "x" * operation.count))
    lengths = [(rank, index, len(text)) for rank, index, text in found]
    return lengths, [(rank, operation.index, operation.count) for rank in range(ctx.size)]


_PERFORM: dict[str, Callable[[Context, Operation], Outcome]] = {
    "allreduce": _allreduce,
    "iallreduce": _iallreduce,
    "reduce": _reduce,
    "reduce_scatter": _reduce_scatter,
    "scan": _scan,
    "broadcast": _broadcast,
    "allgather": _allgather,
    "gather": _gather,
    "scatter": _scatter,
    "alltoall": _alltoall,
    "barrier": _barrier,
    "ring": _ring,
    "messages": _messages,
    "objects": _objects,
}
