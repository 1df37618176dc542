"""mpi4py's buffer specifications, and where the bytes they mean are.

A specification is a buffer, or a list of a buffer with count, displacement and datatype, as mpi4py documents them
(https://mpi4py.readthedocs.io/en/stable/tutorial.html#buffer-like-objects).  PROC_NULL and IN_PLACE are the caller's
business.  Nothing is communicated here.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

from mpi4py import MPI as mpi

from .host import EMPTY, Bytes, kind
from .layout import layout, name
from .memory import expose
from .packing import Buffer, require_inside

__all__ = ["Buffer", "simple", "vector", "vector_w"]


def simple(spec: Any, *, readonly: bool, blocks: int = 1) -> Buffer:
    """Return the Buffer of a specification with one count.

    Parameters
    ----------
    spec : buffer, or list or tuple
        `buffer`, `[buffer, count]`, `[buffer, (count, displ)]`, `[buffer, datatype]`, `[buffer, count, datatype]`,
        `[buffer, (count, displ), datatype]` or `[buffer, count, displ, datatype]`; count, displ and datatype may be None.
    readonly : bool
        The buffer is only read.
    blocks : int
        How many blocks of `count` items the buffer holds (gather, scatter, ...).  The Buffer is the first one.

    Raises
    ------
    TypeError, BufferError, KeyError
        What was given as buffer is none, or not as it must be; see `gloompi.facade.memory.expose`.
    ValueError
        The list is too long or short, count or displacement are negative or cannot be inferred, or the items do not lie
        inside the buffer.
    NotImplementedError
        The buffer is BOTTOM and the count is not zero.
    """
    obj, count, displacement, given = _unpacked(spec, (tuple, list))
    memory, datatype, absolute = _basic(obj, given, readonly)
    length = memory.size
    offset = 0
    if displacement is not None:
        displacement = _index(displacement)
        if displacement < 0:
            raise ValueError(f"message: the displacement must not be negative, but is {displacement}")
        if displacement:
            extent = _extent(datatype, "use a displacement")
            offset = displacement * extent
            if offset > length:
                raise ValueError(
                    f"message: displacement {displacement} of {name(datatype)} (extent {extent}) begins at byte {offset}, "
                    f"but the buffer has {length}: displacements count items, not bytes"
                )
            length -= offset
    if count is not None:
        count = _index(count)
        if count < 0:
            raise ValueError(f"message: the count must not be negative, but is {count}")
    elif length:
        count = _inferred(length, datatype)
        if blocks > 1:
            count, left = divmod(count, blocks)
            if left:
                raise ValueError(
                    f"message: cannot infer the count: {count * blocks + left} items of {name(datatype)} are not a "
                    f"multiple of {blocks} blocks; give the count of one block"
                )
    else:
        count = 0
    if count and absolute:
        if obj is None:
            raise ValueError(f"message: the buffer is None, but the count is {count}: pass a buffer, or count 0")
        _refuse_bottom(count, datatype)
    known = layout(datatype)
    if blocks > 1 and count and known.size:
        require_inside(memory, offset, blocks * count, datatype, known, None)
    return Buffer(memory, offset, count, datatype, known)


def vector(spec: Any, size: int, *, readonly: bool) -> list[Buffer]:
    """Return a Buffer for each of `size` ranks, of one datatype, by counts and displacements in items.

    Parameters
    ----------
    spec : buffer, or list or tuple
        As for `simple`, but count is one number for all ranks or one for each, and displ one for each, or a number (the
        distance between ranks); by default the blocks are one after the other.  `(counts, displs)` must be a tuple.
    size : int
        How many ranks.
    readonly : bool
        The buffer is only read.

    Raises
    ------
    mpi4py.MPI.Exception
        A count is negative.
    TypeError, BufferError, KeyError, ValueError, NotImplementedError
        As for `simple`.
    """
    obj, counts, displacements, given = _unpacked(spec, (tuple,))
    memory, datatype, absolute = _basic(obj, given, readonly)
    if counts is None:
        total = _inferred(memory.size, datatype) if memory.size else 0
        each, left = divmod(total, size)
        counts = [each + (rank < left) for rank in range(size)]
    elif _is_integral(counts):
        counts = [_index(counts)] * size
    else:
        counts = _indices(counts, size, "counts")
    if displacements is None:
        displacements = list(itertools.accumulate(counts[:-1], initial=0))
    elif _is_integral(displacements):
        stride = _index(displacements)
        displacements = [stride * rank for rank in range(size)]
    else:
        displacements = _indices(displacements, size, "displacements")
    known = layout(datatype)
    blocks = []
    for rank, (count, displacement) in enumerate(zip(counts, displacements, strict=True)):
        _require_count(count, rank)
        if count and absolute:
            if obj is None and known.size:
                raise ValueError(
                    f"message: the buffer is None, but the count of block {rank} is {count}: pass a buffer, or count 0"
                )
            _refuse_bottom(count, datatype)
        blocks.append(Buffer(memory, displacement * known.extent, count, datatype, known, block=rank))
    return blocks


def vector_w(spec: Any, size: int, *, readonly: bool) -> list[Buffer]:
    """Return a Buffer for each of `size` ranks, each of its own datatype, by counts and displacements in bytes.

    Parameters
    ----------
    spec : list or tuple
        `[buffer, datatypes]` (one item each, all at byte 0), `[buffer, (counts, displs), datatypes]` or
        `[buffer, counts, displs, datatypes]`.
    size : int
        How many ranks.
    readonly : bool
        The buffer is only read.

    Raises
    ------
    TypeError, BufferError, ValueError, NotImplementedError, mpi4py.MPI.Exception
        As for `vector`.
    """
    given = len(spec)
    counts: Any = None
    displacements: Any = None
    if given == 2:
        obj, datatypes = spec
    elif given == 3:
        obj, (counts, displacements), datatypes = spec
    elif given == 4:
        obj, counts, displacements, datatypes = spec
    else:
        raise _wrong_length(given)
    absolute = obj is None or obj is mpi.BOTTOM
    if absolute:
        memory = EMPTY
        for what, value in (("counts", counts), ("displacements", displacements)):
            if value is None:
                raise ValueError(f"message: BOTTOM needs {what}")
    else:
        memory, _ = expose(obj, readonly=readonly, typed=False)
    if counts is None and displacements is None:
        counts, displacements = [1] * size, [0] * size
    else:
        counts = _indices(counts, size, "counts")
        displacements = _indices(displacements, size, "displacements")
    if len(datatypes) != size:
        raise ValueError(f"message: expecting {size} datatypes, one for each rank, not {len(datatypes)}")
    blocks = []
    for rank in range(size):
        datatype, count = datatypes[rank], counts[rank]
        if not isinstance(datatype, mpi.Datatype):
            raise TypeError(f"message: datatype {rank} must be a Datatype, not {kind(datatype)}")
        _require_count(count, rank)
        if count and absolute:
            _refuse_bottom(count, datatype)
        # A datatype of which there are no items is not looked at: programs put DATATYPE_NULL there.
        known = layout(datatype if count else mpi.BYTE)
        blocks.append(Buffer(memory, displacements[rank], count, datatype, known, block=rank))
    return blocks


def _unpacked(spec: Any, pairs: Any) -> tuple[Any, Any, Any, Any]:
    """Return buffer, count, displacement and datatype; `pairs` are the types that a (count, displ) may have."""
    count: Any = None
    displacement = datatype = None
    if not isinstance(spec, (list, tuple)):
        if spec is None:
            raise TypeError("message: expecting buffer or list/tuple, not None")
        obj = spec
    elif len(spec) == 2:
        obj, count = spec
        if isinstance(count, (mpi.Datatype, str)):
            count, datatype = None, count
        elif isinstance(count, pairs):
            count, displacement = count
    elif len(spec) == 3:
        obj, count, datatype = spec
        if isinstance(count, pairs):
            count, displacement = count
    elif len(spec) == 4:
        obj, count, displacement, datatype = spec
    else:
        raise _wrong_length(len(spec))
    return obj, count, displacement, datatype


def _basic(obj: Any, given: Any, readonly: bool) -> tuple[Bytes, mpi.Datatype, bool]:
    """Return the bytes, the datatype, and whether addresses are absolute: the buffer is None or BOTTOM."""
    if obj is mpi.BOTTOM or obj is None:
        return EMPTY, _named(given), True
    if given is None:
        return (*expose(obj, readonly=readonly, typed=True), False)
    memory, _ = expose(obj, readonly=readonly, typed=False)
    return memory, given if isinstance(given, mpi.Datatype) else _named(given), False


def _named(given: Any) -> mpi.Datatype:
    if isinstance(given, mpi.Datatype):
        return given
    if not isinstance(given, str):
        hash(given)  # mpi4py looks it up in a dict: what has no hash is a TypeError there
        raise KeyError(f"message: {given!r} is no MPI datatype, nor the type string of one")
    try:
        return mpi.Datatype.fromcode(given)
    except ValueError:
        raise KeyError(f"message: no MPI datatype has the type string {given!r}") from None


def _extent(datatype: mpi.Datatype, purpose: str) -> int:
    if datatype == mpi.DATATYPE_NULL:
        raise ValueError(f"message: cannot {purpose}: the datatype is DATATYPE_NULL")
    extent = layout(datatype).extent
    if extent <= 0:
        raise ValueError(f"message: cannot {purpose}: {name(datatype)} has extent {extent}")
    return extent


def _inferred(length: int, datatype: mpi.Datatype) -> int:
    extent = _extent(datatype, "infer the count")
    count, left = divmod(length, extent)
    if left:
        raise ValueError(
            f"message: cannot infer the count: {length} bytes are not a multiple of the extent {extent} of "
            f"{name(datatype)}; give the count"
        )
    return count


def _is_integral(value: Any) -> bool:
    """Tell a number from a sequence: an array of no dimensions is a number, one of a single item is not."""
    if not hasattr(value, "__index__"):
        return False
    try:
        len(value)
    except TypeError:
        pass
    else:
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _index(value: Any) -> int:
    number = operator.index(value)
    if not -(2**63) <= number < 2**63:
        raise OverflowError(f"message: {number} is too large for a count or displacement")
    return number


def _indices(values: Any, size: int, what: str) -> list[int]:
    given = len(values)
    if given != size:
        raise ValueError(f"message: expecting {size} {what}, one for each rank, not {given}")
    return [_index(values[rank]) for rank in range(size)]


def _require_count(count: int, rank: int) -> None:
    if count < 0:  # mpi4py leaves it to MPI, whose exception cannot carry a text
        raise mpi.Exception(mpi.ERR_COUNT) from ValueError(f"message: the count of block {rank} is {count}")


def _refuse_bottom(count: int, datatype: mpi.Datatype) -> None:
    if layout(datatype).size:
        raise NotImplementedError(
            f"message: BOTTOM with {count} items of {name(datatype)}: gloompi sends from and receives into buffers, not "
            "absolute addresses; pass the buffer and displacements in it"
        )


def _wrong_length(given: int) -> ValueError:
    return ValueError(f"message: expecting a list of 2 to 4 (buffer, count, displacement, datatype), not of {given}")
