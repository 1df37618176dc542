"""The memory of another process on this host, read without its help: one copy where a socket takes two.

Linux lets a process read the memory of another of the same user (process_vm_readv(2), since 3.2) unless a policy forbids it:
Yama's ptrace_scope, a container's seccomp filter, different user namespaces.  Process ids are not enough to know whom one
reads, so whatever is read comes with a proof: random bytes that the owner has told over the socket and keeps in its memory
for as long as what it offers is sound.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np

from ..arrays import address_of

__all__ = ["OFFER_NBYTES", "Offer", "Owner", "Reader", "Unwritable", "is_permitted"]

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")

_PROOF_NBYTES = 32
_OFFER = Struct(f"<QQQ{_PROOF_NBYTES}s")
OFFER_NBYTES = _OFFER.size


def is_permitted() -> bool:
    """Whether processes of this user may read one another's memory, as far as Yama is concerned."""
    if os.geteuid() == 0:
        return True  # has CAP_SYS_PTRACE, as a rule
    try:
        return _YAMA.read_text().strip() == "0"
    except OSError:
        return True  # a kernel without Yama


class Offer(NamedTuple):
    """Memory that another process may read.

    Attributes
    ----------
    nbytes, address : int
    proof_address : int
    proof : bytes
        What is found there as long as the memory holds what was offered.
    """

    nbytes: int
    address: int
    proof_address: int
    proof: bytes

    def pack(self) -> bytes:
        return _OFFER.pack(*self)

    @classmethod
    def unpack(cls, packed: bytes | bytearray) -> Offer:
        return cls(*_OFFER.unpack(packed))


class Owner:
    """Offers memory of this process, until it is asked not to."""

    def __init__(self) -> None:
        self._proof = np.frombuffer(os.urandom(_PROOF_NBYTES), np.uint8).copy()
        self._address = address_of(self._proof.data)

    def offer(self, memory: memoryview) -> bytes:
        """Pack the offer of contiguous bytes, not empty, which must stay as they are until they have been taken."""
        return Offer(len(memory), address_of(memory), self._address, self._proof.tobytes()).pack()

    def revoke(self) -> None:
        """From now on nothing that is read counts, even if it was read before this."""
        self._proof[:] = 0


class _Piece(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("nbytes", ctypes.c_size_t)]  # as ctypes wants it


def _system_call() -> ctypes._NamedFuncPointer | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except AttributeError:  # a C library without it
        return None
    call.restype = ctypes.c_ssize_t
    pieces, number = ctypes.c_void_p, ctypes.c_ulong
    call.argtypes = [ctypes.c_int, pieces, number, pieces, number, ctypes.c_ulong]
    return call


class Unwritable(OSError):
    """What is read has no place in the memory of the process that reads."""


class Reader:
    """Reads what other processes offer."""

    def __init__(self) -> None:
        self._call = _system_call()
        self._proof = np.empty(_PROOF_NBYTES, np.uint8)
        self._local, self._remote = (_Piece * 2)(), (_Piece * 2)()
        self._local[1].start, self._local[1].nbytes = address_of(self._proof.data), _PROOF_NBYTES
        self._remote[1].nbytes = _PROOF_NBYTES

    def read(self, pid: int, offer: Offer, position: int, into: memoryview) -> None:
        """Copy bytes of what a process offers, beginning at `position`.

        Raises
        ------
        Unwritable
            They are there, but there is no memory at `into`.
        OSError
            They cannot be read: ENOSYS, EPERM, ESRCH, EFAULT, ENOMEM, or ESTALE where the proof is not there.  What has been
            written to `into` means nothing then.
        """
        if self._call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        here, there = self._local[0], self._remote[0]
        here.start, here.nbytes = address_of(into), len(into)
        there.start, there.nbytes = offer.address + position, len(into)
        self._remote[1].start = offer.proof_address
        self._proof[:] = 0
        # In this order: what comes with the proof was read while the proof was there.
        came = self._call(pid, self._local, 2, self._remote, 2, 0)
        code = ctypes.get_errno() if came < 0 else errno.EFAULT if came < len(into) + _PROOF_NBYTES else 0
        if code == errno.EFAULT:  # who revokes may free the memory next: look at the proof alone
            self._call(pid, ctypes.byref(self._local[1]), 1, ctypes.byref(self._remote[1]), 1, 0)
        if code in (0, errno.EFAULT) and self._proof.tobytes() != offer.proof:
            raise OSError(errno.ESTALE, "the memory of that process is not what was offered")
        if code == errno.EFAULT and self._is_readable(pid, (there.start or 0) + max(came, 0)):
            raise Unwritable(code, os.strerror(code))
        if code:
            raise OSError(code, os.strerror(code))

    def _is_readable(self, pid: int, start: int) -> bool:
        """Whether there is memory at an address of a process."""
        there = _Piece(start, 1)
        came: int = self._call(pid, ctypes.byref(self._local[1]), 1, ctypes.byref(there), 1, 0)  # type: ignore[misc]
        return came == 1
