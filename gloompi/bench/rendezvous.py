"""The time of a rendezvous."""

from __future__ import annotations

import resource
from time import perf_counter
from typing import Any

from ..context import Context
from ..doctor.facts import load_average
from ..reports import counted
from ..transport.device import Device
from .gloo import Gloo, import_torch
from .heading import load_text
from .options import Options
from .survey import PeerError, together

__all__ = ["measure_rendezvous", "text"]


def measure_rendezvous(comm: Any, options: Options) -> dict[str, Any]:
    """Seconds from calling from_mpi together until all ranks are connected and have agreed; peak memory of a rank.

    Collective.  The first time of a process is one of its own: it also imports what a rendezvous needs.

    Returns
    -------
    dict
        ranks, transport, load (the load average of rank 0's host), seconds (of each repetition, rank 0's), peak_memory_bytes
        (the largest of all ranks); with the peer gloo also gloo_seconds, from calling torch's init_process_group to its end,
        behind the store.
    """
    load = load_average()
    taken: list[float] = []
    gloo_taken: list[float] = []
    memory = 0
    device = Device(transport=options.transports[0])
    for _ in range(options.repeats):
        comm.Barrier()
        start = perf_counter()
        ctx = Context.from_mpi(comm, device=device)
        taken.append(perf_counter() - start)
        with ctx:
            memory = int(ctx.allreduce(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, op="max"))
    facts: dict[str, Any] = {
        "ranks": comm.Get_size(),
        "transport": device.transport,
        "load": load,
        "seconds": taken,
        "peak_memory_bytes": memory * 1024,
    }
    if "gloo" in options.peers:
        with Context.from_mpi(comm, device=device) as ctx:
            _, failure = together(ctx, import_torch)
            while failure is None and len(gloo_taken) < options.repeats:
                gloo, failure = together(ctx, lambda: Gloo(ctx))
                if gloo is not None:
                    gloo_taken.append(gloo.connect_seconds)
                    gloo.close()
        if failure is not None:
            raise PeerError(failure)
        facts["gloo_seconds"] = gloo_taken
    return facts


def text(facts: dict[str, Any]) -> str:
    """What `measure_rendezvous` has found, for people."""
    way = f"transport {facts['transport']}, {load_text(facts['load'])}"
    lines = [f"{counted(facts['ranks'], 'rank')}, {way}: {_times(facts['seconds'])}"]
    if "gloo_seconds" in facts:
        lines.append(f"torch's gloo, init_process_group alone: {_times(facts['gloo_seconds'])}")
    lines.append(f"at most {facts['peak_memory_bytes'] / 1e6:.1f} MB in a rank")
    return "\n".join(lines)


def _times(seconds: list[float]) -> str:
    first, *later = (f"{each:.3f}" for each in seconds)
    return f"first {first} s" + (f", then {', '.join(later)} s" if later else "")
