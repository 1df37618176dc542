"""Every operation of a Context in its blocking and its non-blocking form, with the results checked.

`run_all` is for jobs; `OPERATIONS` has one function per operation.  Values depend on rank and index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import gloompi
from gloompi import ANY_SOURCE, ANY_TAG, Context

# None, one, few, and more than travels without being asked for.
COUNTS = (0, 1, 7, 20_000)

# What a Context has beside operations.
NOT_OPERATIONS = {"from_mpi", "from_store", "from_env", "rank", "size", "timeout", "peers", "closed", "close", "abort"}


def _values(rank: int, count: int) -> np.ndarray:
    return np.arange(count, dtype="f8") + 1000 * rank


def _rows(size: int, count: int) -> np.ndarray:
    return np.stack([_values(rank, count) for rank in range(size)])


def _forms(ctx: Context, name: str) -> Iterator[Callable[..., Any]]:
    """The blocking form, and the non-blocking one made to look like it."""
    yield getattr(ctx, name)
    start = getattr(ctx, f"i{name}")
    yield lambda *args, **kwargs: start(*args, **kwargs).wait()


def barrier(ctx: Context) -> None:
    for form in _forms(ctx, "barrier"):
        assert form() is None


def broadcast(ctx: Context) -> None:
    for form in _forms(ctx, "broadcast"):
        for root in range(ctx.size):
            for count in COUNTS:
                x = _values(ctx.rank, count)
                assert form(x, root=root) is x
                np.testing.assert_array_equal(x, _values(root, count))


def reduce(ctx: Context) -> None:
    for form in _forms(ctx, "reduce"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form(_values(ctx.rank, count), root=root)
                if ctx.rank == root:
                    np.testing.assert_array_equal(result, _rows(ctx.size, count).sum(axis=0))
                else:
                    assert result is None


def allreduce(ctx: Context) -> None:
    for form in _forms(ctx, "allreduce"):
        for count in COUNTS:
            rows = _rows(ctx.size, count)
            np.testing.assert_array_equal(form(_values(ctx.rank, count)), rows.sum(axis=0))
            x = _values(ctx.rank, count)
            assert form(x, out=x, op="max") is x
            np.testing.assert_array_equal(x, rows.max(axis=0))


def allgather(ctx: Context) -> None:
    for form in _forms(ctx, "allgather"):
        for count in COUNTS:
            np.testing.assert_array_equal(form(_values(ctx.rank, count)), _rows(ctx.size, count))


def gather(ctx: Context) -> None:
    for form in _forms(ctx, "gather"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form(_values(ctx.rank, count), root=root)
                if ctx.rank == root:
                    np.testing.assert_array_equal(result, _rows(ctx.size, count))
                else:
                    assert result is None


def scatter(ctx: Context) -> None:
    for form in _forms(ctx, "scatter"):
        for root in range(ctx.size):
            for count in COUNTS:
                x = _rows(ctx.size, count) + root if ctx.rank == root else None
                out = np.empty(count)
                assert form(x, out, root=root) is out
                np.testing.assert_array_equal(out, _values(ctx.rank, count) + root)


def send(ctx: Context) -> None:
    """Round a ring, while the receive from the left is posted."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in _forms(ctx, "send"):
        for count in COUNTS:
            out = np.empty(count)
            receiving = ctx.irecv(out, left, tag=count)
            assert form(_values(ctx.rank, count), right, tag=count) is None
            assert receiving.wait() == (left, count, 8 * count)
            np.testing.assert_array_equal(out, _values(left, count))


def recv(ctx: Context) -> None:
    """Round a ring, from a known and from any source."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in _forms(ctx, "recv"):
        for count in COUNTS:
            for source, tag in ((left, 3), (ANY_SOURCE, ANY_TAG)):
                sending = ctx.isend(_values(ctx.rank, count), right, tag=3)
                out = np.empty(count)
                assert form(out, source, tag=tag) == (left, 3, 8 * count)
                np.testing.assert_array_equal(out, _values(left, count))
                sending.wait()
            ctx.barrier()  # or a fast neighbour's next message would match the wildcards of this round


def sendrecv(ctx: Context) -> None:
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in _forms(ctx, "sendrecv"):
        for count in COUNTS:
            out = np.empty(count)
            status = form(_values(ctx.rank, count), right, out, left, sendtag=5, recvtag=5)
            assert status == gloompi.Status(left, 5, 8 * count)
            np.testing.assert_array_equal(out, _values(left, count))


OPERATIONS: dict[str, Callable[[Context], None]] = {
    check.__name__: check
    for check in (barrier, broadcast, reduce, allreduce, allgather, gather, scatter, send, recv, sendrecv)
}


def run_all(ctx: Context) -> list[str]:
    """Check every operation; return the names of those that were run."""
    for check in OPERATIONS.values():
        check(ctx)
    return [form for name in OPERATIONS for form in (name, f"i{name}")]


def public_operations() -> set[str]:
    """The names of all operations that a Context has."""
    return {name for name in dir(Context) if not name.startswith("_")} - NOT_OPERATIONS
