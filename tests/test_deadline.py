"""Deadlines, with a clock that the tests turn."""

from __future__ import annotations

import math

import pytest
from clock import Clock

from gloompi import deadline as module
from gloompi.deadline import Deadline, check_timeout


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def test_remaining_counts_down_to_zero(clock: Clock) -> None:
    deadline = Deadline(2.0)
    assert (deadline.remaining(), deadline.expired()) == (2.0, False)
    clock.now += 1.5
    assert (deadline.remaining(), deadline.expired()) == (0.5, False)
    clock.now += 0.5
    assert (deadline.remaining(), deadline.expired()) == (0.0, True)
    clock.now += 5
    assert (deadline.remaining(), deadline.expired()) == (0.0, True)
    assert deadline.timeout == 2.0


def test_zero_has_expired_at_once(clock: Clock) -> None:
    assert Deadline(0.0).expired()


def test_none_never_expires(clock: Clock) -> None:
    deadline = Deadline(None)
    clock.now += 1e9
    assert (deadline.timeout, deadline.remaining(), deadline.expired()) == (None, None, False)


@pytest.mark.parametrize(
    ("timeout", "seconds", "left"), [(10.0, 3.0, 3.0), (2.0, 3.0, 2.0), (None, 3.0, 3.0), (0.0, 3.0, 0.0)]
)
def test_before_is_the_earlier(clock: Clock, timeout: float | None, seconds: float, left: float) -> None:
    assert Deadline(timeout).before(seconds).remaining() == left


def test_before_counts_from_now(clock: Clock) -> None:
    deadline = Deadline(10.0)
    clock.now += 8
    earlier = deadline.before(3.0)
    assert earlier.remaining() == 2.0
    clock.now += 2
    assert earlier.expired()
    assert deadline.expired()


@pytest.mark.parametrize(
    ("timeout", "checked"), [(None, None), (math.inf, None), (0, 0.0), (1, 1.0), (0.25, 0.25), (1e9, 1e9)]
)
def test_check_timeout(timeout: float | None, checked: float | None) -> None:
    assert check_timeout(timeout) == checked
    assert type(check_timeout(timeout)) is type(checked)


@pytest.mark.parametrize(
    ("timeout", "text"),
    [
        (-1, "timeout must be seconds >= 0 or None, not -1"),
        (-math.inf, "timeout must be seconds >= 0 or None, not -inf"),
        (math.nan, "timeout must be seconds >= 0 or None, not nan"),
    ],
)
def test_check_timeout_refuses(timeout: float, text: str) -> None:
    with pytest.raises(ValueError, match="timeout must be") as caught:
        check_timeout(timeout)
    assert str(caught.value) == text


def test_check_timeout_names_the_parameter() -> None:
    with pytest.raises(ValueError, match=r"^connect_timeout must be seconds >= 0 or None, not -1$"):
        check_timeout(-1, "connect_timeout")
