"""Reduce-scatter: a part of the reduction to each rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps
from ..reduction import Reduction
from .fold import LEAVE, Fold

__all__ = ["ALGORITHMS", "ReduceScatterAlgorithm", "pick", "reduce_scatter"]

ReduceScatterAlgorithm = Literal["auto", "recursive_halving", "pairwise"]

# Up to here the number of steps is what counts.
_LATENCY_NBYTES = 64 * 1024


def pick(size: int, nbytes: int, op: Reduction) -> str:
    """The algorithm that "auto" stands for; `nbytes` is of the whole array."""
    if not op.commutative:
        return "recursive_halving"
    # Of 2 ranks, either takes one step; this one has nothing to put in order.
    return "pairwise" if size == 2 or nbytes > _LATENCY_NBYTES else "recursive_halving"


def reduce_scatter(call: Call, x: Array, out: Array, parts: Sequence[slice], op: Reduction, algorithm: str) -> Steps:
    """Reduce `x` of all ranks; `out` of rank r gets part r.  1-d, contiguous, not overlapping; parts follow each other."""
    return ALGORITHMS[algorithm](call, x, out, parts, op)


def recursive_halving(call: Call, x: Array, out: Array, parts: Sequence[slice], op: Reduction) -> Steps:
    """In step k, ranks 2^k apart exchange the parts that belong to the other half, and reduce those they keep.

    4 ranks: 0 and 1 exchange: 0 keeps the parts of ranks 0 and 2, 1 those of 1 and 3; then 0 and 2 exchange one part each.
    To make what is kept one piece, the parts are first put in the order 0 2 1 3.

    floor(log2(size)) steps, nbytes (p-1)/p sent per rank, p being the power of two; where size is no power of two, one
    more step of nbytes and one of a part (see `Fold`).  Operands stay in rank order.  R. Thakur, R. Rabenseifner, W. Gropp
    2005, doi:10.1177/1094342005051521.
    """
    fold = Fold.of(call.size)
    mine = np.empty_like(x)
    place, operand = yield from fold.enter(call, x, mine, op)
    if place is None:
        yield call.receive(call.rank + 1, LEAVE, out, now=True)
        return
    # The parts of a place: its own, after that of the neighbour that has joined it.
    owned = [range(fold.rank(other) - (other < fold.extra), fold.rank(other) + 1) for other in range(fold.places)]
    order = _bit_reversed(fold.places)
    bounds = [0]
    arranged = np.empty_like(x)
    for other in order:
        piece = operand[parts[owned[other][0]].start : parts[owned[other][-1]].stop]
        bounds.append(bounds[-1] + len(piece))
        arranged[bounds[-2] : bounds[-1]] = piece
    low, high = 0, fold.places
    distance, step = 1, 1
    while distance < fold.places:
        middle = (low + high) // 2
        lower, upper = slice(bounds[low], bounds[middle]), slice(bounds[middle], bounds[high])
        keep, give = (upper, lower) if place & distance else (lower, upper)
        peer = fold.rank(place ^ distance)
        sent = call.send(peer, step, arranged[give])
        yield sent, call.receive_reduce(peer, step, arranged[keep], arranged[keep], op, now=True)
        low, high = (middle, high) if place & distance else (low, middle)
        distance, step = 2 * distance, step + 1
    result = arranged[bounds[low] : bounds[high]]
    out[:] = result[len(result) - len(out) :]
    if len(owned[place]) > 1:
        yield call.send(call.rank - 1, LEAVE, result[: len(result) - len(out)])


def _bit_reversed(places: int) -> list[int]:
    """8 places: 0 4 2 6 1 5 3 7."""
    order = [0]
    while len(order) < places:
        order = [2 * place for place in order] + [2 * place + 1 for place in order]
    return order


def pairwise(call: Call, x: Array, out: Array, parts: Sequence[slice], op: Reduction) -> Steps:
    """In step k every rank sends the rank k above its part, and reduces its own from the rank k below.

    4 ranks: 0 sends part 1 to 1, part 2 to 2, part 3 to 3, and reduces part 0 from 3, 2, 1 in this order.

    size - 1 steps, nbytes (size-1)/size sent per rank; for commutative operators.  R. Thakur, R. Rabenseifner, W. Gropp
    2005, doi:10.1177/1094342005051521.
    """
    rank, size = call.rank, call.size
    sent = [call.send((rank + distance) % size, distance, x[parts[(rank + distance) % size]]) for distance in range(1, size)]
    mine = x[parts[rank]]
    if size == 1:
        out[:] = mine
    for distance in range(1, size):
        yield call.receive_reduce((rank - distance) % size, distance, mine, out, op, now=True)
        mine = out
    yield sent


ALGORITHMS = {"recursive_halving": recursive_halving, "pairwise": pairwise}
