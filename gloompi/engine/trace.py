"""A trace: every call of a rank in a file that Perfetto and chrome://tracing open.

The format is the Trace Event Format's array of complete events, a line each; the array may lack its end, so that what a
killed rank has written can be read.
"""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..transport.endpoint import Peer
    from .recorder import Entry

__all__ = ["Trace", "open_trace"]

# Seconds for which calls are kept before they are written.
_WRITE_SECONDS = 1.0

_traces = itertools.count()


def open_trace(rank: int, peers: Sequence[Peer]) -> Trace | None:
    """The trace of a new Context, if GLOOMPI_TRACE names a folder."""
    folder = os.environ.get("GLOOMPI_TRACE")
    if not folder:
        return None
    return Trace(Path(folder) / f"context{next(_traces)}-rank{rank}.json", peers[rank], len(peers))


class Trace:
    """The file of one rank; open only while it is written to.

    Parameters
    ----------
    path : Path
        What is there is overwritten.
    me : Peer
    size : int
    """

    def __init__(self, path: Path, me: Peer, size: int) -> None:
        self._path: Path | None = path
        self._rank = me.rank
        self._mode = "w"
        self._lines: list[str] = []
        self._written = monotonic()
        self._contexts: set[int] = set()
        self._over = False
        self._note("process_name", name=f"rank {me.rank} of {size} ({me.host}, pid {me.pid})")
        self._note("process_sort_index", sort_index=me.rank)
        self._note("gloompi", rank=me.rank, size=size, host=me.host, pid=me.pid, host_id=me.host_id.hex())

    def _note(self, kind: str, thread: int = 0, /, **facts: object) -> None:
        self._put({"name": kind, "ph": "M", "pid": self._rank, "tid": thread, "args": facts})

    def _put(self, event: dict[str, object]) -> None:
        self._lines.append(json.dumps(event) + ",\n")

    def write(self, entry: Entry, context: int) -> None:
        """Add a call."""
        if self._path is None:
            return
        if context not in self._contexts:
            self._contexts.add(context)
            self._note("thread_name", context, name=f"Context {context:x}" if context else "Context")
        record = entry.record
        facts = {
            "number": record.number,
            "peer": record.peer,
            "dtype": record.dtype,
            "count": record.count,
            "bytes": record.nbytes,
            "state": record.state,
        }
        self._put(
            {
                "name": entry.label,
                "cat": "collective" if entry.number else "message",
                "ph": "X",
                "ts": round(record.start * 1e6, 1),
                "dur": round((entry.ended - entry.began) * 1e6, 1),
                "pid": self._rank,
                "tid": context,
                "args": facts,
            }
        )
        if self._over or entry.ended - self._written > _WRITE_SECONDS:
            self._flush()

    def end(self) -> None:
        """Write what there is; the call that is under way comes as the last."""
        self._over = True
        self._flush()

    def forsake(self) -> None:
        """Write nothing any more."""
        self._path = None
        self._lines.clear()

    def _flush(self) -> None:
        if self._path is None:
            return
        self._written = monotonic()
        try:
            if self._mode == "w":
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lines.insert(0, "[\n")
            with self._path.open(self._mode, encoding="utf-8") as file:
                file.write("".join(self._lines))
        except OSError as exc:
            # A job that runs is worth more than its trace, and an error here would be this rank's alone.
            warnings.warn(f"GLOOMPI_TRACE: the trace of rank {self._rank} ends here: {exc}", RuntimeWarning, stacklevel=2)
            self.forsake()
        self._mode = "a"
        self._lines.clear()
