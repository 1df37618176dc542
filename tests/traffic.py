"""One of every operation of a Context, under way, with what each must give; for tests that let many of them overlap.

It knows nothing about how they are waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gloompi import ANY_SOURCE, ANY_TAG, Context, Request, Status

__all__ = ["KINDS", "Started", "assert_same", "begin", "values"]

Started = tuple[Request, Callable[[Any], None]]
"""A request, and what checks its result and what it has filled."""

# How many operations `begin` starts.
KINDS = 36


def values(rank: int, salt: int, count: int) -> np.ndarray:
    """Numbers that tell rank, place and occasion; sums of them are exact."""
    return np.arange(count) % 1000 * 7.0 + 100 * rank + 10_000 * salt


def assert_same(found: Any, wanted: Any) -> None:
    """Compare results, lists of arrays and objects that hold arrays included."""
    if isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same(found[key], value)
    else:
        assert found == wanted


def begin(ctx: Context, salt: int, count: int) -> list[Started]:
    """Begin `KINDS` operations, of every kind, on arrays of about `count` doubles; all ranks call it alike."""
    n, me = ctx.size, ctx.rank
    after, before, root = (me + 1) % n, (me - 1) % n, salt % n
    tag = 100 * salt
    x = values(me, salt, count)
    every = np.array([values(rank, salt, count) for rank in range(n)])
    total = every.sum(0)
    at_root = me == root
    rows = np.array([values(me, salt + rank, count) for rank in range(n)])  # row r is for rank r
    for_me = np.array([values(rank, salt + me, count) for rank in range(n)])
    piece = values(me, salt, count // 2 + me)  # of a length of its own
    pieces = [values(rank, salt, count // 2 + rank) for rank in range(n)]
    mine = {"rank": me, "salt": salt, "x": x}
    theirs = [{"rank": rank, "salt": salt, "x": every[rank]} for rank in range(n)]
    shared = x.copy()
    first, second, third, fourth = (np.full(count, -1.0) for _ in range(4))
    nbytes = 8 * count
    halves = [count // 2 + (rank == 0) for rank in range(n)]
    long = np.concatenate([values(me, salt + rank, halves[rank]) for rank in range(n)])
    my_half = np.sum([values(rank, salt + me, halves[me]) for rank in range(n)], 0)

    def gives(wanted: Any) -> Callable[[Any], None]:
        return lambda result: assert_same(result, wanted)

    def fills(array: np.ndarray, wanted: np.ndarray, result: Any = None) -> Callable[[Any], None]:
        def check(found: Any) -> None:
            assert_same(found, array if result is None else result)
            assert_same(array, wanted)

        return check

    def text(rank: int) -> str:
        return f"{salt}.{rank} "

    started: list[Started] = [
        (ctx.irecv(first, before, tag=tag + 1), fills(first, every[before], Status(before, tag + 1, nbytes))),
        (ctx.ibarrier(), gives(None)),
        (ctx.ibroadcast(shared, root=root), fills(shared, every[root])),
        (ctx.ireduce(x, root=root), gives(total if at_root else None)),
        (ctx.iallreduce(x, algorithm="recursive_doubling"), gives(total)),
        (ctx.iallreduce(x, algorithm="ring", op="max"), gives(every.max(0, initial=-np.inf))),
        (ctx.ireduce_scatter(rows), gives(for_me.sum(0)[np.newaxis])),
        (ctx.ireduce_scatter(long, counts=halves), gives(my_half)),
        (ctx.iscan(x), gives(every[: me + 1].sum(0))),
        (ctx.iexscan(x), gives(every[:me].sum(0) if me else None)),
        (ctx.isend(x, after, tag=tag + 1), gives(None)),
        (ctx.igather(x, root=root), gives(every if at_root else None)),
        (ctx.iallgather(x), gives(every)),
        (ctx.iscatter(rows if at_root else None, second, root=root), fills(second, values(root, salt + me, count))),
        (ctx.ialltoall(rows), gives(for_me)),
        (ctx.igatherv(piece, root=root), gives(pieces if at_root else None)),
        (ctx.iallgatherv(piece), gives(pieces)),
        (ctx.iscatterv(pieces if at_root else None, root=root), gives(pieces[me])),
        (ctx.ialltoallv([piece[: rank + 1] for rank in range(n)]), gives([other[: me + 1] for other in pieces])),
        (ctx.issend(x, before, tag=tag + 2), gives(None)),
        (ctx.irecv(third, after, tag=tag + 2), fills(third, every[after], Status(after, tag + 2, nbytes))),
        (
            ctx.isendrecv(x, after, fourth, before, sendtag=tag + 3, recvtag=tag + 3),
            fills(fourth, every[before], Status(before, tag + 3, nbytes)),
        ),
        (ctx.isend_object(mine, after, tag=tag + 4), gives(None)),
        (ctx.issend_object([text(me)], after, tag=tag + 5), gives(None)),
        (ctx.irecv_object(before, tag=tag + 5), gives([text(before)])),
        (ctx.irecv_object(ANY_SOURCE, tag=tag + 4), gives(theirs[before])),
        (ctx.ibroadcast_object(mine if at_root else None, root=root), gives(theirs[root])),
        (ctx.igather_object(mine, root=root), gives(theirs if at_root else None)),
        (ctx.iallgather_object(mine), gives(theirs)),
        (ctx.iscatter_object(theirs if at_root else None, root=root), gives(theirs[me])),
        (ctx.ialltoall_object([(me, rank, salt) for rank in range(n)]), gives([(rank, me, salt) for rank in range(n)])),
        (ctx.ireduce_object(text(me), root=root), gives("".join(map(text, range(n))) if at_root else None)),
        (ctx.iallreduce_object(text(me)), gives("".join(map(text, range(n))))),
        (ctx.iscan_object(text(me)), gives("".join(map(text, range(me + 1))))),
        (ctx.iexscan_object(text(me)), gives("".join(map(text, range(me))) if me else None)),
        (ctx.iallreduce(x.astype("i8"), op="min", algorithm="auto"), gives(every.min(0, initial=np.inf).astype("i8"))),
    ]
    assert len(started) == KINDS
    return started


def nothing_waits(ctx: Context) -> bool:
    """Whether there is no message for this rank that nobody has asked for."""
    return ctx.iprobe(ANY_SOURCE, tag=ANY_TAG) is None
