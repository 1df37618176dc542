"""All ranks in one file for Perfetto and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.trace import Lanes
from .files import Event, Member, RankTrace

__all__ = ["merge"]


def merge(traces: Sequence[RankTrace], path: Path) -> None:
    """Write the calls of all ranks, a process for each rank and a thread for each Context.

    Where calls of a Context overlap there are more threads, and times count from the first call: small numbers are exact.
    """
    calls: dict[Member, list[Event]] = {}
    for trace in traces:
        calls.setdefault(trace.member, []).extend(trace.events)
    origin = min((event.start for events in calls.values() for event in events), default=0.0)
    unique = len({member.rank for member in calls}) == len(calls)
    found: list[dict[str, Any]] = []
    for index, member in enumerate(sorted(calls)):
        found += _process(member, member.rank if unique else index, calls[member], origin)
    path.write_text(json.dumps({"traceEvents": found, "displayTimeUnit": "ms"}), encoding="utf-8")


def _process(member: Member, process: int, events: Sequence[Event], origin: float) -> list[dict[str, Any]]:
    name = f"rank {member.rank} of {member.size} ({member.host}, pid {member.pid})"
    found = [
        _note("process_name", process, 0, name=name),
        _note("process_sort_index", process, 0, sort_index=process),
    ]
    lanes: dict[tuple[int, str], Lanes] = {}
    threads: dict[tuple[tuple[int, str], int], int] = {}
    for event in sorted(events, key=lambda event: event.end):
        # Both are rounded, and not their difference: what does not overlap must not by rounding.
        start, end = (round((seconds - origin) * 1e6, 1) for seconds in (event.start, event.end))
        lane = lanes.setdefault(event.context, Lanes()).lane(start, end)
        thread = threads.setdefault((event.context, lane), len(threads))
        found.append(
            {
                "name": event.name,
                "cat": "collective" if event.number else "message",
                "ph": "X",
                "ts": start,
                "dur": round(end - start, 1),
                "pid": process,
                "tid": thread,
                "args": event.facts,
            }
        )
    for (context, lane), thread in threads.items():
        text = f"Context {context[0]}" + (f", child {context[1]}" if context[1] else "") + (", overlapping" if lane else "")
        found.append(_note("thread_name", process, thread, name=text))
    return found


def _note(kind: str, process: int, thread: int, **facts: object) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": facts}
