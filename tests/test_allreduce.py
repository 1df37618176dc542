"""allreduce: every algorithm, operator and dtype against NumPy, and bit-identical on all ranks."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device, PeerLostError
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.engine.operation import CHUNK_NBYTES
from gloompi.engine.reading import SLICE_NBYTES
from gloompi.reduction import OPERATORS
from gloompi.testing import RankError, run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
# Doubles: more than a scratch piece, and a share of every rank that does not go without asking.
LARGE = max(CHUNK_NBYTES, SIZES[-1] * EAGER_NBYTES) // 8 + 11
COUNTS = (0, 1, 2, 7, 1000, LARGE)
ALGORITHMS = ("auto", "recursive_doubling", "halving_doubling", "ring")
ORDERED = ("auto", "recursive_doubling", "halving_doubling")
INTEGERS = ("b", "B", "h", "H", "i", "I", "l", "L", "q", "Q")
BIG_ENDIAN = (">i2", ">i4", ">u8", ">f2", ">f4", ">f8", ">c8", ">c16")
DTYPES = ("?", *INTEGERS, "e", "f", "d", "g", "F", "D", "G", *BIG_ENDIAN)


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    """Small whole numbers, so that no order of summing them makes a difference."""
    return ((7 * np.arange(count) + 3 * rank) % 5).astype(dtype)


def expected(op: np.ufunc, inputs: list[np.ndarray]) -> np.ndarray:
    total = inputs[0].copy()
    for x in inputs[1:]:
        op(total, x, out=total)
    return total


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_allreduce_sums_with_every_algorithm(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for algorithm in ALGORITHMS:
            for count in COUNTS:
                x = values(ctx.rank, count)
                wanted = sum(values(rank, count) for rank in range(n))
                fresh = ctx.allreduce(x, algorithm=algorithm)
                assert fresh.dtype == x.dtype
                np.testing.assert_array_equal(fresh, wanted)
                np.testing.assert_array_equal(x, values(ctx.rank, count))

                out = np.full(count, -1.0)
                assert ctx.allreduce(x, out, algorithm=algorithm) is out
                np.testing.assert_array_equal(out, wanted)
                np.testing.assert_array_equal(x, values(ctx.rank, count))

                assert ctx.allreduce(x, out=x, algorithm=algorithm) is x
                np.testing.assert_array_equal(x, wanted)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_allreduce_has_ten_operators_for_every_dtype(n: int) -> None:
    assert tuple(OPERATORS) == ("sum", "prod", "min", "max", "land", "lor", "lxor", "band", "bor", "bxor")

    def body(ctx: Context) -> None:
        for dtype in DTYPES:
            kind = np.dtype(dtype).kind
            inputs = [(values(rank, 11, "i8") % 3).astype(dtype) for rank in range(n)]
            for name, ufunc in OPERATORS.items():
                if (kind == "c" and name in ("min", "max")) or (kind in "fc" and name in ("band", "bor", "bxor")):
                    with pytest.raises(TypeError, match=f"op '{name}' "):
                        ctx.allreduce(inputs[ctx.rank], op=name)
                    continue
                result = ctx.allreduce(inputs[ctx.rank], op=name)
                assert result.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(result, expected(ufunc, inputs), f"{name} of {dtype}")

    run_ranks(n, body)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_allreduce_of_long_arrays_has_every_dtype_and_algorithm(n: int) -> None:
    count = 40_001

    def body(ctx: Context) -> None:
        for dtype in DTYPES:
            inputs = [values(rank, count, dtype) for rank in range(n)]
            wanted = expected(np.add, inputs)
            for algorithm in ALGORITHMS:
                result = ctx.allreduce(inputs[ctx.rank], algorithm=algorithm)
                assert result.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(result, wanted, f"{algorithm} of {dtype}")

    run_ranks(n, body)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_allreduce_is_bit_identical_on_all_ranks(n: int) -> None:
    counts = (1, 7, 1000, 30_011)

    def body(ctx: Context) -> list[bytes]:
        results = []
        for algorithm in ALGORITHMS:
            for count in counts:
                for dtype in ("f4", "f8", "c16"):
                    x = np.random.default_rng(ctx.rank).normal(size=count).astype(dtype)
                    result = ctx.allreduce(x, algorithm=algorithm)
                    inputs = [np.random.default_rng(rank).normal(size=count) for rank in range(n)]
                    np.testing.assert_allclose(result, sum(inputs), rtol=1e-4, atol=1e-5)
                    results.append(result.tobytes())
        return results

    first, *others = run_ranks(n, body)
    assert all(other == first for other in others)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_ufunc_is_an_operator(n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (0, 5, 40_001):
            for algorithm in ORDERED:
                numbers = [values(rank, count, "i4") + 1 for rank in range(n)]
                for ufunc in (np.gcd, np.lcm, np.fmax, np.add, np.bitwise_xor):
                    result = ctx.allreduce(numbers[ctx.rank], op=ufunc, algorithm=algorithm)
                    np.testing.assert_array_equal(result, expected(ufunc, numbers))
                floats = [values(rank, count) for rank in range(n)]
                result = ctx.allreduce(floats[ctx.rank], op=np.logaddexp, algorithm=algorithm)
                np.testing.assert_allclose(result, expected(np.logaddexp, floats))
            # The ufunc of a name is that operator, so that the ring may have it.
            np.testing.assert_array_equal(
                ctx.allreduce(numbers[ctx.rank], op=np.maximum, algorithm="ring"), expected(np.maximum, numbers)
            )

    run_ranks(n, body)


def test_ranks_may_name_an_operator_or_give_its_ufunc() -> None:
    results = run_ranks(2, lambda ctx: ctx.allreduce(np.array([ctx.rank, 5]), op=("sum", np.add)[ctx.rank]))
    assert [result.tolist() for result in results] == [[1, 10], [1, 10]]


_UNIT = 10**10


def concatenate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Append the digits of b to those of a; both hold ``number of digits * 10**10 + digits``."""
    (a_length, a_digits), (b_length, b_digits) = np.divmod(a, _UNIT), np.divmod(b, _UNIT)
    return (a_length + b_length) * _UNIT + a_digits * 10**b_length + b_digits


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_a_callable_gets_its_operands_in_rank_order(n: int, transport: str) -> None:
    def digits(rank: int, count: int) -> np.ndarray:
        return _UNIT + (rank + np.arange(count)) % 10

    def body(ctx: Context) -> None:
        for count in (0, 1, 7, LARGE):
            for algorithm in ORDERED:
                result = ctx.allreduce(digits(ctx.rank, count), op=concatenate, algorithm=algorithm)
                index = np.arange(count)
                wanted = n * _UNIT + sum((rank + index) % 10 * 10 ** (n - 1 - rank) for rank in range(n))
                np.testing.assert_array_equal(result, wanted)

                x = values(ctx.rank, count)
                np.testing.assert_array_equal(ctx.allreduce(x, op=lambda a, b: a, algorithm=algorithm), values(0, count))
                ctx.allreduce(x, out=x, op=lambda a, b: b, algorithm=algorithm)
                np.testing.assert_array_equal(x, values(n - 1, count))

    run_ranks(n, body, device=Device(transport=transport))


_MATRIX = np.dtype([("a", "i8"), ("b", "i8"), ("c", "i8"), ("d", "i8")])


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Products of 2x2 matrices, one per element."""
    result = np.empty_like(x)
    result["a"] = x["a"] * y["a"] + x["b"] * y["c"]
    result["b"] = x["a"] * y["b"] + x["b"] * y["d"]
    result["c"] = x["c"] * y["a"] + x["d"] * y["c"]
    result["d"] = x["c"] * y["b"] + x["d"] * y["d"]
    return result


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_callable_may_reduce_structures(n: int) -> None:
    def matrices(rank: int, count: int) -> np.ndarray:
        x = np.empty(count, _MATRIX)
        for shift, name in enumerate("abcd"):
            x[name] = values(rank + shift, count, "i8") - 2
        return x

    def body(ctx: Context) -> None:
        for count in (1, 6, 20_001):
            for algorithm in ORDERED:
                result = ctx.allreduce(matrices(ctx.rank, count), op=product, algorithm=algorithm)
                np.testing.assert_array_equal(result, reduce(product, (matrices(rank, count) for rank in range(n))))

    run_ranks(n, body)


@pytest.mark.parametrize("n", [2, 3])
def test_items_that_do_not_divide_a_scratch_piece(n: int) -> None:
    packed = np.dtype([("small", "i1"), ("large", "i8")])
    assert packed.itemsize == 9

    def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        total = np.empty_like(a)
        for name in packed.names or ():
            total[name] = a[name] + b[name]
        return total

    def body(ctx: Context) -> None:
        x = np.empty(max(CHUNK_NBYTES, 3 * EAGER_NBYTES) // packed.itemsize + 11, packed)
        x["small"], x["large"] = values(ctx.rank, len(x), "i1"), values(ctx.rank, len(x), "i8") << 40
        for algorithm in ORDERED:
            result = ctx.allreduce(x, op=add, algorithm=algorithm)
            wanted = sum(values(rank, len(x), "i8") for rank in range(n))
            np.testing.assert_array_equal(result["small"], wanted)
            np.testing.assert_array_equal(result["large"], wanted << 40)

    run_ranks(n, body)


_MAP = np.dtype([("scale", "<u4"), ("shift", "<u4"), ("count", "<u4")])


def then(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Maps ``x -> scale * x + shift`` one after the other, modulo 2**32: associative, and the order matters."""
    result = np.empty_like(first)
    result["scale"] = first["scale"] * second["scale"]
    result["shift"] = first["shift"] * second["scale"] + second["shift"]
    result["count"] = first["count"] + second["count"]
    return result


def maps(rank: int, count: int) -> np.ndarray:
    x = np.ones(count, _MAP)
    x["scale"] = 2 * ((7 * np.arange(count) + 3 * rank) % 1009) + 1
    x["shift"] = np.arange(count) + 1_000_003 * rank
    return x


def bordered(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy with three items to its left and three to its right, all bytes of which are 77, and all of it."""
    whole = np.full((len(x) + 6) * x.itemsize, 77, "u1").view(x.dtype)
    whole[3:-3] = x
    return whole[3:-3], whole


@pytest.mark.parametrize("way", ["read", "unix", "tcp"])
@pytest.mark.parametrize("nbytes", [CHUNK_NBYTES + CHUNK_NBYTES // 2, SLICE_NBYTES + CHUNK_NBYTES // 2])
@pytest.mark.parametrize("n", [2, 3])
def test_blocks_of_several_pieces_into_another_array_and_in_place(n: int, nbytes: int, way: str) -> None:
    """What comes is combined in `out` itself, unless that is `x`; items of 12 bytes do not divide a piece of either."""

    def body(ctx: Context) -> None:
        assert [link.readable for link in ctx._engine._links] == [way == "read" and rank != ctx.rank for rank in range(n)]
        for op, algorithms, inputs in (
            (then, (*ORDERED, "bcube", "direct"), [maps(rank, n * nbytes // 12 + 5) for rank in range(n)]),
            ("sum", (*ALGORITHMS, "bcube", "direct"), [values(rank, n * nbytes // 8 + 5) for rank in range(n)]),
        ):
            mine = inputs[ctx.rank]
            before = mine.copy()
            wanted = reduce(then if callable(op) else np.add, inputs)
            for algorithm in algorithms:
                np.testing.assert_array_equal(ctx.allreduce(mine, op=op, algorithm=algorithm), wanted)
                for in_place in (False, True):
                    out, whole = bordered(mine if in_place else mine[::-1])
                    assert ctx.allreduce(out if in_place else mine, out=out, op=op, algorithm=algorithm) is out
                    np.testing.assert_array_equal(out, wanted)
                    assert (whole[:3].view("u1") == 77).all()
                    assert (whole[-3:].view("u1") == 77).all()
                np.testing.assert_array_equal(mine, before)

    run_ranks(n, body, device=Device(transport="unix" if way == "read" else way, single_copy=way == "read"))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def refused(ctx: Context, error: type[Exception], text: str, **arguments: Any) -> None:
        x = arguments.pop("x", np.ones(3))
        with pytest.raises(error) as caught:
            ctx.allreduce(x, **arguments)
        assert str(caught.value) == text

    def body(ctx: Context) -> None:
        if ctx.rank == 0:  # alone: nothing that it does may reach the others
            names = "sum, prod, min, max, land, lor, lxor, band, bor, bxor"
            refused(ctx, ValueError, f"op must be one of {names}, mean, a ufunc or a callable, not 'avg'", op="avg")
            refused(ctx, TypeError, "op must be a name, a ufunc or a callable, not int", op=1)
            refused(
                ctx, ValueError, "op must take two arrays and return one; <ufunc 'sin'> takes 1 and returns 1", op=np.sin
            )
            refused(
                ctx,
                ValueError,
                "algorithm must be one of auto, recursive_doubling, halving_doubling, ring, bcube, direct, not 'tree'",
                algorithm="tree",
            )
            refused(
                ctx,
                ValueError,
                "algorithm 'ring' reorders operands, and op 'concatenate' may not be commutative",
                op=concatenate,
                algorithm="ring",
            )
            refused(
                ctx,
                ValueError,
                "algorithm 'ring' reorders operands, and op 'gcd' may not be commutative",
                x=np.ones(3, "i4"),
                op=np.gcd,
                algorithm="ring",
            )
            for dtype in ("c8", "c16", "G", ">c16"):
                for name in ("min", "max"):
                    text = f"op '{name}' has no meaning for {np.dtype(dtype)}: complex numbers have no order"
                    refused(ctx, TypeError, text, x=np.ones(3, dtype), op=name)
            for op, dtype in ((np.true_divide, "i4"), (np.bitwise_and, "f8"), ("sum", "M8[s]"), ("sum", "i4,i4")):
                with pytest.raises(TypeError, match=r"^op '\w+' cannot reduce "):
                    ctx.allreduce(np.ones(3).astype(dtype), op=op)
            with pytest.raises(TypeError, match="cannot reduce"):
                ctx.allreduce(np.ones(3), op=np.frompyfunc(lambda a, b: a, 2, 1))
            with pytest.raises(ValueError, match="timeout must be seconds >= 0 or None, not -1"):
                ctx.allreduce(np.ones(3), timeout=-1)
        assert not ctx.closed
        assert ctx.allreduce(np.ones(3)).tolist() == [n, n, n]

    run_ranks(n, body)


@pytest.mark.parametrize("dtype", ["S3", "U3"])
def test_text_has_no_sum(dtype: str) -> None:
    def body(ctx: Context) -> None:
        # NumPy 2 adds texts, but the sum is longer than its operands: in an array of their dtype it would be cut.
        with pytest.raises(TypeError, match="cannot reduce"):
            ctx.allreduce(np.array(["abc", "def"], dtype))

    run_ranks(2, body)


def test_an_operator_that_raises_breaks_the_context_on_all_ranks() -> None:
    def body(ctx: Context) -> None:
        def picky(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if ctx.rank == 2 and len(a) > 1:  # not when it is tried
                raise ArithmeticError("no such sum")
            return a + b

        if ctx.rank == 2:
            ctx.allreduce(np.ones(3), op=picky)
        with pytest.raises(PeerLostError, match="it aborted: ArithmeticError: no such sum"):  # noqa: PT012
            for _ in range(2):  # it may have come through the first before rank 2 failed
                ctx.allreduce(np.ones(3), op=picky)
        assert ctx.closed

    with pytest.raises(RankError, match=r"^rank 2 of 3 failed: ArithmeticError: no such sum$"):
        run_ranks(3, body)


@pytest.mark.parametrize(
    ("op", "error"), [(lambda a, b: a[:1], ValueError), (lambda a, b: a + 0.5, TypeError), (lambda a, b: None, Exception)]
)
def test_an_operator_of_another_shape_or_dtype_fails(op: Any, error: type[Exception]) -> None:
    def body(ctx: Context) -> None:
        ctx.allreduce(np.ones(3, "i4"), op=op)

    with pytest.raises(RankError) as caught:
        run_ranks(2, body)
    assert isinstance(caught.value.__cause__, error)
