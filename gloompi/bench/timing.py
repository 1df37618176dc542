"""Candidates called in turn: how often, how long, and whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ..context import Context
from ..errors import GloompiError
from .candidate import Candidate, Unsupported, Work
from .case import Buffers, Case

__all__ = ["Entrant", "WrongResultError", "affordable_calls", "enter", "time_in_turn"]

# Calls of each candidate that are timed. Fewer have no median; more do not change it.
_LEAST_CALLS, _MOST_CALLS = 5, 1000
# Untimed calls: so many to estimate with, then this part of those that follow.
_TRIALS = 3
_WARM_PART = 10

Array = np.ndarray[Any, np.dtype[Any]]


class WrongResultError(Exception):
    """A candidate's result is not what NumPy computes."""


@dataclass(frozen=True)
class Entrant:
    """A candidate with the work that it is timed with."""

    candidate: Candidate
    work: Work


def enter(ctx: Context, candidate: Candidate, case: Case, buffers: Buffers) -> Entrant | str:
    """Let a candidate do its work once and check the results on all ranks; collective.

    Returns
    -------
    Entrant or str
        Why it cannot take part, if it cannot: the same on all ranks.

    Raises
    ------
    WrongResultError
        The result is wrong on some rank; raised on all of them.
    GloompiError
        gloompi itself failed.
    """
    failure = fault = None
    work: Work | None = None
    ctx.barrier()
    try:
        work = candidate.work(case, buffers)
        case.fill(ctx.rank, buffers)
        work.prepare()
        candidate.barrier()
        work.run()
        fault = case.fault(ctx.rank, buffers) if work.exact else None
    except GloompiError:
        raise
    except Unsupported as exc:
        failure = str(exc)
    except Exception as exc:  # what other libraries raise, for dtypes that they do not know in most cases
        if candidate.name == "gloompi":
            raise
        failure = f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0]}"
    told: list[tuple[str | None, str | None]] = ctx.allgather_object((failure, fault))
    failures = [each for each, _ in told if each is not None]
    if failures or work is None:
        return failures[0]
    for rank, (_, wrong) in enumerate(told):
        if wrong is not None:
            raise WrongResultError(
                f"{candidate.name}: {case.operation} of {case.nbytes} bytes, {case.dtype}, gave rank {rank} of {case.size} "
                f"a wrong result: {wrong}; times of wrong results are worth nothing, so nothing more is measured"
            )
    return Entrant(candidate, work)


def time_in_turn(ctx: Context, entrants: Sequence[Entrant], budget: float, streak: int = 1) -> Array:
    """Call all entrants in turn, each call behind a barrier of the entrant's own; collective.

    After each turn the ranks meet in a barrier of gloompi's.  There a rank that is done early sleeps, where it would spin in
    MPI's and take the core of a rank that is still at work for another candidate.

    Parameters
    ----------
    budget : float
        Seconds for all of them together; at least 5 calls each, at most 1000.
    streak : int
        Calls of an entrant in one turn.

    Returns
    -------
    ndarray, shape (entrants, calls)
        Seconds of the slowest rank of each call.  On rank 0; on the others, their own.
    """
    steps = [(entrant.candidate.barrier, entrant.work.run) for entrant in entrants]
    meet = ctx.barrier

    def call(count: int) -> Array:
        times = np.zeros((len(steps), count))
        for first in range(0, count, streak):
            for index, (barrier, run) in enumerate(steps):
                for number in range(first, min(first + streak, count)):
                    barrier()
                    start = perf_counter()
                    run()
                    times[index, number] = perf_counter() - start
                meet()
        return times

    call(1)
    start = perf_counter()
    call(_TRIALS)
    calls = ctx.broadcast(np.array([affordable_calls((perf_counter() - start) / _TRIALS, budget)]))[0]
    call(int(calls) // _WARM_PART)
    times = call(int(calls))
    slowest: Array | None = ctx.reduce(times, op="max")
    return times if slowest is None else slowest


def affordable_calls(seconds: float, budget: float) -> int:
    """How often all candidates can be called if one round of them takes `seconds`."""
    return int(min(max(budget / max(seconds, 1e-9), _LEAST_CALLS), _MOST_CALLS))
