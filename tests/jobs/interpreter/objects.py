"""Collectives on objects, and the objects that programs send."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dtypes import recorded
from .scene import Scene

KINDS = ("none", "number", "text", "bytes", "list", "dict", "array", "arrays")


def made_object(kind: str, count: int, rank: int, salt: int) -> Any:
    mixed = rank * 13 + salt * 5
    if kind == "number":
        return mixed * 10**12
    if kind == "text":
        return f"rank {rank}: äöü {'x' * (count % 500)}"
    if kind == "bytes":
        return bytes([mixed % 251]) * count
    if kind == "list":
        return [rank, None, True, 1.5 * mixed, [count] * (count % 7)]
    if kind == "dict":
        return {"rank": rank, salt: (rank, "text", b"bytes"), "set": {1, rank}}
    if kind == "array":
        return np.arange(count, dtype="d") + mixed
    if kind == "arrays":
        return {"rows": np.arange(2 * count, dtype="h").reshape(2, count) + rank, "strided": np.arange(2 * count + 1)[::2]}
    return None


def plain(thing: Any) -> Any:
    """An object as a result: arrays and what holds them as lists."""
    if isinstance(thing, np.ndarray):
        return ["array", list(thing.shape), recorded(np.ascontiguousarray(thing))]
    if isinstance(thing, dict):
        return [type(thing).__name__, [[plain(key), plain(value)] for key, value in thing.items()]]
    if isinstance(thing, list | tuple):
        return [type(thing).__name__, *map(plain, thing)]
    if isinstance(thing, set):
        return ["set", *sorted(thing)]
    return [type(thing).__name__, thing]


def _longer(first: str, second: str) -> str:
    return first + second


# What is reduced, and with what: sums of lists and texts, and the function, are not commutative.
REDUCTIONS = (
    "SUM int",
    "SUM list",
    "SUM array",
    "PROD int",
    "MAX float",
    "MIN text",
    "BXOR int",
    "MAXLOC pair",
    "function text",
)


def _reducible(kind: str, rank: int, salt: int) -> Any:
    mixed = rank * 13 + salt * 5
    return {
        "int": mixed % 1000 + 1,
        "float": mixed % 17 / 4,
        "list": [rank, mixed],
        "text": f"{mixed % 10}{rank}",
        "array": np.arange(5) * mixed,
        "pair": (mixed % 3, rank),
    }[kind]


def collective_of_objects(scene: Scene, step: dict[str, Any], comm: Any) -> Any:
    name, rank, size = step["call"], comm.Get_rank(), comm.Get_size()
    root, kind, count, salt = step["root"] % size, step["kind"], step["count"], step["salt"]
    mine = made_object(kind, count, rank, salt)
    if name == "barrier":
        return plain(comm.barrier())
    if name == "bcast":
        return plain(comm.bcast(mine, root) if salt % 2 else comm.bcast(mine if rank == root else None, root=root))
    if name == "gather":
        return plain(comm.gather(mine, root))
    if name == "scatter":
        pieces = [made_object(kind, count, dest, salt) for dest in range(size)]
        return plain(comm.scatter(pieces if rank == root else None, root))
    if name == "allgather":
        return plain(comm.allgather(mine))
    if name == "alltoall":
        return plain(comm.alltoall([made_object(kind, count, rank, salt + dest) for dest in range(size)]))
    op_name, what = step["reduction"].split()
    op = _longer if op_name == "function" else getattr(scene.MPI, op_name)
    value = _reducible(what, rank, salt)
    if name == "reduce":
        return plain(comm.reduce(value, op, root))
    return plain(getattr(comm, name)(value, op=op))
