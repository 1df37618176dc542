"""Where the bytes of an MPI datatype's items lie, and what NumPy calls them.

Asks mpi4py's Datatype, which answers without communicating.  Nothing here touches a user's memory.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from mpi4py import MPI as mpi
from numpy.typing import NDArray

from .host import EMPTY

__all__ = ["Layout", "layout", "name", "require_mpi"]

# Items of up to this many bytes are packed once to see whether they are dense.  Two packs of 4 KiB take less than the
# datatype's queries; larger items are judged by how they were made.
_PROBE: Final = 4096
_PLACES: Final = np.arange(_PROBE, dtype=np.uint16)
_DIGITS: Final = ((_PLACES & 255).astype(np.uint8), (_PLACES >> 8).astype(np.uint8))

# mpi4py's character codes that mean something else to NumPy, or nothing NumPy can calculate with.
_CODES: Final[dict[str, np.dtype[Any]]] = {"c": np.dtype(np.int8), "U": np.dtype(np.int32), "p": np.dtype(np.intp)}
_QUADRUPLE: Final = 112  # bits of the mantissa of IEEE binary128


class Layout:
    """The measures of one item of a datatype, in bytes.

    Attributes
    ----------
    datatype : Datatype
        What packs and unpacks the items.  For a derived datatype that is not dense it is a duplicate, so that the user may
        free his own while a message is under way, as MPI permits; it is freed with the Layout.
    size, extent, lower, upper : int
        Bytes of data; distance from one item to the next; where the data begins and ends (the true bounds).
    origin : int
        The lower bound, which a user may have moved.
    """

    __slots__ = ("_dense", "_dtype", "_duplicate", "datatype", "extent", "lower", "origin", "size", "upper")

    def __init__(self, datatype: mpi.Datatype) -> None:
        self._duplicate = False
        self._dense: bool | None = None
        self._dtype: np.dtype[Any] | None = None
        self.datatype = datatype
        self.size = datatype.Get_size()
        self.origin, self.extent = datatype.Get_extent()
        self.lower, true_extent = datatype.Get_true_extent()
        self.upper = self.lower + true_extent

    def __del__(self) -> None:
        if self._duplicate and not mpi.Is_finalized():
            self.datatype.Free()

    def dense(self) -> bool:
        """Return whether items in memory and items in a message are the same bytes.

        Not asked before there is something to send: MPI is asked for more than measures, which it refuses while the datatype
        is not committed, and a message without items needs no commit.
        """
        if self._dense is None:
            dense = self.size == self.extent == self.upper and self.origin == self.lower == 0
            self._dense = dense if self.datatype.is_predefined else self._derived_dense(dense)
        return self._dense

    def _derived_dense(self, compact: bool) -> bool:
        if self.extent:  # by which mpi4py divides
            self.datatype.Pack(EMPTY, EMPTY, 0, mpi.COMM_SELF)  # no items: only to learn whether it is committed
        if compact and _in_order(self.datatype, self.size):
            return True
        self.datatype = self.datatype.Dup()
        self._duplicate = True
        return False

    def span(self, count: int) -> tuple[int, int]:
        """Return where the data of `count` > 0 items begins and ends, from where the first item stands."""
        last = (count - 1) * self.extent  # negative where the extent is: then the items stand before the first
        return self.lower + min(0, last), self.upper + max(0, last)

    def dtype(self) -> np.dtype[Any]:
        """Return the NumPy dtype of an item, or void of its extent where NumPy has none."""
        if self._dtype is None:
            self._dtype = _dtype(self.datatype, self.size) or np.dtype((np.void, max(0, self.extent)))
        return self._dtype


def layout(datatype: mpi.Datatype) -> Layout:
    """Return the Layout of `datatype`.

    Raises
    ------
    mpi4py.MPI.Exception
        `datatype` is DATATYPE_NULL.
    RuntimeError
        `datatype` is derived, and MPI is finalized.
    """
    known = _predefined.get(datatype.handle)
    if known is not None:
        return known
    require_mpi()
    fresh = Layout(datatype)
    if datatype.is_predefined:  # those that Create_f90_real and its like return
        _predefined[datatype.handle] = fresh
    return fresh


def require_mpi() -> None:
    """Raise where MPI is gone: it would end the process when asked about a derived datatype."""
    if mpi.Is_finalized():
        raise RuntimeError(
            "message: MPI is finalized, and a derived datatype needs it to be packed: use predefined datatypes and "
            "contiguous buffers after MPI.Finalize()"
        )


def name(datatype: mpi.Datatype) -> str:
    """Return what an error message calls `datatype`."""
    if mpi.Is_finalized():
        return f"the datatype {datatype.typestr}"
    return datatype.Get_name() if datatype.is_predefined else "a derived datatype"


def _in_order(datatype: mpi.Datatype, size: int) -> bool:
    """Tell whether an item without gaps also has its parts in the order in which they lie, and none of them twice.

    Size and extent cannot tell: a datatype of two ints, the second named first, has the measures of two ints.
    """
    if size > _PROBE:
        return _made_in_order(datatype)
    for digit in _DIGITS[: 1 if size <= 256 else 2]:
        packed: NDArray[np.uint8] = np.zeros(size, np.uint8)
        datatype.Pack(digit[:size], packed, 0, mpi.COMM_SELF)
        if not np.array_equal(packed, digit[:size]):
            return False
    return True


def _made_in_order(datatype: mpi.Datatype) -> bool:
    """Tell the same of a large item: many smaller ones in a row are in order where one of them is.

    Other ways of making a datatype may give dense items too, but packing them is right in any case.
    """
    base, combiner, _ = datatype.decode()
    try:
        if combiner not in ("CONTIGUOUS", "DUP"):
            return False
        # Its maker need not have committed the base, and packing needs that; it does no harm.
        return base.is_predefined or Layout(base.Commit()).dense()
    finally:
        if base is not datatype and not base.is_predefined:
            base.Free()


def _dtype(datatype: mpi.Datatype, size: int) -> np.dtype[Any] | None:
    code = datatype.typechar
    if code in "gG" and datatype not in _LONG_DOUBLES and np.finfo(np.longdouble).nmant != _QUADRUPLE:
        return None  # Fortran's REAL*16 is quadruple precision; the C compiler's long double is something else here
    dtype = _CODES.get(code)
    if dtype is None and code in "?bhilqBHILQefdgFDG":
        dtype = np.dtype(code)
    return dtype if dtype is not None and dtype.itemsize == size else None


_LONG_DOUBLES: Final = (mpi.LONG_DOUBLE, mpi.C_LONG_DOUBLE_COMPLEX, mpi.CXX_LONG_DOUBLE_COMPLEX)


def _measure_predefined() -> dict[int, Layout]:
    """Measure what MPI names, so that messages of these datatypes need nothing of MPI, even after MPI_Finalize."""
    if not mpi.Is_initialized() or mpi.Is_finalized():
        return {}
    found = {}
    for value in vars(mpi).values():
        if isinstance(value, mpi.Datatype) and value != mpi.DATATYPE_NULL and value.handle not in found:
            found[value.handle] = entry = Layout(value)
            entry.dense()
            entry.dtype()
    return found


# Predefined datatypes by handle.  Derived ones are never in it: their handles are used again after a Free.
_predefined: Final = _measure_predefined()
