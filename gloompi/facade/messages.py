"""Messages from rank to rank: sends, receives and probes, of buffers and of objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from mpi4py import MPI as mpi

from ..arrays import Array
from ..objects import encode
from . import bsend
from .buffers import simple
from .checks import known_dest, known_source, known_tag, wanted_tag
from .communicator import CommBase
from .matched import Message
from .receiving import no_result, receive
from .requests import Prequest, Request
from .three import do, start
from .work import EMPTY, NO_PROC, Begin, Completion, Work, fill

__all__ = ["MessageComm"]


class MessageComm(CommBase):
    """Send, Recv, send, recv and what belongs to them."""

    # -- what the forms are made of -------------------------------------------------------------------------------------

    def _send(self, spec: Any, dest: int, tag: int, synchronous: bool = False) -> Begin:
        to, tag = known_dest(self._context, dest), known_tag(tag)
        if to is None:
            return lambda: (EMPTY, no_result)
        buffer = simple(spec, readonly=True)
        return lambda: (self._context._plan.send(buffer.outgoing(), to, tag, synchronous), no_result)

    def _bsend(self, spec: Any, dest: int, tag: int) -> Begin:
        to, tag = known_dest(self._context, dest), known_tag(tag)
        if to is None:
            return lambda: (EMPTY, no_result)
        return self._buffered(simple(spec, readonly=True).outgoing, to, tag)

    def _buffered(self, outgoing: Callable[[], Array], dest: int, tag: int) -> Begin:
        def begin() -> tuple[Completion, Callable[[Any], Completion]]:
            bsend.send(outgoing(), lambda copy: self._context.isend(copy, dest, tag=tag))
            return EMPTY, no_result

        return begin

    def _recv(self, spec: Any, source: int, tag: int) -> Begin:
        origin, tag = known_source(self._context, source), wanted_tag(tag)
        if origin is None:
            return lambda: (NO_PROC, no_result)
        return receive(self._context, simple(spec, readonly=False), origin, tag)

    def _sendrecv(self, sendbuf: Any, dest: int, sendtag: int, recvbuf: Any, source: int, recvtag: int) -> Begin:
        send = self._send(sendbuf, dest, sendtag)
        recv = self._recv(recvbuf, source, recvtag)

        def begin() -> Any:
            outgoing, _ = send()
            incoming, end = recv()
            if isinstance(incoming, Completion):
                return (incoming, no_result) if isinstance(outgoing, Completion) else (outgoing, lambda _: incoming)
            if isinstance(outgoing, Completion):
                return incoming, end
            return self._context._plan.together(incoming, outgoing), end

        return begin

    def _replace(self, spec: Any, dest: int, sendtag: int, source: int, recvtag: int) -> Begin:
        if dest == mpi.PROC_NULL and source == mpi.PROC_NULL:
            return self._sendrecv(None, dest, sendtag, None, source, recvtag)
        # What is sent is in the memory that is received into.
        buffer = simple(spec, readonly=False)
        return lambda: self._sendrecv(buffer.outgoing().copy(), dest, sendtag, spec, source, recvtag)()

    def _send_object(self, obj: Any, dest: int, tag: int, synchronous: bool = False) -> Begin:
        to, tag = known_dest(self._context, dest), known_tag(tag)
        if to is None:
            return lambda: (EMPTY, no_result)
        message = encode(obj, self._context._plan.pickler)
        return lambda: (self._context._plan.send(message, to, tag, synchronous), no_result)

    def _bsend_object(self, obj: Any, dest: int, tag: int) -> Begin:
        to, tag = known_dest(self._context, dest), known_tag(tag)
        message = encode(obj, self._context._plan.pickler)
        if to is None:
            return lambda: (EMPTY, no_result)
        return self._buffered(lambda: message, to, tag)

    def _recv_object(self, source: int, tag: int) -> Begin:
        origin, tag = known_source(self._context, source), wanted_tag(tag)
        if origin is None:
            return lambda: (NO_PROC, no_result)
        return receive(self._context, None, origin, tag)

    def _persistent(self, begin: Begin) -> Prequest:
        request: Prequest = Prequest._of(Work(self._context, begin, persistent=True))
        return request

    # -- buffers --------------------------------------------------------------------------------------------------------

    def Send(self, buf: Any, dest: int, tag: int = 0) -> None:
        do(self._context, self._send(buf, dest, tag))

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        return start(self._context, self._send(buf, dest, tag))

    def Send_init(self, buf: Any, dest: int, tag: int = 0) -> Prequest:
        return self._persistent(self._send(buf, dest, tag))

    def Ssend(self, buf: Any, dest: int, tag: int = 0) -> None:
        do(self._context, self._send(buf, dest, tag, synchronous=True))

    def Issend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        return start(self._context, self._send(buf, dest, tag, synchronous=True))

    def Ssend_init(self, buf: Any, dest: int, tag: int = 0) -> Prequest:
        return self._persistent(self._send(buf, dest, tag, synchronous=True))

    def Bsend(self, buf: Any, dest: int, tag: int = 0) -> None:
        do(self._context, self._bsend(buf, dest, tag))

    def Ibsend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        return start(self._context, self._bsend(buf, dest, tag))

    def Bsend_init(self, buf: Any, dest: int, tag: int = 0) -> Prequest:
        return self._persistent(self._bsend(buf, dest, tag))

    # A ready send may assume that its receive is posted; an ordinary one is right in any case.
    Rsend, Irsend, Rsend_init = Send, Isend, Send_init

    def Recv(self, buf: Any, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG, status: mpi.Status | None = None) -> None:
        do(self._context, self._recv(buf, source, tag), status)

    def Irecv(self, buf: Any, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG) -> Request:
        return start(self._context, self._recv(buf, source, tag))

    def Recv_init(self, buf: Any, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG) -> Prequest:
        return self._persistent(self._recv(buf, source, tag))

    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = mpi.ANY_SOURCE,
        recvtag: int = mpi.ANY_TAG,
        status: mpi.Status | None = None,
    ) -> None:
        do(self._context, self._sendrecv(sendbuf, dest, sendtag, recvbuf, source, recvtag), status)

    def Isendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = mpi.ANY_SOURCE,
        recvtag: int = mpi.ANY_TAG,
    ) -> Request:
        return start(self._context, self._sendrecv(sendbuf, dest, sendtag, recvbuf, source, recvtag))

    def Sendrecv_replace(
        self,
        buf: Any,
        dest: int,
        sendtag: int = 0,
        source: int = mpi.ANY_SOURCE,
        recvtag: int = mpi.ANY_TAG,
        status: mpi.Status | None = None,
    ) -> None:
        do(self._context, self._replace(buf, dest, sendtag, source, recvtag), status)

    def Isendrecv_replace(
        self, buf: Any, dest: int, sendtag: int = 0, source: int = mpi.ANY_SOURCE, recvtag: int = mpi.ANY_TAG
    ) -> Request:
        return start(self._context, self._replace(buf, dest, sendtag, source, recvtag))

    # -- objects --------------------------------------------------------------------------------------------------------

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        do(self._context, self._send_object(obj, dest, tag))

    def isend(self, obj: Any, dest: int, tag: int = 0) -> Request:
        return start(self._context, self._send_object(obj, dest, tag))

    def ssend(self, obj: Any, dest: int, tag: int = 0) -> None:
        do(self._context, self._send_object(obj, dest, tag, synchronous=True))

    def issend(self, obj: Any, dest: int, tag: int = 0) -> Request:
        return start(self._context, self._send_object(obj, dest, tag, synchronous=True))

    def bsend(self, obj: Any, dest: int, tag: int = 0) -> None:
        do(self._context, self._bsend_object(obj, dest, tag))

    def ibsend(self, obj: Any, dest: int, tag: int = 0) -> Request:
        return start(self._context, self._bsend_object(obj, dest, tag))

    def recv(
        self,
        buf: Any = None,
        source: int = mpi.ANY_SOURCE,
        tag: int = mpi.ANY_TAG,
        status: mpi.Status | None = None,
    ) -> Any:
        if buf is not None:
            warnings.warn("the argument 'buf' has no use: memory is taken as the message needs it", UserWarning, 2)
        return do(self._context, self._recv_object(source, tag), status)

    def irecv(self, buf: Any = None, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG) -> Request:
        return start(self._context, self._recv_object(source, tag))

    def sendrecv(
        self,
        sendobj: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = mpi.ANY_SOURCE,
        recvtag: int = mpi.ANY_TAG,
        status: mpi.Status | None = None,
    ) -> Any:
        sending = start(self._context, self._send_object(sendobj, dest, sendtag))
        obj = do(self._context, self._recv_object(source, recvtag), status)
        sending.Wait()
        return obj

    # -- probes ---------------------------------------------------------------------------------------------------------

    def Probe(self, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG, status: mpi.Status | None = None) -> bool:
        origin, tag = known_source(self._context, source), wanted_tag(tag)
        if origin is None:
            fill(status, NO_PROC)
        else:
            fill(status, Completion(*self._context.probe(origin, tag=tag)))
        return True

    def Iprobe(self, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG, status: mpi.Status | None = None) -> bool:
        origin, tag = known_source(self._context, source), wanted_tag(tag)
        if origin is None:
            fill(status, NO_PROC)
            return True
        found = self._context._look(origin, tag, takes=False)
        if found is not None:
            fill(status, Completion(*found[1]))
        return found is not None

    def Mprobe(self, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG, status: mpi.Status | None = None) -> Message:
        message: Message = Message.Probe(self, source, tag, status)
        return message

    def Improbe(
        self, source: int = mpi.ANY_SOURCE, tag: int = mpi.ANY_TAG, status: mpi.Status | None = None
    ) -> Message | None:
        message: Message | None = Message.Iprobe(self, source, tag, status)
        return message

    probe, iprobe, mprobe, improbe = Probe, Iprobe, Mprobe, Improbe

    def Attach_buffer(self, buf: Any) -> None:
        bsend.attach(buf)

    def Detach_buffer(self) -> Any:
        return bsend.detach()

    def Flush_buffer(self) -> None:
        bsend.flush()
