"""gather: every root, dtype and count."""

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


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    return (np.arange(count) % 10_007 * 3 + 1000 * rank).astype(dtype)  # halves end at 65,504


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_gather_puts_rank_r_in_row_r_of_the_root(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for count in COUNTS:
            wanted = np.array([values(rank, count) for rank in range(n)])
            for root in range(n):
                x, out = values(ctx.rank, count), np.full((n, count), -1.0)
                fresh, given = ctx.gather(x, root=root), ctx.gather(x, out, root=root)
                np.testing.assert_array_equal(x, values(ctx.rank, count))
                if ctx.rank == root:
                    assert fresh is not None
                    assert (fresh.shape, fresh.dtype) == ((n, count), x.dtype)
                    np.testing.assert_array_equal(fresh, wanted)
                    assert given is out
                    np.testing.assert_array_equal(out, wanted)
                    out[:] = -1
                    out[root] = x
                    ctx.gather(out[root], out, root=root)  # in place
                    np.testing.assert_array_equal(out, wanted)
                else:
                    assert fresh is given is None
                    np.testing.assert_array_equal(out, np.full((n, count), -1.0))
                    ctx.gather(x, root=root)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gather_keeps_shape_and_dtype(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in ("?", "b", "H", "L", "e", "d", "g", "D", ">i4", ">f8", "S5", "U3", "M8[ns]"):
            for shape in ((), (1,), (2, 3), (0, 4), (2, 0, 3), (2, 1, 5 * EAGER // 8)):
                rows = [values(rank, int(np.prod(shape)), "i8").astype(dtype).reshape(shape) for rank in range(n)]
                result = ctx.gather(rows[ctx.rank], root=n - 1)
                if ctx.rank == n - 1:
                    assert result is not None
                    assert (result.shape, result.dtype) == ((n, *shape), np.dtype(dtype))
                    np.testing.assert_array_equal(result, np.array(rows, dtype).reshape(result.shape))

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(ValueError, match=rf"^root must be in range\({n}\), not -1$"):
                ctx.gather(np.ones(3), root=-1)
            with pytest.raises(ValueError, match=rf"^out must have shape \({n}, 3\), not \({n + 1}, 3\)$"):
                ctx.gather(np.ones(3), np.ones((n + 1, 3)))
            with pytest.raises(TypeError, match=r"^out must have dtype float64, not int64$"):
                ctx.gather(np.ones(3), np.ones((n, 3), "i8"))
        # Elsewhere than at the root, out is ignored.
        result = ctx.gather(ctx.rank, None if ctx.rank == 0 else "nothing", root=0)
        assert (result.tolist() if result is not None else None) == (list(range(n)) if ctx.rank == 0 else None)

    run_ranks(n, body)
