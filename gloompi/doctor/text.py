"""An examination as text for a terminal (package rich)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .examination import Examination
from .facts import Port
from .findings import Finding, Severity

__all__ = ["console", "print_examination"]

# Ranks whose pairs still fit side by side; with more, hosts stand for them.
_MAX_COLUMNS = 16
_PLAIN_WIDTH = 140
_STYLES = {Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}


def console(stderr: bool = False) -> Console:
    """A console that knows the terminal at the other end of mpiexec's pipe, if this host has it."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = None if stream.isatty() else _terminal_of_launcher(stream.fileno())
    if terminal is not None:
        return Console(stderr=stderr, force_terminal=True, width=terminal)
    return Console(stderr=stderr, width=None if stream.isatty() else _PLAIN_WIDTH, soft_wrap=not stream.isatty())


def _terminal_of_launcher(fd: int) -> int | None:
    """The width of the terminal that a parent of this process writes to; None if there is none."""
    import psutil

    try:
        for parent in psutil.Process().parents():
            path = os.readlink(f"/proc/{parent.pid}/fd/{fd}")
            if path.startswith("/dev/pts/"):
                with open(path, "rb") as terminal:
                    return os.get_terminal_size(terminal.fileno()).columns
    except (OSError, psutil.Error):
        return None
    return None


def print_examination(exam: Examination, findings: Iterable[Finding], out: Console) -> None:
    """Print the tables, then the findings."""
    first = exam.facts[0]
    software = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    out.print(f"{_count(exam.size, 'rank')} on {_count(len(exam.hosts), 'host')}; {software}", markup=False, highlight=False)
    launcher = first.launcher or "no launcher"
    job = "".join(f", {name}={value}" for name, value in {**first.job, **first.settings}.items())
    out.print(f"started by {launcher}{job}", markup=False, highlight=False)
    out.print(_hosts(exam))
    out.print(_ranks(exam))
    if exam.size > 1:
        out.print(_connections(exam))
    if any(exam.measured):
        out.print(_matrix(exam))
    for finding in findings:
        style = _STYLES[finding.severity]
        out.print(f"[{style}]{finding.severity.name.lower()}[/] ", end="")
        out.print(finding.text, markup=False, highlight=False)
        if finding.advice:
            out.print(f"        {finding.advice}", markup=False, highlight=False)
    if not any(finding.severity > Severity.NOTE for finding in findings):
        out.print("[green]nothing is wrong[/]")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _hosts(exam: Examination) -> Table:
    table = Table(title="hosts", title_justify="left")
    for column in ("host", "ranks", "cores", "interfaces", "somaxconn", "largest socket buffers"):
        table.add_column(column, overflow="fold")
    for host, name in enumerate(exam.hosts):
        ranks = exam.ranks(host)
        facts = exam.facts[ranks[0]]
        buffers = [f"{setting.rpartition('/')[2]} {value}" for setting, value in facts.buffers.items() if value]
        table.add_row(
            name,
            _ranges(ranks),
            str(facts.cores),
            escape("\n".join(_shown(port) for port in facts.interfaces)),
            str(facts.somaxconn),
            "\n".join(buffers),
        )
    return table


def _shown(port: Port) -> str:
    speed = f", {port.speed} Mbit/s" if port.speed else ""
    state = f", mtu {port.mtu}{speed}" if port.up else ", down"
    return f"{port.name}: {', '.join(port.addresses) or 'no address'}{state}"


def _ranges(ranks: list[int]) -> str:
    """Such as ``"0-3, 8"``."""
    ends: list[list[int]] = []
    for rank in ranks:
        if ends and ends[-1][1] == rank - 1:
            ends[-1][1] = rank
        else:
            ends.append([rank, rank])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ends)


def _ranks(exam: Examination) -> Table:
    table = Table(title="ranks", title_justify="left")
    for column in ("rank", "host", "pid", "listens on", "open files", "clock"):
        table.add_column(column, justify="right" if column in ("rank", "pid", "clock") else "left", overflow="fold")
    for facts in exam.facts:
        clock = exam.clock(facts.rank)
        listening = "[bold red]nothing[/]" if exam.failures[facts.rank] else escape(", ".join(exam.published[facts.rank]))
        table.add_row(
            str(facts.rank),
            exam.hosts[exam.host(facts.rank)],
            str(facts.pid),
            listening,
            f"{facts.open_files_used} of {_limit(facts.open_files)}, hard {_limit(facts.open_files_hard)}",
            "" if clock is None else f"{clock * 1e3:+.3f} ms",
        )
    return table


def _limit(number: int) -> str:
    return "unlimited" if number < 0 else str(number)


def _connections(exam: Examination) -> Table:
    """Between hosts: how, over which addresses, why, and how many pairs are missing."""
    table = Table(title="connections between hosts, and within them", title_justify="left")
    for column in ("from", "to", "pairs", "transport", "why", "round trip", "bandwidth"):
        table.add_column(column, justify="right" if column in ("round trip", "bandwidth") else "left", overflow="fold")
    wires = {(wire.one, wire.other): wire for wire in exam.wires()}
    for here in range(len(exam.hosts)):
        for there in range(here, len(exam.hosts)):
            pairs = [pair for pair in exam.pairs() if {exam.host(pair[0]), exam.host(pair[1])} == {here, there}]
            if not pairs:
                continue
            connected = [pair for pair in pairs if exam.connected(*pair)]
            ways = sorted({exam.outcomes[other][one].transport for one, other in connected})
            why = sorted({exam.outcomes[other][one].why for one, other in connected})
            count = str(len(pairs)) if len(connected) == len(pairs) else f"[bold red]{len(connected)} of {len(pairs)}[/]"
            wire = wires.get((here, there))
            times = ("", "") if wire is None else (_seconds(wire.seconds), _rate(wire.bandwidth))
            table.add_row(exam.hosts[here], exam.hosts[there], count, ", ".join(ways), escape("; ".join(why)), *times)
    return table


def _matrix(exam: Examination) -> Table:
    """Bandwidth from row to column, in MB/s; below it the round trip in us."""
    by_rank = exam.size <= _MAX_COLUMNS
    names = [str(rank) for rank in range(exam.size)] if by_rank else exam.hosts
    unit = "rank" if by_rank else "host"
    table = Table(title=f"MB/s from {unit} to {unit}, round trip in us", title_justify="left", show_lines=True)
    table.add_column("", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    wires = {(wire.one, wire.other): wire for wire in exam.wires()}
    rates = [rate for one, other in exam.pairs() if (rate := exam.bandwidth(one, other))]
    best = max(rates, default=1.0)
    for row, name in enumerate(names):
        cells = []
        for column in range(len(names)):
            if by_rank:
                rate, seconds = exam.bandwidth(row, column), exam.round_trip(row, column)
                cells.append("[bold red]none[/]" if not exam.connected(row, column) else _cell(rate, seconds, best))
            else:
                wire = wires.get((min(row, column), max(row, column)))
                cells.append("" if wire is None else _cell(wire.bandwidth, wire.seconds, best))
        table.add_row(name, *cells)
    return table


def _cell(rate: float | None, seconds: float | None, best: float) -> str:
    if rate is None or seconds is None:
        return ""
    style = "green" if rate > best / 2 else "yellow" if rate > best / 10 else "red"
    return f"[{style}]{rate / 1e6:.0f}[/]\n{seconds * 1e6:.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


def _rate(rate: float) -> str:
    return f"{rate / 1e6:.0f} MB/s"
