"""The turn: one thread at a time uses an engine, and any thread may end that."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..deadline import Deadline
from ..errors import OperationTimeoutError

__all__ = ["Turn"]


class Turn:
    """A lock whose holder can be named, and can be asked to abort.

    Parameters
    ----------
    abort : callable
        Called with a reason by the thread that holds the turn.
    """

    def __init__(self, abort: Callable[[str], None]) -> None:
        self._lock = threading.Lock()
        self._holder: threading.Thread | None = None
        self._abort = abort
        self._asked = ""

    def take(self, deadline: Deadline, what: str, doing: Callable[[], str]) -> None:
        """Wait for the turn; `what` wants it, `doing` says what the holder does.

        Raises
        ------
        OperationTimeoutError
            Another thread kept it for all of the budget.
        RuntimeError
            This thread has it already.
        """
        if not self._lock.acquire(blocking=False):
            holder = self._holder
            if holder is threading.current_thread():
                raise RuntimeError(
                    f"{what} was called from within {doing()} on the same Context, by a signal handler or an op"
                )
            remaining = deadline.remaining()
            if not self._lock.acquire(timeout=-1 if remaining is None else remaining):
                assert deadline.timeout is not None
                name = holder.name if holder is not None else "?"
                reason = f"thread {name!r} is in {doing()} on the same Context, which serves one at a time"
                raise OperationTimeoutError(what, deadline.timeout, reason)
        self._holder = threading.current_thread()

    def give(self) -> None:
        self.woken()  # asked when the last operation was about to end
        self._holder = None
        self._lock.release()

    def woken(self) -> None:
        """Do what `abort` has asked for; called by the holder."""
        if self._asked:
            self._abort(self._asked)

    def abort(self, reason: str, wake: Callable[[], None], timeout: float) -> None:
        """Have the holder abort, or do it if there is none; any thread may call it, and a signal handler."""
        self._asked = reason
        if self._lock.acquire(blocking=False):
            self.give()
            return
        wake()
        # A signal handler interrupts the holder itself, which goes on only when it returns.
        if self._holder is not threading.current_thread() and self._lock.acquire(timeout=timeout):
            self.give()
