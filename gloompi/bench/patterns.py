"""Who sends which bytes to whom in an operation, if nothing but moving bytes had to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..collectives.partition import blocks, halves, power_of_two_within, tree
from .candidate import Unsupported
from .case import Array, Buffers, Case

__all__ = ["Step", "keep_own", "steps"]

# Up to here the number of steps is what counts rather than that of bytes. The pattern is its own, whatever gloompi does.
_LATENCY_NBYTES = 16 * 1024

# What a rank sends to whom while it receives what from whom; one byte where an operation has no data.
Step = tuple[list[tuple[int, Array]], list[tuple[int, Array]]]


def steps(case: Case, rank: int, buffers: Buffers) -> Iterator[Step]:
    """What a rank sends and receives, step by step; each begins when the one before is over.

    Parameters
    ----------
    case : Case
    rank : int
    buffers : Buffers
        Of this rank.  An operation that reduces leaves in `out` what came last.

    Raises
    ------
    Unsupported
        The operation has no pattern of its own: scan, exscan.
    """
    try:
        pattern = _PATTERNS[case.operation]
    except KeyError:
        raise Unsupported(f"no bare pattern of {case.operation} is known") from None
    return pattern(case.size, rank, *(_flat(array) for array in (buffers.x, buffers.out)))


def keep_own(case: Case, rank: int, buffers: Buffers) -> None:
    """Put what stays on this rank where it belongs: no socket has to do with it."""
    x, out = _flat(buffers.x), _flat(buffers.out)
    part = slice(rank * case.block, (rank + 1) * case.block)
    if case.operation in ("gather", "allgather") and len(out):
        out[part] = x
    elif case.operation == "scatter" and len(x):
        out[:] = x[part]
    elif case.operation == "alltoall":
        out[part] = x[part]


def _flat(array: Array | None) -> Array:
    return _NOTHING if array is None else array.reshape(-1)


_NOTHING = np.zeros(0, np.uint8)


def _barrier(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """Dissemination.  4 ranks: each tells the next, then the one after the next."""
    token, distance = np.zeros(1, np.uint8), 1
    while distance < size:
        yield [((rank + distance) % size, token)], [((rank - distance) % size, np.zeros(1, np.uint8))]
        distance *= 2


def _broadcast(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """A binomial tree.  4 ranks: 0 tells 1 and 2, 2 tells 3."""
    parent, children = tree(rank, 0, size)
    if parent is not None:
        yield [], [(parent, out)]
    yield [(child, out) for child in reversed(children)], []


def _reduce(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """The same tree, towards the root; without room at the others for what they got."""
    parent, children = tree(rank, 0, size)
    yield [], [(child, out) for child in children]
    if parent is not None:
        yield [(parent, x)], []


def _allreduce(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """All bytes at each step for short arrays and 2 ranks; else halves, quarters, ... and back.

    Where the number of ranks is no power of two: a part to each other rank, and the reduced part to each.
    """
    places = power_of_two_within(size)
    if places == size and (size == 2 or x.nbytes <= _LATENCY_NBYTES):
        distance = 1
        while distance < size:
            yield [(rank ^ distance, x)], [(rank ^ distance, out)]
            distance *= 2
    elif places == size:
        way = halves(rank, size, len(x))
        for half in way:
            yield [(half.partner, x[half.give])], [(half.partner, out[half.keep])]
        for half in reversed(way):
            yield [(half.partner, out[half.keep])], [(half.partner, out[half.give])]
    else:
        parts = blocks(len(x), size)
        others = [other for other in range(size) if other != rank]
        yield [(other, x[parts[other]]) for other in others], [(other, out[parts[rank]]) for other in others]
        yield [(other, out[parts[rank]]) for other in others], [(other, out[parts[other]]) for other in others]


def _reduce_scatter(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """To each other rank its part, at once."""
    parts = blocks(len(x), size)
    others = [other for other in range(size) if other != rank]
    yield [(other, x[parts[other]]) for other in others], [(other, out) for other in others]


def _allgather(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """The own part to each other rank, at once."""
    parts = blocks(len(out), size)
    others = [other for other in range(size) if other != rank]
    yield [(other, x) for other in others], [(other, out[parts[other]]) for other in others]


def _gather(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    if rank > 0:
        yield [(0, x)], []
        return
    parts = blocks(len(out), size)
    yield [], [(other, out[parts[other]]) for other in range(1, size)]


def _scatter(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    if rank > 0:
        yield [], [(0, out)]
        return
    parts = blocks(len(x), size)
    yield [(other, x[parts[other]]) for other in range(1, size)], []


def _alltoall(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    """To each other rank its part, at once."""
    parts = blocks(len(x), size)
    others = [other for other in range(size) if other != rank]
    yield [(other, x[parts[other]]) for other in others], [(other, out[parts[other]]) for other in others]


def _sendrecv(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    yield [((rank + 1) % size, x)], [((rank - 1) % size, out)]


def _ping_pong(size: int, rank: int, x: Array, out: Array) -> Iterator[Step]:
    away: Step = [(1 - rank, x)], []
    back: Step = [], [(1 - rank, out)]
    yield from (away, back) if rank == 0 else (back, away)


_PATTERNS: dict[str, Callable[[int, int, Array, Array], Iterator[Step]]] = {
    "barrier": _barrier,
    "broadcast": _broadcast,
    "reduce": _reduce,
    "allreduce": _allreduce,
    "reduce_scatter": _reduce_scatter,
    "allgather": _allgather,
    "gather": _gather,
    "scatter": _scatter,
    "alltoall": _alltoall,
    "sendrecv": _sendrecv,
    "send/recv": _ping_pong,
}
