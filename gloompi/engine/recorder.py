"""The flight recorder: the last calls of a Context, for when something has gone wrong.

What is kept of a call is what its fingerprint says, not its arrays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from time import localtime, monotonic, strftime, time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .fingerprint import describe, read

if TYPE_CHECKING:
    from .task import Task
    from .trace import Trace

__all__ = ["CAPACITY", "CallRecord", "Entry", "Recorder", "child_name", "tail", "time_of_day"]

# Calls that a Context remembers.
CAPACITY = 256

# Calls that an error shows.
_SHOWN = 8

# What the clock of deadlines lacks to the time of day.
_TO_EPOCH = time() - monotonic()


def time_of_day(clock: float) -> float:
    """Seconds since the epoch, of a `time.monotonic`."""
    return clock + _TO_EPOCH


def child_name(context: int) -> str:
    """What a Context made by dup or split is called, from its number; empty for the one that the rendezvous has made."""
    return f"{context:016x}" if context else ""


@dataclass(frozen=True)
class CallRecord:
    """One call, as in ``ctx.history()``.

    Attributes
    ----------
    number : int or None
        Of a collective, as in error texts; None if it has not begun, 0 for a message.
    name : str
        ``"allreduce"``.
    peer : int or None
        The other rank of a message, the root of a collective; None if there is none, or none has come yet.
    dtype : str or None
        As NumPy writes it, ``"<f4"``; None if there is no array, or objects are sent.
    count, nbytes : int or None
        Items of this rank's array (of a receive: what there is room for), and their bytes; None for pieces as well.
    start : float
        Seconds since the epoch.
    end : float or None
        None as long as it is under way.
    state : str
        "done", "under way", or the name of the error that has ended it.
    """

    number: int | None
    name: str
    peer: int | None
    dtype: str | None
    count: int | None
    nbytes: int | None
    start: float
    end: float | None
    state: str


class Entry(NamedTuple):
    """What is kept of a call.

    Attributes
    ----------
    name : str
        ``"allreduce"``.
    number : int
        Of a collective, -1 if it has not begun; 0 for a message.
    peer : int
        The other rank of a message, -1 if there is none.
    mark : bytes
        The fingerprint.
    began, ended : float
        By the clock of deadlines; `ended` is 0 for what is under way.
    failure : str
        Name of the error; empty if there was none.
    context : int
        Number of the Context, 0 for the one that the rendezvous has made.
    """

    name: str
    number: int
    peer: int
    mark: bytes
    began: float
    ended: float = 0.0
    failure: str = ""
    context: int = 0

    @property
    def label(self) -> str:
        """``"allreduce #17"``."""
        return f"{self.name} #{self.number}" if self.number > 0 else self.name

    @property
    def record(self) -> CallRecord:
        """What the user sees."""
        root, count, dtype = read(self.mark)
        peer = self.peer if self.peer >= 0 else root
        return CallRecord(
            self.number if self.number >= 0 else None,
            self.name,
            peer if peer >= 0 else None,
            dtype or None,
            count if dtype and count >= 0 else None,
            _nbytes(dtype, count),
            time_of_day(self.began),
            time_of_day(self.ended) if self.ended else None,
            self.failure or ("done" if self.ended else "under way"),
        )

    def line(self, now: float) -> str:
        """A line of an error text."""
        start = time_of_day(self.began)
        facts = describe(self.mark).partition("(")[2].rstrip(")")
        what = f" ({facts})" if facts else ""
        who = f" with rank {self.peer}" if self.peer >= 0 else ""
        where = f" of Context {child_name(self.context)}" if self.context else ""
        lasted = f"took {_seconds(self.ended - self.began)}" if self.ended else f"under way for {_seconds(now - self.began)}"
        clock = f"{strftime('%H:%M:%S', localtime(start))}.{int(start * 1000) % 1000:03}"
        return f"  {clock}  {self.label}{where}{what}{who}: {lasted}{f', {self.failure}' if self.failure else ''}"


class Recorder:
    """The last calls of one Context.

    Parameters
    ----------
    trace : Trace, optional
        Where every call is written as well.
    context : int
        Its number.
    """

    __slots__ = ("_context", "_past", "_trace")

    def __init__(self, trace: Trace | None = None, context: int = 0) -> None:
        # Not entries yet: most of them are never looked at.
        self._past: deque[tuple[str, int, int, bytes, float, float, str]] = deque(maxlen=CAPACITY)
        self._trace = trace
        self._context = context

    def ended(self, task: Task, failure: str = "") -> None:
        """Keep a call that has come to its end."""
        entry = (task.name, task.number, task.peer, task.mark, task.began, monotonic(), failure)
        self._past.append(entry)
        task.recorded = True
        if self._trace is not None:
            self._trace.write(Entry(*entry, self._context))

    def failed(self, task: Task, failure: str) -> None:
        """Keep a call that has failed, once: whoever meets the failure first may need it in the history."""
        if not task.recorded:
            self.ended(task, failure)

    def entries(self, under_way: Iterable[Task] = ()) -> list[Entry]:
        """The calls that are remembered, in the order of their begin."""
        past = [Entry(*entry, self._context) for entry in tuple(self._past)]  # another thread may be adding to it
        now = monotonic()  # one that is done and not kept yet is about to return
        past += [
            Entry(task.name, task.number, task.peer, task.mark, task.began, now if task.done else 0.0, context=self._context)
            for task in under_way
            if not task.recorded
        ]
        return sorted(past, key=lambda entry: entry.began)


def tail(entries: Iterable[Entry], now: float) -> str:
    """The latest calls, for the end of an error text; empty if there are none."""
    last = sorted(entries, key=lambda entry: entry.began)[-_SHOWN:]
    return "\n".join(["The last calls of this rank:", *(entry.line(now) for entry in last)]) if last else ""


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


def _nbytes(dtype: str, count: int) -> int | None:
    if not dtype or count < 0:
        return None
    try:
        return count * np.dtype(dtype).itemsize
    except TypeError:  # a name that had to be cut, or one that another package knows
        return None
