"""The fingerprint of an operation: what a rank believes it is doing, in the 32 bytes that travel with its frames.

It holds the facts themselves, not their hash, so that each side of a disagreement can name both.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np

from ..foreign import plain

__all__ = ["ALGORITHMS", "ANY_ARRAY", "NO_FACTS", "OPERATIONS", "describe", "fingerprint", "items_of", "read", "same_items"]

# Codes on the wire are positions in these tables: new names go to the end.
OPERATIONS = (
    "",
    "send",
    "barrier",
    "broadcast",
    "reduce",
    "allreduce",
    "allgather",
    "gather",
    "scatter",
    "reduce_scatter",
    "scan",
    "exscan",
    "gatherv",
    "allgatherv",
    "scatterv",
    "alltoall",
    "alltoallv",
    "split",
    "dup",
    "broadcast_object",
    "gather_object",
    "allgather_object",
    "scatter_object",
    "alltoall_object",
    "reduce_object",
    "allreduce_object",
    "scan_object",
    "exscan_object",
    "create",
    "scatter_bytes",
)
ALGORITHMS = (
    "auto",
    "recursive_doubling",
    "halving_doubling",
    "ring",
    "binomial",
    "scatter_allgather",
    "bruck",
    "bcube",
    "recursive_halving",
    "chain",
    "pairwise",
    "direct",
)
_REDUCTIONS = ("", "sum", "prod", "min", "max", "land", "lor", "lxor", "band", "bor", "bxor", "mean")
_OTHER = 255

# Of these nothing is agreed that could be named.
_WITHOUT_ARRAYS = {
    code
    for code, name in enumerate(OPERATIONS)
    if name in ("", "barrier", "dup", "split", "create", "scatterv", "scatter_bytes") or name.endswith("_object")
}

# Of these it is agreed how long a row is, and the number of rows is each rank's own matter.
_OF_ROWS = {OPERATIONS.index(name) for name in ("gatherv", "allgatherv", "alltoallv")}

# The dtype of a message that is a pickled object, and of a receive that takes an array of any.
_OBJECT, _ANY = b"|O", b"*"

# operation, algorithm, reduction, root, digest of what has no room (callable's name, long dtype), count, dtype
_FINGERPRINT = Struct("<BBBxiQQ8s")


@lru_cache(maxsize=4096)
def fingerprint(
    operation: str,
    dtype: np.dtype[Any],
    count: int,
    root: int = -1,
    reduction: str = "",
    algorithm: str = "auto",
    detail: bytes = b"",
) -> bytes:
    """Pack the facts on which all ranks have to agree.

    Parameters
    ----------
    operation, algorithm : str
        Names in `OPERATIONS` and `ALGORITHMS`.
    dtype : numpy.dtype
        Byte order included.
    count : int
        Elements per rank.
    root : int
        -1 where the operation has none.
    reduction : str
        Name of the operator, any text; empty where there is none.
    detail : bytes
        Whatever else has to be the same.
    """
    short, rest = _dtype_name(dtype)
    known = reduction in _REDUCTIONS
    return _FINGERPRINT.pack(
        OPERATIONS.index(operation),
        ALGORITHMS.index(algorithm),
        _REDUCTIONS.index(reduction) if known else _OTHER,
        root,
        _digest(rest + (b"" if known else reduction.encode()) + detail),
        count,
        short,
    )


def _digest(text: bytes) -> int:
    """64 bits for a text of any length, 0 for none."""
    if not text:
        return 0
    from hashlib import blake2b  # loads OpenSSL

    return int.from_bytes(blake2b(text, digest_size=8, person=b"gloompi facts").digest(), "little")


def _dtype_name(dtype: np.dtype[Any]) -> tuple[bytes, bytes]:
    """Up to 8 bytes that people can read, and what else tells the dtype from others.

    Both are the same for dtypes that NumPy calls equal: not the flag of an aligned structure, metadata or the class of its
    scalars, which a way through a file or a pickle may change, and with which an array is the same.
    """
    compared = _compared(dtype)
    if not isinstance(compared, str):
        return dtype.str.encode()[:8], repr(compared).encode()
    name = compared.encode()
    if len(name) > 8 and (numbered := _NUMBERED.fullmatch(name)) is not None:
        order, count, unit, length = numbered.groups()
        return _SHORT.pack(order, unit or b"", int(count or length)), b""
    return name[:8], name[8:]


# Names that are long because of a number in them, ``<M8[25us]`` and ``<U1000000``, have room with the number in binary.
_NUMBERED = re.compile(rb"([<>|][mMSUV])(?:8\[([0-9]+)([A-Za-z]+)\]|([0-9]+))")
_SHORT = Struct("<2s2sI")


def _spelled(short: bytes) -> bytes:
    """The name for which `_dtype_name` has put 8 bytes."""
    if short[1:2] not in (b"m", b"M", b"S", b"U", b"V") or short[2:3].isdigit():
        return short.rstrip(b"\0")
    order, unit, number = _SHORT.unpack(short)
    return b"%b8[%d%b]" % (order, number, unit.rstrip(b"\0")) if order[1:] in b"mM" else b"%b%d" % (order, number)


def _compared(dtype: np.dtype[Any]) -> object:
    """What NumPy compares: of a structure, the fields with their names, titles and places; of an array in one, its shape."""
    if dtype.subdtype is not None:
        item, shape = dtype.subdtype
        return _compared(item), shape
    if dtype.names is None:
        return _item_name(dtype)
    fields: Any = dtype.fields or {}
    return dtype.itemsize, [(name, fields[name][1:], _compared(fields[name][0])) for name in dtype.names]


def _item_name(dtype: np.dtype[Any]) -> str:
    if dtype.isbuiltin == 2:  # ml_dtypes' types all look like V2 or V1 to dtype.str
        return dtype.name if dtype.isnative else dtype.byteorder + dtype.name
    if dtype.kind in "mM":
        unit, count = np.datetime_data(dtype)
        if count >= 1000 and unit in _THOUSANDTHS:
            # NumPy takes M8[1000ms] for M8[s], and would not the other way round.
            while count % 1000 == 0 and unit in _THOUSANDTHS:
                unit, count = _THOUSANDTHS[unit], count // 1000
            return f"{dtype.str[:3]}[{count if count > 1 else ''}{unit}]"
    return dtype.str


# The unit that each is the thousandth part of.
_THOUSANDTHS = {"ms": "s", "us": "ms", "ns": "us", "ps": "ns", "fs": "ps", "as": "fs"}


def describe(packed: bytes) -> str:
    """Text for an error message: ``allreduce(sum, <f4, count 1000)``."""
    operation, algorithm, reduction, root, digest, count, dtype = _FINGERPRINT.unpack(packed)
    called = OPERATIONS[operation] if operation < len(OPERATIONS) else f"operation {operation}"
    if dtype.rstrip(b"\0") == _OBJECT:
        return f"{called}_object"
    if dtype.rstrip(b"\0") == _ANY:
        return f"{called}_array"
    facts = []
    if reduction:
        facts.append(_REDUCTIONS[reduction] if reduction < len(_REDUCTIONS) else f"custom op {digest:016x}")
    if operation not in _WITHOUT_ARRAYS:
        name = _name_of(dtype)
        facts += [f"{name} #{digest:016x}" if digest and reduction < _OTHER else name, f"count {count}"]
    if root >= 0:
        facts.append(f"root {root}")
    if 0 < algorithm < len(ALGORITHMS):
        facts.append(f"algorithm {ALGORITHMS[algorithm]}")
    return f"{called}({', '.join(facts)})"


def _name_of(dtype: bytes) -> str:
    """The dtype of a fingerprint, a peer's perhaps, for people."""
    return plain(_spelled(dtype).decode("ascii", "replace"), 64)


def read(packed: bytes) -> tuple[int, int, str]:
    """Root (-1 if there is none), count (-1 if it is not known), and dtype as text, empty if there is no array."""
    operation, _, _, root, _, count, dtype = _FINGERPRINT.unpack(packed)
    text = dtype.rstrip(b"\0")
    known = operation not in _WITHOUT_ARRAYS and text not in (_OBJECT, _ANY)
    return root, -1 if operation in _OF_ROWS else count, _name_of(dtype) if known else ""


NO_FACTS = fingerprint("", np.dtype(np.uint8), 0)
"""Of a call on which no others have to agree."""

ANY_ARRAY = _FINGERPRINT.pack(OPERATIONS.index("send"), 0, 0, -1, 0, 0, _ANY)
"""Of a receive that makes an array of what comes."""

_BYTES = fingerprint("send", np.dtype(np.uint8), 0)


def same_items(sent: bytes, received: bytes) -> bool:
    """Whether a message may fill a receive: same dtype, a receive of raw bytes (uint8), or of any array."""
    if _items(sent) == _items(received):
        return True
    if received == ANY_ARRAY:
        return sent[24:].rstrip(b"\0") != _OBJECT
    return _items(received) == _items(_BYTES)


def items_of(packed: bytes, nbytes: int) -> tuple[np.dtype[Any], int]:
    """Dtype and number of the items of a message of `nbytes`.

    Of what has a name that is too long for a fingerprint, as structures have, the items are void, of the same size.
    """
    _, _, _, _, digest, count, short = _FINGERPRINT.unpack(packed)
    name = _spelled(short).decode("ascii", "replace")
    dtype = _known(name, digest)
    return np.dtype((np.void, nbytes // count if count else 0)) if dtype is None else dtype, count


def _known(name: str, digest: int) -> np.dtype[Any] | None:
    """NumPy's or ml_dtypes' dtype of a name, which may have been cut, and then has a digest of the rest."""
    if not digest:
        with suppress(TypeError, ValueError):
            return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        return None
    order = name[0] if name[:1] in ("<", ">") else ""
    for full, kind in vars(ml_dtypes).items():
        long = order + full
        if long[:8] == name and _digest(long[8:].encode()) == digest:
            found: np.dtype[Any] = np.dtype(kind).newbyteorder(order or "=")
            return found
    return None


def _items(packed: bytes) -> bytes:
    return packed[8:16] + packed[24:]
