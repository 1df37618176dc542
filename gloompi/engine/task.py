"""A Task: an algorithm on its way, resumed whenever what it waits for has completed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from .operation import Operation, Receive, Send, Steps

__all__ = ["Task"]


class Task:
    """One call of the user's.

    Parameters
    ----------
    steps : generator
        The algorithm.
    name : str
        What error texts call it: ``"allreduce"``.
    number : int
        Its number in its Context, 0 if it has none.
    finish : callable
        Makes the result when the algorithm has ended.
    ready : deque
        Where the task puts itself when it can go on.
    """

    __slots__ = (
        "_finish",
        "_name",
        "_number",
        "_pending",
        "_ready",
        "_since",
        "_steps",
        "asked",
        "awaited",
        "done",
        "result",
    )

    def __init__(self, steps: Steps, name: str, number: int, finish: Callable[[], Any], ready: deque[Task]) -> None:
        self._steps = steps
        self._name = name
        self._number = number
        self._finish = finish
        self._ready = ready
        self._pending = 0
        self._since = 0.0
        self.asked = False
        self.awaited: Sequence[Operation] = ()
        self.done = False
        self.result: Any = None

    @property
    def label(self) -> str:
        """``"allreduce #17"``."""
        return f"{self._name} #{self._number}" if self._number else self._name

    @property
    def name(self) -> str:
        return self._name

    def stalled(self, seconds: float) -> bool:
        """Whether the task has waited for the same operations since a call that long ago."""
        now = monotonic()
        self._since = self._since or now
        return now - self._since >= seconds

    def notify(self) -> None:
        """An awaited operation has completed."""
        self._pending -= 1
        if not self._pending:
            self._ready.append(self)

    def advance(self) -> None:
        """Run the algorithm until it waits for something that is not done, or ends."""
        try:
            while True:
                wanted = next(self._steps)
                awaited = (wanted,) if isinstance(wanted, Operation) else wanted
                pending = 0
                for operation in awaited:
                    if not operation.done:
                        operation.waiter = self
                        pending += 1
                if pending:
                    self._pending = pending
                    self.awaited = awaited
                    self._since = 0.0
                    self.asked = False
                    return
        except StopIteration:
            self.result = self._finish()
            self.done = True
            self.awaited = ()


def peer_of(operation: Operation) -> int:
    if isinstance(operation, Receive):
        return operation.source
    assert isinstance(operation, Send)
    return operation.dest
