"""The bytes of tensors: objects with DLPack or `__cuda_array_interface__`.

mpi4py validates them; here the memory is required to be the host's, and the items' type is read.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any, Final

import numpy as np
from mpi4py import MPI as mpi

from .host import Bytes, held, require_host

__all__ = ["dlpack", "gpu_array"]

# DLPack's devices whose memory the host may always touch: CPU, CUDA host, ROCm host, CUDA managed.
_HOST_DEVICES: Final = frozenset((1, 3, 11, 13))
# DLPack's type codes as the kinds of NumPy's type strings.
_KINDS: Final = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}
_NATIVE: Final = "<" if sys.byteorder == "little" else ">"


def _formats() -> dict[str, str]:
    """Map kind and size in bytes, as in NumPy's type strings, to a format; of two of one size, the lower C rank."""
    formats = {"b1": "?"}
    for code in "bhilq":
        formats.setdefault(f"i{struct.calcsize(code)}", code)
        formats.setdefault(f"u{struct.calcsize(code)}", code.upper())
    for code in "efdg":
        size = np.dtype(code).itemsize
        formats.setdefault(f"f{size}", code)
        formats.setdefault(f"c{2 * size}", f"Z{code}")
    return formats


_FORMATS: Final = _formats()


class _Tensor:
    """Stands in for a DLPack tensor, to note which device and capsule mpi4py was given."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.device: Any = None
        self.capsule: Any = None

    def __dlpack_device__(self) -> Any:
        self.device = self._tensor.__dlpack_device__()
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        self.capsule = self._tensor.__dlpack__(**options)
        return self.capsule


def dlpack(obj: Any, readonly: bool) -> tuple[Bytes, str]:
    """Return the bytes of a DLPack tensor and the format of its items, which is empty where MPI shall take them as bytes."""
    asked = _Tensor(obj)
    # mpi4py checks version, shape, strides and the read-only flag, all of which may be wrong in ways that crash.
    buffer: mpi.buffer = mpi.buffer.frombuffer(asked, readonly)
    if asked.device[0] not in _HOST_DEVICES:
        require_host(buffer.address, buffer.nbytes, obj)
    return held(buffer.address, buffer.nbytes, readonly, (obj, buffer)), _tensor_format(asked.capsule)


class _TensorHead(ctypes.Structure):
    """The beginning of DLPack's DLTensor (https://dmlc.github.io/dlpack/latest/c_api.html)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _VersionedHead(ctypes.Structure):
    """The beginning of DLManagedTensorVersioned; the older DLManagedTensor begins with the tensor itself."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _TensorHead),
    )


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_capsule_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)


def _tensor_format(capsule: Any) -> str:
    if _capsule_is_valid(capsule, b"dltensor_versioned"):
        head = _VersionedHead.from_address(_capsule_pointer(capsule, b"dltensor_versioned")).tensor
    else:
        head = _TensorHead.from_address(_capsule_pointer(capsule, b"dltensor"))
    letter = _KINDS.get(head.code, "V")
    if head.lanes == 1:
        return _FORMATS.get(f"{letter}{head.bits / 8:g}", "")
    # Two lanes of a real type are a complex number of a library without complex types; other vectors are their bytes.
    pair = _FORMATS.get(f"c{head.bits // 4}") if letter == "f" and head.lanes == 2 else None
    return "B" if pair in (None, "Ze") else pair


def gpu_array(obj: Any, readonly: bool, typed: bool) -> tuple[Bytes, str]:
    """Return the same of an object with `__cuda_array_interface__`; the format only if `typed`, as it may be refused."""
    buffer: mpi.buffer = mpi.buffer.frombuffer(obj, readonly)  # checks the interface
    code = ""
    if typed:
        typestr = obj.__cuda_array_interface__["typestr"]
        if typestr[0] not in ("|", _NATIVE):
            raise BufferError(f"message: items of type {typestr!r} are not of this machine's byte order")
        code = _FORMATS.get(f"{typestr[1]}{int(typestr[2:])}", "")
    require_host(buffer.address, buffer.nbytes, obj)
    return held(buffer.address, buffer.nbytes, readonly, (obj, buffer)), code
