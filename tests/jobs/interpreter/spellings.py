"""mpi4py's many ways to say which memory a call means: an array, or a list of array, counts, displacements and datatype."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dtypes import Dtype, filler

# With `found` datatypes only, and others: see `Dtype.found`.
_FOUND = ("plain", "memory", "rows", "columns", "counted", "displaced")
_NAMED = ("typed", "coded", "none typed", "nones typed", "counted typed", "displaced typed", "four", "bytes typed")
_INFERRED = ("plain", "memory", "rows", "columns", "typed", "coded", "none typed", "nones typed")
_DISPLACED = ("displaced", "displaced typed", "four")

# Elements around what is sent or received, where the specification says which they are.
_BEFORE, _AFTER = 3, 2


class Block:
    """Memory of `count` elements, or `blocks` times as many.

    `spec` goes to the call, `content` is the part that is meant, `whole` is all of it: nothing may be written around.
    """

    def __init__(self, MPI: Any, dtype: Dtype, count: int, choice: int, blocks: int = 1) -> None:
        names = [name for name in (_FOUND if dtype.found else ()) + _NAMED if name != "coded" or dtype.code]
        name = names[choice % len(names)]
        total = count * blocks
        before = _BEFORE if name in _DISPLACED else 0
        after = 0 if name in _INFERRED else _AFTER
        self.whole = filler(dtype, before + total + after)
        self.content = self.whole[before : before + total]
        self.spec = self._spelled(MPI, name, dtype, count, before)

    def _spelled(self, MPI: Any, name: str, dtype: Dtype, count: int, before: int) -> Any:
        whole, datatype = self.whole, getattr(MPI, dtype.mpi)
        if name in ("rows", "columns") and len(whole) % 2 == 0:
            rows = whole.reshape(2, -1)
            return rows if name == "rows" else rows.T
        return {
            "plain": lambda: whole,
            "rows": lambda: whole,
            "columns": lambda: whole,
            "memory": lambda: memoryview(whole),
            "typed": lambda: [whole, datatype],
            "coded": lambda: (whole, dtype.code),
            "none typed": lambda: [whole, None, datatype],
            "nones typed": lambda: [whole, None, None, datatype],
            "counted": lambda: [whole, count],
            "counted typed": lambda: (whole, count, datatype),
            "displaced": lambda: [whole, (count, before)],
            "displaced typed": lambda: [whole, [count, before], datatype],
            "four": lambda: [whole, count, before, datatype],
            "bytes typed": lambda: [whole.view("u1"), count, datatype],
        }[name]()


class Blocks:
    """Memory in as many blocks as ranks, of `counts` elements each, with `gap` elements between them.

    `way` tells how the counts came about, and so which specifications mean them: ``listed``, ``equal`` (one number for all),
    ``even`` (mpi4py's own division of an array that has no counts).
    """

    def __init__(self, MPI: Any, dtype: Dtype, counts: list[int], choice: int, way: str, gap: int) -> None:
        if way == "even":
            gap = 0
        at = [sum(counts[:i]) + gap * i for i in range(len(counts))]
        self.whole = filler(dtype, at[-1] + counts[-1] + gap)
        self.pieces = [self.whole[displ : displ + count] for displ, count in zip(at, counts, strict=True)]
        self.spec = self._spelled(getattr(MPI, dtype.mpi), dtype, counts, at, choice, way, gap)

    def _spelled(
        self, datatype: Any, dtype: Dtype, counts: list[int], at: list[int], choice: int, way: str, gap: int
    ) -> Any:
        whole = self.whole
        ways = [
            [whole, counts, at, datatype],
            [whole, (counts, at), datatype],
            [whole, (tuple(counts), tuple(at)), datatype],
            [whole, np.array(counts, "i"), np.array(at, "i"), datatype],
        ]
        if dtype.code:
            ways.append([whole, (counts, at), dtype.code])
        if dtype.found:
            ways.append([whole, (counts, at)])
        if gap == 0:
            ways += [[whole, counts, datatype], [whole, counts, None, datatype]]
            ways += [[whole, counts]] if dtype.found else []
        if way == "equal":
            stride = counts[0] + gap
            ways += [[whole, counts[0], stride, datatype], [whole, (counts[0], stride), datatype]]
        if way == "even":
            ways += [[whole, datatype], [whole, None, datatype], [whole, None, None, datatype]]
            ways += [whole] if dtype.found else []
        return ways[choice % len(ways)]


def divided(total: int, blocks: int) -> list[int]:
    """How mpi4py divides an array without counts: 7 elements over 3 ranks are 3, 2 and 2."""
    return [total // blocks + (total % blocks > i) for i in range(blocks)]
