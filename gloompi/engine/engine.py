"""The Engine: calls on their way over the connections of one rank.

Caller-driven: there is no thread; whoever waits moves the bytes of all.
"""

from __future__ import annotations

import atexit
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from math import inf
from time import monotonic
from typing import Any, TypeVar

from ..deadline import Deadline
from ..ending import at_the_end
from ..errors import ContextClosedError, GloompiError
from .connections import all_alive
from .conversation import Conversation
from .elsewhere import Elsewhere
from .lateness import late
from .messages import CLOSED
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
    *("gloompi.engine.remnants", "gloompi.engine.shrinking", "gloompi.settings", "gloompi.transport.options"),
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
        me = turn.take(deadline, what, self._label)
        try:
            turn.busy = me
            if self.error is not None:
                raise self._broken()
            if self._dropped:
                self._say_goodbyes()
            return action(*arguments)
        finally:
            # Not where a signal handler has raised while this thread let others have the turn: it may be theirs. Nothing is
            # called before the assignment, so that no signal handler can get in before it.
            if turn.busy == me or turn.mine():
                turn.busy = 0
                if self._current is not None and (self._current.done or self.error is not None):
                    self._current = None  # or it would keep the user's arrays
                if self.watches and self.error is None:
                    self.prepare_sleep()  # an event loop sleeps on it
                if self.sleepers.calls:
                    self.sleepers.rouse()
                turn.give()

    def run(self, task: Task, deadline: Deadline) -> Any:
        """Begin a call, wait for it, and return its result."""
        conversation = task.conversation
        if conversation is not None and conversation.messages.closed:  # while this thread waited for the turn
            self.check_open(conversation)
        self._current = task
        try:
            task.start(self.ready, True)
            if self.ready:
                self._resume()  # a message to oneself has ended another task
            if not task.done:
                self.wait(task, deadline)
            elif self.error is not None:
                raise self._broken()
            elif deadline.began > self._poller.stale:
                self._look()
        except BaseException as exc:
            self._interrupted(exc)  # a signal handler may raise between the two
            raise
        return task.result if task.failure is None else task.outcome()

    def start(self, task: Task) -> Task:
        """Begin a call and run it as far as it gets without waiting."""
        if task.conversation is not None and task.conversation.messages.closed:
            self.check_open(task.conversation)
        self._current = task
        try:
            task.start(self.ready, False)
            if self.ready:
                self._resume()
            if self.error is not None:
                raise self._broken()
            if task.began > self._poller.stale:
                self._look()
        except BaseException as exc:
            self._interrupted(exc)
            raise
        return task

    def _look(self) -> None:
        """Look at all connections, which a call that had nothing to wait for has not done.

        Who only sends has to learn, too, that somebody is gone: at this call if it could not write, else at the next, for
        what this one has received is the user's.
        """
        failed, self._poller.failed = self._poller.failed, False
        while self._move() and failed and self.error is None:
            pass  # what a peer has said before it went comes first
        if failed and self.error is not None:
            raise self._broken()

    def test(self, task: Waiting) -> bool:
        """Move what can be moved without waiting; return whether the task is done."""
        self._current = task
        self._move_a_while(task)
        if not task.done and self.error is None and task.stalled(_ASK_SECONDS):
            self._ask(task)
        if not task.done and self.error is not None:
            raise self._broken()
        return task.done

    def move(self, task: Waiting) -> None:
        """Move what can be moved without waiting, for a task among others; raises what breaks the engine."""
        self._current = task
        self._move_a_while()
        if self.error is not None:
            raise self._broken()

    def _move_a_while(self, task: Waiting | None = None) -> None:
        """Move what can be moved without waiting, for a moment, or until a task is done."""
        try:
            for _ in range(_TEST_MOVES):
                if self.error is not None or (task is not None and task.done) or not self._move():
                    break
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def ask_for(self, tasks: Iterable[Waiting]) -> None:
        """Ask the peers of those tasks that have waited for a while; raises what breaks the engine."""
        for task in tasks:
            if not task.done and task.stalled(_ASK_SECONDS):
                self._current = task
                self._ask(task)
                if self.error is not None:
                    raise self._broken()

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
        poller, turn = self._poller, self.turn
        began = 0.0  # to be patient
        look = 0.0  # when to look at who is left
        departures = -1
        tries = 0
        try:
            while not task.done:
                if self.error is not None:
                    raise self._broken()
                tries += 1
                if self._move():
                    began = 0.0
                    if task.done:
                        break
                    if turn.wanting:
                        self._let_in(task)
                    if tries & 63:
                        continue
                    now = monotonic()
                else:
                    now = monotonic()
                    began = began or now
                    if now - began < poller.patience and not turn.wanting:
                        poller.pause(now - began)
                        continue
                remaining = deadline.remaining()
                if remaining == 0:  # however much moves, for others perhaps
                    self._fail(late(task, deadline, self.peers, self.shortages))
                    raise self._broken()
                # Asked is whoever has been waited for so long, however much comes from others meanwhile.
                if now >= look or departures != self.messages.departures:
                    departures, look = self.messages.departures, now + _ASK_SECONDS
                    if task.asked or task.stalled(_ASK_SECONDS) or (remaining is not None and remaining <= _ASK_SECONDS):
                        self._ask(task)
                        if self.error is not None:
                            continue
                if began:
                    self._sleep(task, remaining if task.asked else min(look - now, inf if remaining is None else remaining))
                    began = 0.0
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _sleep(self, task: Waiting, seconds: float | None) -> None:
        """Let other threads use the engine until something has come, or the time is up.

        What this thread has begun on other engines goes on meanwhile: their peers may need that to get to what is waited
        for here.
        """
        elsewhere = Elsewhere((self,))
        descriptors, seconds = elsewhere.prepare(seconds if seconds != inf else None)
        self.sleepers.sleep(task, seconds, descriptors)
        elsewhere.move()
        self._current = task

    def concerns(self, thread: int) -> bool:
        """Return whether a thread has begun something here that is under way, and is not inside a call."""
        if self.error is not None or self.turn.busy == thread or thread in self.turn.resting:
            return False
        return bool(self._poller.writing) or any(each.has_begun(thread) for each in tuple(self._conversations))

    def nudge(self) -> None:
        """Move what can be moved without waiting; an error is kept for the next call."""
        with suppress(Exception):  # which has broken the engine
            self._move_a_while()

    def _let_in(self, task: Waiting) -> None:
        """Let a thread that wants to use the engine do so."""
        with self.sleepers.aside(task):  # if it closes the Context, it has to find what this one waits for
            self.turn.let_in()
        self._current = task

    def _ask(self, task: Waiting) -> None:
        """It has waited for a while: ask those whom the task waits for, once; see whether anybody is left."""
        task.ask(self.messages.ask)
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
    engines = [engine for engine in all_alive() if isinstance(engine, Engine) and not engine.closed]
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
