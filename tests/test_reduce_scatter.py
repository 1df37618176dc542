"""reduce_scatter: every algorithm, counts for each rank, layouts."""

from __future__ import annotations

from itertools import accumulate
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
ROWS = (0, 1, 2, 7, 1000, EAGER + 7)  # of one rank
ALGORITHMS = ("auto", "recursive_halving", "pairwise")
ORDERED = ("auto", "recursive_halving")


def values(rank: int, count: int) -> np.ndarray:
    return (7.0 * np.arange(count) + 3 * rank) % 5 + rank


def total(n: int, count: int) -> np.ndarray:
    return np.sum([values(rank, count) for rank in range(n)], axis=0)


def shares(n: int, length: int) -> list[list[int]]:
    """Counts of all kinds: as equal as can be, nothing for the even or the odd ranks, all for one."""
    equal = [length * (rank + 1) // n - length * rank // n for rank in range(n)]
    ways = [equal]
    for parity in (0, 1):
        some = [rank for rank in range(n) if rank % 2 == parity] or [0]
        ways.append([length // len(some) if rank in some else 0 for rank in range(n)])
        ways[-1][some[-1]] += length % len(some)
    return [*ways, *([length if rank == one else 0 for rank in range(n)] for one in {0, n - 1})]


def share(x: np.ndarray, counts: list[int], rank: int) -> np.ndarray:
    start = list(accumulate(counts, initial=0))[rank]
    return x[start : start + counts[rank]]


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_reduce_scatter_gives_every_rank_the_same_number_of_rows(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "reduce_scatter"):
            for algorithm in ALGORITHMS:
                for count in ROWS:
                    x = values(ctx.rank, n * count)
                    wanted = share(total(n, n * count), [count] * n, ctx.rank)
                    fresh = form(x, algorithm=algorithm)
                    assert (fresh.shape, fresh.dtype) == ((count,), x.dtype)
                    np.testing.assert_array_equal(fresh, wanted)
                    out = np.full(count, -1.0)
                    assert form(x, out, algorithm=algorithm) is out
                    np.testing.assert_array_equal(out, wanted)
                    np.testing.assert_array_equal(x, values(ctx.rank, n * count))
                    # In place: into its own share, or into any other part of the input.
                    for place in (ctx.rank, (ctx.rank + 1) % n):
                        y = x.copy()
                        part = share(y, [count] * n, place)
                        form(y, part, algorithm=algorithm)
                        np.testing.assert_array_equal(part, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", SIZES)
def test_reduce_scatter_with_counts_of_every_kind(n: int) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "reduce_scatter"):
            for algorithm in ALGORITHMS:
                for length in (0, 1, n - 1, n + 1, 1000, 5 * EAGER // 2):
                    for counts in shares(n, length):
                        x, wanted = values(ctx.rank, length), share(total(n, length), counts, ctx.rank)
                        np.testing.assert_array_equal(form(x, counts=counts, algorithm=algorithm), wanted)
                        out = np.full(counts[ctx.rank], -1.0)
                        assert form(x, out, counts=tuple(counts), op="sum", algorithm=algorithm) is out
                        np.testing.assert_array_equal(out, wanted)
                        np.testing.assert_array_equal(x, values(ctx.rank, length))

    run_ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
def test_rows_of_any_shape_and_layout(n: int) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "reduce_scatter"):
            for width in ((3,), (2, 3), (0,), (2, 0), (5 * EAGER // 8,)):
                length = 2 * n + 1
                counts = [2] * (n - 1) + [3]
                x = values(ctx.rank, length * int(np.prod(width))).reshape(length, *width)
                wanted = share(total(n, x.size).reshape(x.shape), counts, ctx.rank)
                outs = reversed([*layouts(np.full(wanted.shape, -1.0))])
                for each, out in zip(layouts(x), outs, strict=True):
                    assert form(each, out, counts=np.array(counts)) is out
                    np.testing.assert_array_equal(out, wanted)
                    assert_only_inside(out)
                    np.testing.assert_array_equal(each, x)
                    fresh = form(each, counts=counts)
                    assert fresh.shape == wanted.shape
                    np.testing.assert_array_equal(fresh, wanted)

    run_ranks(n, body)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_operands_of_a_callable_are_in_rank_order(n: int) -> None:
    def body(ctx: Context) -> None:
        for algorithm in ORDERED:
            for length in (n, 5 * EAGER // 2):
                for counts in shares(n, length)[:3]:
                    x = values(ctx.rank, length)
                    first = ctx.reduce_scatter(x, counts=counts, op=lambda a, b: a, algorithm=algorithm)
                    np.testing.assert_array_equal(first, share(values(0, length), counts, ctx.rank))
                    last = ctx.reduce_scatter(x, counts=counts, op=lambda a, b: b, algorithm=algorithm)
                    np.testing.assert_array_equal(last, share(values(n - 1, length), counts, ctx.rank))

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        def refused(error: type[Exception], text: str, *arguments: Any, **options: Any) -> None:
            for form in (ctx.reduce_scatter, ctx.ireduce_scatter):
                with pytest.raises(error) as caught:
                    form(*arguments, **options)
                assert str(caught.value) == text

        if ctx.rank == 0:  # alone: nothing that it does may reach the others
            x, read_only = np.ones((2 * n, 2)), np.ones((2, 2))
            read_only.flags.writeable = False
            for shape in ((), (n + 1, 2), (2 * n - 1,)):
                if not shape or shape[0] % n:
                    text = (
                        f"x must have a first axis that {n} ranks can share equally, not shape {shape}; "
                        "counts says how many rows each rank gets"
                    ) * bool(shape) or "x must have at least one axis: each rank gets a share of its rows"
                    refused(ValueError, text, np.ones(shape))
            for counts in ([2] * n + [0], [2] * (n - 1), [2] * (n - 1) + [1], [3] * (n - 1) + [3 - n], [0] * n):
                text = f"counts must be {n} numbers >= 0 whose sum is the {2 * n} rows of x, not {counts}, sum {sum(counts)}"
                if sum(counts) != 2 * n or len(counts) != n or min(counts) < 0:
                    refused(ValueError, text, x, counts=counts)
            refused(TypeError, "'float' object cannot be interpreted as an integer", x, counts=[2.0] * n)
            refused(ValueError, "out must have shape (2, 2), not (3, 2)", x, np.ones((3, 2)))
            if n > 1:
                refused(ValueError, f"out must have shape (2, 2), not ({2 * n}, 2)", x, x)
            refused(TypeError, "out must have dtype float64, not int64", x, np.ones((2, 2), "i8"))
            refused(ValueError, "out is read-only", x, read_only)
            refused(TypeError, "x has dtype object: Python objects cannot be sent as an array", [None] * n)
            text = "algorithm must be one of auto, recursive_halving, pairwise, not 'ring'"
            refused(ValueError, text, x, algorithm="ring")
            text = "algorithm 'pairwise' reorders operands, and op 'hypot' may not be commutative"
            refused(ValueError, text, x, op=np.hypot, algorithm="pairwise")
            names = "sum, prod, min, max, land, lor, lxor, band, bor, bxor"
            refused(ValueError, f"op must be one of {names}, mean, a ufunc or a callable, not 'avg'", x, op="avg")
            refused(TypeError, "op must be a name, a ufunc or a callable, not int", x, op=1)
            text = "op 'max' has no meaning for complex128: complex numbers have no order"
            refused(TypeError, text, x.astype("D"), op="max")
        assert not ctx.closed
        assert ctx.reduce_scatter(np.arange(n)).tolist() == [n * ctx.rank]

    run_ranks(n, body)
