"""All ranks in one file for Perfetto and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..engine.trace import Lanes, event, microseconds, note
from .files import Event, Member, RankTrace, context_name

__all__ = ["MERGED", "merge"]

MERGED = '{"otherData": {"program": "gloompi trace"}, '
"""What the text of a merged trace begins with, and no other program's does."""


def merge(traces: Sequence[RankTrace]) -> str:
    """Return the calls of all ranks as the text of a file, a process for each rank and a thread for each Context.

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
    return MERGED + json.dumps({"traceEvents": found, "displayTimeUnit": "ms"})[1:]


def _process(member: Member, process: int, events: Sequence[Event], origin: float) -> list[dict[str, Any]]:
    name = f"rank {member.rank} of {member.size} ({member.host}, pid {member.pid})"
    found = [
        note("process_name", process, 0, name=name),
        note("process_sort_index", process, 0, sort_index=process),
    ]
    lanes: dict[tuple[int, str], Lanes] = {}
    threads: dict[tuple[tuple[int, str], int], int] = {}
    for call in sorted(events, key=lambda call: call.end):
        start, end = (microseconds(seconds - origin) for seconds in (call.start, call.end))
        lane = lanes.setdefault(call.context, Lanes()).lane(start, end)
        thread = threads.setdefault((call.context, lane), len(threads))
        found.append(event(call.name, call.number, start, end, process, thread, call.facts))
    for (context, lane), thread in threads.items():
        found.append(note("thread_name", process, thread, name=context_name(context) + (", overlapping" if lane else "")))
    return found
