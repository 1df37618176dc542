"""What a folder of traces holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Event", "RankTrace", "read_traces"]

_NAME = re.compile(r"context(\d+)-rank(\d+)\.json")


class Event(NamedTuple):
    """A call of one rank.

    Attributes
    ----------
    context : tuple of int
        Which `Context.from_...` of the program, and which of its children; the same on all ranks.
    name : str
        ``"allreduce #17"``.
    number : int
        Of a collective; 0 for a message.
    start, end : float
        Seconds since the epoch, by the clock of the rank's host.
    facts : dict
        The other attributes of a `gloompi.CallRecord`.
    """

    context: tuple[int, int]
    name: str
    number: int
    start: float
    end: float
    facts: dict[str, Any]


class RankTrace(NamedTuple):
    """All calls of one rank of one Context and its children.

    Attributes
    ----------
    rank, size, pid : int
    host : str
    host_id : str
        The same for the ranks of one host.
    events : list of Event
    """

    rank: int
    size: int
    host: str
    host_id: str
    pid: int
    events: list[Event]


def read_traces(folder: Path) -> list[RankTrace]:
    """Read the traces of all ranks, those of the first Context first.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        A file is not what gloompi writes.
    """
    found = sorted(
        (int(match[1]), int(match[2]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))
    )
    if not found:
        raise FileNotFoundError(f"no traces in {folder}: run the job with GLOOMPI_TRACE={folder}")
    return [_read(path, number) for number, _, path in found]


def _read(path: Path, number: int) -> RankTrace:
    events: list[Event] = []
    who: dict[str, Any] | None = None
    try:
        for event in _lines(path):
            if event["name"] == "gloompi":
                who = event["args"]
            elif event["ph"] == "X":
                start = event["ts"] / 1e6
                facts = dict(event["args"])
                context = (number, event["tid"])
                events.append(Event(context, event["name"], facts.pop("number"), start, start + event["dur"] / 1e6, facts))
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{path} is not a trace of gloompi: {exc!r}") from exc
    if who is None:
        raise ValueError(f"{path} is not a trace of gloompi: it does not say whose")
    return RankTrace(who["rank"], who["size"], who["host"], who["host_id"], who["pid"], events)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for index, line in enumerate(lines):
        text = line.strip().rstrip(",")
        if text in ("", "[", "]"):
            continue
        try:
            event = json.loads(text)
        except ValueError as exc:
            if index == len(lines) - 1:
                return  # the rank was killed while it wrote
            raise ValueError(f"{path} is not a trace of gloompi: line {index + 1}: {exc}") from exc
        if not isinstance(event, dict):
            raise ValueError(f"{path} is not a trace of gloompi: line {index + 1}")
        yield event
