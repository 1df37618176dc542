"""Which launcher has started this process, as its environment tells: for choosing and for diagnostics.

Nothing here is proof.  Batch systems leave their variables to everything that runs within a job, and launchers leave theirs
to launchers that they start; where that misleads, `Context.from_store` takes rank and size by word of the program.
"""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Launcher", "batch_variables", "claimed_sizes", "rank_variables", "started_by"]


class Launcher(NamedTuple):
    """A launcher's word on this process.

    Attributes
    ----------
    name : str
    rank, size : int
    mpi : bool
        Its processes can form MPI.COMM_WORLD; otherwise they meet at MASTER_ADDR and MASTER_PORT.
    job : str
        What tells these processes from those of other jobs, alike on all of them; empty if nothing does.
    """

    name: str
    rank: int
    size: int
    mpi: bool
    job: str


class _Kind(NamedTuple):
    name: str
    rank: str
    size: str
    job: tuple[str, ...]
    mpi: bool = True
    proof: str = ""  # a variable that must be there too
    guess: bool = False  # also set in batch scripts, whose processes are no ranks


# A job that is put back into the queue keeps its number, and its steps are counted from 0 again.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")

# The innermost launcher first: mpiexec within a Slurm job finds Slurm's variables, but srun does not find mpiexec's.
# TORCHELASTIC_RESTART_COUNT is not alike on all ranks, nor is SLURM_STEP_ID under Open MPI's mpiexec. In a batch script that
# has no srun in it, SLURM_PROCID is 0 without SLURM_STEP_ID.
_KINDS = (
    _Kind("torchrun", "RANK", "WORLD_SIZE", ("TORCHELASTIC_RUN_ID", "MASTER_PORT"), mpi=False, proof="TORCHELASTIC_RUN_ID"),
    _Kind("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("PMIX_NAMESPACE",)),
    _Kind("Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", ("FLUX_JOB_ID",)),
    _Kind("PALS", "PALS_RANKID", "PMI_SIZE", ("PALS_APID",)),
    _Kind("PMI", "PMI_RANK", "PMI_SIZE", (*_SLURM, "PBS_JOBID")),
    _Kind("Slurm with PMIx", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", _SLURM, proof="SLURM_STEP_ID"),
    _Kind("RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", ("MASTER_PORT",), mpi=False, proof="MASTER_ADDR"),
    _Kind("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", _SLURM, proof="SLURM_STEP_ID"),
    _Kind("RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", (), mpi=False),
    _Kind("Slurm", "SLURM_PROCID", "SLURM_NTASKS", _SLURM, guess=True),
)


def started_by(guess: bool = False) -> Launcher | None:
    """The launcher that has set this process's rank and size; None if there is none.

    Parameters
    ----------
    guess : bool
        Believe variables too that a batch script has.
    """
    for kind in _KINDS:
        rank, size = _number(kind.rank), _number(kind.size)
        proven = (not kind.proof or kind.proof in os.environ) and (guess or not kind.guess)
        if rank is not None and size is not None and rank < size and proven:
            job = ".".join(os.environ[name] for name in kind.job if os.environ.get(name))
            return Launcher(kind.name, rank, size, kind.mpi, job)
    return None


def claimed_sizes() -> list[tuple[str, int]]:
    """Variables of launchers of MPI programs that say how many processes there are, with their values."""
    sizes = ((kind.size, _number(kind.size)) for kind in _KINDS if kind.mpi and not kind.guess)
    return [(variable, size) for variable, size in sizes if size is not None]


def rank_variables() -> dict[str, str]:
    """Variables that say that this process is one of several, even where none says how many there are."""
    proven = [kind.rank for kind in _KINDS if not kind.guess and (not kind.proof or kind.proof in os.environ)]
    names = [*proven, "PALS_RANKID", "PMIX_RANK", "PMI_ID"]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else None


_BATCH_VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"),
    *("PBS_JOBID", "PBS_NODEFILE", "PALS_APID", "PALS_RANKID", "PALS_LOCAL_RANKID"),
    *("FLUX_JOB_ID", "FLUX_JOB_SIZE", "FLUX_JOB_NNODES", "PMIX_NAMESPACE"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
)


def batch_variables() -> dict[str, str]:
    """What batch system and launcher say about the job, for people; not Cray's PMI_*, which have a secret among them."""
    return {name: os.environ[name] for name in _BATCH_VARIABLES if os.environ.get(name)}
