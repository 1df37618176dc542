"""The Engine: calls on their way over the connections of one rank.

Caller-driven: there is no thread; whoever waits moves the bytes of all.
"""

from __future__ import annotations

import atexit
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from time import monotonic
from typing import Any, TypeVar

from ..deadline import Deadline
from ..ending import at_the_end
from ..errors import ContextClosedError, GloompiError
from .connections import alive
from .conversation import Conversation
from .lateness import late
from .messages import CLOSED
from .operation import Receive
from .parting import Parting
from .task import Task, Waiting

__all__ = ["LATE_IMPORTS", "Engine"]

Result = TypeVar("Result")

# A rank that has waited this long within a collective asks whether its peers are in the same call.
_ASK_SECONDS = 0.05

# Turns of one test(): a transfer that goes on must not keep the caller.
_TEST_MOVES = 16

# What calls import when they need it. At the interpreter's end only what is loaded can be imported, and exit functions and
# the __del__ of a program's objects may still make calls, which may fail.
LATE_IMPORTS = (
    *("hashlib", "logging", "socket"),
    *("gloompi.engine.remnants", "gloompi.engine.shrinking", "gloompi.transport.options"),
)

# How long the end of the interpreter waits for the goodbyes of all Contexts that nobody has closed.
_EXIT_SECONDS = 0.5


class Engine(Parting):
    """Runs calls, one thread at a time."""

    def exclusively(self, deadline: Deadline, what: str, action: Callable[..., Result], *arguments: Any) -> Result:
        """Return ``action(*arguments)``, run as the one thread that uses the engine.

        Raises
        ------
        OperationTimeoutError
            Another thread kept the engine for all of the budget.
        GloompiError
            The engine is broken or closed.
        RuntimeError
            This thread is in an operation already.
        """
        turn = self.turn
        if self.error is not None:
            raise self._broken()  # no operation is under way any more, whatever its algorithm still computes
        turn.take(deadline, what, self._label)
        try:
            turn.busy = True
            if self.error is not None:
                raise self._broken()
            if self._dropped:
                self._say_goodbyes()
            return action(*arguments)
        finally:
            turn.busy = False  # a bare assignment comes first: no signal handler can get in before it
            if self._current is not None and (self._current.done or self.error is not None):
                self._current = None  # or it would keep the user's arrays
            if self.watches and self.error is None:
                self.prepare_sleep()  # an event loop sleeps on it
            turn.give()

    def run(self, task: Task, deadline: Deadline) -> Any:
        """Begin a call, wait for it, and return its result."""
        self._current = task
        try:
            task.start(self.ready, True)
            if self.ready:
                self._resume()  # a message to oneself has ended another task
            if not task.done:
                self.wait(task, deadline)
            elif self.error is not None:
                raise self._broken()
        except BaseException as exc:
            self._interrupted(exc)  # a signal handler may raise between the two
            raise
        return task.result if task.failure is None else task.outcome()

    def start(self, task: Task) -> Task:
        """Begin a call and run it as far as it gets without waiting."""
        self._current = task
        try:
            task.start(self.ready, False)
            if self.ready:
                self._resume()
        except BaseException as exc:
            self._interrupted(exc)
            raise
        if self.error is not None:
            raise self._broken()
        return task

    def test(self, task: Waiting) -> bool:
        """Move what can be moved without waiting; return whether the task is done."""
        self._current = task
        try:
            for _ in range(_TEST_MOVES):
                if task.done or self.error is not None or not self._move():
                    break
        except BaseException as exc:
            self._interrupted(exc)
            raise
        if not task.done and self.error is None and task.stalled(_ASK_SECONDS):
            self._ask(task)
        if not task.done and self.error is not None:
            raise self._broken()
        return task.done

    def look(self, find: Callable[[], Result | None]) -> Result | None:
        """Return what `find` finds, if need be after moving what can be moved without waiting."""
        try:
            for _ in range(_TEST_MOVES):
                found = find()
                if found is not None:
                    return found
                if self.error is not None or not self._move():
                    break
        except BaseException as exc:
            self._interrupted(exc)
            raise
        if self.error is not None:
            raise self._broken()
        self._poller.pause(self._poller.patience)  # it will be asked again soon
        return None

    def prepare_sleep(self) -> int:
        """The descriptor that becomes readable when there is something to move."""
        if self.messages.reading:
            self._poller.wake()
        return self._poller.prepare_sleep()

    @property
    def due(self) -> float:
        """When the engine wants to be called although nothing is to be moved, by `time.monotonic`; `inf` for never."""
        return self._poller.due

    def wait(self, task: Waiting, deadline: Deadline) -> None:
        """Move bytes until the task is done.

        Raises
        ------
        OperationTimeoutError
            The budget is spent.  The engine is broken then, like after every error here.
        PeerLostError, MismatchError, ContextClosedError
        """
        self._current = task
        poller = self._poller
        began = 0.0  # to be patient
        tries = 0
        try:
            while not task.done:
                if self.error is not None:
                    raise self._broken()
                tries += 1
                if self._move():
                    began = 0.0
                    if tries & 63 or task.done or not deadline.expired():
                        continue
                    self._fail(late(task, deadline, self.peers))  # however much moves, for others perhaps
                    raise self._broken()
                now = monotonic()
                began = began or now
                if now - began < poller.patience:
                    poller.pause(now - began)
                    continue
                remaining = deadline.remaining()
                if remaining == 0:
                    self._fail(late(task, deadline, self.peers))
                    raise self._broken()
                if task.asked or (remaining is not None and remaining <= _ASK_SECONDS):
                    self._ask(task)
                    if self.error is None:
                        poller.poll(remaining)
                elif not poller.poll(_ASK_SECONDS):
                    self._ask(task)
                began = 0.0
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _ask(self, task: Waiting) -> None:
        """Nothing has come for a while: ask those whom the task waits for, once; see whether anybody is left."""
        if not task.asked:
            task.asked = True
            for operation in task.awaited:
                if isinstance(operation, Receive) and not operation.done:
                    self.messages.ask(operation)
        gone = task.hopeless(self.messages.gone)
        if gone is not None:
            self._lose(gone, CLOSED)

    def depart(self, deadline: Deadline) -> None:
        """The interpreter ends: say goodbye, as `close`, if all that was begun to be sent is on its way.

        Others may still be in the call that this rank has just been through, and need nothing more of it.  To them, the end
        of a connection without a goodbye would be a loss.
        """
        # In time or not, the process ends, and what it has not said goodbye to takes that for the loss that it is then.
        with suppress(GloompiError, RuntimeError):
            self.exclusively(deadline, "exit", self._depart, deadline)

    def _depart(self, deadline: Deadline) -> None:
        if not self.messages.unmatched():
            self.close(deadline)

    def shrink(self, conversation: Conversation, deadline: Deadline) -> Engine:
        """Return an engine of those that are left of a conversation's ranks, counted anew in their old order.

        Raises
        ------
        RuntimeError
            This one is not broken.
        ContextClosedError, OperationTimeoutError
            As `Agreement.reach`; or there is nothing left to go on with.
        """
        from .remnants import next_marker
        from .shrinking import Agreement

        self.check_open(conversation)
        if self.error is None:
            raise RuntimeError("shrink is for a Context that an error has broken; this one works")
        self.turn.take(deadline, "shrink", self._label)  # the thread that has met the error may be telling the peers
        self.turn.give()
        remnants = None
        try:
            if conversation in self._conversations:
                remnants, self._remnants = self._remnants, None
            if remnants is None:
                raise ContextClosedError(
                    "this Context cannot be shrunk: it was closed, aborted or interrupted here, or it or one that shares "
                    "its connections has been shrunk before"
                )
            remnants.wake()
            agreement = Agreement(remnants, self.rank, self.peers, deadline, lambda: self._given_up)
            agreed = agreement.reach(conversation.ranks)
            ranks = [old for old in conversation.ranks if old in agreed]
            streams = iter(remnants.take(old for old in ranks if old != self.rank))
        finally:
            if remnants is not None:
                remnants.close()
        engine = Engine(
            ranks.index(self.rank),
            [replace(self.peers[old], rank=new) for new, old in enumerate(ranks)],
            [None if old == self.rank else next(streams) for old in ranks],
            crowded=self._crowded,
            shared=self._shared,
            marker=next_marker(self._marker, ranks),
        )
        engine.catch_up()
        return engine


def _prepare_to_depart() -> None:
    if getattr(sys, "last_value", None) is not None:
        return  # an exception ends the program, and that is a loss
    engines = [engine for engine in alive if isinstance(engine, Engine) and not engine.closed]
    if engines:
        for name in LATE_IMPORTS:
            import_module(name)
        for engine in engines:
            engine.leaving = True
        at_the_end(lambda: _depart_all(engines))


def _depart_all(engines: list[Engine]) -> None:
    engines = [engine for engine in engines if not engine.closed]
    deadline = Deadline(_EXIT_SECONDS)
    for engine in engines:
        engine.depart(deadline)
    for engine in engines:
        text = f"a Context of rank {engine.rank} of {engine.size} was not closed before the interpreter ended"
        warnings.warn(text, ResourceWarning, stacklevel=1)


atexit.register(_prepare_to_depart)
