"""The examples written for mpi4py say the same over MPI and, unchanged, over gloompi, on any number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import Job

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.usefixtures("mpi_jobs")

# What is printed last, on any number of ranks.
LAST = {
    "halo.py": "largest difference from one rank's solution: 0",
    "transpose.py": None,
    "workers.py": "below   106:    97 takes 118 steps",
}


def _output(size: int, *program: str) -> str:
    # One write at the end: what is printed without a buffer reaches the launcher in pieces.
    done = Job(size, *program, env={"PYTHONUNBUFFERED": ""}).finish(60)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("name", LAST)
def test_example_says_the_same_over_gloompi(name: str, size: int) -> None:
    path = str(EXAMPLES / name)
    over_mpi = _output(size, path)
    over_gloompi = _output(size, "-m", "gloompi", path)
    assert over_gloompi == over_mpi


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", LAST)
def test_example_says_what_it_shows(name: str, size: int) -> None:
    lines = _output(size, str(EXAMPLES / name)).splitlines()
    if name == "transpose.py":
        assert lines[0] == f"701 x 503 matrix transposed on {size} ranks: 0 elements are wrong"
        assert len(lines) == 1 + size
    else:
        assert lines[-1] == LAST[name]
