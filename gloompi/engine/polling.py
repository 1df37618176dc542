"""Polling: which connections have something to do, and how to wait until one has.

Three ways to wait, in this order: try again at once, let another process run and try again, sleep in epoll.  Ranks that
have a core each gain from trying (a wake-up costs 25 to 50 us); ranks that share cores must give the core away, or the
peer they wait for cannot run.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic

from ..transport.liveness import Vigil
from ..transport.pair import Pair

__all__ = ["Poller"]

# From a prototype of framed pairs, 8 B allreduce over AF_UNIX on 2 cores. 2 ranks: 18 us when trying for 20 us before
# sleeping, 19 us for 100 us, 45 us when sleeping at once. 4 ranks: 85 to 119 us when yielding at every miss, 135 us or
# more otherwise. How long to go on: large messages are worth it, because their sender waits until they have been taken. With
# 2 ranks, 1 MiB by send and recv took 202 us when trying for 50 us, 139 for 200 us, 136 for 500 us; 4 MiB 431, 453, 398.
_SPIN_SECONDS = 50e-6
_PROMPT_SECONDS = 100e-6
_PATIENCE_SECONDS = 500e-6

# So often, and for so long, may messages be awaited on their own connections before all are looked at again.
_MOST_SKIPPED = 64
_ALONE_SECONDS = 500e-6

# How long a pair is left alone for which the kernel has no memory.
_HOLD_SECONDS = 5e-3

# epoll counts milliseconds in a C int; whoever waits for longer looks again.
_LONGEST_SECONDS = 3600.0


class Poller:
    """The open pairs of an engine.

    Parameters
    ----------
    crowded : bool
        More ranks than cores on this host.
    shared : bool
        Other ranks are threads of this process: a rank that tries again keeps them from running at all.
    woken : callable
        Called in `poll` after somebody has called `wake`.

    Attributes
    ----------
    patience : float
        Seconds to keep trying before sleeping.
    prompt : float
        Seconds to keep trying on one connection alone.
    writing : dict
        By descriptor, the pairs that have something to send.
    due : float
        When to look for connections that are not answered, and to serve again those that are held, by `time.monotonic`;
        `poll` does it.
    """

    def __init__(self, crowded: bool, shared: bool, woken: Callable[[], None]) -> None:
        self.patience = 0.0 if shared else _PATIENCE_SECONDS
        self.prompt = min(self.patience, _PROMPT_SECONDS)
        self._spins = -1.0 if crowded else _SPIN_SECONDS
        self._epoll = select.epoll()
        # Keeps `wake` from writing to a descriptor that `close` has given back; a signal may come inside of it.
        self._gate = threading.RLock()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._alarm, select.EPOLLIN)
        self._woken = woken
        self._pairs: dict[int, Pair] = {}
        self.writing: dict[int, Pair] = {}
        self._armed: set[int] = set()
        self._held: dict[int, Pair] = {}
        self._skipped = 0
        self._looked = 0.0
        self._vigil: Vigil | None = None
        self.due = inf

    def add(self, pair: Pair) -> None:
        if self._vigil is None and pair.peer.transport != "unix":
            self._vigil = Vigil()
            self.due = self._vigil.due
        self._pairs[pair.fd] = pair
        self._epoll.register(pair.fd, select.EPOLLIN)

    def remove(self, pair: Pair) -> None:
        """Forget a pair; its socket may be closed already."""
        if self._pairs.pop(pair.fd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(pair.fd)
            self.writing.pop(pair.fd, None)
            self._armed.discard(pair.fd)
            self._held.pop(pair.fd, None)

    def pairs(self) -> list[Pair]:
        return list(self._pairs.values())

    def watch(self, pair: Pair, writing: bool) -> None:
        """Note whether a pair has something to send."""
        if not writing:
            self.writing.pop(pair.fd, None)
        elif pair.fd not in self._held:
            self.writing[pair.fd] = pair

    def hold(self, pair: Pair) -> None:
        """Leave a pair alone for a moment: the kernel has no memory for it, and would say all the time that it is ready."""
        if pair.fd in self._pairs and pair.fd not in self._held:
            self._epoll.unregister(pair.fd)
            self._armed.discard(pair.fd)
            self._held[pair.fd] = pair
            self.due = min(self.due, monotonic() + _HOLD_SECONDS)
        self.writing.pop(pair.fd, None)

    @property
    def held(self) -> list[Pair]:
        """The pairs for which the kernel has no memory."""
        return list(self._held.values())

    def flush(self) -> bool:
        """Send what the kernel takes; return whether it took any."""
        moved = False
        for pair in tuple(self.writing.values()):
            moved |= pair.flush()
        return moved

    def poll(self, timeout: float | None) -> bool:
        """Serve every pair that is ready, waiting up to `timeout` seconds for one; return whether that moved any bytes."""
        self._skipped, self._looked = 0, monotonic()
        if timeout != 0:
            self.prepare_sleep()
            until = max(0.0, self.due - self._looked)
            timeout = min(until, _LONGEST_SECONDS if timeout is None else timeout, _LONGEST_SECONDS)
        moved = False
        for fd, event in self._epoll.poll(timeout):
            pair = self._pairs.get(fd)
            if pair is None:
                if fd == self._alarm:
                    os.eventfd_read(fd)
                    self._woken()
                    moved = True
                continue  # or a pair that an earlier event in this list has closed
            if event & select.EPOLLOUT:
                moved |= pair.flush()
            if event & ~select.EPOLLOUT:
                moved |= pair.receive()
        if self._looked >= self.due:
            moved |= self._come_due()
        return moved

    def _come_due(self) -> bool:
        """Serve those again that are held; give up, once in some seconds, the connections that are not answered."""
        held, self._held = self._held, {}
        for fd, pair in held.items():
            self._epoll.register(fd, select.EPOLLIN)
            pair.shortage = ""
            if pair.sending:
                self.writing[fd] = pair
        lost = []
        if self._vigil is not None and (not held or self._looked >= self._vigil.due):
            lost = self._vigil.look(self._pairs.values())
        self.due = self._vigil.due if self._vigil is not None else inf
        for pair, reason in lost:
            pair.give_up(reason)
        return bool(held or lost)

    def prepare_sleep(self) -> int:
        """Have the kernel note what is waited for; return a descriptor that is readable when something of it has come."""
        # Asking for EPOLLOUT is a system call per change: done only before sleeping, when it matters.
        for fd in self.writing.keys() - self._armed:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
            self._armed.add(fd)
        for fd in self._armed - self.writing.keys():
            self._epoll.modify(fd, select.EPOLLIN)
            self._armed.discard(fd)
        return self._epoll.fileno()

    def pause(self, tried: float) -> None:
        """Between two tries: let another process run, unless a core is this rank's own and it has just begun to try."""
        if tried > self._spins:
            os.sched_yield()

    def alone(self) -> bool:
        """Whether a message may be awaited on its own connection, because nothing waits to be sent on the others.

        Serves all of them if they have been left alone for long enough.
        """
        self._skipped += 1
        if self._skipped > _MOST_SKIPPED or monotonic() - self._looked > _ALONE_SECONDS:
            if self._alarm < 0:
                return False  # an algorithm goes on to its next wait when the engine breaks
            self.poll(0)
        return not self.writing

    def wake(self) -> None:
        """From another thread or a signal handler: have `woken` called by the thread that polls."""
        with self._gate:
            if self._alarm >= 0:
                os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        with self._gate:
            alarm, self._alarm = self._alarm, -1
            if alarm >= 0:
                os.close(alarm)
        self._pairs.clear()
        self.writing.clear()
        self._armed.clear()
        self._held.clear()
        self._epoll.close()
