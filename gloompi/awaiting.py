"""Requests in coroutines: the event loop watches the connections of an engine, and nothing runs beside it.

An engine sleeps in one epoll descriptor, which is readable when any of its connections has something to do; an event loop
can watch that descriptor like a socket.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from .deadline import Deadline
from .engine.engine import Engine
from .engine.task import Task
from .errors import OperationTimeoutError

__all__ = ["completed"]

# How soon a task that moves nothing is looked at again: to ask its peers whether they are in the same call.
_LOOK_SECONDS = 0.06

_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Watch]] = WeakKeyDictionary()


async def completed(engine: Engine, task: Task, deadline: Deadline) -> None:
    """Wait until the task is done.

    Raises
    ------
    OperationTimeoutError
        The budget is spent.  The engine is broken then, like after every error here.
    PeerLostError, MismatchError, ContextClosedError
    """
    loop = asyncio.get_running_loop()
    watches = _watches.setdefault(loop, {})
    watch = watches.get(id(engine))
    if watch is None or watch.engine is not engine:
        watch = watches[id(engine)] = _Watch(engine, loop)
    try:
        await watch.wait_for(task, deadline)
    finally:
        if watch.idle:
            watch.end()
            if watches.get(id(engine)) is watch:
                del watches[id(engine)]


class _Watch:
    """One event loop's eye on one engine."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self._loop = loop
        self._futures: dict[asyncio.Future[None], Task] = {}
        self._fd = -1

    @property
    def idle(self) -> bool:
        return not self._futures

    async def wait_for(self, task: Task, deadline: Deadline) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._futures[future] = task
        task.ended = self._look_soon
        timers = [self._loop.call_later(_LOOK_SECONDS, self._move, task)]
        remaining = deadline.remaining()
        if remaining is not None:
            timers.append(self._loop.call_later(remaining, self._expire, task, deadline))
        try:
            self._move(task)
            await future
        finally:
            task.ended = None
            del self._futures[future]
            for timer in timers:
                timer.cancel()

    def _move(self, task: Task | None = None) -> None:
        """Move what can be moved, settle what is done, and watch for more."""
        engine = self.engine
        task = task or next(iter(self._futures.values()), None)
        try:
            if task is not None and not task.done and not engine.closed:
                engine.exclusively(Deadline(0.0), task.label, engine.test, task)
        except OperationTimeoutError:  # another thread is in the engine: it moves the bytes, and others come later
            self._loop.call_later(_LOOK_SECONDS, self._move)
        except BaseException as exc:
            self._settle(exc)
            return
        self._settle(engine.error)
        if self._futures and self._fd < 0 and not engine.closed:
            engine.watches.append(self._released)
            self._fd = engine.prepare_sleep()
            self._loop.add_reader(self._fd, self._move)
        elif self._fd >= 0 and not engine.closed:
            engine.prepare_sleep()

    def _settle(self, error: BaseException | None) -> None:
        for future, task in tuple(self._futures.items()):
            if future.done():
                continue
            if task.done:
                future.set_result(None)
            elif error is not None:
                future.set_exception(error)

    def _expire(self, task: Task, deadline: Deadline) -> None:
        if task.done or self.engine.closed:
            self._settle(self.engine.error)
            return
        try:
            self.engine.exclusively(Deadline(0.0), task.label, self.engine.wait, task, deadline)
        except BaseException as exc:
            self._settle(exc)

    def _look_soon(self) -> None:
        """A task has ended, inside some call, perhaps of another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, None)

    def _released(self) -> None:
        """The engine is about to close its connections."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(fd)
            self._loop.call_soon_threadsafe(self._move)

    def end(self) -> None:
        """Watch no more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
            self.engine.watches.remove(self._released)
