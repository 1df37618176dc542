"""Polling: which connections have something to do, and how to wait until one has.

Three ways to wait, in this order: try again at once, let another process run and try again, sleep in epoll.  Ranks that
have a core each gain from trying (a wake-up costs 25 to 50 us); ranks that share cores must give the core away, or the
peer they wait for cannot run.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from time import monotonic, sleep

from ..transport.liveness import Vigil
from ..transport.pair import Pair
from .alarm import Alarm
from .turn import Turn

__all__ = ["Poller", "sleep_on"]

# From a prototype of framed pairs, 8 B allreduce over AF_UNIX on 2 cores. 2 ranks: 18 us when trying for 20 us before
# sleeping, 19 us for 100 us, 45 us when sleeping at once. 4 ranks: 85 to 119 us when yielding at every miss, 135 us or
# more otherwise. How long to go on: large messages are worth it, because their sender waits until they have been taken. With
# 2 ranks, 1 MiB by send and recv took 202 us when trying for 50 us, 139 for 200 us, 136 for 500 us; 4 MiB 431, 453, 398.
_SPIN_SECONDS = 50e-6
_PROMPT_SECONDS = 100e-6
_PATIENCE_SECONDS = 500e-6

# So often, and for so long, may messages be sent, or be awaited on their own connections, before all are looked at again.
_MOST_SKIPPED = 64
_ALONE_SECONDS = 500e-6

# So long does the thread that polls for all stand aside when something has come and another thread has the turn; longer each
# time that it still has it, an operator of the user's perhaps that computes.
_ASIDE_SECONDS = 200e-6
_LONGEST_ASIDE_SECONDS = 5e-3
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
    stale : float
        From when on all pairs have not been looked at for a while, by `time.monotonic`.
    failed : bool
        A write has failed since.
    due : float
        When to look for connections that are not answered, and to serve again those that are held, by `time.monotonic`;
        `poll` does it.
    """

    def __init__(self, crowded: bool, shared: bool, woken: Callable[[], None]) -> None:
        self.patience = 0.0 if shared else _PATIENCE_SECONDS
        self.prompt = min(self.patience, _PROMPT_SECONDS)
        self._spins = -1.0 if crowded else _SPIN_SECONDS
        self._epoll = select.epoll()
        self._alarm = Alarm()
        self._epoll.register(self._alarm.fd, select.EPOLLIN)
        self._woken = woken
        self._sleeping = self._closing = False
        self._until = 0.0  # it sleeps, by `time.monotonic`
        self._pairs: dict[int, Pair] = {}
        self.writing: dict[int, Pair] = {}
        self._armed: set[int] = set()
        self._held: dict[int, Pair] = {}
        self._skipped = 0
        self.stale = _ALONE_SECONDS
        self.failed = False
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
        if writing:
            self.writing[pair.fd] = pair
        else:
            self.writing.pop(pair.fd, None)
            if pair.failed:
                self.failed, self.stale = True, 0.0

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
        now = monotonic()
        self.stale = now + _ALONE_SECONDS
        self._skipped = 0
        ready = self._epoll.poll(0 if timeout == 0 else self._prepare(timeout))
        return self._serve(ready) if ready or now >= self.due else False

    def sleep(self, timeout: float | None, turn: Turn, beside: Sequence[int] = ()) -> bool:
        """As `poll`, but let other threads have the turn while nothing has come, here or for the descriptors `beside`."""
        self._skipped = 0
        seconds = self._prepare(timeout)
        self._sleeping = True
        turn.rest()
        try:
            ready = self._sleep(seconds, turn, beside)
        finally:
            try:
                turn.resume()
            finally:
                self._sleeping = False
                if self._closing:
                    self._close()
        self.stale = monotonic() + _ALONE_SECONDS
        return self._serve(ready)

    def _sleep(self, seconds: float, turn: Turn, beside: Sequence[int]) -> list[tuple[int, int]]:
        """Wait until something has come that no thread which has the turn takes."""
        until = monotonic() + seconds
        aside = _ASIDE_SECONDS
        while True:
            if beside:
                sleep_on([self._epoll.fileno(), *beside], seconds)
                return self._epoll.poll(0)
            ready = self._epoll.poll(seconds)
            if not ready or turn.try_resume() or any(fd == self._alarm.fd for fd, _ in ready):
                return ready
            # Another thread is at it, and would lose more by a change of threads for each message than this one gains.
            sleep(aside)
            aside = min(2 * aside, _LONGEST_ASIDE_SECONDS)
            seconds = max(0.0, until - monotonic())

    def _prepare(self, timeout: float | None) -> float:
        """Get ready to sleep; the seconds for which to."""
        self.prepare_sleep()
        now = monotonic()
        self._until = min(self.due, now + (_LONGEST_SECONDS if timeout is None else min(timeout, _LONGEST_SECONDS)))
        return max(0.0, self._until - now)

    def remind(self, pressing: bool) -> None:
        """Have the thread that sleeps do what has come up since: when it is due, or, if it is pressing, at once."""
        if self.writing.keys() != self._armed:
            self.prepare_sleep()
        if pressing or self.due < self._until:
            self.wake()

    def _serve(self, ready: list[tuple[int, int]]) -> bool:
        moved = False
        for fd, event in ready:
            pair = self._pairs.get(fd)
            if pair is None:
                if fd == self._alarm.fd:
                    if not self._sleeping:  # else it is for the thread that does, which would not see it any more
                        self._alarm.hush()
                        moved = True
                    self._woken()
                continue  # or a pair that an earlier event in this list has closed
            if event & select.EPOLLOUT:
                moved |= pair.flush()
            if event & ~select.EPOLLOUT:
                moved |= pair.receive()
        if monotonic() >= self.due:
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
        if self._vigil is not None and (not held or monotonic() >= self._vigil.due):
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
        if self._skipped > _MOST_SKIPPED or monotonic() > self.stale:
            if self._alarm.fd < 0:
                return False  # an algorithm goes on to its next wait when the engine breaks
            self.poll(0)
        return not self.writing

    def wake(self) -> None:
        """From another thread or a signal handler: have `woken` called by the thread that polls."""
        self._alarm.ring()

    def close(self) -> None:
        """Close the descriptors: at once, or where another thread sleeps on them, when that has woken up."""
        self._pairs.clear()
        self.writing.clear()
        self._armed.clear()
        self._held.clear()
        if self._sleeping:
            self._closing = True
            self.wake()
        else:
            self._close()

    def close_in_child(self) -> None:
        """Close the descriptors in a forked process, which has none of the other threads."""
        self._alarm.renew_gate()
        self._sleeping = False
        self.close()

    def _close(self) -> None:
        self._alarm.close()
        self._epoll.close()


def sleep_on(descriptors: Sequence[int], seconds: float | None) -> None:
    """Sleep until one of several descriptors is readable."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    waiting.poll(None if seconds is None else 1000 * min(seconds, _LONGEST_SECONDS))
