"""Shrinking: the survivors of a loss agree on who they are.

Flooding that stops early, after D. Dolev, R. Reischuk, H. R. Strong, Early stopping in Byzantine agreement, JACM 37 (1990),
doi:10.1145/96559.96565, for ranks that stop and whose end is seen: in every round all tell all whom they know to be alive,
and wait for the same of all of these or for the end of their streams.  A rank whose view was everybody's decides, and tells;
a rank that is told adopts that and passes it on before it returns.  Streams keep their order, so whoever misses the word of
a round gets the decision in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import ContextClosedError, OperationTimeoutError
from .remnants import Remnants, Said, Word

if TYPE_CHECKING:
    from ..transport.endpoint import Peer

__all__ = ["agree"]

# How long to wait before the budget is looked at again.
_LOOK_SECONDS = 1.0


def agree(remnants: Remnants, rank: int, members: Iterable[int], peers: Sequence[Peer], deadline: Deadline) -> list[int]:
    """Return the ranks that go on, in ascending order: the same list on all of them.

    Somebody on it may have died since.

    Parameters
    ----------
    rank : int
        This one.
    members : iterable of int
        Who takes part, this rank included, if they are alive.
    peers : sequence of Peer
        For error texts.

    Raises
    ------
    ContextClosedError
        The others have lost this rank, and go on without it.
    OperationTimeoutError
        A rank that is alive has not called this within the budget.
    """
    view = _mask(other for other in members if other == rank or other in remnants.sockets) & ~_mask(remnants.gone)
    said: dict[tuple[int, int], int] = {}  # by rank and round
    decided: dict[int, int] = {}  # by rank
    number = 0
    while True:
        number += 1
        _tell(remnants, rank, view, Word(Said.VIEW, number, view))
        missing = [other for other in _ranks(view) if other != rank]
        while missing and not decided:
            _hear(remnants, said, decided, missing, peers, deadline)
            missing = [other for other in missing if (other, number) not in said and other not in remnants.gone]
        if decided:
            choice = next(iter(decided.values()))
            break
        views = [said[other, number] for other in _ranks(view) if (other, number) in said]
        unanimous = len(views) == view.bit_count() - 1 and all(each == view for each in views)
        if unanimous:
            choice = view
            break
        for each in views:
            view &= each
        view &= ~_mask(remnants.gone)
        if not view >> rank & 1:
            raise ContextClosedError("the other ranks have lost the connection to this one, and go on without it")
    _tell(remnants, rank, _mask(remnants.sockets), Word(Said.DECIDED, number, choice))
    if not choice >> rank & 1:
        raise ContextClosedError("the other ranks have lost the connection to this one, and go on without it")
    # Behind a rank's decision comes what it does next: all before it has to be gone from the streams.
    others = [other for other in _ranks(choice) if other != rank]
    while silent := [other for other in others if other not in decided and other not in remnants.gone]:
        _hear(remnants, said, decided, silent, peers, deadline)
    while remnants.unsent & set(others):
        _hear(remnants, said, decided, sorted(remnants.unsent), peers, deadline)
    return _ranks(choice)


def _tell(remnants: Remnants, rank: int, view: int, word: Word) -> None:
    for other in _ranks(view):
        if other != rank and other not in remnants.gone:
            remnants.say(other, word)


def _hear(
    remnants: Remnants,
    said: dict[tuple[int, int], int],
    decided: dict[int, int],
    waited_for: list[int],
    peers: Sequence[Peer],
    deadline: Deadline,
) -> None:
    remaining = deadline.remaining()
    if remaining == 0.0:
        assert deadline.timeout is not None
        names = ", ".join(str(peers[other]) for other in waited_for)
        raise OperationTimeoutError("shrink", deadline.timeout, f"no word from {names}: all survivors must call it")
    remnants.listen(_LOOK_SECONDS if remaining is None else min(remaining, _LOOK_SECONDS))
    for other, words in remnants.words.items():
        while words:
            word = words.popleft()
            if word.kind is Said.DECIDED:
                decided[other] = word.view
            else:
                said[other, word.round] = word.view


def _mask(ranks: Iterable[int]) -> int:
    mask = 0
    for rank in ranks:
        mask |= 1 << rank
    return mask


def _ranks(mask: int) -> list[int]:
    return [rank for rank in range(mask.bit_length()) if mask >> rank & 1]
