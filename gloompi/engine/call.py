"""A Call: what an algorithm sees of the world.  It sends, receives and reduces by rank and step, and knows no sockets.

An algorithm is a generator that takes a Call and arrays, yields the operations it waits for, and is the same for blocking
and non-blocking use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..reduction import Reduction
from .channel import STEP_BITS, Disagreement
from .messages import EAGER_NBYTES
from .operation import DONE, OpenReceive, Operation, PieceReceive, Receive, ReducingReceive, RoomReceive, Steps
from .task import Task

if TYPE_CHECKING:
    from .conversation import Conversation
    from .engine import Engine

__all__ = ["Call"]

_NOTHING = memoryview(b"")

# Kinds of dtypes that the buffer protocol knows.
_PLAIN = "fiuc"


class Call(Task):
    """One collective call of this rank.

    Parameters
    ----------
    name, steps, finish
        As for `Task`.
    fingerprint : bytes
        What all ranks have to agree on.

    Attributes
    ----------
    rank, size : int
        In the Context, and so are all ranks here.
    """

    number = -1

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        name: str,
        fingerprint: bytes,
        steps: Callable[[Call], Steps],
        finish: Callable[[], Any],
    ) -> None:
        self.name = name
        self.steps = steps
        self.finish = finish
        self.rank = conversation.rank
        self.size = conversation.size
        self._ranks = conversation.ranks
        self._messages = engine.messages
        self._scratch = engine.scratch
        self._channel = conversation.collectives
        self.mark = fingerprint

    def start(self, ready: deque[Task], prompt: bool) -> None:
        self._ready = ready
        self.prompt = prompt
        self.number = number = self._channel.sequence + 1  # first: if a peer was here and in another call, it ends at once
        try:
            self._channel.begin(self.mark)
        except Disagreement as exc:
            raise self._messages.disagree(exc) from None
        self._tag = number << STEP_BITS
        self._way = self.steps(self)
        self.advance()

    def send(self, dest: int, step: int, data: Array | None = None) -> Operation:
        """Send `data` (1-d, contiguous), or an empty message; it must not change before the operation is done."""
        payload = _NOTHING if data is None else as_bytes(data)
        return self._messages.send(self._channel, self._ranks[dest], self._tag | step, payload, self.mark)

    def receive(self, source: int, step: int, out: Array | None = None, now: bool = False) -> Operation:
        """Receive into `out` (1-d, contiguous), or an empty message.

        Say `now` where the algorithm can do nothing before it has come: a small message is then awaited for a moment.
        """
        buffer = _NOTHING if out is None else as_bytes(out)
        receive = Receive(self._channel, self._ranks[source], self._tag | step, buffer, len(buffer), self.mark)
        return self._messages.receive(receive, now and self.prompt)

    def exchange(
        self, dest: int, source: int, step: int, data: Array | None = None, out: Array | None = None
    ) -> Operation | Sequence[Operation]:
        """Send to one rank and receive as much from another, or from the same: `send` and `receive` at once.

        For algorithms that can do nothing before both are done.  `out` may not overlap `data`.
        """
        return self._messages.exchange(
            self._channel,
            self._ranks[dest],
            self._ranks[source],
            self._tag | step,
            _NOTHING if data is None else as_bytes(data),
            _NOTHING if out is None else as_bytes(out),
            self.mark,
            self.prompt,
        )

    def exchange_all(
        self,
        step: int,
        given: Sequence[tuple[int, Array]],
        wanted: Sequence[tuple[int, Array]],
        pieces: bool = False,
        room: bool = False,
    ) -> Sequence[Operation]:
        """Send to several ranks and receive from several; `given` and `wanted` are of ranks and 1-d, contiguous arrays.

        With `pieces`, each length is a matter of the two ranks alone, for `room` see `receive_piece`; else all are the same.
        """
        receive = partial(self.receive_piece, room=room) if pieces else self.receive
        if self.prompt and all(out.nbytes <= EAGER_NBYTES for _, out in wanted):
            sent = [self.send(dest, step, data) for dest, data in given]
            return [*sent, *[receive(source, step, out, now=True) for source, out in wanted]]
        # Posted first: their senders are cleared before they ask.
        came = [receive(source, step, out) for source, out in wanted]
        return [*came, *[self.send(dest, step, data) for dest, data in given]]

    def receive_piece(self, source: int, step: int, out: Array, now: bool = False, room: bool = False) -> Receive:
        """Receive into `out`, as `receive`, where its length is a matter of this rank and the source alone.

        With `room`, less may come than `out` has room for: what is beyond it is left alone.
        """
        buffer = as_bytes(out)
        kind = RoomReceive if room else PieceReceive
        receive = kind(self._channel, self._ranks[source], self._tag | step, buffer, len(buffer), self.mark)
        return self._messages.receive(receive, now and self.prompt)

    def receive_any(self, source: int, step: int) -> OpenReceive:
        """Receive a message of any length into new memory, the operation's `data`."""
        receive = OpenReceive(self._channel, self._ranks[source], self._tag | step, None, 0, self.mark)
        self._messages.receive(receive)
        return receive

    def receive_reduce(self, source: int, step: int, mine: Array, out: Array, op: Reduction, now: bool = False) -> Operation:
        """Receive and combine with `mine` into `out`, piece by piece; the lower rank's operand comes first.

        `out` may be `mine`.  All are 1-d, contiguous, of one dtype and length.  For `now` see `receive`.
        """
        if now and self.prompt:
            payload = self._messages.receive_now(
                self._channel, self._ranks[source], self._tag | step, mine.nbytes, self.mark
            )
            if payload is not None:
                if payload:
                    incoming = np.frombuffer(payload, mine.dtype)
                    if source < self.rank:
                        op.apply(incoming, mine, out=out)
                    else:
                        op.apply(mine, incoming, out=out)
                return DONE
        receive = ReducingReceive(
            self._channel,
            self._ranks[source],
            self._tag | step,
            mine,
            out,
            op,
            source < self.rank,
            self._scratch,
            self.mark,
        )
        return self._messages.receive(receive)


def as_array(data: memoryview) -> Array:
    """Bytes as a 1-d array over the same memory."""
    return np.frombuffer(data, np.uint8)


def as_bytes(data: Array) -> memoryview:
    """The memory of a 1-d contiguous array, of any dtype."""
    if data.dtype.kind in _PLAIN:
        return data.data.cast("B")  # half the time of the other way
    return data.view(np.uint8).data
