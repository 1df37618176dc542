"""The ends of a pair in the tests: who it reports to, and a socket whose system calls fail."""

from __future__ import annotations

import os
import socket
import sys
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
    """A pair's handler; closes the pair at the frame with the number `close_at_frame`, and raises the first failure.

    Attributes
    ----------
    headers : list of tuple
        Kind, channel, tag, nbytes and fingerprint of each frame.
    """

    def __init__(self, window: int = 1 << 30) -> None:
        self.headers: list[tuple[int, int, int, int, bytes]] = []
        self.payloads: list[Payload] = []
        self.losses: list[tuple[str, OSError | None]] = []
        self.failures: list[tuple[str, OSError]] = []
        self.broken = False  # knows of an error
        self.held = 0
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

    def failed(self, pair: Pair, reason: str, cause: OSError) -> None:
        self.failures.append((reason, cause))
        if not self.broken:
            self.broken = True
            raise cause

    def watch(self, pair: Pair, writing: bool) -> None:
        self.watched.append(writing)

    def hold(self, pair: Pair) -> None:
        self.held += 1

    def received(self) -> list[bytes]:
        assert all(payload.finished for payload in self.payloads)
        return [bytes(payload.data) for payload in self.payloads]


class Completion:
    """Writes down in `told` that it was told."""

    def __init__(self, told: list[Completion] | None = None) -> None:
        self.told = [] if told is None else told

    def complete(self) -> None:
        self.told.append(self)


class Failing(socket.socket):
    """A socket whose system calls fail when they are told to.

    Attributes
    ----------
    sending, receiving : list of int
        Numbers of errors, one for each call that is to fail, the next one first; 0 lets a call through.
    most : int
        Bytes that a call takes or gives at most.
    calls : int
        How often sending was tried.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.setblocking(False)
        self.sending: list[int] = []
        self.receiving: list[int] = []
        self.most = sys.maxsize
        self.calls = 0

    def send(self, data: Any, *flags: int) -> int:
        self._fail(self.sending)
        return super().send(memoryview(data)[: self.most], *flags)

    def sendmsg(self, pieces: Any, *others: Any) -> int:
        self._fail(self.sending)
        whole = memoryview(b"".join(pieces))[: self.most]
        return super().send(whole)

    def recv_into(self, window: Any, nbytes: int = 0, *flags: int) -> int:
        self._fail(self.receiving)
        return super().recv_into(memoryview(window)[: self.most], nbytes, *flags)

    def _fail(self, codes: list[int]) -> None:
        self.calls += codes is self.sending
        if codes and (code := codes.pop(0)):
            raise OSError(code, os.strerror(code))
