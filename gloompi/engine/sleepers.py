"""Sleepers: the threads that wait in an engine.  One of them polls for all, and tells the others what has come for them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .polling import Poller
from .turn import Turn

if TYPE_CHECKING:
    from .task import Awaited

__all__ = ["Sleepers"]


class Sleepers:
    """The threads that wait in an engine.

    The first that sleeps does so in the poller, and serves all connections when it wakes.  Others sleep until their call
    has ended, or until that one has left and they are the next to poll.  All of them let go of the turn meanwhile.

    Parameters
    ----------
    turn : Turn
    poller : Poller

    Attributes
    ----------
    calls : dict of int to Awaited
        What each of them waits for, by thread.
    """

    __slots__ = ("_dozing", "_poller", "_polling", "_turn", "calls")

    def __init__(self, turn: Turn, poller: Poller) -> None:
        self._turn = turn
        self._poller = poller
        self._polling = False
        self._dozing: dict[int, threading.Event] = {}
        self.calls: dict[int, Awaited] = {}

    def sleep(self, task: Awaited, seconds: float | None, beside: Sequence[int] = ()) -> None:
        """Sleep until something has come, `task` is done, or the time is up.

        Called by the holder of the turn, who has it again afterwards.  `beside`: other descriptors that may wake it.
        """
        me = threading.get_ident()
        polls = not self._polling or sys.is_finalizing()  # when the interpreter ends, all other threads stand still
        event = None if polls else threading.Event()
        tell = self._poller.wake if event is None else event.set
        self.calls[me] = task
        task.tell(tell)  # of what whoever else has the turn meanwhile does for it
        try:
            if event is None:
                self._polling = True
                self._poller.sleep(seconds, self._turn, beside)
            else:
                self._dozing[me] = event
                self._doze(event, seconds)
        finally:
            if polls:
                self._polling = False
            self._dozing.pop(me, None)
            del self.calls[me]
            task.tell_no_more(tell)

    def _doze(self, event: threading.Event, seconds: float | None) -> None:
        self._turn.rest()
        try:
            event.wait(seconds)
        finally:
            self._turn.resume()

    def rouse(self) -> None:
        """See to it that somebody polls, before the turn is given away."""
        if self._dozing and not self._polling:
            next(iter(self._dozing.values())).set()

    def rouse_all(self) -> None:
        """Wake all: the engine has ended."""
        if self._polling:
            self._poller.wake()
        for event in tuple(self._dozing.values()):
            event.set()
