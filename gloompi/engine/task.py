"""A Task: a call of the user's, from being checked to its result; resumed whenever what it waits for has completed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any

from .matching import Probe
from .operation import DONE, Operation, Receive, Send, Steps

if TYPE_CHECKING:
    from ..transport.link import Link
    from .conversation import Conversation

__all__ = ["AnyOf", "Awaited", "Task", "Waiting"]

# Guards who is to be told of the end of a task: any thread may want to know, whoever uses the engine.
_telling = RLock()


def _renew() -> None:
    global _telling
    _telling = RLock()  # a thread that a forked process has not got may have had it


os.register_at_fork(after_in_child=_renew)


class Awaited:
    """Something that is done at some time, and tells whoever wants to know.

    Attributes
    ----------
    done : bool
    ended : tuple of callable
        Called when it is done, see `tell`.
    """

    done: bool = False
    ended: tuple[Callable[[], None], ...] = ()

    def tell(self, callback: Callable[[], None]) -> None:
        """Have a function called once when the task is done, inside whatever call ends it, of any thread; or now."""
        with _telling:
            self.ended += (callback,)
        if self.done:
            self._tell()

    def tell_no_more(self, callback: Callable[[], None]) -> None:
        """Take back what `tell` was given, if it has not been called."""
        with _telling:
            self.ended = _without(self.ended, callback)

    def _tell(self) -> None:
        with _telling:
            ended, self.ended = self.ended, ()
        for each in ended:
            each()


class Task(Awaited):
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
        Called when the task is done; see `tell`.
    failure : exception or None
        What there is instead of a result.
    prompt : bool
        The caller waits for the result: a receive may be awaited for a moment where it is posted.
    recorded : bool
        It has ended, and is in the history.
    thread : int
        Who has begun a request; 0 where the caller waits for it.
    """

    asked = False
    awaited: Sequence[Operation] = ()
    failure: BaseException | None = None
    result: Any = None
    number = 0
    began: float
    conversation: Conversation | None = None
    peer = -1
    prompt: bool
    recorded = False
    thread = 0
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

    def ask(self, ask: Callable[[Receive], None]) -> None:
        if not self.asked:
            self.asked = True
            for operation in self.awaited:
                if isinstance(operation, Receive) and not operation.done:
                    ask(operation)

    def hopeless(self, gone: Callable[[Operation], Link | None]) -> Link | None:
        found = (gone(operation) for operation in self.awaited if not operation.done)
        return next((link for link in found if link is not None), None)

    def notify(self) -> None:
        """An awaited operation has completed."""
        self._pending -= 1
        if not self._pending:
            self.awaited = ()  # or it would keep what has come until it waits for something else
            self._ready.append(self)

    def fail(self, failure: Exception) -> None:
        """End with the failure of what an awaited operation has computed, when it is this task's turn."""
        self._way.close()
        self._way = _failing(failure)
        self._pending, self.awaited = 0, ()
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
                    if self.asked:
                        self.asked = False
                        AnyOf.outdated += 1
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
        if self.ended:  # `_tell`: one call less for each request
            with _telling:
                ended, self.ended = self.ended, ()
            for each in ended:
                each()

    def outcome(self) -> Any:
        """The result of a task that is done; raises what its making has failed with."""
        if self.failure is not None:
            raise self.failure
        return self.result


def _failing(failure: Exception) -> Steps:
    raise failure
    yield ()


def _without(callbacks: tuple[Callable[[], None], ...], callback: Callable[[], None]) -> tuple[Callable[[], None], ...]:
    return tuple(each for each in callbacks if each is not callback)


class AnyOf(Awaited):
    """Done when one of several tasks is, which tell it: `while_told` has to be entered first.

    Attributes
    ----------
    outdated : int
        How often a task has gone on to wait for something else after its peers were asked.
    """

    outdated = 0

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._asked = -1
        self._looked = 0.0

    @contextmanager
    def while_told(self) -> Iterator[None]:
        """Be told by the tasks."""
        tell = self._end
        try:
            with _telling:
                for task in self._tasks:
                    task.ended += (tell,)
            if any(task.done for task in self._tasks):
                self._end()
            yield
        finally:
            with _telling:
                for task in self._tasks:
                    ended = task.ended
                    if ended:  # and nearly always this one was the last to ask
                        task.ended = ended[:-1] if ended[-1] is tell else _without(ended, tell)

    def _end(self) -> None:
        self.done = True
        if self.ended:
            self._tell()

    @property
    def label(self) -> str:
        return f"wait for any of {len(self._tasks)} requests"

    @property
    def name(self) -> str:
        return "it"

    @property
    def awaited(self) -> Sequence[Operation]:
        return [operation for task in self._tasks for operation in task.awaited]

    @property
    def asked(self) -> bool:
        return self._asked == AnyOf.outdated

    def ask(self, ask: Callable[[Receive], None]) -> None:
        self._asked = AnyOf.outdated
        for task in self._tasks:
            task.ask(ask)

    def stalled(self, seconds: float) -> bool:
        """As of a task.  Of many tasks this takes its time: within half of `seconds` it is not looked at again."""
        now = monotonic()
        if now - self._looked < seconds / 2:
            return False
        self._looked = now
        stalled = True
        for task in self._tasks:
            if not task._since:
                task._since = now
            stalled = stalled and now - task._since >= seconds
        return stalled

    def hopeless(self, gone: Callable[[Operation], Link | None]) -> Link | None:
        lost = None
        for task in self._tasks:
            lost = task.hopeless(gone)
            if lost is None:
                return None
        return lost


Waiting = Task | AnyOf
"""What an engine can wait for."""


def peer_of(operation: Operation) -> int:
    """The rank at the other end; -1 for any."""
    if isinstance(operation, Receive | Probe):
        return operation.source
    assert isinstance(operation, Send)
    return operation.dest
