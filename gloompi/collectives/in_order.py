"""In rank order: every rank's bytes, of any number, handed over one after the other.

For reductions of what is no array: an operand can go when it has been used, so that few of them are in memory at a time.  A
piece is handed over when nobody needs it any more: whoever takes it may do with it what they like.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..arrays import Array
from ..engine.call import Call, as_array
from ..engine.operation import Steps
from .allgather import allgather, allgatherv

__all__ = ["to_all", "to_root", "upwards"]

# Pieces up to here go with the lengths of all; a little more than most pickles of a few numbers.
_SHORT_NBYTES = 1016

# Up to here, all of them together are no burden.
_LITTLE_NBYTES = 1024 * 1024

# The steps of the lengths, of which there are at most 16, come before those of the pieces.
_PIECES = 16

_WORD = np.dtype("<u8")

Take = Callable[[Array], None]


def to_root(call: Call, x: Array, take: Take, root: int) -> Steps:
    """Hand over all ranks' bytes at the root.

    Linear: everyone sends to the root, which receives one after the other.  size - 1 steps; nbytes (size-1) received by the
    root.
    """
    if call.rank != root:
        yield call.send(root, 0, x)
        return
    for source in range(call.size):
        if source == root:
            take(x)
        else:
            came = call.receive_any(source, 0)
            yield came
            take(as_array(came.data))
            del came  # before the next one is received


def to_all(call: Call, x: Array, take: Take) -> Steps:
    """Hand over all ranks' bytes on all ranks.

    The lengths are gathered first, and short pieces with them: ceil(log2(size)) steps.  Pieces that take little memory
    together go around the ring of `allgatherv`: size - 1 steps.  Others go along a chain from rank to rank, in rank order:
    2 (size-1) steps, at most nbytes (size-1) per rank.  Of 2 ranks, each sends to the other at once.
    """
    size = call.size
    if size > 2:
        told = np.zeros(_WORD.itemsize + _SHORT_NBYTES, np.uint8)
        told[: _WORD.itemsize] = np.array([x.size], _WORD).view(np.uint8)
        told[_WORD.itemsize :][: x.size] = x[:_SHORT_NBYTES]
        known = np.empty((size, told.size), np.uint8)
        yield from allgather(call, told, known.reshape(-1), "bruck")
        lengths = [int(nbytes) for nbytes in known[:, : _WORD.itemsize].reshape(-1).view(_WORD)]
        if max(lengths) <= _SHORT_NBYTES:
            for row, nbytes in zip(known[:, _WORD.itemsize :], lengths, strict=True):
                take(row[:nbytes].copy())
            return
        if sum(lengths) <= _LITTLE_NBYTES:
            pieces: list[Array] = []
            yield from allgatherv(call, x, pieces, first_step=_PIECES)
            for piece in pieces:
                take(piece)
            return
    yield from _along(call, x, take, around=True)


def upwards(call: Call, x: Array, take: Take) -> Steps:
    """Hand over the bytes of the ranks up to and including each.

    A chain from rank to rank: size - 1 steps; nbytes rank received, nbytes (rank+1) sent.
    """
    yield from _along(call, x, take, around=False)


def _along(call: Call, x: Array, take: Take, around: bool) -> Steps:
    """Every rank receives from the one below, in rank order, and passes on; `around`: the last one passes on to the first.

    4 ranks: 1 gets 0's from 0, which comes from 2 and 3 then; around, 2's and 3's, which 0 has got from 3.  A large piece
    waits at its sender until it is wanted, so a rank has one of others at a time.
    """
    rank, size = call.rank, call.size
    before, after = (rank - 1) % size, (rank + 1) % size
    passes = size > 1 and (around or after)
    mine = call.send(after, _PIECES + rank, x) if passes else None
    for source in range(size if around else rank + 1):
        if source == rank:
            if mine is not None:
                yield mine
            take(x)
            continue
        came = call.receive_any(before, _PIECES + source)
        yield came
        piece = as_array(came.data)
        if passes and source != after:
            yield call.send(after, _PIECES + source, piece)
        take(piece)
        del came, piece  # before the next one is received
