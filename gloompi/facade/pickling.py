"""Objects, pickled by mpi4py's own `MPI.pickle`, so that what a program sets there holds here too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mpi4py import MPI as mpi

from ..objects import Pickler, decode

__all__ = ["PICKLER", "loaded"]


def _dumps(obj: Any) -> tuple[bytes, Sequence[Any]]:
    # A program that sets dumps and loads of its own leaves PROTOCOL at None, or at one without buffers out of band.
    if (mpi.pickle.PROTOCOL or 0) >= 5:
        try:
            return mpi.pickle.dumps_oob(obj)
        except TypeError as exc:
            if "buffer_callback" not in str(exc):  # which functions of its own need not know
                raise
    return mpi.pickle.dumps(obj), ()


def _loads(data: memoryview, buffers: Iterable[memoryview]) -> Any:
    held = list(buffers)
    return mpi.pickle.loads_oob(data, held) if held else mpi.pickle.loads(data)


PICKLER = Pickler(_dumps, _loads)


def loaded(message: memoryview, pickler: Pickler) -> Any:
    """The object of a message; None for an empty one, as mpi4py has it."""
    return decode(message, pickler) if len(message) else None
