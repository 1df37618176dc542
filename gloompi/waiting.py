"""Waiting for one, some or all of several requests, also of several Contexts."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from typing import Any

from .deadline import Deadline, check_timeout
from .engine.task import AnyOf
from .request import Request

__all__ = ["wait_all", "wait_any", "wait_some"]

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
    if len({id(request._engine) for request in given}) == 1:
        return [request._wait(deadline) for request in given]
    _alternate(given, lambda: all(request.done for request in given), deadline)
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
    if not given:
        raise ValueError("wait_any needs at least one request")
    deadline = _deadline(given, timeout)
    if not any(request.done for request in given):
        for request in given:
            request._engine.check_open(request._conversation)
        engine = given[0]._engine
        if all(request._engine is engine for request in given):
            waiting = AnyOf([request._task for request in given])
            engine.exclusively(deadline, waiting.label, engine.wait, waiting, deadline)
        else:
            _alternate(given, lambda: any(request.done for request in given), deadline)
    index = next(index for index, request in enumerate(given) if request.done)
    return index, given[index].wait()


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
    return [(index, request.wait()) for index, request in enumerate(given) if request.done]


def _deadline(requests: list[Request], timeout: float | None) -> Deadline:
    if timeout is not None:
        return Deadline(check_timeout(timeout))
    budgets = [request._timeout for request in requests]
    return Deadline(None if None in budgets else max((budget for budget in budgets if budget is not None), default=0.0))


def _seconds(deadline: Deadline) -> float:
    remaining = deadline.remaining()
    return float("inf") if remaining is None else remaining


def _alternate(requests: list[Request], enough: Callable[[], bool], deadline: Deadline) -> None:
    """Move the bytes of several engines in turn until it is enough."""
    while True:
        for request in requests:
            request.test()
        if enough():
            return
        if deadline.expired():
            for request in requests:
                request._wait(deadline)  # raises, and says with whom; or it was done at the last moment
            return
        poll = select.poll()
        for engine in {request._engine for request in requests if not request.done}:
            descriptor = engine.exclusively(deadline, "wait", engine.prepare_sleep)
            poll.register(descriptor, select.POLLIN)
        poll.poll(1000 * _seconds(deadline.before(_LOOK_SECONDS)))
