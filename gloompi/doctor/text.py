"""An examination as text for a terminal (package rich)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..reports import counted
from .examination import Examination
from .facts import Facts, Port
from .findings import Finding, Severity, wrong

__all__ = ["print_examination"]

# A column of the matrix: five digits, padding and a border.
_COLUMN_WIDTH = 8
# What ranks have said is never markup: it goes into a Text.
_WRONG = "bold red"
_NONE = f"[{_WRONG}]none[/]"
_STYLES = {Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.ERROR: _WRONG}


def print_examination(exam: Examination, findings: Sequence[Finding], out: Console) -> None:
    """Print the tables, then the findings."""
    first = exam.facts[0]
    software = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    out.print(
        f"{counted(exam.size, 'rank')} on {counted(len(exam.hosts), 'host')}; {software}", markup=False, highlight=False
    )
    launcher = first.launcher or "no launcher"
    job = "".join(f", {name}={value}" for name, value in {**first.job, **first.settings}.items())
    out.print(f"started by {launcher}{job}", markup=False, highlight=False)
    out.print(f"load average of the last minute: {_loads(exam)}", markup=False, highlight=False)
    out.print(_hosts(exam))
    out.print(_ranks(exam))
    if exam.size > 1:
        out.print(_connections(exam))
    if any(exam.measured):
        out.print(_matrix(exam, out.width))
    for finding in findings:
        severity = (finding.severity.name.lower(), _STYLES[finding.severity])
        out.print(Text.assemble(severity, " ", finding.text))
        if finding.advice:
            out.print(f"        {finding.advice}", markup=False, highlight=False)
    if not findings:
        out.print("[green]nothing is wrong[/]")
    elif not wrong(findings):
        out.print("[green]nothing is wrong but what the notes say[/]")


def _loads(exam: Examination) -> str:
    """What the hosts say, from the least to the greatest."""
    found = sorted((facts.load, name) for facts, name in _of_hosts(exam) if facts.load is not None)
    if not found:
        return "unknown"
    (least, _), (most, where) = found[0], found[-1]
    return f"{most:.2f}" if len(exam.hosts) == 1 else f"{least:.2f} to {most:.2f} ({where})"


def _of_hosts(exam: Examination) -> list[tuple[Facts, str]]:
    """The facts of the first rank of each host."""
    return [(exam.facts[exam.ranks(host)[0]], name) for host, name in enumerate(exam.hosts)]


def _hosts(exam: Examination) -> Table:
    table = Table(title="hosts", title_justify="left")
    for column in ("host", "ranks", "cores", "load", "interfaces", "somaxconn", "largest socket buffers"):
        table.add_column(column, overflow="fold")
    for host, (facts, name) in enumerate(_of_hosts(exam)):
        ranks = exam.ranks(host)
        buffers = [f"{setting.rpartition('/')[2]} {value}" for setting, value in facts.buffers.items() if value]
        table.add_row(
            Text(name),
            _ranges(ranks),
            str(exam.cores(host)),
            "" if facts.load is None else f"{facts.load:.2f}",
            Text("\n".join(_shown(port) for port in facts.interfaces)),
            str(facts.somaxconn),
            Text("\n".join(buffers)),
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
        listening = Text(", ".join(exam.published[facts.rank]))
        if exam.failures[facts.rank]:
            listening = Text("nothing", _WRONG)
        table.add_row(
            str(facts.rank),
            Text(exam.hosts[exam.host(facts.rank)]),
            str(facts.pid),
            listening,
            f"{facts.open_files_used} of {_limit(facts.open_files)}, hard {_limit(facts.open_files_hard)}",
            "" if clock is None else f"{clock * 1e3:+.3f} ms",
        )
    return table


def _limit(number: int) -> str:
    return "unlimited" if number < 0 else str(number)


def _connections(exam: Examination) -> Table:
    """Between hosts: how, over which addresses, why, how many pairs are missing, and what the best of them has."""
    table = Table(title="connections between hosts, and within them", title_justify="left")
    for column in ("from", "to", "pairs", "transport", "why", "best round trip", "best bandwidth"):
        table.add_column(column, justify="right" if column.startswith("best") else "left", overflow="fold")
    wires = {(wire.one, wire.other): wire for wire in exam.wires()}
    for here in range(len(exam.hosts)):
        for there in range(here, len(exam.hosts)):
            pairs = _pairs(exam, here, there)
            if not pairs:
                continue
            connected = [pair for pair in pairs if exam.connected(*pair)]
            ways = sorted({exam.outcomes[other][one].transport for one, other in connected})
            why = sorted({exam.outcomes[other][one].why for one, other in connected})
            count = str(len(pairs)) if len(connected) == len(pairs) else f"[{_WRONG}]{len(connected)} of {len(pairs)}[/]"
            wire = wires.get((here, there))
            times = ("", "") if wire is None else (_seconds(wire.seconds), _rate(wire.bandwidth))
            texts = (Text(exam.hosts[here]), Text(exam.hosts[there]), count, Text(", ".join(ways)), Text("; ".join(why)))
            table.add_row(*texts, *times)
    return table


def _pairs(exam: Examination, here: int, there: int) -> list[tuple[int, int]]:
    """The pairs between two hosts, or within one, the lower rank first."""
    if here == there:
        return list(combinations(exam.ranks(here), 2))
    return [(min(pair), max(pair)) for pair in product(exam.ranks(here), exam.ranks(there))]


def _matrix(exam: Examination, width: int) -> Table | str:
    """Bandwidth from row to column, in MB/s, above the round trip in us; of hosts if there are too many ranks for it."""
    by_rank = exam.size < width // _COLUMN_WIDTH
    rows = [str(rank) for rank in range(exam.size)] if by_rank else [f"{name} #{n}" for n, name in enumerate(exam.hosts)]
    if len(rows) * _COLUMN_WIDTH + max(map(len, rows)) + 4 > width:
        return f"no room for a matrix of {len(rows)} hosts: --plot FILE draws it, --json FILE has the numbers of all pairs"
    title = "MB/s from rank to rank, round trip in us"
    if not by_rank:
        title = "the best pair's MB/s from host to host, round trip in us"
    table = Table(title=title, title_justify="left", show_lines=True)
    for header in ["", *(name.rpartition(" ")[2] for name in rows)]:
        table.add_column(header, justify="right", no_wrap=True)
    cell = _cells_of_ranks(exam) if by_rank else _cells_of_hosts(exam)
    for row, name in enumerate(rows):
        table.add_row(Text(name), *(cell(row, column) for column in range(len(rows))))
    return table


def _cells_of_ranks(exam: Examination) -> Callable[[int, int], str]:
    best: dict[bool, float] = {}  # within a host, between hosts
    for one, other in exam.pairs():
        near = exam.host(one) == exam.host(other)
        best[near] = max(best.get(near, 0.0), exam.bandwidth(one, other) or 0.0, exam.bandwidth(other, one) or 0.0)

    def cell(row: int, column: int) -> str:
        if row != column and not exam.connected(row, column):
            return _NONE
        near = exam.host(row) == exam.host(column)
        return _cell(exam.bandwidth(row, column), exam.round_trip(row, column), best.get(near, 0.0))

    return cell


def _cells_of_hosts(exam: Examination) -> Callable[[int, int], str]:
    wires = {(wire.one, wire.other): wire for wire in exam.wires()}
    best: dict[bool, float] = {}
    for (here, there), wire in wires.items():
        best[here == there] = max(best.get(here == there, 0.0), wire.bandwidth)

    def cell(row: int, column: int) -> str:
        here, there = min(row, column), max(row, column)
        pairs = _pairs(exam, here, there)
        if pairs and not any(exam.connected(*pair) for pair in pairs):
            return _NONE
        wire = wires.get((here, there))
        return "" if wire is None else _cell(wire.bandwidth, wire.seconds, best[row == column])

    return cell


def _cell(rate: float | None, seconds: float | None, best: float) -> str:
    """Coloured by what the best of its kind has."""
    if rate is None or seconds is None:
        return ""
    style = "green" if rate > best / 2 else "yellow" if rate > best / 10 else "red"
    return f"[{style}]{rate / 1e6:.0f}[/]\n{seconds * 1e6:.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


def _rate(rate: float) -> str:
    return f"{rate / 1e6:.0f} MB/s"
