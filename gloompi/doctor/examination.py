"""All that the doctor has found out, and what can be computed from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from ..errors import RendezvousError
from .facts import Facts
from .measure import Measured
from .trial import Outcome

__all__ = ["Examination", "Wire"]


# What a rank that has started a few seconds ago has added to the load average of a minute.
_OWN_LOAD = 0.1


@dataclass(frozen=True)
class Wire:
    """What lies between two hosts, or within one.

    Attributes
    ----------
    one, other : int
        Numbers of the hosts; the same within a host.
    seconds : float
        Round-trip time, the shortest of all pairs.
    bandwidth : float
        Bytes per second, the best of all pairs in its slower direction: others have shared the interface while they were
        measured.
    """

    one: int
    other: int
    seconds: float
    bandwidth: float


@dataclass
class Examination:
    """Facts, connections and measurements of all ranks.

    Attributes
    ----------
    facts : list of Facts
    published : list of list of str
        Where each rank listened.
    failures : list of str
        Why a rank could not listen; empty if it could.
    outcomes : list of list of Outcome
        Row r is what rank r saw of each rank.
    encrypts : list of bool
        Whether a rank wants its TCP connections encrypted.
    measured : list of dict
        Row r has what rank r measured, by partner.
    trouble : list of str
        Why a rank stopped measuring; empty if it did not.
    silence : RendezvousError or None
        Why there is nothing of the other ranks in the last two; None if there is.
    """

    facts: list[Facts]
    published: list[list[str]]
    failures: list[str]
    outcomes: list[list[Outcome]]
    encrypts: list[bool]
    measured: list[dict[int, Measured]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    silence: RendezvousError | None = None

    def __post_init__(self) -> None:
        ids = list(dict.fromkeys(each.host_id for each in self.facts))
        self._host_of = [ids.index(each.host_id) for each in self.facts]
        self._ranks = [[rank for rank, host in enumerate(self._host_of) if host == number] for number in range(len(ids))]
        names = [next(each.host for each in self.facts if each.host_id == id_) for id_ in ids]
        # Containers often have one name: then a number tells them apart.
        self.hosts = [name if names.count(name) == 1 else f"{name}#{number}" for number, name in enumerate(names)]

    @property
    def size(self) -> int:
        return len(self.facts)

    def host(self, rank: int) -> int:
        """The number of a rank's host."""
        return self._host_of[rank]

    def ranks(self, host: int) -> list[int]:
        return self._ranks[host]

    def cores(self, host: int) -> int:
        """How many cores the ranks of a host may use together: launchers may bind each to its own."""
        return len(set().union(*(self.facts[rank].cores for rank in self._ranks[host])))

    def crowded(self, host: int) -> bool:
        """Whether a host has more ranks than cores."""
        return len(self._ranks[host]) > self.cores(host)

    def load(self, host: int) -> float:
        """Processes that wanted to run on a host in the minute before it was measured, without the job's own ranks."""
        facts = [self.facts[rank] for rank in self._ranks[host]]
        return (facts[0].load or 0.0) - _OWN_LOAD * len(facts)

    def loaded(self, host: int) -> bool:
        """Whether so many others run on a host that the job's ranks have to wait for them."""
        load = self.load(host)
        return load >= 1.0 and load + len(self._ranks[host]) > self.facts[self._ranks[host][0]].processors

    def who(self, rank: int) -> str:
        return f"rank {rank} ({self.hosts[self.host(rank)]})"

    def connected(self, one: int, other: int) -> bool:
        return bool(self.outcomes[one][other].transport and self.outcomes[other][one].transport)

    def pairs(self) -> list[tuple[int, int]]:
        return [(one, other) for one in range(self.size) for other in range(one + 1, self.size)]

    @property
    def complete(self) -> bool:
        return all(self.connected(one, other) for one, other in self.pairs())

    def bandwidth(self, source: int, target: int) -> float | None:
        """Bytes per second."""
        found = self.measured[source].get(target) if self.measured else None
        return None if found is None else found.bandwidth

    def round_trip(self, one: int, other: int) -> float | None:
        """Seconds, the shorter of what the two have measured."""
        found = [
            self.measured[a][b].seconds for a, b in ((one, other), (other, one)) if self.measured and b in self.measured[a]
        ]
        return min(found, default=None)

    def clock(self, rank: int) -> float | None:
        """How far a rank's clock is ahead of rank 0's, seconds."""
        if rank == 0:
            return 0.0
        found = self.measured[0].get(rank) if self.measured else None
        return None if found is None else found.clock

    def pair_between(self, here: int, there: int) -> tuple[int, int]:
        """A pair of ranks of two hosts that are connected, if there is one; the first one."""
        pairs = list(product(self.ranks(here), self.ranks(there)))
        return next((pair for pair in pairs if self.connected(*pair)), pairs[0])

    def wires(self) -> list[Wire]:
        """What lies between the hosts, and within those that have several ranks, as far as it was measured."""
        times: dict[tuple[int, int], list[float]] = {}
        rates: dict[tuple[int, int], list[float]] = {}
        for one, other in self.pairs():
            ends = self.host(one), self.host(other)
            wire = min(ends), max(ends)
            seconds, out, back = self.round_trip(one, other), self.bandwidth(one, other), self.bandwidth(other, one)
            if seconds is not None and out is not None and back is not None:
                times.setdefault(wire, []).append(seconds)
                rates.setdefault(wire, []).append(min(out, back))
        return [Wire(*wire, min(times[wire]), max(rates[wire])) for wire in times]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can carry it; times in seconds, bandwidths in bytes per second."""
        links = [
            {
                "source": one,
                "target": other,
                "connected": self.connected(one, other),
                **asdict(self.outcomes[one][other]),
                "round_trip": self.round_trip(one, other),
                "bandwidth": self.bandwidth(one, other),
            }
            for one in range(self.size)
            for other in range(self.size)
            if one != other
        ]
        ranks = [
            {
                **asdict(each),
                "listens_on": self.published[each.rank],
                "failure": self.failures[each.rank],
                "encrypts": self.encrypts[each.rank],
                "clock_offset": self.clock(each.rank),
            }
            for each in self.facts
        ]
        return {"hosts": self.hosts, "ranks": ranks, "links": links}
