"""Operators: names, ufuncs and callables brought to one form."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
from launch import run_job

from gloompi import Context
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.reduction import OPERATORS, OpName, Reduction, divided, resolve
from gloompi.testing import run_ranks

A, B = np.array([6, 0, 5, -3]), np.array([3, 7, 0, -3])


def apply(reduction: Reduction, a: Any, b: Any) -> Any:
    out = np.empty_like(a)
    reduction.apply(a, b, out=out)
    return out


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("sum", [9, 7, 5, -6]),
        ("prod", [18, 0, 0, 9]),
        ("min", [3, 0, 0, -3]),
        ("max", [6, 7, 5, -3]),
        ("land", [1, 0, 0, 1]),
        ("lor", [1, 1, 1, 1]),
        ("lxor", [0, 1, 1, 0]),
        ("band", [2, 0, 0, -3]),
        ("bor", [7, 7, 5, -3]),
        ("bxor", [5, 7, 5, 0]),
    ],
)
def test_names(name: str, result: list[int]) -> None:
    reduction = resolve(name)
    assert (reduction.name, reduction.commutative) == (name, True)
    reduction.check(A.dtype)
    assert apply(reduction, A, B).tolist() == result


def test_names_in_the_signatures() -> None:
    assert get_args(OpName) == (*OPERATORS, "mean")


def test_there_is_a_case_for_every_name() -> None:
    assert list(OPERATORS) == ["sum", "prod", "min", "max", "land", "lor", "lxor", "band", "bor", "bxor"]


@pytest.mark.parametrize("name", OPERATORS)
def test_ufunc_of_a_name_is_that_operator(name: str) -> None:
    assert resolve(OPERATORS[name]) == resolve(name)


def test_other_ufunc() -> None:
    reduction = resolve(np.hypot)
    assert (reduction.name, reduction.commutative) == ("hypot", False)
    assert apply(reduction, np.array([3.0]), np.array([4.0])).tolist() == [5.0]


@pytest.mark.parametrize("name", ["sum", "max", "bxor"])
@pytest.mark.parametrize("into", ["a", "b"])
def test_out_may_be_an_operand(name: str, into: str) -> None:
    operands = {"a": A.copy(), "b": B.copy()}
    resolve(name).apply(operands["a"], operands["b"], out=operands[into])
    assert operands[into].tolist() == apply(resolve(name), A, B).tolist()


@pytest.mark.parametrize("into", ["a", "b"])
def test_out_of_a_callable_may_be_an_operand(into: str) -> None:
    operands = {"a": A.copy(), "b": B.copy()}
    resolve(lambda a, b: 10 * a + b).apply(operands["a"], operands["b"], out=operands[into])
    assert operands[into].tolist() == [63, 7, 50, -33]


def test_callable_is_not_taken_for_commutative() -> None:
    def left(a: Any, b: Any) -> Any:
        return a

    reduction = resolve(left)
    assert (reduction.name, reduction.commutative) == ("left", False)
    assert apply(reduction, A, B).tolist() == A.tolist()
    reduction.check(np.dtype("V3"))  # only its call can tell


def test_callable_without_a_name_has_that_of_its_class() -> None:
    assert resolve(partial(np.add)).name == "partial"


def test_callable_may_return_another_precision() -> None:
    out = apply(resolve(lambda a, b: (a + b).astype("f8")), np.ones(2, "f4"), np.ones(2, "f4"))
    assert (out.dtype, out.tolist()) == (np.dtype("f4"), [2.0, 2.0])


def test_callable_that_returns_another_kind() -> None:
    with pytest.raises(TypeError, match="Cannot cast"):
        apply(resolve(lambda a, b: a / b), np.ones(2, "i4"), np.ones(2, "i4"))


@pytest.mark.parametrize(("function", "shape"), [(lambda a, b: a.sum(), "()"), (lambda a, b: a[:1], r"(1,)")])
def test_callable_that_returns_another_shape(function: Any, shape: str) -> None:
    with pytest.raises(ValueError, match="made shape") as caught:
        apply(resolve(function), A, B)
    assert str(caught.value) == f"op '<lambda>' made shape {shape} of two arrays of shape (4,)"


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="op must be") as caught:
        resolve("avg")
    assert str(caught.value) == (
        "op must be one of sum, prod, min, max, land, lor, lxor, band, bor, bxor, mean, a ufunc or a callable, not 'avg'"
    )


@pytest.mark.parametrize(("ufunc", "nin", "nout"), [(np.negative, 1, 1), (np.divmod, 2, 2), (np.modf, 1, 2)])
def test_ufunc_of_another_form(ufunc: np.ufunc, nin: int, nout: int) -> None:
    with pytest.raises(ValueError, match="op must take two") as caught:
        resolve(ufunc)
    assert str(caught.value) == f"op must take two arrays and return one; {ufunc!r} takes {nin} and returns {nout}"


@pytest.mark.parametrize(("op", "kind"), [(None, "NoneType"), (3, "int"), (b"sum", "bytes")])
def test_neither_name_nor_callable(op: Any, kind: str) -> None:
    with pytest.raises(TypeError, match="op must be") as caught:
        resolve(op)
    assert str(caught.value) == f"op must be a name, a ufunc or a callable, not {kind}"


# -- what is meant ------------------------------------------------------------------------------------------------------

MEANT: dict[str, list[Any]] = {
    "sum": [sum, np.sum, operator.add, operator.iadd, operator.__add__],
    "prod": [np.prod, operator.mul, operator.imul],
    "min": [min, np.min, np.amin],
    "max": [max, np.max, np.amax],
    "land": [all, np.all],
    "lor": [any, np.any],
    "band": [operator.and_, operator.iand],
    "bor": [operator.or_, operator.ior],
    "bxor": [operator.xor, operator.ixor],
    "mean": [np.mean],
}


@pytest.mark.parametrize(("name", "function"), [(name, function) for name, each in MEANT.items() for function in each])
def test_functions_of_python_and_numpy_are_the_operators_that_they_look_like(name: str, function: Any) -> None:
    assert resolve(function) == resolve(name)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_reductions_with_functions_of_python(n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (3, EAGER_NBYTES // 4):
            every = np.array([np.arange(count) % 5 * (rank + 1) % (4 if n > 1 else 2) for rank in range(n)])
            x = every[ctx.rank]
            np.testing.assert_array_equal(ctx.allreduce(x, op=sum), every.sum(0))
            np.testing.assert_array_equal(ctx.scan(x, op=max), every[: ctx.rank + 1].max(0))
            np.testing.assert_array_equal(ctx.allreduce(x, op=any), every.any(0))
            np.testing.assert_array_equal(ctx.allreduce(x.astype("f4"), op=all), every.all(0))
            np.testing.assert_array_equal(ctx.allreduce(x > 1, op=any), (every > 1).any(0))
            reduced = ctx.reduce(x, op=operator.ior)
            assert ctx.rank or np.array_equal(reduced, np.bitwise_or.reduce(every))

    run_ranks(n, body)


def test_what_only_resembles_them_is_called() -> None:
    for function in (operator.sub, operator.truediv, partial(sum), lambda a, b: a + b):
        assert resolve(function).name not in OPERATORS


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("n", [1, 3])
def test_operators_of_mpi(n: int) -> None:
    for found in run_job(n, "mpi_operators.py"):
        assert found["wrong"] == []
        assert found["refused"] == {
            **{
                name: f"op MPI.{name} has no meaning for arrays: pass a callable f(a, b) -> c that does what is wanted"
                for name in ("MAXLOC", "OP_NULL", "NO_OP")
            },
            "Create": "op is one that MPI.Op.Create has made, for MPI's buffers: pass a callable f(a, b) -> c on arrays",
        }


@pytest.mark.parametrize("ufunc", [each for each in (np.matmul, getattr(np, "vecdot", None)) if each is not None])
def test_generalized_ufuncs_are_refused(ufunc: np.ufunc) -> None:
    with pytest.raises(TypeError, match="elementwise") as caught:
        resolve(ufunc)
    assert str(caught.value) == (
        f"op must be elementwise; {ufunc!r} has the signature {ufunc.signature}, and would mix the elements"
    )


# -- mean ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "g", "c8", "c16"])
def test_mean(dtype: str, n: int) -> None:
    kind = np.dtype(dtype)
    exact = "G" if kind.kind == "c" else "g"

    def values(rank: int, count: int) -> np.ndarray:
        return (np.arange(count) % 11 * (1.5j if kind.kind == "c" else 0.5) + rank).astype(kind)

    def body(ctx: Context) -> list[bytes]:
        found = []
        for count in (0, 3, 1 + 300_000 // n // kind.itemsize):
            x = values(ctx.rank, n * count)
            wanted = (sum(values(rank, n * count).astype(exact) for rank in range(n)) / n).astype(kind)
            for algorithm in ("auto", "recursive_doubling", "halving_doubling", "ring", "bcube", "direct"):
                mean = ctx.allreduce(x, op="mean", algorithm=algorithm)
                np.testing.assert_array_equal(mean, wanted)
                found.append(mean.tobytes() if dtype != "g" else b"")  # whose items have unused bytes
            strided = np.zeros((n * count, 2), kind)[:, 1]
            ctx.allreduce(x, out=strided, op=np.mean)
            np.testing.assert_array_equal(strided, wanted)
            for root in {0, n - 1}:
                reduced = ctx.reduce(x, root=root, op="mean")
                np.testing.assert_array_equal(reduced, wanted if ctx.rank == root else None)
            np.testing.assert_array_equal(
                ctx.reduce_scatter(x, op="mean"), wanted[ctx.rank * count : (ctx.rank + 1) * count]
            )
            np.testing.assert_array_equal(x, values(ctx.rank, n * count))
            assert ctx.iallreduce(x, out=x, op="mean").wait() is x
            np.testing.assert_array_equal(x, wanted)
        return found

    results = run_ranks(n, body)
    assert all(result == results[0] for result in results)


def test_mean_of_bfloat16() -> None:
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)

    def body(ctx: Context) -> None:
        x = (np.arange(6.0) + ctx.rank).astype(bfloat16)
        mean = ctx.allreduce(x, op="mean")
        assert mean.dtype == bfloat16
        assert mean.tolist() == [1, 2, 3, 4, 5, 6]

    run_ranks(3, body)


@pytest.mark.parametrize(("size", "dtype"), [(2049, "f2"), (257, "bfloat16"), (3, "f4"), (7, "c8")])
def test_the_mean_of_more_ranks_than_a_short_float_can_count(size: int, dtype: str) -> None:
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    total = (np.arange(5.0) * 300).astype(kind)
    wanted = (total.astype("c16" if kind.kind == "c" else "f8") / size).astype(kind)
    found = divided(total, size)
    assert found is total
    assert found.tolist() == wanted.tolist()


def test_mean_of_infinite_complex_numbers() -> None:
    total = np.array([complex(float("inf"), 3), complex(4, float("-inf"))])
    assert divided(total, 2).tolist() == [complex(float("inf"), 1.5), complex(2, float("-inf"))]


@pytest.mark.parametrize("dtype", ["i4", "u8", "?", "m8[s]", "M8[s]", "S3", "int4"])
def test_mean_of_what_has_no_fractions(dtype: str) -> None:
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "int4" else dtype)

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(TypeError) as caught:
                ctx.allreduce(np.zeros(3, kind), op="mean")
            if kind.kind != "S":
                assert str(caught.value) == (
                    f"op 'mean' has no meaning for {kind}: it is for floating-point and complex numbers"
                )
        ctx.barrier()

    run_ranks(2, body)


@pytest.mark.parametrize("name", ["scan", "exscan"])
def test_there_is_no_mean_of_the_ranks_so_far(name: str) -> None:
    def body(ctx: Context) -> None:
        for call in (getattr(ctx, name), getattr(ctx, f"i{name}")):
            with pytest.raises(ValueError, match="mean") as caught:
                call(np.ones(3), op="mean")
            assert str(caught.value) == (
                f"op 'mean' is none for {name}: reduce with 'sum', and divide by the number of ranks so far"
            )

    run_ranks(1, body)


# -- what an operator cannot reduce -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_numbers_have_no_order(name: str, dtype: str) -> None:
    with pytest.raises(TypeError, match="no order") as caught:
        resolve(name).check(np.dtype(dtype))
    assert str(caught.value) == (f"op '{name}' has no meaning for {np.dtype(dtype)}: complex numbers have no order")


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        ("band", "f8"),
        ("bxor", "c16"),
        ("sum", "M8[s]"),
        ("prod", "m8[s]"),
        ("max", "V4"),
        ("sum", [("a", "i4")]),
        (np.arctan2, "i4"),  # would be a float
        (np.subtract, "?"),
    ],
    ids=str,
)
def test_check_refuses_what_numpy_cannot_reduce(op: Any, dtype: Any) -> None:
    reduction = resolve(op)
    with pytest.raises(TypeError, match="cannot reduce") as caught:
        reduction.check(np.dtype(dtype))
    assert str(caught.value).startswith(f"op {reduction.name!r} cannot reduce {np.dtype(dtype)}: ")


@pytest.mark.parametrize("dtype", ["S3", "<U3"])
def test_text_is_not_reduced(dtype: str) -> None:
    # NumPy's sum would join texts and cut what does not fit.
    with pytest.raises(TypeError, match="text") as caught:
        resolve("sum").check(np.dtype(dtype))
    assert str(caught.value) == f"op 'sum' cannot reduce {np.dtype(dtype)}: text cannot be reduced"


@pytest.mark.parametrize(
    ("op", "dtype"),
    [("sum", "?"), ("sum", ">f8"), ("prod", "c16"), ("lxor", "f4"), ("min", "M8[s]"), ("sum", "m8[s]"), ("band", "?")],
)
def test_check_accepts_what_numpy_can_reduce(op: str, dtype: str) -> None:
    resolve(op).check(np.dtype(dtype))


def test_integers_wrap_as_in_numpy() -> None:
    high = np.array([127, -128], "i1")
    assert apply(resolve("sum"), high, high).tolist() == [-2, 0]


@pytest.mark.parametrize("name", ["min", "max"])
def test_nan_wins(name: str) -> None:
    nan = float("nan")
    assert np.isnan(apply(resolve(name), np.array([nan, 1.0]), np.array([1.0, nan]))).all()


def test_the_sum_of_a_mean_has_the_dtype_of_its_items() -> None:
    def body(ctx: Context) -> None:
        with np.errstate(over="ignore"):
            assert ctx.allreduce(np.full(3, 40_000, "f2"), op="mean").tolist() == [np.inf] * 3
        assert ctx.allreduce(np.full(3, 40_000, "f4"), op="mean").tolist() == [40_000] * 3

    run_ranks(2, body)
