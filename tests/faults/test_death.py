"""Faults 1 to 9: ranks that die, stop, are late or raise, at every stage of a Context's life."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from launch import Job, reports, run_job, vendor

from faults.processes import PROMPT, allreduce_number, assert_lost, assert_nothing_left, assert_same_later

CONNECT_TIMEOUT = 3.0
MEBIBYTE = 1024 * 1024

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
sizes = pytest.mark.parametrize("nbytes", [8, 64 * MEBIBYTE])


def _others(ranks: list[dict[str, Any]], *victims: int) -> list[dict[str, Any]]:
    assert all(ranks), ranks
    return [found for rank, found in enumerate(ranks) if rank not in victims]


# -- during the rendezvous ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 3])
def test_case_01_killed_before_the_allgather(survivors: None, victim: int) -> None:
    ranks = run_job(4, "kill_early.py", "before", victim, "auto", CONNECT_TIMEOUT, survivors=True)
    assert "killed" in ranks[victim]
    for found in _others(ranks, victim):
        assert found["error"] == "RendezvousError", found
        assert found["seconds"] < CONNECT_TIMEOUT + 1.0
        assert found["text"] == (
            "rendezvous failed: not all 4 ranks of the communicator called from_mpi, or went through it, within 3.0 s; "
            "one of them may have died or be late (connect_timeout)"
        )
        assert found["listening"] == []
    assert_nothing_left(ranks)


@pytest.mark.parametrize("victim", [0, 3])
def test_case_01_killed_before_the_allgather_of_a_job_that_the_launcher_ends(mpi_jobs: None, victim: int) -> None:
    began = time.monotonic()
    done = Job(4, "kill_early.py", "before", victim, "auto", 60.0).finish(30)
    assert done.returncode != 0
    assert time.monotonic() - began < 20.0  # and not connect_timeout
    ranks = [found for found in reports(4, done.stdout) if found]
    assert [found["rank"] for found in ranks] == [victim]  # no other had the time to fail
    assert_nothing_left(ranks)


@pytest.mark.parametrize(
    ("stage", "victim", "transport"),
    [
        ("records exchanged", 0, "unix"),
        ("records exchanged", 1, "tcp"),
        ("records exchanged", 3, "unix"),
        ("half connected", 0, "tcp"),
        ("half connected", 2, "unix"),
        ("half connected", 3, "tcp"),
        ("connected", 0, "tcp"),
        ("connected", 2, "unix"),
        ("connected", 3, "tcp"),
    ],
)
def test_case_02_killed_while_the_mesh_is_being_built(survivors: None, stage: str, victim: int, transport: str) -> None:
    ranks = run_job(4, "kill_early.py", stage, victim, transport, CONNECT_TIMEOUT, survivors=True)
    assert "killed" in ranks[victim]
    for found in _others(ranks, victim):
        assert found["error"] == "RendezvousError", found
        assert found["seconds"] < CONNECT_TIMEOUT + 1.0
        assert f"rank {victim} (" in found["text"]  # who it was
        assert found["listening"] == []
    assert_nothing_left(ranks)


# -- at work ---------------------------------------------------------------------------------------------------------------


def _killed_in_allreduce(victims: list[int], nbytes: int, transport: str) -> None:
    ranks = run_job(4, "kill_working.py", ",".join(map(str, victims)), nbytes, transport, survivors=True)
    killed = max(found["killed"] for found in ranks if found)
    survivors = [found for rank, found in enumerate(ranks) if rank not in victims]
    for found in survivors:
        assert found["wrong"] == []
        assert_lost(found["outcome"], victims, f"allreduce #{allreduce_number(found, ranks)}", killed)
        assert_same_later(found["outcome"], found["later"])
        assert found["closing"]["error"] == ""
        assert found["closing"]["ended"] - found["closing"]["began"] < 0.5
    if len(victims) == 1:
        (victim,) = victims
        for found in survivors:
            assert f"lost rank {victim} (" in found["outcome"]["text"]
            assert f"pid {ranks[victim]['pid']}, {transport} " in found["outcome"]["text"]
    assert_nothing_left([found for found in ranks if found])


@transports
@sizes
@pytest.mark.parametrize("victim", [0, 1, 2, 3])
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


@transports
@sizes
@pytest.mark.parametrize("moment", ["before", "amid"])
def test_case_06_stopped(mpi_jobs: None, transport: str, nbytes: int, moment: str) -> None:
    timeout = 2.0
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
        assert re.match(r"allreduce #\d+ timed out after 2\.0 s: ", outcome["text"])
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
    assert re.search(r"reported by rank [01]|lost rank [01] |timed out after 2\.0 s: ", outcome["text"])
    assert outcome["ended"] - stopped["woken"] < PROMPT
    assert_same_later(outcome, stopped["later"])
    assert_nothing_left(ranks)


@transports
@sizes
def test_case_07_slow_peer(mpi_jobs: None, transport: str, nbytes: int) -> None:
    timeout, late = 3.0, 1.0
    ranks = run_job(3, "slow.py", transport, nbytes, timeout, late)
    for found in ranks:
        assert found["right"] == [True] * 3
        assert all(late <= seconds < timeout for seconds in found["seconds"])
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


@transports
@sizes
@pytest.mark.parametrize("victims", [[0, 1], [1, 3], [0, 3], [2, 3]], ids=str)
def test_case_09_two_ranks_die_at_once(survivors: None, victims: list[int], nbytes: int, transport: str) -> None:
    _killed_in_allreduce(victims, nbytes, transport)
