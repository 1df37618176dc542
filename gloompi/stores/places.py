"""A few places for frames that are not small: whoever wants one queues, so that the memory of all together is bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Places"]

Holder = TypeVar("Holder")


class Places(Generic[Holder]):
    """Places, and the queue for them.

    Parameters
    ----------
    many : int
        So many there are.
    """

    __slots__ = ("_holders", "_many", "_queue")

    def __init__(self, many: int) -> None:
        self._many = many
        self._holders: set[Holder] = set()
        self._queue: deque[tuple[Holder, Callable[[], None]]] = deque()

    def __len__(self) -> int:
        """The number of those that have a place or queue for one."""
        return len(self._holders) + len(self._queue)

    @property
    def wanted(self) -> bool:
        """Whether somebody queues."""
        return bool(self._queue)

    def delays(self, holder: Holder) -> bool:
        """Whether somebody queues, and could have the place that `holder` has."""
        return bool(self._queue) and holder in self._holders

    def take(self, holder: Holder) -> bool:
        """Return whether `holder` has a place, from now on or already."""
        if holder not in self._holders and len(self._holders) >= self._many:
            return False
        self._holders.add(holder)
        return True

    def queue(self, holder: Holder, resume: Callable[[], None]) -> None:
        """Have `resume` called when there is a place for `holder`, which has taken it then."""
        self._queue.append((holder, resume))

    def release(self, holder: Holder) -> None:
        """Give up a place, if `holder` has one, and one's own in the queue; those that queue get what is free."""
        self._holders.discard(holder)
        if any(each is holder for each, _ in self._queue):
            self._queue = deque(entry for entry in self._queue if entry[0] is not holder)
        while self._queue and len(self._holders) < self._many:
            following, resume = self._queue.popleft()
            self._holders.add(following)
            resume()
