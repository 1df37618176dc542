"""A Request: the handle of a non-blocking operation."""

from __future__ import annotations

from typing import Any

from .deadline import Deadline, check_timeout
from .engine.engine import Engine
from .engine.task import Task

__all__ = ["Request"]


class Request:
    """The handle of a non-blocking operation.

    Bytes move only inside calls: any call on the Context moves this operation on too.
    """

    __slots__ = ("_engine", "_task", "_timeout")

    def __init__(self, engine: Engine, task: Task, timeout: float | None) -> None:
        self._engine = engine
        self._task = task
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Request {self._task.label}, {'done' if self.done else 'under way'}>"

    @property
    def done(self) -> bool:
        """Whether the operation has completed; moves nothing."""
        return self._task.done

    def test(self) -> bool:
        """Move what can be moved without waiting; return whether the operation has completed.

        Raises
        ------
        GloompiError
            The Context is broken.
        """
        task = self._task
        if not task.done:
            self._engine.exclusively(Deadline(self._timeout), task.label, self._engine.test, task)
        return task.done

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the operation and return what its blocking form returns.

        Parameters
        ----------
        timeout : float, optional
            Seconds from now.  Default: the Context's timeout.

        Raises
        ------
        PeerLostError, OperationTimeoutError, MismatchError, ContextClosedError
            The Context is broken afterwards.
        """
        task = self._task
        if not task.done:
            deadline = Deadline(self._timeout if timeout is None else check_timeout(timeout))
            self._engine.exclusively(deadline, task.label, self._engine.wait, task, deadline)
        return task.result
