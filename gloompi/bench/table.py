"""Lines as text."""

from __future__ import annotations

from collections.abc import Iterable

from ..reports import counted
from .line import Line, Times

__all__ = ["size_text", "table"]


def table(lines: Iterable[Line], used: dict[str, str]) -> str:
    """A section for each operation, number of ranks, transport and algorithm; at most 125 columns with three peers.

    Parameters
    ----------
    used : dict of str to str
        What each transport has come to, such as ``{"auto": "unix"}``.
    """
    sections: dict[str, list[Line]] = {}
    for line in lines:
        sections.setdefault(_title(line, used), []).append(line)
    return "\n\n".join(_section(title, each) for title, each in sections.items())


def _title(line: Line, used: dict[str, str]) -> str:
    way = used.get(line.transport, line.transport)
    way = way if way == line.transport else f"{line.transport} ({way})"
    ranks = counted(line.ranks, "rank")
    return f"{line.operation}, {ranks}, transport {way}" + f", algorithm {line.algorithm}" * (line.algorithm != "auto")


def _section(title: str, lines: list[Line]) -> str:
    peers = list(dict.fromkeys(name for line in lines for name in line.peers))
    names = f"{'gloompi':>24}{'':>23}" + "".join(f" |{name:>9}{'':>15}" for name in peers)
    columns = f"{'size':>9}{'calls':>6}{'median':>9}{'p99':>9}{'GB/s':>7}{'bus':>7}"
    columns += "".join(f" |{'median':>9}{'p99':>9}{'ratio':>6}" for _ in peers)
    return "\n".join([title, names.rstrip(), columns, *(_row(line, peers) for line in lines)])


def _row(line: Line, peers: list[str]) -> str:
    row = f"{size_text(line.nbytes):>9}{line.calls:>6}{_times(line.own)}{_rate(line.bandwidth):>7}"
    row += f"{_rate(line.bus_bandwidth):>7}"
    for name in peers:
        times = line.peers.get(name)
        row += f" |{'':>24}" if times is None else f" |{_times(times)}{_ratio(line.ratio(name)):>6}"
    return row.rstrip()


def size_text(nbytes: int) -> str:
    """``"64 KiB"``; bytes that are no whole number of a unit have three digits."""
    if nbytes == 0:
        return "-"
    for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if nbytes >= 1 << exponent:
            value = nbytes / (1 << exponent)
            return f"{value:.0f} {unit}" if value.is_integer() else f"{value:.2f} {unit}"
    return f"{nbytes} B"


def _times(times: Times) -> str:
    return f"{_microseconds(times.median):>9}{_microseconds(times.p99):>9}"


def _microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.1f}" if value < 999.95 else f"{value:.0f}"


def _rate(rate: float | None) -> str:
    """GB/s; nothing for what is too little to be shown so."""
    if rate is None or rate < 5e6:
        return ""
    return f"{rate / 1e9:.2f}" if rate < 99.995e9 else f"{rate / 1e9:.0f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 999.95 else f"{ratio:.0f}"
