"""Python objects as bytes: pickle protocol 5, with large buffers beside the pickle instead of inside it.

An object without such buffers is a plain pickle.  With them it is::

    0     8 bytes  b"\0gloompi"; no pickle begins with a zero
    8     u64      bytes of the pickle
    16    u64      number of buffers
    24    u64 each bytes of the buffers
    ...            the pickle; then the buffers, each at a multiple of 64 bytes

The arrays of a received object lie in the memory that the message was received into, which lives as long as one of them.
Those that are far smaller than it are copied out: else whoever keeps a few numbers of each object would keep all objects.
"""

from __future__ import annotations

import pickle  # see SECURITY.md # nosec B403
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array
from .signatures import public

__all__ = ["PICKLE", "Pickler", "decode", "encode"]

_MAGIC = b"\0gloompi"
_ALIGNMENT = 64
_WORD = np.dtype("<u8")

# Copied out is what takes less than this part of the message. With an eighth, a list of 20 arrays of 10 MB each would be
# copied as a whole, which takes as long as packing it and receiving it.
_FAR_SMALLER = 1 / 64

# Up to so many bytes a copy takes less time than making the array, 1.7 us more than 1.5 for 8 kB: then this part is enough.
_LITTLE_NBYTES = 64 * 1024
_SMALLER = 1 / 8

# Nothing is copied out of messages up to here: memory of its own takes 400 bytes for itself.
_SHORT_NBYTES = 1024


@public
@dataclass(frozen=True)
class Pickler:
    """A way to make bytes of objects, and objects of bytes.

    Whoever receives pickled objects executes what their sender has chosen.  ``Context.from_mpi(pickler=...)`` and its like
    take another way than `pickle`'s own; all ranks have to take the same.

    Attributes
    ----------
    dumps : callable
        ``dumps(obj) -> (data, buffers)``: bytes, and buffers that are sent beside them; as a rule there are none, ``()``.
    loads : callable
        ``loads(data, buffers) -> obj``: of a memoryview, and as many memoryviews as there were buffers.

    Examples
    --------
    >>> import json
    >>> as_json = Pickler(lambda obj: (json.dumps(obj).encode(), ()), lambda data, _: json.loads(bytes(data)))
    >>> ctx = Context.from_mpi(pickler=as_json)
    """

    dumps: Callable[[Any], tuple[bytes, Sequence[Any]]]
    loads: Callable[[memoryview, Iterable[memoryview]], Any]


def _dumps(obj: Any) -> tuple[bytes, Sequence[Any]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(obj, 5, buffer_callback=buffers.append), buffers


def _loads(data: memoryview, buffers: Iterable[memoryview]) -> Any:
    return pickle.loads(data, buffers=buffers)  # of ranks alone # nosec B301


PICKLE = Pickler(_dumps, _loads)


def encode(obj: Any, pickler: Pickler = PICKLE) -> Array:
    """Return the bytes of an object, a 1-d uint8 array."""
    data, parts = pickler.dumps(obj)
    buffers = [_raw(part) for part in parts]
    if not buffers and memoryview(data)[:8] != _MAGIC:  # no pickle begins so, what another pickler makes may
        return np.frombuffer(data, np.uint8)
    words = np.array([len(data), len(buffers), *map(len, buffers)], _WORD)
    places = _places(words)
    message = np.empty(places[-1].stop, np.uint8)
    message[:8] = np.frombuffer(_MAGIC, np.uint8)
    message[8 : 8 + words.nbytes] = words.view(np.uint8)
    pieces = [memoryview(data), *buffers]
    end = 8 + words.nbytes
    for place, piece in zip(places, pieces, strict=True):
        message[end : place.start] = 0
        message[place] = np.frombuffer(piece, np.uint8)
        end = place.stop
    return message


def _raw(part: Any) -> memoryview:
    """The memory of a buffer, in whatever order its items lie."""
    return part.raw() if isinstance(part, pickle.PickleBuffer) else memoryview(part).cast("B")


def decode(message: memoryview, pickler: Pickler = PICKLE) -> Any:
    """Return the object that `encode` has made the bytes of."""
    if message[:8] != _MAGIC:
        return pickler.loads(message, ())
    count = int(np.frombuffer(message, _WORD, 1, 16)[0])
    words = np.frombuffer(message, _WORD, 2 + count, 8)
    pickled, *buffers = (message[place] for place in _places(words))
    return pickler.loads(pickled, [_copied_out(buffer, len(message)) for buffer in buffers])


def _copied_out(buffer: memoryview, whole: int) -> memoryview:
    """A buffer, in memory of its own if it is far smaller than the message."""
    if whole <= _SHORT_NBYTES or len(buffer) >= whole * (_SMALLER if len(buffer) <= _LITTLE_NBYTES else _FAR_SMALLER):
        return buffer
    return memoryview(bytearray(buffer))


def _places(words: Array) -> list[slice]:
    """Where the pickle and the buffers lie."""
    places, end = [], 8 + words.nbytes
    for nbytes in (words[0], *words[2:]):
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + int(nbytes)
        places.append(slice(start, end))
    return places
