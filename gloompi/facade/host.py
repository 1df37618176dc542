"""Memory of this process as an array of bytes, and whether an address is such memory."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

import numpy as np
from mpi4py import MPI as mpi
from numpy.typing import NDArray

__all__ = ["EMPTY", "Bytes", "held", "kind", "require_host"]

Bytes = NDArray[np.uint8]

EMPTY: Final[Bytes] = np.empty(0, np.uint8)


class _Held:
    """Memory at an address, and what keeps it alive, in the form that np.asarray takes."""

    def __init__(self, address: int, nbytes: int, readonly: bool, owner: Any) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, "data": (address, readonly), "typestr": "|u1", "shape": (nbytes,)}


def held(address: int, nbytes: int, readonly: bool, owner: Any) -> Bytes:
    """Return the `nbytes` at `address` as an array that keeps `owner` alive."""
    return np.asarray(_Held(address, nbytes, readonly, owner)) if nbytes else EMPTY


def kind(obj: Any) -> str:
    """Return what an error message calls `obj`."""
    cls = type(obj)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


def require_host(address: int, nbytes: int, obj: Any) -> None:
    """Raise unless this process can read the memory, which a wrong guess would answer with a segmentation fault.

    The kernel reads what is written into a pipe, and says EFAULT where it cannot.
    """
    if nbytes == 0:
        return
    reader, writer = os.pipe()
    try:
        for place in (address, address + nbytes - 1):
            byte: Any = mpi.buffer.fromaddress(place, 1, readonly=True)
            os.write(writer, byte)
    except OSError as exc:
        if exc.errno != errno.EFAULT:
            raise
        raise TypeError(
            f"message: the {nbytes} bytes of this {kind(obj)} are not in memory that the host can read: gloompi needs "
            "host memory; pass a copy there, such as x.get() of CuPy or x.cpu() of PyTorch, and copy back what arrives"
        ) from exc
    finally:
        os.close(reader)
        os.close(writer)
