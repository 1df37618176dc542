"""A Message: what a matched probe has found, and only its holder can receive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from .engine.matching import Arrival
from .engine.task import Task
from .plans.messages import Status
from .signatures import public

if TYPE_CHECKING:
    from .arrays import Array
    from .operations.running import Running
    from .request import Request

__all__ = ["Message"]


@public
class Message:
    """A message that `mprobe` or `improbe` has taken out of the matching; it is received once.

    Attributes
    ----------
    source, tag, nbytes : int
    """

    __slots__ = ("_arrival", "_context", "nbytes", "source", "tag")

    _arrival: Arrival | None
    _context: Running
    nbytes: int
    source: int
    tag: int

    def __init__(self, *parts: Any, **others: Any) -> None:
        raise TypeError("a Message is what mprobe and improbe of a Context return")

    @classmethod
    def _of(cls, context: Running, arrival: Arrival, status: Status) -> Message:
        message = cls.__new__(cls)
        message._context, message._arrival = context, arrival
        message.source, message.tag, message.nbytes = status
        return message

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Message cannot be copied or pickled: it is received once, by this process; send what it holds")

    def __repr__(self) -> str:
        received = ", received" if self._arrival is None else ""
        return f"<Message from rank {self.source}, tag {self.tag}, {self.nbytes} bytes{received}>"

    def recv(self, out: Any, *, timeout: float | None = None) -> Status:
        """Receive it into `out`, as `Context.recv`.

        Raises
        ------
        ValueError
            It has been received already.
        TypeError, MismatchError
            As `Context.recv`.
        """
        status: Status = self._context._run(self._plan(out), timeout)
        return status

    def irecv(self, out: Any) -> Request:
        """Non-blocking `recv`; `out` must be left alone until it is done."""
        return self._context._start(self._plan(out))

    def recv_array(self, *, timeout: float | None = None) -> Array:
        """Receive it into a new array, as `Context.recv_array`."""
        result: Array = self._context._run(self._array_plan(), timeout)
        return result

    def irecv_array(self) -> Request:
        """Non-blocking `recv_array`."""
        return self._context._start(self._array_plan())

    def recv_object(self, *, timeout: float | None = None) -> Any:
        """Receive the object that `send_object` has sent, and return it."""
        return self._context._run(self._object_plan(), timeout)

    def irecv_object(self) -> Request:
        """Non-blocking `recv_object`."""
        return self._context._start(self._object_plan())

    def _plan(self, out: Any) -> Task:
        plan = self._context._plan.recv(out, self.source, self.tag, self._held())
        self._arrival = None
        return plan

    def _array_plan(self) -> Task:
        plan = self._context._plan.recv_array(self.source, self.tag, self._held())
        self._arrival = None
        return plan

    def _object_plan(self) -> Task:
        plan = self._context._plan.recv_object(self.source, self.tag, self._held())
        self._arrival = None
        return plan

    def _held(self) -> Arrival:
        if self._arrival is None:
            raise ValueError(f"{self!r} has been received already")
        return self._arrival
