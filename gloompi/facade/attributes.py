"""Attributes of communicators: values that a program caches on them under keys of its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from mpi4py import MPI as mpi

from ..plans.base import MAX_TAG
from .codes import exception

if TYPE_CHECKING:
    from .communicator import CommBase

__all__ = ["copied", "create_keyval", "deleted", "free_keyval", "get", "put"]

Values = dict[int, Any]


class _Key(NamedTuple):
    copy: Callable[[Any, int, Any], Any] | bool | None
    delete: Callable[[Any, int, Any], object] | None


# Beside MPI's own numbers, which are small in Open MPI and above 2**30 in MPICH.
_numbers = count(2**20)
_keys: dict[int, _Key] = {}


def create_keyval(copy_fn: Any = None, delete_fn: Any = None) -> int:
    """Return a new key.  `copy_fn` says what Dup does with its value: ``f(comm, key, value)``, True or None for no copy."""
    number = next(_numbers)
    _keys[number] = _Key(copy_fn, delete_fn)
    return number


def free_keyval(number: int) -> int:
    if number not in _keys:
        raise exception(mpi.ERR_KEYVAL, f"{number} is no key of gloompi.MPI")
    del _keys[number]
    return mpi.KEYVAL_INVALID


def get(values: Values, number: int) -> Any:
    """The value of a key of the program's or of MPI's own; None if there is none."""
    if number in _keys:
        return values.get(number)
    return MAX_TAG if number == mpi.TAG_UB else mpi.COMM_WORLD.Get_attr(number)


def put(comm: CommBase, values: Values, number: int, value: Any) -> None:
    if number not in _keys:
        raise exception(mpi.ERR_KEYVAL, f"{number} is no key of gloompi.MPI; Create_keyval makes one")
    if number in values:
        deleted(comm, values, number)
    values[number] = value


def copied(comm: CommBase, values: Values) -> Values:
    """The values that a duplicate of a communicator gets."""
    found = {}
    for number, value in values.items():
        copy = _keys[number].copy if number in _keys else None
        its = copy(comm, number, value) if callable(copy) else value if copy else NotImplemented
        if its is not NotImplemented:
            found[number] = its
    return found


def deleted(comm: CommBase, values: Values, number: int) -> None:
    if number not in values:
        raise exception(mpi.ERR_KEYVAL, f"the communicator has no attribute with the key {number}")
    value = values.pop(number)
    delete = _keys[number].delete if number in _keys else None
    if delete is not None:
        delete(comm, number, value)
