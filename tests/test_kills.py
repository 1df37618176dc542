"""Ranks that die, stop, are late or raise, at every stage of a Context's life: what the others get, and how soon."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from launch import run_job

PROMPT = 2.0  # seconds from a death to the error, on all ranks
CONNECT_TIMEOUT = 3.0


def _nobody_left(ranks: list[dict[str, Any]]) -> bool:
    return not any(os.path.exists(f"/proc/{found['pid']}") for found in ranks)


def _others(ranks: list[dict[str, Any]], victim: int) -> list[dict[str, Any]]:
    return ranks[:victim] + ranks[victim + 1 :]


# -- during the rendezvous ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "victim", "transport"),
    [
        ("before", 0, "auto"),
        ("before", 3, "auto"),
        ("records exchanged", 0, "unix"),
        ("records exchanged", 1, "tcp"),
        ("records exchanged", 3, "unix"),
        ("connected", 0, "tcp"),
        ("connected", 2, "unix"),
        ("connected", 3, "tcp"),
    ],
)
def test_killed_during_the_rendezvous(survivors: None, stage: str, victim: int, transport: str) -> None:
    ranks = run_job(4, "kill_early.py", stage, victim, transport, CONNECT_TIMEOUT, survivors=True)
    assert "killed" in ranks[victim]
    for found in _others(ranks, victim):
        assert found["error"] == "RendezvousError", found
        assert found["seconds"] < CONNECT_TIMEOUT + 1.0
        assert found["leaked"] == [0, []]
        if stage == "before":
            assert "not all 4 ranks of the communicator called from_mpi" in found["text"]
        else:
            assert f"rank {victim} (" in found["text"]  # who it was
    assert _nobody_left(ranks)


# -- at work ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("nbytes", [8, 64 * 1024 * 1024])
@pytest.mark.parametrize("victim", [0, 1, 2, 3])
def test_killed_in_allreduce(survivors: None, victim: int, nbytes: int, transport: str) -> None:
    ranks = run_job(4, "kill_working.py", victim, nbytes, transport, survivors=True)
    killed = ranks[victim]["killed"]
    for found in _others(ranks, victim):
        outcomes = found["outcomes"]
        for name in ("busy", "busy again", "idle", "unsent"):
            assert outcomes[name].get("error") == "PeerLostError", (name, outcomes[name])
            assert outcomes[name]["lost"] == victim, (name, outcomes[name])
            assert outcomes[name]["ended"] - max(killed, outcomes[name]["began"]) < PROMPT, name
        assert outcomes["busy"]["operation"].startswith("allreduce #")
        assert f"lost rank {victim} (" in outcomes["busy"]["text"]
        assert f"pid {ranks[victim]['pid']}" in outcomes["busy"]["text"]
        assert outcomes["busy again"]["text"] == outcomes["busy"]["text"]
        # Nothing was left to be said to the dead rank.
        assert "error" not in outcomes["closing"], outcomes["closing"]
        assert outcomes["closing"]["ended"] - outcomes["closing"]["began"] < PROMPT
        assert found["leaked"] <= 0
    assert _nobody_left(ranks)


@pytest.mark.parametrize(("victim", "transport"), [(0, "unix"), (0, "tcp"), (3, "unix"), (3, "tcp")])
def test_killed_while_idle_and_while_others_close(survivors: None, victim: int, transport: str) -> None:
    ranks = run_job(4, "kill_others.py", victim, transport, survivors=True)
    killer = (victim + 1) % 4
    killed = ranks[killer]["killed"]
    for rank, found in enumerate(ranks):
        if rank == victim:
            continue
        close, following = found["outcomes"]["close"], found["outcomes"]["next"]
        assert close["ended"] - killed < PROMPT
        assert following["error"] == "PeerLostError"
        assert following["lost"] == victim
        assert following["ended"] - killed < 2 * PROMPT
        if rank == killer:
            assert "error" not in close, close
        else:  # it had a message for the victim
            assert close.get("error") == "PeerLostError", close
            assert close["lost"] == victim
    assert _nobody_left(ranks)


# -- late ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transport", "nbytes"), [("unix", 8), ("tcp", 8), ("unix", 2**23), ("tcp", 2**23)])
def test_slow_rank_and_stopped_rank(mpi_jobs: None, transport: str, nbytes: int) -> None:
    timeout, late = 1.5, 0.7
    ranks = run_job(3, "stopped.py", transport, nbytes, timeout, late)
    assert [found["slow"] for found in ranks] == [6.0] * 3  # less than the timeout late: the right result
    *others, stopped = ranks
    assert [found["error"] for found in others] == ["OperationTimeoutError"] * 2
    assert any(found["reported_by"] is None for found in others)
    for found in others:
        # A rank that is told may have begun a little later than the one that tells.
        earliest = timeout if found["reported_by"] is None else timeout - 0.5
        assert earliest <= found["seconds"] < timeout + 1.0
        assert found["text"].startswith("allreduce #4 timed out after 1.5 s: ")
        # The one that was waited for: the stopped rank, or one that waited for it in turn.
        assert re.search(r"(bytes from|bytes to) rank \d \(.*which may have stopped or not entered allreduce", found["text"])
        assert found["again"] == found["text"]
    # It woke up to what the others had decided; what they had sent before may have been all that its allreduce needed.
    assert stopped["error"] in ("", "OperationTimeoutError", "PeerLostError")
    assert stopped["seconds"] < 1.0
    assert stopped["text"] in ("", stopped["again"])
    assert re.search(r"reported by rank [01]|lost rank [01] ", stopped["again"])
    assert _nobody_left(ranks)


# -- exceptions ------------------------------------------------------------------------------------------------------------


def test_exception_in_one_rank(mpi_jobs: None) -> None:
    ranks = run_job(3, "raising.py")
    victim = 1
    expected = {
        "unix": ("FileNotFoundError", "it aborted: FileNotFoundError: no such file: data.bin"),
        "tcp": ("FileNotFoundError", "it aborted: FileNotFoundError: no such file: data.bin"),
        "interrupt": ("KeyboardInterrupt", "it aborted: KeyboardInterrupt"),
    }
    for name, (error, quoted) in expected.items():
        assert ranks[victim]["outcomes"][name]["error"] == error
        raised = ranks[victim]["outcomes"][name]["raised"]
        for found in _others(ranks, victim):
            outcome = found["outcomes"][name]
            assert outcome["error"] == "PeerLostError"
            assert outcome["lost"] == victim
            assert quoted in outcome["text"]
            assert outcome["ended"] - raised < PROMPT
    assert _nobody_left(ranks)
