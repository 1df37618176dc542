"""Lines as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from .line import Line

__all__ = ["to_csv", "to_json"]

_COLUMNS = (
    *("operation", "ranks", "transport", "algorithm", "dtype", "op", "nbytes", "calls", "candidate"),
    *("median_seconds", "p99_seconds", "ratio", "bandwidth", "bus_bandwidth"),
)


def to_json(facts: dict[str, Any], lines: Iterable[Line], used: dict[str, str], notes: list[str]) -> str:
    """One document: the facts of the heading, `lines`, `notes`; seconds and bytes per second."""
    listed = [{**line.to_json(), "used_transport": used.get(line.transport, "none")} for line in lines]
    return json.dumps({**facts, "lines": listed, "notes": notes}, indent=2)


def to_csv(facts: dict[str, Any], lines: Iterable[Line]) -> str:
    """A row for each candidate of each line; the ratio is in the rows of peers, bandwidths are in gloompi's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        way = (line.operation, line.ranks, line.transport, line.algorithm)
        start = (*way, facts["dtype"], facts["op"], line.nbytes, line.calls)
        rates = ("" if rate is None else rate for rate in (line.bandwidth, line.bus_bandwidth))
        writer.writerow((*start, "gloompi", line.own.median, line.own.p99, "", *rates))
        for name, times in line.peers.items():
            writer.writerow((*start, name, times.median, times.p99, line.ratio(name), "", ""))
    return text.getvalue()
