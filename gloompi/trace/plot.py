"""The calls of all ranks as a picture (package matplotlib)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from .files import Member, RankTrace
from .lateness import Arrival

__all__ = ["check_format", "plot"]

_COLOURS = "tab20"
# Labels are left out when there are more ranks than this.
_MAX_LABELS = 40


def check_format(path: str) -> None:
    """Raise ValueError if matplotlib has no format for the ending of `path`."""
    if Path(path).suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ValueError(f"no picture can be written to {path!r}: its name must end in .png, .svg or .pdf")


def plot(traces: Sequence[RankTrace], found: Sequence[Arrival], path: str) -> None:
    """Write a picture: above, what each rank was in, and when; below, how late the last rank came to each collective.

    Parameters
    ----------
    path : str
        Its ending says the format: .png, .svg, .pdf.
    """
    figure = Figure(figsize=(13, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    members = sorted({trace.member for trace in traces})
    origin = min(event.start for trace in traces for event in trace.events)
    _timeline(above, traces, origin, members)
    _lateness(below, found, origin, members)
    below.set_xlabel("seconds since the first call")
    figure.savefig(path, dpi=120)


def _timeline(axes: Any, traces: Sequence[RankTrace], origin: float, members: Sequence[Member]) -> None:
    rows = {member: row for row, member in enumerate(members)}
    names = sorted({event.operation for trace in traces for event in trace.events})
    colours = matplotlib.colormaps[_COLOURS]
    for index, name in enumerate(names):
        label: str | None = name
        for trace in traces:
            bars = [(event.start - origin, event.end - event.start) for event in trace.events if event.operation == name]
            if bars:
                place = (rows[trace.member] - 0.4, 0.8)
                # A wider edge hides the gaps between calls, none the calls that are shorter than a pixel.
                axes.broken_barh(bars, place, color=colours(index % 20), linewidth=0.4, label=label)
                label = None
    if len(members) <= _MAX_LABELS:
        axes.set_yticks(range(len(members)), [f"{member.rank} ({member.host})" for member in members])
    axes.set_ylim(len(members) - 0.4, -0.6)
    axes.set_ylabel("rank")
    axes.set_title("inside calls")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _lateness(axes: Any, found: Sequence[Arrival], origin: float, members: Sequence[Member]) -> None:
    colours = matplotlib.colormaps["tab10"]
    for index, member in enumerate(members):
        late = [arrival for arrival in found if arrival.last == member]
        if late:
            moments = [arrival.starts[member] - origin for arrival in late]
            heights = [1e3 * arrival.late for arrival in late]
            axes.plot(moments, heights, "o", ms=4, color=colours(index % 10), label=f"rank {member.rank}")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(0, max([1.0, *(3e3 * arrival.late for arrival in found)]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=True, alpha=0.3)
    axes.set_ylabel("ms after the others' median")
    axes.set_title("the last rank of each collective")
    if found and len(members) <= _MAX_LABELS:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
