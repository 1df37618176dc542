"""scan and exscan: every algorithm, in rank order, in place, in any layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layouts import assert_only_inside, layouts
from operations import forms

from gloompi import Context, Device, PeerLostError
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import RankError, run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
WORLDS = [*((n, "unix") for n in SIZES), (3, "tcp"), (4, "tcp")]
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
COUNTS = (0, 1, 2, 7, 1000, EAGER + 1, 70_001)  # the last in several segments of the chain
ALGORITHMS = ("auto", "recursive_doubling", "chain")


def values(rank: int, count: int) -> np.ndarray:
    return (7.0 * np.arange(count) + 3 * rank) % 5 + rank


def total(ranks: int, count: int) -> np.ndarray:
    """The sum of the first ranks."""
    return np.sum([values(rank, count) for rank in range(ranks)], axis=0)


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_scan_reduces_up_to_and_with_this_rank(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "scan"):
            for algorithm in ALGORITHMS:
                for count in COUNTS:
                    x, wanted = values(ctx.rank, count), total(ctx.rank + 1, count)
                    fresh = form(x, algorithm=algorithm)
                    assert fresh.dtype == x.dtype
                    np.testing.assert_array_equal(fresh, wanted)
                    assert not np.shares_memory(fresh, x)
                    out = np.full(count, -1.0)
                    assert form(x, out, algorithm=algorithm) is out
                    np.testing.assert_array_equal(out, wanted)
                    np.testing.assert_array_equal(x, values(ctx.rank, count))
                    assert form(x, out=x, algorithm=algorithm) is x
                    np.testing.assert_array_equal(x, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_exscan_reduces_up_to_the_rank_before_this(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "exscan"):
            for algorithm in ALGORITHMS:
                for count in COUNTS:
                    x = values(ctx.rank, count)
                    out = np.full(count, -1.0)
                    if ctx.rank == 0:
                        assert form(x, algorithm=algorithm) is None
                        assert form(x, out, algorithm=algorithm) is None
                        np.testing.assert_array_equal(out, np.full(count, -1.0))
                        assert form(x, out=x, algorithm=algorithm) is None
                        np.testing.assert_array_equal(x, values(0, count))
                        continue
                    wanted = total(ctx.rank, count)
                    fresh = form(x, algorithm=algorithm)
                    assert fresh.dtype == x.dtype
                    np.testing.assert_array_equal(fresh, wanted)
                    assert form(x, out, algorithm=algorithm) is out
                    np.testing.assert_array_equal(out, wanted)
                    np.testing.assert_array_equal(x, values(ctx.rank, count))
                    assert form(x, out=x, algorithm=algorithm) is x
                    np.testing.assert_array_equal(x, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", ["scan", "exscan"])
def test_every_layout_goes_in_and_out(name: str, n: int) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, name):
            for algorithm in ALGORITHMS:
                for shape in ((3, 5), (0,), (4, 0), (1, 1, 1), (100, 201)):
                    ranks = ctx.rank + (name == "scan")
                    count = int(np.prod(shape))
                    wanted = total(ranks, count).reshape(shape) if ranks else np.full(shape, -1.0)
                    outs = reversed([*layouts(np.full(shape, -1.0))])
                    for x, out in zip(layouts(values(ctx.rank, count).reshape(shape)), outs, strict=True):
                        assert form(x, out, algorithm=algorithm) is (out if ranks else None)
                        np.testing.assert_array_equal(out, wanted)
                        assert_only_inside(out)
                        np.testing.assert_array_equal(x, values(ctx.rank, count).reshape(shape))

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["scan", "exscan"])
def test_input_and_output_may_overlap(name: str, n: int) -> None:
    def body(ctx: Context) -> None:
        ranks = ctx.rank + (name == "scan")
        for algorithm in ALGORITHMS:
            for count in (10, 40_000):
                for x_part, out_part in (
                    (slice(0, count), slice(3, count + 3)),
                    (slice(3, count + 3), slice(0, count)),
                    (slice(0, count), slice(count - 1, None, -1)),
                ):
                    memory = np.zeros(count + 3)
                    memory[x_part] = values(ctx.rank, count)
                    before = memory.copy()
                    getattr(ctx, name)(memory[x_part], memory[out_part], algorithm=algorithm)
                    if ranks:
                        np.testing.assert_array_equal(memory[out_part], total(ranks, count))
                    else:
                        np.testing.assert_array_equal(memory, before)

    run_ranks(n, body)


def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Decimal digits one after the other, with how many there are beside them."""
    (a_length, a_digits), (b_length, b_digits) = np.divmod(a, 10**10), np.divmod(b, 10**10)
    return (a_length + b_length) * 10**10 + a_digits * 10**b_length + b_digits


@pytest.mark.parametrize("n", SIZES)
def test_operands_of_a_callable_are_in_rank_order(n: int) -> None:
    def digits(ranks: int, count: int) -> np.ndarray:
        place = np.arange(count)
        found = sum((rank + place) % 10 * 10 ** (ranks - 1 - rank) for rank in range(ranks))
        return ranks * 10**10 + found

    def body(ctx: Context) -> None:
        for algorithm in ALGORITHMS:
            for count in (0, 1, 7, 70_001):
                x = 10**10 + (ctx.rank + np.arange(count)) % 10
                np.testing.assert_array_equal(ctx.scan(x, op=join, algorithm=algorithm), digits(ctx.rank + 1, count))
                result = ctx.exscan(x, op=join, algorithm=algorithm)
                if ctx.rank == 0:
                    assert result is None
                else:
                    np.testing.assert_array_equal(result, digits(ctx.rank, count))

    run_ranks(n, body)


def test_scan_of_numbers_and_lists() -> None:
    def body(ctx: Context) -> None:
        result = ctx.scan(ctx.rank + 1)
        assert (result.shape, result.dtype, int(result)) == ((), np.dtype(int), (1, 3, 6)[ctx.rank])
        before = ctx.exscan([ctx.rank + 1, 2.5], op="max")
        assert (None if before is None else before.tolist()) == (None, [1, 2.5], [2, 2.5])[ctx.rank]

    run_ranks(3, body)


def test_an_operator_that_raises_breaks_the_context_on_all_ranks() -> None:
    def body(ctx: Context) -> None:
        def picky(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if ctx.rank == 2 and len(a) > 1:  # not when it is tried
                raise ArithmeticError("no such sum")
            return a + b

        if ctx.rank == 2:
            ctx.scan(np.ones(3), op=picky)
        with pytest.raises(PeerLostError, match="it aborted: ArithmeticError: no such sum"):  # noqa: PT012
            ctx.scan(np.ones(3), op=picky)  # done before rank 2 fails, maybe
            ctx.barrier()
        assert ctx.closed

    with pytest.raises(RankError, match=r"^rank 2 of 3 failed: ArithmeticError: no such sum$"):
        run_ranks(3, body)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", ["scan", "exscan"])
def test_misuse_is_refused_before_anything_is_sent(name: str, n: int) -> None:
    def body(ctx: Context) -> None:
        def refused(error: type[Exception], text: str, *arguments: Any, **options: Any) -> None:
            for form in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                with pytest.raises(error) as caught:
                    form(*arguments, **options)
                assert str(caught.value) == text

        if ctx.rank == 0:  # alone: nothing that it does may reach the others
            x, read_only = np.ones((2, 3)), np.ones((2, 3))
            read_only.flags.writeable = False
            refused(ValueError, "out must have shape (2, 3), not (6,)", x, np.ones(6))
            refused(TypeError, "out must have dtype float64, not float32", x, np.ones((2, 3), "f4"))
            refused(ValueError, "out is read-only", x, read_only)
            refused(TypeError, "x has dtype object: Python objects cannot be sent as an array", [None])
            text = "algorithm must be one of auto, recursive_doubling, chain, not 'ring'"
            refused(ValueError, text, x, algorithm="ring")
            names = "sum, prod, min, max, land, lor, lxor, band, bor, bxor"
            refused(ValueError, f"op must be one of {names}, mean, a ufunc or a callable, not 'avg'", x, op="avg")
            refused(TypeError, "op must be a name, a ufunc or a callable, not NoneType", x, op=None)
            text = "op 'min' has no meaning for complex64: complex numbers have no order"
            refused(TypeError, text, x.astype("F"), op="min")
        assert not ctx.closed
        assert ctx.scan(np.ones(2)).tolist() == [ctx.rank + 1] * 2

    run_ranks(n, body)
