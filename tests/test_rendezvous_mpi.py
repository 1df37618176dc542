"""from_mpi under mpiexec: communicators, MPI's states, ranks that fail or stay away, strangers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch import Job, reports, run_job

pytestmark = pytest.mark.usefixtures("mpi_jobs")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_from_mpi_of_every_communicator(size: int) -> None:
    ranks = run_job(size, "communicators.py")
    pids = ranks[0]["peers"]
    assert len(set(pids)) == size
    for rank, found in enumerate(ranks):
        members = len(range(rank % 2, size, 2))
        assert found["none"] == found["world"] == found["dup"] == [rank, size]
        assert found["self"] == [0, 1]
        assert found["split"] == [members - 1 - rank // 2, members]
        assert found["peers"] == pids


@pytest.mark.parametrize("size", [1, 4])
def test_context_works_without_mpi_threads_and_after_finalize(size: int) -> None:
    for found in run_job(size, "after_finalize.py"):
        assert found["single"], "MPI gave more threads than were asked for"
        assert found["untouched"], "the rendezvous met the caller's pending receives"
        assert found["right_data"]
        assert found["finalized"]
        assert found["missing"] == [], "add these operations to tests/jobs/operations.py"


def test_rank_that_never_calls_from_mpi(tmp_path: Path) -> None:
    limit = 1.5
    done = Job(3, "absent.py", limit, tmp_path).finish(40)
    *others, absent = reports(3, done.stdout)
    assert absent == {}
    for found in others:
        assert found["error"] == "RendezvousError"
        assert found["text"] == (
            "rendezvous failed: not all 3 ranks of the communicator called from_mpi, or went through it, within 1.5 s; "
            "one of them may have died or be late (connect_timeout)"
        )
        assert limit <= found["seconds"] < limit + 1.0
        assert found["leaked"] == [0, []]


@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_wrong_mpiexec_warns(variable: str) -> None:
    program = """
import warnings
from mpi4py import MPI
import gloompi
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with gloompi.Context.from_mpi() as ctx:
        assert ctx.size == 1
print(*[f"{each.category.__name__}: {each.message}" for each in caught], sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, variable: "4"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"RuntimeWarning: MPI.COMM_WORLD has 1 rank, but {variable}=4: this is the wrong mpiexec" in done.stdout


def test_rank_that_waits_uses_no_core() -> None:
    _, over_unix, over_tcp = run_job(3, "idle.py")
    assert [over_unix["transport"], over_tcp["transport"]] == ["unix", "tcp"]
    for found in (over_unix, over_tcp):
        assert found["waited"] > 2.5
        assert found["share"] < 0.02
