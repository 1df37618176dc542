"""Failures: what it means that a system call has not sent or received anything.

Either the connection is gone, which the reading side reports with all that the peer has said before; or the kernel lacks
memory, which passes; or this rank alone is to blame: the memory cannot be read, the descriptor was closed.  Nothing says
that of the last kind by itself afterwards, so it has to be raised at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from ..arrays import address_of

__all__ = ["GONE", "SHORTAGE", "explain", "extent", "name"]

# What the kernel says of a connection that has ended: send(2), recv(2), tcp(7), and what it makes of ICMP messages
# (icmp_err_convert in net/ipv4/icmp.c). After any of them reading meets the end of the stream.
GONE = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENONET,
        errno.ENOPROTOOPT,
    }
)

# What the kernel says when it has no memory for a moment.
SHORTAGE = frozenset({errno.ENOBUFS, errno.ENOMEM})

_CLOSED = "the program has closed or replaced this descriptor, which is gloompi's (os.closerange, os.dup2?)"
_FORBIDDEN = "a policy of this host forbids it (seccomp, SELinux, a firewall); see its audit log"
_CAUSES = {
    errno.EFAULT: (
        "the file behind a mapped array was truncated or the memory unmapped; keep arrays mapped, and their files as long "
        "as they are, until the operation is done"
    ),
    errno.EBADF: _CLOSED,
    errno.ENOTSOCK: _CLOSED,
    errno.EPERM: _FORBIDDEN,
    errno.EACCES: _FORBIDDEN,
}
_UNKNOWN = "nothing that a connection does by itself; see the log of this host's kernel (dmesg)"

# Pieces of memory that a text names.
_MOST = 3


def name(exc: OSError) -> str:
    """``"EFAULT (Bad address)"``."""
    code = exc.errno or 0
    return f"{errno.errorcode.get(code, f'error {code}')} ({os.strerror(code)})"


def explain(doing: str, exc: OSError) -> str:
    """The reason of an error: `doing` names bytes and peer; likely cause and next step follow."""
    return f"{doing} failed with {name(exc)}: {_CAUSES.get(exc.errno or 0, _UNKNOWN)}"


def extent(pieces: Iterable[bytes | memoryview]) -> str:
    """Describe memory as ``"65536 bytes at 0x7f0010000000-0x7f0010010000"``; of headers alone only the length."""
    given = [memoryview(piece) for piece in pieces]
    users = [piece for piece in given if piece and not isinstance(piece.obj, bytes)]
    if not users:
        return f"{sum(map(len, given))} bytes"
    shown = [f"{len(piece)} bytes at {(start := address_of(piece)):#x}-{start + len(piece):#x}" for piece in users[:_MOST]]
    more = f" and {len(users) - _MOST} more pieces" if len(users) > _MOST else ""
    return ", ".join(shown) + more
