"""alltoall: every algorithm, dtype, count and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layouts import assert_only_inside, layouts
from operations import forms

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
WORLDS = [*((n, "unix") for n in SIZES), (3, "tcp"), (4, "tcp")]
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
COUNTS = (0, 1, 7, EAGER, EAGER + 1)
ALGORITHMS = ("auto", "pairwise", "bruck")
DTYPES = ("?", "b", "H", "i", "L", "e", "f", "d", "g", "F", "D", "G", ">i4", ">f8", "S5", "U3", "M8[ns]")


def rows(rank: int, n: int, count: int) -> np.ndarray:
    """What a rank has: row s is for rank s."""
    return np.arange(n * count, dtype="f8").reshape(n, count) * 3 + 1_000_000 * rank


def come(rank: int, n: int, count: int) -> np.ndarray:
    """What a rank gets."""
    return np.array([rows(source, n, count)[rank] for source in range(n)])


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_alltoall_puts_row_s_of_rank_r_into_row_r_of_rank_s(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "alltoall"):
            for algorithm in ALGORITHMS:
                for count in COUNTS:
                    x, wanted = rows(ctx.rank, n, count), come(ctx.rank, n, count)
                    fresh = form(x, algorithm=algorithm)
                    assert (fresh.shape, fresh.dtype) == ((n, count), x.dtype)
                    np.testing.assert_array_equal(fresh, wanted)
                    assert fresh.flags.writeable
                    assert not np.shares_memory(fresh, x)
                    out = np.full((n, count), -1.0)
                    assert form(x, out, algorithm=algorithm) is out
                    np.testing.assert_array_equal(out, wanted)
                    np.testing.assert_array_equal(x, rows(ctx.rank, n, count))
                    assert form(x, out=x, algorithm=algorithm) is x
                    np.testing.assert_array_equal(x, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", SIZES)
def test_alltoall_takes_and_fills_every_layout(n: int) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "alltoall"):
            for algorithm in ALGORITHMS:
                for count in (0, 3, 5 * EAGER // 4):
                    wanted = come(ctx.rank, n, count)
                    outs = reversed([*layouts(np.full((n, count), -1.0))])
                    for x, out in zip(layouts(rows(ctx.rank, n, count)), outs, strict=True):
                        assert form(x, out, algorithm=algorithm) is out
                        np.testing.assert_array_equal(out, wanted)
                        assert_only_inside(out)
                        np.testing.assert_array_equal(x, rows(ctx.rank, n, count))
                        assert form(x, out=x, algorithm=algorithm) is x
                        np.testing.assert_array_equal(x, wanted)
                        assert_only_inside(x)

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_input_and_output_may_overlap(n: int) -> None:
    def body(ctx: Context) -> None:
        for algorithm in ALGORITHMS:
            for count in (5, 5 * EAGER // 4):
                for x_start, out_start in ((0, 1), (1, 0)):
                    memory = np.zeros((n + 1, count))
                    x, out = memory[x_start : x_start + n], memory[out_start : out_start + n]
                    x[...] = rows(ctx.rank, n, count)
                    np.testing.assert_array_equal(ctx.alltoall(x, out, algorithm=algorithm), come(ctx.rank, n, count))
            square = rows(ctx.rank, n, n)
            np.testing.assert_array_equal(
                ctx.alltoall(square.T, square, algorithm=algorithm), [rows(source, n, n).T[ctx.rank] for source in range(n)]
            )

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_alltoall_keeps_shape_and_dtype(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in DTYPES:
            for shape in ((), (1,), (2, 3), (0, 4), (2, 0, 3), (2, 1, 5 * EAGER // 8)):
                numbers = np.arange(n * int(np.prod(shape))) % 100
                parts = [(numbers + rank).astype(dtype).reshape(n, *shape) for rank in range(n)]
                for algorithm in ALGORITHMS:
                    result = ctx.alltoall(parts[ctx.rank], algorithm=algorithm)
                    assert (result.shape, result.dtype) == ((n, *shape), np.dtype(dtype))
                    for source in range(n):
                        np.testing.assert_array_equal(result[source], parts[source][ctx.rank])

    run_ranks(n, body)


def test_lists_are_inputs() -> None:
    def body(ctx: Context) -> None:
        assert ctx.alltoall([10 * ctx.rank, 10 * ctx.rank + 1]).tolist() == [ctx.rank, 10 + ctx.rank]
        assert ctx.alltoall([[], []]).shape == (2, 0)

    run_ranks(2, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        def refused(error: type[Exception], text: str, *arguments: Any, **options: Any) -> None:
            for form in (ctx.alltoall, ctx.ialltoall):
                with pytest.raises(error) as caught:
                    form(*arguments, **options)
                assert str(caught.value) == text

        if ctx.rank == 0:  # alone: nothing that it does may reach the others
            x, read_only = np.ones((n, 2)), np.ones((n, 2))
            read_only.flags.writeable = False
            for shape in ((n + 1, 2), (0,), (2 * n,), ()):
                refused(ValueError, f"x must have one row per rank, shape ({n}, ...), not {shape}", np.ones(shape))
            refused(ValueError, "algorithm must be one of auto, pairwise, bruck, not 'ring'", x, algorithm="ring")
            refused(ValueError, f"out must have shape ({n}, 2), not ({2 * n},)", x, np.ones(2 * n))
            refused(TypeError, "out must have dtype float64, not float32", x, np.ones((n, 2), "f4"))
            refused(ValueError, "out is read-only", x, read_only)
            refused(TypeError, "out must be an array, a buffer or a DLPack tensor, not list", x, [[0.0, 0.0]] * n)
            refused(TypeError, "x has dtype object: Python objects cannot be sent as an array", [None] * n)
            with pytest.raises(ValueError, match=r"^timeout must be seconds >= 0 or None, not -1$"):
                ctx.alltoall(x, timeout=-1)
        assert not ctx.closed
        assert ctx.alltoall(np.full(n, ctx.rank)).tolist() == list(range(n))

    run_ranks(n, body)
