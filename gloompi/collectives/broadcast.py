"""Broadcast: the root's array to every rank."""

from __future__ import annotations

from typing import Literal

from ..arrays import Array
from ..engine.call import Call, as_array
from ..engine.operation import Steps
from .partition import blocks, tree

__all__ = ["ALGORITHMS", "BroadcastAlgorithm", "broadcast", "broadcastv", "pick"]

BroadcastAlgorithm = Literal["auto", "binomial", "scatter_allgather", "direct"]

# Above this, with more than 2 ranks, cutting the array spreads the sending over the ranks. With 4 ranks on 2 cores over
# AF_UNIX, where all share the cores, the two were level at 256 KiB and the tree ahead at 1 MiB (717 us against 832).
# Between hosts, which it is meant for, it has not been measured.
_LATENCY_NBYTES = 256 * 1024

# Above this, ranks that can read one another's memory all read the root's. 4 ranks on 2 cores: 4 MiB in 1.8 ms where the
# tree took 2.1, level at 1 MiB and below.
_NEAR_LATENCY_NBYTES = 64 * 1024


def pick(size: int, nbytes: int, near: bool) -> str:
    """The algorithm that "auto" stands for; `near`: all are on one host and may read one another's memory."""
    if near and nbytes > _NEAR_LATENCY_NBYTES:
        return "direct"
    return "binomial" if size <= 2 or nbytes <= _LATENCY_NBYTES else "scatter_allgather"


def broadcast(call: Call, x: Array, root: int, algorithm: str) -> Steps:
    """Copy `x` (1-d, contiguous, same dtype and length everywhere) of the root into `x` of every rank."""
    return ALGORITHMS[algorithm](call, x, root)


def binomial(call: Call, x: Array, root: int) -> Steps:
    """A tree in which whoever has the array passes it on to the farthest half of those it serves.

    4 ranks, root 0: 0 -> 2, then 0 -> 1 and 2 -> 3.

    ceil(log2(size)) steps; nbytes received per rank, up to ceil(log2(size)) nbytes sent.  As in R. Thakur et al. 2005,
    doi:10.1177/1094342005051521.
    """
    parent, children = tree(call.rank, root, call.size)
    if parent is not None:
        yield call.receive(parent, 0, x, now=True)
    yield [call.send(child, 0, x) for child in reversed(children)]


def scatter_allgather(call: Call, x: Array, root: int) -> Steps:
    """The root deals out a block to each rank; then the blocks go around a ring that ends before the root.

    4 ranks, root 0: 0 sends block p to each place p; then in step s = 1, 2, 3 place p sends block p - s + 1 to place p + 1,
    except that place 3 has nothing to tell place 0.

    size steps; nbytes received per rank, 2 nbytes (size-1)/size sent by the root, at most nbytes (size-1)/size by the
    others.  M. Barnett et al., Interprocessor collective communication library (InterCom), SHPCC 1994,
    doi:10.1109/SHPCC.1994.296665; here without its scatter tree, which a full mesh does not need.
    """
    size = call.size
    place = (call.rank - root) % size
    part = [x[piece] for piece in blocks(len(x), size)]
    after, before = (call.rank + 1) % size, (call.rank - 1) % size
    if place == 0:
        yield [call.send((root + other) % size, 0, part[other]) for other in range(1, size)]
        for step in range(1, size):
            yield call.send(after, step, part[(1 - step) % size])
        return
    mine = call.receive(root, 0, part[place])
    # In step s of the ring comes block place - s.
    others = [call.receive(before, step, part[(place - step) % size]) for step in range(1, size)]
    yield mine
    for step, other in enumerate(others, 1):
        if place < size - 1:
            yield call.send(after, step, part[(place - step + 1) % size])
        yield other


def direct(call: Call, x: Array, root: int) -> Steps:
    """The root sends to all.

    1 step; nbytes (size-1) sent by the root.
    """
    if call.rank == root:
        yield [call.send(other, 0, x) for other in range(call.size) if other != root]
    else:
        yield call.receive(root, 0, x, now=True)


ALGORITHMS = {"binomial": binomial, "scatter_allgather": scatter_allgather, "direct": direct}


def broadcastv(call: Call, x: list[Array], root: int) -> Steps:
    """Put the root's array, bytes of any number, into every other rank's list.

    The binomial tree above, for a length that only the root knows.
    """
    parent, children = tree(call.rank, root, call.size)
    if parent is not None:
        came = call.receive_any(parent, 0)
        yield came
        x.append(as_array(came.data))
    yield [call.send(child, 0, x[0]) for child in reversed(children)]
