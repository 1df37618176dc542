"""Slopes: cliffs measured at several counts, on gloompi and on MPI in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..context import Context
from ..transport.device import Device
from .cliffs import CLIFFS, Cliff, Side
from .options import Options
from .timing import WrongResultError

__all__ = ["Slope", "measure_cliffs", "text"]


@dataclass(frozen=True)
class Slope:
    """One cliff, measured at several counts.

    Attributes
    ----------
    cliff : Cliff
    counts : list of int
    taken : dict of str to list of float
        By side, "gloompi" and "mpi", seconds or bytes for each count.
    """

    cliff: Cliff
    counts: list[int]
    taken: dict[str, list[float]]

    def slope(self, side: str) -> float | None:
        """That of the line through the points on logarithmic axes: 1 is linear, 2 quadratic; None of a single point."""
        if len(self.counts) < 2:
            return None
        slope, _ = np.polyfit(np.log(self.counts), np.log(np.maximum(self.taken[side], 1e-9)), 1)
        return float(slope)

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it; seconds or bytes."""
        cliff = self.cliff
        about = {"name": cliff.name, "noun": cliff.noun, "unit": cliff.unit, "counts": self.counts}
        return {**about, "taken": self.taken, "slopes": {side: self.slope(side) for side in self.taken}}


def measure_cliffs(
    comm: Any, options: Options, report: Callable[[Slope], None], advance: Callable[[str], None]
) -> list[Slope]:
    """Measure all cliffs; collective over an MPI communicator of at least two ranks.

    Parameters
    ----------
    report : callable
        Given each slope as soon as it is there.
    advance : callable
        Told what is measured next.

    Raises
    ------
    WrongResultError
        A result is wrong on some rank; raised on all of them.
    GloompiError
        The ranks could not connect, or lost each other.
    """
    from ..facade.intracomm import Intracomm  # brings MPI
    from ..facade.requests import Request

    slopes, failure = [], None
    with Context.from_mpi(comm, device=Device(transport=options.transports[0]), timeout=None) as ctx, ctx.dup() as own:
        sides = [Side("gloompi", Intracomm._of(own), Request, ctx.barrier, ctx)]
        if "mpi" in options.peers:
            from mpi4py import MPI

            sides.append(Side("mpi", comm, MPI.Request, ctx.barrier, ctx))
        try:
            for cliff in CLIFFS:
                advance(cliff.name)
                slopes.append(_measure(ctx, sides, cliff, options))
                report(slopes[-1])
        except WrongResultError as exc:
            failure = exc  # known to all ranks: the Contexts are closed, not aborted
    if failure is not None:
        raise failure
    return slopes


def _measure(ctx: Context, sides: Sequence[Side], cliff: Cliff, options: Options) -> Slope:
    """The best of some times of each side, in turn."""
    counts = list(dict.fromkeys(max(2, count // cliff.part) for count in options.counts))
    sides = [side for side in sides if cliff.mpi or side.name == "gloompi"]
    taken = {side.name: [float("inf")] * len(counts) for side in sides}
    for _ in range(options.repeats):
        for index, count in enumerate(counts):
            for side in sides:
                taken[side.name][index] = min(taken[side.name][index], _run(ctx, side, cliff, count))
    return Slope(cliff, counts, taken)


def _run(ctx: Context, side: Side, cliff: Cliff, count: int) -> float:
    """Run a program once; the largest of what the ranks say."""
    ctx.barrier()
    value, fault = 0.0, None
    try:
        value = cliff.program(side, count)
    except WrongResultError as exc:
        fault = str(exc)
    told: list[tuple[float, str | None]] = ctx.allgather_object((value, fault))
    for rank, (_, wrong) in enumerate(told):
        if wrong is not None:
            raise WrongResultError(f"{side.name}: {cliff.name}, {count} {cliff.noun}, rank {rank} of {ctx.size}: {wrong}")
    return max(value for value, _ in told)


def text(slope: Slope) -> str:
    """A section of a table."""
    cliff, sides = slope.cliff, list(slope.taken)
    heads = "".join(f"{side:>12}" for side in sides) + f"{'ratio':>9}" * (len(sides) > 1)
    lines = [cliff.name, f"{cliff.noun:>12}{heads}"]
    for index, count in enumerate(slope.counts):
        values = [slope.taken[side][index] for side in sides]
        line = f"{count:>12}" + "".join(f"{_value(value, cliff.unit):>12}" for value in values)
        lines.append(line + "".join(f"{values[0] / value:>9.2f}" for value in values[1:]))
    found = [slope.slope(side) for side in sides]
    return "\n".join([*lines, f"{'slope':>12}" + "".join(f"{each:>12.2f}" for each in found if each is not None)])


def _value(value: float, unit: str) -> str:
    """Seconds or bytes."""
    if unit == "B":
        return f"{value / (1 << 20):.2f} MiB"
    return f"{value * 1e6:.1f} us" if value < 1e-3 else f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.3f} s"
