"""Round-trip time, bandwidth and clock offset of pairs, by messages over a Context."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from ..context import Context

__all__ = ["Measured", "measure_all", "measure_pair", "patience", "rounds"]

_PINGS = 40
_WARM_PINGS = 5
# One message goes on growing until it takes this long or is this big: long enough that its first bytes do not matter.
_ENOUGH_SECONDS = 0.03
_FIRST_NBYTES, _LARGEST_NBYTES = 256 * 1024, 16 * 1024 * 1024
# Who waits for a rank that measures another pair, in two directions, is patient for so many messages: also, the rank whose
# partner has stopped is then the first to say so.
_PATIENCE = 3


@dataclass(frozen=True)
class Measured:
    """What one rank has measured towards another.

    Attributes
    ----------
    seconds : float
        Round-trip time of 8 bytes, median.
    bandwidth : float
        Bytes per second from this rank to the other, of one message.
    clock : float
        How far the other's clock is ahead of this one's, seconds; right to half a round-trip time.
    """

    seconds: float
    bandwidth: float
    clock: float


def rounds(size: int) -> Iterator[list[tuple[int, int]]]:
    """All pairs of ranks, in rounds in which no rank has two partners (the circle method of round-robin tournaments).

    4 ranks: (0,3)(1,2), then (0,2)(3,1), then (0,1)(2,3).
    """
    places = [*range(size), *([-1] if size % 2 else [])]  # -1: whoever meets it has a break
    half = len(places) // 2
    for _ in range(len(places) - 1):
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        yield [(one, other) for one, other in pairs if one >= 0 and other >= 0]
        places = [places[0], places[-1], *places[1:-1]]


def patience(ctx: Context) -> float | None:
    """Seconds to wait for a rank that may be measuring another pair."""
    return None if ctx.timeout is None else _PATIENCE * ctx.timeout


def measure_pair(ctx: Context, partner: int) -> Measured:
    """Measure the way to `partner`, which must call this with the rank of this one.

    Raises
    ------
    GloompiError
        The partner was lost or late.
    """
    # Afterwards both are here: nobody's waiting is measured.
    ctx.sendrecv(np.empty(0), partner, np.empty(0), partner, timeout=patience(ctx))
    if ctx.rank < partner:
        seconds, clock = _ping(ctx, partner)
        _answer(ctx, partner)
        bandwidth = _push(ctx, partner)
        _pull(ctx, partner)
    else:
        _answer(ctx, partner)
        seconds, clock = _ping(ctx, partner)
        _pull(ctx, partner)
        bandwidth = _push(ctx, partner)
    return Measured(seconds, bandwidth, clock)


def _ping(ctx: Context, partner: int) -> tuple[float, float]:
    """Median round-trip time, and the partner's clock against this one (Cristian 1989, doi:10.1007/BF01784024)."""
    mine, theirs = np.zeros(1), np.zeros(1)
    taken: list[tuple[float, float]] = []
    for _ in range(_WARM_PINGS + _PINGS):
        sent, began = time.time(), perf_counter()
        ctx.send(mine, partner)
        ctx.recv(theirs, partner)
        seconds = perf_counter() - began
        taken.append((seconds, float(theirs[0]) - (sent + seconds / 2)))
    taken = taken[_WARM_PINGS:]
    return statistics.median(seconds for seconds, _ in taken), min(taken)[1]


def _answer(ctx: Context, partner: int) -> None:
    stamp = np.zeros(1)
    for _ in range(_WARM_PINGS + _PINGS):
        ctx.recv(stamp, partner)
        stamp[0] = time.time()
        ctx.send(stamp, partner)


def _push(ctx: Context, partner: int) -> float:
    """Bandwidth of the largest of some messages, each four times the one before."""
    nbytes, seconds = _FIRST_NBYTES, 0.0
    done = np.zeros(0)
    while True:
        block = np.ones(nbytes, np.uint8)
        ctx.send(np.array([nbytes]), partner)
        ctx.recv(done, partner)  # it has its array ready
        began = perf_counter()
        ctx.send(block, partner)
        ctx.recv(done, partner)
        seconds = perf_counter() - began
        if seconds >= _ENOUGH_SECONDS or nbytes >= _LARGEST_NBYTES:
            break
        nbytes *= 4
    ctx.send(np.array([0]), partner)
    return nbytes / seconds


def _pull(ctx: Context, partner: int) -> None:
    announced, done = np.zeros(1, np.int64), np.zeros(0)
    while True:
        ctx.recv(announced, partner)
        if not announced[0]:
            return
        block = np.ones(int(announced[0]), np.uint8)  # touched: no page faults while it is timed
        ctx.send(done, partner)
        ctx.recv(block, partner)
        ctx.send(done, partner)


def measure_all(
    ctx: Context,
    all_rounds: list[list[tuple[int, int]]],
    connected: Callable[[int, int], bool],
    found: dict[int, Measured],
    progress: Callable[[int, int], None],
) -> None:
    """Measure this rank's pairs, in turn with all others'.

    Parameters
    ----------
    all_rounds : list of list of (int, int)
        Pairs of ranks that are measured at the same time; no rank is twice in one of the lists.
    connected : callable
        Whether two ranks are, alike on all of them.
    found : dict
        Receives what was measured, by partner, the better of several; what was found before an error stays in it.
    progress : callable
        Told how many rounds of how many are done.

    Raises
    ------
    GloompiError
        A partner was lost or late.
    """
    for number, pairs in enumerate(all_rounds):
        progress(number, len(all_rounds))
        for one, other in pairs:
            if ctx.rank in (one, other) and connected(one, other):
                partner = other if ctx.rank == one else one
                measured = measure_pair(ctx, partner)
                found[partner] = max(found.get(partner, measured), measured, key=lambda each: each.bandwidth)
    progress(len(all_rounds), len(all_rounds))
