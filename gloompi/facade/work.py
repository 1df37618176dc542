"""Work: one operation of the facade, from its arguments to its completion."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any, NamedTuple

from mpi4py import MPI as mpi

from ..context import Context
from ..engine.task import Task
from ..request import Request as Handle
from .codes import exception

__all__ = ["EMPTY", "NO_PROC", "Begin", "Completion", "Work", "fill"]


class Completion(NamedTuple):
    """What an operation has come to.

    Attributes
    ----------
    source, tag, nbytes : int
        For a Status.
    obj : object
        Result of an operation on Python objects.
    truncated : bool
        The message was longer than its buffer.
    cancelled : bool
    """

    source: int = mpi.ANY_SOURCE
    tag: int = mpi.ANY_TAG
    nbytes: int = 0
    obj: Any = None
    truncated: bool = False
    cancelled: bool = False


# What a Status says where there was no message.
EMPTY = Completion()
NO_PROC = Completion(source=mpi.PROC_NULL)

# Makes the plan and what to do with its result; a Completion instead of a plan is there at once.  Called at every start of
# a persistent request: data are packed then.
Begin = Callable[[], tuple[Task | Completion, Callable[[Any], Completion]]]


def fill(status: mpi.Status | None, completion: Completion) -> None:
    """Write a completion into the user's Status."""
    if status is None:
        return
    status.source = completion.source
    status.tag = completion.tag
    status.error = mpi.ERR_TRUNCATE if completion.truncated else mpi.SUCCESS
    status.Set_elements(mpi.BYTE, completion.nbytes)
    status.Set_cancelled(completion.cancelled)


class Work:
    """An operation of one Context, begun or to be begun; without a Context, one that needs none.

    Attributes
    ----------
    persistent : bool
        It can be started again when it is complete.
    active : bool
        It has been started and its completion has not been taken.
    """

    __slots__ = ("_begin", "_completion", "_context", "_end", "_ending", "_handle", "active", "persistent")

    def __init__(self, context: Context | None, begin: Begin, *, persistent: bool = False) -> None:
        self._context = context
        self._begin = begin
        self._handle: Handle | None = None
        self._end: Callable[[Any], Completion] | None = None
        self._completion: Completion | None = None
        # Of threads that wait for it, one makes the completion, and one takes it.
        self._ending = RLock()
        self.persistent = persistent
        self.active = False

    def start(self) -> Work:
        plan, self._end = self._begin()
        if isinstance(plan, Completion):
            self._completion, self._handle = plan, None
        else:
            assert self._context is not None
            self._completion, self._handle = None, self._context._start(plan)
        self.active = True
        return self

    @property
    def handle(self) -> Handle | None:
        """What gloompi can wait for; None if there is nothing to wait for."""
        return None if self._completion is not None else self._handle

    def test(self) -> bool:
        """Whether it is complete; moves what can be moved."""
        handle = self.handle
        return not self.active or handle is None or handle.test()

    def completion(self) -> Completion:
        """Wait for it, if need be; EMPTY if it is not active, or another thread has taken it meanwhile."""
        return self.take(for_good=False) or EMPTY

    def take(self, for_good: bool = True) -> Completion | None:
        """As `completion`, after which it is not active any more if `for_good`; None if another thread has taken it.

        It stays active when the wait is interrupted, and not when the operation has failed.
        """
        if not self.active:
            return None
        handle = self._handle
        result = None
        if handle is not None:
            try:
                result = handle.wait()
            except BaseException:
                if for_good and handle._task.failure is not None:
                    self.active = False
                raise
        with self._ending:  # nothing is waited for in here
            if not self.active or self._handle is not handle:
                return None
            try:
                if self._completion is None:
                    assert self._end is not None
                    self._completion = self._end(result)
                return self._completion
            finally:
                if for_good:
                    self.active = False

    def release(self) -> None:
        """Let go of it: it ends by itself, and what it receives goes to its place.

        This may run anywhere, by the garbage collector even inside a call.
        """
        handle = self.handle
        if self.active and handle is not None:
            if handle.done:
                self._deliver()
            else:
                handle._when_done(self._deliver)

    def _deliver(self) -> None:
        """Bring what was received to its place; nobody is left to be told of a failure."""
        assert self._handle is not None
        if self._handle._task.failure is None:
            self.completion()

    def cancel(self) -> None:
        handle = self.handle
        if handle is not None and self.active:
            handle.cancel()


def checked(completion: Completion) -> Completion:
    """Return it, unless the message was longer than its buffer: then raise mpi4py.MPI.Exception, ERR_TRUNCATE."""
    if completion.truncated:
        raise exception(
            mpi.ERR_TRUNCATE,
            f"the message from rank {completion.source} with tag {completion.tag} has {completion.nbytes} bytes, more than "
            f"the buffer; pass a larger one, or ask Probe for the size",
        )
    return completion
