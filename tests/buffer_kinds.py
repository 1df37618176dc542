"""What the tests of buffer specifications have in common: memory to look at, objects that are no arrays, datatypes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from mpi4py import MPI

from gloompi.facade.buffers import Buffer

FOREIGN = ">" if sys.byteorder == "little" else "<"


def ints(count: int = 12, first: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(first, first + count, dtype="i")


def pattern(nbytes: int = 512) -> np.ndarray[Any, Any]:
    return (np.arange(nbytes, dtype=np.uint32) * 2654435761 >> 13).astype(np.uint8)


def filled(nbytes: int = 512) -> np.ndarray[Any, Any]:
    return np.full(nbytes, 0xEE, np.uint8)


# -- objects that are no NumPy arrays -------------------------------------------------------------------------------------


class Tensor:
    """DLPack, with a capsule of version 1 (`versioned`) or of before, on the device it says."""

    def __init__(self, host: Any, *, versioned: bool = True, device: int = 1) -> None:
        self.host = host
        self.versioned = versioned
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)

    def __dlpack__(self, **options: Any) -> Any:
        if "stream" in options:
            assert options.pop("stream") == -1
            assert self.device != 1
        if not self.versioned and options:
            raise TypeError("only without arguments")
        return self.host.__dlpack__(**options)


class GpuArray:
    """`__cuda_array_interface__` over memory of the host."""

    def __init__(self, host: Any, *, readonly: bool = False, **changes: Any) -> None:
        self.host = host
        self.__cuda_array_interface__: Any = {
            "version": 0,
            "data": (host.ctypes.data, readonly),
            "typestr": host.dtype.str,
            "shape": host.shape,
            "strides": host.strides,
            **changes,
        }


class Odd(np.ndarray[Any, Any]):
    """An array with its own idea of shapes."""

    def reshape(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the shape matters to nobody")


def without(key: str) -> Any:
    x = GpuArray(ints())
    del x.__cuda_array_interface__[key]
    return x


def gpu_with(interface: Any) -> Any:
    x = GpuArray(ints())
    x.__cuda_array_interface__ = interface
    return x


def tensor_with(**changes: Any) -> Any:
    x = Tensor(ints())
    for key, value in changes.items():
        setattr(x, key, value)
    return x


def readonly(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x.flags.writeable = False
    return x


# -- derived datatypes ----------------------------------------------------------------------------------------------------

INT = MPI.INT


def derived() -> dict[str, MPI.Datatype]:
    vector_type = INT.Create_vector(2, 1, 3)
    permuted = INT.Create_indexed_block(1, [1, 0])
    holes = INT.Create_resized(0, 12)
    record = MPI.Datatype.Create_struct([1, 2, 3], [0, 8, 24], [MPI.CHAR, INT, MPI.SHORT])
    types = {
        "contiguous": INT.Create_contiguous(3),
        "vector": vector_type,
        "hvector": INT.Create_hvector(2, 1, 7),
        "vector backwards": INT.Create_resized(0, 4).Create_hvector(2, 1, -8),
        "indexed": INT.Create_indexed([2, 1], [1, 4]),
        "hindexed": INT.Create_hindexed([1, 2], [2, 11]),
        "indexed_block": INT.Create_indexed_block(2, [0, 3]),
        "hindexed_block": INT.Create_hindexed_block(2, [3, 17]),
        "permuted": permuted,
        "consecutive": INT.Create_indexed_block(1, [0, 1, 2]),
        "struct": record,
        "struct without gaps": MPI.Datatype.Create_struct([1, 1], [0, 4], [INT, MPI.FLOAT]),
        "hole at the end": holes,
        "hole at the end, twice": holes.Create_contiguous(2),
        "hole at the beginning": INT.Create_resized(-8, 12),
        "extent smaller than the data": vector_type.Create_resized(0, 4),
        "negative lower bound": INT.Create_hindexed([1, 1], [-4, 4]),
        "negative extent": INT.Create_resized(0, -4),
        "no extent": INT.Create_resized(0, 0),
        "contiguous of vectors": vector_type.Create_contiguous(2),
        "contiguous of permuted": permuted.Create_contiguous(3),
        "contiguous of structs": record.Create_contiguous(2),
        "subarray": INT.Create_subarray([4, 5], [2, 3], [1, 1], MPI.ORDER_C),
        "subarray in Fortran order": INT.Create_subarray([4, 5], [2, 3], [1, 1], MPI.ORDER_FORTRAN),
        "duplicate": INT.Dup(),
        "duplicate of vector": vector_type.Dup(),
        "duplicate of permuted": permuted.Dup(),
        "zero size": INT.Create_contiguous(0),
        "pair": MPI.DOUBLE_INT.Dup(),
    }
    for datatype in types.values():
        datatype.Commit()
    return types


DERIVED = derived()
LARGE = {
    "dense": INT.Create_contiguous(3000).Commit(),
    "dense of derived": DERIVED["struct without gaps"].Create_contiguous(3000).Commit(),
    "permuted": DERIVED["permuted"].Create_contiguous(3000).Commit(),
    "vector": INT.Create_vector(3000, 1, 2).Commit(),
    "uncommitted base": INT.Create_contiguous(2).Create_contiguous(3000).Commit(),
}
UNCOMMITTED = INT.Create_vector(2, 1, 3)
PAIRS = {
    key: getattr(MPI, key) for key in ("FLOAT_INT", "DOUBLE_INT", "LONG_INT", "INT_INT", "SHORT_INT", "LONG_DOUBLE_INT")
}
ALL_DERIVED = DERIVED | PAIRS


def transfer(source: Buffer, target: Buffer) -> None:
    content = source.outgoing()
    arriving = target.incoming()
    assert len(content) == source.nbytes
    assert len(arriving) == target.nbytes
    assert content.dtype == arriving.dtype == np.uint8
    assert len(content) <= len(arriving)
    arriving[: len(content)] = content
    target.deliver(arriving, len(content))
