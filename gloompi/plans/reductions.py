"""Plans of the collectives that reduce."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import prod
from operator import index
from typing import Any

import numpy as np

from ..arrays import flat_input
from ..collectives import allreduce, reduce, reduce_scatter, scan
from ..engine.fingerprint import fingerprint
from ..engine.task import Task
from ..reduction import Op, Reduction, divided, resolve
from .base import PlanBase, copied_back, is_auto, output

__all__ = ["ReductionPlans"]

_ALGORITHMS: dict[str, dict[str, Any]] = {
    "reduce": reduce.ALGORITHMS,
    "allreduce": allreduce.ALGORITHMS,
    "reduce_scatter": reduce_scatter.ALGORITHMS,
    "scan": scan.ALGORITHMS,
    "exscan": scan.ALGORITHMS,
}

# Operators that stay alive anyway.
_LASTING = (str, np.ufunc)

# These put operands together in an order of their own.
_REORDERING = {("allreduce", "ring"), ("reduce_scatter", "pairwise")}


class ReductionPlans(PlanBase):
    """Reduce, allreduce, reduce_scatter, scan, exscan."""

    def reduce(self, x: Any, out: Any, root: int, op: Op | Reduction, algorithm: str) -> Task:
        root = self._peer(root, "root")
        array, flat = flat_input(x)
        reduction, algorithm, mark = self._agreed("reduce", flat.dtype, flat.size, root, op, algorithm)
        target = result = None
        if self._rank == root:
            flat, target, result = output(array, flat, out, array.shape)
        return self._collective(
            "reduce",
            mark,
            lambda call: reduce.reduce(call, flat, target, root, reduction, algorithm),
            lambda: copied_back(result, divided(target, self._size) if reduction.mean and target is not None else target),
        )

    def allreduce(self, x: Any, out: Any, op: Op | Reduction, algorithm: str) -> Task:
        array, flat = flat_input(x)
        reduction, algorithm, mark = self._agreed("allreduce", flat.dtype, flat.size, -1, op, algorithm)
        flat, target, result = output(array, flat, out, array.shape)
        return self._collective(
            "allreduce",
            mark,
            lambda call: allreduce.allreduce(call, flat, target, reduction, algorithm),
            lambda: copied_back(result, divided(target, self._size) if reduction.mean else target),
        )

    def reduce_scatter(self, x: Any, out: Any, counts: Sequence[int] | None, op: Op | Reduction, algorithm: str) -> Task:
        array, whole = flat_input(x)
        rows = self._shares(array, counts)
        shape = (rows[self._rank], *array.shape[1:])
        width = prod(array.shape[1:])
        detail = b"" if counts is None else repr(rows).encode()
        reduction, algorithm, mark = self._agreed("reduce_scatter", whole.dtype, whole.size, -1, op, algorithm, detail)
        flat, target, result = output(array, whole, out, shape)
        if np.may_share_memory(flat, target):
            flat = flat.copy()
        bounds = [width * row for row in accumulate(rows, initial=0)]
        parts = [slice(start, stop) for start, stop in pairwise(bounds)]
        return self._collective(
            "reduce_scatter",
            mark,
            lambda call: reduce_scatter.reduce_scatter(call, flat, target, parts, reduction, algorithm),
            lambda: copied_back(result, divided(target, self._size) if reduction.mean else target),
        )

    def _agreed(
        self, name: str, dtype: np.dtype[Any], count: int, root: int, op: Op | Reduction, algorithm: str, detail: bytes = b""
    ) -> tuple[Reduction, str, bytes]:
        """Operator, algorithm and fingerprint of a reduction: a function of what all ranks have to agree on."""
        # Programs reduce the same shapes again and again. A callable of the user's is not kept alive for that.
        once = _reduction_facts if isinstance(op, _LASTING) else _reduction_facts.__wrapped__
        return once(name, self._size, self._near, dtype, count, root, op, algorithm, detail)

    def _shares(self, array: Any, counts: Sequence[int] | None) -> list[int]:
        """How many rows of the array each rank gets."""
        if array.ndim == 0:
            raise ValueError("x must have at least one axis: each rank gets a share of its rows")
        length = len(array)
        if counts is None:
            if length % self._size:
                raise ValueError(
                    f"x must have a first axis that {self._size} ranks can share equally, not shape {array.shape}; "
                    f"counts says how many rows each rank gets"
                )
            return [length // self._size] * self._size
        rows = [index(count) for count in counts]
        if len(rows) != self._size or min(rows) < 0 or sum(rows) != length:
            raise ValueError(
                f"counts must be {self._size} numbers >= 0 whose sum is the {length} rows of x, not {rows}, sum {sum(rows)}"
            )
        return rows

    def scan(self, x: Any, out: Any, op: Op | Reduction, algorithm: str) -> Task:
        array, flat = flat_input(x)
        reduction, algorithm, mark = self._agreed("scan", flat.dtype, flat.size, -1, op, algorithm)
        flat, target, result = output(array, flat, out, array.shape)
        return self._collective(
            "scan",
            mark,
            lambda call: scan.scan(call, flat, target, None, reduction, algorithm),
            lambda: copied_back(result, target),
        )

    def exscan(self, x: Any, out: Any, op: Op | Reduction, algorithm: str) -> Task:
        array, flat = flat_input(x)
        reduction, algorithm, mark = self._agreed("exscan", flat.dtype, flat.size, -1, op, algorithm)
        flat, target, result = output(array, flat, out, array.shape)
        if np.may_share_memory(flat, target):
            flat = flat.copy()
        first = self._rank == 0  # there is nothing before it, and `out` stays as it was
        return self._collective(
            "exscan",
            mark,
            lambda call: scan.scan(call, flat, np.empty_like(flat), None if first else target, reduction, algorithm),
            lambda: None if first else copied_back(result, target),
        )


@lru_cache(maxsize=1024)
def _reduction_facts(
    name: str,
    size: int,
    near: bool,
    dtype: np.dtype[Any],
    count: int,
    root: int,
    op: Op | Reduction,
    algorithm: str,
    detail: bytes,
) -> tuple[Reduction, str, bytes]:
    reduction = resolve(op)
    reduction.check(dtype)
    if reduction.mean and name in ("scan", "exscan"):
        raise ValueError(f"op 'mean' is none for {name}: reduce with 'sum', and divide by the number of ranks so far")
    if is_auto(algorithm, _ALGORITHMS[name]):
        algorithm = _pick(name, size, near, count * dtype.itemsize, reduction)
    if (name, algorithm) in _REORDERING and not reduction.commutative:
        raise ValueError(f"algorithm {algorithm!r} reorders operands, and op {reduction.name!r} may not be commutative")
    return reduction, algorithm, fingerprint(name, dtype, count, root, reduction.name, algorithm, detail)


def _pick(name: str, size: int, near: bool, nbytes: int, reduction: Reduction) -> str:
    if name == "allreduce":
        return allreduce.pick(size, nbytes, reduction, near)
    if name == "reduce_scatter":
        return reduce_scatter.pick(size, nbytes, reduction)
    return reduce.pick(nbytes) if name == "reduce" else scan.pick(nbytes)
