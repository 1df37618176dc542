"""So many a second on average, and some at once."""

from __future__ import annotations

import pytest
from clock import Clock

from gloompi.rendezvous import allowance
from gloompi.rendezvous.allowance import Allowance


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(allowance, "monotonic", made)
    return made


def used_up(allowed: Allowance) -> int:
    count = 0
    while allowed.take():
        count += 1
    return count


def test_at_once_and_then_by_the_second(clock: Clock) -> None:
    allowed = Allowance(100.0, 8)
    assert used_up(allowed) == 8
    clock.now += 0.0625
    assert used_up(allowed) == 6
    clock.now += 0.0625
    assert used_up(allowed) == 6  # and a half is left
    clock.now += 0.0625
    assert used_up(allowed) == 6
    clock.now += 1000.0
    assert used_up(allowed) == 8


def test_pause(clock: Clock) -> None:
    allowed = Allowance(128.0, 8)  # powers of two: exact in binary
    assert allowed.pause(8) == allowed.pause(1000) == 0.0  # there are never more
    used_up(allowed)
    assert allowed.pause(1) == 1 / 128
    assert allowed.pause(4) == 4 / 128
    assert allowed.pause(1000) == 8 / 128
    clock.now += allowed.pause(4)
    assert allowed.pause(4) == 0.0
    assert used_up(allowed) == 4


def test_never_more_than_the_rate_whatever_is_asked_when(clock: Clock) -> None:
    allowed, count = Allowance(50.0, 20), 0
    for step in range(1000):
        clock.now += (step % 7) / 200
        count += sum(allowed.take() for _ in range(step % 5))
        assert count <= 20 + 50.0 * (clock.now - 1000.0) + 1e-6
