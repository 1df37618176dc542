"""Plans of messages: sends, receives and probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, flat_input, flat_output
from ..engine.call import as_array, as_bytes
from ..engine.fingerprint import ANY_ARRAY, NO_FACTS, fingerprint, items_of
from ..engine.matching import Arrival, Probe
from ..engine.messages import EAGER_NBYTES
from ..engine.operation import ANY_SOURCE, OpenReceive, Operation, Receive, Steps
from ..engine.task import Task
from ..objects import decode, encode
from .base import PlanBase, check_tag, copied_back, nothing

__all__ = ["MessagePlans", "Status"]

# What the fingerprint of an object's message says.
_OBJECT = np.dtype(object)
_ANY_OBJECT = fingerprint("send", _OBJECT, 0)
_ANY_BYTES = fingerprint("send", np.dtype(np.uint8), 0)


class Status(NamedTuple):
    """What a receive got, or a probe found: where from, with which tag, how many bytes."""

    source: int
    tag: int
    nbytes: int


class MessagePlans(PlanBase):
    """Send, recv, sendrecv, in forms for arrays and for objects, and probe."""

    def send(self, x: Any, dest: int, tag: int, synchronous: bool = False) -> Task:
        send, mark = self._outgoing(x, dest, tag, synchronous)

        def steps(task: Task) -> Steps:
            yield send()

        return Task("ssend" if synchronous else "send", steps, nothing, mark, dest)

    def recv(self, out: Any, source: int, tag: int, arrival: Arrival | None = None) -> Task:
        """Receive a message, or, like the other receives, the very one that a matched probe has found."""
        receive, finish = self._incoming(out, source, tag, "; recv_object takes any object, recv_array any array")
        return self._receiving("recv", receive, arrival, finish)

    def sendrecv(self, x: Any, dest: int, out: Any, source: int, sendtag: int, recvtag: int) -> Task:
        send, _ = self._outgoing(x, dest, sendtag, False)
        receive, finish = self._incoming(out, source, recvtag, "; sendrecv_object takes any object")

        def steps(task: Task) -> Steps:
            if task.prompt and receive.capacity <= EAGER_NBYTES:
                sent = send()
                yield sent, self._engine.messages.receive(receive, True)
            else:
                yield self._engine.messages.receive(receive), send()
            if task.peer < 0:
                task.peer = self._named(receive.source)

        return Task("sendrecv", steps, finish, receive.fingerprint, self._named(receive.source))

    def together(self, first: Task, second: Task, name: str = "sendrecv") -> Task:
        """Two messages as one operation; the result is the first's."""

        def steps(task: Task) -> Steps:
            task.prompt = False
            both = [first.steps(task), second.steps(task)]
            yield [operation for each in both for operation in _as_list(next(each))]
            for each in both:
                yield from each

        return Task(name, steps, first.finish, first.mark, first.peer)

    def recv_array(self, source: int, tag: int, arrival: Arrival | None = None) -> Task:
        """Receive an array of any length and dtype; the result is a new one."""
        receive = self._open(None, source, tag, ANY_ARRAY)

        def finish() -> Array:
            dtype, count = items_of(receive.fingerprint, receive.nbytes)
            return as_array(receive.data).view(dtype) if receive.nbytes else np.empty(count, dtype)

        return self._receiving("recv_array", receive, arrival, finish)

    # -- objects and messages of any length ----------------------------------------------------------------------------

    def send_object(self, obj: Any, dest: int, tag: int, synchronous: bool = False) -> Task:
        rank = self._engine_rank(dest, "dest")
        tag = check_tag(tag, wildcard=False)
        message = encode(obj, self.pickler)
        mark = fingerprint("send", _OBJECT, message.size)

        def steps(task: Task) -> Steps:
            yield self._engine.messages.send(self._conversation.messages, rank, tag, as_bytes(message), mark, synchronous)

        return Task("ssend_object" if synchronous else "send_object", steps, nothing, mark, dest)

    def recv_object(self, source: int, tag: int, arrival: Arrival | None = None) -> Task:
        pickler = self.pickler
        receive = self._open(None, source, tag, _ANY_OBJECT)
        return self._receiving("recv_object", receive, arrival, lambda: decode(receive.data, pickler))

    def sendrecv_object(self, obj: Any, dest: int, source: int, sendtag: int, recvtag: int) -> Task:
        return self.together(self.recv_object(source, recvtag), self.send_object(obj, dest, sendtag), "sendrecv_object")

    def recv_any(self, buffer: Array | None, source: int, tag: int, arrival: Arrival | None = None) -> Task:
        """Receive the bytes of whatever comes, into `buffer` where they fit; the result is a Status and the bytes."""
        receive = self._open(buffer, source, tag, _ANY_BYTES)
        mark = NO_FACTS if buffer is None else fingerprint("send", np.dtype(np.uint8), receive.capacity)
        return self._receiving("recv", receive, arrival, lambda: (self._status(receive), receive.data), mark)

    # -- probes --------------------------------------------------------------------------------------------------------

    def probe(self, source: int, tag: int, takes: bool) -> Task:
        """The result is an Arrival and its Status; if the probe takes it, it is the caller's to receive."""
        channel = self._conversation.messages
        probe = Probe(channel, *self._wanted(source, tag), takes)

        def steps(task: Task) -> Steps:
            yield channel.matcher.probe(probe)
            if task.peer < 0 and probe.arrival is not None:
                task.peer = self._named(probe.arrival.source)

        name = "mprobe" if takes else "probe"
        return Task(name, steps, lambda: self._found(probe), NO_FACTS, self._named(probe.source))

    def finder(self, source: int, tag: int, takes: bool) -> Callable[[], tuple[Arrival, Status] | None]:
        """Return a function that looks for a message without waiting."""
        channel = self._conversation.messages
        probe = Probe(channel, *self._wanted(source, tag), takes)
        return lambda: self._found(probe) if channel.matcher.look(probe) else None

    def _found(self, probe: Probe) -> tuple[Arrival, Status]:
        assert probe.arrival is not None
        return probe.arrival, self._status(probe.arrival)

    # -- parts of these --------------------------------------------------------------------------------------------------

    def _receiving(
        self, name: str, receive: Receive, arrival: Arrival | None, finish: Callable[[], Any], mark: bytes = b""
    ) -> Task:
        messages = self._engine.messages

        def steps(task: Task) -> Steps:
            if arrival is not None:
                messages.settle(receive, arrival)
            else:
                messages.receive(receive, task.prompt)
            yield receive
            if task.peer < 0:
                task.peer = self._named(receive.source)

        return Task(name, steps, finish, mark or receive.fingerprint, self._named(receive.source))

    def _outgoing(self, x: Any, dest: int, tag: int, synchronous: bool) -> tuple[Callable[[], Operation], bytes]:
        dest = self._engine_rank(dest, "dest")
        tag = check_tag(tag, wildcard=False)
        _, flat = flat_input(x)
        mark = fingerprint("send", flat.dtype, flat.size)
        channel = self._conversation.messages
        return lambda: self._engine.messages.send(channel, dest, tag, as_bytes(flat), mark, synchronous), mark

    def _incoming(self, out: Any, source: int, tag: int, otherwise: str) -> tuple[Receive, Callable[[], Status]]:
        source, tag = self._wanted(source, tag)
        result, target = flat_output(out, "out", otherwise=otherwise)
        if not result.flags.c_contiguous:
            target[:] = result.reshape(-1)  # a shorter message leaves the rest as it was
        buffer = as_bytes(target)
        mark = fingerprint("send", target.dtype, target.size)
        receive = Receive(self._conversation.messages, source, tag, buffer, len(buffer), mark)

        def finish() -> Status:
            copied_back(result, target)
            return self._status(receive)

        return receive, finish

    def _open(self, buffer: Array | None, source: int, tag: int, mark: bytes) -> OpenReceive:
        source, tag = self._wanted(source, tag)
        memory = None if buffer is None else as_bytes(buffer)
        return OpenReceive(self._conversation.messages, source, tag, memory, 0 if memory is None else len(memory), mark)

    def _status(self, message: Receive | Arrival) -> Status:
        return Status(self._named(message.source), message.tag, message.nbytes)

    def _named(self, source: int) -> int:
        """This Context's rank of an engine's; ANY_SOURCE as it is."""
        return source if source < 0 else self._ranks.index(source)

    def _wanted(self, source: int, tag: int) -> tuple[int, int]:
        """Source, as the engine's rank, and tag of a receive; both may be wildcards."""
        rank = ANY_SOURCE if source == ANY_SOURCE else self._engine_rank(source, "source")
        return rank, check_tag(tag, wildcard=True)

    def _engine_rank(self, rank: int, name: str) -> int:
        return self._ranks[self._peer(rank, name)]


def _as_list(awaited: Operation | Sequence[Operation]) -> Sequence[Operation]:
    return (awaited,) if isinstance(awaited, Operation) else awaited
