"""Reduce: a reduction whose result only the root gets."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps
from ..reduction import Reduction
from .fold import Fold
from .partition import halves, tree

__all__ = ["ALGORITHMS", "ReduceAlgorithm", "pick", "reduce"]

ReduceAlgorithm = Literal["auto", "binomial", "halving_doubling"]

# Up to here the number of steps is what counts. Cautious for one host: with 4 ranks on 2 cores over AF_UNIX the two were
# level from 256 KiB to 1 MiB, and the tree ahead at 64 and 128 KiB. Between hosts it has not been measured.
_LATENCY_NBYTES = 64 * 1024

_FINAL = 128


def pick(nbytes: int) -> str:
    """The algorithm that "auto" stands for."""
    return "binomial" if nbytes <= _LATENCY_NBYTES else "halving_doubling"


def reduce(call: Call, x: Array, out: Array | None, root: int, op: Reduction, algorithm: str) -> Steps:
    """Reduce `x` of all ranks into `out` of the root (None elsewhere): 1-d, contiguous, same dtype and length."""
    return ALGORITHMS[algorithm if call.size > 1 else "binomial"](call, x, out, root, op)


def binomial(call: Call, x: Array, out: Array | None, root: int, op: Reduction) -> Steps:
    """Up a tree: every rank reduces what its children send, nearest first, and passes it on.

    4 ranks, root 0: 1 -> 0 and 3 -> 2, then 2 -> 0.

    ceil(log2(size)) steps; nbytes sent per rank.  As in R. Thakur et al. 2005, doi:10.1177/1094342005051521.  Operands
    that may not be swapped are reduced at rank 0, because a tree from another root turns their order, and go to the
    root in one more step.
    """
    top = root if op.commutative else 0
    parent, children = tree(call.rank, top, call.size)
    mine = x
    total = out
    if children and total is None:
        total = np.empty_like(x)
    for child in children:
        assert total is not None
        yield call.receive_reduce(child, 0, mine, total, op, now=True)
        mine = total
    if parent is not None:
        yield call.send(parent, 0, mine)
    elif mine is x and total is not None and total is not x:
        total[:] = x  # the only rank
    if top != root and call.rank == top:
        yield call.send(root, 1, mine)
    if top != root and call.rank == root:
        assert out is not None
        yield call.receive(top, 1, out, now=True)


def halving_doubling(call: Call, x: Array, out: Array | None, root: int, op: Reduction) -> Steps:
    """Reduce-scatter by halving the vector; then every rank sends its part straight to the root.

    floor(log2(size)) + 1 steps; nbytes sent per rank but the root, which receives 2 nbytes (size-1)/size; one more step of
    nbytes where size is no power of two.  R. Rabenseifner, ICCS 2004, doi:10.1007/978-3-540-24685-5_1; here the root
    gathers in one step.
    """
    fold = Fold.of(call.size)
    total = np.empty_like(x) if out is None else out
    place, mine = yield from fold.enter(call, x, total, op)
    keep = slice(0, 0)
    if place is not None:
        for step, half in enumerate(halves(place, fold.places, len(x)), 1):
            peer, keep = fold.rank(half.partner), half.keep
            partial = call.receive_reduce(peer, step, mine[keep], total[keep], op)
            yield partial, call.send(peer, step, mine[half.give])
            mine = total
    if call.rank != root:
        if place is not None:
            yield call.send(root, _FINAL, total[keep])
        return
    yield [
        call.receive(fold.rank(other), _FINAL, total[halves(other, fold.places, len(x))[-1].keep])
        for other in range(fold.places)
        if other != place
    ]


ALGORITHMS = {"binomial": binomial, "halving_doubling": halving_doubling}
