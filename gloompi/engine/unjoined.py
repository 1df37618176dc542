"""Unjoined: what has come for Contexts that this rank has not made yet.

Ranks make a Context out of another one without a message, each in its own time: a peer may use it before this rank has it.
No channel is made for that, or a peer could have any number of them made; frames wait here as they came, until the Context
is made, and each counts among what is kept for its sender.
"""

from __future__ import annotations

from typing import NamedTuple

from ..transport.frames import Kind
from ..transport.link import Link
from .matching import Arrival

__all__ = ["Parked", "Unjoined"]


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

    __slots__ = ("_announced", "_frames")

    def __init__(self) -> None:
        self._frames: dict[int, list[Parked]] = {}
        # Messages that have not come, by channel, sender, and number of the announcement.
        self._announced: dict[tuple[int, int, int], Arrival] = {}

    def put(self, frame: Parked) -> None:
        """Add a frame, after the others of its Context."""
        self._frames.setdefault(frame.channel & ~1, []).append(frame)
        if frame.kind == Kind.ANNOUNCE:
            assert frame.arrival is not None
            self._announced[frame.channel, frame.link.rank, frame.arrival.number] = frame.arrival

    def come(self, channel: int, rank: int, number: int) -> Arrival | None:
        """Return the message that was announced with a number, and which comes now, in the place of its announcement."""
        return self._announced.pop((channel, rank, number), None)

    def knows(self, number: int) -> bool:
        """Return whether anything waits for the Context of a channel."""
        return number & ~1 in self._frames

    def take(self, number: int) -> list[Parked]:
        """Remove and return what waits for the Context with a number, in the order of its coming."""
        frames = self._frames.pop(number, [])
        for frame in frames:
            if frame.kind == Kind.ANNOUNCE and frame.arrival is not None:
                self._announced.pop((frame.channel, frame.link.rank, frame.arrival.number), None)
        return frames

    def clear(self) -> None:
        self._frames.clear()
        self._announced.clear()
