"""The command ``python -m gloompi trace``."""

from __future__ import annotations

import argparse
import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ..files import open_file, open_folder, write_all
from ..reports import counted, picture
from ..stores.remote import extra
from .files import Event, RankTrace, context_name, read_traces
from .lateness import Arrival, Late, absences, aligned, arrivals, collectives, latecomers
from .merge import MERGED, merge

__all__ = ["main"]

# Ranks and calls that are listed.
_MOST = 10

_MERGED = "trace.json"

# Who is late by less, in the median of the calls that it came last to, is as late as anybody.
_PUNCTUAL_SECONDS = 1e-3


def main(arguments: list[str]) -> int:
    """Merge the traces in a folder, and say who came late; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.plot is not None:
            with extra("trace", "--plot"):
                from .plot import plot
        traces = aligned(read_traces(options.folder))
        if not any(trace.events for trace in traces):
            raise ValueError(f"the traces in {options.folder} have no calls")
        found = arrivals(traces)
        merged = merge(traces)
        path = options.output or options.folder / _MERGED
        if options.output:
            path.write_text(merged, encoding="utf-8")
        else:
            _replace(path, merged.encode())
        print(_report(traces, found))
        print(f"\nAll ranks are in {path}: open it at https://ui.perfetto.dev or in chrome://tracing.")
        if options.plot is not None:
            plot(traces, found, options.plot)
    except (OSError, ValueError, ImportError) as exc:
        print(f"gloompi trace: {exc}", file=sys.stderr)
        return 1
    return 0


def _replace(path: Path, content: bytes) -> None:
    """Write a file of this user's own, in the place of a merged trace, or of a link that others have made of its name."""
    with open_folder(path.parent) as folder:
        with suppress(FileNotFoundError):
            _check_merged(path.name, folder)
            os.unlink(path.name, dir_fd=folder)
        with open_file(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder) as fd:
            write_all(fd, content)


def _check_merged(name: str, folder: int) -> None:
    """Raise unless what has the name of the merged trace is one: other programs call theirs so too."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode) and found.st_uid != os.geteuid():
        return
    with open_file(name, os.O_RDONLY, folder, anybodys=True) as fd:
        if os.read(fd, len(MERGED)) != MERGED.encode():
            text = "no trace that gloompi has merged, and left as it is; -o FILE takes another name"
            raise FileExistsError(errno.EEXIST, text, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gloompi trace",
        description="Merge what a job has written with GLOOMPI_TRACE=FOLDER, and name the rank that came late.",
    )
    parser.add_argument("folder", type=Path, help="what GLOOMPI_TRACE named")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the merged trace (default: FOLDER/trace.json)")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw it: .png, .svg or .pdf (needs matplotlib)")
    return parser


def _report(traces: Sequence[RankTrace], found: Sequence[Arrival]) -> str:
    members = {trace.member for trace in traces}
    contexts = 1 + max(trace.context for trace in traces)
    calls = sum(len(trace.events) for trace in traces)
    whole = f" of {traces[0].member.size}" if contexts == 1 else f" in {contexts} Contexts"
    together = sum(len(each) > 1 for each in collectives(traces))
    lines = [f"{counted(len(members), 'rank')}{whole}, {counted(calls, 'call')}, {counted(together, 'collective')}"]
    lines += [text for context in range(contexts) for text in _missing(traces, context, contexts)][:_MOST]
    several = len({event.context for trace in traces for event in trace.events}) > 1
    lines += _failures(traces, several)
    rows = latecomers(found)
    if rows:
        lines += ["", f"{'rank':>6}{'calls':>9}{'last':>9}{'median':>11}{'worst':>11}{'total':>11}   late by, ms"]
        lines += [_row(row, contexts) for row in rows[:_MOST]]
        lines += ["", _verdict(rows[0], len(found)), "", "The longest waits:"]
        worst = sorted(found, key=lambda arrival: -arrival.late)[:_MOST]
        lines += [f"  {_named(each, several)}: {each.last} came {1e3 * each.late:.3f} ms late" for each in worst]
    return "\n".join(lines)


def _named(call: Event | Arrival, several: bool) -> str:
    """What a call is called; with its Context, where there are several, each of which counts its own."""
    return f"{call.name} of {context_name(call.context)}" if several else call.name


def _missing(traces: Sequence[RankTrace], context: int, contexts: int) -> list[str]:
    members = [trace.member for trace in traces if trace.context == context]
    there = {member.rank for member in members}
    # A size may be any number: no more is counted than is listed.
    missing = list(islice((rank for rank in range(members[0].size) if rank not in there), _MOST + 1))
    if not missing:
        return []
    where = f"Context {context}: no" if contexts > 1 else "No"
    return [f"{where} trace of rank {', '.join(map(str, missing[:_MOST]))}{' and others' * (len(missing) > _MOST)}."]


def _failures(traces: Sequence[RankTrace], several: bool) -> list[str]:
    failed = [(trace.member, event) for trace in traces for event in trace.events if event.state != "done"]
    lines = [f"{member}: {_named(event, several)} ended with {event.state}" for member, event in failed[:_MOST]]
    for member, (name, last) in list(absences(traces, lambda event: _named(event, several)).items())[:_MOST]:
        own = f"its last call is {last}" if last else "it has no call at all"
        lines.append(f"{member} never came to {name}, as far as its trace goes: {own}")
    return lines


def _row(row: Late, contexts: int) -> str:
    who = f"   {row.member}" if contexts > 1 else ""
    return (
        f"{row.member.rank:>6}{row.calls:>9}{row.times_last:>9}"
        f"{1e3 * row.typical:>11.3f}{1e3 * row.worst:>11.3f}{1e3 * row.total:>11.1f}{who}"
    )


def _verdict(row: Late, calls: int) -> str:
    if row.typical < _PUNCTUAL_SECONDS:
        return "No rank is late as a rule."
    often = f"last to {row.times_last} of {counted(calls, 'collective')}, typically by {1e3 * row.typical:.1f} ms"
    return f"{row.member} came late: {often}; the others waited {row.total:.3f} s for it"
