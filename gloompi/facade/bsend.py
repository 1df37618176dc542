"""Buffered sends: copies of messages that are on their way, and the program's buffer that bounds them.

The buffer of the program lends its size alone: the copies lie in memory of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import Any

from mpi4py import MPI as mpi

from ..arrays import Array
from ..request import Request
from ..waiting import wait_all
from .codes import exception

__all__ = ["attach", "detach", "flush", "send"]


class _Place:
    """The room of one message, from before it is copied until it has been sent."""

    __slots__ = ("before", "given_back", "request", "through")

    def __init__(self, before: int, through: int) -> None:
        # Bytes that had been given since the last time that nothing was under way: before it, and with it.
        self.before = before
        self.through = through
        self.request: Request | None = None
        self.given_back = False

    def free(self) -> bool:
        return self.given_back or (self.request is not None and self.request.test())


_attached: list[tuple[Any, int]] = []
_pending: deque[_Place] = deque()

# Guards both.  Nothing is sent, tested or waited for while it is held: that needs the engine, which another thread may have.
_lock = RLock()


def attach(buf: Any) -> None:
    """Give room for buffered sends."""
    room = 2**63 if isinstance(buf, mpi.BufferAutomaticType) else mpi.buffer.frombuffer(buf).nbytes
    with _lock:
        if _attached:
            raise exception(mpi.ERR_BUFFER, "a buffer is attached already; detach it first")
        _attached.append((buf, room))


def detach() -> Any:
    """Wait for the buffered sends and return the buffer; None if there was none."""
    flush()
    with _lock:
        return _attached.pop()[0] if _attached else None


def flush() -> None:
    """Wait until all buffered sends are done that have been begun."""
    with _lock:
        begun = [place.request for place in _pending if place.request is not None]
    wait_all(begun)
    _collect()


def send(message: Array, begin: Callable[[Array], Request]) -> None:
    """Have a copy of a message sent in the background, by ``begin(copy)``.

    Raises
    ------
    mpi4py.MPI.Exception
        ERR_BUFFER: there is no room for it.
    """
    _collect()
    place = _reserve(message.nbytes)
    try:
        place.request = begin(message.copy())
    except BaseException:
        place.given_back = True
        raise


def _collect() -> None:
    """Take back the places of messages that have been sent, in order."""
    while True:
        with _lock:
            first = _pending[0] if _pending else None
        if first is None or not first.free():
            return
        with _lock:
            if _pending and _pending[0] is first:  # or another thread was faster
                _pending.popleft()


def _reserve(nbytes: int) -> _Place:
    with _lock:
        room = _attached[0][1] if _attached else 0
        through = _pending[-1].through if _pending else 0
        used = through - _pending[0].before if _pending else 0
        if used + nbytes > room:
            raise exception(
                mpi.ERR_BUFFER,
                f"a buffered send of {nbytes} bytes, with {used} under way, does not fit the attached buffer of {room} "
                f"bytes: attach a larger one, size plus MPI.BSEND_OVERHEAD for each message",
            )
        place = _Place(through, through + nbytes + mpi.BSEND_OVERHEAD)
        _pending.append(place)
        return place
