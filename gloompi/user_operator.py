"""Operators that users write: tried before anything is sent, and kept from changing what they are given.

A callable may do anything with its arguments, and they are arrays of the user's and of the algorithms.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from .arrays import Array
from .errors import summary

__all__ = ["UserOperator", "one_element"]


class UserOperator:
    """A callable ``f(a, b) -> c``, applied as a ufunc is: ``operator(a, b, out=out)``.

    It gets read-only views.  One that writes into its arguments all the same (``a += b; return a``) gets copies; out of
    reach is what goes round NumPy's flag and does so only with values or sizes that the trial does not have.

    Parameters
    ----------
    function : callable

    Attributes
    ----------
    name : str
    """

    __slots__ = ("_function", "_known", "name")

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self._function = function
        self._known = _known(function)

    def __call__(self, a: Array, b: Array, out: Array) -> None:
        if not self._known.writes:
            try:
                return self._put(self._function(_read_only(a), _read_only(b)), out)
            except ValueError as exc:
                if "read-only" not in str(exc):
                    raise
            # It writes only now and then, and its trial did not show it.
            self._known.writes = True
        return self._put(self._function(a.copy(), b.copy()), out)

    def _put(self, result: Any, out: Array) -> None:
        found = np.asarray(result)
        if found.shape != out.shape:
            raise ValueError(f"op {self.name!r} made shape {found.shape} of two arrays of shape {out.shape}")
        np.copyto(out, found, casting="same_kind")

    def check(self, dtype: np.dtype[Any]) -> None:
        """Raise TypeError unless it makes one element of `dtype` of two, each in an array of its own.

        Called once for each dtype: what came of it is remembered as long as the callable lives.
        """
        if dtype not in self._known.dtypes:
            self._known.writes |= self._try(dtype)
            self._known.dtypes.add(dtype)

    def _try(self, dtype: np.dtype[Any]) -> bool:
        """Call it; return whether it writes into its arguments."""
        for operands in _OPERANDS[_same(dtype, 1, 2) :]:
            for lent in (_read_only, np.copy):
                try:
                    written = [self._written(dtype, *pair, lent) for pair in operands]
                except Exception as exc:
                    failure = exc
                else:
                    return lent is np.copy or any(written)
        raise TypeError(
            f"op {self.name!r} cannot reduce {dtype}: tried on two arrays of one element, it failed with "
            f"{summary(failure)}; an operator takes two NumPy arrays and returns one of their shape and dtype"
        ) from failure

    def _written(self, dtype: np.dtype[Any], first: int, second: int, lent: Callable[[Array], Array]) -> bool:
        """Call it on two elements; return whether they are others afterwards."""
        a, b = one_element(dtype, first), one_element(dtype, second)
        before = a.tobytes(), b.tobytes()
        with np.errstate(all="ignore"):
            self._put(self._function(lent(a), lent(b)), np.empty(1, dtype))
        return (a.tobytes(), b.tobytes()) != before


# Two numbers in both orders show who writes where NumPy cannot forbid it (torch.from_numpy): a minimum of 1 and 2 is no news
# in the first.  Some operators know only 0 and 1, and some no 0.
_OPERANDS = ((1, 2), (2, 1)), ((1, 0), (0, 1)), ((1, 1),)


def _same(dtype: np.dtype[Any], one: int, other: int) -> bool:
    """Return whether the dtype has no two elements for two numbers, as bool has none for 1 and 2."""
    return one_element(dtype, one).tobytes() == one_element(dtype, other).tobytes()


def _read_only(array: Array) -> Array:
    seen = array.view()
    seen.flags.writeable = False
    return seen


def one_element(dtype: np.dtype[Any], value: int) -> Array:
    """Return an array of one element, which is `value` in every field that can be a number, and else zero."""
    array = np.zeros(1, dtype)
    with suppress(TypeError, ValueError):  # a datetime without a unit cannot
        array[...] = value
    return array


class _Known:
    """Findings about one callable: the dtypes that it was tried on, and whether it writes into its arguments."""

    __slots__ = ("dtypes", "parts", "writes")

    def __init__(self) -> None:
        self.dtypes: set[np.dtype[Any]] = set()
        self.parts: tuple[weakref.ref[Any], ...] = ()
        self.writes = False


# By the identity of what makes a callable up. Weak references, because many are closures over large arrays, take what has
# gone out of it again.
_KNOWN: dict[tuple[int, ...], _Known] = {}


def _known(function: Callable[..., Any]) -> _Known:
    parts = _parts(function)
    key = tuple(map(id, parts))
    known = _KNOWN.get(key)
    if known is None:
        known = _Known()

        def forget(_: object) -> None:
            _KNOWN.pop(key, None)

        try:
            known.parts = tuple(weakref.ref(part, forget) for part in parts)
        except TypeError:  # no weak references to it: it is tried at every call
            return known
        _KNOWN[key] = known
    return known


def _parts(function: Callable[..., Any]) -> tuple[object, ...]:
    """The objects that stand for a callable: a method is made anew where it is named, a lambda where it is evaluated."""
    if isinstance(function, MethodType):
        return function.__self__, function.__func__
    if isinstance(function, FunctionType) and not (function.__closure__ or function.__defaults__ or function.__kwdefaults__):
        return (function.__code__,)
    return (function,)
