"""Objects, pickled by mpi4py's own `MPI.pickle`, so that what a program sets there holds here too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mpi4py import MPI as mpi

from ..arrays import Array
from ..objects import Pickler, decode, encode

__all__ = ["PICKLER", "dumped", "loaded"]


def _dumps(obj: Any) -> tuple[bytes, Sequence[Any]]:
    return mpi.pickle.dumps_oob(obj)


def _loads(data: memoryview, buffers: Iterable[memoryview]) -> Any:
    return mpi.pickle.loads_oob(data, buffers)


PICKLER = Pickler(_dumps, _loads)


def dumped(obj: Any) -> Array:
    """The bytes of a message."""
    return encode(obj, PICKLER)


def loaded(message: memoryview) -> Any:
    """The object of a message; None for an empty one, as mpi4py has it."""
    return decode(message, PICKLER) if len(message) else None
