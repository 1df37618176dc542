"""Gather: every rank's array to the root."""

from __future__ import annotations

from ..arrays import Array
from ..engine.call import Call, as_array
from ..engine.operation import Steps

__all__ = ["gather", "gatherv"]


def gather(call: Call, x: Array, out: Array | None, root: int) -> Steps:
    """Put `x` of rank r into part r of the root's `out`: all 1-d, contiguous; `out` is `size` times as long.

    Linear: everyone sends to the root, straight into place.  1 step; nbytes (size-1) received by the root.
    """
    if call.rank != root:
        yield call.send(root, 0, x)
        return
    assert out is not None
    rows = out.reshape(call.size, -1) if len(x) else [out] * call.size
    rows[root][:] = x
    yield call.exchange_all(0, [], [(rank, rows[rank]) for rank in range(call.size) if rank != root])


def gatherv(call: Call, x: Array, pieces: list[Array] | None, root: int, room: bool = False) -> Steps:
    """Put `x` of rank r, bytes of any number, into the root's list: its pieces r, or new ones where it is empty.

    With `room`, the pieces may be longer than what comes.  Linear, as `gather`.
    """
    if call.rank != root:
        yield call.send(root, 0, x)
        return
    assert pieces is not None
    others = [rank for rank in range(call.size) if rank != root]
    if pieces:
        pieces[root][: len(x)] = x
        yield call.exchange_all(0, [], [(rank, pieces[rank]) for rank in others], pieces=True, room=room)
        return
    came = [call.receive_any(rank, 0) for rank in others]
    mine = x.copy()
    yield came
    pieces[:] = [as_array(receive.data) for receive in came]
    pieces.insert(root, mine)
