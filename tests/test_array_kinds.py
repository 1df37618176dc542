"""What users pass as arrays: any layout, shape, dtype and provider, as input and as output."""

from __future__ import annotations

import array
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gloompi import Context
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

UNTOUCHED = -7.0


def _plain(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, UNTOUCHED)


LAYOUTS: dict[str, Callable[[], np.ndarray]] = {
    "C order": lambda: _plain((6, 10)),
    "Fortran order": lambda: np.asfortranarray(_plain((6, 10))),
    "transposed": lambda: _plain((10, 6)).T,
    "axes swapped": lambda: _plain((2, 3, 4)).transpose(1, 2, 0),
    "every second column": lambda: _plain((6, 20))[:, ::2],
    "every third row": lambda: _plain((18, 10))[::3],
    "inner part": lambda: _plain((8, 12))[1:7, 1:11],
    "backwards": lambda: _plain((60,))[::-1],
    "backwards in both axes": lambda: _plain((6, 10))[::-1, ::-1],
    "field of a structure": lambda: np.full(60, UNTOUCHED, [("a", "f4"), ("b", "f8")])["b"],
    "not aligned": lambda: np.frombuffer(bytearray(1) + bytearray(_plain((60,)).tobytes()), "f8", 60, 1),
    "one element": lambda: _plain((1, 1, 1)),
    "0-d": lambda: _plain(()),
    "0-d part": lambda: _plain((3,))[1:2].reshape(()),
    "empty": lambda: _plain((0,)),
    "no rows": lambda: _plain((0, 5)),
    "no columns": lambda: _plain((5, 0, 3)),
    "no columns, strided": lambda: _plain((6, 0))[::2],
    "large, strided": lambda: _plain((150, 300))[:, ::2],
    "large, Fortran order": lambda: np.asfortranarray(_plain((150, 150))),
}


def content(rank: int, shape: tuple[int, ...], dtype: Any = "f8") -> np.ndarray:
    return (np.arange(int(np.prod(shape))) * 3 + 100 * rank).astype(dtype).reshape(shape)


def filled(layout: str, rank: int) -> np.ndarray:
    x = LAYOUTS[layout]()
    x[...] = content(rank, x.shape)
    return x


def around(x: np.ndarray) -> np.ndarray:
    """The elements of the memory that `x` is a part of, without its own."""
    base = x
    while isinstance(base.base, np.ndarray):
        base = base.base
    if base.dtype != x.dtype:
        return np.empty(0)
    mine = np.zeros(base.shape, bool)
    saved, x[...] = x.copy(), 1e300
    mine[...] = base == 1e300
    x[...] = saved
    return base[~mine]


def test_ranks_may_have_different_layouts() -> None:
    layouts = ["C order", "Fortran order", "every second column", "backwards in both axes"]

    def body(ctx: Context) -> None:
        x = filled(layouts[ctx.rank], ctx.rank)
        every = np.array([content(rank, (6, 10)) for rank in range(4)])
        out = LAYOUTS[layouts[(ctx.rank + 1) % 4]]()
        np.testing.assert_array_equal(ctx.allreduce(x, out), every.sum(0))
        np.testing.assert_array_equal(ctx.allgather(x), every)
        ctx.broadcast(x, root=2)
        np.testing.assert_array_equal(x, every[2])

    run_ranks(4, body)


def test_an_input_may_repeat_memory_or_be_read_only() -> None:
    def body(ctx: Context) -> None:
        x = np.broadcast_to(np.array([1.0, 2.0]) * (ctx.rank + 1), (3, 2))
        assert x.strides[0] == 0
        np.testing.assert_array_equal(ctx.allreduce(x), [[3, 6]] * 3)
        np.testing.assert_array_equal(ctx.allgather(x)[1], [[2, 4]] * 3)
        ctx.send(x, ctx.rank)
        out = np.empty((3, 2))
        ctx.recv(out, ctx.rank)
        np.testing.assert_array_equal(out, x)

    run_ranks(2, body)


# -- outputs that do not fit --------------------------------------------------------------------------------------------


def test_an_output_that_does_not_fit_is_refused_before_anything_is_sent() -> None:
    def body(ctx: Context) -> None:
        x, read_only, root = np.ones((2, 3)), np.ones((2, 3)), 1
        read_only.flags.writeable = False
        wrong: list[tuple[Any, type[Exception], str]] = [
            (read_only, ValueError, "out is read-only"),
            (np.broadcast_to(1.0, (2, 3)), ValueError, "out is read-only"),
            (np.ones((3, 2)), ValueError, "out must have shape (2, 3), not (3, 2)"),
            (np.ones(6), ValueError, "out must have shape (2, 3), not (6,)"),
            (np.ones(()), ValueError, "out must have shape (2, 3), not ()"),
            (np.ones((2, 3), "f4"), TypeError, "out must have dtype float64, not float32"),
            (np.ones((2, 3), ">f8"), TypeError, "out must have dtype float64, not >f8"),
            (np.ones((2, 3), "i8"), TypeError, "out must have dtype float64, not int64"),
            (np.ones((2, 3), object), TypeError, "out has dtype object: Python objects cannot be sent as an array"),
            ([[1.0] * 3] * 2, TypeError, "out must be an array, a buffer or a DLPack tensor, not list"),
            (1.0, TypeError, "out must be an array, a buffer or a DLPack tensor, not float"),
        ]
        if ctx.rank == root:
            rows = np.ones((2, 2, 3))
            for out, error, text in wrong:
                for call in (
                    lambda: ctx.allreduce(x, out),  # noqa: B023
                    lambda: ctx.iallreduce(x, out),  # noqa: B023
                    lambda: ctx.reduce(x, out, root=root),  # noqa: B023
                    lambda: ctx.scatter(rows, out, root=root),  # noqa: B023
                ):
                    with pytest.raises(error) as caught:
                        call()
                    assert str(caught.value) == text
            for out in (read_only, 1.0, [1.0]):
                with pytest.raises((TypeError, ValueError)):
                    ctx.recv(out, 0)
            for call in (ctx.allgather, ctx.gather):
                with pytest.raises(ValueError, match=r"^out must have shape \(2, 2, 3\), not \(4, 3\)$"):
                    call(x, np.ones((4, 3)), **({"root": root} if call == ctx.gather else {}))
        assert ctx.allreduce(np.ones(1)) == 2

    run_ranks(2, body)


def test_what_works_in_place_says_which_call_takes_objects() -> None:
    def refused(calls: list[Callable[[Any], Any]], name: str, takes: str) -> None:
        for call in calls:
            for x, what in (
                ([1, 2], "must be an array, a buffer or a DLPack tensor, not list"),
                (None, "must be an array, a buffer or a DLPack tensor, not NoneType"),
                (np.array([None]), "has dtype object: Python objects cannot be sent as an array"),
            ):
                with pytest.raises(TypeError) as caught:
                    call(x)
                assert str(caught.value) == f"{name} {what}; {takes}"

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.isend(np.ones(1), 0)
            message = ctx.mprobe(0)
            refused([ctx.broadcast, ctx.ibroadcast], "x", "broadcast_object takes any object")
            refused(
                [lambda out: ctx.recv(out, 0), lambda out: ctx.irecv(out, 0), message.recv, message.irecv],
                "out",
                "recv_object takes any object, recv_array any array",
            )
            refused(
                [lambda out: ctx.sendrecv(1, 0, out, 0), lambda out: ctx.isendrecv(1, 0, out, 0)],
                "out",
                "sendrecv_object takes any object",
            )
            message.recv(np.empty(1))
        ctx.barrier()

    run_ranks(2, body)


# -- providers of memory ------------------------------------------------------------------------------------------------


def test_lists_and_numbers_are_inputs() -> None:
    def body(ctx: Context) -> None:
        total = ctx.allreduce([1, 2, ctx.rank])
        assert (total.tolist(), total.dtype) == ([2, 4, 1], np.dtype(int))
        total = ctx.allreduce(2.5)
        assert (total.shape, total.dtype, float(total)) == ((), np.dtype(float), 5.0)
        assert ctx.allreduce(True, op="sum").dtype == np.dtype(bool)
        assert ctx.allreduce(((1, 2), (3, 4))).tolist() == [[2, 4], [6, 8]]
        assert ctx.allreduce(np.float32(1.5)).dtype == np.dtype("f4")
        assert ctx.allgather(1j * ctx.rank).tolist() == [0, 1j]
        assert ctx.allgather("ab").tolist() == ["ab", "ab"]
        assert ctx.allgather([]).shape == (2, 0)
        assert ctx.scatter([[1, 2], [3, 4]], np.empty(2, int)).tolist() == [[1, 2], [3, 4]][ctx.rank]
        out = np.empty(2, int)
        ctx.sendrecv([ctx.rank, 7], 1 - ctx.rank, out, 1 - ctx.rank)
        assert out.tolist() == [1 - ctx.rank, 7]
        if ctx.rank == 0:
            with pytest.raises(ValueError, match=r"inhomogeneous"):
                ctx.allreduce([[1, 2], [3]])
        ctx.barrier()

    run_ranks(2, body)


def test_a_number_is_no_place_to_receive_into() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            for number in (1.0, np.float64(1)):
                with pytest.raises((TypeError, ValueError)):
                    ctx.broadcast(number, root=0)
                with pytest.raises((TypeError, ValueError)):
                    ctx.allreduce(1.0, out=number)
                with pytest.raises((TypeError, ValueError)):
                    ctx.irecv(number, 0)
        ctx.barrier()

    run_ranks(2, body)


def test_buffers_go_in_and_out() -> None:
    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        raw = bytearray(b"abc" if ctx.rank == 0 else b"xyz")
        assert ctx.broadcast(raw) is raw
        assert raw == b"abc"

        numbers = array.array("d", [1.0, 2.0, float(ctx.rank)])
        out = array.array("d", [0.0] * 3)
        np.testing.assert_array_equal(ctx.allreduce(numbers, out), [2, 4, 1])
        assert out.tolist() == [2, 4, 1]
        np.testing.assert_array_equal(ctx.allreduce(numbers, numbers), [2, 4, 1])
        assert numbers.tolist() == [2, 4, 1]

        memory = memoryview(bytearray(24)).cast("q", (3,))
        ctx.sendrecv(memoryview(array.array("q", [7, 8, ctx.rank])), peer, memory, peer)
        assert memory.tolist() == [7, 8, peer]
        grid = memoryview(bytearray(6)).cast("B", (2, 3))
        ctx.sendrecv(b"uvwxyz", peer, grid, peer)
        assert bytes(grid) == b"uvwxyz"
        ctx.sendrecv(b"123456", peer, memoryview(raw := bytearray(12))[::2], peer)
        assert raw == b"1\x002\x003\x004\x005\x006\0"
        np.testing.assert_array_equal(ctx.allgather(b"ab"), [[97, 98]] * 2)
        if ctx.rank == 0:
            with pytest.raises(ValueError, match=r"^out is read-only$"):
                ctx.recv(memoryview(b"abc"), 1)
            assert ctx.broadcast(b"q") == b"q"  # the root only reads
        else:
            ctx.broadcast(raw := bytearray(1))
            assert raw == b"q"

    run_ranks(2, body)


class Tensor:
    """Memory that only DLPack shows, as the CPU tensors of other packages do."""

    def __init__(self, content: np.ndarray) -> None:
        self._content = content

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._content.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._content.__dlpack__(**options)


class OldTensor(Tensor):
    """One from before DLPack 1.0, whose capsule cannot say that it may be written; ``numpy()`` can."""

    def __dlpack__(self, *, stream: None = None) -> Any:
        return self._content.__dlpack__()

    def numpy(self) -> np.ndarray:
        return self._content.view()


def test_dlpack_tensors_go_in_and_out() -> None:
    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        for count in (0, 5, EAGER_NBYTES // 3):
            memory = content(ctx.rank, (count,))
            every = np.array([content(rank, (count,)) for rank in range(2)])
            for tensor in (Tensor(memory), OldTensor(memory)):
                np.testing.assert_array_equal(ctx.allreduce(tensor), every.sum(0))
                np.testing.assert_array_equal(ctx.allgather(tensor), every)
                ctx.sendrecv(tensor, peer, out := np.empty(count), peer)
                np.testing.assert_array_equal(out, every[peer])
            tensor = OldTensor(memory.copy())
            ctx.allreduce(tensor, out=tensor)
            np.testing.assert_array_equal(tensor.numpy(), every.sum(0))
            tensor = OldTensor(memory.copy())
            assert ctx.broadcast(tensor, root=1) is tensor
            np.testing.assert_array_equal(tensor.numpy(), every[1])
            if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # the first that imports DLPack 1.0
                newer = np.empty(count)
                ctx.sendrecv(memory, peer, Tensor(newer), peer)
                np.testing.assert_array_equal(newer, every[peer])
                columns = np.zeros((count, 2))
                ctx.allreduce(memory, out=Tensor(columns[:, 1]))
                np.testing.assert_array_equal(columns[:, 1], every.sum(0))
                assert not columns[:, 0].any()

    run_ranks(2, body)


class Interface:
    """Memory that only ``__array_interface__`` shows."""

    def __init__(self, content: np.ndarray) -> None:
        self._content = content

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._content.__array_interface__


def test_the_array_interface_goes_in_and_out() -> None:
    def body(ctx: Context) -> None:
        memory = content(ctx.rank, (10,))
        ctx.allreduce(Interface(memory), out=Interface(memory))
        np.testing.assert_array_equal(memory, content(0, (10,)) + content(1, (10,)))

    run_ranks(2, body)


def test_subclasses_of_ndarray_are_their_memory() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrices = [np.asmatrix(content(rank, (2, 3))) for rank in range(2)]

    def body(ctx: Context) -> None:
        every = np.array([content(rank, (2, 3)) for rank in range(2)])
        masked = np.ma.array(content(ctx.rank, (2, 3)), mask=[[True, False, False], [False, True, False]])
        for x in (matrices[ctx.rank], masked):
            np.testing.assert_array_equal(np.asarray(ctx.allreduce(x)), every.sum(0))
            np.testing.assert_array_equal(np.asarray(ctx.allgather(x, algorithm="bruck")), every)
            out = np.empty((2, 3))
            ctx.sendrecv(x, 1 - ctx.rank, out, 1 - ctx.rank)
            np.testing.assert_array_equal(out, every[1 - ctx.rank])
        records = np.rec.array([(1, 2.0), (3, ctx.rank)], dtype=[("a", "i4"), ("b", "f8")])
        ctx.broadcast(records, root=1)
        assert records.tolist() == [(1, 2.0), (3, 1.0)]

    run_ranks(2, body)


# -- dtypes beyond numbers ----------------------------------------------------------------------------------------------


def test_structures_are_moved() -> None:
    structures: list[Any] = [
        [("a", "i4"), ("b", "f8", (2, 2)), ("c", "S3")],
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        [("outer", [("inner", "<i2"), ("other", ">f4")]), ("last", "?")],
        np.dtype({"names": ["b", "a"], "formats": ["f8", "i4"], "offsets": [8, 0]}),  # not in the order of memory
        "V5",
    ]

    def body(ctx: Context) -> None:
        for number, dtype in enumerate(structures):
            for count in (0, 1, 3, EAGER_NBYTES // 7):
                # Zero and one bytes, which are valid in every field. What is between fields need not arrive.
                every = [
                    np.random.default_rng(rank).integers(0, 2, count * np.dtype(dtype).itemsize, "u1").view(dtype)
                    for rank in range(3)
                ]
                x = every[ctx.rank].copy()
                gathered = ctx.allgather(x)
                assert (gathered.shape, gathered.dtype) == ((3, count), np.dtype(dtype))
                assert (gathered == np.array(every)).all(), number
                ctx.sendrecv(x, (ctx.rank + 1) % 3, out := np.empty(count, dtype), (ctx.rank - 1) % 3)
                assert (out == every[(ctx.rank - 1) % 3]).all()
                ctx.broadcast(x, root=2)
                assert (x == every[2]).all()

    run_ranks(3, body)


def test_dates_are_moved_and_durations_summed() -> None:
    def body(ctx: Context) -> None:
        for count in (3, EAGER_NBYTES // 3):
            index = np.arange(count)
            durations = (index + ctx.rank).astype("m8[ms]")
            for algorithm in ("auto", "recursive_doubling", "halving_doubling", "ring"):
                total = ctx.allreduce(durations, algorithm=algorithm)
                np.testing.assert_array_equal(total, (3 * index + 3).astype("m8[ms]"))
            start, days = np.datetime64("2024-02-28", "D"), index.astype("m8[D]")
            every = [start + days + np.timedelta64(rank, "D") for rank in range(3)]
            dates = every[ctx.rank].copy()
            np.testing.assert_array_equal(ctx.allgather(dates)[2], every[2])
            np.testing.assert_array_equal(ctx.allreduce(dates, op="max"), every[2])
            ctx.broadcast(dates, root=1)
            np.testing.assert_array_equal(dates, every[1])
            missing = np.array(["NaT", "2020-01-01"], "M8[s]")
            assert np.isnat(ctx.allreduce(missing, op="min")).tolist() == [True, False]
        if ctx.rank == 0:
            with pytest.raises(TypeError, match="op 'sum' cannot reduce datetime64"):
                ctx.allreduce(dates)
        ctx.barrier()

    run_ranks(3, body)


# -- overlap ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_input_and_output_may_overlap(n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (10, 5 * EAGER_NBYTES // 8):
            for algorithm in ("recursive_doubling", "halving_doubling", "ring"):
                for x_part, out_part in (
                    (slice(0, count), slice(0, count)),
                    (slice(0, count), slice(3, count + 3)),
                    (slice(3, count + 3), slice(0, count)),
                    (slice(0, count), slice(count - 1, None, -1)),
                ):
                    memory = content(ctx.rank, (count + 3,))
                    total = sum(content(rank, (count + 3,))[x_part] for rank in range(n))
                    result = ctx.allreduce(memory[x_part], out=memory[out_part], algorithm=algorithm)
                    np.testing.assert_array_equal(result, total)
                    np.testing.assert_array_equal(memory[out_part], total)

                    memory = content(ctx.rank, (count + 3,))
                    reduced = ctx.reduce(memory[x_part], memory[out_part], root=n - 1)
                    if ctx.rank == n - 1:
                        np.testing.assert_array_equal(reduced, total)

            square = content(ctx.rank, (100, 100))
            total = sum(content(rank, (100, 100)) for rank in range(n))
            np.testing.assert_array_equal(ctx.allreduce(square, out=square.T), total)

            memory = np.zeros((n + 1) * count)
            memory[1 : count + 1] = content(ctx.rank, (count,))
            whole = ctx.allgather(memory[1 : count + 1], memory[: n * count].reshape(n, count))
            np.testing.assert_array_equal(whole, [content(rank, (count,)) for rank in range(n)])

            memory = content(ctx.rank, (n * count + 1,))
            wanted = content(0, (n * count + 1,))[ctx.rank * count : (ctx.rank + 1) * count]
            part = ctx.scatter(memory[: n * count].reshape(n, count), memory[1 : count + 1])
            np.testing.assert_array_equal(part, wanted)

    run_ranks(n, body)
