"""Plans of the collectives on pieces: arrays of different length along their first axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, byte_bounds, flat_input, flat_output, view
from ..collectives import allgather, alltoall, gather, scatter
from ..engine.call import Call
from ..engine.fingerprint import fingerprint
from ..engine.operation import Steps
from ..engine.task import Task
from ..errors import MismatchError
from ..objects import decode, encode
from .base import NO_DTYPE, PlanBase, copied_back, nothing

__all__ = ["PiecePlans"]


class PiecePlans(PlanBase):
    """Gatherv, allgatherv, scatterv, alltoallv.

    With `room`, the places in `out` may be longer than the pieces: MPI's rule for receive buffers.
    """

    def gatherv(self, x: Any, out: Any, root: int, room: bool = False) -> Task:
        root = self._peer(root, "root")
        array, flat = flat_input(x)
        kind = _Kind(array, "x")
        places = _Places(out if self._rank == root else None, self._size, kind, room)
        places.check_own(self._rank, array, "x")
        (mine,) = places.apart(self._rank, {self._rank: kind.message(array, flat)})
        mark = fingerprint("gatherv", array.dtype, kind.width, root, "", "auto", kind.detail)
        return self._collective(
            "gatherv",
            mark,
            lambda call: gather.gatherv(call, mine, places.flat, root, room),
            lambda: places.result() if self._rank == root else None,
        )

    def allgatherv(self, x: Any, out: Any, room: bool = False) -> Task:
        array, flat = flat_input(x)
        kind = _Kind(array, "x")
        places = _Places(out, self._size, kind, room)
        places.check_own(self._rank, array, "x")
        (mine,) = places.apart(self._rank, {self._rank: kind.message(array, flat)})
        mark = fingerprint("allgatherv", array.dtype, kind.width, -1, "", "auto", kind.detail)
        return self._collective(
            "allgatherv", mark, lambda call: allgather.allgatherv(call, mine, places.flat, room), places.result
        )

    def scatterv(self, pieces: Any, out: Any, root: int) -> Task:
        root = self._peer(root, "root")
        mark = fingerprint("scatterv", NO_DTYPE, 0, root)
        parts: list[Array] | None = None
        if self._rank == root:
            arrays, flats = _inputs(pieces, self._size)
            parts = [_bytes(flat) for flat in flats]
        # Only the root knows dtype and shape: these go first.
        headers = None if parts is None else [encode((array.dtype, array.shape)) for array in arrays]
        header: list[Array] = []
        place: list[Array] = []
        if out is not None:
            whole = view(out, "out")
            like = whole if parts is None else arrays[root]
            result, target = flat_output(whole, "out", like.shape, like.dtype)
            place.append(_bytes(target))
            if parts is not None:  # what is still being sent must not change
                parts = [
                    part.copy() if rank != root and np.may_share_memory(part, result) else part
                    for rank, part in enumerate(parts)
                ]

        def steps(call: Call) -> Steps:
            yield from scatter.scatterv(call, headers, header, root)
            dtype, shape = decode(header[0].data)
            if out is not None and (dtype, shape) != (result.dtype, result.shape):
                here = f"scatterv with out of dtype {result.dtype}, shape {result.shape}"
                there = f"scatterv with a piece of dtype {dtype}, shape {shape} for it"
                ranks = self._conversation.ranks
                raise MismatchError(f"scatterv #{call.number}", ranks[call.rank], here, ranks[root], there)
            yield from scatter.scatterv(call, parts, place, root, 1)

        def finish() -> Array | None:
            if out is not None:
                return copied_back(result, target)
            dtype, shape = decode(header[0].data)
            piece: Array = place[0].view(dtype).reshape(shape)
            return piece

        return self._collective("scatterv", mark, steps, finish)

    def scatter_bytes(self, pieces: list[Array] | None, out: Array | None, root: int) -> Task:
        """Piece r of the root, bytes of any number, into `out` of rank r, which has room for it; all 1-d, contiguous.

        Unlike `scatterv` it does not tell what the bytes are.  Without `out`, the root's own piece stays where it is.
        """
        root = self._peer(root, "root")
        places = [] if out is None else [out]
        if pieces is not None and out is not None:
            if len(pieces[root]) > len(out):
                raise ValueError(f"out must have room for {len(pieces[root])} bytes, not {len(out)}")
            # What is still being sent must not change.
            pieces = [
                piece.copy() if rank != root and np.may_share_memory(piece, out) else piece
                for rank, piece in enumerate(pieces)
            ]
        mark = fingerprint("scatter_bytes", NO_DTYPE, 0, root)
        return self._collective(
            "scatter_bytes", mark, lambda call: scatter.scatterv(call, pieces, places, root, room=True), nothing
        )

    def alltoallv(self, pieces: Any, out: Any, room: bool = False) -> Task:
        arrays, flats = _inputs(pieces, self._size)
        kind = _Kind(arrays[0], "pieces[0]")
        for number, array in enumerate(arrays):
            kind.check(array, f"pieces[{number}]")
        places = _Places(out, self._size, kind, room)
        parts = [kind.message(array, flat) for array, flat in zip(arrays, flats, strict=True)]
        places.check_own(self._rank, arrays[self._rank], f"pieces[{self._rank}]")
        parts = places.apart(self._rank, dict(enumerate(parts)))
        mark = fingerprint("alltoallv", kind.dtype, kind.width, -1, "", "auto", kind.detail)
        return self._collective(
            "alltoallv", mark, lambda call: alltoall.alltoallv(call, parts, places.flat, room), places.result
        )


class _Kind:
    """What the pieces of one call have in common: dtype, and the shape of a row."""

    def __init__(self, array: Array, name: str) -> None:
        if array.ndim == 0:
            raise ValueError(f"{name} must have at least one axis: pieces differ in length along the first")
        self.dtype = array.dtype
        self.row = array.shape[1:]
        self.width = int(np.prod(self.row))
        self.detail = repr(self.row).encode() if self.row else b""

    def check(self, array: Array, name: str) -> None:
        if array.ndim == 0 or array.shape[1:] != self.row:
            shape = ", ".join(map(str, ("n", *self.row)))
            raise ValueError(f"{name} must have shape ({shape}), like the other pieces, not {array.shape}")
        if array.dtype != self.dtype:
            raise TypeError(f"{name} must have dtype {self.dtype}, like the other pieces, not {array.dtype}")

    def message(self, array: Array, flat: Array) -> Array:
        """The bytes that are sent: the piece's, or, where its rows have none, one for each row."""
        return _bytes(flat) if self._has_bytes else np.zeros(len(array), np.uint8)

    def made_of(self, data: Array) -> Array:
        if self._has_bytes:
            return data.view(self.dtype).reshape(-1, *self.row)
        return np.empty((len(data), *self.row), self.dtype)

    @property
    def _has_bytes(self) -> bool:
        return bool(self.width and self.dtype.itemsize)


class _Places:
    """Where pieces go: the user's arrays, or new ones.

    Attributes
    ----------
    flat : list of array
        The bytes of each place, 1-d and contiguous; empty until they have come where the user gave none.
    """

    def __init__(self, out: Any, size: int, kind: _Kind, room: bool) -> None:
        self._kind = kind
        self._room = room
        self._given: list[tuple[Array, Array]] | None = None
        self.flat: list[Array] = []
        if out is None:
            return
        if len(out) != size:
            raise ValueError(f"out must be a list of {size} arrays, one for each rank, not of {len(out)}")
        self._given = []
        for number, each in enumerate(out):
            array = view(each, f"out[{number}]")
            kind.check(array, f"out[{number}]")
            self._given.append(flat_output(array, f"out[{number}]"))
        self.flat = [kind.message(result, target) for result, target in self._given]

    def check_own(self, rank: int, array: Array, name: str) -> None:
        """Raise ValueError if this rank's own piece does not fit its place."""
        if self._given is None:
            return
        shape = self._given[rank][0].shape
        if shape != array.shape and not (self._room and shape[0] > array.shape[0]):
            raise ValueError(f"out[{rank}] must have shape {array.shape}, like {name}, not {shape}")

    def apart(self, me: int, messages: dict[int, Array]) -> list[Array]:
        """The messages, by destination; copied where they lie in a place, except this rank's own in its own."""
        if self._given is None or not self.flat:
            return list(messages.values())
        results = [result for result, _ in self._given]
        bounds = [byte_bounds(result) for result in results if result.size]
        low, high = min((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)
        found = []
        for rank, message in messages.items():
            start, stop = byte_bounds(message) if message.size else (0, 0)
            near = start < high and low < stop
            others = (result for other, result in enumerate(results) if not other == rank == me)
            found.append(
                message.copy() if near and any(np.may_share_memory(message, other) for other in others) else message
            )
        return found

    def result(self) -> list[Array]:
        if self._given is None:
            return [self._kind.made_of(data) for data in self.flat]
        for result, target in self._given:
            copied_back(result, target)
        return [result for result, _ in self._given]


def _bytes(flat: Array) -> Array:
    return flat.view(np.uint8)


def _inputs(pieces: Any, size: int) -> tuple[list[Array], list[Array]]:
    """One array for each rank, and each of them flat."""
    if pieces is None or len(pieces) != size:
        found = "None" if pieces is None else str(len(pieces))
        raise ValueError(f"pieces must be a list of {size} arrays, one for each rank, not {found}")
    both = [flat_input(piece, f"pieces[{number}]") for number, piece in enumerate(pieces)]
    return [array for array, _ in both], [flat for _, flat in both]
