"""Python objects as bytes: pickle protocol 5, with large buffers beside the pickle instead of inside it.

An object without such buffers is a plain pickle.  With them it is::

    0     8 bytes  b"\0gloompi"; no pickle begins with a zero
    8     u64      bytes of the pickle
    16    u64      number of buffers
    24    u64 each bytes of the buffers
    ...            the pickle; then the buffers, each at a multiple of 64 bytes

The arrays of a received object lie in the memory that the message was received into.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array

__all__ = ["PICKLE", "Pickler", "decode", "encode"]

_MAGIC = b"\0gloompi"
_ALIGNMENT = 64
_WORD = np.dtype("<u8")


class Pickler(NamedTuple):
    """How objects become bytes.

    Attributes
    ----------
    dumps : callable
        ``dumps(obj) -> (pickle, buffers)``.
    loads : callable
        ``loads(pickle, buffers) -> obj``.
    """

    dumps: Callable[[Any], tuple[bytes, Sequence[Any]]]
    loads: Callable[[memoryview, Iterable[memoryview]], Any]


def _dumps(obj: Any) -> tuple[bytes, Sequence[Any]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(obj, 5, buffer_callback=buffers.append), buffers


def _loads(data: memoryview, buffers: Iterable[memoryview]) -> Any:
    return pickle.loads(data, buffers=buffers)


PICKLE = Pickler(_dumps, _loads)


def encode(obj: Any, pickler: Pickler = PICKLE) -> Array:
    """Return the bytes of an object, a 1-d uint8 array."""
    data, parts = pickler.dumps(obj)
    buffers = [_raw(part) for part in parts]
    if not buffers:
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
    return pickler.loads(pickled, buffers)


def _places(words: Array) -> list[slice]:
    """Where the pickle and the buffers lie."""
    places, end = [], 8 + words.nbytes
    for nbytes in (words[0], *words[2:]):
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + int(nbytes)
        places.append(slice(start, end))
    return places
