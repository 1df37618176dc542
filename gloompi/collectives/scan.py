"""Scan and exscan: the reduction over the ranks up to, or before, each rank."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps
from ..reduction import Reduction
from .partition import block

__all__ = ["ALGORITHMS", "ScanAlgorithm", "pick", "scan"]

ScanAlgorithm = Literal["auto", "recursive_doubling", "chain"]

# Above this the chain is ahead: it moves each byte once, in pieces that follow each other through the ranks.
_LATENCY_NBYTES = 256 * 1024

_SEGMENT_NBYTES = 256 * 1024

# Steps of one call are numbered with 16 bits.
_MOST_SEGMENTS = 1 << 14


def pick(nbytes: int) -> str:
    """The algorithm that "auto" stands for."""
    return "recursive_doubling" if nbytes <= _LATENCY_NBYTES else "chain"


def scan(call: Call, x: Array, out: Array, before: Array | None, op: Reduction, algorithm: str) -> Steps:
    """Reduce `x` of ranks 0 to r into `out` of rank r, which may be `x`; 1-d, contiguous, same dtype and length.

    `before`, if given, gets the reduction of ranks 0 to r - 1, except on rank 0.
    """
    return ALGORITHMS[algorithm](call, x, out, before, op)


def recursive_doubling(call: Call, x: Array, out: Array, before: Array | None, op: Reduction) -> Steps:
    """In step k every rank sends what it has, its last 2^k operands, to the rank 2^k above.

    4 ranks: 0 -> 1 -> 2 -> 3, each with its own x; then 0 -> 2 and 1 -> 3, with the reductions of 0, 0-1.

    ceil(log2(size)) steps of nbytes.  W. D. Hillis, G. L. Steele, Data parallel algorithms, CACM 29 (1986),
    doi:10.1145/7902.7903.
    """
    rank, size = call.rank, call.size
    if out is not x:
        out[:] = x
    incoming = np.empty_like(out)
    distance, step = 1, 0
    while distance < size:
        waits = []
        if rank + distance < size:
            # What is sent is still on its way while `out` changes below.
            waits.append(call.send(rank + distance, step, out.copy()))
        if rank >= distance:
            yield call.receive(rank - distance, step, incoming, now=True)
            if before is not None:
                if distance == 1:
                    before[:] = incoming
                else:
                    op.apply(incoming, before, out=before)
            op.apply(incoming, out, out=out)
        yield waits
        distance, step = 2 * distance, step + 1


def chain(call: Call, x: Array, out: Array, before: Array | None, op: Reduction) -> Steps:
    """Every rank adds its own operand to what comes from below and hands it up, segment after segment.

    4 ranks: 0 -> 1 -> 2 -> 3.

    size - 1 steps for the first segment, one for each more; nbytes sent per rank.  The pipelined linear array, as in
    P. Sanders, J. L. Träff, Parallel prefix (scan) algorithms for MPI, EuroPVM/MPI 2006, doi:10.1007/11846802_15.
    """
    rank, size = call.rank, call.size
    segments = min(max(1, -(-x.nbytes // _SEGMENT_NBYTES)), _MOST_SEGMENTS)
    parts = [block(len(x), segments, index) for index in range(segments)]
    received = []
    if rank > 0:
        if before is not None:
            received = [call.receive(rank - 1, step, before[part]) for step, part in enumerate(parts)]
        else:
            received = [call.receive_reduce(rank - 1, step, x[part], out[part], op) for step, part in enumerate(parts)]
    elif out is not x:
        out[:] = x
    sent = []
    for step, part in enumerate(parts):
        if rank > 0:
            yield received[step]
            if before is not None:
                op.apply(before[part], x[part], out=out[part])
        if rank + 1 < size:
            sent.append(call.send(rank + 1, step, out[part]))
    yield sent


ALGORITHMS = {"recursive_doubling": recursive_doubling, "chain": chain}
