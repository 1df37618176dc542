"""Reduction operators: names, ufuncs, callables and MPI's operators, brought to one form.

An operator knows whether its operands may be swapped.  Those that may not are always applied in rank order; those
that may are too wherever several ranks compute the same result, so that NaN payloads come out bit-identical.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from .arrays import Array
from .user_operator import UserOperator, one_element

__all__ = ["OPERATORS", "Op", "OpName", "Reduction", "divided", "resolve"]

OpName = Literal["sum", "prod", "min", "max", "land", "lor", "lxor", "band", "bor", "bxor", "mean"]

# MPI's names (MPI-4.1, 6.9.2) and the ufunc that does each.  All are associative and commutative.
OPERATORS: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "land": np.logical_and,
    "lor": np.logical_or,
    "lxor": np.logical_xor,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
_NAMES = {ufunc: name for name, ufunc in OPERATORS.items()}

# A sum, divided by the number of ranks at the end.
_MEAN = "mean"

# Functions whose meaning as an operator is plain, and which would not do it: Python's sum(a, b) adds all of a to b, max
# compares arrays as a whole, np.sum takes b for an axis.
_MEANT: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("sum", (sum, np.sum, operator.add, operator.iadd)),
    ("prod", (np.prod, operator.mul, operator.imul)),
    ("min", (min, np.min, np.amin)),
    ("max", (max, np.max, np.amax)),
    ("land", (all, np.all)),
    ("lor", (any, np.any)),
    ("band", (operator.and_, operator.iand)),
    ("bor", (operator.or_, operator.ior)),
    ("bxor", (operator.xor, operator.ixor)),
    ("mean", (np.mean,)),
)
_BY_IDENTITY = {id(function): name for name, functions in _MEANT for function in functions}


class Reduction(NamedTuple):
    """An operator: ``apply(a, b, out=out)`` writes ``a op b`` to `out`, elementwise; `a` is from the lower ranks.

    `out` may be `a` or `b` itself.  If `mean`, what the algorithms make is a sum, and `divided` makes the result of it.
    """

    name: str
    apply: Callable[..., object]
    commutative: bool
    mean: bool = False

    def check(self, dtype: np.dtype[Any]) -> None:
        """Raise TypeError unless it maps two arrays of `dtype` to one of `dtype`.

        A callable of the user's is tried on a few pairs of elements, once for each dtype.
        """
        if isinstance(self.apply, np.ufunc):
            _check(self.apply, self.name, dtype)
        elif isinstance(self.apply, UserOperator):
            self.apply.check(dtype)


@lru_cache(maxsize=256)
def _check(ufunc: np.ufunc, name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind == "c" and name in ("min", "max"):
        raise TypeError(f"op {name!r} has no meaning for {dtype}: complex numbers have no order")
    if dtype.kind in "SU":  # NumPy's sum joins texts, and what is longer than the items is lost
        raise TypeError(f"op {name!r} cannot reduce {dtype}: text cannot be reduced")
    if name == _MEAN and not _has_fractions(dtype):
        raise TypeError(f"op 'mean' has no meaning for {dtype}: it is for floating-point and complex numbers")
    try:
        probe = one_element(dtype, 1)
        with np.errstate(all="ignore"):
            ufunc(probe, probe, out=probe)
    except Exception as exc:  # a ufunc made of a Python function raises what that does
        raise TypeError(f"op {name!r} cannot reduce {dtype}: {exc}") from exc


def _has_fractions(dtype: np.dtype[Any]) -> bool:
    if dtype.isbuiltin == 2:  # of another package: ml_dtypes has 4-bit integers as well as bfloat16
        return bool(dtype.type(0.5) == 0.5)
    return dtype.kind in "fc"


def divided(total: Array, size: int) -> Array:
    """Divide the sum of `size` ranks by their number, in place, and return it; 1-d, contiguous."""
    parts = total.view(total.real.dtype)  # of a complex number, each by itself: 0 times infinity is NaN
    # Short floats do not have every number of ranks: the quotient is computed with 24 bits and rounded once more.
    divisor = np.array([size], parts.dtype if parts.itemsize >= 4 else "f4")
    np.divide(parts, divisor, out=parts, casting="same_kind")
    return total


# The names are for editors and readers: a program may also have the name in a variable.
Op = OpName | str | Callable[[Any, Any], Any]


def resolve(op: Op | Reduction) -> Reduction:
    """Return the `Reduction` for a name, a NumPy ufunc, a callable ``f(a, b) -> c``, one of MPI's operators, or itself.

    Raises
    ------
    ValueError
        The name is unknown, or the ufunc does not take two arrays and return one.
    TypeError
        `op` is neither a string nor callable, or is a ufunc or an operator of MPI's that does not go by the elements.
    """
    if isinstance(op, Reduction):
        return op
    if not isinstance(op, str | np.ufunc):
        op = _BY_IDENTITY.get(id(op)) or _of_mpi(op) or op
    if isinstance(op, str):
        ufunc = np.add if op == _MEAN else OPERATORS.get(op)
        if ufunc is None:
            raise ValueError(f"op must be one of {', '.join(OPERATORS)}, {_MEAN}, a ufunc or a callable, not {op!r}")
        return Reduction(op, ufunc, commutative=True, mean=op == _MEAN)
    if isinstance(op, np.ufunc):
        if (op.nin, op.nout) != (2, 1):
            raise ValueError(f"op must take two arrays and return one; {op!r} takes {op.nin} and returns {op.nout}")
        if op.signature is not None:
            raise TypeError(f"op must be elementwise; {op!r} has the signature {op.signature}, and would mix the elements")
        name = _NAMES.get(op)
        return Reduction(name or op.__name__, op, commutative=name is not None)
    if not callable(op):
        raise TypeError(f"op must be a name, a ufunc or a callable, not {type(op).__name__}")
    apply = UserOperator(op)
    return Reduction(apply.name, apply, commutative=False)


def _of_mpi(op: object) -> str:
    """The name of one of mpi4py's operators, which are gloompi.MPI's too; empty for anything else."""
    mpi: Any = sys.modules.get("mpi4py.MPI")  # whoever has one of them has imported it
    if not isinstance(op, getattr(mpi, "Op", ())):
        return ""
    for name in OPERATORS:
        if op == getattr(mpi, name.upper()):
            return name
    known = next((name for name in ("MAXLOC", "MINLOC", "REPLACE", "NO_OP", "OP_NULL") if op == getattr(mpi, name)), "")
    if known:
        raise TypeError(f"op MPI.{known} has no meaning for arrays: pass a callable f(a, b) -> c that does what is wanted")
    raise TypeError("op is one that MPI.Op.Create has made, for MPI's buffers: pass a callable f(a, b) -> c on arrays")
