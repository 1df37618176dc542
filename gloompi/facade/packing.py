"""A message's place in memory: its items as they lie there, and the bytes that travel.

Where a datatype has gaps the bytes are packed and unpacked by mpi4py's Datatype, which is local.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI as mpi

from .host import Bytes
from .layout import Layout, name, require_mpi

__all__ = ["Buffer", "require_inside"]


class Buffer:
    """`count` items of `datatype`, beginning `offset` bytes into `memory`.

    Attributes
    ----------
    memory : ndarray, 1-d uint8
        All bytes of the user's object, which it keeps alive; empty for None and BOTTOM.
    offset, count : int
        Where the first item stands, in bytes, and how many there are.
    datatype : Datatype
        As the user gave it.
    nbytes : int
        Bytes of the message.
    dense : bool
        The message is `memory[offset : offset + nbytes]` itself.
    """

    __slots__ = ("_layout", "count", "datatype", "dense", "memory", "nbytes", "offset")

    def __init__(
        self, memory: Bytes, offset: int, count: int, datatype: mpi.Datatype, known: Layout, *, block: int | None = None
    ) -> None:
        self.memory = memory
        self.offset = offset
        self.count = count
        self.datatype = datatype
        self.nbytes = nbytes = count * known.size
        self._layout = known
        if nbytes == 0:
            self.dense = True
            return
        self.dense = dense = known.dense()
        if not dense:
            require_inside(memory, offset, count, datatype, known, block)
        elif offset < 0 or offset + nbytes > memory.size:
            raise _outside(memory, offset, count, datatype, known, block)

    def outgoing(self) -> Bytes:
        """Return the message: a view where dense, else packed into a new array."""
        if self.dense:
            return self.memory[self.offset : self.offset + self.nbytes]
        # Zeros, as MPI may skip the padding inside an item (6 of a long double's 16 bytes), which nobody should be sent.
        packed = np.zeros(self.nbytes, np.uint8)
        with self._items_for_mpi() as (datatype, items):
            end = datatype.Pack(items, packed, 0, mpi.COMM_SELF)
        if end != self.nbytes:
            raise RuntimeError(
                f"message: MPI packed {self.count} items of {name(datatype)} into {end} bytes, not {self.nbytes}: "
                "this MPI adds something of its own to packed data, which gloompi cannot send"
            )
        return packed

    def incoming(self) -> Bytes:
        """Return an array of the message's length to receive into: a view where dense, else a new array for `deliver`."""
        if self.dense:
            return self.memory[self.offset : self.offset + self.nbytes]
        return np.empty(self.nbytes, np.uint8)

    def room(self) -> Bytes:
        """Return the same of which less may be received: with what is in the items now, so that what does not come stays."""
        return self.outgoing()

    def deliver(self, received: Bytes, nbytes: int | None = None) -> None:
        """Bring the first `nbytes` (default: all) received into `incoming()` to their place; nothing to do where dense.

        What is beyond them keeps its value, even the rest of an item that arrived in part.
        """
        if self.dense:
            return
        if nbytes is None:
            nbytes = self.nbytes
        if not 0 <= nbytes <= self.nbytes:
            raise ValueError(f"nbytes must be in range({self.nbytes + 1}), not {nbytes}")
        whole, rest = divmod(nbytes, self._layout.size)
        if whole:
            self._part(0, whole)._unpack(received[: whole * self._layout.size])
        if rest:
            item = self._part(whole, 1)
            content = item.outgoing()
            content[:rest] = received[nbytes - rest : nbytes]
            item._unpack(content)

    def items(self) -> np.ndarray[Any, Any]:
        """Return the items, 1-d of length `count`; a view where dense, else perhaps a copy.

        Its dtype is NumPy's for a predefined datatype, or void of the extent where NumPy has none.

        Raises
        ------
        NotImplementedError
            The data of an item reaches beyond its extent, so that neighbours overlap in such a view.
        """
        measures = self._layout
        dtype = measures.dtype()
        if self.nbytes == 0:
            return np.empty(self.count, dtype)
        if measures.origin != 0 or measures.lower < 0 or measures.upper > measures.extent:
            raise NotImplementedError(
                f"reduction of {name(self.datatype)}: its data (bytes {measures.lower} to {measures.upper}) is not inside "
                f"its extent (bytes {measures.origin} to {measures.origin + measures.extent}), so the items are no array"
            )
        nbytes = self.count * measures.extent
        memory = self.memory[self.offset : self.offset + nbytes]
        if memory.size < nbytes:  # the gap behind the last item's data: MPI does not touch it, and the user has not got it
            whole = np.zeros(nbytes, np.uint8)
            whole[: memory.size] = memory
            memory = whole
        return memory.view(dtype)

    def after(self, index: int) -> Buffer:
        """Return block `index` of a gather or scatter: as many items, after `index` such blocks."""
        offset = self.offset + index * self.count * self._layout.extent
        return Buffer(self.memory, offset, self.count, self.datatype, self._layout, block=index)

    def _part(self, first: int, count: int) -> Buffer:
        return Buffer(self.memory, self.offset + first * self._layout.extent, count, self.datatype, self._layout)

    def _unpack(self, content: Bytes) -> None:
        if not self.memory.flags.writeable:
            raise ValueError("the buffer of this message is read-only: it was made for sending")
        with self._items_for_mpi() as (datatype, items):
            datatype.Unpack(content, 0, items, mpi.COMM_SELF)

    @contextmanager
    def _items_for_mpi(self) -> Iterator[tuple[mpi.Datatype, mpi.buffer]]:
        """A datatype and a buffer by which mpi4py packs exactly these items.

        mpi4py takes the count from the buffer's length, so the buffer says that it ends with the last item's extent.  That
        may lie beyond the user's memory; MPI touches only the data of the items, which was checked to lie inside.
        """
        require_mpi()
        known = self._layout
        address = mpi.Get_address(self.memory) + self.offset
        if known.extent > 0:
            yield known.datatype, mpi.buffer.fromaddress(address, self.count * known.extent)
            return
        # No count follows from an extent that is not positive: all items as one item of a datatype that has such an extent.
        row = known.datatype.Create_contiguous(self.count)
        one = row.Create_resized(0, 1).Commit()
        try:
            yield one, mpi.buffer.fromaddress(address, 1)
        finally:
            one.Free()
            row.Free()


def require_inside(memory: Bytes, offset: int, count: int, datatype: mpi.Datatype, known: Layout, block: int | None) -> None:
    begin, end = known.span(count)
    if offset + begin < 0 or offset + end > memory.size:
        raise _outside(memory, offset, count, datatype, known, block)


def _outside(memory: Bytes, offset: int, count: int, datatype: mpi.Datatype, known: Layout, block: int | None) -> ValueError:
    begin, end = known.span(count)
    where = "message" if block is None else f"message, block {block}"
    need = f"need {offset + end} bytes" if offset + begin >= 0 else f"begin at byte {offset + begin}"
    return ValueError(
        f"{where}: {count} items of {name(datatype)} at byte {offset} {need}, but the buffer has {memory.size}: check "
        "count, displacement and datatype, or pass a larger buffer"
    )
