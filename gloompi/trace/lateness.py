"""Who came late: which rank the others had to wait for, in each collective and in all; and who never came."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from .files import Event, Member, RankTrace

__all__ = ["Arrival", "Late", "absences", "aligned", "arrivals", "collectives", "latecomers"]

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
    starts : dict of Member to float
        Seconds since the epoch, by the clock of the first rank's host.
    last : Member
        Who came last.
    late : float
        Seconds between the median of the others and the last.
    context : tuple of int and str
        As in `Event`.
    """

    name: str
    starts: dict[Member, float]
    last: Member
    late: float
    context: tuple[int, str]


class Late(NamedTuple):
    """How often, and by how much, a rank was the last.

    Attributes
    ----------
    member : Member
    calls, times_last : int
    typical, worst, total : float
        Seconds: median, maximum and sum over the calls to which it came last.
    """

    member: Member
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
            if event.operation in _TOGETHER and event.state == "done":
                ends[event.context, event.number][trace.host_id].append(event.end)
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


def collectives(traces: Sequence[RankTrace]) -> list[dict[Member, Event]]:
    """The calls with one number in one Context, by rank."""
    found: dict[tuple[object, int], dict[Member, Event]] = defaultdict(dict)
    for trace in traces:
        for event in trace.events:
            if event.number:
                found[event.context, event.number][trace.member] = event
    return list(found.values())


def arrivals(traces: Sequence[RankTrace]) -> list[Arrival]:
    """The collectives that two ranks or more have called, in the order of the last arrivals.

    Not those that have failed: nobody has waited until the last one came.
    """
    found = []
    for by_member in collectives(traces):
        if len(by_member) > 1 and all(event.state == "done" for event in by_member.values()):
            starts = {member: event.start for member, event in by_member.items()}
            last = max(starts, key=lambda member: starts[member])
            others = median(start for member, start in starts.items() if member != last)
            found.append(Arrival(by_member[last].name, starts, last, starts[last] - others, by_member[last].context))
    return sorted(found, key=lambda arrival: arrival.starts[arrival.last])


def latecomers(found: Sequence[Arrival]) -> list[Late]:
    """The ranks, beginning with the one that has cost most."""
    late: dict[Member, list[float]] = defaultdict(list)
    calls: dict[Member, int] = defaultdict(int)
    for arrival in found:
        late[arrival.last].append(arrival.late)
        for member in arrival.starts:
            calls[member] += 1
    rows = [
        Late(each, calls[each], len(late[each]), median(late[each] or [0.0]), max(late[each] or [0.0]), sum(late[each]))
        for each in calls
    ]
    return sorted(rows, key=lambda row: (-row.total, row.member))


def absences(
    traces: Sequence[RankTrace], named: Callable[[Event], str] = attrgetter("name")
) -> dict[Member, tuple[str, str]]:
    """The ranks that a collective which failed has waited for in vain: its name, and that of the rank's own last call.

    Parameters
    ----------
    named : callable
        The name of a call.
    """
    members: dict[object, set[Member]] = defaultdict(set)
    latest: dict[tuple[object, Member], Event] = {}
    for trace in traces:
        members[trace.context, ""].add(trace.member)
        for event in trace.events:
            members[event.context].add(trace.member)
            before = latest.get((event.context, trace.member))
            if before is None or event.start > before.start:
                latest[event.context, trace.member] = event
    found: dict[Member, tuple[str, str]] = {}
    for by_member in collectives(traces):
        failed = next((event for event in by_member.values() if event.state != "done"), None)
        if failed is not None:
            for member in sorted(members[failed.context] - by_member.keys()):
                own = latest.get((failed.context, member))
                found.setdefault(member, (named(failed), named(own) if own is not None else ""))
    return found
