"""Operators that users write: tried once before anything is sent, refused there, and never able to change an operand."""

from __future__ import annotations

import ctypes
import gc
import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gloompi import Context
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks
from gloompi.user_operator import _KNOWN, UserOperator

F8 = np.dtype("f8")


def apply(operator: UserOperator, a: Any, b: Any) -> Any:
    out = np.empty_like(a)
    operator(a, b, out=out)
    return out


def add(a: Any, b: Any) -> Any:
    return a + b


def into_first(a: Any, b: Any) -> Any:
    a += b
    return a


def into_second(a: Any, b: Any) -> Any:
    b += a
    return b


def into_both(a: Any, b: Any) -> Any:
    total = a + b
    a[:] = 7
    b[:] = 8
    return total


def at_times(a: Any, b: Any) -> Any:
    """Writes, but not into arrays of one element."""
    if len(a) == 1:
        return a + b
    a += b
    return a


def _memory(array: Any) -> Any:
    """An array over the same memory that can be written, whatever NumPy's flags say, as torch.from_numpy makes one."""
    return np.frombuffer((ctypes.c_byte * array.nbytes).from_address(array.ctypes.data), array.dtype)


def past_the_flags(a: Any, b: Any) -> Any:
    _memory(a)[:] += b
    return a.copy()


def past_the_flags_of_the_second(a: Any, b: Any) -> Any:
    _memory(b)[:] += a
    return b.copy()


WRITING = [into_first, into_second, into_both, at_times, past_the_flags, past_the_flags_of_the_second]


def _writing_past_the_flags(function: Callable[..., Any], place: int) -> Callable[[Any, Any], Any]:
    def writes(a: Any, b: Any) -> Any:
        target = _memory((a, b)[place])
        function(a, b, out=target)
        return target.copy()

    return writes


# -- what an operator may do with its arguments -------------------------------------------------------------------------


@pytest.mark.parametrize("function", [add, *WRITING])
@pytest.mark.parametrize("into", ["a", "b", "another"])
def test_operands_stay_as_they_are(function: Callable[[Any, Any], Any], into: str) -> None:
    operator = UserOperator(function)
    operator.check(F8)
    for count in (1, 5):
        a, b = np.arange(count) + 1.0, np.arange(count) * 10.0
        operands = {"a": a.copy(), "b": b.copy(), "another": np.empty(count)}
        out = operands[into]
        operator(operands["a"], operands["b"], out=out)
        assert out.tolist() == (a + b).tolist()
        for name, content in (("a", a), ("b", b)):
            if name != into:
                assert operands[name].tolist() == content.tolist()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (np.minimum, "f8"),
        (np.maximum, "f8"),
        (np.minimum, "M8[s]"),
        (np.maximum, "i1"),
        (np.logical_and, "?"),
        (np.logical_or, "?"),
        (np.logical_xor, "?"),
        (np.add, "?"),
    ],
)
def test_what_writes_one_of_its_operands_is_found_out(function: Callable[..., Any], dtype: str, place: int) -> None:
    operator = UserOperator(_writing_past_the_flags(function, place))
    operator.check(np.dtype(dtype))
    for first, second in ((0, 1), (1, 0)):
        a, b = np.array([first], "i1").astype(dtype), np.array([second], "i1").astype(dtype)
        wanted = function(a, b)
        before = a.tobytes(), b.tobytes()
        assert apply(operator, a, b) == wanted
        assert (a.tobytes(), b.tobytes()) == before


def test_an_operator_that_does_not_write_gets_no_copies() -> None:
    seen: list[Any] = []

    def first(a: Any, b: Any) -> Any:
        seen.append((a, b))
        return a

    operator = UserOperator(first)
    operator.check(F8)
    a, b = np.ones(3), np.ones(3)
    apply(operator, a, b)
    assert all(np.shares_memory(one, other) for one, other in zip(seen[-1], (a, b), strict=True))
    assert not any(operand.flags.writeable for operand in seen[-1])
    assert a.flags.writeable


def test_an_error_of_the_operator_is_its_own_and_calls_it_once() -> None:
    calls = []

    def fails(a: Any, b: Any) -> Any:
        calls.append(len(a))
        if len(a) > 1:
            raise ValueError("not today")
        return a

    operator = UserOperator(fails)
    operator.check(F8)
    with pytest.raises(ValueError, match=r"^not today$"):
        apply(operator, np.ones(3), np.ones(3))
    assert calls == [1, 1, 3]


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("function", WRITING)
def test_reductions_with_an_operator_that_writes(function: Callable[[Any, Any], Any], n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (1, 3, EAGER_NBYTES // 8 + 5):
            every = [np.arange(n * count) % 97 + 1000.0 * rank for rank in range(n)]
            upto = np.cumsum(every, axis=0)
            share = slice(ctx.rank * count, (ctx.rank + 1) * count)
            wanted = {
                "allreduce": upto[-1],
                "reduce": upto[-1] if ctx.rank == 0 else None,
                "scan": upto[ctx.rank],
                "exscan": upto[ctx.rank - 1] if ctx.rank else None,
                "reduce_scatter": upto[-1][share],
            }
            for name, algorithms in ALGORITHMS.items():
                for algorithm in algorithms:
                    x = every[ctx.rank].copy()
                    result = getattr(ctx, name)(x, op=function, algorithm=algorithm)
                    np.testing.assert_array_equal(result, wanted[name])
                    np.testing.assert_array_equal(x, every[ctx.rank])

    run_ranks(n, body)


ALGORITHMS = {
    "allreduce": ("recursive_doubling", "halving_doubling", "bcube", "direct"),
    "reduce": ("binomial", "halving_doubling"),
    "scan": ("recursive_doubling", "chain"),
    "exscan": ("recursive_doubling", "chain"),
    "reduce_scatter": ("recursive_halving",),
}


def test_operators_that_write_into_objects() -> None:
    def body(ctx: Context) -> None:
        for make in (lambda rank: [rank], lambda rank: np.arange(3.0) + rank, lambda rank: np.full(100_000, 1.0 * rank)):
            mine, total = make(ctx.rank), make(0) + make(1) + make(2)
            for op in (into_first, into_second):
                wanted = total if op is into_first or isinstance(mine, np.ndarray) else total[::-1]
                for name in ("allreduce_object", "reduce_object", "scan_object", "exscan_object"):
                    found = getattr(ctx, name)(mine, op=op)
                    assert np.array_equal(mine, make(ctx.rank))
                    if name == "allreduce_object" or (name, ctx.rank) in (("reduce_object", 0), ("scan_object", 2)):
                        assert np.array_equal(found, wanted)

    run_ranks(3, body)


# -- the trial ----------------------------------------------------------------------------------------------------------


def nothing(a: Any, b: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "dtype", "what"),
    [
        (lambda a, b: a.dot(b), "f8", "ValueError: op '<lambda>' made shape () of two arrays of shape (1,)"),
        (lambda a, b: np.stack([a, b]), "f8", "ValueError: op '<lambda>' made shape (2, 1) of two arrays of shape (1,)"),
        (lambda a, b: a[:0], "f8", "ValueError: op '<lambda>' made shape (0,) of two arrays of shape (1,)"),
        (lambda a, b: a / b, "i4", "Cannot cast array data from dtype('float64') to dtype('int32')"),
        (lambda a, b: a + 1j, "f8", "Cannot cast array data from dtype('complex128') to dtype('float64')"),
        (lambda a, b: a["x"], "f8", "IndexError: "),
        (lambda a: a, "f8", "TypeError: "),
        (nothing, "f8", "ValueError: op 'nothing' made shape () of two arrays of shape (1,)"),
        (lambda a, b: "text", "f8", "ValueError: op '<lambda>' made shape ()"),
    ],
    ids=["scalar", "two rows", "empty", "float", "complex", "field", "one argument", "None", "text"],
)
def test_trial_refuses(function: Any, dtype: str, what: str) -> None:
    operator = UserOperator(function)
    for _ in range(2):
        with pytest.raises(TypeError) as caught:
            operator.check(np.dtype(dtype))
        text = str(caught.value)
        assert text.startswith(
            f"op {operator.name!r} cannot reduce {np.dtype(dtype)}: tried on two arrays of one element, it "
        )
        assert what in text
        assert text.endswith("; an operator takes two NumPy arrays and returns one of their shape and dtype")
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda a, b: a // b, "i4"),
        (lambda a, b: b / a, "f4"),
        (lambda a, b: a % b + b % a, "u8"),
        (lambda a, b: a | b, "?"),
        (lambda a, b: a > b, "i8"),
        (lambda a, b: (a + b).tolist(), "f8"),
        (lambda a, b: [max(one, other) for one, other in zip(a, b, strict=True)], "f8"),
        (lambda a, b: np.where(a["value"] >= b["value"], a, b), [("value", "f8"), ("place", "i4", (2,)), ("name", "S3")]),
        (lambda a, b: np.where(np.char.str_len(a) >= np.char.str_len(b), a, b), "<U5"),
        (lambda a, b: np.maximum(a, b), "M8"),
        (lambda a, b: np.maximum(a, b), "M8[25us]"),
        (lambda a, b: a, "V7"),
        (lambda a, b: b, []),
        (lambda a, b: np.log(a - b) + 1 / (a - b), "f8"),
        (np.vectorize(lambda a, b: max(a, b)), "f8"),
    ],
    ids=str,
)
def test_trial_accepts_what_is_honest(function: Any, dtype: Any) -> None:
    UserOperator(function).check(np.dtype(dtype))


def test_trial_is_with_values_that_an_operator_may_know() -> None:
    def flags(a: Any, b: Any) -> Any:
        assert set(a) | set(b) <= {0, 1}
        return a | b

    UserOperator(flags).check(np.dtype("u1"))


class Calls:
    """An operator that counts, in all the forms in which one can be passed."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, a: Any, b: Any) -> Any:
        self.counts.append(len(a))
        return a + b

    def method(self, a: Any, b: Any) -> Any:
        return self(a, b)


class Equal(Calls):
    """It has no hash, and is equal to all others."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


COUNTED = Calls()


def _always(operator: Any) -> Callable[[], Any]:
    return lambda: operator


FORMS: dict[str, Callable[[Calls], Callable[[], Any]]] = {
    "function": lambda calls: _always(lambda a, b: calls(a, b)),
    "object": lambda calls: lambda: calls,
    "method": lambda calls: lambda: calls.method,  # another object each time
    "partial": lambda calls: _always(partial(lambda scale, a, b: calls(a, b), 1)),
}


@pytest.mark.parametrize("kind", [Calls, Equal])
@pytest.mark.parametrize("form", FORMS)
def test_trial_is_made_once_for_each_dtype(form: str, kind: type[Calls]) -> None:
    calls = kind()
    get = FORMS[form](calls)

    def body(ctx: Context) -> None:
        for _ in range(5):
            ctx.allreduce(np.ones(3), op=get())
        assert calls.counts == [1, 1, *[3] * 5 * (ctx.size > 1)]
        calls.counts.clear()
        for _ in range(5):
            ctx.allreduce(np.ones(3, "f4"), op=get())
        assert calls.counts == [1, 1, *[3] * 5 * (ctx.size > 1)]

    run_ranks(1, body)


def test_a_lambda_that_is_evaluated_at_each_call_is_tried_once() -> None:
    COUNTED.counts.clear()
    for _ in range(5):
        UserOperator(lambda a, b: COUNTED(a, b)).check(F8)
    assert COUNTED.counts == [1, 1]


def test_closures_of_one_function_are_tried_each() -> None:
    def made(index: Any) -> Callable[[Any, Any], Any]:
        return lambda a, b: (a + b)[index]

    UserOperator(made(slice(None))).check(F8)
    with pytest.raises(TypeError, match="made shape"):
        UserOperator(made(0)).check(F8)
    UserOperator(lambda a, b, index=slice(None): (a + b)[index]).check(F8)
    with pytest.raises(TypeError, match="made shape"):
        UserOperator(lambda a, b, index=0: (a + b)[index]).check(F8)


def test_what_was_learnt_of_an_operator_stays_known() -> None:
    counts = []

    def into(a: Any, b: Any) -> Any:
        counts.append(a.flags.writeable)
        a += b
        return a

    UserOperator(into).check(F8)
    assert counts == [False, True, True]
    apply(UserOperator(into), np.ones(3), np.ones(3))
    assert counts == [False, True, True, True]


@pytest.mark.parametrize("form", FORMS)
def test_no_operator_is_kept_alive(form: str) -> None:
    gc.collect()
    before = len(_KNOWN)
    calls = Calls()
    UserOperator(FORMS[form](calls)()).check(F8)
    assert len(_KNOWN) == before + (form in ("object", "method"))
    gone = weakref.ref(calls)
    del calls
    gc.collect()
    assert gone() is None
    assert len(_KNOWN) == before


class Slots:
    """Nothing can refer to it weakly."""

    __slots__ = ()

    def __call__(self, a: Any, b: Any) -> Any:
        return a + b


def test_operators_without_weak_references() -> None:
    before = len(_KNOWN)
    operator = UserOperator(Slots())
    operator.check(F8)
    assert apply(operator, np.ones(2), np.ones(2)).tolist() == [2, 2]
    assert operator.name == "Slots"
    assert len(_KNOWN) == before


@pytest.mark.parametrize("name", ["allreduce", "reduce", "reduce_scatter", "scan", "exscan"])
def test_nothing_is_sent_before_an_operator_has_passed(name: str) -> None:
    def fails(a: Any, b: Any) -> Any:
        raise RuntimeError("not on arrays")

    def body(ctx: Context) -> None:
        call = getattr(ctx, name)
        if ctx.rank == 0:  # the others have not even called
            for begin in (call, getattr(ctx, f"i{name}")):
                for bad, text in ((fails, "it failed with RuntimeError: not on arrays"), (np.matmul, "elementwise")):
                    with pytest.raises(TypeError, match=re.escape(text)):
                        begin(np.ones(4), op=bad)
            assert [entry.name for entry in ctx.history()] == []
        np.testing.assert_array_equal(ctx.allreduce(np.ones(3)), [2] * 3)

    run_ranks(2, body)


def test_an_operator_that_fails_later_breaks_the_context() -> None:
    def truth(a: Any, b: Any) -> Any:
        return a if a > b else b  # of one element

    def body(ctx: Context) -> None:
        assert ctx.allreduce(np.array([ctx.rank]), op=truth).tolist() == [1]
        with pytest.raises((ValueError, ConnectionError), match="truth value of an array"):
            ctx.allreduce(np.array([ctx.rank, 1]), op=truth)
        assert ctx.closed

    run_ranks(2, body)
