"""Plans: a call of the user's, checked and brought to flat arrays before a byte is sent.

Everything that one rank can find wrong by itself is found here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, flat_input, flat_output, view
from .collectives import allgather, allreduce, barrier, broadcast, gather, reduce, scatter
from .engine.call import Call, as_bytes
from .engine.channel import Channel
from .engine.engine import Engine, Plan
from .engine.fingerprint import fingerprint
from .engine.operation import ANY_SOURCE, ANY_TAG, Operation, Receive, Steps
from .reduction import Reduction, resolve

__all__ = ["MAX_TAG", "Op", "Planner", "Status"]

# MPI guarantees 32767; this is what the common implementations give.
MAX_TAG = 2**31 - 1

Op = str | Callable[[Any, Any], Any]

_NO_DTYPE = np.dtype(np.uint8)


class Status(NamedTuple):
    """What a receive got: where from, with which tag, how many bytes."""

    source: int
    tag: int
    nbytes: int


class Planner:
    """Makes plans for one Context.

    Parameters
    ----------
    engine : Engine
    number : int
        Of the Context: its messages travel on channel 2 number, its collectives on 2 number + 1.
    """

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._rank, self._size = engine.rank, engine.size
        self._channel: Channel = engine.messages.channel(2 * number)
        self._collectives: Channel = engine.messages.channel(2 * number + 1)

    # -- collectives ---------------------------------------------------------------------------------------------------

    def _collective(self, name: str, mark: bytes, steps: Callable[[Call], Steps], finish: Callable[[], Any]) -> Plan:
        def begin() -> tuple[Steps, int]:
            call = Call(self._engine, self._collectives, mark)
            return steps(call), call.number

        return Plan(name, begin, finish)

    def barrier(self) -> Plan:
        mark = fingerprint("barrier", _NO_DTYPE, 0)
        return self._collective("barrier", mark, barrier.barrier, _nothing)

    def broadcast(self, x: Any, root: int, algorithm: str) -> Plan:
        root = self._peer(root, "root")
        target = view(x, "x")
        if root != self._rank and not target.flags.writeable:
            raise ValueError("x is read-only, and this rank receives into it")
        flat = (target if target.flags.c_contiguous else np.ascontiguousarray(target)).reshape(-1)
        if _is_auto(algorithm, broadcast.ALGORITHMS):
            algorithm = broadcast.pick(self._size, flat.nbytes)
        mark = fingerprint("broadcast", flat.dtype, flat.size, root, "", algorithm)

        def finish() -> Any:
            if self._rank != root:
                _copied_back(target, flat)
            return x

        return self._collective("broadcast", mark, lambda call: broadcast.broadcast(call, flat, root, algorithm), finish)

    def reduce(self, x: Any, out: Any, root: int, op: Op, algorithm: str) -> Plan:
        root = self._peer(root, "root")
        array, flat = flat_input(x)
        reduction, algorithm, mark = _agreed("reduce", self._size, flat.dtype, flat.size, root, op, algorithm)
        target = result = None
        if self._rank == root:
            flat, target, result = _output(array, flat, out, array.shape)
        return self._collective(
            "reduce",
            mark,
            lambda call: reduce.reduce(call, flat, target, root, reduction, algorithm),
            lambda: _copied_back(result, target),
        )

    def allreduce(self, x: Any, out: Any, op: Op, algorithm: str) -> Plan:
        array, flat = flat_input(x)
        reduction, algorithm, mark = _agreed("allreduce", self._size, flat.dtype, flat.size, -1, op, algorithm)
        flat, target, result = _output(array, flat, out, array.shape)
        return self._collective(
            "allreduce",
            mark,
            lambda call: allreduce.allreduce(call, flat, target, reduction, algorithm),
            lambda: _copied_back(result, target),
        )

    def allgather(self, x: Any, out: Any, algorithm: str) -> Plan:
        array, flat = flat_input(x)
        flat, target, result = _output(array, flat, out, (self._size, *array.shape))
        if _is_auto(algorithm, allgather.ALGORITHMS):
            algorithm = allgather.pick(self._size, flat.nbytes)
        mark = fingerprint("allgather", flat.dtype, flat.size, -1, "", algorithm)
        return self._collective(
            "allgather",
            mark,
            lambda call: allgather.allgather(call, flat, target, algorithm),
            lambda: _copied_back(result, target),
        )

    def gather(self, x: Any, out: Any, root: int) -> Plan:
        root = self._peer(root, "root")
        array, flat = flat_input(x)
        target = result = None
        if self._rank == root:
            flat, target, result = _output(array, flat, out, (self._size, *array.shape))
        mark = fingerprint("gather", flat.dtype, flat.size, root)
        return self._collective(
            "gather", mark, lambda call: gather.gather(call, flat, target, root), lambda: _copied_back(result, target)
        )

    def scatter(self, x: Any, out: Any, root: int) -> Plan:
        root = self._peer(root, "root")
        flat: Array | None = None
        if self._rank == root:
            array, whole = flat_input(x)
            if array.ndim == 0 or len(array) != self._size:
                raise ValueError(f"x must have one row per rank, shape ({self._size}, ...), not {array.shape}")
            flat, target, result = _output(array, whole, out, array.shape[1:])
        elif out is None:
            raise ValueError("out is needed on every rank but the root: it says which shape and dtype come")
        else:
            result = view(out, "out")
            result, target = flat_output(out, "out", result.shape, result.dtype)
        mark = fingerprint("scatter", target.dtype, target.size, root)
        return self._collective(
            "scatter", mark, lambda call: scatter.scatter(call, flat, target, root), lambda: _copied_back(result, target)
        )

    # -- messages ------------------------------------------------------------------------------------------------------

    def send(self, x: Any, dest: int, tag: int) -> Plan:
        send = self._outgoing(x, dest, tag)

        def steps() -> Steps:
            yield send()

        return Plan("send", lambda: (steps(), 0), _nothing)

    def recv(self, out: Any, source: int, tag: int) -> Plan:
        receive, finish = self._incoming(out, source, tag)

        def steps() -> Steps:
            yield self._engine.messages.receive(receive)

        return Plan("recv", lambda: (steps(), 0), finish)

    def sendrecv(self, x: Any, dest: int, out: Any, source: int, sendtag: int, recvtag: int) -> Plan:
        send = self._outgoing(x, dest, sendtag)
        receive, finish = self._incoming(out, source, recvtag)

        def steps() -> Steps:
            yield self._engine.messages.receive(receive), send()

        return Plan("sendrecv", lambda: (steps(), 0), finish)

    def _outgoing(self, x: Any, dest: int, tag: int) -> Callable[[], Operation]:
        dest = self._peer(dest, "dest")
        tag = _tag(tag, wildcard=False)
        _, flat = flat_input(x)
        mark = fingerprint("send", flat.dtype, flat.size)
        return lambda: self._engine.messages.send(self._channel, dest, tag, as_bytes(flat), mark)

    def _incoming(self, out: Any, source: int, tag: int) -> tuple[Receive, Callable[[], Status]]:
        if source != ANY_SOURCE:
            source = self._peer(source, "source")
        tag = _tag(tag, wildcard=True)
        whole = view(out, "out")
        result, target = flat_output(whole, "out", whole.shape, whole.dtype)
        if not result.flags.c_contiguous:
            target[:] = result.reshape(-1)  # a shorter message leaves the rest as it was
        buffer = as_bytes(target)
        mark = fingerprint("send", target.dtype, target.size)
        receive = Receive(self._channel, source, tag, buffer, len(buffer), mark)

        def finish() -> Status:
            _copied_back(result, target)
            return Status(receive.source, receive.tag, receive.nbytes)

        return receive, finish

    def _peer(self, rank: int, name: str) -> int:
        index = operator.index(rank)
        if not 0 <= index < self._size:
            raise ValueError(f"{name} must be in range({self._size}), not {rank}")
        return index


def _nothing() -> None:
    """The result of an operation that has none."""


def _tag(tag: int, wildcard: bool) -> int:
    index = operator.index(tag)
    if not (0 <= index <= MAX_TAG or (wildcard and index == ANY_TAG)):
        raise ValueError(f"tag must be in range({MAX_TAG + 1}){' or ANY_TAG' if wildcard else ''}, not {tag}")
    return index


def _is_auto(algorithm: str, known: dict[str, Any]) -> bool:
    if algorithm == "auto":
        return True
    if algorithm not in known:
        raise ValueError(f"algorithm must be one of auto, {', '.join(known)}, not {algorithm!r}")
    return False


def _agreed(
    name: str, size: int, dtype: np.dtype[Any], count: int, root: int, op: Op, algorithm: str
) -> tuple[Reduction, str, bytes]:
    """Operator, algorithm and fingerprint of a reduction: a function of what all ranks have to agree on."""
    # Programs reduce the same shapes again and again. A callable of the user's is not kept alive for that.
    once = _reduction_facts if isinstance(op, (str, np.ufunc)) else _reduction_facts.__wrapped__
    return once(name, size, dtype, count, root, op, algorithm)


@lru_cache(maxsize=1024)
def _reduction_facts(
    name: str, size: int, dtype: np.dtype[Any], count: int, root: int, op: Op, algorithm: str
) -> tuple[Reduction, str, bytes]:
    reduction = resolve(op)
    reduction.check(dtype)
    nbytes = count * dtype.itemsize
    if _is_auto(algorithm, allreduce.ALGORITHMS if name == "allreduce" else reduce.ALGORITHMS):
        algorithm = allreduce.pick(size, nbytes, reduction) if name == "allreduce" else reduce.pick(nbytes)
    if algorithm == "ring" and not reduction.commutative:
        raise ValueError(f"algorithm 'ring' reorders operands, and op {reduction.name!r} may not be commutative")
    return reduction, algorithm, fingerprint(name, dtype, count, root, reduction.name, algorithm)


def _output(array: Array, flat: Array, out: Any, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return the input, the flat array to compute in, and the array to hand to the user.

    An input that overlaps the output is copied, unless it is the same memory: reducing in place is what out=x means.
    """
    if out is None:
        result = np.empty(shape, array.dtype)
        return flat, result.reshape(-1), result
    result, target = flat_output(out, "out", shape, array.dtype)
    if out is not array and np.may_share_memory(flat, target) and not _same(flat, target):
        flat = flat.copy()
    return flat, target, result


def _same(a: Array, b: Array) -> bool:
    return a.size == b.size and a.__array_interface__["data"] == b.__array_interface__["data"]


def _copied_back(result: Array | None, target: Array | None) -> Array | None:
    """The user's array, filled from the contiguous one where that is another."""
    if result is not None and target is not None and not result.flags.c_contiguous:
        result[...] = target.reshape(result.shape)
    return result
