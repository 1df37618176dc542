"""After from_mpi has returned, the MPI library is never called again: counted at the library's door (`shim.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import run_job
from shim import build, unavailable


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_calls_mpi_after_from_mpi(mpi_jobs: None, tmp_path: Path, size: int) -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    for found in run_job(size, "counting.py", build(tmp_path)):
        assert found["missing"] == [], "add these operations to tests/jobs/operations.py"
        assert found["imported"] > 0
        before = found["imported"]
        for transport in ("unix", "tcp"):
            after_from_mpi, after_operations, after_close = found[transport]
            assert after_from_mpi > before
            assert after_operations == after_from_mpi
            assert after_close == after_from_mpi
            before = after_close
        assert found["end"] == before + 1  # the one call that the job makes to see that calls are still counted
