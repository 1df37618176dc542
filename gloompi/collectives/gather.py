"""Gather: every rank's array to the root."""

from __future__ import annotations

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps

__all__ = ["gather"]


def gather(call: Call, x: Array, out: Array | None, root: int) -> Steps:
    """Put `x` of rank r into part r of the root's `out`: all 1-d, contiguous; `out` is `size` times as long.

    Linear: everyone sends to the root, straight into place.  1 step; nbytes (size-1) received by the root.
    """
    if call.rank != root:
        yield call.send(root, 0, x)
        return
    assert out is not None
    rows = out.reshape(call.size, -1) if len(x) else [out] * call.size
    received = [call.receive(rank, 0, rows[rank]) for rank in range(call.size) if rank != root]
    rows[root][:] = x
    yield received
