"""Faults 1 to 9: ranks that die, stop, are late or raise, at every stage of a Context's life."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from launch import Job, reports, run_job, vendor

from faults.processes import PROMPT, allreduce_number, assert_lost, assert_nothing_left, assert_same_later

CONNECT_TIMEOUT = 2.0
MEBIBYTE = 1024 * 1024

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


def _others(ranks: list[dict[str, Any]], *victims: int) -> list[dict[str, Any]]:
    assert all(ranks), ranks
    return [found for rank, found in enumerate(ranks) if rank not in victims]


# -- during the rendezvous ------------------------------------------------------------------------------------------------


def _killed_early(stage: str, victims: dict[int, str]) -> dict[int, list[dict[str, Any]]]:
    """What the ranks of several jobs report, which run at the same time, most of it in waiting; by the rank killed."""
    jobs = {
        victim: Job(4, "kill_early.py", stage, victim, transport, CONNECT_TIMEOUT, survivors=True)
        for victim, transport in victims.items()
    }
    try:
        found = {victim: reports(4, job.finish().stdout) for victim, job in jobs.items()}
    finally:
        for job in jobs.values():
            if job.process.poll() is None:
                job.kill()
    for victim, ranks in found.items():
        assert "killed" in ranks[victim]
        for each in _others(ranks, victim):
            assert each["error"] == "RendezvousError", each
            assert each["seconds"] < CONNECT_TIMEOUT + 1.0
            assert each["listening"] == []
        assert_nothing_left(ranks)
    return found


def test_case_01_killed_before_the_allgather(survivors: None) -> None:
    for victim, ranks in _killed_early("before", {0: "auto", 3: "auto"}).items():
        for found in _others(ranks, victim):
            assert found["text"] == (
                "rendezvous failed: not all 4 ranks of the communicator called from_mpi, or went through it, within 2.0 s; "
                "one of them may have died or be late (connect_timeout)"
            )


@pytest.mark.parametrize("victim", [0, 3])
def test_case_01_killed_before_the_allgather_of_a_job_that_the_launcher_ends(mpi_jobs: None, victim: int) -> None:
    done = Job(4, "kill_early.py", "before", victim, "auto", 300.0).finish(60)  # which is not after connect_timeout
    assert done.returncode != 0
    ranks = [found for found in reports(4, done.stdout) if found]
    assert [found["rank"] for found in ranks] == [victim]  # no other had the time to fail
    assert_nothing_left(ranks)


@pytest.mark.parametrize(
    ("stage", "victims"),
    [
        ("records exchanged", {0: "unix", 1: "tcp", 3: "unix"}),
        ("half connected", {0: "tcp", 2: "unix", 3: "tcp"}),
        ("connected", {0: "tcp", 2: "unix", 3: "tcp"}),
    ],
)
def test_case_02_killed_while_the_mesh_is_being_built(survivors: None, stage: str, victims: dict[int, str]) -> None:
    for victim, ranks in _killed_early(stage, victims).items():
        for found in _others(ranks, victim):
            assert f"rank {victim} (" in found["text"]  # who it was


# -- at work ---------------------------------------------------------------------------------------------------------------


def _killed_in_allreduce(victims: list[int], nbytes: int, transport: str) -> None:
    ranks = run_job(4, "kill_working.py", ",".join(map(str, victims)), nbytes, transport, survivors=True)
    killed = max(found["killed"] for found in ranks if found)
    survivors = [found for rank, found in enumerate(ranks) if rank not in victims]
    for found in survivors:
        assert found["wrong"] == []
        own = f"allreduce #{found['finished'] + 2}"
        assert_lost(found["outcome"], victims, f"allreduce #{allreduce_number(found, ranks)}", killed, own=own)
        assert_same_later(found["outcome"], found["later"])
        assert found["closing"]["error"] == ""
        assert found["closing"]["ended"] - found["closing"]["began"] < 0.5
    if len(victims) == 1:
        (victim,) = victims
        for found in survivors:
            assert f"lost rank {victim} (" in found["outcome"]["text"]
            assert f"pid {ranks[victim]['pid']}, {transport} " in found["outcome"]["text"]
    assert_nothing_left([found for found in ranks if found])


@pytest.mark.parametrize(
    ("victim", "nbytes", "transport"),
    [
        *((victim, 8, transport) for victim in range(4) for transport in ("unix", "tcp")),
        *((victim, 64 * MEBIBYTE, "tcp" if victim % 2 else "unix") for victim in range(4)),
    ],
)
def test_case_03_killed_in_the_middle_of_an_allreduce(survivors: None, victim: int, nbytes: int, transport: str) -> None:
    _killed_in_allreduce([victim], nbytes, transport)


@transports
@pytest.mark.parametrize("victim", [0, 3])
def test_case_04_killed_while_idle(survivors: None, victim: int, transport: str, tmp_path: Path) -> None:
    ranks = run_job(4, "kill_idle.py", victim, transport, tmp_path, survivors=True)
    for rank, found in enumerate(_others(ranks, victim)):
        for name, outcome in found["outcomes"].items():
            assert outcome["error"] == "PeerLostError", (rank, name, outcome)
            assert outcome["lost"] == victim, (name, outcome)
            assert outcome["ended"] - outcome["began"] < PROMPT
            assert_same_later(outcome, found["later"][name])
            # The loss is noticed by the operation, which is the second after a barrier, or has been told before it began.
            assert re.match(r"\w+ #2$|recv$|send$|None$", str(outcome["operation"])), outcome
    assert_nothing_left(ranks)


@transports
@pytest.mark.parametrize("victim", [0, 3])
def test_case_05_killed_while_others_close(survivors: None, victim: int, transport: str, tmp_path: Path) -> None:
    ranks = run_job(4, "kill_closing.py", victim, transport, tmp_path, survivors=True)
    killed = ranks[victim]["killed"]
    for found in _others(ranks, victim):
        owing, plain = found["outcomes"]["owing"], found["outcomes"]["plain"]
        assert owing["began"] < killed < owing["ended"] < killed + PROMPT
        assert owing["error"] == "PeerLostError", owing  # a message for the victim was never received
        assert owing["lost"] == victim
        assert plain["error"] == ""
        assert plain["ended"] - plain["began"] < PROMPT
    assert_nothing_left(ranks)


# -- late ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "nbytes", "transport"),
    [
        ("before", 8, "unix"),
        ("before", 8, "tcp"),
        ("before", 64 * MEBIBYTE, "tcp"),
        ("amid", 8, "unix"),
        ("amid", 8, "tcp"),
        ("amid", 64 * MEBIBYTE, "unix"),
        ("amid", 64 * MEBIBYTE, "tcp"),
    ],
)
def test_case_06_stopped(mpi_jobs: None, transport: str, nbytes: int, moment: str) -> None:
    timeout = 2.0 if moment == "amid" and nbytes > 8 else 1.0  # of the allreduces before the fault, too
    ranks = run_job(3, "stopped.py", transport, nbytes, timeout, moment)
    *others, stopped = ranks
    assert any(found["outcome"]["reported_by"] is None for found in others)
    for found in others:
        outcome = found["outcome"]
        assert found["wrong"] == []
        assert outcome["error"] == "OperationTimeoutError", outcome
        # A rank that is told may have begun a little later than the one that tells.
        first = ranks[outcome["reported_by"] or 0] if outcome["reported_by"] is not None else found
        assert first["last_began"] + timeout <= outcome["ended"] < found["last_began"] + timeout + 1.0
        assert re.match(rf"allreduce #\d+ timed out after {timeout} s: ", outcome["text"])
        # The one that was waited for: the stopped rank, or one that waited for it in turn.
        assert re.search(
            r"(bytes from|bytes to) rank \d \(.*which may have stopped or not entered allreduce", outcome["text"]
        )
        assert_same_later(outcome, found["later"])
        assert found["closing"]["error"] == ""
    # It woke up to what the others had decided: its error says so, and comes soon.
    outcome = stopped["outcome"]
    assert stopped["wrong"] == []
    assert outcome["error"] in ("OperationTimeoutError", "PeerLostError"), outcome
    assert re.search(rf"reported by rank [01]|lost rank [01] |timed out after {timeout} s: ", outcome["text"])
    assert outcome["ended"] - stopped["woken"] < PROMPT
    assert_same_later(outcome, stopped["later"])
    assert_nothing_left(ranks)


def test_case_07_slow_peer(mpi_jobs: None) -> None:
    timeout, late = 3.0, 0.25
    ranks = run_job(3, "slow.py", timeout, late, 8, 64 * MEBIBYTE)
    for turn in zip(*(found["turns"] for found in ranks), strict=True):
        slow = turn[0]["slow"]
        # All leave the barrier before the turn when they get to it, some after the slow one has begun to be late. So what
        # the others wait is not always all of that time, but nobody is done before the slow one has come.
        assert all(each["ended"] >= turn[slow]["began"] for each in turn)
        assert all(each["ended"] - each["began"] < timeout for each in turn)
        assert all(each["right"] for each in turn)
    assert [len(found["turns"]) for found in ranks] == [12] * 3
    assert_nothing_left(ranks)


# -- exceptions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_case_08_exception_in_one_rank(mpi_jobs: None, victim: int) -> None:
    ranks = run_job(3, "raising.py", victim)
    expected = {
        "unix": ("FileNotFoundError", "it aborted: FileNotFoundError: no such file: data.bin"),
        "tcp": ("FileNotFoundError", "it aborted: FileNotFoundError: no such file: data.bin"),
        "interrupt": ("KeyboardInterrupt", "it aborted: KeyboardInterrupt"),
    }
    for name, (error, quoted) in expected.items():
        assert ranks[victim]["outcomes"][name]["error"] == error
        raised = ranks[victim]["outcomes"][name]["raised"]
        for each in ranks[victim]["later"][name]:
            assert each["error"] == "ContextClosedError"
            assert each["text"] == f"this Context was {quoted.removeprefix('it ')}"
        for found in _others(ranks, victim):
            outcome = found["outcomes"][name]
            assert outcome["error"] == "PeerLostError"
            assert outcome["lost"] == victim
            assert quoted in outcome["text"]
            assert outcome["ended"] - raised < PROMPT
            assert_same_later(outcome, found["later"][name])
    assert_nothing_left(ranks)


@transports
@pytest.mark.parametrize("victim", [0, 2])
def test_case_08_exception_that_nobody_catches(mpi_jobs: None, victim: int, transport: str) -> None:
    done = Job(3, "uncaught.py", victim, transport).finish(40)
    assert done.returncode != 0
    assert "FileNotFoundError: no such file: data.bin" in done.stderr
    ranks = reports(3, done.stdout)
    raised = ranks[victim]["raised"]
    others = [found for rank, found in enumerate(ranks) if found and rank != victim]
    # Open MPI's launcher may end the others first.
    assert len(others) == 2 or vendor() == "openmpi"
    for found in others:
        assert_lost(found["outcome"], [victim], "allreduce #2", raised)
        assert_same_later(found["outcome"], found["later"])
    assert_nothing_left([ranks[victim], *others])


@pytest.mark.parametrize(
    ("victims", "nbytes", "transport"),
    [
        ([0, 1], 8, "unix"),
        ([0, 1], 64 * MEBIBYTE, "tcp"),
        ([1, 3], 8, "tcp"),
        ([1, 3], 64 * MEBIBYTE, "unix"),
        ([0, 3], 8, "unix"),
        ([0, 3], 64 * MEBIBYTE, "tcp"),
        ([2, 3], 8, "tcp"),
        ([2, 3], 64 * MEBIBYTE, "unix"),
    ],
)
def test_case_09_two_ranks_die_at_once(survivors: None, victims: list[int], nbytes: int, transport: str) -> None:
    _killed_in_allreduce(victims, nbytes, transport)
