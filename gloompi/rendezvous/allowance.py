"""An allowance: so many a second on average, and some at once."""

from __future__ import annotations

from time import monotonic

__all__ = ["Allowance"]


class Allowance:
    """Leave that grows with time.

    Parameters
    ----------
    rate : float
        By how much it grows a second.
    most : float
        What there is at the begin, and never more than that.
    """

    def __init__(self, rate: float, most: float) -> None:
        self._rate, self._most = rate, most
        self._left = most
        self._counted = monotonic()

    def take(self) -> bool:
        """Use one up; False if there is none."""
        self._count()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def pause(self, wanted: int) -> float:
        """Seconds until there are so many, or as many as there ever are; 0 if there are."""
        self._count()
        return max(0.0, min(wanted, self._most) - self._left) / self._rate

    def _count(self) -> None:
        now = monotonic()
        self._left = min(self._most, self._left + (now - self._counted) * self._rate)
        self._counted = now
