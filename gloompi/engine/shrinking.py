"""Shrinking: the survivors of a loss agree on who they are.

Flooding that stops early, after D. Dolev, R. Reischuk, H. R. Strong, Early stopping in Byzantine agreement, JACM 37 (1990),
doi:10.1145/96559.96565, for ranks that stop and whose end is seen: in every round all tell all whom they know to be alive,
and wait for the same of all of these or for the end of their streams.  A rank whose view was everybody's decides, and tells;
a rank that is told adopts that and passes it on before it returns.  Streams keep their order, so whoever misses the word of
a round gets the decision in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import ContextClosedError, OperationTimeoutError
from ..transport.frames import Kind
from .remnants import Remnants, Word

if TYPE_CHECKING:
    from ..transport.endpoint import Peer

__all__ = ["Agreement"]

# How long to wait before the budget is looked at again.
_LOOK_SECONDS = 1.0

_EXCLUDED = "another rank has lost the connection to this one, and the others go on without it"


class Agreement:
    """One rank's part in agreeing on who goes on.

    Parameters
    ----------
    remnants : Remnants
    rank : int
        This one.
    peers : sequence of Peer
        For error texts.
    deadline : Deadline
    given_up : callable
        Whether the user has closed or aborted the Context since.
    """

    def __init__(
        self,
        remnants: Remnants,
        rank: int,
        peers: Sequence[Peer],
        deadline: Deadline,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._remnants = remnants
        self._rank = rank
        self._peers = peers
        self._deadline = deadline
        self._given_up = given_up
        self._said: dict[tuple[int, int], int] = {}  # views, by rank and round
        self._decided: dict[int, int] = {}  # views, by rank
        self._members: set[int] = set()

    def reach(self, members: Iterable[int]) -> list[int]:
        """Return those of `members` that go on, in ascending order: the same list on all of them.

        Somebody on it may have died since.

        Raises
        ------
        ContextClosedError
            The others have lost this rank, and go on without it; or it was closed or aborted meanwhile.
        OperationTimeoutError
            A rank that is alive has not called this within the budget.
        """
        self._members = set(members)
        number, choice = self._flood(_mask(self._members))
        self._pass_on(number, choice)
        # Decisions differ only where connections between living ranks have broken while ranks died: that is a split.
        if not choice >> self._rank & 1 or any(view != choice for view in self._decided.values()):
            raise ContextClosedError(_EXCLUDED)
        return _ranks(choice)

    def _flood(self, members: int) -> tuple[int, int]:
        """The round in which this rank has decided, or was told, and what."""
        remnants, rank, said = self._remnants, self._rank, self._said
        view = members & (_mask(remnants.ranks) | 1 << rank)
        number = 0
        while True:
            number += 1
            for other in remnants.ranks & set(_ranks(view)):
                remnants.say(other, Word(Kind.VIEW, number, view))
            others = [other for other in _ranks(view) if other != rank]
            while not self._decided and any(self._missing(other, number) for other in others):
                self._hear([other for other in others if self._missing(other, number)])
            if self._decided:
                return number, next(iter(self._decided.values()))
            views = [said[other, number] for other in others if (other, number) in said]
            if len(views) == len(others) and all(each == view for each in views):
                return number, view
            for each in views:
                view &= each
            view &= ~_mask(remnants.gone)
            if not view >> rank & 1:
                raise ContextClosedError(_EXCLUDED)

    def _missing(self, other: int, number: int) -> bool:
        return (other, number) not in self._said and other not in self._remnants.gone

    def _pass_on(self, number: int, choice: int) -> None:
        """Tell the decision to all, and wait until those that go on with this rank have told it theirs."""
        remnants, word = self._remnants, Word(Kind.DECIDED, number, choice)
        others = set(_ranks(choice)) - {self._rank} if choice >> self._rank & 1 else set()
        untold = remnants.ranks & self._members
        while True:
            for other in untold & remnants.ranks:
                # What a peer says next may be for the next engine: not before its own words are being read as such.
                if other not in others or other in remnants.heard:
                    remnants.say(other, word)
                    untold.discard(other)
            silent = {other for other in others & remnants.ranks if other in untold or other not in self._decided}
            waited_for = sorted(silent | (remnants.unsent & self._members))
            if not waited_for:
                return
            self._hear(waited_for)

    def _hear(self, waited_for: list[int]) -> None:
        if self._given_up():
            raise ContextClosedError("this Context was closed or aborted while it was being shrunk")
        remaining = self._deadline.remaining()
        if remaining == 0.0:
            assert self._deadline.timeout is not None
            names = ", ".join(str(self._peers[other]) for other in waited_for)
            raise OperationTimeoutError(
                "shrink", self._deadline.timeout, f"no word from {names}: all survivors must call it"
            )
        self._remnants.listen(_LOOK_SECONDS if remaining is None else min(remaining, _LOOK_SECONDS))
        for other, words in self._remnants.words.items():
            while words:
                word = words.popleft()
                if other not in self._members:
                    continue  # of another Context over the same connections, which goes on without this rank
                if word.kind == Kind.DECIDED:
                    self._decided[other] = word.view
                else:
                    self._said[other, word.round] = word.view


def _mask(ranks: Iterable[int]) -> int:
    mask = 0
    for rank in ranks:
        mask |= 1 << rank
    return mask


def _ranks(mask: int) -> list[int]:
    return [rank for rank in range(mask.bit_length()) if mask >> rank & 1]
