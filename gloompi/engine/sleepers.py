"""Sleepers: the threads that wait in an engine.  One of them polls for all, and tells the others what has come for them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .alarm import Alarm
from .polling import Poller, sleep_on
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
    pressing : callable
        Whether there is something to do for which nothing has to come.

    Attributes
    ----------
    calls : dict of int to Awaited
        What each of them waits for, by thread.
    """

    __slots__ = ("_dozing", "_poller", "_polling", "_pressing", "_turn", "calls")

    def __init__(self, turn: Turn, poller: Poller, pressing: Callable[[], bool]) -> None:
        self._turn = turn
        self._poller = poller
        self._pressing = pressing
        self._polling = False
        self._dozing: dict[int, threading.Event | _Bell] = {}
        self.calls: dict[int, Awaited] = {}

    def sleep(self, task: Awaited, seconds: float | None, beside: Sequence[int] = ()) -> None:
        """Sleep until something has come, `task` is done, or the time is up.

        Called by the holder of the turn, who has it again afterwards.  `beside`: other descriptors that may wake it.
        """
        me = threading.get_ident()
        polls = not self._polling or sys.is_finalizing()  # when the interpreter ends, all other threads stand still
        event = None if polls else _Bell(beside) if beside else threading.Event()
        tell = self._poller.wake if event is None else event.set
        self.calls[me] = task
        task.tell(tell)  # of what whoever else has the turn meanwhile does for it
        try:
            if event is None:
                self._polling = True
                self._poller.sleep(seconds, self._turn, beside)
            else:
                self.rouse()  # for what this one has begun
                self._dozing[me] = event
                self._doze(event, seconds)
        finally:
            if polls:
                self._polling = False
            self._dozing.pop(me, None)
            del self.calls[me]
            task.tell_no_more(tell)
            if isinstance(event, _Bell):
                event.close()

    @contextmanager
    def aside(self, task: Awaited) -> Iterator[None]:
        """Around giving the turn away for a moment while `task` is waited for, without sleeping."""
        me = threading.get_ident()
        self.calls[me] = task
        try:
            yield
        finally:
            del self.calls[me]

    def _doze(self, event: threading.Event | _Bell, seconds: float | None) -> None:
        self._turn.rest()
        try:
            event.wait(seconds)
        finally:
            self._turn.resume()

    def rouse(self) -> None:
        """See to it that somebody polls, for all that there is to do, before the turn is given away."""
        if self._polling:
            self._poller.remind(self._pressing())
        elif self._dozing:
            next(iter(self._dozing.values())).set()

    def rouse_all(self) -> None:
        """Wake all: the engine has ended."""
        if self._polling:
            self._poller.wake()
        for event in tuple(self._dozing.values()):
            event.set()


class _Bell(Alarm):
    """An event for a thread that sleeps, which descriptors that become readable wake as well."""

    __slots__ = ("_beside",)

    def __init__(self, beside: Sequence[int]) -> None:
        super().__init__()
        self._beside = beside

    set = Alarm.ring

    def wait(self, seconds: float | None) -> None:
        sleep_on([self.fd, *self._beside], seconds)
