"""mpi4py's reduction operators, as gloompi's."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from mpi4py import MPI as mpi

from ..arrays import Array
from ..reduction import Reduction
from .buffers import Buffer

__all__ = ["operator"]

_NAMES = (
    (mpi.SUM, "sum"),
    (mpi.PROD, "prod"),
    (mpi.MIN, "min"),
    (mpi.MAX, "max"),
    (mpi.LAND, "land"),
    (mpi.LOR, "lor"),
    (mpi.LXOR, "lxor"),
    (mpi.BAND, "band"),
    (mpi.BOR, "bor"),
    (mpi.BXOR, "bxor"),
    (mpi.MAXLOC, "maxloc"),
    (mpi.MINLOC, "minloc"),
)


def operator(op: mpi.Op, buffer: Buffer) -> str | Reduction:
    """Return the operator for items of the buffer's datatype.

    MPI's named operators are NumPy's, where NumPy has the datatype; all others are called through MPI's Reduce_local,
    which is local.

    Raises
    ------
    TypeError
        `op` is no Op.
    mpi4py.MPI.Exception
        MPI has no such reduction.
    """
    if not isinstance(op, mpi.Op):
        raise TypeError(f"Argument 'op' must be an mpi4py.MPI.Op, not {type(op).__name__}")
    datatype = buffer.datatype
    if buffer.count and op.is_predefined:
        if datatype.is_predefined:
            _try(op.py2f(), datatype.py2f())
        else:
            _reduce_local(op, datatype, buffer.items()[:1])
    name = next((name for known, name in _NAMES if op == known), "")
    if buffer.items().dtype.kind != "V" and name not in ("", "maxloc", "minloc"):
        return name
    return Reduction(name or "user-defined", _applied(op, datatype), commutative=op.Is_commutative())


@lru_cache(maxsize=1024)
def _try(op: int, datatype: int) -> None:
    """Let MPI say whether it has the reduction; asked once for each pair of an operator and a predefined datatype."""
    kind = mpi.Datatype.f2py(datatype)
    _reduce_local(mpi.Op.f2py(op), kind, np.zeros(kind.extent, np.uint8))


def _reduce_local(op: mpi.Op, datatype: mpi.Datatype, item: Array) -> None:
    op.Reduce_local([item.copy(), 1, datatype], [item.copy(), 1, datatype])


def _applied(op: mpi.Op, datatype: mpi.Datatype) -> Callable[..., object]:
    def apply(a: Array, b: Array, out: Array) -> None:
        result = b.copy()
        # Copies, because what comes from a connection may lie at any address, and MPI takes only aligned ones.
        op.Reduce_local([a.copy(), len(a), datatype], [result, len(a), datatype])
        out[...] = result

    return apply
