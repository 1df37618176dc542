"""Elsewhere: what a thread has begun on other engines than the one that it sleeps in.

Their peers may need it to get to what is waited for here, so it goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from math import inf
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, cast

from ..deadline import Deadline
from ..errors import GloompiError
from .connections import alive, all_alive

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Elsewhere"]

# How long to sleep where another thread is in such an engine: it moves the bytes, for as long as it is there.
_BUSY_SECONDS = 0.05


class Elsewhere:
    """The other engines on which this thread has begun what is under way.

    Parameters
    ----------
    engines
        In these it is going to sleep.
    """

    def __init__(self, engines: Collection[Engine]) -> None:
        self._engines: list[Engine] = []
        if len(alive) > len(engines):
            me = get_ident()
            others = [cast("Engine", each) for each in all_alive()]
            self._engines = [each for each in others if each not in engines and each.concerns(me)]

    def prepare(self, seconds: float | None) -> tuple[list[int], float | None]:
        """Descriptors that become readable when there is something to move there, and how long of `seconds` to sleep."""
        descriptors = []
        until = inf
        for each in self._engines:
            try:
                descriptors.append(each.exclusively(Deadline(0.0), "wait", each.prepare_sleep))
                until = min(until, each.due)
            except (GloompiError, RuntimeError):  # broken by now, or another thread is in it
                until = min(until, monotonic() + _BUSY_SECONDS)
        if until != inf:
            left = max(0.0, until - monotonic())
            seconds = left if seconds is None else min(seconds, left)
        return descriptors, seconds

    def move(self) -> None:
        """Move what can be moved there without waiting; errors are kept for the next call of those engines."""
        for each in self._engines:
            with suppress(GloompiError, RuntimeError):
                each.exclusively(Deadline(0.0), "wait", each.nudge)
