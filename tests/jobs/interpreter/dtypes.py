"""Which datatypes a program can name, their values, and the operations that MPI allows on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One datatype as NumPy and as MPI know it.

    `code` is the text that stands for it in a buffer specification.  `found` tells whether mpi4py finds exactly this
    datatype from the array alone: all ranks of a step must name the same one, and an array of uint8 is found to be MPI.BYTE.
    """

    numpy: Any
    mpi: str
    code: str
    operations: tuple[str, ...]
    found: bool = True


_BITS = ("BAND", "BOR", "BXOR")
_LOGIC = ("LAND", "LOR", "LXOR")
_SUMS = ("SUM", "PROD")
_ORDER = ("MAX", "MIN")
_INTEGER = _SUMS + _ORDER + _LOGIC + _BITS


def _pair(value: str) -> Any:
    return np.dtype([("value", value), ("place", "i4")], align=True)


DTYPES = {
    "b": Dtype("b", "SIGNED_CHAR", "b", _INTEGER),
    "h": Dtype("h", "SHORT", "h", _INTEGER),
    "i": Dtype("i", "INT", "i", _INTEGER),
    "l": Dtype("l", "LONG", "l", (*_INTEGER, "compose", "nearest")),
    "q": Dtype("q", "LONG_LONG", "q", _INTEGER),
    "B": Dtype("B", "UNSIGNED_CHAR", "B", _INTEGER, found=False),
    "H": Dtype("H", "UNSIGNED_SHORT", "H", _INTEGER),
    "I": Dtype("I", "UNSIGNED", "I", _INTEGER),
    "L": Dtype("L", "UNSIGNED_LONG", "L", _INTEGER),
    "int16": Dtype("i2", "INT16_T", "i2", _INTEGER, found=False),
    "uint64": Dtype("u8", "UINT64_T", "u8", _INTEGER, found=False),
    "f": Dtype("f", "FLOAT", "f4", _SUMS + _ORDER),
    "d": Dtype("d", "DOUBLE", "d", _SUMS + _ORDER),
    "g": Dtype("g", "LONG_DOUBLE", "g", _SUMS + _ORDER),
    "F": Dtype("F", "C_FLOAT_COMPLEX", "c8", _SUMS),
    "D": Dtype("D", "C_DOUBLE_COMPLEX", "D", _SUMS),
    "?": Dtype("?", "C_BOOL", "?", _LOGIC),
    "byte": Dtype("B", "BYTE", "", ()),
    "S1": Dtype("S1", "CHAR", "S1", ()),
    "double and int": Dtype(_pair("f8"), "DOUBLE_INT", "", ("MAXLOC", "MINLOC"), found=False),
    "two ints": Dtype(_pair("i4"), "INT_INT", "", ("MAXLOC", "MINLOC"), found=False),
}


def values(dtype: Dtype, count: int, rank: int, salt: int, operation: str = "") -> np.ndarray:
    """What `rank` contributes.  Small whole numbers: no sum or product of five ranks rounds or overflows, in any order."""
    kind = np.dtype(dtype.numpy)
    mixed = np.arange(count, dtype="i8") * 7 + rank * 13 + salt * 5
    mixed ^= mixed >> 3
    if operation == "compose":
        return mixed * 40503 & 0x7FFFFFFF
    if kind.names:
        pairs = np.empty(count, kind)
        pairs["value"], pairs["place"] = mixed % 5, rank
        return pairs
    if kind.kind == "S":
        return (mixed % 26 + 65).astype("u1").view("S1")
    if operation in _LOGIC:
        return (mixed % 3 // 2).astype(kind)
    span, low = (3, 0) if operation == "PROD" else (21, 0)
    if kind.kind in "ifc":
        span, low = (5, -2) if operation == "PROD" else (31, -15)
    numbers = (mixed % span + low).astype(kind)
    if kind.kind == "c":
        numbers += 1j * (mixed % 3 - 1).astype(kind)
    return numbers


def filler(dtype: Dtype, count: int) -> np.ndarray:
    """What is in a buffer before something is received, and around it afterwards."""
    kind = np.dtype(dtype.numpy)
    if kind.names or kind.kind == "S":
        return np.full(count, 77, "u1").view("S1") if kind.kind == "S" else np.full(count, 77, "i4").astype(kind)
    return np.full(count, 77).astype(kind)


def recorded(array: np.ndarray) -> Any:
    """An array as a result.  Bytes, but for those between fields and after a long double, which have no value."""
    if array.dtype.names:
        return [recorded(np.ascontiguousarray(array[name])) for name in array.dtype.names]
    if array.dtype.char == "g":
        return ["g", array.astype("d").tobytes()]
    if array.dtype.kind == "c":
        array = array + 0  # no negative zeros: whether a product has them depends on the order of its factors
    return [array.dtype.str, array.tobytes()]
