"""scatter: every root, dtype and count."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
COUNTS = (0, 1, 2, 7, 1000, EAGER, EAGER + 1, 5 * EAGER // 2)


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    return (np.arange(count) % 10_007 * 3 + 1000 * rank).astype(dtype)  # halves end at 65,504


def rows(root: int, n: int, count: int) -> np.ndarray:
    return np.array([values(rank, count) + 100_000 * root for rank in range(n)])


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_scatter_gives_row_r_to_rank_r(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for count in COUNTS:
            for root in range(n):
                wanted = rows(root, n, count)[ctx.rank]
                x = rows(ctx.rank, n, count)  # elsewhere than at the root it is ignored
                out = np.full(count, -1.0)
                assert ctx.scatter(x, out, root=root) is out
                np.testing.assert_array_equal(out, wanted)
                np.testing.assert_array_equal(x, rows(ctx.rank, n, count))

                out = np.full(count, -1.0)
                if ctx.rank == root:
                    fresh = ctx.scatter(x, root=root)
                    assert (fresh.shape, fresh.dtype) == ((count,), x.dtype)
                    np.testing.assert_array_equal(fresh, wanted)
                    # In place: the root's part may be a row of its own array, any row.
                    place = (root + 1) % n
                    assert np.shares_memory(ctx.scatter(x, x[place], root=root), x) or not count
                    np.testing.assert_array_equal(x[place], wanted)
                else:
                    ctx.scatter(None, out, root=root)
                    np.testing.assert_array_equal(out, wanted)
                    ctx.scatter(out=out, root=root)
                    np.testing.assert_array_equal(out, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_scatter_keeps_shape_and_dtype(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in ("?", "b", "H", "L", "e", "d", "g", "D", ">i4", ">f8", "S5", "U3", "M8[ns]"):
            for shape in ((), (1,), (2, 3), (0, 4), (2, 0, 3), (2, 1, 5 * EAGER // 8)):
                parts = [values(rank, int(np.prod(shape)), "i8").astype(dtype).reshape(shape) for rank in range(n)]
                whole = np.array(parts, dtype).reshape(n, *shape)
                result = ctx.scatter(whole, root=0) if ctx.rank == 0 else ctx.scatter(out=np.empty(shape, dtype))
                assert (result.shape, result.dtype) == (shape, np.dtype(dtype))
                np.testing.assert_array_equal(result, parts[ctx.rank])

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for shape in ((n + 1, 2), (0,), ()):
                text = f"x must have one row per rank, shape ({n}, ...), not {shape}"
                with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
                    ctx.scatter(np.ones(shape))
            with pytest.raises(ValueError, match=r"^out must have shape \(2,\), not \(3,\)$"):
                ctx.scatter(np.ones((n, 2)), np.ones(3))
            with pytest.raises(TypeError, match=r"^out must have dtype float64, not float32$"):
                ctx.scatter(np.ones((n, 2)), np.ones(2, "f4"))
            with pytest.raises(TypeError, match=r"^x has dtype object: Python objects cannot be sent as an array$"):
                ctx.scatter([None] * n)
            with pytest.raises(ValueError, match=rf"^root must be in range\({n}\), not {n}$"):
                ctx.scatter(np.ones((n, 2)), root=n)
        else:
            text = "out is needed on every rank but the root: it says which shape and dtype come"
            with pytest.raises(ValueError, match=f"^{text}$"):
                ctx.scatter(np.ones((n, 2)))
            read_only = np.ones(2)
            read_only.flags.writeable = False
            with pytest.raises(ValueError, match=r"^out is read-only$"):
                ctx.scatter(out=read_only)
        assert ctx.scatter(np.arange(n), out=np.empty((), np.arange(1).dtype)) == ctx.rank

    run_ranks(n, body)
