"""Allgather: every rank's array to all ranks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Array
from ..engine.call import Call, as_array
from ..engine.operation import Steps

__all__ = ["ALGORITHMS", "AllgatherAlgorithm", "allgather", "allgatherv", "pick"]

AllgatherAlgorithm = Literal["auto", "bruck", "ring", "direct"]

# Up to here (all ranks' bytes together) the number of steps is what counts: with 4 ranks on 2 cores over AF_UNIX, Bruck
# took 169 us at 64 KiB where the ring took 209, and 313 us at 256 KiB where the ring took 248.
_LATENCY_NBYTES = 64 * 1024


def pick(size: int, nbytes: int, near: bool) -> str:
    """The algorithm that "auto" stands for; `nbytes` is one rank's; `near`: as for broadcast."""
    if size * nbytes <= _LATENCY_NBYTES:
        return "bruck"
    return "direct" if near else "ring"


def allgather(call: Call, x: Array, out: Array, algorithm: str) -> Steps:
    """Put `x` of rank r into part r of `out` on all ranks: 1-d, contiguous; `out` is `size` times as long."""
    return ALGORITHMS[algorithm](call, x, out)


def bruck(call: Call, x: Array, out: Array) -> Steps:
    """In step k every rank passes all the blocks it has, at most 2^k, to the rank 2^k below.

    4 ranks: 0 gets block 1 from 1, then blocks 2 and 3 from 2.  A rank collects the blocks from its own onwards; they are
    turned to their places at the end.

    ceil(log2(size)) steps, nbytes (size-1) per rank.  J. Bruck et al., Efficient algorithms for all-to-all communications
    in multiport message-passing systems, IEEE TPDS 8 (1997), doi:10.1109/71.642949.
    """
    rank, size, count = call.rank, call.size, len(x)
    collected = np.empty_like(out)
    collected[:count] = x
    have, step = 1, 0
    while have < size:
        more = min(have, size - have)
        place = collected[have * count : (have + more) * count]
        yield call.exchange((rank - have) % size, (rank + have) % size, step, collected[: more * count], place)
        have, step = have + more, step + 1
    split = (size - rank) * count
    out[rank * count :] = collected[:split]
    out[: rank * count] = collected[split:]


def ring(call: Call, x: Array, out: Array) -> Steps:
    """Every rank passes on to the next what it got last, beginning with its own block.

    4 ranks: 0 gets block 3, then 2, then 1, all from 3.

    size - 1 steps, nbytes (size-1) per rank.  As in R. Thakur et al. 2005, doi:10.1177/1094342005051521.
    """
    rank, size, count = call.rank, call.size, len(x)
    after, before = (rank + 1) % size, (rank - 1) % size
    part = [out[count * index : count * (index + 1)] for index in range(size)]
    received = [call.receive(before, step, part[(rank - step - 1) % size]) for step in range(size - 1)]
    part[rank][:] = x
    for step in range(size - 1):
        yield received[step], call.send(after, step, part[(rank - step) % size])


def direct(call: Call, x: Array, out: Array) -> Steps:
    """Every rank sends its block to all others.

    1 step, nbytes (size-1) per rank.
    """
    rank, size = call.rank, call.size
    part = out.reshape(size, len(x))
    others = [(rank + distance) % size for distance in range(1, size)]
    part[rank] = x
    yield call.exchange_all(0, [(other, x) for other in others], [(other, part[other]) for other in reversed(others)])


ALGORITHMS = {"bruck": bruck, "ring": ring, "direct": direct}


def allgatherv(call: Call, x: Array, pieces: list[Array], room: bool = False, first_step: int = 0) -> Steps:
    """Put `x` of rank r, bytes of any number, into pieces r of all ranks; into new ones where the list is empty.

    With `room`, the pieces may be longer than what comes.  The ring above, with a length for each block.
    """
    rank, size = call.rank, call.size
    after, before = (rank + 1) % size, (rank - 1) % size
    sources = [(rank - step - 1) % size for step in range(size - 1)]
    if pieces:
        received = [
            call.receive_piece(before, first_step + step, pieces[source], room=room) for step, source in enumerate(sources)
        ]
        part = pieces[rank][: len(x)]
        part[:] = x
        for step, source in enumerate(sources):
            yield received[step], call.send(after, first_step + step, part)
            part = pieces[source][: received[step].nbytes]
        return
    pieces[:] = [x.copy()] * size
    came = [call.receive_any(before, first_step + step) for step in range(size - 1)]
    for step, source in enumerate(sources):
        yield came[step], call.send(after, first_step + step, pieces[(rank - step) % size])
        pieces[source] = as_array(came[step].data)
