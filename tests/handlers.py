"""Who a pair reports to in the tests: writes down what it is told."""

from __future__ import annotations

from typing import Any

from gloompi.transport.frames import Kind
from gloompi.transport.pair import Pair


class Payload:
    """A sink that refuses what is not its own.

    Parameters
    ----------
    nbytes : int
    window : int
        Bytes that it takes at most in one call.
    """

    def __init__(self, nbytes: int, window: int) -> None:
        self.data = bytearray(nbytes)
        self.position = 0
        self.finished = False
        self._window = window

    def feed(self, data: memoryview) -> None:
        assert 0 < len(data) <= len(self.data) - self.position
        self.data[self.position : self.position + len(data)] = data
        self.position += len(data)

    def window(self) -> memoryview:
        assert self.position < len(self.data)
        return memoryview(self.data)[self.position :][: self._window]

    def advance(self, nbytes: int) -> None:
        self.position += nbytes

    def finish(self) -> None:
        assert not self.finished
        assert self.position == len(self.data)
        self.finished = True


class Handler:
    """A pair's handler; closes the pair at the frame with the number `close_at_frame`.

    Attributes
    ----------
    headers : list of tuple
        Kind, channel, tag, nbytes and fingerprint of each frame.
    """

    def __init__(self, window: int = 1 << 30) -> None:
        self.headers: list[tuple[int, int, int, int, bytes]] = []
        self.payloads: list[Payload] = []
        self.losses: list[tuple[str, OSError | None]] = []
        self.watched: list[bool] = []
        self.close_at_frame = -1
        self._window = window

    @property
    def frames(self) -> list[tuple[int, int]]:
        """Kind and tag of each."""
        return [(kind, tag) for kind, _, tag, _, _ in self.headers]

    def frame(self, pair: Any, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Payload | None:
        self.headers.append((kind, channel, tag, nbytes, fingerprint))
        if len(self.headers) == self.close_at_frame:
            pair.close()
            return None
        if kind not in (Kind.MESSAGE, Kind.DATA, Kind.ABORT):
            return None
        self.payloads.append(Payload(nbytes, self._window))
        return self.payloads[-1]

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        self.losses.append((reason, cause))
        pair.close()

    def watch(self, pair: Pair, writing: bool) -> None:
        self.watched.append(writing)

    def received(self) -> list[bytes]:
        assert all(payload.finished for payload in self.payloads)
        return [bytes(payload.data) for payload in self.payloads]


class Completion:
    """Writes down in `told` that it was told."""

    def __init__(self, told: list[Completion] | None = None) -> None:
        self.told = [] if told is None else told

    def complete(self) -> None:
        self.told.append(self)
