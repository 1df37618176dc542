"""The turn: one thread at a time uses an engine, and any thread may end that."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..deadline import Deadline
from ..errors import OperationTimeoutError

__all__ = ["Turn"]


class Turn:
    """A lock whose holder can be named, and can be asked to abort.

    A signal handler may raise anywhere, so also between taking the turn and the ``try`` that gives it back.  The lock is
    one that knows its owner: a thread that still has it from such an accident goes on with it.

    Parameters
    ----------
    abort : callable
        Called with a reason by the thread that holds the turn.

    Attributes
    ----------
    busy : bool
        The holder is inside an operation; it sets and clears this itself, by bare assignments.
    """

    def __init__(self, abort: Callable[[str | BaseException], None]) -> None:
        self._lock = threading.RLock()
        self._holder = 0
        self._abort = abort
        self._asked: str | BaseException | None = None
        self.busy = False

    def _mine(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # what Condition uses too

    def take(self, deadline: Deadline, what: str, doing: Callable[[], str]) -> None:
        """Wait for the turn; `what` wants it, `doing` says what the holder does.

        Raises
        ------
        OperationTimeoutError
            Another thread kept it for all of the budget.
        RuntimeError
            This thread is in an operation already.
        """
        if not self._lock.acquire(False):
            holder = self._holder
            remaining = deadline.remaining()
            if not self._lock.acquire(timeout=-1 if remaining is None else min(remaining, threading.TIMEOUT_MAX)):
                assert deadline.timeout is not None
                name = next((thread.name for thread in threading.enumerate() if thread.ident == holder), "?")
                reason = f"thread {name!r} is in {doing()} on the same Context, which serves one at a time"
                raise OperationTimeoutError(what, deadline.timeout, reason)
        if self.busy:  # and yet the lock let this thread in: it has it already
            self._lock.release()
            raise RuntimeError(f"{what} was called from within {doing()} on the same Context, by a signal handler or an op")
        self._holder = threading.get_ident()

    def give(self) -> None:
        try:
            if self._asked is not None:
                self.woken()  # asked when the last operation was about to end
        finally:
            lock = self._lock
            lock.release()
            while lock._is_owned():  # type: ignore[attr-defined]  # left over from an accident
                lock.release()

    def woken(self) -> None:
        """Do what `abort` has asked for; called by the holder."""
        if self._asked is not None:
            self._abort(self._asked)

    def abort(self, reason: str | BaseException, wake: Callable[[], None], timeout: float) -> None:
        """Have the holder abort, or do it if there is none; any thread may call it, and a signal handler."""
        self._asked = reason
        if self._mine() and self.busy:
            wake()  # a signal handler: the operation that it interrupts goes on when it returns
            return
        if not self._lock.acquire(blocking=False):
            wake()
            if not self._lock.acquire(timeout=timeout):
                if not self.busy:
                    self.woken()  # an accident left it taken, and nobody is inside
                return  # else the holder is in an op or a system call, and aborts when it comes back
        self.give()
