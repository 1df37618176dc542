"""The bytes of what users pass as a buffer, and the MPI datatype its items say they have.

Takes what mpi4py takes: the buffer protocol, DLPack, `__cuda_array_interface__`; contiguous, in C or Fortran order.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
from mpi4py import MPI as mpi

from .host import EMPTY, Bytes, held, kind
from .tensors import dlpack, gpu_array

__all__ = ["expose"]

_NATIVE: Final = "<" if sys.byteorder == "little" else ">"

# The format that NumPy's buffers give for a character code: np.dtype("F").char is "F", its buffer's format "Zf".
_FORMATS: Final = {code: np.empty(0, code).data.format for code in "?bBhHiIlLqQefdgFDG"}


def expose(obj: Any, *, readonly: bool, typed: bool) -> tuple[Bytes, mpi.Datatype]:
    """Return the bytes of `obj` and, if `typed`, the datatype of its items (else BYTE).

    The array of bytes keeps `obj` alive.

    Raises
    ------
    TypeError
        `obj` is no buffer, lies where this process cannot read, or holds Python objects.
    BufferError
        `obj` is not contiguous, is read-only and shall be written, or its items are of foreign byte order.
    KeyError
        MPI has no datatype for the items.
    """
    if isinstance(obj, np.ndarray):
        # A subclass may have its own idea of reshape and view; np.asarray sees the plain array below it.
        memory, code = _array(obj if type(obj) is np.ndarray else np.asarray(obj), readonly, typed)
    else:
        memory, code = _foreign(obj, readonly, typed)
    return memory, _datatype(code) if typed and code else mpi.BYTE


# Each of the following returns the bytes, and the items' format if `typed`: empty where they are bytes to MPI.


def _foreign(obj: Any, readonly: bool, typed: bool) -> tuple[Bytes, str]:
    try:
        return _exported(obj, readonly)
    except Exception as exc:
        # mpi4py asks in this order, too: an object whose buffer cannot be had may still be a tensor.
        if hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__"):
            return dlpack(obj, readonly)
        if hasattr(obj, "__cuda_array_interface__"):
            return gpu_array(obj, readonly, typed)
        if isinstance(exc, TypeError):
            raise TypeError(
                f"message: expecting buffer or list/tuple, not {kind(obj)}: pass an object with the buffer protocol, DLPack "
                "or __cuda_array_interface__, or a list that begins with one"
            ) from exc
        raise


def _array(x: np.ndarray[Any, Any], readonly: bool, typed: bool) -> tuple[Bytes, str]:
    flags = x.flags
    if flags.c_contiguous:
        flat = x.reshape(-1)
    elif flags.f_contiguous:
        flat = x.T.reshape(-1)
    else:
        raise _not_contiguous(x, x.strides)
    if not readonly and not flags.writeable:
        raise _not_writeable(x)
    dtype = x.dtype
    code = ""
    if typed:
        code = (_FORMATS.get(dtype.char) if dtype.isnative else None) or _array_format(x)
    elif dtype.hasobject:
        raise TypeError(f"message: the array has dtype {dtype}, whose items are Python objects: send them by send, not Send")
    if dtype.hasobject or dtype.itemsize == 0:
        return EMPTY, code
    return flat.view(np.uint8), code


def _array_format(x: np.ndarray[Any, Any]) -> str:
    try:
        return x.data.format
    except ValueError as exc:  # dates, types of other packages, ...: a buffer cannot name them
        raise BufferError(
            f"message: the items of dtype {x.dtype} have no MPI datatype: give one of their size, or as in [x, MPI.BYTE]"
        ) from exc


def _exported(obj: Any, readonly: bool) -> tuple[Bytes, str]:
    view = memoryview(obj)
    if not view.contiguous:
        raise _not_contiguous(obj, view.strides)
    if view.readonly and not readonly:
        raise _not_writeable(obj)
    if view.nbytes == 0:
        return EMPTY, view.format
    if view.c_contiguous:
        return np.frombuffer(view, np.uint8), view.format
    return held(mpi.Get_address(view), view.nbytes, view.readonly, view), view.format


def _datatype(code: str) -> mpi.Datatype:
    """Return the datatype of a buffer's format, which may begin with its byte order."""
    order = code[:1]
    if order in ("@", "<", ">"):
        if order not in ("@", _NATIVE):
            raise BufferError(
                f"message: items of format {code!r} are not of this machine's byte order: convert them, or give the "
                "datatype as in [x, MPI.INT] to send them as they are"
            )
        code = code[1:]
    try:
        return mpi.Datatype.fromcode(code)
    except ValueError:
        raise KeyError(f"message: MPI has no datatype for items of format {code!r}: give one, as in [x, MPI.BYTE]") from None


def _not_contiguous(obj: Any, strides: Any) -> BufferError:
    return BufferError(
        f"message: this {kind(obj)} is not contiguous (strides {strides}): send a contiguous copy, or describe the strides "
        "by a derived datatype over the whole array"
    )


def _not_writeable(obj: Any) -> BufferError:
    return BufferError(f"message: this {kind(obj)} is read-only and cannot receive")
