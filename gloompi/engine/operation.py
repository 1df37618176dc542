"""Operations: one send or one receive, from posting to completion."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..arrays import Array, address
from ..reduction import Reduction

if TYPE_CHECKING:
    from .channel import Channel

__all__ = [
    "ANY_SOURCE",
    "ANY_TAG",
    "CHUNK_NBYTES",
    "DONE",
    "OpenReceive",
    "Operation",
    "PieceReceive",
    "Receive",
    "ReducingReceive",
    "RoomReceive",
    "Scratch",
    "Send",
    "Steps",
]

ANY_SOURCE = -1
ANY_TAG = -1

# Received bytes are reduced in pieces of this size, so that they are still in the core's cache (2 MiB where this was
# measured): 16 MiB allreduces of 2 ranks took 8 % longer with 256 KiB, 13 % with 128 KiB or 1 MiB.
CHUNK_NBYTES = 512 * 1024


# Where the rest of a message goes that nobody wants any more.
_NOWHERE = memoryview(bytearray(65536))


class _Waiter(Protocol):
    def notify(self) -> None: ...

    def fail(self, failure: Exception) -> None: ...


class Operation:
    """Something that completes.

    Attributes
    ----------
    done : bool
    waiter
        Told once, when the operation completes.
    """

    __slots__ = ("done", "waiter")

    def __init__(self) -> None:
        self.done = False
        self.waiter: _Waiter | None = None

    def complete(self) -> None:
        self.done = True
        waiter, self.waiter = self.waiter, None  # or the two would keep each other, and the user's arrays
        if waiter is not None:
            waiter.notify()


DONE = Operation()
"""An operation that needed no waiting."""
DONE.complete()


Steps = Generator["Operation | Sequence[Operation]", None, Any]
"""An algorithm: yields what it waits for."""


class Send(Operation):
    """A message on its way out.

    Attributes
    ----------
    waits : bool
        It has been announced, and neither asked for nor sent.
    number : int
        Of its announcement on the connection.
    """

    __slots__ = ("channel", "dest", "fingerprint", "number", "payload", "tag", "waits")

    def __init__(self, channel: Channel, dest: int, tag: int, payload: memoryview, fingerprint: bytes) -> None:
        self.done = False
        self.waiter = None
        self.channel = channel
        self.dest = dest
        self.tag = tag
        self.payload = payload
        self.fingerprint = fingerprint
        self.waits = False
        self.number = 0


class Receive(Operation):
    """A posted receive, and the sink of the message that matches it.

    Attributes
    ----------
    source, tag : int
        What is wanted, wildcards included; after the match, what has come.
    fingerprint : bytes
        Likewise.
    capacity : int
        Bytes that there is room for.
    nbytes : int
        Bytes of the message; known after the match.
    number : int
        Of the announcement of the message on the connection, if it may still come as PUSHED.
    position : int
        Bytes that have come.
    order : int
        Number of the posting, for MPI's matching order.
    dropped : bool
        Nobody wants it any more: what still comes goes nowhere, and the user's memory is left alone.
    """

    __slots__ = (
        "buffer",
        "capacity",
        "channel",
        "dropped",
        "fingerprint",
        "nbytes",
        "number",
        "order",
        "position",
        "source",
        "tag",
    )

    ahead = True
    """In a collective, the sender of a large message can be cleared before it asks: its length is agreed."""

    exact = True
    """Its length is known."""

    def __init__(
        self, channel: Channel, source: int, tag: int, buffer: memoryview | None, capacity: int, fingerprint: bytes
    ) -> None:
        self.done = False
        self.waiter = None
        self.channel = channel
        self.source = source
        self.tag = tag
        self.buffer = buffer
        self.capacity = capacity
        self.fingerprint = fingerprint
        self.nbytes = self.number = 0
        self.position = 0
        self.order = 0
        self.dropped = False

    def drop(self) -> None:
        """Leave the user's memory alone from now on."""
        self.dropped = True
        self.buffer = None

    def admits(self, nbytes: int) -> bool:
        """Whether a message of this length may come; if so, there is room for it from now on."""
        return nbytes == self.capacity if self.channel.collective else nbytes <= self.capacity

    def feed(self, data: memoryview) -> None:
        """Take bytes that are in memory already."""
        position = self.position
        self.position = stop = position + len(data)
        if not self.dropped:
            assert self.buffer is not None
            self.buffer[position:stop] = data

    def window(self) -> memoryview:
        if self.dropped:
            return _NOWHERE[: self.nbytes - self.position]
        assert self.buffer is not None
        return self.buffer[self.position : self.nbytes]

    def advance(self, nbytes: int) -> None:
        self.position += nbytes

    finish = Operation.complete


class PieceReceive(Receive):
    """A receive of a collective in which each pair of ranks has a length of its own, on which the two may disagree."""

    __slots__ = ()

    ahead = False


class RoomReceive(PieceReceive):
    """A receive of a piece that may be shorter than the room that there is for it."""

    __slots__ = ()

    def admits(self, nbytes: int) -> bool:
        return nbytes <= self.capacity


class OpenReceive(PieceReceive):
    """A receive that takes a message of any length: into its buffer where it fits, else into memory of its own."""

    __slots__ = ()

    exact = False

    def admits(self, nbytes: int) -> bool:
        if self.buffer is None or nbytes > len(self.buffer):
            try:
                self.buffer = np.empty(nbytes, np.uint8).data
            except ValueError as exc:  # beyond what an array can have
                raise MemoryError(str(exc)) from exc
        return True

    @property
    def data(self) -> memoryview:
        """What has come."""
        assert self.buffer is not None
        return self.buffer[: self.nbytes]


class Scratch:
    """Cache-sized pieces of memory, used again and again."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        return self._free.pop() if self._free else bytearray(CHUNK_NBYTES)

    def give(self, piece: bytearray) -> None:
        self._free.append(piece)


class ReducingReceive(Receive):
    """A receive that combines what comes with what is there, piece by piece as it arrives.

    Computes ``out = mine op incoming``, or ``incoming op mine`` where the peer stands for lower ranks.  What comes goes to
    `out`, unless that is `mine`, and is combined there: less memory is touched than with a piece of its own.
    """

    __slots__ = ("_apply", "_chunk", "_fill", "_incoming_first", "_mine", "_out", "_piece", "_place", "_reduced", "_scratch")

    def __init__(
        self,
        channel: Channel,
        source: int,
        tag: int,
        mine: Array,
        out: Array,
        reduction: Reduction,
        incoming_first: bool,
        scratch: Scratch,
        fingerprint: bytes,
    ) -> None:
        super().__init__(channel, source, tag, None, mine.nbytes, fingerprint)
        self._mine = mine
        self._out = out
        self._apply = reduction.apply
        self._incoming_first = incoming_first
        self._scratch = scratch
        apart = address(mine) != address(out)
        self._place = out.view(np.uint8).data if apart else None
        self._piece: bytearray | None = None
        itemsize = mine.itemsize or 1
        self._chunk = max(CHUNK_NBYTES // itemsize, 1) * itemsize
        self._fill = 0  # bytes in the piece
        self._reduced = 0  # elements

    def drop(self) -> None:
        super().drop()
        self._mine = self._out = self._mine[:0]
        self._place = None

    def feed(self, data: memoryview) -> None:
        self.position += len(data)
        if self.dropped:
            return
        if not self._fill:
            whole = len(data) - len(data) % self._mine.itemsize
            if whole:
                self._reduce(np.frombuffer(data[:whole], self._mine.dtype))
            data = data[whole:]
        while data:
            window = self._room(self.position - len(data))
            count = min(len(window), len(data))
            window[:count] = data[:count]
            self._filled(count, self.position - len(data) + count)
            data = data[count:]

    def window(self) -> memoryview:
        return super().window() if self.dropped else self._room(self.position)

    def advance(self, nbytes: int) -> None:
        self.position += nbytes
        if not self.dropped:
            self._filled(nbytes, self.position)

    def _room(self, position: int) -> memoryview:
        if self._place is not None:
            start = self._reduced * self._mine.itemsize
            return self._place[start + self._fill : min(start + self._chunk, self.nbytes)]
        if self._piece is None:
            # An item larger than a piece, a record with a long array in it, gets memory of its own.
            self._piece = self._scratch.take() if self._chunk <= CHUNK_NBYTES else bytearray(self._chunk)
        return memoryview(self._piece)[self._fill : min(self._chunk, self._fill + self.nbytes - position)]

    def _filled(self, nbytes: int, position: int) -> None:
        self._fill += nbytes
        if self._fill == self._chunk or position == self.nbytes:
            count = self._fill // self._mine.itemsize
            if self._place is not None:
                self._reduce(self._out[self._reduced : self._reduced + count])
            else:
                assert self._piece is not None
                self._reduce(np.frombuffer(self._piece, self._mine.dtype, count))
            self._fill = 0

    def _reduce(self, incoming: Array) -> None:
        try:
            self._combine(incoming)
        except Exception as exc:
            if self.waiter is None:
                raise  # into the algorithm that has just posted it
            waiter, self.waiter = self.waiter, None
            self.drop()
            waiter.fail(exc)  # whatever thread has received this

    def _combine(self, incoming: Array) -> None:
        if self.dropped:
            return
        start = self._reduced
        self._reduced = stop = start + incoming.size
        mine, out = self._mine[start:stop], self._out[start:stop]
        if self._incoming_first:
            self._apply(incoming, mine, out=out)
        else:
            self._apply(mine, incoming, out=out)

    def finish(self) -> None:
        if self._piece is not None:
            if len(self._piece) == CHUNK_NBYTES:
                self._scratch.give(self._piece)
            self._piece = None
        self.complete()
