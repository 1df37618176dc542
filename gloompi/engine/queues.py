"""Queues: what waits for each rank and tag, first come first served.

Everything takes the same time however much waits: to put something at the end, to see or take the first, and to take
something out of the middle.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["Queues"]

Item = TypeVar("Item")


class Queues(dict[int, dict[int, Item]]):
    """A queue for each pair of rank and tag.

    As a dict it has, by rank, the first of each tag; a rank for which nothing waits is not in it.  Nearly always one thing
    waits for a rank and tag, and then no queue is made: with a deque for each, putting and taking took 1.6 times as long.
    An item is in one queue, once.
    """

    __slots__ = ("_behind",)

    def __init__(self) -> None:
        # An ordered set: a deque is slow in its middle, a plain dict at its beginning once that has been emptied.
        self._behind: dict[tuple[int, int], OrderedDict[Item, None]] = {}

    def put(self, rank: int, tag: int, item: Item) -> None:
        """Add an item at the end of a queue."""
        firsts = self.get(rank)
        if firsts is None:
            self[rank] = {tag: item}
        elif firsts.setdefault(tag, item) is not item:
            self._behind.setdefault((rank, tag), OrderedDict())[item] = None

    def first(self, rank: int, tag: int) -> Item | None:
        """Return the first of a queue, which stays there."""
        firsts = self.get(rank)
        return None if firsts is None else firsts.get(tag)

    def only(self) -> Item | None:
        """Return the first of the only queue there is; None if there are several, or none."""
        if len(self) == 1:
            (firsts,) = self.values()
            if len(firsts) == 1:
                (item,) = firsts.values()
                return item
        return None

    def take(self, rank: int, tag: int) -> Item | None:
        """Remove and return the first of a queue."""
        firsts = self.get(rank)
        if firsts is None:
            return None
        item = firsts.pop(tag, None)
        if self._behind and (behind := self._behind.get((rank, tag))) is not None:
            firsts[tag] = behind.popitem(last=False)[0]
            if not behind:
                del self._behind[rank, tag]
        elif not firsts:
            del self[rank]
        return item

    def remove(self, rank: int, tag: int, item: Item) -> bool:
        """Remove an item from wherever it is in a queue; return whether it was there."""
        firsts = self.get(rank)
        if firsts is not None and firsts.get(tag) is item:
            self.take(rank, tag)
            return True
        behind = self._behind.get((rank, tag))
        if behind is None or item not in behind:
            return False
        del behind[item]
        if not behind:
            del self._behind[rank, tag]
        return True

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._behind.clear()

    def items_of_all(self) -> Iterator[Item]:
        """All items, those of one queue in their order."""
        for rank, firsts in self.items():
            for tag, first in firsts.items():
                yield first
                yield from self._behind.get((rank, tag), ())
