"""The examples run, and say what their texts promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from launch import Job

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.usefixtures("mpi_jobs")


def _lines(program: str, size: int) -> list[str]:
    # One write per rank: what ranks print without a buffer reaches the launcher in pieces, which may mix.
    done = Job(size, str(EXAMPLES / program), env={"PYTHONUNBUFFERED": ""}).finish(100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("size", [1, 4])
def test_hello(size: int) -> None:
    lines = sorted(_lines("hello.py", size))
    assert len(lines) == size
    for rank, line in enumerate(lines):
        peers = ", ".join(f"{peer} over unix" for peer in range(size) if peer != rank) or "none"
        pattern = rf"rank {rank} of {size} on \S+ \(pid \d+\): peers {peers}; ranks sum to {sum(range(size))}"
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize("size", [1, 3, 4])
def test_digits(size: int) -> None:
    pytest.importorskip("sklearn")
    lines = _lines("digits.py", size)
    rows = [line.split() for line in lines if re.fullmatch(r"\s*\d+\s+[\d.]+\s+[\d.]+", line)]
    losses = [float(loss) for _, loss, _ in rows]
    assert len(rows) >= 3
    assert losses == sorted(losses, reverse=True)
    last = re.fullmatch(rf"test accuracy (0\.9\d\d); weights identical on all {size} ranks", lines[-1])
    assert last, lines[-1]
