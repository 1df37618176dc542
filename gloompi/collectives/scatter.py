"""Scatter: a part of the root's array to each rank."""

from __future__ import annotations

from ..arrays import Array
from ..engine.call import Call, as_array
from ..engine.operation import Steps

__all__ = ["scatter", "scatterv"]


def scatter(call: Call, x: Array | None, out: Array, root: int) -> Steps:
    """Put part r of the root's `x` into `out` of rank r: all 1-d, contiguous; `x` is `size` times as long.

    Linear: the root sends to everyone, straight from place.  1 step; nbytes (size-1) sent by the root.
    """
    if call.rank != root:
        yield call.receive(root, 0, out, now=True)
        return
    assert x is not None
    rows = x.reshape(call.size, -1) if len(out) else [x] * call.size
    sent = [call.send(rank, 0, rows[rank]) for rank in range(call.size) if rank != root]
    out[:] = rows[root]
    yield sent


def scatterv(
    call: Call, pieces: list[Array] | None, out: list[Array], root: int, step: int = 0, room: bool = False
) -> Steps:
    """Give piece r of the root, bytes of any number, to rank r: into the array in `out`, or a new one where it is empty.

    With `room`, the array may be longer than what comes, and the root may do without.  Linear, as `scatter`.
    """
    if call.rank == root:
        assert pieces is not None
        sent = [call.send(rank, step, pieces[rank]) for rank in range(call.size) if rank != root]
        if out:
            out[0][: len(pieces[root])] = pieces[root]
        elif not room:
            out.append(pieces[root].copy())
        yield sent
    elif out:
        yield call.receive_piece(root, step, out[0], now=True, room=room)
    else:
        came = call.receive_any(root, step)
        yield came
        out.append(as_array(came.data))
