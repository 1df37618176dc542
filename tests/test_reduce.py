"""reduce: every root, algorithm and operator against NumPy; nothing but the root's output is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
LARGE = SIZES[-1] * EAGER_NBYTES // 8 + 11  # doubles, of which no rank's share goes without asking
COUNTS = (0, 1, 2, 7, 1000, LARGE)
ALGORITHMS = ("auto", "binomial", "halving_doubling")
UNIT = 10**10


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    """Small whole numbers, so that no order of summing them makes a difference."""
    return ((7 * np.arange(count) + 3 * rank) % 5).astype(dtype)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_reduce_sums_at_every_root(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for algorithm in ALGORITHMS:
            for count in COUNTS:
                wanted = sum(values(rank, count) for rank in range(n))
                for root in range(n) if count < 1000 else (0, n // 2, n - 1):
                    x, out = values(ctx.rank, count), np.full(count, -1.0)
                    fresh = ctx.reduce(x, root=root, algorithm=algorithm)
                    given = ctx.reduce(x, out, root=root, algorithm=algorithm)
                    np.testing.assert_array_equal(x, values(ctx.rank, count))
                    in_place = ctx.reduce(x, out=x, root=root, algorithm=algorithm)
                    if ctx.rank == root:
                        assert fresh is not None
                        assert fresh.dtype == x.dtype
                        np.testing.assert_array_equal(fresh, wanted)
                        assert given is out
                        np.testing.assert_array_equal(out, wanted)
                        assert in_place is x
                        np.testing.assert_array_equal(x, wanted)
                    else:
                        assert fresh is given is in_place is None
                        np.testing.assert_array_equal(out, np.full(count, -1.0))
                        np.testing.assert_array_equal(x, values(ctx.rank, count))

    run_ranks(n, body, device=Device(transport=transport))


def concatenate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Append the digits of b to those of a; both hold ``number of digits * 10**10 + digits``."""
    (a_length, a_digits), (b_length, b_digits) = np.divmod(a, UNIT), np.divmod(b, UNIT)
    return (a_length + b_length) * UNIT + a_digits * 10**b_length + b_digits


@pytest.mark.parametrize("n", SIZES)
def test_a_callable_gets_its_operands_in_rank_order(n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (0, 1, 7, LARGE):
            index = np.arange(count)
            wanted = n * UNIT + sum((rank + index) % 10 * 10 ** (n - 1 - rank) for rank in range(n))
            for algorithm in ALGORITHMS:
                for root in range(n):
                    x = UNIT + (ctx.rank + index) % 10
                    result = ctx.reduce(x, root=root, op=concatenate, algorithm=algorithm)
                    if ctx.rank == root:
                        np.testing.assert_array_equal(result, wanted)
                    ctx.reduce(x, out=x, root=root, op=concatenate, algorithm=algorithm)
                    np.testing.assert_array_equal(x, wanted if ctx.rank == root else UNIT + (ctx.rank + index) % 10)

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_reduce_has_operators_and_dtypes(n: int) -> None:
    operators = {"prod": np.multiply, "min": np.minimum, "max": np.maximum, "land": np.logical_and, "lxor": np.logical_xor}
    dtypes = ("?", "i1", "u8", "f2", "f4", "g", ">i4", ">f8")

    def body(ctx: Context) -> None:
        for count in (5, LARGE):
            for dtype in dtypes:
                inputs = [values(rank, count, "i8").__mod__(3).astype(dtype) for rank in range(n)]
                for name, ufunc in operators.items():
                    wanted = inputs[0].copy()
                    for x in inputs[1:]:
                        ufunc(wanted, x, out=wanted)
                    for op in (name, ufunc):
                        result = ctx.reduce(inputs[ctx.rank], root=n - 1, op=op)
                        if ctx.rank == n - 1:
                            assert result is not None
                            assert result.dtype == np.dtype(dtype)
                            np.testing.assert_array_equal(result, wanted, f"{name} of {dtype}")
            total = ctx.reduce(values(ctx.rank, count, "c16") * 1j, root=0)
            if ctx.rank == 0:
                np.testing.assert_array_equal(total, sum(values(rank, count) * 1j for rank in range(n)))

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == n - 1:
            for root in (-1, n, 100):
                with pytest.raises(ValueError, match=rf"^root must be in range\({n}\), not {root}$"):
                    ctx.reduce(np.ones(3), root=root)
            with pytest.raises(TypeError):
                ctx.reduce(np.ones(3), root=0.0)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="algorithm must be one of auto, binomial, halving_doubling, not 'ring'"):
                ctx.reduce(np.ones(3), algorithm="ring")
            with pytest.raises(TypeError, match="complex numbers have no order"):
                ctx.reduce(np.ones(3, "c8"), op="max")
            read_only = np.ones(3)
            read_only.flags.writeable = False
            with pytest.raises(ValueError, match=r"^out is read-only$"):
                ctx.reduce(np.ones(3), read_only, root=ctx.rank)
            with pytest.raises(ValueError, match=r"^out must have shape \(3,\), not \(4,\)$"):
                ctx.reduce(np.ones(3), np.ones(4), root=ctx.rank)
        result = ctx.reduce(np.ones(3), root=np.int64(n - 1))
        assert (None if result is None else result.tolist()) == ([n] * 3 if ctx.rank == n - 1 else None)

    run_ranks(n, body)
