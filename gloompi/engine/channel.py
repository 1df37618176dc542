"""A Channel: one conversation of a Context, told apart by a number in every frame.

Each Context has two: one for the user's messages, one for its collectives, so that neither matches the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..transport.memory import Owner
from .fingerprint import describe
from .matching import Arrival, Matcher
from .operation import Receive, Send
from .queues import Queues

__all__ = ["REMEMBERED", "STEP_BITS", "Channel", "Disagreement", "label"]

# The tag of a collective's message is sequence << STEP_BITS | step.
STEP_BITS = 16

# Fingerprints of this many finished calls are kept, to name what this rank did when a peer does something else.
REMEMBERED = 1024


def label(fingerprint: bytes, tag: int) -> str:
    """What error texts call a call: ``"allreduce #17"``."""
    return f"{describe(fingerprint).partition('(')[0]} #{tag >> STEP_BITS}"


class Disagreement(Exception):
    """Internal: a peer's frame contradicts what this rank is doing."""

    def __init__(self, operation: str, here: str, other: int, there: str) -> None:
        super().__init__(operation)
        self.operation, self.here, self.other, self.there = operation, here, other, there


class Channel:
    """State of one conversation.

    Parameters
    ----------
    members : iterable of int
        The other ranks.

    Attributes
    ----------
    id : int
    collective : bool
        Receives are posted with the exact size, source and tag, and tags number the calls.
    sequence : int
        Number of the last collective call that this rank has begun.
    awaiting : Queues of Receive or Arrival
        By source and tag, what has been cleared: its DATA is on its way.
    waiting : Queues of Send
        By destination and tag, announced and offered sends that are still here.
    unanswered : Queues of int
        By destination and tag, numbers of the announcements that neither CLEAR nor TAKEN has come for: of what waits, and of
        what has been pushed.
    announced : dict of (source, number) to Receive or Arrival
        What the messages are for that have been announced, not offered, and have not come.
    cleared : set of (dest, tag)
        A CLEAR that came before its send was begun.
    refused : set of (dest, tag)
        Announced messages of this tag will never be asked for.
    held : set of Arrival
        What a matched probe has taken and nobody has received yet.
    unasked : Queues of Arrival
        By source and tag, those of them whose senders have not had an answer.
    members : frozenset of int
        The other ranks.
    departed : set of int
        Ranks that have closed their Context of this channel.
    closing : bool
        This rank is closing it, and has nothing to receive any more.
    closed : bool
        This rank has.
    """

    __slots__ = (
        "_calls",
        "_early",
        "_owner",
        "announced",
        "awaiting",
        "cleared",
        "closed",
        "closing",
        "collective",
        "departed",
        "held",
        "id",
        "matcher",
        "members",
        "refused",
        "sequence",
        "unanswered",
        "unasked",
        "waiting",
    )

    def __init__(self, number: int, collective: bool, members: Iterable[int] = ()) -> None:
        self.id = number
        self.collective = collective
        self.matcher = Matcher()
        self.sequence = 0
        self.awaiting: Queues[Receive | Arrival] = Queues()
        self.waiting: Queues[Send] = Queues()
        self.unanswered: Queues[int] = Queues()
        self.announced: dict[tuple[int, int], Receive | Arrival] = {}
        self.cleared: set[tuple[int, int]] = set()
        self.departed: set[int] = set()
        self.closing = self.closed = False
        self.refused: set[tuple[int, int]] = set()
        self.held: set[Arrival] = set()
        self.unasked: Queues[Arrival] = Queues()
        self.members = frozenset(members)
        self._calls = [b""] * REMEMBERED if collective else []  # a ring
        self._early: dict[int, dict[int, bytes]] = {}
        self._owner: Owner | None = None

    def begin(self, fingerprint: bytes) -> int:
        """Number the next collective call.

        Raises
        ------
        Disagreement
            A peer that was here first called something else.
        """
        self.sequence = sequence = self.sequence + 1
        self._calls[sequence % REMEMBERED] = fingerprint
        if self._early:
            for source, theirs in self._early.pop(sequence, {}).items():
                self.compare(source, sequence << STEP_BITS, theirs, fingerprint)
        return sequence

    def check(self, source: int, tag: int, theirs: bytes) -> None:
        """Compare the fingerprint of a frame that no receive waits for with the call it belongs to, now or later.

        For later, the first of each peer and call is kept.
        """
        sequence = tag >> STEP_BITS
        if sequence > self.sequence:
            early = self._early.get(sequence)
            if early is not None:
                early.setdefault(source, theirs)
            elif not self.closed:
                self._early[sequence] = {source: theirs}
        elif sequence > max(self.sequence - REMEMBERED, 0):
            self.compare(source, tag, theirs, self._calls[sequence % REMEMBERED])

    def compare(self, source: int, tag: int, theirs: bytes, mine: bytes) -> None:
        """Raise Disagreement if two fingerprints of one call differ."""
        if theirs != mine:
            here, there = describe(mine), describe(theirs)
            raise Disagreement(label(mine, tag), here, source, there)

    def forget_early(self) -> None:
        """Compare nothing any more with calls that will not begin."""
        self._early.clear()

    def hold(self, arrival: Arrival) -> None:
        """Keep a message for the one whose probe has taken it."""
        self.held.add(arrival)
        if arrival.payload is None or arrival.pushed:
            self.unasked.put(arrival.source, arrival.tag, arrival)

    def unreceived(self) -> list[Arrival]:
        """The messages that have no receive, whether a probe has taken them or not."""
        return [*self.matcher.early(), *self.held]

    def offer(self, payload: memoryview) -> bytes:
        """Pack the offer of a message that may be read in this process's memory until `revoke`."""
        if self._owner is None:
            self._owner = Owner()
        return self._owner.offer(payload)

    def revoke(self) -> None:
        """The memory of what was offered may change from now on."""
        if self._owner is not None:
            self._owner.revoke()

    @property
    def over(self) -> bool:
        """Whether all others have closed their Context of this channel."""
        return self.members <= self.departed

    def involves(self, rank: int) -> bool:
        """Whether anything outstanding cannot do without this peer.

        A message that is wanted of it, or waits for it, concerns only who waits for that: see `Messages.gone`.
        """
        return rank in self.awaiting or (self.collective and (self.matcher.awaits(rank) or rank in self.waiting))
