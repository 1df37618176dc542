"""What users pass as arrays, brought to flat contiguous NumPy arrays.

A collective works on 1-d C-contiguous arrays.  Input that is not contiguous is copied; output that is not is
computed in a contiguous array and copied to its place at the end.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["Array", "address", "address_of", "byte_bounds", "flat_input", "flat_output", "view"]

Array = np.ndarray[Any, Any]


def view(x: Any, name: str, otherwise: str = "") -> Array:
    """Return `x` as an ndarray over the same memory.

    `otherwise` says at the end of an error's text what takes objects that have no such memory.

    Raises
    ------
    TypeError
        `x` owns no memory that NumPy can see without a copy, or has object dtype.
    """
    array: Array = x if type(x) is np.ndarray else _foreign(x, name, otherwise)
    if array.dtype.hasobject:
        raise TypeError(f"{name} has dtype {array.dtype}: Python objects cannot be sent as an array{otherwise}")
    return array


def _foreign(x: Any, name: str, otherwise: str) -> Array:
    if isinstance(x, np.generic):
        raise TypeError(f"{name} must be an array, not the NumPy scalar {x!r}, whose memory cannot be shared{otherwise}")
    if hasattr(x, "__array_interface__"):  # subclasses of ndarray too: a matrix, for one, is never 1-d
        return np.asarray(x)
    try:
        return np.asarray(memoryview(x))
    except (TypeError, ValueError):
        pass  # no buffer protocol: try the next one
    if hasattr(x, "__dlpack__"):
        try:
            array = np.from_dlpack(x)
        except (RuntimeError, BufferError, ValueError) as exc:  # on another device, of a dtype NumPy has not, ...
            dtype = _of_ml_dtypes(x)
            if dtype is None:
                raise TypeError(f"{name} is a tensor that NumPy cannot see without a copy: {exc}") from exc
            # NumPy has no way to take these over DLPack: it sees integers of their size, and then their dtype.
            package = sys.modules[type(x).__module__.partition(".")[0]]
            return _foreign(x.view(package.int16 if dtype.itemsize == 2 else package.uint8), name, otherwise).view(dtype)
        # A capsule from before DLPack 1.0 cannot say whether it may be written, and NumPy then assumes not; the tensor's
        # own view of the same memory can.
        if not array.flags.writeable and hasattr(x, "numpy"):
            own: Any = x.numpy()
            if isinstance(own, np.ndarray) and (not own.size or np.may_share_memory(own, array)):
                return own
        return array
    raise TypeError(f"{name} must be an array, a buffer or a DLPack tensor, not {type(x).__name__}{otherwise}")


def _of_ml_dtypes(tensor: Any) -> np.dtype[Any] | None:
    """The dtype of one of torch's tensors, if it is a short float that ml_dtypes has: bfloat16, float8_e5m2, ..."""
    package, _, kind = str(getattr(tensor, "dtype", "")).rpartition(".")
    if not package or not kind.startswith(("bfloat16", "float8_")) or getattr(tensor, "requires_grad", False):
        return None
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(f"a tensor of {tensor.dtype} needs the package ml_dtypes: pip install 'gloompi[bfloat16]'") from None
    found = getattr(ml_dtypes, kind, None)
    return None if found is None else np.dtype(found)


def address(array: Array) -> int:
    """Of the first item of an array."""
    start: int = array.__array_interface__["data"][0]
    return start


def address_of(memory: memoryview) -> int:
    """Of the first byte of contiguous memory that is not empty."""
    return address(np.frombuffer(memory, np.uint8))


def byte_bounds(array: Array) -> tuple[int, int]:
    """The addresses of the first byte of an array and of the one after its last; not empty."""
    low = high = address(array)
    for count, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (count - 1) * stride
        else:
            high += (count - 1) * stride
    return low, high + array.itemsize


def flat_input(x: Any, name: str = "x") -> tuple[Array, Array]:
    """Return `x` as an ndarray and as a flat contiguous one, which is a copy only where it must be.

    Lists and numbers are converted as NumPy does.
    """
    if type(x) is not np.ndarray:
        try:
            x = view(x, name)
        except TypeError:
            if hasattr(x, "__dlpack__"):
                raise
            x = np.asarray(x)
    if x.dtype.hasobject:
        raise TypeError(f"{name} has dtype {x.dtype}: Python objects cannot be sent as an array")
    return x, x.ravel()


def flat_output(
    out: Any, name: str, shape: tuple[int, ...] | None = None, dtype: np.dtype[Any] | None = None, otherwise: str = ""
) -> tuple[Array, Array]:
    """Return `out` as an ndarray and a flat contiguous array to compute in; any shape and dtype will do where none is given.

    The second shares memory with the first where `out` is C-contiguous; elsewhere the caller copies it back.

    Raises
    ------
    ValueError
        `out` is read-only or has another shape.
    TypeError
        `out` has another dtype or is not a view of memory.
    """
    target = view(out, name, otherwise)
    if shape is not None and target.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {target.shape}")
    if dtype is not None and target.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, not {target.dtype}")
    flags = target.flags
    if not flags.writeable:
        raise ValueError(f"{name} is read-only")
    if flags.c_contiguous:
        return target, target.ravel()
    return target, np.empty(target.size, target.dtype)
