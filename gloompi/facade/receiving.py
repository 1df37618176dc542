"""Receiving a message into a buffer, or as an object."""

from __future__ import annotations

from typing import Any

from ..context import Context
from ..engine.call import as_array
from ..engine.matching import Arrival
from ..engine.task import Task
from ..plans.messages import Status
from .buffers import Buffer
from .pickling import loaded
from .work import Begin, Completion

__all__ = ["no_result", "receive"]


def no_result(result: object) -> Completion:
    """The completion of what has no result."""
    return Completion()


def receive(context: Context, buffer: Buffer | None, source: int, tag: int, arrival: Arrival | None = None) -> Begin:
    """Receive into a buffer, or, without one, an object; or the very message that a probe has found."""
    pickler = context._plan.pickler if buffer is None else None

    def begin() -> tuple[Task, Any]:
        place = None if buffer is None else buffer.incoming()

        def end(result: tuple[Status, memoryview] | None) -> Completion:
            if result is None:
                return Completion(cancelled=True)
            status, data = result
            if buffer is None:
                assert pickler is not None
                return Completion(*status, obj=loaded(data, pickler))
            assert place is not None
            nbytes = min(status.nbytes, buffer.nbytes)
            if status.nbytes > buffer.nbytes:
                place[:] = as_array(data)[:nbytes]
            buffer.deliver(place, nbytes)
            return Completion(*status, truncated=status.nbytes > buffer.nbytes)

        return context._plan.recv_any(place, source, tag, arrival), end

    return begin
