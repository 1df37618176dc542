"""Launchers as the environment tells of them, also one within another."""

from __future__ import annotations

import os

import pytest

from gloompi.launcher import Launcher, batch_variables, claimed_sizes, rank_variables, started_by

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMIX_NAMESPACE": "prterun-node7-4121@1",
    "PMIX_RANK": "1",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "6"}
PALS = {"PALS_RANKID": "1", "PALS_APID": "a1b2", "PMI_RANK": "1", "PMI_SIZE": "4", "PBS_JOBID": "9.pbs"}
FLUX = {"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "4", "FLUX_JOB_ID": "f4XuD", "PMI_RANK": "1", "PMI_SIZE": "4"}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
BY_HAND = {"RANK": "2", "WORLD_SIZE": "6", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
# A batch script; what its srun adds; what srun --mpi=pmi2 and --mpi=pmix add to that.
SBATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "node[7-8]"}
SRUN = {**SBATCH, "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
PMI2 = {**SRUN, "PMI_RANK": "1", "PMI_SIZE": "4"}
PMIX = {**SRUN, "PMIX_RANK": "1", "PMIX_NAMESPACE": "slurm.pmix.7.0"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({}, None),
        (OPEN_MPI, Launcher("Open MPI", 1, 4, True, "prterun-node7-4121@1")),
        (MPICH, Launcher("PMI", 1, 4, True, "")),
        (PALS, Launcher("PALS", 1, 4, True, "a1b2")),
        (FLUX, Launcher("Flux", 1, 4, True, "f4XuD")),
        (TORCHRUN, Launcher("torchrun", 1, 4, False, "none.29500")),
        (BY_HAND, Launcher("RANK and WORLD_SIZE", 2, 6, False, "29500")),
        ({"RANK": "2", "WORLD_SIZE": "6"}, Launcher("RANK and WORLD_SIZE", 2, 6, False, "")),
        (SRUN, Launcher("Slurm", 1, 4, True, "7.0")),
        ({**SRUN, "SLURM_RESTART_COUNT": "2"}, Launcher("Slurm", 1, 4, True, "7.0.2")),
        (PMI2, Launcher("PMI", 1, 4, True, "7.0")),
        (PMIX, Launcher("Slurm with PMIx", 1, 4, True, "7.0")),
        (SBATCH, None),
    ],
)
def test_launcher(variables: dict[str, str], launcher: Launcher | None, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    assert started_by() == launcher


@pytest.mark.parametrize(
    ("outer", "inner", "name"),
    [
        (SBATCH, MPICH, "PMI"),
        (SRUN, MPICH, "PMI"),
        (SRUN, OPEN_MPI, "Open MPI"),
        (SRUN, TORCHRUN, "torchrun"),
        (SBATCH, BY_HAND, "RANK and WORLD_SIZE"),
        (SRUN, BY_HAND, "RANK and WORLD_SIZE"),
        (MPICH, TORCHRUN, "torchrun"),
        (OPEN_MPI, TORCHRUN, "torchrun"),
        (SRUN, FLUX, "Flux"),
        ({"PBS_JOBID": "9.pbs", "PBS_NODEFILE": "/var/spool/nodes"}, OPEN_MPI, "Open MPI"),
        # These are set by scripts for the sake of PyTorch, under a launcher of MPI programs.
        (MPICH, BY_HAND, "PMI"),
        (OPEN_MPI, BY_HAND, "Open MPI"),
    ],
)
def test_launcher_within_another(
    outer: dict[str, str], inner: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, {**outer, **inner})
    launcher = started_by()
    assert launcher is not None
    assert launcher.name == name


def test_guess_from_a_batch_script(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SBATCH)
    assert started_by(guess=True) == Launcher("Slurm", 0, 8, True, "7")


def test_guess_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SRUN)
    assert started_by(guess=True) == started_by()


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("-1", "4"), ("", "4"), ("one", "4"), ("1.0", "4"), ("0", "0")])
@pytest.mark.parametrize("names", [("PMI_RANK", "PMI_SIZE"), ("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")])
def test_numbers_without_meaning(names: tuple[str, str], rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, dict(zip(names, (rank, size), strict=True)))
    assert started_by(guess=True) is None


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "PMIX_RANK", "SLURM_PROCID"])
def test_rank_without_a_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    assert started_by(guess=True) is None


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        (OPEN_MPI, "PMIX_NAMESPACE"),
        (PALS, "PALS_APID"),
        (FLUX, "FLUX_JOB_ID"),
        (TORCHRUN, "TORCHELASTIC_RUN_ID"),
        (BY_HAND, "MASTER_PORT"),
        (SRUN, "SLURM_JOB_ID"),
        (PMI2, "SLURM_STEP_ID"),
        (PMIX, "SLURM_RESTART_COUNT"),
    ],
)
def test_another_job(variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    before = started_by()
    monkeypatch.setenv(name, variables.get(name, "") + "1")
    after = started_by()
    assert before is not None
    assert after is not None
    assert before.job != after.job


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        (TORCHRUN, "TORCHELASTIC_RESTART_COUNT"),
        (OPEN_MPI, "SLURM_STEP_ID"),  # mpiexec starts its daemons by srun, on all hosts but the first
        (SRUN, "SLURM_LOCALID"),
    ],
)
def test_what_ranks_of_one_job_do_not_share(variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    before = started_by()
    monkeypatch.setenv(name, "1")
    assert started_by() == before


@pytest.mark.parametrize(
    ("variables", "sizes"),
    [
        ({}, {}),
        (MPICH, {"PMI_SIZE": 4}),
        (OPEN_MPI, {"OMPI_COMM_WORLD_SIZE": 4}),
        (FLUX, {"FLUX_JOB_SIZE": 4, "PMI_SIZE": 4}),
        (SRUN, {"SLURM_STEP_NUM_TASKS": 4}),
        (SBATCH, {}),
        (BY_HAND, {}),
        ({"PMI_SIZE": "many"}, {}),
    ],
)
def test_claimed_sizes(variables: dict[str, str], sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    assert dict(claimed_sizes()) == sizes


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, {}),
        (SBATCH, {}),
        (MPICH, {"PMI_RANK": "1"}),
        (PMIX, {"PMIX_RANK": "1", "SLURM_PROCID": "1"}),
        (SRUN, {"SLURM_PROCID": "1"}),
        ({"PMI_ID": "1", "PMI_FD": "6"}, {"PMI_ID": "1"}),
        ({"RANK": "", "PALS_RANKID": "0"}, {"PALS_RANKID": "0"}),
    ],
)
def test_variables_that_tell_of_ranks(
    variables: dict[str, str], found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    assert rank_variables() == found


def test_variables_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"PMI_SHARED_SECRET": "12345", "PMI_CONTROL_PORT": "20000", "GLOOMPI_SECRET_FILE": "/home/me/secret"}
    set_all(monkeypatch, {**SRUN, **PALS, **secret})
    shown = batch_variables()
    assert shown["SLURM_JOB_NODELIST"] == "node[7-8]"
    assert shown["PBS_JOBID"] == "9.pbs"
    assert not secret.keys() & shown.keys()
