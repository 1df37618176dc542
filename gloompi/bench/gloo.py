"""torch's gloo as a candidate: its process group, on CPU tensors that share the memory of the arrays."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import perf_counter
from typing import Any

import psutil

from ..context import Context
from ..stores.remote import extra
from .addresses import ip_of, own_ips
from .candidate import Unsupported, Work, nothing
from .case import Buffers, Case

__all__ = ["Gloo", "import_torch"]

_CONNECT_SECONDS = 120.0
_LOOPBACK = "127.0.0.1"
_INTERFACE = "GLOO_SOCKET_IFNAME"


def import_torch() -> Any:
    """The package torch, one thread of it; ImportError says which extra brings it."""
    with extra("bench", "the peer gloo"):
        torch = importlib.import_module("torch")
        importlib.import_module("torch.distributed")
    torch.set_num_threads(1)  # ranks share the cores
    return torch


class Gloo:
    """A process group of the ranks of a Context; making one is collective.

    Attributes
    ----------
    connect_seconds : float
        How long torch's init_process_group took.

    Raises
    ------
    Exception
        Whatever torch raises if the ranks cannot connect.
    """

    name = "gloo"

    def __init__(self, ctx: Context) -> None:
        self._torch = torch = import_torch()
        self._dist = dist = torch.distributed
        self.rank, self.size = ctx.rank, ctx.size
        timeout = timedelta(seconds=_CONNECT_SECONDS)
        ips = own_ips(ctx)
        store = _store(ctx, dist, timeout)
        with _interface(ips[0]):
            start = perf_counter()
            dist.init_process_group("gloo", store=store, rank=ctx.rank, world_size=ctx.size, timeout=timeout)
            self.connect_seconds = perf_counter() - start
        self.barrier = dist.barrier

    def work(self, case: Case, buffers: Buffers) -> Work:
        torch, dist, operation, rank, size = self._torch, self._dist, case.operation, self.rank, self.size
        try:
            x, out = (None if array is None else torch.from_numpy(array) for array in (buffers.x, buffers.out))
        except TypeError:
            raise Unsupported(f"torch has no {case.dtype}") from None
        op = {"sum": dist.ReduceOp.SUM, "prod": dist.ReduceOp.PRODUCT, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}[
            case.op
        ]
        prepare: Callable[[], object] = nothing
        if operation in ("reduce", "allreduce"):  # in place

            def prepare(target: Any = out) -> object:
                return target.copy_(x)

        # The first names are new, and the older ones give a warning then.
        reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        allgather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        rows = None if out is None else out.view(-1)
        runs: dict[str, Callable[[], object]] = {
            "barrier": dist.barrier,
            "broadcast": lambda: dist.broadcast(x, 0),
            "reduce": lambda: dist.reduce(out, 0, op),
            "allreduce": lambda: dist.all_reduce(out, op),
            "reduce_scatter": lambda: reduce_scatter(out, x, op),
            "gather": lambda: dist.gather(x, None if out is None else list(out), 0),
            "allgather": lambda: allgather(rows, x),
            "scatter": lambda: dist.scatter(out, None if x is None else list(x), 0),
            "alltoall": lambda: dist.all_to_all_single(out, x),
            "sendrecv": lambda: self._shift(x, (rank + 1) % size, out, (rank - 1) % size),
            "send/recv": lambda: self._ping_pong(x, out),
        }
        if operation not in runs:
            raise Unsupported(f"torch.distributed has no {operation}")
        return Work(runs[operation], prepare)

    def _shift(self, x: Any, after: int, out: Any, before: int) -> None:
        received = self._dist.irecv(out, before)
        self._dist.isend(x, after).wait()
        received.wait()

    def _ping_pong(self, x: Any, out: Any) -> None:
        if self.rank == 0:
            self._dist.send(x, 1)
            self._dist.recv(out, 1)
        else:
            self._dist.recv(out, 0)
            self._dist.send(x, 0)

    def close(self) -> None:
        """End the process group."""
        self._dist.destroy_process_group()


def _store(ctx: Context, dist: Any, timeout: timedelta) -> Any:
    """The store in which the ranks of the process group find each other; rank 0 serves it, on a port that is free."""
    store = failure = None
    if ctx.rank == 0:
        try:
            store = dist.TCPStore(_LOOPBACK, 0, None, True, timeout, wait_for_workers=False)
        except RuntimeError as exc:  # the others wait for the port
            failure = str(exc)
    port, failure = ctx.broadcast_object((None if store is None else store.port, failure))
    if failure is not None:
        raise RuntimeError(f"rank 0 cannot serve torch's store: {failure}")
    return dist.TCPStore(ip_of(ctx, 0), port, None, False, timeout) if store is None else store


@contextmanager
def _interface(ip: str) -> Iterator[None]:
    """Let gloo use the interface with this address, unless the user has named one: by itself it resolves the host's name.

    The variable is taken back, because gloompi reads it too.
    """
    if os.environ.get(_INTERFACE):
        yield
        return
    name = next(
        (
            name
            for name, addresses in psutil.net_if_addrs().items()
            if any(each.family in (socket.AF_INET, socket.AF_INET6) and each.address == ip for each in addresses)
        ),
        None,
    )
    if name is not None:
        os.environ[_INTERFACE] = name
    try:
        yield
    finally:
        os.environ.pop(_INTERFACE, None)
