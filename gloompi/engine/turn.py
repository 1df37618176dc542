"""The turn: one thread at a time uses an engine, any thread may have it while another one sleeps, and any may end that."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from threading import get_ident
from time import sleep

from ..deadline import Deadline
from ..errors import OperationTimeoutError

__all__ = ["Turn"]

# A lock of Python's goes to whoever asks first, which is the thread that has just released it. So that one waits until
# another has it: at most so often for so long, which is some thread switches on a busy machine.
_HAND_OVER_TRIES = 50
_HAND_OVER_SECONDS = 20e-6


class Turn:
    """A lock whose holder can be named, can rest, and can be asked to abort.

    A signal handler may raise anywhere, so also between taking the turn and the ``try`` that gives it back.  The lock is
    one that knows its owner: a thread that still has it from such an accident goes on with it.

    Parameters
    ----------
    abort : callable
        Called with a reason by the thread that holds the turn.

    Attributes
    ----------
    busy : int
        The thread that holds the turn inside an operation, 0 if there is none; the holder sets and clears it by bare
        assignments.
    holder : int
        The thread that has or had the turn last.
    resting : set of int
        The threads that are in an operation, and let others have the turn until they `resume`.
    wanting : set of int
        The threads that wait for the turn.
    """

    def __init__(self, abort: Callable[[str | BaseException], None]) -> None:
        self._lock = threading.RLock()
        self.holder = 0
        self._abort = abort
        self._asked: str | BaseException | None = None
        self._handed_over = 0
        self.busy = 0
        self.resting: set[int] = set()
        self.wanting: set[int] = set()

    def mine(self) -> bool:
        """Whether this thread holds the turn."""
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # what Condition uses too

    @property
    def occupied(self) -> bool:
        """Whether a thread is inside an operation, resting perhaps."""
        return bool(self.busy or self.resting)

    def take(self, deadline: Deadline, what: str, doing: Callable[[], str]) -> int:
        """Wait for the turn; `what` wants it, `doing` says what the holder does.  Returns this thread's number.

        Raises
        ------
        OperationTimeoutError
            Another thread kept it for all of the budget, or the interpreter ends and it is in an operation.
        RuntimeError
            This thread is in an operation already.
        """
        me = get_ident()
        if not self._lock.acquire(False):
            holder = self.holder
            # At the interpreter's end all other threads stand still: who has it now will never give it.
            ending = sys.is_finalizing()
            if not self._queue_up(me, 0.0 if ending else deadline.remaining()):
                name = next((thread.name for thread in threading.enumerate() if thread.ident == holder), "?")
                reason = f"thread {name!r} is in {doing()} on the same Context, which serves one at a time"
                if ending:
                    reason += ", and stands still at the interpreter's end"
                raise OperationTimeoutError(what, 0.0 if ending else deadline.timeout or 0.0, reason)
        if self.busy or (self.resting and me in self.resting):  # yet the lock let this thread in: it is in an operation
            self._lock.release()
            raise RuntimeError(f"{what} was called from within {doing()} on the same Context, by a signal handler or an op")
        self.holder = me
        return me

    def _queue_up(self, me: int, seconds: float | None) -> bool:
        self.wanting.add(me)
        try:
            if not self._lock.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)):
                return False
            self._handed_over += 1
            return True
        finally:
            self.wanting.discard(me)

    def give(self) -> None:
        """End the turn."""
        try:
            if self._asked is not None:
                self.woken()  # asked when the last operation was about to end
        finally:  # as `_release`: one call less for every operation
            lock = self._lock
            lock.release()
            while lock._is_owned():  # type: ignore[attr-defined]
                lock.release()
        if self.wanting:
            self._hand_over()

    def _release(self) -> None:
        lock = self._lock
        lock.release()
        while lock._is_owned():  # type: ignore[attr-defined]  # left over from an accident
            lock.release()

    def _hand_over(self) -> None:
        """Wait until a thread that wants the turn has it."""
        before = self._handed_over
        for _ in range(_HAND_OVER_TRIES):
            if self._handed_over != before or not self.wanting:
                return
            sleep(_HAND_OVER_SECONDS)

    def rest(self) -> None:
        """Let other threads have the turn, in the middle of an operation; what follows ends with `resume`."""
        self.resting.add(get_ident())
        self.busy = 0
        self._release()

    def resume(self) -> None:
        """End `rest`: wait for the turn, however long another thread computes with it."""
        me = get_ident()
        if me not in self.resting and self.busy == me:
            return  # it has it already
        if not self._lock.acquire(False):
            self._queue_up(me, None)
        self.holder = self.busy = me
        self.resting.discard(me)

    def try_resume(self) -> bool:
        """End `rest` if no other thread has the turn; return whether that was possible."""
        if not self._lock.acquire(False):
            return False
        self.resume()
        self._lock.release()
        return True

    def let_in(self) -> None:
        """Let a thread that wants the turn have it, and take it back."""
        self.rest()
        try:
            self._hand_over()
        finally:
            self.resume()

    def woken(self) -> None:
        """Do what `abort` has asked for; called by the holder."""
        if self._asked is not None:
            self._abort(self._asked)

    def abort(self, reason: str | BaseException, wake: Callable[[], None], timeout: float) -> None:
        """Have the holder abort, or do it if there is none; any thread may call it, and a signal handler."""
        self._asked = reason
        if self.busy and self.mine():
            wake()  # a signal handler: the operation that it interrupts goes on when it returns
            return
        if not self._lock.acquire(blocking=False):
            wake()
            if not self._lock.acquire(timeout=timeout):
                if not self.busy:
                    self.woken()  # an accident left it taken, and nobody is inside
                return  # else the holder is in an op or a system call, and aborts when it comes back
        try:
            self.woken()
        finally:
            self._lock.release()  # once: a signal handler may have come where this thread had just taken it
        if self.wanting:
            self._hand_over()
