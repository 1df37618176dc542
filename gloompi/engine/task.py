"""A Task: a call of the user's, from being checked to its result; resumed whenever what it waits for has completed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from .matching import Probe
from .operation import DONE, Operation, Receive, Send, Steps

if TYPE_CHECKING:
    from ..transport.link import Link
    from .conversation import Conversation

__all__ = ["AnyOf", "Task", "Waiting"]


class Waiting(Protocol):
    """What an engine can wait for."""

    asked: bool
    """Its peers have been asked whether they are in the same call."""

    ended: tuple[Callable[[], None], ...]
    """Called when it is done."""

    @property
    def done(self) -> bool: ...

    @property
    def label(self) -> str:
        """For error texts: ``"allreduce #17"``."""

    @property
    def name(self) -> str: ...

    @property
    def awaited(self) -> Sequence[Operation]:
        """What has to complete first."""

    def stalled(self, seconds: float) -> bool:
        """Whether it has waited for the same operations since a call that long ago."""

    def hopeless(self, gone: Callable[[Operation], Link | None]) -> Link | None:
        """The peer without which it cannot end, if `gone` says that there is one."""


class Task:
    """One call of the user's, which has been checked and can start.

    Parameters
    ----------
    name : str
        What error texts call it: ``"allreduce"``.
    steps : callable
        Makes the steps from the task, when it starts.
    finish : callable
        Makes the result when the steps have ended.
    mark : bytes
        Its fingerprint.
    peer : int
        The other rank of a message, in its Context; -1 if there is none, or any will do.

    Attributes
    ----------
    began : float
        When the user called, by `time.monotonic`.
    conversation : Conversation or None
        Whose call it is.
    number : int
        In its Context; 0 if it has none, -1 if it gets one when it begins.
    ended : tuple of callable
        Called when the task is done.
    failure : exception or None
        What there is instead of a result.
    prompt : bool
        The caller waits for the result: a receive may be awaited for a moment where it is posted.
    recorded : bool
        It has failed, and is in the history.
    """

    asked = False
    awaited: Sequence[Operation] = ()
    done = False
    ended: tuple[Callable[[], None], ...] = ()
    failure: BaseException | None = None
    result: Any = None
    number = 0
    began: float
    conversation: Conversation | None = None
    peer = -1
    prompt: bool
    recorded = False
    _pending = 0
    _since = 0.0
    _way: Steps

    def __init__(
        self, name: str, steps: Callable[[Any], Steps], finish: Callable[[], Any], mark: bytes, peer: int = -1
    ) -> None:
        self.name = name
        self.steps = steps
        self.finish = finish
        self.mark = mark
        self.peer = peer

    @property
    def label(self) -> str:
        """``"allreduce #17"``."""
        return f"{self.name} #{self.number}" if self.number > 0 else self.name

    def start(self, ready: deque[Task], prompt: bool) -> None:
        """Run it until it has to wait for something.

        Parameters
        ----------
        ready
            Where the task puts itself when it can go on.
        prompt
            The caller waits for the result.
        """
        self._ready = ready
        self.prompt = prompt
        self._way = self.steps(self)
        self.advance()

    def stalled(self, seconds: float) -> bool:
        """Whether the task has waited for the same operations since a call that long ago."""
        now = monotonic()
        self._since = self._since or now
        return now - self._since >= seconds

    def hopeless(self, gone: Callable[[Operation], Link | None]) -> Link | None:
        found = (gone(operation) for operation in self.awaited if not operation.done)
        return next((link for link in found if link is not None), None)

    def notify(self) -> None:
        """An awaited operation has completed."""
        self._pending -= 1
        if not self._pending:
            self._ready.append(self)

    def advance(self) -> None:
        """Run the algorithm until it waits for something that is not done, or ends."""
        if self.done:
            return  # it has failed meanwhile
        try:
            for wanted in self._way:
                if wanted is DONE:
                    continue
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
        except BaseException as exc:
            self._end(exc)
            raise
        try:
            self.result = self.finish()
        except Exception as exc:
            self._end(exc)  # of this result alone: everything has been sent and received
            return
        self.done = True
        if self.awaited or self.ended:
            self._end()

    def abandon(self, failure: BaseException | None = None) -> None:
        """Be done without a result: what was awaited will not come, or has been taken back."""
        self._way.close()
        self._end(failure)

    def _end(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.done = True
        self.awaited = ()
        if self.ended:
            ended, self.ended = self.ended, ()
            for each in ended:
                each()

    def outcome(self) -> Any:
        """The result of a task that is done; raises what its making has failed with."""
        if self.failure is not None:
            raise self.failure
        return self.result


class AnyOf:
    """Done when one of several tasks is."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self.asked = False

    @property
    def done(self) -> bool:
        return any(task.done for task in self._tasks)

    @property
    def label(self) -> str:
        return f"wait for any of {len(self._tasks)} requests"

    @property
    def name(self) -> str:
        return "it"

    @property
    def awaited(self) -> Sequence[Operation]:
        return [operation for task in self._tasks for operation in task.awaited]

    def stalled(self, seconds: float) -> bool:
        stalled = [task.stalled(seconds) for task in self._tasks]  # each begins to count when it is asked
        return all(stalled)

    def hopeless(self, gone: Callable[[Operation], Link | None]) -> Link | None:
        found = [task.hopeless(gone) for task in self._tasks]
        return None if None in found else found[0]


def peer_of(operation: Operation) -> int:
    """The rank at the other end; -1 for any."""
    if isinstance(operation, Receive | Probe):
        return operation.source
    assert isinstance(operation, Send)
    return operation.dest
