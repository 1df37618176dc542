"""Collectives on buffers: the upper-case methods, each in its three forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import numpy as np
from mpi4py import MPI as mpi

from ..arrays import Array
from ..engine.task import Task
from .buffers import Buffer, simple, vector, vector_w
from .checks import known_root
from .codes import exception
from .communicator import CommBase
from .ops import operator
from .receiving import no_result
from .three import forms
from .work import EMPTY, Begin, Completion

__all__ = ["CollectiveComm"]


class CollectiveComm(CommBase):
    """Barrier, Bcast, Gather, ... with their I and _init forms."""

    def _barrier(self) -> Begin:
        plan = self._context._plan
        return lambda: (plan.barrier(), no_result)

    def _bcast(self, buf: Any, root: int = 0) -> Begin:
        plan = self._context._plan
        root = known_root(self._context, root)
        sending = self._context.rank == root
        buffer = simple(buf, readonly=sending)

        def begin() -> tuple[Task, Any]:
            data = buffer.outgoing() if sending else buffer.incoming()
            return plan.broadcast(data, root, "auto"), no_result if sending else _delivering([buffer], [data])

        return begin

    # -- blocks of one length -------------------------------------------------------------------------------------------

    def _gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> Begin:
        plan, rank, size = self._context._plan, self._context.rank, self._context.size
        root = known_root(self._context, root)
        if rank != root:
            sent = simple(sendbuf, readonly=True)
            return lambda: (plan.gather(sent.outgoing(), None, root), no_result)
        received = simple(recvbuf, readonly=False, blocks=size)
        mine = received.after(rank) if _in_place(sendbuf) else simple(sendbuf, readonly=True)

        def begin() -> tuple[Task, Any]:
            blocks = _Blocks(received, size, mine.nbytes)
            return plan.gather(mine.outgoing(), blocks.array, root), blocks.deliver

        return begin

    def _scatter(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> Begin:
        rank, size = self._context.rank, self._context.size
        root = known_root(self._context, root)
        in_place = rank == root and _in_place(recvbuf)
        received = None if in_place else simple(recvbuf, readonly=False)
        sent = simple(sendbuf, readonly=True, blocks=size) if rank == root else None
        return self._scattering(
            received, lambda: None if sent is None else [*_Blocks(sent, size, sent.nbytes).packed()], root
        )

    def _allgather(self, sendbuf: Any, recvbuf: Any) -> Begin:
        plan, rank, size = self._context._plan, self._context.rank, self._context.size
        received = simple(recvbuf, readonly=False, blocks=size)
        mine = received.after(rank) if _in_place(sendbuf) else simple(sendbuf, readonly=True)

        def begin() -> tuple[Task, Any]:
            blocks = _Blocks(received, size, mine.nbytes)
            return plan.allgather(mine.outgoing(), blocks.array, "auto"), blocks.deliver

        return begin

    def _alltoall(self, sendbuf: Any, recvbuf: Any) -> Begin:
        plan, size = self._context._plan, self._context.size
        received = simple(recvbuf, readonly=False, blocks=size)
        sent = received if _in_place(sendbuf) else simple(sendbuf, readonly=True, blocks=size)

        def begin() -> tuple[Task, Any]:
            blocks = _Blocks(received, size, sent.nbytes)
            return plan.alltoall(_Blocks(sent, size, sent.nbytes).packed(), blocks.array, "auto"), blocks.deliver

        return begin

    # -- blocks of different length -------------------------------------------------------------------------------------

    def _gatherv(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> Begin:
        plan, rank, size = self._context._plan, self._context.rank, self._context.size
        root = known_root(self._context, root)
        if rank != root:
            sent = simple(sendbuf, readonly=True)
            return lambda: (plan.gatherv(sent.outgoing(), None, root), no_result)
        received = vector(recvbuf, size, readonly=False)
        mine = received[rank] if _in_place(sendbuf) else simple(sendbuf, readonly=True)
        _require_room(mine, received[rank])

        def begin() -> tuple[Task, Any]:
            places = [buffer.room() for buffer in received]
            return plan.gatherv(mine.outgoing(), places, root, room=True), _delivering(received, places)

        return begin

    def _allgatherv(self, sendbuf: Any, recvbuf: Any) -> Begin:
        plan, rank, size = self._context._plan, self._context.rank, self._context.size
        received = vector(recvbuf, size, readonly=False)
        mine = received[rank] if _in_place(sendbuf) else simple(sendbuf, readonly=True)
        _require_room(mine, received[rank])

        def begin() -> tuple[Task, Any]:
            places = [buffer.room() for buffer in received]
            return plan.allgatherv(mine.outgoing(), places, room=True), _delivering(received, places)

        return begin

    def _scatterv(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> Begin:
        rank, size = self._context.rank, self._context.size
        root = known_root(self._context, root)
        in_place = rank == root and _in_place(recvbuf)
        received = None if in_place else simple(recvbuf, readonly=False)
        sent = vector(sendbuf, size, readonly=True) if rank == root else None
        return self._scattering(received, lambda: None if sent is None else [buffer.outgoing() for buffer in sent], root)

    def _scattering(self, received: Buffer | None, packed: Callable[[], list[Array] | None], root: int) -> Begin:
        """Scatter the root's pieces; in place, where nothing is received, the root's own stays where it is."""
        plan = self._context._plan

        def begin() -> tuple[Task, Any]:
            pieces = packed()
            if received is None:
                return plan.scatter_bytes(pieces, None, root), no_result
            if pieces is not None and len(pieces[root]) > received.nbytes:
                raise _lengths(received.nbytes, len(pieces[root]))
            place = received.room()
            return plan.scatter_bytes(pieces, place, root), _delivering([received], [place])

        return begin

    def _alltoallv(self, sendbuf: Any, recvbuf: Any) -> Begin:
        return self._exchange(sendbuf, recvbuf, vector)

    def _alltoallw(self, sendbuf: Any, recvbuf: Any) -> Begin:
        return self._exchange(sendbuf, recvbuf, vector_w)

    def _exchange(self, sendbuf: Any, recvbuf: Any, parse: Callable[..., list[Buffer]]) -> Begin:
        plan, rank, size = self._context._plan, self._context.rank, self._context.size
        received = parse(recvbuf, size, readonly=False)
        in_place = _in_place(sendbuf)
        sent = received if in_place else parse(sendbuf, size, readonly=True)
        _require_room(sent[rank], received[rank])

        def begin() -> tuple[Task, Any]:
            pieces = [buffer.outgoing().copy() if in_place else buffer.outgoing() for buffer in sent]
            places = [buffer.room() for buffer in received]
            return plan.alltoallv(pieces, places, room=True), _delivering(received, places)

        return begin

    # -- reductions -----------------------------------------------------------------------------------------------------

    def _reduce(self, sendbuf: Any, recvbuf: Any, op: mpi.Op = mpi.SUM, root: int = 0) -> Begin:
        plan = self._context._plan
        root = known_root(self._context, root)
        if self._context.rank != root:
            sent = simple(sendbuf, readonly=True)
            return lambda: (plan.reduce(sent.items(), None, root, operator(op, sent), "auto"), no_result)
        mine, received = _operands(sendbuf, recvbuf)
        return _reducing(
            received, lambda out: plan.reduce(_x(mine, received, out), out, root, operator(op, received), "auto")
        )

    def _allreduce(self, sendbuf: Any, recvbuf: Any, op: mpi.Op = mpi.SUM) -> Begin:
        plan = self._context._plan
        mine, received = _operands(sendbuf, recvbuf)
        return _reducing(received, lambda out: plan.allreduce(_x(mine, received, out), out, operator(op, received), "auto"))

    def _scan(self, sendbuf: Any, recvbuf: Any, op: mpi.Op = mpi.SUM) -> Begin:
        plan = self._context._plan
        mine, received = _operands(sendbuf, recvbuf)
        return _reducing(received, lambda out: plan.scan(_x(mine, received, out), out, operator(op, received), "auto"))

    def _exscan(self, sendbuf: Any, recvbuf: Any, op: mpi.Op = mpi.SUM) -> Begin:
        plan = self._context._plan
        mine, received = _operands(sendbuf, recvbuf)
        return _reducing(
            received,
            lambda out: plan.exscan(_x(mine, received, out), out, operator(op, received), "auto"),
            unchanged=self._context.rank == 0,
        )

    def _reduce_scatter_block(self, sendbuf: Any, recvbuf: Any, op: mpi.Op = mpi.SUM) -> Begin:
        size = self._context.size
        if _in_place(sendbuf):
            received = simple(recvbuf, readonly=False, blocks=size)
            whole = _spread(received, size)
        else:
            received = simple(recvbuf, readonly=False)
            sent = simple(sendbuf, readonly=True, blocks=size)
            _require_match(sent, received, received.count, "receive count")
            whole = _spread(sent, size)
        return self._sharing(whole, received, [received.count] * size, op)

    def _reduce_scatter(
        self, sendbuf: Any, recvbuf: Any, recvcounts: Sequence[int] | None = None, op: mpi.Op = mpi.SUM
    ) -> Begin:
        rank, size = self._context.rank, self._context.size
        received = simple(recvbuf, readonly=False)
        sent = None if _in_place(sendbuf) else simple(sendbuf, readonly=True)
        if recvcounts is None and sent is not None:
            counts = self._context.allgather_object(received.count)
        else:
            counts = [index(count) for count in recvcounts]  # type: ignore[union-attr]
        if len(counts) != size:
            raise ValueError(f"expecting {size} counts, one for each rank, not {len(counts)}")
        if sent is not None:
            _require_match(sent, received, sum(counts), "sum of counts")
            if received.count != counts[rank]:
                raise ValueError(f"the receive count is {received.count}, but counts[{rank}] is {counts[rank]}")
        elif received.count != sum(counts):
            raise ValueError(f"the receive count is {received.count}, but the sum of counts is {sum(counts)}")
        share = received if sent is not None else _first(received, counts[rank])
        return self._sharing(received if sent is None else sent, share, counts, op)

    def _sharing(self, whole: Buffer, share: Buffer, counts: list[int], op: mpi.Op) -> Begin:
        plan = self._context._plan
        return _reducing(share, lambda out: plan.reduce_scatter(whole.items(), out, counts, operator(op, whole), "auto"))

    Barrier, Ibarrier, Barrier_init = forms(_barrier)
    Bcast, Ibcast, Bcast_init = forms(_bcast)
    Gather, Igather, Gather_init = forms(_gather)
    Scatter, Iscatter, Scatter_init = forms(_scatter)
    Allgather, Iallgather, Allgather_init = forms(_allgather)
    Alltoall, Ialltoall, Alltoall_init = forms(_alltoall)
    Gatherv, Igatherv, Gatherv_init = forms(_gatherv)
    Scatterv, Iscatterv, Scatterv_init = forms(_scatterv)
    Allgatherv, Iallgatherv, Allgatherv_init = forms(_allgatherv)
    Alltoallv, Ialltoallv, Alltoallv_init = forms(_alltoallv)
    Alltoallw, Ialltoallw, Alltoallw_init = forms(_alltoallw)
    Reduce, Ireduce, Reduce_init = forms(_reduce)
    Allreduce, Iallreduce, Allreduce_init = forms(_allreduce)
    Reduce_scatter_block, Ireduce_scatter_block, Reduce_scatter_block_init = forms(_reduce_scatter_block)
    Reduce_scatter, Ireduce_scatter, Reduce_scatter_init = forms(_reduce_scatter)
    Scan, Iscan, Scan_init = forms(_scan)
    Exscan, Iexscan, Exscan_init = forms(_exscan)


def _in_place(spec: Any) -> bool:
    return spec is None or spec is mpi.IN_PLACE


def _delivering(buffers: list[Buffer], arrays: list[Array]) -> Callable[[Any], Completion]:
    """What has been received into `incoming()` arrays goes to its place."""

    def end(result: object) -> Completion:
        for buffer, array in zip(buffers, arrays, strict=True):
            buffer.deliver(array)
        return EMPTY

    return end


class _Blocks:
    """The blocks of a gather or scatter: one buffer for each rank, as rows of an array.

    Parameters
    ----------
    first : Buffer
        The first block.
    nbytes : int
        Of what one rank sends.

    Attributes
    ----------
    array : array, shape (size, nbytes)
        To receive into: the program's memory itself where the blocks follow each other.
    """

    def __init__(self, first: Buffer, size: int, nbytes: int) -> None:
        if nbytes > first.nbytes:
            raise _lengths(first.nbytes, nbytes)
        self._blocks = [first.after(rank) for rank in range(size)]
        self._whole = first.dense and nbytes == first.nbytes
        stop = first.offset + size * nbytes
        self.array: Array = (
            first.memory[first.offset : stop].reshape(size, nbytes) if self._whole else np.empty((size, nbytes), np.uint8)
        )

    def packed(self) -> Array:
        """The rows as they are sent."""
        if self._whole:
            return self.array
        return np.stack([block.outgoing() for block in self._blocks])

    def deliver(self, result: object) -> Completion:
        if not self._whole:
            for block, row in zip(self._blocks, self.array, strict=True):
                if block.dense:
                    block.incoming()[: len(row)] = row
                block.deliver(row, len(row))
        return EMPTY


def _require_room(mine: Buffer, place: Buffer) -> None:
    if mine.nbytes > place.nbytes:
        raise _lengths(place.nbytes, mine.nbytes)


def _lengths(room: int, nbytes: int) -> Exception:
    return exception(mpi.ERR_TRUNCATE, f"a block of {nbytes} bytes does not fit the {room} bytes that there are for it")


def _operands(sendbuf: Any, recvbuf: Any) -> tuple[Buffer | None, Buffer]:
    received = simple(recvbuf, readonly=False)
    if _in_place(sendbuf):
        return None, received
    sent = simple(sendbuf, readonly=True)
    _require_match(sent, received, received.count, "receive count")
    return sent, received


def _require_match(sent: Buffer, received: Buffer, count: int, what: str) -> None:
    """Raise ValueError unless both buffers have one datatype, and as many items as they must."""
    if sent.datatype != received.datatype:
        raise ValueError("the datatypes of the send and the receive buffer differ")
    if sent.count != count:
        raise ValueError(f"the send count is {sent.count}, but the {what} is {count}")


def _x(mine: Buffer | None, received: Buffer, out: Array) -> Array:
    """The operand: what is sent, or, in place, what is in the receive buffer."""
    if mine is not None:
        return mine.items()
    return out if received.dense else received.items()


def _reducing(received: Buffer, plan: Callable[[Array], Task], *, unchanged: bool = False) -> Begin:
    """Reduce into the receive buffer; where its datatype has gaps, what is in them stays as it was."""

    def begin() -> tuple[Task, Any]:
        if received.dense:
            return plan(received.items()), no_result
        out = received.items().copy()

        def end(result: object) -> Completion:
            if not unchanged:
                received.deliver(simple([out.view(np.uint8), received.count, received.datatype], readonly=True).outgoing())
            return EMPTY

        return plan(out), end

    return begin


def _spread(block: Buffer, size: int) -> Buffer:
    """All blocks as one buffer."""
    return Buffer(block.memory, block.offset, size * block.count, block.datatype, block._layout)


def _first(buffer: Buffer, count: int) -> Buffer:
    return Buffer(buffer.memory, buffer.offset, count, buffer.datatype, buffer._layout)
