"""Waiting for one, some or all of several requests, also of several Contexts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from .deadline import Deadline, check_timeout
from .engine.elsewhere import Elsewhere
from .engine.engine import Engine
from .engine.polling import sleep_on
from .engine.task import AnyOf, Task
from .errors import GloompiError
from .request import Request

__all__ = ["move", "wait_all", "wait_any", "wait_for_first", "wait_some"]

# Requests of several Contexts: how long to sleep on all of them before looking whether a peer has to be asked.
_LOOK_SECONDS = 0.05


def wait_all(requests: Iterable[Request], timeout: float | None = None) -> list[Any]:
    """Wait for all requests, and return their results in the order of the requests.

    Parameters
    ----------
    requests : iterable of Request
        Of any Contexts.
    timeout : float, optional
        Seconds for all of them together.  Default: the largest timeout of their Contexts.

    Raises
    ------
    PeerLostError, OperationTimeoutError, MismatchError, ContextClosedError
        The Context that it concerns is broken afterwards.
    """
    given = list(requests)
    deadline = _deadline(given, timeout)
    if len({request._engine for request in given}) == 1:
        return [request._wait(deadline) for request in given]
    under_way = [request for request in given if not request._task.done]
    left = [_All(engine, tasks, deadline) for engine, tasks in _by_engine(under_way).items()]
    while left := [part for part in left if not part.move()]:
        _sleep(left, given, deadline)
    return [request.wait() for request in given]


def wait_any(requests: Iterable[Request], timeout: float | None = None) -> tuple[int, Any]:
    """Wait until one of the requests is done; return its index among them and its result.

    If several are done, it is the first of them: leave out those that you have had.

    Parameters
    ----------
    requests, timeout
        As for `wait_all`.

    Raises
    ------
    ValueError
        There is no request.
    PeerLostError, OperationTimeoutError, MismatchError, ContextClosedError
        As for `wait_all`.
    """
    given = list(requests)
    if timeout is not None:
        check_timeout(timeout)
    if not given:
        raise ValueError("wait_any needs at least one request")
    index = _first_done(given)
    if index is None:
        index = wait_for_first(given, timeout)
    return index, given[index].wait()


def wait_for_first(requests: list[Request], timeout: float | None = None) -> int:
    """Wait until one is done, of requests that none is of; return its place."""
    deadline = _deadline(requests, timeout)
    engines = _by_engine(requests)
    with ExitStack() as stack:
        parts = [_Any(engine, tasks, deadline) for engine, tasks in engines.items()]
        for part in parts:
            stack.enter_context(part.waiting.while_told())
        if len(parts) == 1:
            (part,) = parts
            part.engine.exclusively(deadline, part.waiting.label, part.engine.wait, part.waiting, deadline)
        else:
            while not any(part.move() for part in parts):
                _sleep(parts, requests, deadline)
    index = _first_done(requests)
    assert index is not None
    return index


def _first_done(requests: list[Request]) -> int | None:
    return next((index for index, request in enumerate(requests) if request._task.done), None)


def wait_some(requests: Iterable[Request], timeout: float | None = None) -> list[tuple[int, Any]]:
    """Wait until at least one of the requests is done; return index and result of all that are.

    Parameters
    ----------
    requests, timeout
        As for `wait_all`.

    Raises
    ------
    ValueError, PeerLostError, OperationTimeoutError, MismatchError, ContextClosedError
        As for `wait_any`.
    """
    given = list(requests)
    wait_any(given, timeout)
    return [(index, request.wait()) for index, request in enumerate(given) if request._task.done]


def move(requests: list[Request]) -> None:
    """Move what can be moved without waiting, once for all of these requests, none of which is done.

    Raises
    ------
    GloompiError
        A Context is broken, and no request of its connections has been done before.
    """
    for engine, tasks in _by_engine(requests).items():
        waiting = AnyOf(tasks)
        try:
            engine.exclusively(_deadline(requests, None), waiting.label, engine.test, waiting)
        except GloompiError:
            if not any(task.done for task in tasks):
                raise


def _deadline(requests: list[Request], timeout: float | None) -> Deadline:
    if timeout is not None:
        return Deadline(check_timeout(timeout))
    budgets = {request._timeout for request in requests}
    return Deadline(None if None in budgets else max((budget for budget in budgets if budget is not None), default=0.0))


def _by_engine(requests: list[Request]) -> dict[Engine, list[Task]]:
    """The tasks of each engine; raises ContextClosedError if a Context is closed."""
    contexts = {request._conversation: request._engine for request in requests}
    for conversation, engine in contexts.items():
        engine.check_open(conversation)
    if len(contexts) == 1:
        return {requests[0]._engine: [request._task for request in requests]}
    tasks: dict[Engine, list[Task]] = {}
    for request in requests:
        tasks.setdefault(request._engine, []).append(request._task)
    return tasks


# -- requests of several engines ----------------------------------------------------------------------------------------


class _Part(Protocol):
    """Requests of one engine."""

    engine: Engine

    def move(self) -> bool:
        """Move what can be moved without waiting; return whether it is enough."""


class _All:
    """All of them are to be done: in their order, as if they were waited for one by one."""

    def __init__(self, engine: Engine, tasks: list[Task], deadline: Deadline) -> None:
        self.engine = engine
        self._left = deque(tasks)
        self._deadline = deadline

    def move(self) -> bool:
        while self._left:
            task, engine = self._left[0], self.engine
            if not task.done and not engine.exclusively(self._deadline, task.label, engine.test, task):
                return False
            self._left.popleft()
        return True


class _Any:
    """One of them is to be done."""

    def __init__(self, engine: Engine, tasks: list[Task], deadline: Deadline) -> None:
        self.engine = engine
        self.waiting = AnyOf(tasks)
        self._deadline = deadline

    def move(self) -> bool:
        return self.engine.exclusively(self._deadline, self.waiting.label, self.engine.test, self.waiting)


def _sleep(parts: Sequence[_Part], requests: list[Request], deadline: Deadline) -> None:
    """Sleep until something has come for one of several engines, or one of them has to be looked at."""
    if deadline.expired():
        for request in requests:
            request._wait(deadline)  # raises, and says with whom; or it was done at the last moment
        return
    elsewhere = Elsewhere([part.engine for part in parts])
    descriptors, seconds = elsewhere.prepare(deadline.before(_LOOK_SECONDS).remaining())
    descriptors += [part.engine.exclusively(deadline, "wait", part.engine.prepare_sleep) for part in parts]
    sleep_on(descriptors, seconds)
    elsewhere.move()
