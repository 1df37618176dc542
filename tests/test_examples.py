"""The examples run, and say what their texts promise."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from launch import Job, vendor

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


def test_digits_ends_with_the_same_accuracy_when_ranks_are_killed(survivors: None) -> None:
    pytest.importorskip("sklearn")
    program = str(EXAMPLES / "digits.py")

    def output(victims: dict[int, int]) -> list[str]:
        options = {"survivors": True, "env": {"PYTHONUNBUFFERED": ""}}
        done = Job(6, "with_losses.py", program, json.dumps(victims), **options).finish(100)
        assert not done.stderr, done.stderr
        return done.stdout.splitlines()

    def row(line: str) -> bool:
        return re.fullmatch(r"\s*\d+\s+[\d.]+\s+[\d.]+", line) is not None

    whole, reduced = output({}), output({0: 33, 4: 72})  # rank 0, which prints, and another
    accuracy = whole[-1].split(";")[0]
    assert re.fullmatch(r"test accuracy 0\.9\d\d", accuracy)
    # What rank 0 has printed is lost with it, or not; the new rank 0 has printed the rest.
    assert f"{accuracy}; weights identical on all 4 ranks" in reduced
    for size, lost in (6, 0), (5, 3):
        left = {f"rank {rank} of {size} goes on without rank {lost}" for rank in range(size) if rank != lost}
        assert left == {line for line in reduced if f" of {size} goes on " in line}
    begun = [line for line in reduced if line.endswith("ranks") and "images" in line]
    assert begun[-2:] == ["1437 images on 5 ranks", "1437 images on 4 ranks"]
    assert [line for line in reduced if row(line)][-7:] == [line for line in whole if row(line)][-7:]


def _program_of_the_documentation(folder: Path) -> Path:
    text = (EXAMPLES.parent / "docs" / "shrink.md").read_text()
    program = folder / "program.py"
    program.write_text(text.split("```python\n")[1].split("```")[0])
    return program


def test_program_of_the_documentation_goes_on_after_losses(survivors: None, tmp_path: Path) -> None:
    program = _program_of_the_documentation(tmp_path)
    done = Job(4, "with_losses.py", program, json.dumps({0: 300, 2: 600}), survivors=True).finish(60)
    assert not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count(f"1000 steps, sum {sum(range(100)) * sum(range(1000))}") == 2
    losses = [re.match(r"rank (\d) of (\d): lost rank (\d) \(", line) for line in lines if "lost rank" in line]
    found = [[int(number) for number in loss.groups()] for loss in losses if loss]
    assert sorted(found) == [[0, 3, 1], [1, 4, 0], [2, 3, 1], [2, 4, 0], [3, 4, 0]]


@pytest.mark.parametrize("option", ["--enable-recovery", ""])
def test_launcher_of_open_mpi_lets_the_survivors_live_if_it_is_told_to(tmp_path: Path, option: str) -> None:
    """As docs/shrink.md has it."""
    if vendor() != "openmpi":
        pytest.skip("MPICH's mpiexec has no --enable-recovery, and no option of its own that does (see jobs/outlive.py)")
    program = _program_of_the_documentation(tmp_path)
    done = Job(4, "with_losses.py", program, json.dumps({1: 300}), survivors=bool(option)).finish(60)
    if option:
        assert option in done.args
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines().count(f"1000 steps, sum {sum(range(100)) * sum(range(1000))}") == 3
    else:
        assert done.returncode == 128 + signal.SIGKILL
        assert "exited on\nsignal 9 (Killed)" in done.stderr
