"""Plans of new Contexts over the connections of an old one."""

from __future__ import annotations

import operator
from collections import Counter
from zlib import crc32

import numpy as np

from ..collectives import allgather
from ..engine.call import Call
from ..engine.conversation import Conversation, descendant
from ..engine.engine import Engine
from ..engine.fingerprint import NO_FACTS, fingerprint
from ..engine.operation import Steps
from ..engine.task import Task
from ..objects import PICKLE, Pickler
from .base import NO_DTYPE, PlanBase

__all__ = ["GroupPlans"]

_INT64 = np.dtype(np.int64)


class GroupPlans(PlanBase):
    """Dup, split and group; the result is a Conversation."""

    def __init__(self, engine: Engine, conversation: Conversation, pickler: Pickler = PICKLE) -> None:
        super().__init__(engine, conversation, pickler)
        self._groups: Counter[tuple[tuple[int, ...], int]] = Counter()

    def dup(self) -> Task:
        number = 0

        def steps(call: Call) -> Steps:
            # Every rank computes the same number: there is nothing to tell.
            nonlocal number
            number = descendant(self._conversation.number, call.number, 0)
            yield ()

        def finish() -> Conversation:
            return self._engine.join(number, self._conversation.ranks)

        return self._collective("dup", fingerprint("dup", NO_DTYPE, 0), steps, finish)

    def group(self, members: tuple[int, ...], tag: int) -> Task:
        """A Context of some ranks, in this order; they alone call it, and tell calls at the same time apart by the tag."""
        for rank in members:
            self._peer(rank, "a member")
        self._groups[members, tag] += 1
        ranks = tuple(self._ranks[rank] for rank in members)
        # The calls of all ranks together have no numbers here: this makes one that the members agree on.
        seed = crc32(repr((members, tag)).encode()) << 32 | self._groups[members, tag]
        number = descendant(self._conversation.number, seed, -1)

        def steps(task: Task) -> Steps:
            yield ()

        return Task("group", steps, lambda: self._engine.join(number, ranks), NO_FACTS)

    def split(self, color: int | None, key: int) -> Task:
        mine = np.zeros(3, _INT64)
        if color is not None:
            mine[:] = 1, _int64(color, "color"), _int64(key, "key")
        everyone = np.empty((self._size, 3), _INT64)
        call_number = 0

        def steps(call: Call) -> Steps:
            nonlocal call_number
            call_number = call.number
            yield from allgather.bruck(call, mine, everyone.reshape(-1))

        def finish() -> Conversation | None:
            if color is None:
                return None
            members = [rank for rank, (belongs, its, _) in enumerate(everyone.tolist()) if belongs and its == color]
            members.sort(key=lambda rank: (int(everyone[rank, 2]), rank))
            number = descendant(self._conversation.number, call_number, int(mine[1]))
            return self._engine.join(number, tuple(self._conversation.ranks[rank] for rank in members))

        return self._collective("split", fingerprint("split", _INT64, 0), steps, finish)


def _int64(value: int, name: str) -> int:
    number = operator.index(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit 64 bits, not {number}")
    return number
