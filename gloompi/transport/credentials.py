"""Credentials: which user's process is at the other end of an AF_UNIX connection, by the word of the kernel.

SO_PEERCRED (unix(7)) has the effective user of who connected, or of who listened, as numbered in the user namespace of who
asks.  A user that has no number there is shown as the overflow uid, 65534 as a rule: that number says nothing where there
are others without one.  Any other number stands for one user of the host, so that who is shown as this process's own user
is that user, in whatever namespace.
"""

from __future__ import annotations

import os
import socket
from struct import Struct

__all__ = ["OVERFLOW_UID", "is_own_user_known", "peer_uid"]

_CREDENTIALS = Struct("=iII")  # struct ucred: pid, uid, gid
_ALL_UIDS = 2**32 - 1

OVERFLOW_UID = 65534
"""The kernel's default; /proc/sys/kernel/overflowuid has the host's."""


def peer_uid(sock: socket.socket) -> int:
    """The user of the process at the other end of a connected AF_UNIX socket."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(packed)[1]
    return uid


def is_own_user_known() -> bool:
    """Return whether the number of this process's user stands for no other user as well."""
    return os.geteuid() != _overflow_uid() or _has_number_for_all()


def _overflow_uid() -> int:
    try:
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    except OSError:
        return OVERFLOW_UID


def _has_number_for_all() -> bool:
    """Return whether every user of the host has a number in this process's namespace."""
    try:
        with open("/proc/self/uid_map") as file:
            return sum(int(line.split()[2]) for line in file) == _ALL_UIDS
    except OSError:  # a kernel without user namespaces
        return True
