"""Socket options of a connection between two ranks."""

from __future__ import annotations

import socket

__all__ = ["tune"]

# A peer that vanished without a FIN is noticed after 15 + 3 * 5 s. TCP_USER_TIMEOUT is left alone: it would also kill a
# living peer that merely does not read.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


def tune(sock: socket.socket) -> None:
    """Set what a pair needs; on a listening socket, what it accepts inherits."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
