"""A Call: what an algorithm sees of the world.  It sends, receives and reduces by rank and step, and knows no sockets.

An algorithm is a generator that takes a Call and arrays, yields the operations it waits for, and is the same for blocking
and non-blocking use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Array
from ..reduction import Reduction
from .channel import STEP_BITS
from .operation import DONE, OpenReceive, Operation, PieceReceive, Receive, ReducingReceive

if TYPE_CHECKING:
    from .conversation import Conversation
    from .engine import Engine

__all__ = ["Call"]

_NOTHING = memoryview(b"")

# Kinds of dtypes that the buffer protocol knows.
_PLAIN = "fiuc"


class Call:
    """One collective call of this rank.

    Parameters
    ----------
    fingerprint : bytes
        What all ranks have to agree on.
    prompt : bool
        The caller waits for the result.

    Attributes
    ----------
    rank, size : int
        In the Context, and so are all ranks here.
    number : int
        Of the call in its Context.
    """

    __slots__ = ("_channel", "_fingerprint", "_messages", "_prompt", "_ranks", "_scratch", "_tag", "number", "rank", "size")

    def __init__(self, engine: Engine, conversation: Conversation, fingerprint: bytes, prompt: bool) -> None:
        self.rank = conversation.rank
        self.size = conversation.size
        self._ranks = conversation.ranks
        self._messages = engine.messages
        self._scratch = engine.scratch
        self._channel = conversation.collectives
        self._fingerprint = fingerprint
        self._prompt = prompt
        self.number = engine.messages.begin(self._channel, fingerprint)
        self._tag = self.number << STEP_BITS

    def send(self, dest: int, step: int, data: Array | None = None) -> Operation:
        """Send `data` (1-d, contiguous), or an empty message; it must not change before the operation is done."""
        payload = _NOTHING if data is None else as_bytes(data)
        return self._messages.send(self._channel, self._ranks[dest], self._tag | step, payload, self._fingerprint)

    def receive(self, source: int, step: int, out: Array | None = None, now: bool = False) -> Operation:
        """Receive into `out` (1-d, contiguous), or an empty message.

        Say `now` where the algorithm can do nothing before it has come: a small message is then awaited for a moment.
        """
        buffer = _NOTHING if out is None else as_bytes(out)
        if now and self._prompt:
            payload = self._messages.receive_now(
                self._channel, self._ranks[source], self._tag | step, len(buffer), self._fingerprint
            )
            if payload is not None:
                if payload:
                    buffer[:] = payload
                return DONE
        receive = Receive(self._channel, self._ranks[source], self._tag | step, buffer, len(buffer), self._fingerprint)
        return self._messages.receive(receive)

    def receive_piece(self, source: int, step: int, out: Array) -> Operation:
        """Receive into `out`, as `receive`, where its length is a matter of this rank and the source alone."""
        buffer = as_bytes(out)
        receive = PieceReceive(self._channel, self._ranks[source], self._tag | step, buffer, len(buffer), self._fingerprint)
        return self._messages.receive(receive)

    def receive_any(self, source: int, step: int) -> OpenReceive:
        """Receive a message of any length into new memory, the operation's `data`."""
        receive = OpenReceive(self._channel, self._ranks[source], self._tag | step, None, 0, self._fingerprint)
        self._messages.receive(receive)
        return receive

    def receive_reduce(self, source: int, step: int, mine: Array, out: Array, op: Reduction, now: bool = False) -> Operation:
        """Receive and combine with `mine` into `out`, piece by piece; the lower rank's operand comes first.

        `out` may be `mine`.  All are 1-d, contiguous, of one dtype and length.  For `now` see `receive`.
        """
        if now and self._prompt:
            payload = self._messages.receive_now(
                self._channel, self._ranks[source], self._tag | step, mine.nbytes, self._fingerprint
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
            self._fingerprint,
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
