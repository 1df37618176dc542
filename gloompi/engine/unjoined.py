"""Unjoined: what has come for Contexts that this rank has not made yet.

Ranks make a Context out of another one without a message, each in its own time: a peer may use it before this rank has it.
No channel is made for that, or a peer could have any number of them made; frames wait here as they came, until the Context
is made, and each counts among what is kept for its sender.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from ..transport.frames import Kind
from ..transport.link import Link
from .matching import Arrival

__all__ = ["Parked", "Unjoined", "in_order"]


class Parked(NamedTuple):
    """A frame that waits.

    Attributes
    ----------
    arrival : Arrival or None
        The message that it brings or announces.
    """

    link: Link
    kind: int
    channel: int
    tag: int
    fingerprint: bytes
    arrival: Arrival | None = None


class Unjoined:
    """Frames by the number of their Context."""

    __slots__ = ("_frames",)

    def __init__(self) -> None:
        self._frames: dict[int, list[Parked]] = {}

    def put(self, frame: Parked) -> None:
        """Add a frame, after the others of its Context."""
        self._frames.setdefault(frame.channel & ~1, []).append(frame)

    def knows(self, number: int) -> bool:
        """Whether anything waits for the Context of a channel."""
        return number & ~1 in self._frames

    def take(self, number: int) -> list[Parked]:
        """Remove and return what waits for the Context with a number, in the order of its coming."""
        return self._frames.pop(number, [])

    def clear(self) -> None:
        self._frames.clear()


def in_order(frames: Iterable[Parked]) -> tuple[list[Parked], list[Parked]]:
    """Frames with each pushed message in the place of its announcement, as it is matched; and what is left over by that.

    Left over are the announcements whose messages have come, and what was pushed without having been announced.
    """
    kept: list[Parked] = []
    left: list[Parked] = []
    announced: dict[tuple[int, int, int], deque[int]] = {}
    for frame in frames:
        key = (frame.channel, frame.link.rank, frame.tag)
        if frame.kind != Kind.PUSHED:
            if frame.kind in (Kind.ANNOUNCE, Kind.OFFER):
                announced.setdefault(key, deque()).append(len(kept))
            kept.append(frame)
        elif places := announced.get(key):
            place = places.popleft()
            left.append(kept[place])
            kept[place] = frame
        else:
            left.append(frame)
    return kept, left
