"""One time budget spread over several waits."""

from __future__ import annotations

from math import inf
from time import monotonic

__all__ = ["Deadline", "check_timeout"]


def check_timeout(timeout: float | None, name: str = "timeout") -> float | None:
    """Return `timeout` as float, or None for None and infinity; ValueError if it is negative or not a number."""
    if timeout is None:
        return None
    seconds = float(timeout)
    if not seconds >= 0:
        raise ValueError(f"{name} must be seconds >= 0 or None, not {timeout!r}")
    return None if seconds == inf else seconds


class Deadline:
    """A point in time that many waits share.

    Parameters
    ----------
    timeout : float or None
        Seconds from now; None is no limit.

    Attributes
    ----------
    began : float
        When it was made, by `time.monotonic`.
    """

    __slots__ = ("began", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.began = monotonic()

    def remaining(self) -> float | None:
        """Seconds left, never below 0; None without a limit."""
        return None if self.timeout is None else max(0.0, self.began + self.timeout - monotonic())

    def expired(self) -> bool:
        return self.timeout is not None and monotonic() >= self.began + self.timeout

    def before(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        remaining = self.remaining()
        return Deadline(seconds if remaining is None else min(seconds, remaining))
