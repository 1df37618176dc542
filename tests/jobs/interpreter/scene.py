"""What the steps of one program share: communicators, user-defined operations, datatypes, and a tag of its own per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# Tags of one step: `messages` numbers its messages.
TAGS_PER_STEP = 8

COMMUNICATORS = ("world", "self", "dup", "halves", "pairs", "without last", "dup of halves")


def _compose(first: Any, second: Any) -> Any:
    """x -> second(first(x)) of maps x -> a*x+b modulo 2^16, packed as a<<16|b: associative, and the order matters."""
    a, b = first >> 16, first & 0xFFFF
    c, d = second >> 16, second & 0xFFFF
    return ((a * c & 0xFFFF) << 16) | (b * c + d & 0xFFFF)


def _on_buffers(function: Callable[[Any, Any], Any], kind: str) -> Callable[[Any, Any, Any], None]:
    def apply(earlier: Any, later: Any, datatype: Any) -> None:
        both = np.frombuffer(later, kind)
        both[:] = function(np.frombuffer(earlier, kind), both)

    return apply


class Scene:
    """Everything is made when a step first needs it, which is the same step on all ranks."""

    def __init__(self, MPI: Any) -> None:
        self.MPI = MPI
        self._comms: dict[str, Any] = {"world": MPI.COMM_WORLD, "self": MPI.COMM_SELF}
        self._made: list[Any] = []
        self._operations: dict[str, Any] = {}
        self._tag = 0

    def comm(self, name: str) -> Any:
        if name not in self._comms:
            self._comms[name] = self._make(name)
            self._made.append(self._comms[name])
        return self._comms[name]

    def _make(self, name: str) -> Any:
        world = self.MPI.COMM_WORLD
        rank, size = world.Get_rank(), world.Get_size()
        if name == "dup":
            return world.Dup()
        if name == "dup of halves":
            return self.comm("halves").Dup()
        color, key = {
            "halves": (rank % 2, 0),
            "pairs": (rank // 2, -rank),
            "without last": (self.MPI.UNDEFINED if rank == size - 1 else 0, size - rank),
        }[name]
        return world.Split(color, key)

    def operation(self, name: str) -> Any:
        """One of MPI's by its name, or ``compose`` (not commutative) or ``nearest`` (commutative), made here."""
        if name == "compose":
            return self._operations.get(name) or self._define(name, _on_buffers(_compose, "i8"), commute=False)
        if name == "nearest":
            return self._operations.get(name) or self._define(name, _on_buffers(np.minimum, "i8"), commute=True)
        return getattr(self.MPI, name)

    def _define(self, name: str, function: Callable[..., Any], *, commute: bool) -> Any:
        self._operations[name] = self.MPI.Op.Create(function, commute=commute)
        return self._operations[name]

    def datatype(self, made: Any) -> Any:
        """A derived datatype that was just created: committed here, and freed with the others."""
        self._made.append(made.Commit())
        return made

    def next_tag(self) -> int:
        """Messages of another step never match: a rank may be steps ahead of another that receives from anybody."""
        self._tag += TAGS_PER_STEP
        return self._tag

    @contextmanager
    def attached(self, step: dict[str, Any], comm: Any) -> Iterator[None]:
        """Memory for buffered sends while a step lasts."""
        if step["how"][0] not in ("Bsend", "Ibsend", "bsend"):
            yield
            return
        # A derived datatype has up to four elements of up to 16 bytes.
        longest = 64 * (step["count"] + max(step["counts"])) + self.MPI.BSEND_OVERHEAD + 2000
        self.MPI.Attach_buffer(bytearray(longest * comm.Get_size() * len(step["counts"])))
        yield
        self.MPI.Detach_buffer()

    def close(self) -> None:
        for made in reversed(self._made):
            if made:
                made.Free()
        for operation in self._operations.values():
            operation.Free()
