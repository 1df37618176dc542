"""Faults 42 and 45, found after the first forty: system calls that fail by themselves, exceptions without a text."""

from __future__ import annotations

import pytest
from launch import run_job

from faults.processes import PROMPT


@pytest.mark.parametrize(("transport", "single_copy"), [("unix", 1), ("unix", 0), ("tcp", 0)])
def test_case_42_system_call_that_fails_for_a_reason_of_its_own(mpi_jobs: None, transport: str, single_copy: int) -> None:
    ranks = run_job(3, "truncated.py", transport, single_copy)
    for name, culprit, doing in (("small send", 0, "send"), ("large send", 0, "send"), ("large receive", 2, "recv")):
        found = [rank["outcomes"][name] for rank in ranks]
        assert all(outcome["seconds"] < PROMPT for outcome in found)
        mine = found[culprit]
        if name == "large send" and single_copy:  # the reader has found out, and says so
            assert {outcome["error"] for outcome in found} == {"PeerLostError"}
            assert all("its program has unmapped or truncated what it is sending" in outcome["text"] for outcome in found)
            continue
        assert mine["error"] == "SystemCallError"
        assert mine["text"].startswith(f"a system call of rank {culprit} failed in {doing}: ")
        assert "failed with EFAULT (Bad address): the file behind a mapped array was truncated" in mine["text"]
        # Whom it was telling something just then can only be told by hanging up; the third rank hears the reason.
        assert found[1]["text"].startswith(f"{mine['text']} (reported by rank {culprit}; this rank was in barrier")
        for outcome in found:
            assert outcome["error"] in ("SystemCallError", "PeerLostError")


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("victim", [0, 3])
def test_case_45_exception_without_a_text(mpi_jobs: None, victim: int, transport: str) -> None:
    ranks = run_job(4, "speechless.py", victim, transport)
    expected = {
        "mute": ("Mute", "it aborted: Mute (its text cannot be made) ("),
        "deep": ("RecursionError", "it aborted: RecursionError: maximum recursion depth exceeded ("),
        "memory": ("MemoryError", "it aborted: "),
        "surrogate": ("FileNotFoundError", "No such file or directory: '/no/such/\\udce9' ("),
    }
    for name, (error, told) in expected.items():
        for where in ("with", "op"):
            mine = ranks[victim]["outcomes"][f"{name} {where}"]
            assert mine["error"].endswith(error)
            for rank, each in enumerate(ranks):
                if rank != victim:
                    outcome = each["outcomes"][f"{name} {where}"]
                    assert (outcome["error"], outcome["lost"]) == ("PeerLostError", victim)
                    assert told in outcome["text"]
                    assert outcome["ended"] - mine["raised"] < PROMPT
