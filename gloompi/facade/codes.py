"""MPI's error codes, with a text beside them."""

from __future__ import annotations

from mpi4py import MPI as mpi

__all__ = ["HandleError", "exception"]


class HandleError(TypeError, ValueError):
    """A handle was copied or pickled: TypeError as for gloompi's own, and ValueError as mpi4py raises."""


def exception(code: int, text: str) -> mpi.Exception:
    """Return mpi4py's exception for an error class; its cause says what mpi4py's cannot."""
    error = mpi.Exception(code)
    error.__cause__ = ValueError(text)
    return error
