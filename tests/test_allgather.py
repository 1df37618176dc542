"""allgather: every algorithm, dtype and count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
COUNTS = (0, 1, 2, 7, 1000, EAGER, EAGER + 1, 5 * EAGER // 2)
ALGORITHMS = ("auto", "bruck", "ring")
DTYPES = ("?", "b", "H", "i", "L", "e", "f", "d", "g", "F", "D", ">i4", ">f8", "S5", "U3", "M8[ns]")


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    return (np.arange(count) % 10_007 * 3 + 1000 * rank).astype(dtype)  # halves end at 65,504


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_allgather_puts_rank_r_in_row_r(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for algorithm in ALGORITHMS:
            for count in COUNTS:
                x, wanted = values(ctx.rank, count), np.array([values(rank, count) for rank in range(n)])
                fresh = ctx.allgather(x, algorithm=algorithm)
                assert fresh.shape == (n, count)
                assert fresh.dtype == x.dtype
                np.testing.assert_array_equal(fresh, wanted)
                out = np.full((n, count), -1.0)
                assert ctx.allgather(x, out, algorithm=algorithm) is out
                np.testing.assert_array_equal(out, wanted)
                np.testing.assert_array_equal(x, values(ctx.rank, count))
                # In place: each rank's row of the output is its input.
                out = np.full((n, count), -1.0)
                out[ctx.rank] = x
                ctx.allgather(out[ctx.rank], out, algorithm=algorithm)
                np.testing.assert_array_equal(out, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_allgather_keeps_shape_and_dtype(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in DTYPES:
            for shape in ((), (1,), (2, 3), (0, 4), (2, 0, 3), (2, 1, 5 * EAGER // 8)):
                rows = [values(rank, int(np.prod(shape)), "i8").astype(dtype).reshape(shape) for rank in range(n)]
                result = ctx.allgather(rows[ctx.rank])
                assert result.shape == (n, *shape)
                assert result.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(result, np.array(rows, dtype).reshape(result.shape))

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(ValueError, match=r"^algorithm must be one of auto, bruck, ring, direct, not 'binomial'$"):
                ctx.allgather(np.ones(3), algorithm="binomial")
            with pytest.raises(ValueError, match=rf"^out must have shape \({n}, 3\), not \({3 * n},\)$"):
                ctx.allgather(np.ones(3), np.ones(3 * n))
            with pytest.raises(TypeError, match=r"^out must have dtype float64, not float32$"):
                ctx.allgather(np.ones(3), np.ones((n, 3), "f4"))
            with pytest.raises(TypeError, match=r"^x has dtype object: Python objects cannot be sent as an array$"):
                ctx.allgather([None])
        assert ctx.allgather(ctx.rank).tolist() == list(range(n))

    run_ranks(n, body)
