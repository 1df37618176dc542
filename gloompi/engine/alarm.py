"""An Alarm: an event that is waited for together with descriptors."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

__all__ = ["Alarm"]


class Alarm:
    """Any thread may ring it, and a signal handler, until it is closed, and after that in vain.

    Attributes
    ----------
    fd : int
        Readable while it rings; -1 when it is closed.
    """

    __slots__ = ("_gate", "fd")

    def __init__(self) -> None:
        # Keeps `ring` from writing to a descriptor that `close` has given back; a signal may come inside of it.
        self._gate = threading.RLock()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        with self._gate:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def hush(self) -> None:
        """End the ringing."""
        with suppress(BlockingIOError):  # two threads may have been told
            os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._gate:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def renew_gate(self) -> None:
        """In a forked process: a thread that it has not got may be in the gate."""
        self._gate = threading.RLock()
