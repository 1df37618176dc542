"""Which launcher has started this process, as its environment tells: for choosing and for diagnostics.

Nothing here is proof: batch systems leave their variables to everything that runs within a job.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Launcher", "batch_job", "claimed_sizes", "started_by"]


@dataclass(frozen=True)
class Launcher:
    """A launcher's word on this process.

    Attributes
    ----------
    name : str
    rank, size : int
    mpi : bool
        Its processes can form MPI.COMM_WORLD.
    """

    name: str
    rank: int
    size: int
    mpi: bool


@dataclass(frozen=True)
class _Kind:
    name: str
    rank: str
    size: tuple[str, ...]
    mpi: bool = True
    proof: str = ""  # a variable that must be there too


# The innermost launcher first: mpiexec within a Slurm job finds Slurm's variables, but srun does not find mpiexec's.
_KINDS = (
    _Kind("torchrun", "RANK", ("WORLD_SIZE",), mpi=False, proof="TORCHELASTIC_RUN_ID"),
    _Kind("Open MPI", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    _Kind("PALS", "PALS_RANKID", ("PALS_SIZE", "PMI_SIZE")),
    _Kind("Flux", "FLUX_TASK_RANK", ("FLUX_JOB_SIZE",)),
    _Kind("PMI", "PMI_RANK", ("PMI_SIZE",)),
    _Kind("Slurm", "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
    _Kind("RANK and WORLD_SIZE", "RANK", ("WORLD_SIZE",), mpi=False),
)


def started_by() -> Launcher | None:
    """The launcher that has set this process's rank and size; None if there is none."""
    for kind in _KINDS:
        rank = _number(kind.rank)
        size = next((size for size in map(_number, kind.size) if size is not None), None)
        if rank is not None and size is not None and rank < size and (not kind.proof or kind.proof in os.environ):
            return Launcher(kind.name, rank, size, kind.mpi)
    return None


def claimed_sizes() -> list[tuple[str, int]]:
    """Variables of launchers of MPI programs that say how many processes there are, with their values."""
    variables = [variable for kind in _KINDS if kind.mpi for variable in kind.size if variable != "SLURM_NTASKS"]
    sizes = ((variable, _number(variable)) for variable in variables)
    return [(variable, size) for variable, size in sizes if size is not None]


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else None


# What tells one job, step and attempt from another, in every batch system that says so.
_JOB_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_RESTART_COUNT",
    "PBS_JOBID",
    "PALS_APID",
    "FLUX_JOB_ID",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
)


def batch_job() -> dict[str, str]:
    """The variables of the batch system and launcher that tell this job from others; alike on all of its ranks."""
    return {name: os.environ[name] for name in _JOB_VARIABLES if os.environ.get(name)}
