"""Operators: names, ufuncs and callables brought to one form."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from gloompi.reduction import OPERATORS, Reduction, resolve

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
        "op must be one of sum, prod, min, max, land, lor, lxor, band, bor, bxor, a ufunc or a callable, not 'avg'"
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
