"""A case: an operation on arrays of some length, what goes in and what must come out.  Nothing here communicates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

__all__ = ["OPERATIONS", "OPERATORS", "Buffers", "Case"]

OPERATIONS = (
    "barrier",
    "broadcast",
    "reduce",
    "allreduce",
    "reduce_scatter",
    "scan",
    "exscan",
    "gather",
    "allgather",
    "scatter",
    "alltoall",
    "sendrecv",
    "send/recv",
)

# Those that MPI, gloo and NumPy all have for every dtype.
OPERATORS = {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}

# The array is cut into a part for each rank.
_CUT = frozenset({"reduce_scatter", "gather", "allgather", "scatter", "alltoall"})

# Values repeat after so many elements, which is prime: blocks that are swapped or shifted do not look alike. They are small
# whole numbers, whose sums are exact even in float16, up to 500 ranks.
_PERIOD = 251
_PATTERN = np.random.default_rng(1).integers(0, 5, _PERIOD)
_SHIFT = 17  # of one rank's values against those of the rank before
_POISON = 0x55

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Buffers:
    """What a rank passes to an operation and where the result goes; None where it has nothing, one array for broadcast."""

    x: Array | None
    out: Array | None


@dataclass(frozen=True)
class Case:
    """An operation, and the length of its arrays.

    Parameters
    ----------
    operation : str
        One of `OPERATIONS`.
    asked_nbytes : int
        What the user asked for; see `nbytes`.
    size : int
        Number of ranks.
    dtype : str
    op : str
        One of `OPERATORS`, for operations that reduce.
    """

    operation: str
    asked_nbytes: int
    size: int
    dtype: str = "float32"
    op: str = "sum"

    @property
    def reduces(self) -> bool:
        return self.operation in ("reduce", "allreduce", "reduce_scatter", "scan", "exscan")

    @property
    def block(self) -> int:
        """Elements of the part of one rank; all of them if the array is not cut up."""
        parts = self.size if self.operation in _CUT else 1
        return max(1, self.asked_nbytes // (parts * np.dtype(self.dtype).itemsize))

    @property
    def count(self) -> int:
        """Elements of the whole array."""
        return self.block * (self.size if self.operation in _CUT else 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that a rank passes; of the result for gather and allgather; of the root's for scatter."""
        return 0 if self.operation == "barrier" else self.count * np.dtype(self.dtype).itemsize

    def buffers(self, rank: int) -> Buffers:
        """Arrays of this rank, all their pages touched."""
        parts = (self.size, self.block)
        x: Any = self.block
        out: Any = self.block
        if self.operation == "barrier":
            return Buffers(None, None)
        if self.operation == "broadcast":
            both = np.ones(self.block, self.dtype)
            return Buffers(both, both)
        if self.operation == "reduce_scatter":
            x = self.count
        elif self.operation == "gather":
            out = parts if rank == 0 else None
        elif self.operation == "allgather":
            out = parts
        elif self.operation == "scatter":
            x = parts if rank == 0 else None
        elif self.operation == "alltoall":
            x = out = parts
        return Buffers(*(None if shape is None else np.ones(shape, self.dtype) for shape in (x, out)))

    def fill(self, rank: int, buffers: Buffers) -> None:
        """Put values that depend on rank and index into `x`, and what no operation leaves into `out`."""
        if buffers.out is not None:
            buffers.out.view(np.uint8).fill(_POISON)
        if buffers.x is not None and (buffers.x is not buffers.out or rank == 0):
            buffers.x[...] = self._values(rank, 0, buffers.x.size).reshape(buffers.x.shape)

    def expected(self, rank: int) -> Array | None:
        """What must be in `out` of this rank, flat; None if it gets nothing."""
        everyone, block = range(self.size), self.block
        if self.operation == "barrier" or (self.operation in ("reduce", "gather") and rank != 0):
            return None
        if self.operation == "broadcast":
            return self._values(0, 0, block)
        if self.operation in ("reduce", "allreduce"):
            return self._reduced(self.size, 0)
        if self.operation == "reduce_scatter":
            return self._reduced(self.size, rank * block)
        if self.operation == "scan":
            return self._reduced(rank + 1, 0)
        if self.operation == "exscan":
            return self._reduced(rank, 0) if rank > 0 else None
        if self.operation in ("gather", "allgather"):
            return np.concatenate([self._values(other, 0, block) for other in everyone])
        if self.operation == "scatter":
            return self._values(0, rank * block, block)
        if self.operation == "alltoall":
            return np.concatenate([self._values(other, rank * block, block) for other in everyone])
        source = (rank - 1) % self.size  # sendrecv; send/recv has two ranks
        return self._values(source, 0, block)

    def fault(self, rank: int, buffers: Buffers) -> str | None:
        """How the result of this rank differs from NumPy's; None if it does not."""
        expected = self.expected(rank)
        if expected is None or buffers.out is None:
            return None
        found = buffers.out.reshape(-1)
        if np.array_equal(found, expected):
            return None
        wrong = np.flatnonzero(found != expected)
        first = wrong[0]
        return (
            f"{len(wrong)} of {len(found)} elements are wrong, the first is [{first}]: {found[first]}, not {expected[first]}"
        )

    def _values(self, rank: int, start: int, count: int) -> Array:
        return np.resize(np.roll(self._pattern(rank), -start), count)

    def _reduced(self, ranks: int, start: int) -> Array:
        apply: Callable[..., Array] = OPERATORS[self.op]
        with np.errstate(over="ignore"):
            one = reduce(apply, (self._pattern(rank) for rank in range(ranks)))
        return np.resize(np.roll(one, -start), self.block)

    def _pattern(self, rank: int) -> Array:
        pattern = np.roll(_PATTERN, _SHIFT * rank)
        # A product of numbers with zeros among them soon is zero everywhere.
        return (1 + pattern % 2 if self.op == "prod" else pattern).astype(self.dtype)
