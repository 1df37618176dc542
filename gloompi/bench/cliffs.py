"""Cliffs: what costs more and more for each, the more there are, unless care is taken; counts against seconds.

Each program is written for mpi4py's names, and runs on MPI and on `gloompi.MPI` alike, except for what MPI has nothing like.
Rank 0 sends, rank 1 receives and is measured; other ranks take part in collectives.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ..context import Context
from ..request import Request
from .timing import WrongResultError

__all__ = ["CLIFFS", "Cliff", "Side"]

_PARKED = 8
_PARKED_NBYTES = 128 * 1024
_POLLS = 20


@dataclass(frozen=True)
class Side:
    """What a program runs on.

    Attributes
    ----------
    name : str
        "gloompi" or "mpi".
    comm
        A communicator, mpi4py's or gloompi.MPI's.
    request : type
        The class of its requests.
    meet : callable
        A barrier in which ranks sleep.
    ctx : Context or None
        For what only gloompi has.
    """

    name: str
    comm: Any
    request: Any
    meet: Callable[[], object]
    ctx: Context


def _send_all(side: Side, tags: Sequence[int]) -> None:
    """Send a number with each tag; the last of them need not be received first."""
    x = np.array(tags, float)
    side.request.Waitall([side.comm.Isend(x[index : index + 1], 1, tag) for index, tag in enumerate(tags)])


def _require(outs: Any) -> None:
    """Check what has been received, when all is over: others must not wait for a rank that has given up."""
    wrong = np.flatnonzero(outs != np.arange(len(outs)))
    if len(wrong):
        raise WrongResultError(f"{len(wrong)} of {len(outs)} messages have wrong data or came out of order")


def _early(receive: Callable[[Any, Any], None]) -> Callable[[Side, int], float]:
    """Messages of different tags that have come, received one by one."""

    def program(side: Side, count: int) -> float:
        comm = side.comm
        if comm.rank == 0:
            _send_all(side, range(count + 1))
        if comm.rank != 1:
            return 0.0
        outs = np.full(count, -1.0)
        comm.Recv(np.zeros(1), 0, count)  # after all others
        start = perf_counter()
        for number in range(count):
            receive(comm, outs[number : number + 1])
        seconds = perf_counter() - start
        _require(outs)
        return seconds

    return program


def _by_any_tag(comm: Any, out: Any) -> None:
    comm.Recv(out, 0)


def _probed(comm: Any, out: Any) -> None:
    comm.Probe()
    comm.Recv(out)


def _held(side: Side, count: int) -> float:
    """All of them taken by matched probes, then received, the last one first."""
    comm = side.comm
    if comm.rank == 0:
        _send_all(side, range(count + 1))
    if comm.rank != 1:
        return 0.0
    outs = np.full(count, -1.0)
    comm.Recv(np.zeros(1), 0, count)
    start = perf_counter()
    messages = [comm.Mprobe(0, tag) for tag in range(count)]
    for tag in reversed(range(count)):
        messages.pop().Recv(outs[tag : tag + 1])
    seconds = perf_counter() - start
    _require(outs)
    return seconds


def _receives(side: Side, count: int) -> tuple[Any, list[Any]]:
    from mpi4py import MPI

    outs = np.full(count, -1.0)
    return outs, [side.comm.Irecv(outs[tag : tag + 1], MPI.ANY_SOURCE, tag) for tag in range(count)]


def _posted(side: Side, count: int) -> float:
    """Receives from any source, each of a tag of its own, whose messages come the last one first."""
    if side.comm.rank == 0:
        side.comm.Recv(np.zeros(1), 1, count)  # the clock runs from here on
        _send_all(side, range(count)[::-1])
    if side.comm.rank != 1:
        return 0.0
    outs, requests = _receives(side, count)
    start = perf_counter()
    side.comm.Send(np.zeros(1), 0, count)
    side.request.Waitall(requests)
    seconds = perf_counter() - start
    _require(outs)
    return seconds


def _cancelled(side: Side, count: int) -> float:
    """Receives that are taken back, the last one first."""
    if side.comm.rank != 1:
        return 0.0
    _, requests = _receives(side, count)
    start = perf_counter()
    _cancel(requests)
    return perf_counter() - start


def _cancel(requests: list[Any]) -> None:
    for request in reversed(requests):
        request.Cancel()
        request.Wait()


def _waited(side: Side, count: int) -> float:
    """Receives whose messages have come, waited for with Waitany until none is left."""
    outs, requests = _receives(side, count) if side.comm.rank == 1 else (None, [])
    side.meet()
    if side.comm.rank == 0:
        _send_all(side, range(count + 1))
    if side.comm.rank != 1:
        return 0.0
    side.comm.Recv(np.zeros(1), 0, count)  # after all others
    start = perf_counter()
    while requests:
        requests.pop(side.request.Waitany(requests))
    seconds = perf_counter() - start
    _require(outs)
    return seconds


def _polled(name: str) -> Callable[[Side, int], float]:
    """Receives for which nothing has come, looked at together."""

    def program(side: Side, count: int) -> float:
        if side.comm.rank != 1:
            return 0.0
        _, requests = _receives(side, count)
        poll = getattr(side.request, name)
        start = perf_counter()
        for _ in range(_POLLS):
            poll(requests)
        seconds = (perf_counter() - start) / _POLLS
        _cancel(requests)
        return seconds

    return program


def _awaited(side: Side, count: int) -> float:
    """Coroutines that await a receive each; the messages come one by one."""
    ctx = side.ctx
    if ctx.rank == 1:
        outs = np.full((count, 1), -1.0)
        requests = [ctx.irecv(outs[tag], 0, tag=tag) for tag in range(count)]
        start = perf_counter()
        asyncio.run(_gather(ctx, requests))
        seconds = perf_counter() - start
        _require(outs[:, 0])
        return seconds
    ctx.barrier()
    if ctx.rank == 0:
        for tag in range(count):
            ctx.send(np.full(1, float(tag)), 1, tag=tag)
    return 0.0


async def _gather(ctx: Context, requests: list[Request]) -> None:
    async def result(request: Request) -> object:
        return await request

    tasks = [asyncio.create_task(result(request)) for request in requests]
    await ctx.ibarrier()
    await asyncio.gather(*tasks)


def _streamed(parked: int) -> Callable[[Side, int], float]:
    """Messages to a receiver that takes each of them, while others wait there for another communicator's receives."""

    def program(side: Side, count: int) -> float:
        comm, other = side.comm, side.comm.Dup()
        blocks = np.zeros((parked, _PARKED_NBYTES), np.uint8)
        x, outs, seconds = np.arange(float(count)), np.full(count, -1.0), 0.0
        waiting = [other.Isend(block, 1, tag) for tag, block in enumerate(blocks)] if comm.rank == 0 else []
        side.meet()
        if comm.rank == 0:
            for number in range(count):
                comm.Send(x[number : number + 1], 1)
        elif comm.rank == 1:
            comm.Recv(outs[:1], 0)
            start = perf_counter()
            for number in range(1, count):
                comm.Recv(outs[number : number + 1], 0)
            seconds = (perf_counter() - start) * count / (count - 1)
            for tag, block in enumerate(blocks):
                other.Recv(block, 0, tag)
        side.request.Waitall(waiting)
        side.meet()
        other.Free()
        if comm.rank == 1:
            _require(outs)
        return seconds

    return program


def _kept(side: Side, count: int) -> float:
    """Bytes that stay when a few numbers are kept of each of some objects of 1 MB."""
    comm = side.comm
    if comm.rank == 0:
        for number in range(count):
            comm.send({"mean": np.full(4, float(number)), "data": np.zeros(125_000)}, 1)
    if comm.rank != 1:
        return 0.0
    tracemalloc.start()
    try:
        kept = [comm.recv(source=0)["mean"] for _ in range(count)]
        nbytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    _require(np.array([each[3] for each in kept]))
    return float(nbytes)


def _reduced(side: Side, count: int) -> float:
    """The most that an allreduce of objects of so many MiB takes beside them, on the rank that needs most."""
    x = np.full(count * 1024 * 1024 // 8, 1.0)
    side.meet()
    tracemalloc.start()
    try:
        total = side.comm.allreduce([x], op=_add)
        nbytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if (total[0] != side.comm.size).any():
        raise WrongResultError("the sum is wrong")
    return float(nbytes)


def _add(a: Any, b: Any) -> Any:
    return [a[0] + b[0]]


@dataclass(frozen=True)
class Cliff:
    """Something that may cost more for each, the more there are.

    Attributes
    ----------
    name : str
    program : callable
        Given a side and a count, returns what it took on this rank, which is 0 on those that are not measured.
    noun : str
        What is counted.
    part : int
        Of the counts that were asked for.
    unit : {"s", "B"}
    mpi : bool
        Whether MPI has the like.
    """

    name: str
    program: Callable[[Side, int], float]
    noun: str = "messages"
    part: int = 1
    unit: str = "s"
    mpi: bool = True

    def counts(self, asked: Sequence[int]) -> list[int]:
        return list(dict.fromkeys(max(2, count // self.part) for count in asked))


CLIFFS = (
    Cliff("early messages of different tags, received by ANY_TAG", _early(_by_any_tag)),
    Cliff("early messages of different tags, probed and received by ANY_SOURCE, ANY_TAG", _early(_probed)),
    Cliff("early messages taken by Mprobe, received backwards", _held),
    Cliff("receives from ANY_SOURCE posted, messages come backwards", _posted, "receives"),
    Cliff("receives cancelled backwards", _cancelled, "receives"),
    Cliff("receives awaited by a coroutine each", _awaited, "receives", mpi=False),
    Cliff("receives that are done, Waitany until none is left", _waited, "receives"),
    Cliff("receives that are not done, one Testall", _polled("Testall"), "receives"),
    Cliff("receives that are not done, one Testany", _polled("Testany"), "receives"),
    Cliff("receives that are not done, one Testsome", _polled("Testsome"), "receives"),
    Cliff("messages while nothing is parked", _streamed(0)),
    Cliff("messages while 1 MiB is parked", _streamed(_PARKED)),
    Cliff("objects of 1 MB of which four numbers are kept, memory", _kept, "objects", part=50, unit="B"),
    Cliff("allreduce of an object, memory", _reduced, "MiB", part=250, unit="B"),
)
