"""Folding: any number of ranks made a power of two, by letting some ranks' neighbours do their work."""

from __future__ import annotations

from functools import lru_cache

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps
from ..reduction import Reduction
from .partition import power_of_two_within

__all__ = ["ENTER", "LEAVE", "Fold"]

# Steps: before all others, after all others.
ENTER, LEAVE = 0, 255


class Fold:
    """Of the first 2 extra ranks, the even ones join their neighbours, which take a place each, as do all others.

    5 ranks: 0 gives all it has to 1 and gets the result from it at the end; 1, 2, 3, 4 take the places 0, 1, 2, 3.
    Neighbours, so that operands stay in rank order.

    Attributes
    ----------
    places : int
        A power of two.
    extra : int
        How many ranks give their place up.
    """

    __slots__ = ("_partners", "extra", "places")

    def __init__(self, size: int) -> None:
        self.places = power_of_two_within(size)
        self.extra = size - self.places
        self._partners: dict[int, list[tuple[int, int]]] = {}

    @staticmethod
    @lru_cache(maxsize=64)
    def of(size: int) -> Fold:
        """The fold of `size` ranks."""
        return Fold(size)

    def rank(self, place: int) -> int:
        """The rank that holds a place."""
        return 2 * place + 1 if place < self.extra else place + self.extra

    def partners(self, place: int) -> list[tuple[int, int]]:
        """The step, from 1 on, and the rank of each with whom the holder of a place exchanges: 1, 2, 4, ... places apart."""
        found = self._partners.get(place)
        if found is None:
            found = [(step, self.rank(place ^ 1 << step - 1)) for step in range(1, self.places.bit_length())]
            self._partners[place] = found
        return found

    def enter(self, call: Call, x: Array, out: Array, op: Reduction) -> Steps:
        """Join or be joined; return this rank's place, or None, and where its operand now is."""
        if call.rank >= 2 * self.extra:
            return call.rank - self.extra, x
        if call.rank % 2 == 0:
            yield call.send(call.rank + 1, ENTER, x)
            return None, x
        yield call.receive_reduce(call.rank - 1, ENTER, x, out, op, now=True)
        return call.rank // 2, out

    def leave(self, call: Call, out: Array) -> Steps:
        """Hand the result to those that joined."""
        if call.rank < 2 * self.extra:
            if call.rank % 2 == 0:
                yield call.receive(call.rank + 1, LEAVE, out, now=True)
            else:
                yield call.send(call.rank - 1, LEAVE, out)
