"""Whom to dial next: order, pauses, patience and what is remembered of failures."""

from __future__ import annotations

import errno
import socket
from time import monotonic

import pytest

from gloompi.rendezvous.attempts import Attempts, Failure, failed
from gloompi.transport.route import Route


def route(port: int) -> Route:
    return Route("tcp", socket.AF_INET, ("192.0.2.1", port), f"192.0.2.1:{port}", "test")


FIRST, SECOND = route(1), route(2)


def test_nearest_rank_is_first() -> None:
    attempts = Attempts([[FIRST]] * 4, range(3))
    taken = [attempts.next(0.0) for _ in range(4)]
    assert [each and (each.peer, each.number, each.route) for each in taken] == [
        (2, 0, FIRST),
        (1, 0, FIRST),
        (0, 0, FIRST),
        None,
    ]
    assert attempts.pause(0.0) == float("inf")


def test_ways_are_taken_in_turn_with_pauses_that_end_growing() -> None:
    """Thousands of refusals too: a firewall may answer for as long as the ranks wait."""
    attempts = Attempts([[FIRST, SECOND]], [0])
    pauses, now = [], 0.0
    for number in range(3000):
        attempt = attempts.next(now)
        assert attempt is not None
        assert attempt == (0, number, [FIRST, SECOND][number % 2])
        attempts.again(attempt, failed(attempt.route, errno.ECONNREFUSED))
        pauses.append(attempts.pause(monotonic()))
        now = float("inf")
    assert pauses[0] <= 0.005 < 0.4 < pauses[-1] <= 0.5


def test_best_way_tells_why() -> None:
    attempts = Attempts([[FIRST, SECOND]], [0])
    assert attempts.failure(0) is None
    for _ in range(2):
        attempt = attempts.next(float("inf"))
        assert attempt is not None
        attempts.again(attempt, failed(attempt.route, errno.EHOSTUNREACH))
    assert attempts.failure(0) == Failure("192.0.2.1:1", "EHOSTUNREACH", errno.EHOSTUNREACH)


def test_silence_does_not_replace_a_refusal() -> None:
    attempts = Attempts([[FIRST]], [0])
    silent = Failure(FIRST.text, "no answer within 4.0 s", None)
    for why in (silent, failed(FIRST, errno.ECONNREFUSED), silent):
        attempt = attempts.next(float("inf"))
        assert attempt is not None
        attempts.again(attempt, why)
    assert str(attempts.failure(0)) == "192.0.2.1:1: ECONNREFUSED"


@pytest.mark.parametrize(
    ("ways", "remaining", "seconds"), [(1, 2.0, 4.0), (2, None, 4.0), (2, 60.0, 4.0), (2, 3.0, 1.0), (3, 0.4, 0.5)]
)
def test_patience_leaves_time_for_the_other_ways(ways: int, remaining: float | None, seconds: float) -> None:
    assert Attempts([[FIRST] * ways], [0]).patience(0, remaining) == seconds
