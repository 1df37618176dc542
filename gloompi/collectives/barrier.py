"""Barrier."""

from __future__ import annotations

from ..engine.call import Call
from ..engine.operation import Steps

__all__ = ["barrier"]


def barrier(call: Call) -> Steps:
    """Dissemination: in step k every rank tells the one 2^k above that it and the 2^k - 1 below it have arrived.

    4 ranks: 0 -> 1, 1 -> 2, 2 -> 3, 3 -> 0, then 0 -> 2, 1 -> 3, 2 -> 0, 3 -> 1.

    ceil(log2(size)) steps.  D. Hensgen, R. Finkel, U. Manber, Two algorithms for barrier synchronization,
    Int. J. Parallel Programming 17 (1988), doi:10.1007/BF01379320.
    """
    distance, step = 1, 0
    while distance < call.size:
        yield call.exchange((call.rank + distance) % call.size, (call.rank - distance) % call.size, step)
        distance, step = 2 * distance, step + 1
