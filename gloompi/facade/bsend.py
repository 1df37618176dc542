"""Buffered sends: copies of messages that are on their way, and the program's buffer that bounds them.

The buffer of the program lends its size alone: the copies lie in memory of their own.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mpi4py import MPI as mpi

from ..arrays import Array
from ..request import Request
from ..waiting import wait_all
from .codes import exception

__all__ = ["attach", "detach", "flush", "keep", "reserve"]

_attached: list[tuple[Any, int]] = []

# With each send, the bytes that had been begun before it since the last time that nothing was under way, and with it.
_pending: deque[tuple[Request, int, int]] = deque()


def attach(buf: Any) -> None:
    """Give room for buffered sends."""
    if _attached:
        raise exception(mpi.ERR_BUFFER, "a buffer is attached already; detach it first")
    room = 2**63 if isinstance(buf, mpi.BufferAutomaticType) else mpi.buffer.frombuffer(buf).nbytes
    _attached.append((buf, room))


def detach() -> Any:
    """Wait for the buffered sends and return the buffer; None if there was none."""
    flush()
    return _attached.pop()[0] if _attached else None


def flush() -> None:
    """Wait until all buffered sends are done."""
    wait_all([request for request, _, _ in _pending])
    _pending.clear()


def keep(request: Request, nbytes: int) -> None:
    """Keep a send under way."""
    before = _pending[-1][2] if _pending else 0
    _pending.append((request, before, before + nbytes + mpi.BSEND_OVERHEAD))


def reserve(message: Array) -> Array:
    """Return a copy of a message that may be sent in the background.

    Raises
    ------
    mpi4py.MPI.Exception
        ERR_BUFFER: there is no room for it.
    """
    while _pending and _pending[0][0].test():
        _pending.popleft()
    room = _attached[0][1] if _attached else 0
    used = _pending[-1][2] - _pending[0][1] if _pending else 0
    if used + message.nbytes > room:
        raise exception(
            mpi.ERR_BUFFER,
            f"a buffered send of {message.nbytes} bytes, with {used} under way, does not fit the attached buffer of {room} "
            f"bytes: attach a larger one, size plus MPI.BSEND_OVERHEAD for each message",
        )
    return message.copy()
