"""Plans of new Contexts over the connections of an old one."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable
from reprlib import repr as repr_of

import numpy as np

from ..collectives import allgather
from ..engine.call import Call
from ..engine.conversation import Conversation
from ..engine.engine import Engine
from ..engine.fingerprint import NO_FACTS, fingerprint
from ..engine.operation import Steps
from ..engine.task import Task
from ..errors import MismatchError
from ..objects import PICKLE, Pickler
from .base import NO_DTYPE, PlanBase

__all__ = ["GroupPlans"]

_INT64 = np.dtype(np.int64)


class GroupPlans(PlanBase):
    """Dup, split, create and group; the result is a Conversation."""

    def __init__(self, engine: Engine, conversation: Conversation, pickler: Pickler | None = PICKLE) -> None:
        super().__init__(engine, conversation, pickler)
        self._groups: Counter[tuple[tuple[int, ...], int]] = Counter()

    def dup(self) -> Task:
        number = 0

        def steps(call: Call) -> Steps:
            # Every rank computes the same number: there is nothing to tell.
            nonlocal number
            number = self._engine.descendant(self._conversation, "dup", call.number)
            yield ()

        def finish() -> Conversation:
            return self._engine.join(number, self._conversation.ranks)

        return self._collective("dup", fingerprint("dup", NO_DTYPE, 0), steps, finish)

    def group(self, members: tuple[int, ...], tag: int) -> Task:
        """A Context of some ranks, in this order; they alone call it, and tell calls at the same time apart by the tag."""
        members = self._members(members)
        tag = operator.index(tag)
        number = 0

        def steps(task: Task) -> Steps:
            # The calls of all ranks together have no numbers here: each of a group's own has one that its members agree on.
            nonlocal number
            self._groups[members, tag] += 1
            number = self._engine.descendant(self._conversation, "group", members, tag, self._groups[members, tag])
            yield ()

        def finish() -> Conversation:
            return self._engine.join(number, self._engine_ranks(members))

        return Task("group", steps, finish, NO_FACTS)

    def create(self, members: tuple[int, ...]) -> Task:
        """A Context of the ranks of this rank's group, in this order; all ranks call it, some with other groups.

        None where this rank does not belong to its own group.  MismatchError where a member has given another group; the
        ranks whose groups are the same on all their members get their Contexts.
        """
        members = self._members(members)
        belongs = self._rank in members
        number = 0

        def mine(call: Call) -> tuple[int, int, int]:
            nonlocal number
            number = self._engine.descendant(self._conversation, "create", call.number, members)
            return int(belongs), number >> 1, 0  # 63 bits

        def finish(everyone: list[list[int]], call: Call) -> Conversation | None:
            if not belongs:
                return None
            for member in members:
                if everyone[member][:2] != [1, number >> 1]:
                    here, there = f"create of the group of ranks {repr_of(members)}", "create of another group"
                    ranks = self._conversation.ranks
                    raise MismatchError(call.label, ranks[self._rank], here, ranks[member], there)
            return self._engine.join(number, self._engine_ranks(members))

        return self._telling("create", mine, finish)

    def split(self, color: int | None, key: int) -> Task:
        own = (0, 0, 0) if color is None else (1, _int64(color, "color"), _int64(key, "key"))

        def finish(everyone: list[list[int]], call: Call) -> Conversation | None:
            if color is None:
                return None
            members = [rank for rank, each in enumerate(everyone) if each[:2] == [1, own[1]]]
            members.sort(key=lambda rank: (everyone[rank][2], rank))
            number = self._engine.descendant(self._conversation, "split", call.number, own[1])
            return self._engine.join(number, self._engine_ranks(members))

        return self._telling("split", lambda call: own, finish)

    def _telling(
        self,
        name: str,
        own: Callable[[Call], tuple[int, int, int]],
        finish: Callable[[list[list[int]], Call], Conversation | None],
    ) -> Task:
        """A collective in which every rank tells three integers to all others."""
        everyone = np.empty((self._size, 3), _INT64)
        call: Call

        def steps(its: Call) -> Steps:
            nonlocal call
            call = its
            yield from allgather.bruck(its, np.array(own(its), _INT64), everyone.reshape(-1))

        return self._collective(name, fingerprint(name, _INT64, 0), steps, lambda: finish(everyone.tolist(), call))

    def _members(self, ranks: Iterable[int]) -> tuple[int, ...]:
        """Ranks as ints; ValueError where one is none of this Context, or is there twice."""
        members = tuple(self._peer(rank, "a member") for rank in ranks)
        if len(set(members)) < len(members):
            raise ValueError(f"members must be different, not {repr_of(members)}")
        return members

    def _engine_ranks(self, members: Iterable[int]) -> tuple[int, ...]:
        return tuple(self._ranks[rank] for rank in members)


def _int64(value: int, name: str) -> int:
    number = operator.index(value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit 64 bits, not {number}")
    return number
