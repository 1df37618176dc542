"""What one rank knows about itself: who started it, which versions, interfaces, limits and settings it has."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import socket
import sys
from dataclasses import dataclass

from .. import settings
from ..launcher import batch_variables, started_by
from ..transport.interfaces import host_id, interfaces

__all__ = ["Facts", "Port", "load_average"]

_PACKAGES = ("gloompi", "numpy", "mpi4py")


@dataclass(frozen=True)
class Port:
    """A network interface.

    Attributes
    ----------
    name : str
    up : bool
    addresses : list of str
        With prefix lengths.
    speed : int
        What the driver says, Mbit/s; 0 if it does not say.
    mtu : int
        Bytes.
    """

    name: str
    up: bool
    addresses: list[str]
    speed: int
    mtu: int


@dataclass(frozen=True)
class Facts:
    """A rank's word about itself.

    Attributes
    ----------
    rank, pid : int
    cores : list of int
        The cores that it may use.
    processors : int
        How many its host has.
    load : float or None
        Processes that wanted to run on its host, on an average of the last minute.
    host, host_id : str
        Its name, and what its processes have in common.
    launcher : str
        Empty if there is none.
    launched_size : int
        How many processes the launcher says there are; 0 if it does not.
    job : dict
        Variables of the batch system.
    versions : dict
        Of Python, the packages and the MPI library, by name.
    interfaces : list of Port
    open_files, open_files_hard, open_files_used : int
        Soft limit, hard limit, and how many are open; -1 is no limit.
    somaxconn : int
        Connections that the kernel lets wait at a listening socket; 0 if it does not say.
    buffers : dict
        The kernel's limits of socket buffers, bytes, by the name of the setting.
    settings : dict
        The settings that are set, without passwords.
    no_settings : list of str
        A sentence for each environment variable that looks like a setting and is none.
    """

    rank: int
    pid: int
    cores: list[int]
    processors: int
    load: float | None
    host: str
    host_id: str
    launcher: str
    launched_size: int
    job: dict[str, str]
    versions: dict[str, str]
    interfaces: list[Port]
    open_files: int
    open_files_hard: int
    open_files_used: int
    somaxconn: int
    buffers: dict[str, str]
    settings: dict[str, str]
    no_settings: list[str]

    @classmethod
    def of_this_process(cls, rank: int) -> Facts:
        launcher = started_by()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            rank=rank,
            pid=os.getpid(),
            cores=sorted(os.sched_getaffinity(0)),
            processors=os.cpu_count() or 1,
            load=load_average(),
            host=socket.gethostname(),
            host_id=host_id().hex(),
            launcher="" if launcher is None else launcher.name,
            launched_size=0 if launcher is None else launcher.size,
            job=batch_variables(),
            versions=_versions(),
            interfaces=_ports(),
            open_files=soft,
            open_files_hard=hard,
            open_files_used=len(os.listdir("/proc/self/fd")),
            somaxconn=int(_kernel("core/somaxconn") or 0),
            buffers={name: _kernel(name) for name in ("core/wmem_max", "core/rmem_max", "ipv4/tcp_wmem", "ipv4/tcp_rmem")},
            settings=settings.given(),
            no_settings=settings.unknown(),
        )

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Facts:
        """What `dataclasses.asdict` made, sent as JSON."""
        ports = [Port(**port) for port in fields["interfaces"]]  # type: ignore[attr-defined]
        return cls(**{**fields, "interfaces": ports})  # type: ignore[arg-type]


def load_average() -> float | None:
    """How many processes wanted to run on this host, on an average of the last minute; None if the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        first = MPI.Get_library_version().splitlines()[0]
        versions["MPI"] = " ".join(first.strip("\0").split())
    return versions


def _ports() -> list[Port]:
    import psutil

    stats = psutil.net_if_stats()
    return [
        Port(
            each.name,
            each.up,
            [str(address) for address in each.addresses],
            max(0, stats[each.name].speed) if each.name in stats else 0,
            stats[each.name].mtu if each.name in stats else 0,
        )
        for each in interfaces()
    ]


def _kernel(name: str) -> str:
    try:
        with open(f"/proc/sys/net/{name}") as file:
            return " ".join(file.read().split())
    except OSError:  # core/wmem_max and rmem_max are hidden from network namespaces
        return ""
