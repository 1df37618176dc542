"""Memory: what large arrays take beyond themselves, and what calls leave behind."""

from __future__ import annotations

import psutil
import pytest
from launch import run_job

NEEDED = 2 * 2**30 + 2**29


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.usefixtures("mpi_jobs")
def test_calls_take_no_memory_of_their_own(transport: str) -> None:
    if psutil.virtual_memory().available < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.1f} GB of free memory")
    for found in run_job(2, "footprint.py", transport):
        assert found["beyond"] <= 4 * 2**20
        assert found["grown"] < 100
