"""Reduction operators: names, ufuncs and callables, brought to one form.

An operator knows whether its operands may be swapped.  Those that may not are always applied in rank order; those
that may are too wherever several ranks compute the same result, so that NaN payloads come out bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array

__all__ = ["OPERATORS", "Reduction", "resolve"]

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


class Reduction(NamedTuple):
    """An operator: ``apply(a, b, out=out)`` writes ``a op b`` to `out`, elementwise; `a` is from the lower ranks.

    `out` may be `a` or `b` itself.
    """

    name: str
    apply: Callable[..., object]
    commutative: bool

    def check(self, dtype: np.dtype[Any]) -> None:
        """Raise TypeError unless the ufunc maps two arrays of `dtype` to one of `dtype`.

        A callable of the user's is not tried: it is called on the data alone.
        """
        if isinstance(self.apply, np.ufunc):
            _check(self.apply, self.name, dtype)


@lru_cache(maxsize=256)
def _check(ufunc: np.ufunc, name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind == "c" and name in ("min", "max"):
        raise TypeError(f"op {name!r} has no meaning for {dtype}: complex numbers have no order")
    if dtype.kind in "SU":  # NumPy's sum joins texts, and what is longer than the items is lost
        raise TypeError(f"op {name!r} cannot reduce {dtype}: text cannot be reduced")
    try:
        probe = np.empty(1, dtype)
        with np.errstate(all="ignore"):  # whatever is in it
            ufunc(probe, probe, out=probe)
    except (TypeError, ValueError) as exc:
        raise TypeError(f"op {name!r} cannot reduce {dtype}: {exc}") from exc


def resolve(op: str | Callable[[Any, Any], Any] | Reduction) -> Reduction:
    """Return the `Reduction` for a name, a NumPy ufunc, a callable ``f(a, b) -> c``, or itself.

    Raises
    ------
    ValueError
        The name is unknown, or the ufunc does not take two arrays and return one.
    TypeError
        `op` is neither a string nor callable.
    """
    if isinstance(op, Reduction):
        return op
    if isinstance(op, str):
        ufunc = OPERATORS.get(op)
        if ufunc is None:
            raise ValueError(f"op must be one of {', '.join(OPERATORS)}, a ufunc or a callable, not {op!r}")
        return _from_ufunc(ufunc)
    if isinstance(op, np.ufunc):
        if (op.nin, op.nout) != (2, 1):
            raise ValueError(f"op must take two arrays and return one; {op!r} takes {op.nin} and returns {op.nout}")
        return _from_ufunc(op)
    if not callable(op):
        raise TypeError(f"op must be a name, a ufunc or a callable, not {type(op).__name__}")
    return _from_callable(op)


@lru_cache(maxsize=256)
def _from_ufunc(ufunc: np.ufunc) -> Reduction:
    name = _NAMES.get(ufunc)
    return Reduction(name or ufunc.__name__, ufunc, commutative=name is not None)


def _from_callable(function: Callable[[Any, Any], Any]) -> Reduction:
    def apply(a: Array, b: Array, out: Array) -> None:
        result = np.asarray(function(a, b))
        if result.shape != out.shape:
            raise ValueError(f"op {name!r} made shape {result.shape} of two arrays of shape {out.shape}")
        np.copyto(out, result, casting="same_kind")

    name = getattr(function, "__name__", type(function).__name__)
    return Reduction(name, apply, commutative=False)
