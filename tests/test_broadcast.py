"""broadcast: every root, algorithm, dtype and count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
COUNTS = (0, 1, 2, 7, 1000, EAGER - 1, EAGER + 1, 12 * EAGER + 3)
ALGORITHMS = ("auto", "binomial", "scatter_allgather")
DTYPES = (
    "?",
    "b",
    "B",
    "h",
    "H",
    "i",
    "I",
    "l",
    "L",
    "e",
    "f",
    "d",
    "g",
    "F",
    "D",
    "G",
    ">i4",
    ">f8",
    "S5",
    "V7",
    "M8[ns]",
    "m8[25us]",
)


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    return (np.arange(count) * 3 + 1000 * rank).astype(dtype)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_broadcast_copies_from_every_root(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for algorithm in ALGORITHMS:
            for count in COUNTS:
                for root in range(n):
                    x = values(ctx.rank, count)
                    assert ctx.broadcast(x, root=root, algorithm=algorithm) is x
                    np.testing.assert_array_equal(x, values(root, count))

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_broadcast_moves_every_dtype(n: int) -> None:
    def random(rank: int, dtype: str, count: int) -> np.ndarray:
        """Zero and one bytes, which are valid in every dtype, booleans and code points included."""
        return np.random.default_rng(rank).integers(0, 2, count * np.dtype(dtype).itemsize, "u1").view(dtype)

    def body(ctx: Context) -> None:
        for dtype in DTYPES:
            for count in (1, 5, 5 * EAGER // 2):
                x = random(ctx.rank, dtype, count)
                ctx.broadcast(x, root=1)
                assert x.tobytes() == random(1, dtype, count).tobytes(), dtype

    run_ranks(n, body)


def test_the_root_may_have_a_read_only_array() -> None:
    def body(ctx: Context) -> None:
        x = values(ctx.rank, 10)
        x.flags.writeable = ctx.rank != 1
        ctx.broadcast(x, root=1)
        np.testing.assert_array_equal(x, values(1, 10))
        if ctx.rank == 0:
            x.flags.writeable = False
            with pytest.raises(ValueError, match=r"^x is read-only, and this rank receives into it$"):
                ctx.broadcast(x, root=1)
        assert not ctx.closed
        ctx.barrier()

    run_ranks(3, body)


@pytest.mark.parametrize("n", [1, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(ValueError, match=rf"^root must be in range\({n}\), not {n}$"):
                ctx.broadcast(np.ones(3), root=n)
            with pytest.raises(
                ValueError, match=r"^algorithm must be one of auto, binomial, scatter_allgather, direct, not 'ring'$"
            ):
                ctx.broadcast(np.ones(3), algorithm="ring")
            with pytest.raises(
                TypeError,
                match=r"^x must be an array, a buffer or a DLPack tensor, not list; broadcast_object takes any object$",
            ):
                ctx.broadcast([1, 2, 3])
            with pytest.raises(
                TypeError,
                match=r"^x has dtype object: Python objects cannot be sent as an array; broadcast_object takes any object$",
            ):
                ctx.broadcast(np.array([None, 1]))
        x = np.full(3, ctx.rank)
        assert ctx.broadcast(x, root=n - 1).tolist() == [n - 1] * 3

    run_ranks(n, body)
