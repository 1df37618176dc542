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
COUNTS = (0, 1, 7, 40_000)

# What a Context has beside operations.
NOT_OPERATIONS = {
    "from_mpi",
    "from_store",
    "from_env",
    "rank",
    "size",
    "timeout",
    "peers",
    "closed",
    "history",
    "close",
    "abort",
    "dup",
    "split",
    "shrink",
}

# Operations without another form.
SINGLE = {"probe", "iprobe", "mprobe", "improbe"}


def _values(rank: int, count: int) -> np.ndarray:
    return np.arange(count, dtype="f8") + 1000 * rank


def _rows(size: int, count: int) -> np.ndarray:
    return np.stack([_values(rank, count) for rank in range(size)])


def _piece(rank: int, dest: int, count: int) -> np.ndarray:
    """A piece whose length is a matter of both ranks; 0 for some."""
    return _values(rank, (count + rank * dest) % (count + 3)) + 100_000 * dest


def _object(rank: int, count: int) -> dict[str, Any]:
    return {"rank": rank, "text": "x" * count, "array": _values(rank, count)}


def _same(found: Any, wanted: Any) -> None:
    """Objects of `_object`, in lists or alone."""
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            _same(one, other)
        return
    assert (found["rank"], found["text"]) == (wanted["rank"], wanted["text"])
    np.testing.assert_array_equal(found["array"], wanted["array"])


def _join(a: list[Any], b: list[Any]) -> list[Any]:
    return a + b


def forms(ctx: Context, name: str) -> Iterator[Callable[..., Any]]:
    """The blocking form, and the non-blocking one made to look like it."""
    yield getattr(ctx, name)
    start = getattr(ctx, f"i{name}")
    yield lambda *args, **kwargs: start(*args, **kwargs).wait()


def barrier(ctx: Context) -> None:
    for form in forms(ctx, "barrier"):
        assert form() is None


def broadcast(ctx: Context) -> None:
    for form in forms(ctx, "broadcast"):
        for root in range(ctx.size):
            for count in COUNTS:
                x = _values(ctx.rank, count)
                assert form(x, root=root) is x
                np.testing.assert_array_equal(x, _values(root, count))


def reduce(ctx: Context) -> None:
    for form in forms(ctx, "reduce"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form(_values(ctx.rank, count), root=root)
                if ctx.rank == root:
                    np.testing.assert_array_equal(result, _rows(ctx.size, count).sum(axis=0))
                else:
                    assert result is None


def allreduce(ctx: Context) -> None:
    for form in forms(ctx, "allreduce"):
        for count in COUNTS:
            rows = _rows(ctx.size, count)
            np.testing.assert_array_equal(form(_values(ctx.rank, count)), rows.sum(axis=0))
            x = _values(ctx.rank, count)
            assert form(x, out=x, op="max") is x
            np.testing.assert_array_equal(x, rows.max(axis=0))


def allgather(ctx: Context) -> None:
    for form in forms(ctx, "allgather"):
        for count in COUNTS:
            np.testing.assert_array_equal(form(_values(ctx.rank, count)), _rows(ctx.size, count))


def gather(ctx: Context) -> None:
    for form in forms(ctx, "gather"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form(_values(ctx.rank, count), root=root)
                if ctx.rank == root:
                    np.testing.assert_array_equal(result, _rows(ctx.size, count))
                else:
                    assert result is None


def scatter(ctx: Context) -> None:
    for form in forms(ctx, "scatter"):
        for root in range(ctx.size):
            for count in COUNTS:
                x = _rows(ctx.size, count) + root if ctx.rank == root else None
                out = np.empty(count)
                assert form(x, out, root=root) is out
                np.testing.assert_array_equal(out, _values(ctx.rank, count) + root)


def alltoall(ctx: Context) -> None:
    for form in forms(ctx, "alltoall"):
        for count in COUNTS:
            result = form(_rows(ctx.size, count) + 100_000 * ctx.rank)
            np.testing.assert_array_equal(result, [_values(ctx.rank, count) + 100_000 * rank for rank in range(ctx.size)])


def reduce_scatter(ctx: Context) -> None:
    for form in forms(ctx, "reduce_scatter"):
        for count in COUNTS:
            total = _rows(ctx.size, ctx.size * count).sum(axis=0)
            share = form(_values(ctx.rank, ctx.size * count))
            np.testing.assert_array_equal(share, total[ctx.rank * count : (ctx.rank + 1) * count])
            counts = [*[0] * (ctx.size - 1), ctx.size * count]
            share = form(_values(ctx.rank, ctx.size * count), counts=counts)
            np.testing.assert_array_equal(share, total if ctx.rank == ctx.size - 1 else [])


def scan(ctx: Context) -> None:
    for form in forms(ctx, "scan"):
        for count in COUNTS:
            np.testing.assert_array_equal(form(_values(ctx.rank, count)), _rows(ctx.rank + 1, count).sum(axis=0))


def exscan(ctx: Context) -> None:
    for form in forms(ctx, "exscan"):
        for count in COUNTS:
            result = form(_values(ctx.rank, count), op="max")
            if ctx.rank == 0:
                assert result is None
            else:
                np.testing.assert_array_equal(result, _rows(ctx.rank, count).max(axis=0))


def _same_pieces(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def gatherv(ctx: Context) -> None:
    for form in forms(ctx, "gatherv"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form(_piece(ctx.rank, 1, count), root=root)
                if ctx.rank == root:
                    _same_pieces(result, [_piece(rank, 1, count) for rank in range(ctx.size)])
                else:
                    assert result is None


def allgatherv(ctx: Context) -> None:
    for form in forms(ctx, "allgatherv"):
        for count in COUNTS:
            _same_pieces(form(_piece(ctx.rank, 1, count)), [_piece(rank, 1, count) for rank in range(ctx.size)])


def scatterv(ctx: Context) -> None:
    for form in forms(ctx, "scatterv"):
        for root in range(ctx.size):
            for count in COUNTS:
                pieces = [_piece(root, rank, count) for rank in range(ctx.size)]
                np.testing.assert_array_equal(form(pieces if ctx.rank == root else None, root=root), pieces[ctx.rank])


def alltoallv(ctx: Context) -> None:
    for form in forms(ctx, "alltoallv"):
        for count in COUNTS:
            result = form([_piece(ctx.rank, rank, count) for rank in range(ctx.size)])
            _same_pieces(result, [_piece(rank, ctx.rank, count) for rank in range(ctx.size)])


def broadcast_object(ctx: Context) -> None:
    for form in forms(ctx, "broadcast_object"):
        for root in range(ctx.size):
            for count in COUNTS:
                _same(form(_object(ctx.rank, count), root=root), _object(root, count))


def gather_object(ctx: Context) -> None:
    for form in forms(ctx, "gather_object"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form(_object(ctx.rank, count), root=root)
                if ctx.rank == root:
                    _same(result, [_object(rank, count) for rank in range(ctx.size)])
                else:
                    assert result is None


def allgather_object(ctx: Context) -> None:
    for form in forms(ctx, "allgather_object"):
        for count in COUNTS:
            _same(form(_object(ctx.rank, count)), [_object(rank, count) for rank in range(ctx.size)])


def scatter_object(ctx: Context) -> None:
    for form in forms(ctx, "scatter_object"):
        for root in range(ctx.size):
            for count in COUNTS:
                objects = [_object(rank, count) for rank in range(ctx.size)]
                _same(form(objects if ctx.rank == root else None, root=root), objects[ctx.rank])


def alltoall_object(ctx: Context) -> None:
    for form in forms(ctx, "alltoall_object"):
        for count in COUNTS:
            result = form([_object(100 * ctx.rank + rank, count) for rank in range(ctx.size)])
            _same(result, [_object(100 * rank + ctx.rank, count) for rank in range(ctx.size)])


def reduce_object(ctx: Context) -> None:
    for form in forms(ctx, "reduce_object"):
        for root in range(ctx.size):
            for count in COUNTS:
                result = form([_object(ctx.rank, count)], op=_join, root=root)
                if ctx.rank == root:
                    _same(result, [_object(rank, count) for rank in range(ctx.size)])
                else:
                    assert result is None


def allreduce_object(ctx: Context) -> None:
    for form in forms(ctx, "allreduce_object"):
        for count in COUNTS:
            result = form([_object(ctx.rank, count)])
            _same(result, [_object(rank, count) for rank in range(ctx.size)])


def scan_object(ctx: Context) -> None:
    for form in forms(ctx, "scan_object"):
        for count in COUNTS:
            _same(form([_object(ctx.rank, count)], op=_join), [_object(rank, count) for rank in range(ctx.rank + 1)])


def exscan_object(ctx: Context) -> None:
    for form in forms(ctx, "exscan_object"):
        for count in COUNTS:
            result = form([_object(ctx.rank, count)], op=_join)
            if ctx.rank == 0:
                assert result is None
            else:
                _same(result, [_object(rank, count) for rank in range(ctx.rank)])


def send(ctx: Context) -> None:
    """Round a ring, while the receive from the left is posted."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "send"):
        for count in COUNTS:
            out = np.empty(count)
            receiving = ctx.irecv(out, left, tag=count)
            assert form(_values(ctx.rank, count), right, tag=count) is None
            assert receiving.wait() == (left, count, 8 * count)
            np.testing.assert_array_equal(out, _values(left, count))


def recv(ctx: Context) -> None:
    """Round a ring, from a known and from any source."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "recv"):
        for count in COUNTS:
            for source, tag in ((left, 3), (ANY_SOURCE, ANY_TAG)):
                sending = ctx.isend(_values(ctx.rank, count), right, tag=3)
                out = np.empty(count)
                assert form(out, source, tag=tag) == (left, 3, 8 * count)
                np.testing.assert_array_equal(out, _values(left, count))
                sending.wait()
            ctx.barrier()  # or a fast neighbour's next message would match the wildcards of this round


def recv_array(ctx: Context) -> None:
    """Round a ring, from a known and from any source."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "recv_array"):
        for count in COUNTS:
            for source, tag in ((left, 3), (ANY_SOURCE, ANY_TAG)):
                sending = ctx.isend(_values(ctx.rank, count), right, tag=3)
                np.testing.assert_array_equal(form(source, tag=tag), _values(left, count))
                sending.wait()
            ctx.barrier()  # as in recv


def sendrecv(ctx: Context) -> None:
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "sendrecv"):
        for count in COUNTS:
            out = np.empty(count)
            status = form(_values(ctx.rank, count), right, out, left, sendtag=5, recvtag=5)
            assert status == gloompi.Status(left, 5, 8 * count)
            np.testing.assert_array_equal(out, _values(left, count))


def ssend(ctx: Context) -> None:
    """Round a ring, while the receive from the left is posted."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "ssend"):
        for count in COUNTS:
            out = np.empty(count)
            receiving = ctx.irecv(out, left, tag=count)
            assert form(_values(ctx.rank, count), right, tag=count) is None
            assert receiving.wait() == (left, count, 8 * count)
            np.testing.assert_array_equal(out, _values(left, count))


def _send_object(ctx: Context, name: str) -> None:
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, name):
        for count in COUNTS:
            receiving = ctx.irecv_object(left, tag=count)
            assert form(_object(ctx.rank, count), right, tag=count) is None
            _same(receiving.wait(), _object(left, count))


def send_object(ctx: Context) -> None:
    _send_object(ctx, "send_object")


def ssend_object(ctx: Context) -> None:
    _send_object(ctx, "ssend_object")


def recv_object(ctx: Context) -> None:
    """Round a ring, from a known and from any source."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "recv_object"):
        for count in COUNTS:
            for source, tag in ((left, 3), (ANY_SOURCE, ANY_TAG)):
                sending = ctx.isend_object(_object(ctx.rank, count), right, tag=3)
                _same(form(source, tag=tag), _object(left, count))
                sending.wait()
            ctx.barrier()  # or a fast neighbour's next message would match the wildcards of this round


def sendrecv_object(ctx: Context) -> None:
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for form in forms(ctx, "sendrecv_object"):
        for count in COUNTS:
            _same(form(_object(ctx.rank, count), right, left, sendtag=5, recvtag=5), _object(left, count))


def _until(look: Callable[[], Any]) -> Any:
    """What a probe that does not wait finds in the end; a job has a time limit."""
    while True:
        found = look()
        if found is not None:
            return found


def _found(ctx: Context, find: Callable[..., Any], receive: Callable[[Any, np.ndarray], Any]) -> None:
    """Round a ring: find the message of the left, known and any, and receive it."""
    right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for count in COUNTS:
        for source, tag in ((left, 4), (ANY_SOURCE, ANY_TAG)):
            sending = ctx.isend(_values(ctx.rank, count), right, tag=4)
            found = find(source, tag=tag)
            assert (found.source, found.tag, found.nbytes) == (left, 4, 8 * count)
            out = np.empty(count)
            assert receive(found, out) == (left, 4, 8 * count)
            np.testing.assert_array_equal(out, _values(left, count))
            sending.wait()
        ctx.barrier()  # as in recv


def probe(ctx: Context) -> None:
    _found(ctx, ctx.probe, lambda found, out: ctx.recv(out, found.source, tag=found.tag))


def iprobe(ctx: Context) -> None:
    assert ctx.iprobe(tag=9) is None
    _found(
        ctx,
        lambda source, tag: _until(lambda: ctx.iprobe(source, tag=tag)),
        lambda found, out: ctx.recv(out, found.source, tag=found.tag),
    )


def mprobe(ctx: Context) -> None:
    _found(ctx, ctx.mprobe, lambda message, out: message.recv(out))


def improbe(ctx: Context) -> None:
    assert ctx.improbe(tag=9) is None
    _found(
        ctx,
        lambda source, tag: _until(lambda: ctx.improbe(source, tag=tag)),
        lambda message, out: message.irecv(out).wait(),
    )


OPERATIONS: dict[str, Callable[[Context], None]] = {
    check.__name__: check
    for check in (
        barrier,
        broadcast,
        reduce,
        allreduce,
        allgather,
        gather,
        scatter,
        alltoall,
        reduce_scatter,
        scan,
        exscan,
        gatherv,
        allgatherv,
        scatterv,
        alltoallv,
        broadcast_object,
        gather_object,
        allgather_object,
        scatter_object,
        alltoall_object,
        reduce_object,
        allreduce_object,
        scan_object,
        exscan_object,
        send,
        recv,
        recv_array,
        sendrecv,
        ssend,
        send_object,
        recv_object,
        sendrecv_object,
        ssend_object,
        probe,
        iprobe,
        mprobe,
        improbe,
    )
}


def run_all(ctx: Context) -> list[str]:
    """Check every operation; return the names of those that were run."""
    for check in OPERATIONS.values():
        check(ctx)
    return [form for name in OPERATIONS for form in ((name,) if name in SINGLE else (name, f"i{name}"))]


def public_operations() -> set[str]:
    """The names of all operations that a Context has."""
    return {name for name in dir(Context) if not name.startswith("_")} - NOT_OPERATIONS
