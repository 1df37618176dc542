"""A trace: every call of a rank in a file that Perfetto and chrome://tracing open.

The format is the Trace Event Format's array of complete events, a line each.  The array may lack its end, so that what a
killed rank has written can be read; when a Context or the interpreter ends, its end is written too.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..files import make_folder, open_file, open_folder, write_all
from .recorder import child_name, time_of_day

if TYPE_CHECKING:
    from ..transport.endpoint import Peer
    from .recorder import Entry

__all__ = ["Lanes", "Trace", "event", "microseconds", "note", "open_trace"]

# Seconds for which calls are kept before they are written.
_WRITE_SECONDS = 1.0

_BEGIN, _BETWEEN, _END = b"[\n", b",\n", b"\n]\n"

_alive: weakref.WeakSet[Trace] = weakref.WeakSet()
_opened: Counter[tuple[str, int]] = Counter()


def open_trace(folder: str, rank: int, peers: Sequence[Peer], marker: bytes) -> Trace:
    """The trace of a new Context, in the folder that GLOOMPI_TRACE names; for `marker` see `Remnants`."""
    from hashlib import blake2b

    # Which Context of the job it is: its ranks agree on that without a word.  Where there is no marker they do if they make
    # Contexts in the same order.
    who = repr([(peer.host_id, peer.pid) for peer in peers]).encode()
    members = blake2b(who, digest_size=8, key=marker, person=b"gloompi trace").hexdigest()
    number = _opened[members, rank]
    _opened[members, rank] += 1
    # The program may go to another folder later.
    path = Path(os.path.abspath(folder), f"gloompi-{members}-{number}-rank{rank}.json")
    trace = Trace(path, peers[rank], len(peers))
    _alive.add(trace)
    return trace


def microseconds(seconds: float) -> float:
    """A time as events have it.

    Begin and end are rounded, and not their difference: what does not overlap must not by rounding.
    """
    return round(seconds * 1e6, 1)


def event(
    name: str, number: int | None, start: float, end: float, process: int, thread: int, facts: dict[str, Any]
) -> dict[str, Any]:
    """A call as a complete event; times in microseconds, `number` as in `CallRecord`."""
    return {
        "name": name,
        "cat": "message" if number == 0 else "collective",
        "ph": "X",
        "ts": start,
        "dur": round(end - start, 1),
        "pid": process,
        "tid": thread,
        "args": facts,
    }


def note(kind: str, process: int, thread: int, /, **facts: object) -> dict[str, Any]:
    """A metadata event."""
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": facts}


class Lanes:
    """Rows for calls that may overlap: what is in a row is one after the other.

    Perfetto drops a complete event that partly overlaps with another one of its thread.
    """

    def __init__(self) -> None:
        self._ends: list[float] = []

    def lane(self, start: float, end: float) -> int:
        """The row of a call; calls come in the order of their ends."""
        for lane, last in enumerate(self._ends):
            if last <= start:
                self._ends[lane] = end
                return lane
        self._ends.append(end)
        return len(self._ends) - 1


class Trace:
    """The file of one rank; open only while it is written to.

    Parameters
    ----------
    path : Path
        Nothing may be there.
    me : Peer
    size : int
    """

    def __init__(self, path: Path, me: Peer, size: int) -> None:
        self._path: Path | None = path
        self._rank = me.rank
        self._lines: list[str] = []
        self._file: tuple[int, int] | None = None  # device and inode, once it is made
        self._ended = False  # the file has the end of the array
        self._written = monotonic()
        self._lanes: dict[int, Lanes] = {}
        self._threads: dict[tuple[int, int], int] = {}
        self._over = False
        # Contexts of one rank may be in several threads; one thread may come back when a signal handler uses a Context.
        self._lock = threading.RLock()
        self._note("process_name", name=f"rank {me.rank} of {size} ({me.host}, pid {me.pid})")
        self._note("process_sort_index", sort_index=me.rank)
        self._note("gloompi", rank=me.rank, size=size, host=me.host, pid=me.pid, host_id=me.host_id.hex())

    def _note(self, kind: str, thread: int = 0, /, **facts: object) -> None:
        self._put(note(kind, self._rank, thread, **facts))

    def _put(self, made: dict[str, Any]) -> None:
        self._lines.append(json.dumps(made))

    def write(self, entry: Entry) -> None:
        """Add a call."""
        if self._path is None:
            return
        with self._lock:
            self._add(entry)
            if self._over or entry.ended - self._written > _WRITE_SECONDS:
                self._flush()

    def _add(self, entry: Entry) -> None:
        record = entry.record
        start, end = (microseconds(time_of_day(clock)) for clock in (entry.began, entry.ended))
        facts = {
            "number": record.number,
            "peer": record.peer,
            "dtype": record.dtype,
            "count": record.count,
            "bytes": record.nbytes,
            "state": record.state,
            "context": child_name(entry.context),
        }
        thread = self._thread(entry.context, start, end)
        self._put(event(entry.label, record.number, start, end, self._rank, thread, facts))

    def _thread(self, context: int, start: float, end: float) -> int:
        lane = self._lanes.setdefault(context, Lanes()).lane(start, end)
        thread = self._threads.get((context, lane))
        if thread is None:
            thread = self._threads[context, lane] = len(self._threads)
            name = f"Context {child_name(context)}".rstrip()
            self._note("thread_name", thread, name=f"{name}, overlapping" if lane else name)
        return thread

    def end(self) -> None:
        """Write what there is, and from now on every call at once: the one that is under way comes as the last."""
        with self._lock:
            self._over = True
            self._flush()

    def forsake(self) -> None:
        """Write nothing any more."""
        self._path = None
        self._lines.clear()

    def _flush(self) -> None:
        path, lines, begun, ended = self._path, self._lines, self._file is not None, self._ended
        if path is None or (ended and not lines):
            return
        self._lines, self._ended = [], self._over
        self._written = monotonic()
        text = (_BETWEEN if begun else _BEGIN) + _BETWEEN.join(line.encode() for line in lines) if lines else b""
        try:
            self._append(path, text + (_END if self._over else b""), len(_END) if ended else 0)
        except OSError as exc:
            # A job that runs is worth more than its trace, and an error here would be this rank's alone.
            self.forsake()
            warnings.warn(f"GLOOMPI_TRACE: the trace of rank {self._rank} ends here: {exc}", RuntimeWarning, stacklevel=2)

    def _append(self, path: Path, text: bytes, replaced: int) -> None:
        """Append to the file, over its last `replaced` bytes; make it if it is not made yet."""
        if self._file is None:
            make_folder(path.parent)
        flags = os.O_WRONLY | (0 if self._file else os.O_CREAT | os.O_EXCL)
        with open_folder(path.parent) as folder, open_file(path.name, flags, folder) as fd:
            found = os.fstat(fd)
            if self._file not in (None, (found.st_dev, found.st_ino)):
                raise FileExistsError(errno.EEXIST, "another file has taken its place", path.name)
            self._file = (found.st_dev, found.st_ino)
            os.lseek(fd, -replaced, os.SEEK_END)
            write_all(fd, text)


@atexit.register
def _end_all() -> None:
    """The interpreter ends; with it, Contexts that nobody has closed."""
    for trace in tuple(_alive):
        trace.end()
