"""Bad input (cases 33 to 37): ranks that disagree, and arrays of every kind."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
import psutil
import pytest
from launch import run_job
from test_allreduce import ALGORITHMS, INTEGERS, expected, values
from test_array_kinds import LAYOUTS, UNTOUCHED, around, content, filled

from gloompi import Context, MismatchError, Status
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.reduction import OPERATORS
from gloompi.testing import run_ranks

# More than 2 GiB, and more than 2**31 elements: no count on the way is a C int.
COUNT = 2**31 + 7
NEEDED = 3 * COUNT

# More than goes without asking.
LARGE = EAGER_NBYTES // 8 + 5

# -- ranks that differ --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_case_33_ranks_differ(transport: str) -> None:
    """In dtype, count, op, root, order of calls: both sides are named, on all ranks, at once."""
    ranks = run_job(3, "disagree.py", transport, timeout=90)
    calls = {
        "dtype": ("allreduce(sum, <f8, count {0}", "allreduce(sum, <f4, count {0}"),
        "count": ("allreduce(sum, <f8, count {0}", "allreduce(sum, <f8, count {1}"),
        "op": ("allreduce(sum, <f8, count {0}", "allreduce(max, <f8, count {0}"),
        "root": ("broadcast(<f8, count {0}, root 0", "broadcast(<f8, count {0}, root 1"),
        "order": ("allreduce(sum, <f8, count {0}", "allgather(<f8, count {0}"),
        "operation": ("reduce(sum, <f8, count {0}, root 0", "alltoall(<f8, count "),
    }
    assert len(ranks[0]["outcomes"]) == 2 * len(calls)
    for name in ranks[0]["outcomes"]:
        what, _, count = name.partition(" of ")
        usual, odd = (text.format(count, int(count) + 1) for text in calls[what])
        finders = [rank for rank, found in enumerate(ranks) if found["outcomes"][name]["reported_by"] is None]
        assert finders
        for found in ranks:
            one = found["outcomes"][name]
            assert one["error"] == "MismatchError", (name, one)
            assert one["seconds"] < 2.0
            assert one["leaked"] == 0
            assert one["again"] == f"MismatchError: {one['text']}"
            assert one["rank"] in finders
            sides = {one["rank"]: one["here"], one["other"]: one["there"]}
            assert 2 in sides
            for rank, call in sides.items():
                assert call.startswith(odd if rank == 2 else usual), (name, one)
            first = f"ranks disagree on {one['operation']}: rank {one['rank']} called {one['here']}, "
            assert one["text"].startswith(f"{first}rank {one['other']} called {one['there']}; ")


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_case_33_a_skipped_call(transport: str) -> None:
    timeout = 1.0
    *others, absent = (found["skipped"] for found in run_job(3, "disagree.py", transport, "skipped"))
    for found in (*others, absent):
        assert found["error"] == "OperationTimeoutError"
        assert found["again"] == f"OperationTimeoutError: {found['text']}"
        assert (found["operation"], found["timeout"]) == ("allreduce #1", timeout)
        assert found["text"].startswith("allreduce #1 timed out after 1.0 s: got 0 of ")
        assert found["leaked"] == 0
    for found in others:
        assert timeout - 0.05 < found["seconds"] < timeout + 1
    assert absent["reported_by"] in (0, 1)


# -- layouts and dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_case_34_every_layout_goes_in_and_out_of_every_operation(n: int) -> None:
    def body(ctx: Context) -> None:
        me, after, before = ctx.rank, (ctx.rank + 1) % n, (ctx.rank - 1) % n
        for layout in LAYOUTS:
            x, out = filled(layout, me), LAYOUTS[layout]()
            shape = x.shape
            every = np.array([content(rank, shape) for rank in range(n)])

            np.testing.assert_array_equal(ctx.allreduce(x), every.sum(0), layout)
            assert ctx.allreduce(x, out) is out
            np.testing.assert_array_equal(out, every.sum(0), layout)
            out = LAYOUTS[layout]()
            assert (ctx.reduce(x, out, root=n - 1) is out) == (me == n - 1)
            np.testing.assert_array_equal(out, every.sum(0) if me == n - 1 else UNTOUCHED, layout)
            np.testing.assert_array_equal(ctx.allgather(x), every, layout)
            np.testing.assert_array_equal(x, content(me, shape), layout)

            gathered = ctx.gather(x, np.full((n, *shape), UNTOUCHED).T.copy().T, root=0)
            if me == 0:
                np.testing.assert_array_equal(gathered, every, layout)
            out = LAYOUTS[layout]()
            assert ctx.scatter(np.asfortranarray(every), out) is out
            np.testing.assert_array_equal(out, content(me, shape), layout)

            out = LAYOUTS[layout]()
            assert ctx.sendrecv(x, after, out, before) == Status(before, 0, x.nbytes)
            np.testing.assert_array_equal(out, content(before, shape), layout)
            assert (around(out) == UNTOUCHED).all(), layout

            for root in range(n):
                y = filled(layout, me)
                assert ctx.broadcast(y, root=root) is y
                np.testing.assert_array_equal(y, content(root, shape), layout)
                assert (around(y) == UNTOUCHED).all(), layout

            for algorithm in ("recursive_doubling", "halving_doubling", "ring"):
                y = filled(layout, me)
                assert ctx.allreduce(y, out=y, algorithm=algorithm) is y
                np.testing.assert_array_equal(y, every.sum(0), layout)
                assert (around(y) == UNTOUCHED).all(), layout

    run_ranks(n, body)


@pytest.mark.parametrize("count", [3, LARGE])
def test_case_34_read_only_output(count: int) -> None:
    """Refused before anything is sent: the other ranks' next call is theirs."""

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            x, rows = np.ones(count), np.ones((ctx.size, count))
            out, all_out = np.ones(count), np.ones((ctx.size, count))
            out.flags.writeable = all_out.flags.writeable = False
            pieces = [out] * ctx.size
            for call in (
                lambda: ctx.allreduce(x, out),
                lambda: ctx.iallreduce(x, out),
                lambda: ctx.reduce(x, out, root=1),
                lambda: ctx.reduce_scatter(np.ones(ctx.size * count), out),
                lambda: ctx.scan(x, out),
                lambda: ctx.exscan(x, out),
                lambda: ctx.broadcast(out, root=0),
                lambda: ctx.gather(x, all_out, root=1),
                lambda: ctx.allgather(x, all_out),
                lambda: ctx.gatherv(x, pieces, root=1),
                lambda: ctx.allgatherv(x, pieces),
                lambda: ctx.scatter(rows, out, root=1),
                lambda: ctx.scatterv([x] * ctx.size, out, root=1),
                lambda: ctx.alltoall(rows, all_out),
                lambda: ctx.alltoallv([x] * ctx.size, pieces),
                lambda: ctx.recv(out, 0),
                lambda: ctx.irecv(out, 0),
                lambda: ctx.sendrecv(x, 0, out, 0),
            ):
                with pytest.raises(ValueError, match="read-only"):
                    call()
            assert (out == 1).all()
            assert (all_out == 1).all()
        assert not ctx.closed
        np.testing.assert_array_equal(ctx.allreduce(np.full(count, ctx.rank)), np.full(count, 3))

    run_ranks(3, body)


def test_case_35_more_than_two_gibibytes_and_2_to_31_elements() -> None:
    if psutil.virtual_memory().available < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.0f} GB of free memory")
    marks = [0, 1, 2**31 - 1, 2**31, COUNT // 2, COUNT - 1]

    def body(ctx: Context) -> None:
        x = np.zeros(COUNT, np.uint8)
        if ctx.rank == 0:
            x[marks] = range(1, len(marks) + 1)
        ctx.broadcast(x, root=0)
        assert x[marks].tolist() == list(range(1, len(marks) + 1))
        x[marks] += ctx.rank
        ctx.allreduce(x, out=x, op="max")
        assert x[marks].tolist() == list(range(2, len(marks) + 2))
        assert np.count_nonzero(x) == len(marks)
        if ctx.rank == 0:
            ctx.send(x, 1)
        else:
            x[:] = 0
            assert ctx.recv(x, 0).nbytes == COUNT
            assert x[marks].tolist() == list(range(2, len(marks) + 2))

    run_ranks(2, body)


BIG_ENDIAN = (">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c16")


@pytest.mark.parametrize("dtype", BIG_ENDIAN)
def test_case_36_big_endian(dtype: str) -> None:
    """Never swapped: the same numbers come out, in the same byte order."""

    def body(ctx: Context) -> None:
        n, me = ctx.size, ctx.rank
        for count in (4, LARGE if dtype == ">f8" else 4):
            x = (np.arange(count) % 97 + me + 1).astype(dtype)
            every = [(np.arange(count) % 97 + rank + 1).astype(dtype) for rank in range(n)]
            total = reduce(operator.add, every)
            results = {
                "allreduce": (ctx.allreduce(x), total),
                "scan": (ctx.scan(x), reduce(operator.add, every[: me + 1])),
                "allgather": (ctx.allgather(x), np.array(every)),
                "alltoall": (ctx.alltoall(np.array([x] * n, dtype)), np.array(every)),
                "reduce_scatter": (ctx.reduce_scatter(np.array([x] * n, dtype).ravel()), total),
                "broadcast": (ctx.broadcast(x.copy(), root=1), every[1]),
                "scatter": (ctx.scatter(np.array(every, dtype), np.empty_like(x), root=0), every[me]),
                "allgatherv": (ctx.allgatherv(x)[2], every[2]),
            }
            out = np.empty_like(x)
            ctx.sendrecv(x, (me + 1) % n, out, (me - 1) % n)
            results["sendrecv"] = (out, every[(me - 1) % n])
            if dtype[1] != "c":
                results["max"] = (ctx.allreduce(x, op="max"), every[-1])
            for name, (result, wanted) in results.items():
                np.testing.assert_array_equal(result, wanted, name)
                assert result.dtype == np.dtype(dtype), name

    run_ranks(3, body)


@pytest.mark.parametrize("count", [4, LARGE])
def test_case_36_byte_orders_of_ranks_differ(count: int) -> None:
    def body(ctx: Context) -> tuple[str, str]:
        with pytest.raises(MismatchError) as caught:
            ctx.allreduce(np.ones(count, ">f8" if ctx.rank else "<f8"))
        return caught.value.here, caught.value.there

    for sides in run_ranks(2, body):
        assert {side.split(", ")[1] for side in sides} == {">f8", "<f8"}


def test_case_36_byte_orders_of_a_message_differ() -> None:
    def body(ctx: Context) -> None:
        out = np.zeros(4, "<f8")
        with pytest.raises(MismatchError):  # noqa: PT012
            if ctx.rank:
                ctx.send(np.arange(4, dtype=">f8"), 0)
                ctx.barrier()
            else:
                ctx.recv(out, 1)
        assert (out == 0).all()

    run_ranks(2, body)


def test_case_36_objects_are_refused_before_anything_is_sent() -> None:
    structure = np.zeros(2, [("a", "i4"), ("b", "O")])

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for x, dtype in (
                (np.array([1, None]), "object"),
                (np.array([1, 2], object), "object"),
                (None, "object"),
                ([object()], "object"),
                (structure, structure.dtype),
            ):
                text = f"x has dtype {dtype}: Python objects cannot be sent as an array"
                for call in (
                    lambda: ctx.allreduce(x),  # noqa: B023
                    lambda: ctx.reduce(x),  # noqa: B023
                    lambda: ctx.allgather(x),  # noqa: B023
                    lambda: ctx.gather(x, root=1),  # noqa: B023
                    lambda: ctx.send(x, 1),  # noqa: B023
                    lambda: ctx.isend(x, 1),  # noqa: B023
                    lambda: ctx.sendrecv(x, 1, np.ones(1), 1),  # noqa: B023
                ):
                    with pytest.raises(TypeError) as caught:
                        call()
                    assert str(caught.value) == text
            for call, instead in (
                (lambda: ctx.broadcast(structure), "broadcast_object takes any object"),
                (lambda: ctx.broadcast(np.array([None])), "broadcast_object takes any object"),
                (lambda: ctx.scatter(np.array([None, None])), ""),
                (lambda: ctx.recv(np.array([None]), 1), "recv_object takes any object, recv_array any array"),
                (lambda: ctx.irecv(structure, 1), "recv_object takes any object, recv_array any array"),
            ):
                with pytest.raises(TypeError) as caught:
                    call()
                advice = f"; {instead}" if instead else ""
                assert str(caught.value).endswith(f"Python objects cannot be sent as an array{advice}")
        assert not ctx.closed
        assert ctx.allreduce(np.ones(1)) == 2

    run_ranks(2, body)


# -- special values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_case_37_nan_and_signed_zero_are_bit_identical_on_all_ranks(n: int) -> None:
    count = 20_011

    def special(rank: int) -> np.ndarray:
        """Every rank has its own NaN, at some places alone and at others together with further ranks, and zeros."""
        x = values(rank, count)
        index = np.arange(count)
        x[index % 6 == 4] = 0.0 if rank % 2 else -0.0
        bits = x.view("u8")
        quiet = 0x7FF8_0000_0000_0000 | (rank + 1) | (0x8000_0000_0000_0000 if rank % 2 else 0)
        bits[(index % 11 == rank) | (index % 13 == 5)] = quiet
        return x

    def body(ctx: Context) -> list[bytes]:
        results = []
        inputs = [special(rank) for rank in range(n)]
        for algorithm in ALGORITHMS:
            for name in ("min", "max", "sum"):
                for length in (count, 100):
                    result = ctx.allreduce(inputs[ctx.rank][:length], op=name, algorithm=algorithm)
                    np.testing.assert_array_equal(result, expected(OPERATORS[name], [x[:length] for x in inputs]))
                    results.append(result.tobytes())
        return results

    first, *others = run_ranks(n, body)
    assert all(other == first for other in others)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_case_37_nan_propagates(n: int) -> None:
    """One rank's NaN is everybody's result, whatever the operation that reduces."""

    def body(ctx: Context) -> list[bytes]:
        results = []
        for count in (1, 6 * n, LARGE * n):
            for where in range(n):
                x = np.arange(count) % 7.0
                if ctx.rank == where:
                    x[:: max(count // 3, 1)] = np.nan
                missing = np.isnan(x) if ctx.rank == where else np.zeros(count, bool)
                missing = ctx.allreduce(missing, op="lor")
                for op in ("min", "max"):
                    total = ctx.allreduce(x, op=op)
                    np.testing.assert_array_equal(np.isnan(total), missing)
                    np.testing.assert_array_equal(total[~missing], (np.arange(count) % 7.0)[~missing])
                    results.append(total.tobytes())
                    reduced = ctx.reduce(x, op=op, root=n - 1)
                    if ctx.rank == n - 1:
                        np.testing.assert_array_equal(np.isnan(reduced), missing)
                    np.testing.assert_array_equal(
                        np.isnan(ctx.scan(x, op=op)), missing if ctx.rank >= where else np.zeros(count, bool)
                    )
                    if count % n == 0:
                        share = slice(ctx.rank * count // n, (ctx.rank + 1) * count // n)
                        np.testing.assert_array_equal(np.isnan(ctx.reduce_scatter(x, op=op)), missing[share])
        return results

    first, *others = run_ranks(n, body)
    assert all(other == first for other in others)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_case_37_integers_wrap(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in INTEGERS:
            info = np.iinfo(dtype)
            span = int(info.max) - int(info.min) + 1
            for algorithm in ALGORITHMS:
                x = np.array([info.max - ctx.rank, info.min, info.max // 2 + 1], dtype)
                columns = [[int(info.max) - rank for rank in range(n)], [int(info.min)] * n, [int(info.max) // 2 + 1] * n]
                wanted = [(sum(column) - int(info.min)) % span + int(info.min) for column in columns]
                assert ctx.allreduce(x, algorithm=algorithm).tolist() == wanted
                wanted = [(reduce(int.__mul__, column) - int(info.min)) % span + int(info.min) for column in columns]
                assert ctx.allreduce(x, op="prod", algorithm=algorithm).tolist() == wanted

    run_ranks(n, body)


@pytest.mark.parametrize("dtype", ["c8", "c16", "G", ">c16"])
@pytest.mark.parametrize("op", ["min", "max", np.minimum, np.maximum], ids=str)
def test_case_37_complex_numbers_have_no_order(op: Any, dtype: str) -> None:
    name = op if isinstance(op, str) else {np.minimum: "min", np.maximum: "max"}[op]

    def body(ctx: Context) -> None:
        x = np.ones(2 * ctx.size, dtype)
        if ctx.rank == 0:  # alone: nothing of it may reach the others
            for call in (ctx.allreduce, ctx.iallreduce, ctx.reduce, ctx.reduce_scatter, ctx.scan, ctx.exscan):
                with pytest.raises(TypeError) as caught:
                    call(x, op=op)
                assert str(caught.value) == f"op '{name}' has no meaning for {x.dtype}: complex numbers have no order"
        np.testing.assert_array_equal(ctx.allreduce(x), ctx.size * x)

    run_ranks(2, body)
