"""What was measured where: the lines above the results."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import gloompi

from .. import settings
from ..context import Context
from ..doctor.facts import load_average
from ..reports import counted
from .options import Options

__all__ = ["heading", "heading_text", "load_text"]

# What changes the way that messages take in MPI libraries. Not a prefix: launchers set dozens for themselves.
_OF_MPI = (
    *("OMPI_MCA_pml", "OMPI_MCA_btl", "OMPI_MCA_mtl", "OMPI_MCA_coll", "OMPI_MCA_btl_tcp_if_include"),
    *("UCX_TLS", "UCX_NET_DEVICES", "MPIR_CVAR_CH4_NETMOD", "MPIR_CVAR_NOLOCAL", "FI_PROVIDER", "I_MPI_FABRICS"),
)


def heading(world: Context, options: Options) -> dict[str, Any]:
    """Facts of the job; collective."""
    me = world.peers[world.rank]
    rows = world.allgather_object((me.host_id or me.host, sorted(os.sched_getaffinity(0)), load_average()))
    cores: dict[Any, set[int]] = {}
    for host, theirs, _ in rows:
        cores.setdefault(host, set()).update(theirs)
    from mpi4py import MPI, __version__

    return {
        "gloompi": gloompi.__version__,
        "ranks": world.size,
        "hosts": len(cores),
        "cores": sum(map(len, cores.values())),
        "load": max((load for _, _, load in rows if load is not None), default=None),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "mpi4py": __version__,
        "mpi": mpi_library(MPI.Get_library_version()),
        "torch": _torch() if "gloo" in options.peers else None,
        "settings": {name: os.environ[name] for name in _OF_MPI if os.environ.get(name)} | settings.given(),
        "dtype": options.dtype,
        "op": options.op,
    }


def _torch() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def mpi_library(text: str) -> str:
    """``"Open MPI v5.0.11"``, of all that a library says about itself."""
    first = text.strip("\0 \n").splitlines()[0]
    return " ".join(first.partition(",")[0].split())


def load_text(load: float | None) -> str:
    """The load average of the last minute, of the host that has most, for people."""
    return "load average unknown" if load is None else f"load average {load:.2f}"


def heading_text(facts: dict[str, Any]) -> str:
    """The same for people."""
    ranks, hosts, cores = (counted(facts[key], key[:-1]) for key in ("ranks", "hosts", "cores"))
    variables = "".join(f", {name}={value}" for name, value in facts["settings"].items())
    torch = f"; torch {facts['torch']}" if facts["torch"] else ""
    return (
        f"gloompi {facts['gloompi']}: {ranks} on {hosts} with {cores}, {load_text(facts['load'])}; "
        f"Python {facts['python']}, NumPy {facts['numpy']}, {facts['system']}\n"
        f"MPI: {facts['mpi']}, mpi4py {facts['mpi4py']}{variables}{torch}\n"
        f"{facts['dtype']}, {facts['op']}; us: median and 99th percentile, of each call the slowest rank; ratio: gloompi's "
        f"median / the other's"
    )
