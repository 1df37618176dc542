"""Measure a Context on the ranks of a job: ``mpiexec -n 2 python -m gloompi.bench``.

Prints medians over the calls of rank 0, each behind a barrier.  With ``--mpi``, mpi4py's operation on the same communicator
is measured in turn with gloompi's, call by call, so that the ratio holds on a noisy machine too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from .context import Context
from .transport.device import TRANSPORTS, Device

__all__ = ["main"]

_SIZES = [8, 1024, 64 * 1024, 1 << 20, 16 << 20, 64 << 20]


@dataclass
class Line:
    """One measurement; seconds are medians, a ratio is gloompi's time over MPI's."""

    operation: str
    nbytes: int
    seconds: float
    mpi_seconds: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.mpi_seconds is None else self.seconds / self.mpi_seconds

    def __str__(self) -> str:
        text = f"{self.operation:<10} {self.nbytes:>10} B {self.seconds * 1e6:>11.1f} us"
        if self.nbytes >= 1 << 20:
            text += f" {self.nbytes / self.seconds / 1e9:>7.2f} GB/s"
        else:
            text += " " * 13
        if self.mpi_seconds is not None:
            text += f"   MPI {self.mpi_seconds * 1e6:>11.1f} us   ratio {self.ratio:.2f}"
        return text


def _calls(nbytes: int) -> int:
    return 300 if nbytes <= 1 << 16 else 40 if nbytes <= 1 << 20 else 11


def _measure(candidates: list[tuple[Callable[[], object], Callable[[], object]]], calls: int) -> list[float]:
    """Median seconds of each (barrier, operation), one call of each in turn."""
    times: list[list[float]] = [[] for _ in candidates]
    for call in range(calls + max(2, calls // 10)):
        for (barrier, operation), taken in zip(candidates, times, strict=True):
            barrier()
            start = perf_counter()
            operation()
            if call >= max(2, calls // 10):
                taken.append(perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def _lines(ctx: Context, comm: Any, sizes: list[int], algorithm: str) -> Iterator[Line]:
    for nbytes in sizes:
        x = np.ones(max(nbytes // 4, 1), np.float32)
        out = np.empty_like(x)

        def allreduce(x: Any = x, out: Any = out) -> None:
            ctx.allreduce(x, out=out, algorithm=algorithm)

        def mpi_allreduce(x: Any = x, out: Any = out) -> None:
            comm.Allreduce(x, out)

        yield _line("allreduce", nbytes, ctx, comm, allreduce, mpi_allreduce, 1)
    for nbytes in sizes if ctx.size > 1 else []:
        x = np.ones(nbytes, np.uint8)

        def pingpong(x: Any = x) -> None:
            if ctx.rank == 0:
                ctx.send(x, 1)
                ctx.recv(x, 1)
            elif ctx.rank == 1:
                ctx.recv(x, 0)
                ctx.send(x, 0)

        def mpi_pingpong(x: Any = x) -> None:
            if ctx.rank == 0:
                comm.Send(x, 1)
                comm.Recv(x, 1)
            elif ctx.rank == 1:
                comm.Recv(x, 0)
                comm.Send(x, 0)

        yield _line("ping-pong", nbytes, ctx, comm, pingpong, mpi_pingpong, 2)


def _line(
    name: str,
    nbytes: int,
    ctx: Context,
    comm: Any,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    trips: int,
) -> Line:
    candidates: list[tuple[Callable[[], object], Callable[[], object]]] = [(ctx.barrier, ours)]
    if comm is not None:
        candidates.append((comm.Barrier, theirs))
    seconds = [median / trips for median in _measure(candidates, _calls(nbytes))]
    return Line(name, nbytes, *seconds)


def _rendezvous(comm: Any, device: Device, repeats: int) -> dict[str, Any]:
    """Seconds from calling from_mpi together until all ranks are connected and have agreed; peak memory of a rank."""
    taken = []
    memory = 0
    for _ in range(repeats):
        comm.Barrier()
        start = perf_counter()
        ctx = Context.from_mpi(comm, device=device)
        taken.append(perf_counter() - start)
        memory = int(ctx.allreduce(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, op="max"))
        ctx.close()
    return {"ranks": comm.Get_size(), "seconds": taken, "peak_memory_bytes": memory * 1024}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line ``python -m gloompi.bench``."""
    parser = argparse.ArgumentParser(prog="python -m gloompi.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", nargs="?", choices=["operations", "rendezvous"], default="operations")
    parser.add_argument("--transport", choices=TRANSPORTS, default=None, help="as for gloompi.Device")
    parser.add_argument("--sizes", default=",".join(map(str, _SIZES)), help="bytes, separated by commas")
    parser.add_argument("--algorithm", default="auto", help="of allreduce")
    parser.add_argument("--mpi", action="store_true", help="measure mpi4py in turn with gloompi")
    parser.add_argument("--repeats", type=int, default=3, help="of the rendezvous")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args(arguments)

    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    device = Device(transport=options.transport)
    if options.what == "rendezvous":
        facts = _rendezvous(comm, device, options.repeats)
        if comm.rank == 0 and options.json:
            print(json.dumps(facts))
        elif comm.rank == 0:
            times = ", ".join(f"{seconds:.3f}" for seconds in facts["seconds"])
            print(f"{comm.size} ranks connected in {times} s; at most {facts['peak_memory_bytes'] / 1e6:.1f} MB in a rank")
        return
    sizes = [int(size) for size in options.sizes.split(",")]
    with Context.from_mpi(comm, device=device) as ctx:
        found = []
        transports = ", ".join(sorted({peer.transport for peer in ctx.peers} - {"self"})) or "none"
        if ctx.rank == 0 and not options.json:
            print(f"{ctx.size} ranks, transport {transports}, median seconds a call", flush=True)
        for line in _lines(ctx, comm if options.mpi else None, sizes, options.algorithm):
            found.append(line)
            if ctx.rank == 0 and not options.json:
                print(line, flush=True)
        if ctx.rank == 0 and options.json:
            lines = [{**asdict(line), "ratio": line.ratio} for line in found]
            print(json.dumps({"ranks": ctx.size, "transport": transports, "lines": lines}))


if __name__ == "__main__":
    main()
