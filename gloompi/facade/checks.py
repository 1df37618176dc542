"""Ranks and tags as MPI takes them, with MPI's errors for those it does not."""

from __future__ import annotations

import operator
from typing import Any

from mpi4py import MPI as mpi

from ..context import Context
from ..engine.operation import ANY_SOURCE, ANY_TAG
from ..plans.base import MAX_TAG
from .codes import exception

__all__ = ["as_int", "known_dest", "known_root", "known_source", "known_tag", "wanted_tag"]


def as_int(value: Any) -> int:
    """An integer, or a float, as mpi4py takes them: ``dest=size / 2``."""
    return int(value) if isinstance(value, float) else operator.index(value)


def known_dest(context: Context, dest: int) -> int | None:
    """A rank; None for PROC_NULL."""
    index = as_int(dest)
    return None if index == mpi.PROC_NULL else _rank(context, index, "dest", mpi.ERR_RANK)


def known_source(context: Context, source: int) -> int | None:
    """A rank, or gloompi's number for any; None for PROC_NULL."""
    index = as_int(source)
    if index == mpi.PROC_NULL:
        return None
    return ANY_SOURCE if index == mpi.ANY_SOURCE else _rank(context, index, "source", mpi.ERR_RANK)


def known_root(context: Context, root: int) -> int:
    """A rank."""
    return _rank(context, as_int(root), "root", mpi.ERR_ROOT)


def _rank(context: Context, rank: int, name: str, code: int) -> int:
    if not 0 <= rank < context.size:
        raise exception(code, f"{name} must be in range({context.size}), not {rank}")
    return rank


def known_tag(tag: int) -> int:
    """The tag of a message to send."""
    index = as_int(tag)
    if not 0 <= index <= MAX_TAG:
        raise exception(mpi.ERR_TAG, f"tag must be in range({MAX_TAG + 1}), not {index}")
    return index


def wanted_tag(tag: int) -> int:
    """The tag of a message to receive, or gloompi's number for any."""
    return ANY_TAG if tag == mpi.ANY_TAG else known_tag(tag)
