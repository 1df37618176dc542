"""Plans of the collectives that move arrays of one length."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, flat_input, flat_output, view
from ..collectives import allgather, alltoall, barrier, broadcast, gather, scatter
from ..engine.fingerprint import fingerprint
from ..engine.task import Task
from .base import NO_DTYPE, PlanBase, copied_back, is_auto, nothing, output, rows_of

__all__ = ["MovementPlans"]


class MovementPlans(PlanBase):
    """Barrier, broadcast, gather, scatter, allgather, alltoall."""

    def barrier(self) -> Task:
        mark = fingerprint("barrier", NO_DTYPE, 0)
        return self._collective("barrier", mark, barrier.barrier, nothing)

    def broadcast(self, x: Any, root: int, algorithm: str) -> Task:
        root = self._peer(root, "root")
        target = view(x, "x", "; broadcast_object takes any object")
        if root != self._rank and not target.flags.writeable:
            raise ValueError("x is read-only, and this rank receives into it")
        flat = (target if target.flags.c_contiguous else np.ascontiguousarray(target)).reshape(-1)
        if is_auto(algorithm, broadcast.ALGORITHMS):
            algorithm = broadcast.pick(self._size, flat.nbytes, self._near)
        mark = fingerprint("broadcast", flat.dtype, flat.size, root, "", algorithm)

        def finish() -> Any:
            if self._rank != root:
                copied_back(target, flat)
            return x

        return self._collective("broadcast", mark, lambda call: broadcast.broadcast(call, flat, root, algorithm), finish)

    def allgather(self, x: Any, out: Any, algorithm: str) -> Task:
        array, flat = flat_input(x)
        flat, target, result = output(array, flat, out, (self._size, *array.shape))
        if is_auto(algorithm, allgather.ALGORITHMS):
            algorithm = allgather.pick(self._size, flat.nbytes, self._near)
        mark = fingerprint("allgather", flat.dtype, flat.size, -1, "", algorithm)
        return self._collective(
            "allgather",
            mark,
            lambda call: allgather.allgather(call, flat, target, algorithm),
            lambda: copied_back(result, target),
        )

    def gather(self, x: Any, out: Any, root: int) -> Task:
        root = self._peer(root, "root")
        array, flat = flat_input(x)
        target = result = None
        if self._rank == root:
            flat, target, result = output(array, flat, out, (self._size, *array.shape))
        mark = fingerprint("gather", flat.dtype, flat.size, root)
        return self._collective(
            "gather", mark, lambda call: gather.gather(call, flat, target, root), lambda: copied_back(result, target)
        )

    def scatter(self, x: Any, out: Any, root: int) -> Task:
        root = self._peer(root, "root")
        flat: Array | None = None
        if self._rank == root:
            array, whole = flat_input(x)
            rows_of(array, self._size)
            flat, target, result = output(array, whole, out, array.shape[1:])
        elif out is None:
            raise ValueError("out is needed on every rank but the root: it says which shape and dtype come")
        else:
            result, target = flat_output(out, "out")
        mark = fingerprint("scatter", target.dtype, target.size, root)
        return self._collective(
            "scatter", mark, lambda call: scatter.scatter(call, flat, target, root), lambda: copied_back(result, target)
        )

    def alltoall(self, x: Any, out: Any, algorithm: str) -> Task:
        array, flat = flat_input(x)
        rows_of(array, self._size)
        flat, target, result = output(array, flat, out, array.shape)
        if np.may_share_memory(flat, target):
            flat = flat.copy()
        if is_auto(algorithm, alltoall.ALGORITHMS):
            algorithm = alltoall.pick(self._size, flat.nbytes // self._size)
        mark = fingerprint("alltoall", flat.dtype, flat.size, -1, "", algorithm)
        return self._collective(
            "alltoall",
            mark,
            lambda call: alltoall.alltoall(call, flat, target, algorithm),
            lambda: copied_back(result, target),
        )
