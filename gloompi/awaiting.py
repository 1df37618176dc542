"""Requests in coroutines: the event loop watches the connections of an engine, and nothing runs beside it.

An engine sleeps in one epoll descriptor, which is readable when any of its connections has something to do; an event loop
can watch that descriptor like a socket.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from weakref import WeakKeyDictionary

from .deadline import Deadline
from .engine.engine import Engine
from .engine.task import Task
from .errors import OperationTimeoutError

__all__ = ["completed"]

# How soon a task that moves nothing is looked at again: a little later than an engine asks its peers whether they are in
# the same call.
_LOOK_SECONDS = 0.06

_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Engine, _Watch]] = WeakKeyDictionary()


async def completed(engine: Engine, task: Task, deadline: Deadline) -> None:
    """Wait until the task is done.

    Raises
    ------
    OperationTimeoutError
        The budget is spent.  The engine is broken then, like after every error here; except if another thread kept the
        engine.
    PeerLostError, MismatchError, ContextClosedError
    """
    loop = asyncio.get_running_loop()
    watches = _watches.setdefault(loop, {})
    watch = watches.get(engine)
    if watch is None:
        watch = watches[engine] = _Watch(engine, loop)
    try:
        await watch.wait_for(task, deadline)
    finally:
        if watch.idle:
            watch.end()
            watches.pop(engine, None)


class _Watch:
    """One event loop's eye on one engine."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._futures: dict[asyncio.Future[None], Task] = {}
        self._fd = -1
        self._retry: asyncio.TimerHandle | None = None
        engine.watches.append(self._ended)

    @property
    def idle(self) -> bool:
        return not self._futures

    async def wait_for(self, task: Task, deadline: Deadline) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._futures[future] = task
        task.ended += (self._settle_soon,)
        timers = [self._loop.call_later(_LOOK_SECONDS, self._move)]
        remaining = deadline.remaining()
        if remaining is not None:
            timers.append(self._loop.call_later(remaining, self._expire, future, task, deadline))
        try:
            self._move()
            await future
        finally:
            ended = list(task.ended)
            if self._settle_soon in ended:
                ended.remove(self._settle_soon)
            task.ended = tuple(ended)
            del self._futures[future]
            for timer in timers:
                timer.cancel()

    def _move(self) -> None:
        """Move what can be moved, settle what is done, and watch for more."""
        engine = self._engine
        self._stop_retry()
        try:
            for task in tuple(self._futures.values()):
                if not task.done and not engine.closed:
                    engine.exclusively(Deadline(0.0), task.label, engine.test, task)
            if self._futures and self._fd < 0 and not engine.closed:
                self._fd = engine.exclusively(Deadline(0.0), "await", engine.prepare_sleep)
                self._loop.add_reader(self._fd, self._move)
            if self._futures and not engine.closed and engine.due < inf:
                self._retry = self._loop.call_later(max(0.0, engine.due - monotonic()), self._move)
        except OperationTimeoutError as exc:
            if engine.error is not exc:  # another thread is in the engine and moves the bytes: watch again when it is not
                self._unwatch()
                self._retry = self._loop.call_later(_LOOK_SECONDS, self._move)
        except BaseException as exc:
            self._settle(exc)
            return
        self._settle()

    def _settle(self, error: BaseException | None = None) -> None:
        error = error or self._engine.error
        for future, task in tuple(self._futures.items()):
            if future.done():
                continue
            if task.done:
                future.set_result(None)
            elif error is not None:
                future.set_exception(error.with_traceback(None))

    def _expire(self, future: asyncio.Future[None], task: Task, deadline: Deadline) -> None:
        engine = self._engine
        if task.done or engine.closed:
            return
        try:
            engine.exclusively(Deadline(0.0), task.label, engine.wait, task, deadline)
        except BaseException as exc:
            if engine.closed:
                self._settle(exc)
            elif not future.done():  # another thread is in the engine: that concerns this one alone
                future.set_exception(exc)

    def _settle_soon(self) -> None:
        """A task has ended, inside some call, perhaps of another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle)

    def _ended(self) -> None:
        """The engine is about to close its connections, or one of its Contexts has been closed."""
        if self._engine.closed:
            self._unwatch()
        self._settle_soon()

    def _unwatch(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(fd)

    def _stop_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def end(self) -> None:
        """Watch no more."""
        self._unwatch()
        self._stop_retry()
        self._engine.watches.remove(self._ended)
