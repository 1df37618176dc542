"""All ranks in one file for Perfetto and chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import RankTrace

__all__ = ["merge"]


def merge(traces: Sequence[RankTrace], path: Path) -> None:
    """Write the calls of all ranks, a process for each rank and a thread for each Context."""
    contexts = sorted({event.context for trace in traces for event in trace.events})
    thread = {context: index for index, context in enumerate(contexts)}
    events: list[dict[str, Any]] = []
    for trace in {trace.rank: trace for trace in reversed(traces)}.values():
        name = f"rank {trace.rank} of {trace.size} ({trace.host}, pid {trace.pid})"
        events.append({"name": "process_name", "ph": "M", "pid": trace.rank, "args": {"name": name}})
        events.append({"name": "process_sort_index", "ph": "M", "pid": trace.rank, "args": {"sort_index": trace.rank}})
        for context, index in thread.items():
            name = f"Context {context[0]}" + (f", child {context[1]:x}" if context[1] else "")
            events.append({"name": "thread_name", "ph": "M", "pid": trace.rank, "tid": index, "args": {"name": name}})
    for trace in traces:
        events += [
            {
                "name": event.name,
                "cat": "collective" if event.number else "message",
                "ph": "X",
                "ts": round(event.start * 1e6, 1),
                "dur": round((event.end - event.start) * 1e6, 1),
                "pid": trace.rank,
                "tid": thread[event.context],
                "args": event.facts,
            }
            for event in trace.events
        ]
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
