"""Socket options of a connection between two ranks."""

from __future__ import annotations

import socket
from typing import NamedTuple

__all__ = ["KEEPALIVE", "Keepalive", "tune"]

# An AF_UNIX socket holds what its peer has not read yet in its own send buffer. With other work on the cores, 16 MiB
# allreduces of 2 ranks took 1.14 to 1.63 of the time of Open MPI's shared memory with the kernel's default of 208 KiB and
# 0.76 to 0.86 with 4 MiB; with idle cores the two are alike. The kernel cuts it to net.core.wmem_max. TCP's buffers are
# left to the kernel's autotuning: no fixed size was better.
_UNIX_BUFFER_NBYTES = 4 * 1024 * 1024


class Keepalive(NamedTuple):
    """When a connection asks whether there is still somebody: seconds, seconds, and a number of probes."""

    idle: int
    interval: int
    probes: int

    @property
    def seconds(self) -> int:
        """From the last sign of life to the verdict."""
        return self.idle + self.interval * self.probes


# For how long a peer that vanished without a FIN goes unnoticed. Keepalive itself runs only where nothing is unacknowledged;
# the rest is for `liveness`. TCP_USER_TIMEOUT is left alone: it would also kill a living peer that merely does not read.
KEEPALIVE = Keepalive(15, 5, 3)


def tune(sock: socket.socket) -> None:
    """Set what a pair needs, on both ends.

    What a TCP socket accepts inherits the options of the listening one; an AF_UNIX socket inherits nothing.
    """
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER_NBYTES)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEPALIVE, strict=True):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
