"""Matching: which message goes to which receive.

MPI's rules (MPI-4.1, 3.5): by (source, tag) within one channel, receives in the order of posting, messages of one
source in the order of sending, wildcards allowed.
"""

from __future__ import annotations

from collections import deque
from itertools import count

from .operation import ANY_SOURCE, ANY_TAG, Receive

__all__ = ["Arrival", "Matcher"]

Key = tuple[int, int]  # source, tag


class Arrival:
    """A message that came, or was announced, before its receive was posted; sink of its own payload.

    Attributes
    ----------
    payload : bytearray or None
        None if the message was announced only and waits at the sender.
    complete : bool
        All of the payload is here.
    receive : Receive or None
        The receive that was posted while the payload was still arriving.
    """

    __slots__ = ("complete", "fingerprint", "nbytes", "order", "payload", "position", "receive", "source", "tag")

    def __init__(self, source: int, tag: int, nbytes: int, fingerprint: bytes, announced: bool) -> None:
        self.source = source
        self.tag = tag
        self.nbytes = nbytes
        self.fingerprint = fingerprint
        self.payload = None if announced else bytearray(nbytes)
        self.position = 0
        self.complete = False
        self.receive: Receive | None = None
        self.order = 0

    def feed(self, data: memoryview) -> None:
        assert self.payload is not None
        stop = self.position + len(data)
        self.payload[self.position : stop] = data
        self.position = stop

    def window(self) -> memoryview:
        assert self.payload is not None
        return memoryview(self.payload)[self.position :]

    def advance(self, nbytes: int) -> None:
        self.position += nbytes

    def finish(self) -> None:
        self.complete = True
        if self.receive is not None:
            self.deliver(self.receive)

    def deliver(self, receive: Receive) -> None:
        """Hand a complete payload to its receive."""
        if self.payload:
            receive.feed(memoryview(self.payload))
        receive.finish()


class Matcher:
    """Posted receives and early messages of one channel."""

    __slots__ = ("_arrivals", "_order", "_posted", "_wild")

    def __init__(self) -> None:
        self._posted: dict[Key, deque[Receive]] = {}
        self._wild: list[Receive] = []
        self._arrivals: dict[Key, deque[Arrival]] = {}
        self._order = count(1)

    def post(self, receive: Receive) -> Arrival | None:
        """Return the early message that `receive` gets, removed from the queue; post the receive if there is none."""
        source, tag = receive.source, receive.tag
        if source != ANY_SOURCE and tag != ANY_TAG:
            key = (source, tag)
            if self._arrivals and key in self._arrivals:
                return _pop(self._arrivals, key)
            receive.order = next(self._order)
            queue = self._posted.get(key)
            if queue is None:
                self._posted[key] = deque((receive,))
            else:
                queue.append(receive)
            return None
        heads = [queue[0] for key, queue in self._arrivals.items() if _admits(receive, key)]
        if heads:
            first = min(heads, key=lambda arrival: arrival.order)
            return _pop(self._arrivals, (first.source, first.tag))
        receive.order = next(self._order)
        self._wild.append(receive)
        return None

    def match(self, source: int, tag: int) -> Receive | None:
        """Return the receive that a message from `source` gets, removed from the queue, or None."""
        key = (source, tag)
        queue = self._posted.get(key)
        if self._wild:
            wild = next((receive for receive in self._wild if _admits(receive, key)), None)
            if wild is not None and (queue is None or wild.order < queue[0].order):
                self._wild.remove(wild)
                return wild
        if queue is None:
            return None
        if len(queue) == 1:
            del self._posted[key]
            return queue[0]
        return queue.popleft()

    def keep(self, arrival: Arrival) -> None:
        """Queue a message that no receive wants yet."""
        arrival.order = next(self._order)
        self._arrivals.setdefault((arrival.source, arrival.tag), deque()).append(arrival)

    def posted(self) -> list[Receive]:
        """The receives that wait for a message."""
        return [receive for queue in self._posted.values() for receive in queue] + self._wild


def _admits(receive: Receive, key: Key) -> bool:
    return receive.source in (ANY_SOURCE, key[0]) and receive.tag in (ANY_TAG, key[1])


def _pop(queues: dict[Key, deque[Arrival]], key: Key) -> Arrival:
    queue = queues[key]
    arrival = queue.popleft()
    if not queue:
        del queues[key]
    return arrival
