"""A line of the result: one operation at one size, gloompi's times beside the others'."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .case import Case

__all__ = ["Line", "Times", "bus_factor"]

# send/recv is timed as a round trip.
_TRIPS = {"send/recv": 2}


@dataclass(frozen=True)
class Times:
    """Seconds over the calls, of each call the slowest rank's.

    Attributes
    ----------
    median, p99 : float
        The latter is the 99th percentile, between the two nearest calls.
    """

    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Any, operation: str = "") -> Times:
        """Summarise the calls of an operation."""
        trips = _TRIPS.get(operation, 1)
        return cls(float(np.median(seconds)) / trips, float(np.percentile(seconds, 99)) / trips)


@dataclass(frozen=True)
class Line:
    """One operation at one size.

    Attributes
    ----------
    operation, transport, algorithm : str
        Transport as it was asked for.
    ranks : int
    nbytes : int
    calls : int
        How often each candidate was timed.
    own : Times
    peers : dict of str to Times
        By name: "mpi", "gloo", "limit".
    """

    operation: str
    ranks: int
    transport: str
    algorithm: str
    nbytes: int
    calls: int
    own: Times
    peers: dict[str, Times] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, transport: str, algorithm: str, own: Any, peers: dict[str, Any]) -> Line:
        """Make it of the seconds of all calls."""
        name = case.operation
        summaries = {peer: Times.of(seconds, name) for peer, seconds in peers.items()}
        return cls(name, case.size, transport, algorithm, case.nbytes, len(own), Times.of(own, name), summaries)

    def ratio(self, peer: str) -> float:
        """gloompi's median over a peer's: below 1, gloompi is faster."""
        return self.own.median / self.peers[peer].median

    @property
    def bandwidth(self) -> float | None:
        """Algorithm bandwidth, bytes per second: nbytes over the median; None if there are no bytes."""
        return self.nbytes / self.own.median if self.nbytes else None

    @property
    def bus_bandwidth(self) -> float | None:
        """What each rank has sent and received a second, at least; None for operations that have no such factor."""
        factor = bus_factor(self.operation, self.ranks)
        return None if factor is None or self.bandwidth is None else self.bandwidth * factor

    def to_json(self) -> dict[str, Any]:
        """As JSON can carry it; seconds, bytes, bytes per second."""
        return {
            "operation": self.operation,
            "ranks": self.ranks,
            "transport": self.transport,
            "algorithm": self.algorithm,
            "nbytes": self.nbytes,
            "calls": self.calls,
            "median": self.own.median,
            "p99": self.own.p99,
            "bandwidth": self.bandwidth,
            "bus_bandwidth": self.bus_bandwidth,
            "peers": {
                name: {"median": times.median, "p99": times.p99, "ratio": self.ratio(name)}
                for name, times in self.peers.items()
            },
        }


def bus_factor(operation: str, ranks: int) -> float | None:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests define it.

    It makes numbers of ranks comparable with each other and with the hardware.  NVIDIA, nccl-tests, doc/PERFORMANCE.md.
    """
    part = (ranks - 1) / ranks
    return {"allreduce": 2 * part, "reduce_scatter": part, "allgather": part}.get(operation)
