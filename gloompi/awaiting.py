"""Requests in coroutines: the event loop watches the connections of an engine, and nothing runs beside it.

An engine sleeps in one epoll descriptor, which is readable when any of its connections has something to do; an event loop
can watch that descriptor like a socket.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from weakref import WeakKeyDictionary

from .deadline import Deadline
from .engine.engine import Engine
from .engine.task import Task
from .errors import OperationTimeoutError

__all__ = ["completed"]

# How soon the tasks are looked at when nothing moves any more: a little later than an engine asks their peers whether they
# are in the same call.
_LOOK_SECONDS = 0.06

# How long to wait for another thread that has the turn: one that waits gives it away at once, one that computes does not.
_TURN_SECONDS = 1e-3

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
    """One event loop's eye on one engine.

    However many requests are awaited, an event takes one turn in the engine, and a request that has ended says so itself.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._awaited: OrderedDict[asyncio.Future[None], Task] = OrderedDict()
        self._ended: deque[asyncio.Future[None]] = deque()  # what they are for has ended, and they do not know it yet
        self._settling = False  # they will soon
        self._fd = -1
        self._retry: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._looks = 0
        self._pace = _LOOK_SECONDS
        engine.watches.append(self._changed)

    @property
    def idle(self) -> bool:
        return not self._awaited

    async def wait_for(self, task: Task, deadline: Deadline) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._awaited[future] = task
        tell = partial(self._tell, future)
        task.tell(tell)
        remaining = deadline.remaining()
        timer = None if remaining is None else self._loop.call_later(remaining, self._expire, future, task, deadline)
        try:
            self._move()
            if not task.done:
                task.stalled(0.0)  # it counts from now
            await future
        finally:
            task.tell_no_more(tell)
            del self._awaited[future]
            if timer is not None:
                timer.cancel()

    def _tell(self, future: asyncio.Future[None]) -> None:
        """The task of a future has ended, inside some call, perhaps of another thread."""
        self._ended.append(future)
        if not self._settling and not self._loop.is_closed():
            self._settling = True
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        """Wake those whose tasks have ended; if the engine has, all."""
        self._settling = False  # first: what ends from here on is told anew
        while self._ended:
            future = self._ended.popleft()
            if not future.done():
                future.set_result(None)
        if self._engine.error is not None:
            self._fail(self._engine.error)

    def _fail(self, error: BaseException) -> None:
        for future, task in tuple(self._awaited.items()):
            if future.done():
                continue
            if task.done:
                future.set_result(None)
            else:
                future.set_exception(error.with_traceback(None))

    # -- turns in the engine --------------------------------------------------------------------------------------------

    def _move(self) -> None:
        """Move what can be moved, wake whom that concerns, and watch for more."""
        self._looks = 2  # the first begins to count, the second asks
        if self._looking is None:
            self._looking = self._loop.call_later(self._pace, self._look)
        self._use(self._turn)

    def _turn(self) -> None:
        self._engine.move(next(iter(self._awaited.values())))
        if self._fd < 0 and not self._engine.closed:
            self._fd = self._engine.prepare_sleep()
            self._loop.add_reader(self._fd, self._move)

    def _look(self) -> None:
        """See for whom nothing has come for a while, and have their peers asked.

        That takes longer the more there are: it is done some time after something has moved, and takes one part in twenty
        of the time at most.
        """
        began = monotonic()
        self._looking = None
        self._looks -= 1
        self._use(lambda: self._engine.ask_for(self._awaited.values()))
        self._pace = max(_LOOK_SECONDS, 20 * (monotonic() - began))
        if self._looks and self._awaited and self._looking is None:
            self._looking = self._loop.call_later(self._pace, self._look)

    def _use(self, action: Callable[[], None]) -> None:
        """Do something in the engine, unless another thread is in it."""
        engine = self._engine
        self._stop_retry()
        self._settling = True  # by this, at the end
        try:
            if self._awaited and not engine.closed:
                engine.exclusively(Deadline(_TURN_SECONDS), "await", action)
        except OperationTimeoutError as exc:
            if engine.error is not exc:  # another thread is in the engine and moves the bytes: watch again when it is not
                self._unwatch()
                self._retry = self._loop.call_later(_LOOK_SECONDS, self._move)
        except BaseException as exc:
            self._fail(exc)
        if self._retry is None and self._awaited and not engine.closed and engine.due < inf:
            self._retry = self._loop.call_later(max(0.0, engine.due - monotonic()), self._move)
        self._settle()

    def _expire(self, future: asyncio.Future[None], task: Task, deadline: Deadline) -> None:
        engine = self._engine
        if task.done or engine.closed:
            return
        try:
            engine.exclusively(Deadline(_TURN_SECONDS), task.label, engine.wait, task, deadline)
        except BaseException as exc:
            if engine.closed:
                self._fail(exc)
            elif not future.done():  # another thread is in the engine: that concerns this one alone
                future.set_exception(exc)

    def _changed(self) -> None:
        """The engine is about to close its connections, or one of its Contexts has been closed."""
        if self._engine.closed:
            self._unwatch()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle)

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
        if self._looking is not None:
            self._looking.cancel()
        self._engine.watches.remove(self._changed)
