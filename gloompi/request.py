"""A Request: the handle of a non-blocking operation."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NoReturn

from .deadline import Deadline, check_timeout
from .engine.conversation import Conversation
from .engine.engine import Engine
from .engine.operation import Receive
from .engine.task import Task
from .signatures import public

__all__ = ["Request"]


@public
class Request:
    """The handle of a non-blocking operation.

    Bytes move only inside calls: any call on the Context moves this operation on too.  In a coroutine, ``await request``
    stands for `wait`: the event loop watches the connections, without a thread.
    """

    __slots__ = ("_conversation", "_engine", "_task", "_timeout")

    _conversation: Conversation
    _engine: Engine
    _task: Task
    _timeout: float | None

    def __init__(self, *parts: Any, **others: Any) -> None:
        raise TypeError("a Request is what the operations of a Context that begin with an i return")

    @classmethod
    def _of(cls, engine: Engine, conversation: Conversation, task: Task, timeout: float | None) -> Request:
        request = cls.__new__(cls)
        request._engine = engine
        request._conversation = conversation
        request._task = task
        request._timeout = timeout
        return request

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Request cannot be copied or pickled: it is an operation of this process that is under way; send its result"
        )

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
            self._engine.check_open(self._conversation)
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
        return self._wait(Deadline(self._timeout if timeout is None else check_timeout(timeout)))

    def _wait(self, deadline: Deadline) -> Any:
        task = self._task
        if not task.done:
            self._engine.check_open(self._conversation)
            self._engine.exclusively(deadline, task.label, self._engine.wait, task, deadline)
        return task.outcome()

    def _when_done(self, callback: Callable[[], None]) -> None:
        """Have a function called when the operation completes, inside whatever call completes it."""
        self._task.tell(callback)

    def cancel(self) -> bool:
        """Take back a receive that no message has matched; return whether that was possible.

        A receive that has been taken back is done, and its result is None.  Everything else is left as it is.
        """
        task = self._task
        if task.done:
            return False
        self._engine.check_open(self._conversation)
        return self._engine.exclusively(Deadline(self._timeout), task.label, self._withdraw)

    def _withdraw(self) -> bool:
        channel = self._conversation.messages
        awaited = [operation for operation in self._task.awaited if not operation.done]
        if len(awaited) != 1 or not isinstance(awaited[0], Receive) or awaited[0].channel is not channel:
            return False
        withdrawn = channel.matcher.withdraw(awaited[0])
        if withdrawn:
            self._task.abandon()
        return withdrawn

    def __await__(self) -> Generator[Any, None, Any]:
        from .awaiting import completed

        if not self._task.done:
            self._engine.check_open(self._conversation)
            yield from completed(self._engine, self._task, Deadline(self._timeout)).__await__()
        return self._task.outcome()
