"""Children of fork, and processes that end without closing their Context."""

from __future__ import annotations

import time

import pytest
from launch import Job, reports


@pytest.mark.parametrize("mpi", ["running", "finalized"])
def test_fork_and_exit_without_close(mpi_jobs: None, mpi: str) -> None:
    done = Job(3, "leaving.py", mpi).finish(60)
    over = time.time()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for found in reports(3, done.stdout):
        assert found["total"] == 3
        assert found["child"] == 7
        assert over - found["leaves"] < 2.0 + 2.0  # the launcher takes its time
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
