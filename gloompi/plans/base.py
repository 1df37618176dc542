"""What all plans share: who takes part, what is wrong with an argument, where a result goes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, address, flat_output
from ..engine.call import Call
from ..engine.conversation import Conversation
from ..engine.engine import Engine
from ..engine.operation import ANY_TAG, Steps
from ..engine.task import Task
from ..objects import PICKLE, Pickler

__all__ = [
    "MAX_TAG",
    "NO_DTYPE",
    "PlanBase",
    "check_tag",
    "copied_back",
    "is_auto",
    "nothing",
    "output",
    "rows_of",
]

# MPI guarantees 32767; this is what the common implementations give.
MAX_TAG = 2**31 - 1

# In the fingerprint of a call on no arrays.
NO_DTYPE = np.dtype(np.uint8)


class PlanBase:
    """Makes plans for one Context.

    Parameters
    ----------
    engine : Engine
    conversation : Conversation
    pickler : Pickler or None
        None refuses operations on objects.
    """

    def __init__(self, engine: Engine, conversation: Conversation, pickler: Pickler | None = PICKLE) -> None:
        self._engine = engine
        self._conversation = conversation
        self._rank, self._size, self._ranks = conversation.rank, conversation.size, conversation.ranks
        self._pickler = pickler
        # A fact that all ranks agree on: a pair is AF_UNIX if both its ranks can have that, and share a host.
        peers = [engine.peers[rank] for rank in conversation.ranks]
        self._near = all(peer.transport in ("self", "unix") and peer.readable for peer in peers)

    @property
    def pickler(self) -> Pickler:
        """The way to make bytes of objects.

        Raises
        ------
        RuntimeError
            They may not.  Who sends or receives any asks first.
        """
        if self._pickler is None:
            raise RuntimeError(
                "operations on objects are refused, because whoever receives pickled objects executes what their sender has "
                "chosen (GLOOMPI_PICKLE=off): send arrays, or give all ranks another way, such as from_mpi(pickler=...)"
            )
        return self._pickler

    @pickler.setter
    def pickler(self, pickler: Pickler) -> None:
        """Make bytes another way; what is refused remains so."""
        if self._pickler is not None:
            self._pickler = pickler

    def of_children(self) -> Pickler | None:
        """The pickler of Contexts that are made of this one."""
        return self._pickler

    def _collective(self, name: str, mark: bytes, steps: Callable[[Call], Steps], finish: Callable[[], Any]) -> Task:
        return Call(self._engine, self._conversation, name, mark, steps, finish)

    def _peer(self, rank: int, name: str) -> int:
        """Return a rank of this Context as an int."""
        index = operator.index(rank)
        if not 0 <= index < self._size:
            raise ValueError(f"{name} must be in range({self._size}), not {rank}")
        return index


def nothing() -> None:
    """The result of an operation that has none."""


def check_tag(tag: int, wildcard: bool) -> int:
    """Return a tag as an int."""
    index = operator.index(tag)
    if not (0 <= index <= MAX_TAG or (wildcard and index == ANY_TAG)):
        raise ValueError(f"tag must be in range({MAX_TAG + 1}){' or ANY_TAG' if wildcard else ''}, not {tag}")
    return index


def is_auto(algorithm: str, known: dict[str, Any]) -> bool:
    """Whether the algorithm is to be picked; ValueError if it is none of the known ones."""
    if algorithm == "auto":
        return True
    if algorithm not in known:
        raise ValueError(f"algorithm must be one of auto, {', '.join(known)}, not {algorithm!r}")
    return False


def output(array: Array, flat: Array, out: Any, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return the input, the flat array to compute in, and the array to hand to the user.

    An input that overlaps the output is copied, unless it is the same memory: reducing in place is what out=x means, and
    then the first two are one array.
    """
    if out is None:
        result = np.empty(shape, array.dtype)
        return flat, result.reshape(-1), result
    result, target = flat_output(out, "out", shape, array.dtype)
    if result is not array:
        if result.flags.owndata and array.flags.owndata:
            return flat, target, result  # two arrays that own their memory do not overlap
        if not np.may_share_memory(flat, target):
            return flat, target, result
        if not _same(flat, target):
            return flat.copy(), target, result
    return (target if result.flags.c_contiguous else flat), target, result


def _same(a: Array, b: Array) -> bool:
    return a.size == b.size and address(a) == address(b)


def copied_back(result: Array | None, target: Array | None) -> Array | None:
    """The user's array, filled from the contiguous one where that is another."""
    if result is not None and target is not None and not result.flags.c_contiguous:
        result[...] = target.reshape(result.shape)
    return result


def rows_of(x: Array, size: int) -> None:
    """Raise ValueError unless an array has one row for each rank."""
    if x.ndim == 0 or len(x) != size:
        raise ValueError(f"x must have one row per rank, shape ({size}, ...), not {x.shape}")
