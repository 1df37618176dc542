"""Who came late: which rank the others had to wait for, in each collective and in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from .files import Event, RankTrace

__all__ = ["Arrival", "Late", "aligned", "arrivals", "latecomers"]

# Nobody can leave these before all have come: their ends are the same moment, whatever the hosts' clocks say.
_TOGETHER = frozenset(
    [
        "barrier",
        "allreduce",
        "allgather",
        "allgatherv",
        "alltoall",
        "alltoallv",
        "split",
        "allreduce_object",
        "allgather_object",
        "alltoall_object",
    ]
)


class Arrival(NamedTuple):
    """One collective, and when each rank came to it.

    Attributes
    ----------
    name : str
    starts : dict of int to float
        By rank; seconds since the epoch, by the clock of the first rank's host.
    last : int
        The rank that came last.
    late : float
        Seconds between the median of all ranks and the last.
    """

    name: str
    starts: dict[int, float]
    last: int
    late: float


class Late(NamedTuple):
    """How often, and by how much, a rank was the last.

    Attributes
    ----------
    rank, calls, times_last : int
    typical, worst, total : float
        Seconds: median, maximum and sum over the calls to which it came last.
    """

    rank: int
    calls: int
    times_last: int
    typical: float
    worst: float
    total: float


def aligned(traces: Sequence[RankTrace]) -> list[RankTrace]:
    """The traces by one clock, that of the first one's host.

    A host's offset is the median over the collectives that end at the same time everywhere; without such, 0.
    """
    reference = traces[0].host_id
    ends: dict[object, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trace in traces:
        for event in trace.events:
            if event.number and event.name.partition(" ")[0] in _TOGETHER:
                ends[event.context, event.name][trace.host_id].append(event.end)
    differences: dict[str, list[float]] = defaultdict(list)
    for by_host in ends.values():
        if reference in by_host:
            for host, found in by_host.items():
                differences[host].append(median(by_host[reference]) - median(found))
    shift = {host: median(found) for host, found in differences.items() if host != reference}
    return [_shifted(trace, shift.get(trace.host_id, 0.0)) for trace in traces]


def _shifted(trace: RankTrace, seconds: float) -> RankTrace:
    events = [event._replace(start=event.start + seconds, end=event.end + seconds) for event in trace.events]
    return trace._replace(events=events)


def arrivals(traces: Sequence[RankTrace]) -> list[Arrival]:
    """The collectives that two ranks or more have called, in the order of the last arrivals."""
    starts: dict[tuple[object, int], dict[int, Event]] = defaultdict(dict)
    for trace in traces:
        for event in trace.events:
            if event.number:
                starts[event.context, event.number][trace.rank] = event
    found = []
    for by_rank in starts.values():
        if len(by_rank) > 1:
            times = {rank: event.start for rank, event in by_rank.items()}
            last = max(times, key=lambda rank: times[rank])
            found.append(Arrival(by_rank[last].name, times, last, times[last] - median(times.values())))
    return sorted(found, key=lambda arrival: arrival.starts[arrival.last])


def latecomers(found: Sequence[Arrival]) -> list[Late]:
    """The ranks, beginning with the one that has cost most."""
    late: dict[int, list[float]] = defaultdict(list)
    calls: dict[int, int] = defaultdict(int)
    for arrival in found:
        late[arrival.last].append(arrival.late)
        for rank in arrival.starts:
            calls[rank] += 1
    rows = [
        Late(rank, calls[rank], len(late[rank]), median(late[rank] or [0.0]), max(late[rank] or [0.0]), sum(late[rank]))
        for rank in calls
    ]
    return sorted(rows, key=lambda row: (-row.total, row.rank))
