"""Collectives on buffers: arguments for each, in place or not, as blocking, non-blocking or persistent call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .completion import Pending
from .dtypes import DTYPES, Dtype, recorded, values
from .scene import Scene
from .spellings import Block, Blocks, divided

Prepared = tuple[tuple[Any, ...], Callable[[], Any]]

# An address that suits every datatype.
_ALIGNMENT = 16


class Setting:
    """A step on its communicator: the numbers of a step mean what they can mean there."""

    def __init__(self, scene: Scene, step: dict[str, Any], comm: Any) -> None:
        self.MPI, self.scene, self.step = scene.MPI, scene, step
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.root = step["root"] % self.size
        self.at_root = self.rank == self.root
        self.count, self.salt, self.gap, self.way = step["count"], step["salt"], step["gap"], step["way"]
        self.dtype: Dtype = DTYPES[step["dtype"]]
        self.op_name: str = step.get("op", "")
        self.in_place: bool = step["in_place"]
        # mpi4py takes None for it as well.
        self.IN_PLACE = None if self.salt % 2 else self.MPI.IN_PLACE

    def counts(self) -> list[int]:
        """One count per rank."""
        if self.way == "even":
            return divided(self.count, self.size)
        if self.way == "equal":
            return [self.count] * self.size
        given = self.step["counts"]
        return [given[i % len(given)] for i in range(self.size)]

    def values(self, count: int, rank: int, offset: int = 0) -> np.ndarray:
        return values(self.dtype, count, rank, self.salt + offset, self.op_name)

    def block(self, count: int, *, blocks: int = 1, other: int = 0) -> Block:
        # Ranks spell differently what they agree on; so do the two sides of one rank.
        return Block(self.MPI, self.dtype, count, self.step["spelling"] + self.rank + 5 * other, blocks)

    def blocks(self, counts: list[int], *, other: int = 0) -> Blocks:
        choice = self.step["spelling"] + self.rank + 3 * other
        return Blocks(self.MPI, self.dtype, counts, choice, self.way, self.gap)

    def sent(self, count: int, *, blocks: int = 1) -> Block:
        block = self.block(count, blocks=blocks)
        block.content[:] = self.values(count * blocks, self.rank)
        return block

    @property
    def op(self) -> Any:
        return self.scene.operation(self.op_name)


def collective(scene: Scene, step: dict[str, Any], comm: Any) -> tuple[Any, list[Pending]]:
    """Call or start it: a result, or what is pending."""
    name: str = step["do"]
    arguments, outcome = _PREPARE[name](Setting(scene, step, comm))
    if step["form"] == "blocking":
        getattr(comm, name)(*arguments)
        return outcome(), []
    if step["form"] == "non-blocking":
        request = getattr(comm, "I" + name[0].lower() + name[1:])(*arguments)
        return None, [Pending(request, lambda *_: outcome())]
    request = getattr(comm, name + "_init")(*arguments)
    request.Start()
    # In place, a second round would reduce the results of the first, and overflow.
    return None, [Pending(request, lambda *_: outcome(), persistent=True, repeatable=not step["in_place"], collective=True)]


def _barrier(at: Setting) -> Prepared:
    return (), lambda: "passed"


def _bcast(at: Setting) -> Prepared:
    block = at.block(at.count)
    if at.at_root:
        block.content[:] = at.values(at.count, at.root)
    return (block.spec, at.root), lambda: recorded(block.whole)


def _gather(at: Setting) -> Prepared:
    if not at.at_root:
        sent = at.sent(at.count)
        return (sent.spec, None, at.root), lambda: recorded(sent.whole)
    received = at.block(at.count, blocks=at.size, other=1)
    if at.in_place:
        received.content[at.rank * at.count :][: at.count] = at.values(at.count, at.rank)
        return (at.IN_PLACE, received.spec, at.root), lambda: recorded(received.whole)
    sent = at.sent(at.count)
    return (sent.spec, received.spec, at.root), lambda: [recorded(sent.whole), recorded(received.whole)]


def _gatherv(at: Setting) -> Prepared:
    counts = at.counts()
    if not at.at_root:
        sent = at.sent(counts[at.rank])
        return (sent.spec, None, at.root), lambda: recorded(sent.whole)
    received = at.blocks(counts)
    if at.in_place:
        received.pieces[at.rank][:] = at.values(counts[at.rank], at.rank)
        return (at.IN_PLACE, received.spec, at.root), lambda: recorded(received.whole)
    sent = at.sent(counts[at.rank])
    return (sent.spec, received.spec, at.root), lambda: [recorded(sent.whole), recorded(received.whole)]


def _scatter(at: Setting) -> Prepared:
    received = at.block(at.count)
    if not at.at_root:
        return (None, received.spec, at.root), lambda: recorded(received.whole)
    sent = at.sent(at.count, blocks=at.size)
    target = at.IN_PLACE if at.in_place else received.spec
    return (sent.spec, target, at.root), lambda: [recorded(sent.whole), recorded(received.whole)]


def _scatterv(at: Setting) -> Prepared:
    counts = at.counts()
    received = at.block(counts[at.rank])
    if not at.at_root:
        return (None, received.spec, at.root), lambda: recorded(received.whole)
    sent = at.blocks(counts)
    for rank, piece in enumerate(sent.pieces):
        piece[:] = at.values(counts[rank], rank)
    target = at.IN_PLACE if at.in_place else received.spec
    return (sent.spec, target, at.root), lambda: [recorded(sent.whole), recorded(received.whole)]


def _allgather(at: Setting) -> Prepared:
    received = at.block(at.count, blocks=at.size, other=1)
    if at.in_place:
        received.content[at.rank * at.count :][: at.count] = at.values(at.count, at.rank)
        return (at.IN_PLACE, received.spec), lambda: recorded(received.whole)
    sent = at.sent(at.count)
    return (sent.spec, received.spec), lambda: [recorded(sent.whole), recorded(received.whole)]


def _allgatherv(at: Setting) -> Prepared:
    counts = at.counts()
    received = at.blocks(counts)
    if at.in_place:
        received.pieces[at.rank][:] = at.values(counts[at.rank], at.rank)
        return (at.IN_PLACE, received.spec), lambda: recorded(received.whole)
    sent = at.sent(counts[at.rank])
    return (sent.spec, received.spec), lambda: [recorded(sent.whole), recorded(received.whole)]


def _alltoall(at: Setting) -> Prepared:
    received = at.block(at.count, blocks=at.size, other=1)
    if at.in_place:
        received.content[:] = at.values(at.count * at.size, at.rank)
        return (at.IN_PLACE, received.spec), lambda: recorded(received.whole)
    sent = at.sent(at.count, blocks=at.size)
    return (sent.spec, received.spec), lambda: [recorded(sent.whole), recorded(received.whole)]


def _exchanged(at: Setting, source: int, dest: int) -> int:
    """How many elements one rank has for another; in place, as many as the other has for it."""
    if at.way == "even":
        return divided(at.count, at.size)[dest]
    if at.way == "equal":
        return at.count
    given = at.step["counts"]
    return given[(source + dest if at.in_place else 3 * source + dest) % len(given)]


def _alltoallv(at: Setting) -> Prepared:
    way, ranks = at.way, range(at.size)
    if at.in_place and way == "even":
        at.way = way = "listed"
    sending = [_exchanged(at, at.rank, dest) for dest in ranks]
    receiving = [_exchanged(at, source, at.rank) for source in ranks]
    if way == "even":
        at.way = "equal"  # what each sends to this rank has one size, whatever that is
    received = at.blocks(receiving, other=1)
    if at.in_place:
        for rank, piece in enumerate(received.pieces):
            piece[:] = at.values(len(piece), at.rank, rank)
        return (at.IN_PLACE, received.spec), lambda: recorded(received.whole)
    at.way = way
    sent = at.blocks(sending)
    for rank, piece in enumerate(sent.pieces):
        piece[:] = at.values(len(piece), at.rank, rank)
    return (sent.spec, received.spec), lambda: [recorded(sent.whole), recorded(received.whole)]


def _alltoallw(at: Setting) -> Prepared:
    """Another datatype for each pair of ranks, displacements in bytes."""
    kinds = ["i", "d", "h", "F", "byte"]
    at.way = "listed"

    # Open MPI 5.0's Ialltoallw in place never ends where two ranks have nothing for each other.
    least = int(at.in_place and at.step["form"] != "blocking")

    def pair(source: int, dest: int) -> tuple[Dtype, int]:
        return DTYPES[kinds[(source + dest + at.salt) % len(kinds)]], max(_exchanged(at, source, dest), least)

    def memory(pairs: list[tuple[Dtype, int]], *, fill: bool, choice: int) -> tuple[Any, np.ndarray]:
        lengths = [count * np.dtype(dtype.numpy).itemsize for dtype, count in pairs]
        at_bytes = [0]
        for length in lengths:
            at_bytes.append(-(-(at_bytes[-1] + length) // _ALIGNMENT) * _ALIGNMENT + _ALIGNMENT * at.gap)
        whole = np.full(at_bytes[-1] + 1, 77, "u1")
        if fill:
            for peer, ((dtype, count), begin, length) in enumerate(zip(pairs, at_bytes, lengths, strict=False)):
                whole[begin : begin + length] = values(dtype, count, at.rank, at.salt + peer).view("u1")
        counts, types = [count for _, count in pairs], [getattr(at.MPI, dtype.mpi) for dtype, _ in pairs]
        if choice % 2:
            return [whole, counts, at_bytes[:-1], types], whole
        return [whole, (counts, at_bytes[:-1]), types], whole

    ranks = range(at.size)
    receiving, received = memory([pair(source, at.rank) for source in ranks], fill=at.in_place, choice=at.step["spelling"])
    if at.in_place:
        return (at.IN_PLACE, receiving), lambda: recorded(received)
    sending, sent = memory([pair(at.rank, dest) for dest in ranks], fill=True, choice=at.rank)
    return (sending, receiving), lambda: [recorded(sent), recorded(received)]


def _reduce(at: Setting) -> Prepared:
    if not at.at_root:
        sent = at.sent(at.count)
        ignored = at.block(at.count).spec if at.rank % 2 else None
        return (sent.spec, ignored, at.op, at.root), lambda: recorded(sent.whole)
    (sending, receiving, op), outcome = _allreduce(at)
    return (sending, receiving, op, at.root), outcome


def _allreduce(at: Setting) -> Prepared:
    received = at.block(at.count, other=1)
    if at.in_place:
        received.content[:] = at.values(at.count, at.rank)
        return (at.IN_PLACE, received.spec, at.op), lambda: recorded(received.whole)
    sent = at.sent(at.count)
    return (sent.spec, received.spec, at.op), lambda: [recorded(sent.whole), recorded(received.whole)]


def _exscan(at: Setting) -> Prepared:
    arguments, outcome = _allreduce(at)
    if at.rank == 0:  # what it receives is undefined
        return arguments, lambda: "undefined" if at.in_place else outcome()[0]
    return arguments, outcome


def _reduce_scatter(at: Setting) -> Prepared:
    counts = at.counts()
    mine, total = counts[at.rank], sum(counts)
    if at.in_place:  # the result is at the beginning; what is behind it is undefined
        whole = at.block(total, other=1)
        whole.content[:] = at.values(total, at.rank)
        return (at.IN_PLACE, whole.spec, counts, at.op), lambda: recorded(whole.content[:mine])
    sent, received = at.sent(total), at.block(mine, other=1)
    given = None if at.gap % 2 else counts
    return (sent.spec, received.spec, given, at.op), lambda: [recorded(sent.whole), recorded(received.whole)]


def _reduce_scatter_block(at: Setting) -> Prepared:
    if at.in_place:
        whole = at.block(at.count, blocks=at.size, other=1)
        whole.content[:] = at.values(at.count * at.size, at.rank)
        return (at.IN_PLACE, whole.spec, at.op), lambda: recorded(whole.content[: at.count])
    sent, received = at.sent(at.count, blocks=at.size), at.block(at.count, other=1)
    return (sent.spec, received.spec, at.op), lambda: [recorded(sent.whole), recorded(received.whole)]


_PREPARE: dict[str, Callable[[Setting], Prepared]] = {
    "Barrier": _barrier,
    "Bcast": _bcast,
    "Gather": _gather,
    "Gatherv": _gatherv,
    "Scatter": _scatter,
    "Scatterv": _scatterv,
    "Allgather": _allgather,
    "Allgatherv": _allgatherv,
    "Alltoall": _alltoall,
    "Alltoallv": _alltoallv,
    "Alltoallw": _alltoallw,
    "Reduce": _reduce,
    "Allreduce": _allreduce,
    "Reduce_scatter": _reduce_scatter,
    "Reduce_scatter_block": _reduce_scatter_block,
    "Scan": _allreduce,
    "Exscan": _exscan,
}
