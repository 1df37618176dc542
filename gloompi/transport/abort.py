"""The end of a connection: telling the peers why, and leaving without losing what is under way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from select import POLLIN, POLLOUT, poll
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline
from ..errors import GloompiError, readable, rebuild, summary, wire_name
from ..foreign import plain
from .frames import NO_FINGERPRINT, Kind, pack_header
from .liveness import Vigil, unacknowledged
from .pair import Pair

if TYPE_CHECKING:
    import socket

__all__ = ["MAX_ABORT_NBYTES", "REASON_LENGTH", "Abort", "abort_frame", "is_delivered", "linger"]

# Texts are cut so that an abort never comes near this: 6 bytes a character at most, and it has to fit any socket buffer.
MAX_ABORT_NBYTES = 16384
REASON_LENGTH = 1000


def abort_frame(error: GloompiError, rank: int, marker: bytes = b"") -> tuple[bytes, memoryview]:
    """Header and payload that tell a peer of `error`, which `rank` has met or passes on; for `marker` see `Remnants`."""
    origin = error.reported_by if isinstance(error.reported_by, int) else rank
    try:
        facts = {name: _cut(name, value) for name, value in error.facts().items()}
        payload = _packed(wire_name(error), facts, origin)
        _unpacked(payload)
    except Exception:  # the program raised it, with facts that say nothing to others, or a class that does
        payload = _packed(GloompiError.__name__, {"reason": _cut("reason", summary(error))}, origin)
    return pack_header(Kind.ABORT, 0, 0, len(payload), marker or NO_FINGERPRINT), memoryview(payload)


def _cut(name: str, value: object) -> object:
    return readable(value, _length(name)) if isinstance(value, str) else value


def _shown(name: str, value: Any) -> Any:
    return plain(value, _length(name)) if isinstance(value, str) else value


def _length(name: str) -> int:
    return REASON_LENGTH if name == "reason" else 200


def _packed(name: str, facts: dict[str, Any], origin: int) -> bytes:
    return json.dumps([name, facts, origin], ensure_ascii=False).encode()


def _unpacked(payload: bytes | bytearray) -> GloompiError:
    """The error in an abort.

    Raises
    ------
    ValueError, TypeError, RecursionError
        There is none that can be shown and passed on.
    """
    name, facts, origin = json.loads(payload)
    if not isinstance(facts, dict):
        raise TypeError("facts have names")
    error = rebuild(name, {fact: _shown(fact, value) for fact, value in facts.items()}, _shown("rank", origin))
    str(error).encode()
    if not all(isinstance(fact, str | int | float | None) for fact in (origin, *facts.values())):
        raise ValueError("facts are texts and numbers")
    return error


class Abort:
    """The sink of an abort's payload; calls `told` with the error."""

    __slots__ = ("_rank", "_received", "_text", "_told")

    def __init__(self, rank: int, nbytes: int, told: Callable[[GloompiError], None]) -> None:
        self._rank = rank
        self._text = bytearray(nbytes)
        self._received = 0
        self._told = told

    def feed(self, data: memoryview) -> None:
        self._text[self._received : self._received + len(data)] = data
        self._received += len(data)

    def window(self) -> memoryview:
        return memoryview(self._text)[self._received :]

    def advance(self, nbytes: int) -> None:
        self._received += nbytes

    def finish(self) -> None:
        try:
            error = _unpacked(self._text)
        except (ValueError, TypeError, RecursionError):
            error = GloompiError(f"rank {self._rank} aborted and gave no readable reason")
        self._told(error)


def linger(pairs: Iterable[Pair], deadline: Deadline) -> list[Pair]:
    """Send what waits in `pairs`, say that nothing follows, and wait until the peers' kernels have all of it.

    Returns the pairs in which something still waits when the time is up; a peer that is gone is not waited for.  What
    comes in meanwhile is read and dropped: closing a TCP socket with unread input resets the connection, and what was on
    its way out is lost.
    """
    from socket import SHUT_WR  # whoever has a connection has loaded it, and `import gloompi` need not

    left = {pair.fd: pair for pair in pairs if pair.sock is not None}
    shut: set[int] = set()
    trash = bytearray(65536)
    vigil = Vigil()
    while left:
        waiting = poll()
        for fd, pair in list(left.items()):
            pair.flush()
            if not pair.sending and fd not in shut:
                shut.add(fd)
                pair.end()
                with suppress(OSError):  # the peer is gone already
                    _socket(pair).shutdown(SHUT_WR)
            if _drained(_socket(pair), trash) or (fd in shut and is_delivered(pair)):
                del left[fd]
            else:
                # For a pair that lacks memory it would be ready all the time.
                waiting.register(fd, POLLIN | (POLLOUT if pair.sending and not pair.shortage else 0))
        if left:
            if deadline.expired():
                break
            if monotonic() >= vigil.due:
                for pair, _ in vigil.look(left.values()):
                    del left[pair.fd]  # as any other that is gone
            # Nothing wakes a process when its last byte is acknowledged: look again after a millisecond.
            waiting.poll(1)
    return [pair for pair in left.values() if pair.sending]


def _socket(pair: Pair) -> socket.socket:
    assert pair.sock is not None
    return pair.sock


def _drained(sock: socket.socket, trash: bytearray) -> bool:
    """Drop what has come; return whether the peer has ended."""
    try:
        while sock.recv_into(trash):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_delivered(pair: Pair) -> bool:
    """Whether the peer's kernel has all that was sent."""
    if pair.peer.transport == "unix":
        return True  # what was sent is in the peer's queue and stays there
    return not unacknowledged(_socket(pair))
