"""Liveness: which TCP connections have ceased to be answered.

Keepalive asks after a peer only while nothing is unacknowledged.  While something is, TCP sends it again and again, for a
quarter of an hour, before it says that there is nobody.  TCP_USER_TIMEOUT would shorten that, but it also ends the
connection to a peer that answers every time that it has no room, because it does not read.

So the kernel is asked what has become of what it sends.  Any answer of the peer's kernel is a sign of life; silence is one
of death only after something that has to be answered.  It is given the time that keepalive gives.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

    from .options import Keepalive
    from .pair import Pair

__all__ = ["State", "Vigil", "unacknowledged"]

# struct tcp_info of linux/tcp.h up to tcpi_last_ack_recv; the kernel only ever appends to it.
_INFO = struct.Struct("=2x B B 20x I 16x I 8x I")


class State(NamedTuple):
    """What the kernel knows of a TCP connection.

    Attributes
    ----------
    retransmits : int
        How often in a row the time for an acknowledgement has run out.
    probes : int
        Probes, of a window that was closed or of an idle connection, sent since anything was last heard.
    unacked : int
        Packets on their way.
    sent, heard : float
        Seconds since data was last sent, again or for the first time, and since the last acknowledgement of anything.
    """

    retransmits: int
    probes: int
    unacked: int
    sent: float
    heard: float

    @classmethod
    def unpack(cls, packed: bytes) -> State:
        """Take it from the kernel's struct tcp_info."""
        retransmits, probes, unacked, sent, heard = _INFO.unpack_from(packed)
        return cls(retransmits, probes, unacked, sent / 1000, heard / 1000)

    @classmethod
    def of(cls, sock: socket.socket) -> State:
        """Ask the kernel."""
        from socket import IPPROTO_TCP, TCP_INFO

        return cls.unpack(sock.getsockopt(IPPROTO_TCP, TCP_INFO, _INFO.size))

    @property
    def unanswered(self) -> bool:
        """Whether something has been sent that the peer's kernel has not answered yet.

        Packets alone do not tell: where the peer has closed its window over them, they stay on their way, and are answered,
        each time that they are sent again.  Then they were sent before the answer came.  But where there is no route any
        more they are not sent at all, and only the number of tries grows.
        """
        return self.probes > 0 or (self.unacked > 0 and (self.sent < self.heard or self.retransmits > 0))


def unacknowledged(sock: socket.socket) -> int:
    """Bytes in a TCP connection that the peer's kernel has not acknowledged, sent or not yet."""
    nbytes: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return nbytes


class Vigil:
    """Watches TCP connections, at the price of a system call for each of them and look.

    A connection is lost when its peer's kernel has been silent for as long as keepalive gives it, and has owed an answer
    for as long as all probes of keepalive take.  Silence alone is none: where the peer has not read for minutes, TCP asks
    only every 2 minutes whether it has room again, and so much later it may be found out that nobody is there any more.

    Parameters
    ----------
    keepalive : Keepalive, optional
        How much time that is.  Default: as connections have it.

    Attributes
    ----------
    due : float
        When to look again, by time.monotonic.
    """

    __slots__ = ("_keepalive", "_since", "due")

    def __init__(self, keepalive: Keepalive | None = None) -> None:
        from . import options

        self._keepalive = keepalive or options.KEEPALIVE
        self._since: dict[Pair, float] = {}
        self.due = monotonic() + self._keepalive.interval

    def look(self, pairs: Iterable[Pair]) -> list[tuple[Pair, str]]:
        """The pairs that are lost, each with what is to be said of it; those that are no TCP connections never are."""
        from socket import AF_UNIX

        keepalive, now = self._keepalive, monotonic()
        lost, since, due = [], {}, now + keepalive.interval
        for pair in pairs:
            if pair.sock is None or pair.sock.family == AF_UNIX:
                continue
            state = State.of(pair.sock)
            if not state.unanswered:
                continue
            first = self._since.get(pair, now)
            if now - state.heard > first:
                first = now  # that has been answered, this is another thing
            verdict = max(first + keepalive.interval * keepalive.probes, now - state.heard + keepalive.seconds)
            if now >= verdict:
                lost.append((pair, f"no answer for {state.heard:.1f} s, {unacknowledged(pair.sock)} bytes unacknowledged"))
            else:
                since[pair] = first
                due = min(due, verdict)
        self._since, self.due = since, due
        return lost
