"""Message: what a matched probe has found."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

from mpi4py import MPI as mpi

from ..context import Context
from ..engine.matching import Arrival
from ..engine.operation import ANY_SOURCE, ANY_TAG
from .buffers import simple
from .checks import known_source, wanted_tag
from .codes import HandleError, exception
from .receiving import no_result, receive
from .requests import Request
from .three import do, start
from .work import NO_PROC, Begin, Completion, fill

if TYPE_CHECKING:
    from .communicator import CommBase

__all__ = ["MESSAGE_NO_PROC", "MESSAGE_NULL", "Message"]


class _Found:
    """A message that is held for the program; without a Context, the one that PROC_NULL has sent."""

    def __init__(self, context: Context | None = None, arrival: Arrival | None = None) -> None:
        self.context = context
        self._arrival = arrival

    def take(self) -> Arrival:
        """Return the message, once: it is received by whichever thread, and through whichever handle, comes first."""
        with _taking:
            arrival, self._arrival = self._arrival, None
        if arrival is None:
            raise _received_already()
        return arrival


_taking = Lock()


def _received_already() -> Exception:
    return exception(mpi.ERR_REQUEST, "a null message cannot be received; it has been received already")


class Message:
    """As mpi4py.MPI.Message, over sockets."""

    __module__ = "gloompi.MPI"

    _found: _Found | None
    _hash: int

    def __new__(cls, message: Message | None = None) -> Any:
        if message is not None and not isinstance(message, Message):
            raise TypeError(f"Argument 'message' must be a Message, not {type(message).__name__}")
        self = super().__new__(cls)
        self._found = None if message is None else message._found
        self._hash = id(self._found)
        return self

    @classmethod
    def _of(cls, found: _Found) -> Any:
        self = cls.__new__(cls)
        self._found = found
        self._hash = id(found)
        return self

    def __eq__(self, other: object) -> bool:
        return self._found is other._found if isinstance(other, Message) else NotImplemented

    def __hash__(self) -> int:
        return self._hash  # of what it has stood for first, also when it is received

    def __bool__(self) -> bool:
        return self._found is not None

    def __reduce__(self) -> str | tuple[Any, ...]:
        for constant, name in ((MESSAGE_NULL, "MESSAGE_NULL"), (MESSAGE_NO_PROC, "MESSAGE_NO_PROC")):
            if self is constant:
                return name
            if self == constant:
                return type(self), (constant,)
        raise HandleError("cannot copy or pickle a message that is not null: it is received once, by this process")

    def free(self) -> None:
        """Make the handle null."""
        if self is not MESSAGE_NO_PROC:
            self._found = None

    @classmethod
    def Probe(
        cls,
        comm: CommBase,
        source: int = mpi.ANY_SOURCE,
        tag: int = mpi.ANY_TAG,
        status: mpi.Status | None = None,
    ) -> Any:
        context = comm._context
        origin, tag = known_source(context, source), wanted_tag(tag)
        if origin is None:
            fill(status, NO_PROC)
            return cls(MESSAGE_NO_PROC)
        arrival, its = context._run(context._plan.probe(origin, tag, takes=True), None)
        fill(status, Completion(*its))
        return cls._of(_Found(context, arrival))

    @classmethod
    def Iprobe(
        cls,
        comm: CommBase,
        source: int = mpi.ANY_SOURCE,
        tag: int = mpi.ANY_TAG,
        status: mpi.Status | None = None,
    ) -> Any:
        context = comm._context
        origin, tag = known_source(context, source), wanted_tag(tag)
        if origin is None:
            fill(status, NO_PROC)
            return cls(MESSAGE_NO_PROC)
        found = context._look(origin, tag, takes=True)
        if found is None:
            return None
        arrival, its = found
        fill(status, Completion(*its))
        return cls._of(_Found(context, arrival))

    probe, iprobe = Probe, Iprobe

    def _receive(self, spec: Any, *, obj: bool = False) -> tuple[Context | None, Begin]:
        """Where and how to receive it; the handle is null from then on."""
        found = self._found
        if found is None:
            raise _received_already()
        if found.context is None:
            if self is not MESSAGE_NO_PROC:
                self._found = None
            return None, lambda: (NO_PROC, no_result)
        buffer = None if obj else simple(spec, readonly=False)
        self._found = None
        return found.context, receive(found.context, buffer, ANY_SOURCE, ANY_TAG, found.take())

    def Recv(self, buf: Any, status: mpi.Status | None = None) -> None:
        context, begin = self._receive(buf)
        do(context, begin, status)

    def Irecv(self, buf: Any) -> Request:
        context, begin = self._receive(buf)
        return start(context, begin)

    def recv(self, status: mpi.Status | None = None) -> Any:
        context, begin = self._receive(None, obj=True)
        return do(context, begin, status)

    def irecv(self) -> Request:
        context, begin = self._receive(None, obj=True)
        return start(context, begin)


MESSAGE_NULL = Message()
MESSAGE_NO_PROC = Message._of(_Found())
