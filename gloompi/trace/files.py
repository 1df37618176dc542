"""What a folder of traces holds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ..files import open_file
from ..foreign import plain

__all__ = ["Event", "Member", "RankTrace", "context_name", "read_traces"]

_NAME = re.compile(r"gloompi-([0-9a-f]{16}-\d+)-rank\d+\.json")

# Characters of a name, and what no number is above.
_MOST, _LARGEST = 200, 2**63


class Member(NamedTuple):
    """Who a rank is; Contexts of the same ranks have the same members.

    Attributes
    ----------
    rank, size, pid : int
    host : str
    """

    rank: int
    size: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


class Event(NamedTuple):
    """A call of one rank.

    Attributes
    ----------
    context : tuple of int and str
        Which Context of the folder, in the order of their first calls, and which of its children, empty for itself.
    name : str
        ``"allreduce #17"``.
    number : int or None
        Of a collective, None if it has not begun; 0 for a message.
    start, end : float
        Seconds since the epoch, by the clock of the rank's host.
    facts : dict
        The other attributes of a `gloompi.CallRecord`.
    """

    context: tuple[int, str]
    name: str
    number: int | None
    start: float
    end: float
    facts: dict[str, Any]

    @property
    def operation(self) -> str:
        """``"allreduce"``."""
        return self.name.partition(" ")[0]

    @property
    def state(self) -> str:
        """``"done"``, or the name of an error."""
        return str(self.facts["state"])


def context_name(context: tuple[int, str]) -> str:
    """What the report and the merged trace call a Context: ``"Context 0, child 5d0c1f2a"``."""
    number, child = context
    return f"Context {number}, child {child}" if child else f"Context {number}"


class RankTrace(NamedTuple):
    """All calls of one rank of one Context and its children.

    Attributes
    ----------
    context : int
        Which Context of the folder.
    member : Member
    host_id : str
        The same for the ranks of one host.
    events : list of Event
    """

    context: int
    member: Member
    host_id: str
    events: list[Event]


def read_traces(folder: Path) -> list[RankTrace]:
    """Read the traces of all ranks, those of the first Context first, in the order of the ranks.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        A file is not what gloompi writes.
    """
    found: dict[str, list[RankTrace]] = {}
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            trace = _read(path)
            if trace is not None:
                found.setdefault(match[1], []).append(trace)
    if not found:
        raise FileNotFoundError(f"no traces in {folder}: run the job with GLOOMPI_TRACE={folder}")
    contexts = sorted(found.values(), key=_first)
    return [_numbered(trace, number) for number, traces in enumerate(contexts) for trace in sorted(traces, key=_rank)]


def _first(traces: list[RankTrace]) -> float:
    return min((event.start for trace in traces for event in trace.events), default=float("inf"))


def _rank(trace: RankTrace) -> int:
    return trace.member.rank


def _numbered(trace: RankTrace, number: int) -> RankTrace:
    events = [event._replace(context=(number, event.context[1])) for event in trace.events]
    return trace._replace(context=number, events=events)


def _read(path: Path) -> RankTrace | None:
    """The trace in a file; None if its rank came to write nothing."""
    events: list[Event] = []
    trace: RankTrace | None = None
    empty = True
    try:
        for event in _lines(path):
            empty = False
            if event["name"] == "gloompi":
                who = event["args"]
                rank, size, pid = (_integer(who, each) for each in ("rank", "size", "pid"))
                member = Member(rank, size, plain(str(who["host"]), _MOST), pid)
                trace = RankTrace(0, member, plain(str(who["host_id"]), _MOST), events)
            elif event["ph"] == "X":
                start, end = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
                if not (isfinite(start) and isfinite(end)):
                    raise ValueError("a call has no time")
                facts = dict(event["args"])
                facts["state"] = plain(str(facts["state"]), _MOST)
                number = None if facts["number"] is None else _integer(facts, "number")
                del facts["number"]
                context = 0, plain(str(facts.pop("context")), _MOST)
                events.append(Event(context, plain(str(event["name"]), _MOST), number, start, end, facts))
                _ = events[-1].state
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ValueError(f"{path} is not a trace of gloompi: {type(exc).__name__}: {exc}") from exc
    if trace is None and not empty:
        raise ValueError(f"{path} is not a trace of gloompi: it does not say whose")
    return trace


def _integer(fields: dict[str, Any], name: str) -> int:
    """A number that is shown and counted with: not a text, nor one of a thousand digits."""
    value = fields[name]
    if not isinstance(value, int) or abs(value) > _LARGEST:
        raise ValueError(f"its {name} is no number that a rank writes")
    return value


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_file(path, os.O_RDONLY, anybodys=True) as fd, open(fd, encoding="utf-8", closefd=False) as file:
        lines = file.read().split("\n")
    for index, line in enumerate(lines):
        text = line.strip().rstrip(",")
        if text in ("", "[", "]"):
            continue
        try:
            event = json.loads(text)
        except ValueError as exc:
            if index == len(lines) - 1:
                return  # the rank was killed, or the disk was full, while it wrote
            raise ValueError(f"line {index + 1}: {exc}") from exc
        if not isinstance(event, dict):
            raise ValueError(f"line {index + 1} is no event")
        yield event
