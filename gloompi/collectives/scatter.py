"""Scatter: a part of the root's array to each rank."""

from __future__ import annotations

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps

__all__ = ["scatter"]


def scatter(call: Call, x: Array | None, out: Array, root: int) -> Steps:
    """Put part r of the root's `x` into `out` of rank r: all 1-d, contiguous; `x` is `size` times as long.

    Linear: the root sends to everyone, straight from place.  1 step; nbytes (size-1) sent by the root.
    """
    if call.rank != root:
        yield call.receive(root, 0, out)
        return
    assert x is not None
    rows = x.reshape(call.size, -1) if len(out) else [x] * call.size
    sent = [call.send(rank, 0, rows[rank]) for rank in range(call.size) if rank != root]
    out[:] = rows[root]
    yield sent
