"""from_mpi under mpiexec: communicators, MPI's states, ranks that fail or stay away, strangers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def test_bad_communicators_are_refused_alike() -> None:
    first, second = run_job(2, "bad_communicators.py")
    assert first["refused"] == second["refused"]
    assert first["total"] == second["total"] == 2
    refused = first["refused"]
    assert {name: error for name, (error, _) in refused.items()} == {
        "before Init": "RendezvousError",
        "int": "TypeError",
        "falsy": "TypeError",
        "str": "TypeError",
        "group": "TypeError",
        "class": "TypeError",
        "null": "TypeError",
        "freed": "TypeError",
        "inter": "TypeError",
        "broken": "RendezvousError",
        "finalized": "RendezvousError",
    }
    text = {name: text for name, (_, text) in refused.items()}
    between = "call from_mpi between MPI.Init() and MPI.Finalize()"
    assert text["before Init"] == f"rendezvous failed: MPI is not initialised; {between}"
    assert text["finalized"] == f"rendezvous failed: MPI has been finalized; {between}"
    assert text["int"] == "comm must be an mpi4py communicator, not int"
    assert text["falsy"] == "comm must be an mpi4py communicator, not Falsy"
    assert text["null"] == text["freed"] == "comm is COMM_NULL or was freed"
    assert text["inter"] == "comm is an inter-communicator; merge it first: comm.Merge()"
    assert "MPI could not duplicate the communicator" in text["broken"]


@pytest.fixture(scope="module")
def bad_ranks() -> list[dict[str, Any]]:
    """What each rank of one job went through: several rendezvous of which one rank could not take part in most."""
    return run_job(3, "bad_ranks.py")


def _failure(ranks: list[dict[str, Any]], name: str, culprit: int) -> str:
    """The text of the error that all ranks got alike."""
    outcomes = [found["outcomes"][name] for found in ranks]
    assert [outcome.get("error") for outcome in outcomes] == ["RendezvousError"] * 3, outcomes
    texts = {outcome["text"] for outcome in outcomes}
    assert len(texts) == 1, texts
    assert [outcome["lost"] for outcome in outcomes] == [culprit] * 3
    (text,) = texts
    assert text.startswith(f"rendezvous failed at rank {culprit} (")
    return text


def test_unknown_interface_on_one_rank(bad_ranks: list[dict[str, Any]]) -> None:
    text = _failure(bad_ranks, "interface", 1)
    assert "interface='nosuch0'" in text
    assert "there are: " in text
    assert "lo (" in text


def test_used_up_port_range_on_one_rank(bad_ranks: list[dict[str, Any]]) -> None:
    text = _failure(bad_ranks, "ports", 2)
    port = bad_ranks[2]["port"]
    assert f"no free port in {port}-{port} on 127.0.0.1 (lo): " in text
    assert "in use" in text


def test_too_few_file_descriptors_on_one_rank(bad_ranks: list[dict[str, Any]]) -> None:
    text = _failure(bad_ranks, "descriptors", 0)
    assert "too few file descriptors: " in text
    assert "ulimit -n" in text


@pytest.mark.parametrize("name", ["none left", "one left"])
def test_descriptors_that_run_out_during_the_rendezvous(bad_ranks: list[dict[str, Any]], name: str) -> None:
    assert re.search("Too many open files|descriptor", _failure(bad_ranks, name, 0))
    for found in bad_ranks:
        assert found["outcomes"][name]["seconds"] < 2.0 + 1.0


def test_failed_rendezvous_leaves_nothing_open(bad_ranks: list[dict[str, Any]]) -> None:
    for found in bad_ranks:
        assert {name: outcome["leaked"] for name, outcome in found["outcomes"].items() if name != "first"} == {
            name: [0, []] for name in ("interface", "ports", "descriptors", "none left", "one left", "last")
        }


def test_rendezvous_succeeds_after_failed_ones(bad_ranks: list[dict[str, Any]]) -> None:
    for found in bad_ranks:
        assert found["outcomes"]["first"]["total"] == 3
        assert found["outcomes"]["last"]["total"] == 3


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


@pytest.mark.parametrize("transport", ["tcp", "unix", "auto"])
def test_strangers_at_the_listening_sockets(transport: str) -> None:
    first, *others = run_job(3, "strangers.py", transport)
    assert first["visits"] >= 50  # an AF_UNIX backlog holds 67, and takes no more
    assert first["lines"] <= 2 + first["seconds"]  # one a second, and those that are not about strangers
    for found in (first, *others):
        assert found["total"] == 6
        assert found["seconds"] < 20
        assert found["listening"] == []
        assert found["leaked"] == 0
    assert [found["lines"] for found in others] == [0, 0]


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
