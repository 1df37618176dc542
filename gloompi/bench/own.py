"""gloompi as a candidate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..collectives import allgather, allreduce, alltoall, broadcast, reduce, reduce_scatter, scan
from ..context import Context
from .candidate import Work
from .case import Buffers, Case

__all__ = ["ALGORITHMS", "Own"]

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "broadcast": tuple(broadcast.ALGORITHMS),
    "reduce": tuple(reduce.ALGORITHMS),
    "allreduce": tuple(allreduce.ALGORITHMS),
    "reduce_scatter": tuple(reduce_scatter.ALGORITHMS),
    "scan": tuple(scan.ALGORITHMS),
    "exscan": tuple(scan.ALGORITHMS),
    "allgather": tuple(allgather.ALGORITHMS),
    "alltoall": tuple(alltoall.ALGORITHMS),
}


class Own:
    """The operations of a Context, with one algorithm.

    Parameters
    ----------
    transport : str
        As it was asked for.
    """

    name = "gloompi"

    def __init__(self, ctx: Context, transport: str, algorithm: str = "auto") -> None:
        self._ctx = ctx
        self.transport = transport
        self.algorithm = algorithm
        self.barrier = ctx.barrier

    def work(self, case: Case, buffers: Buffers) -> Work:
        ctx, operation, x, out = self._ctx, case.operation, buffers.x, buffers.out
        rank, size = ctx.rank, ctx.size
        how: dict[str, Any] = {"algorithm": self.algorithm} if operation in ALGORITHMS else {}
        if case.reduces:
            how["op"] = case.op
        if operation == "barrier":
            return Work(ctx.barrier)
        if operation == "broadcast":
            return Work(lambda: ctx.broadcast(x, **how))
        if operation == "sendrecv":
            return Work(lambda: ctx.sendrecv(x, (rank + 1) % size, out, (rank - 1) % size))
        if operation == "send/recv":
            return Work(self._ping_pong(x, out))
        method = getattr(ctx, operation)
        return Work(lambda: method(x, out, **how))

    def _ping_pong(self, x: Any, out: Any) -> Callable[[], object]:
        ctx = self._ctx

        def ping() -> None:
            ctx.send(x, 1)
            ctx.recv(out, 1)

        def pong() -> None:
            ctx.recv(out, 0)
            ctx.send(x, 0)

        return pong if ctx.rank else ping

    def close(self) -> None:
        """The Context belongs to others."""
