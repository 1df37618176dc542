"""All-to-all: a part of every rank's array to every rank."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Array
from ..engine.call import Call, as_array
from ..engine.operation import Steps

__all__ = ["ALGORITHMS", "AlltoallAlgorithm", "alltoall", "alltoallv", "pick"]

AlltoallAlgorithm = Literal["auto", "pairwise", "bruck"]

# Up to here (bytes for each rank) and from this many ranks on, the number of messages is what counts.
_LATENCY_NBYTES = 256
_MANY_RANKS = 8


def pick(size: int, nbytes: int) -> str:
    """The algorithm that "auto" stands for; `nbytes` is what one rank has for another."""
    return "bruck" if size >= _MANY_RANKS and nbytes <= _LATENCY_NBYTES else "pairwise"


def alltoall(call: Call, x: Array, out: Array, algorithm: str) -> Steps:
    """Put part s of `x` of rank r into part r of `out` of rank s: 1-d, contiguous, `size` equal parts, not overlapping."""
    return ALGORITHMS[algorithm](call, x, out)


def pairwise(call: Call, x: Array, out: Array) -> Steps:
    """In step k every rank sends to the rank k above and receives from the rank k below.

    4 ranks: in step 1, 0 sends part 1 to 1 and gets part 0 of 3; in step 2 it exchanges with 2, in step 3 with 3.

    size - 1 messages of nbytes/size; all receives are posted at once.  R. Thakur, R. Rabenseifner, W. Gropp 2005,
    doi:10.1177/1094342005051521.
    """
    parts, places = x.reshape(call.size, -1), out.reshape(call.size, -1)
    return alltoallv(call, list(parts), list(places)) if len(x) else _nothing()


def _nothing() -> Steps:
    yield ()


def bruck(call: Call, x: Array, out: Array) -> Steps:
    """In step k every rank passes on, to the rank 2^k above, all parts whose way there has bit k set.

    4 ranks: the part from 0 to 3 goes to 1 in the first step and on to 3 in the second.

    ceil(log2(size)) messages of about nbytes/2.  J. Bruck et al., IEEE TPDS 8 (1997), doi:10.1109/71.642949.
    """
    rank, size = call.rank, call.size
    parts = x.reshape(size, -1) if len(x) else x.reshape(size, 0)
    places = out.reshape(parts.shape)
    # Row d: the part that still has to go d ranks up, in the end the part that has come from d ranks below.
    way = np.roll(parts, -rank, axis=0)
    distance, step = 1, 0
    while distance < size:
        rows = [row for row in range(size) if row & distance]
        came = np.empty((len(rows), parts.shape[1]), x.dtype)
        yield call.exchange((rank + distance) % size, (rank - distance) % size, step, way[rows].ravel(), came.ravel())
        way[rows] = came
        distance, step = 2 * distance, step + 1
    places[[(rank - row) % size for row in range(size)]] = way


def alltoallv(call: Call, pieces: list[Array], out: list[Array], room: bool = False) -> Steps:
    """Put piece s of rank r into `out[r]` of rank s: 1-d, contiguous; into new arrays of bytes where the list is empty.

    With `room`, the arrays may be longer than what comes.  Pairwise, as above, with a length for each pair of ranks.
    """
    rank, size = call.rank, call.size
    dests = [(rank + distance) % size for distance in range(1, size)]
    sources = [(rank - distance) % size for distance in range(1, size)]
    if out:
        out[rank][: len(pieces[rank])] = pieces[rank]
        given = [(dest, pieces[dest]) for dest in dests]
        yield call.exchange_all(0, given, [(source, out[source]) for source in sources], pieces=True, room=room)
        return
    came = [call.receive_any(source, 0) for source in sources]
    sent = [call.send(dest, 0, pieces[dest]) for dest in dests]
    mine = pieces[rank].copy()
    yield [*came, *sent]
    found = dict(zip(sources, came, strict=True))
    out[:] = [mine if source == rank else as_array(found[source].data) for source in range(size)]


ALGORITHMS = {"pairwise": pairwise, "bruck": bruck}
