"""Whom to dial next, at which address, and what became of it."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple

from ..transport.route import Route

__all__ = ["Attempt", "Attempts", "Failure", "failed"]

# Seconds to wait for an address that does not answer before trying the next; TCP repeats a lost SYN after 1 and 3 s.
_ROUTE_SECONDS = 4.0
# The same when little time is left for many addresses.
_LEAST_SECONDS = 0.5
_BACKOFF_SECONDS = (0.005, 0.5)  # first, longest


class Failure(NamedTuple):
    """What became of an attempt to reach a rank.

    Attributes
    ----------
    address : str
        What was dialed; empty if this rank had to wait to be dialed.
    reason : str
    error : int or None
        The system's errno; None if nothing came back, or the other side hung up.
    """

    address: str
    reason: str
    error: int | None

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


def failed(route: Route, error: int) -> Failure:
    """The failure that the system reports by its number."""
    return Failure(route.text, errno.errorcode.get(error, str(error)), error)


class Attempt(NamedTuple):
    """The `number`-th time that a rank is dialed, counted from 0."""

    peer: int
    number: int
    route: Route


class Attempts:
    """A queue of ranks to dial, each over its ways in turn, with pauses that grow from round to round.

    Parameters
    ----------
    ways : list of list of Route
        How to reach each rank, best first.
    peers : iterable of int
        The ranks to dial.
    """

    def __init__(self, ways: list[list[Route]], peers: Iterable[int]) -> None:
        self._ways = ways
        # The nearest rank first, so that not everybody begins with rank 0.
        self._due = [(0.0, -peer, 0) for peer in peers]
        heapq.heapify(self._due)
        self._failures: dict[int, dict[int, Failure]] = {}  # by rank and way

    def next(self, now: float) -> Attempt | None:
        """Take the attempt that is due; None if there is none."""
        if not self._due or self._due[0][0] > now:
            return None
        _, negative, number = heapq.heappop(self._due)
        ways = self._ways[-negative]
        return Attempt(-negative, number, ways[number % len(ways)])

    def pause(self, now: float) -> float:
        """Seconds until the next attempt is due."""
        return max(0.0, self._due[0][0] - now) if self._due else float("inf")

    def patience(self, peer: int, remaining: float | None) -> float:
        """Seconds for one attempt, of those that remain: the other ways need some too."""
        ways = len(self._ways[peer])
        if remaining is None or ways == 1:
            return _ROUTE_SECONDS
        return min(_ROUTE_SECONDS, max(_LEAST_SECONDS, remaining / (ways + 1)))

    def again(self, attempt: Attempt, why: Failure) -> None:
        """Note a failure, and queue the next attempt."""
        peer, number, _ = attempt
        failures, way = self._failures.setdefault(peer, {}), number % len(self._ways[peer])
        # Silence after a refusal says nothing new: hosts answer with one ICMP message a second at most.
        if way not in failures or failures[way].error is None or why.error is not None:
            failures[way] = why
        first, longest = _BACKOFF_SECONDS
        rounds = min((number + 1) // len(self._ways[peer]), 10)  # far beyond the longest
        heapq.heappush(self._due, (monotonic() + min(longest, first * 2**rounds), -peer, number + 1))

    def failure(self, peer: int) -> Failure | None:
        """What came of the best way to a rank that was tried: that it failed says more than what the last resort did."""
        failures = self._failures.get(peer)
        return failures[min(failures)] if failures else None
