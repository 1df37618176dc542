"""The pairs of an examination as heat maps (package matplotlib)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .examination import Examination

__all__ = ["plot"]

# Labels and numbers are left out when there are more ranks than this.
_MAX_LABELS, _MAX_NUMBERS = 40, 12
# Colours span at least this factor: what differs by less looks alike.
_LEAST_SPAN = 4.0


def plot(exam: Examination, path: str) -> None:
    """Write a picture: bandwidth from row to column, and round-trip time; pairs that are not connected are hatched.

    Parameters
    ----------
    path : str
        Its ending says the format: .png, .svg, .pdf.
    """
    matplotlib.use("Agg")
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _heat_map(left, exam, exam.bandwidth, 1e-6, "bandwidth from row to column, MB/s", "viridis")
    _heat_map(right, exam, exam.round_trip, 1e6, "round trip of 8 bytes, us", "viridis_r")
    more = f" and {len(exam.hosts) - 6} more" if len(exam.hosts) > 6 else ""
    ranks = f"ranks 0 to {exam.size - 1}" if exam.size > 1 else "rank 0"
    hatched = "" if exam.complete else "; hatched: not connected"
    figure.suptitle(f"{ranks} on {', '.join(exam.hosts[:6])}{more}{hatched}")
    figure.savefig(path, dpi=120)


def _span(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest value, further apart if they are close."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    wider = max(1.0, (_LEAST_SPAN * low / high) ** 0.5)
    return low / wider, high * wider


def _heat_map(
    axes: Any, exam: Examination, value: Callable[[int, int], float | None], scale: float, title: str, colours: str
) -> None:
    size = exam.size
    values = np.full((size, size), np.nan)
    for one in range(size):
        for other in range(size):
            found = value(one, other) if one != other else None
            if found:
                values[one, other] = found * scale
    axes.set_title(title)
    axes.set_xlabel("rank")
    axes.set_ylabel("rank")
    axes.set_facecolor("white")
    if not np.isnan(values).all():
        image = axes.imshow(values, cmap=colours, norm=LogNorm(*_span(values)))
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
        bar.ax.yaxis.set_major_formatter("{x:.0f}")
        bar.ax.yaxis.set_minor_formatter(lambda x, _: f"{x:.0f}" if f"{x:.0e}"[0] in "25" else "")
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_aspect("equal")
    for one in range(size):
        for other in range(size):
            if one != other and not exam.connected(one, other):
                axes.add_patch(
                    matplotlib.patches.Rectangle((other - 0.5, one - 0.5), 1, 1, fill=False, hatch="xx", color="red")
                )
            elif size <= _MAX_NUMBERS and not np.isnan(values[one, other]):
                text = f"{values[one, other]:.0f}"
                axes.text(
                    other, one, text, ha="center", va="center", size=8, bbox={"color": "white", "alpha": 0.6, "pad": 1}
                )
    for boundary in range(1, size):
        if exam.host(boundary) != exam.host(boundary - 1):
            axes.axhline(boundary - 0.5, color="black", linewidth=1)
            axes.axvline(boundary - 0.5, color="black", linewidth=1)
    if size <= _MAX_LABELS:
        axes.set_xticks(range(size))
        labels = [
            exam.who(rank).removeprefix("rank ") if rank in exam.ranks(exam.host(rank))[:1] else str(rank)
            for rank in range(size)
        ]
        axes.set_yticks(range(size), labels)
