"""Lines as a picture: time and bandwidth against size (package matplotlib)."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from ..reports import counted
from .line import Line
from .slope import Slope
from .table import size_text

__all__ = ["plot", "plot_slopes"]

# One look for each peer in all panels; gloompi's transports and algorithms follow in order, solid and with dots.
_PEERS = {"mpi": ("MPI", "tab:orange", "s"), "gloo": ("torch gloo", "tab:green", "^"), "limit": ("limit", "0.45", "x")}
_OWN = ("tab:blue", "tab:red", "tab:purple", "tab:cyan", "tab:pink", "tab:brown", "tab:olive", "black")
_ROW_INCHES = 3.3
_MAX_TICKS = 9


def plot(lines: list[Line], heading: str, path: str) -> None:
    """Write a picture with a row for each operation and number of ranks.

    Parameters
    ----------
    heading : str
        What was measured where.
    path : str
        Its ending says the format: .png, .svg, .pdf.
    """
    matplotlib.use("Agg")
    rows: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        if line.nbytes:  # a barrier has no size to draw it against
            rows.setdefault((line.operation, line.ranks), []).append(line)
    figure = Figure(figsize=(12, 0.7 + _ROW_INCHES * max(1, len(rows))), layout="constrained")
    figure.suptitle(heading, size=9)
    panels = figure.subplots(max(1, len(rows)), 2, squeeze=False)
    for (left, right), ((operation, ranks), each) in zip(panels, rows.items(), strict=False):
        title = f"{operation}, {counted(ranks, 'rank')}"
        _panel(left, each, f"{title}: median time", "us", lambda nbytes, median: median * 1e6)
        _panel(right, each, f"{title}: bandwidth", "GB/s", lambda nbytes, median: nbytes / median / 1e9)
        left.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def plot_slopes(slopes: list[Slope], heading: str, path: str) -> None:
    """Write a picture with a panel for each cliff; as `plot`."""
    matplotlib.use("Agg")
    rows = -(-len(slopes) // 2)
    figure = Figure(figsize=(12, 0.7 + _ROW_INCHES * rows), layout="constrained")
    figure.suptitle(heading, size=9)
    panels = iter(figure.subplots(rows, 2, squeeze=False).flat)
    for slope in slopes:
        _slope_panel(next(panels), slope)
    for empty in panels:
        empty.set_visible(False)
    figure.savefig(path, dpi=120)


def _slope_panel(axes: Any, slope: Slope) -> None:
    counts, own = slope.counts, slope.taken["gloompi"]
    axes.set_title(slope.cliff.name, size=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(slope.cliff.noun, size=8)
    axes.set_ylabel("bytes" if slope.cliff.unit == "B" else "seconds", size=8)
    axes.grid(True, which="major", alpha=0.4)
    axes.plot(counts, [own[0] * count / counts[0] for count in counts], color="0.8", linewidth=1, label="linear")
    for side, taken in slope.taken.items():
        name, colour, marker = _PEERS.get(side, (side, _OWN[0], "o"))
        rise = slope.slope(side)
        name += "" if rise is None else f", slope {rise:.2f}"
        axes.plot(counts, taken, label=name, color=colour, marker=marker, markersize=4)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(map(str, counts), size=8)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)


def _panel(axes: Any, lines: list[Line], title: str, unit: str, value: Any) -> None:
    axes.set_title(title, size=10)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylabel(unit)
    axes.grid(True, which="major", alpha=0.4)
    for (name, colour, marker, style), points in _curves(lines).items():
        points.sort()
        sizes = [nbytes for nbytes, _ in points]
        axes.plot(
            sizes, [value(*each) for each in points], label=name, color=colour, marker=marker, linestyle=style, markersize=4
        )
    sizes = sorted({line.nbytes for line in lines})
    shown = sizes[:: -(-len(sizes) // _MAX_TICKS)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([size_text(nbytes) for nbytes in shown], size=8)


def _curves(lines: list[Line]) -> dict[tuple[str, str, str, str], list[tuple[int, float]]]:
    """Points of each candidate; a peer that was measured beside several of gloompi's ways has its points once."""
    ways = list(dict.fromkeys((line.transport, line.algorithm) for line in lines))
    transports = {transport for transport, _ in ways}
    found: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for line in lines:
        number = ways.index((line.transport, line.algorithm))
        name = " ".join(["gloompi", *([line.transport] * (len(transports) > 1)), *([line.algorithm] * _varies(ways))])
        look = (name, _OWN[number % len(_OWN)], "o", "-")
        found.setdefault(look, {})[line.nbytes] = line.own.median
        for peer, times in line.peers.items():
            label, colour, marker = _PEERS[peer]
            # The limit is that of one transport.
            label += f" {line.transport}" * (peer == "limit" and len(transports) > 1)
            style = ("--", ":", "-.")[sorted(transports).index(line.transport) if peer == "limit" else 0]
            found.setdefault((label, colour, marker, style), {}).setdefault(line.nbytes, times.median)
    own_first = sorted(found, key=lambda look: look[2] != "o")
    return {look: list(found[look].items()) for look in own_first}


def _varies(ways: list[tuple[str, str]]) -> bool:
    return len({algorithm for _, algorithm in ways}) > 1
