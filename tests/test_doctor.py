"""``python -m gloompi doctor`` on this host: what it prints, draws and returns, and that no rank can make it hang.

On several hosts: test_doctor_hosts.py.  What it concludes from what it has seen: test_findings.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from launch import JOBS, Job, mpiexec, vendor
from servers import free_port

pytest.importorskip("rich", reason="needs rich: pip install 'gloompi[doctor]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[doctor]'")

# Notes about crowded hosts depend on where the tests run.
NOTES = re.compile(r"note .* they wait for each other\n")
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# A job that hangs would reach it; one that notices a rank's end needs the seconds in jobs/ailing_rank.py.
LIMIT = 30.0

Done = subprocess.CompletedProcess[str]


def doctor(n: int, *args: object, **options: Any) -> Done:
    return Job(n, "-m", "gloompi", "doctor", *args, **options).finish(LIMIT)


def ailing(n: int, ailment: str, ranks: str, *args: object, **options: Any) -> Done:
    """The doctor's word on a job of which some ranks have an ailment (see `jobs/ailing_rank.py`)."""
    return Job(n, "ailing_rank.py", ailment, ranks, *args, **options).finish(LIMIT)


# -- healthy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_text(mpi_jobs: None, n: int) -> None:
    done = doctor(n)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    text = done.stdout
    assert "\x1b" not in text
    assert text.startswith(f"{n} rank{'s' * (n > 1)} on 1 host; Python {sys.version.split()[0]}, gloompi ")
    assert re.search(r"numpy \d.*, mpi4py \d.*, MPI (MPICH Version|Open MPI)", text.splitlines()[0])
    assert text.splitlines()[1].startswith("started by " + ("Open MPI" if vendor() == "openmpi" else "PMI"))
    for heading in ("interfaces", "somaxconn", "largest socket buffers", "listens on", "open files", "clock"):
        assert f" {heading} " in text
    assert re.search(r"lo: 127\.0\.0\.1/8.*, mtu \d+", text)
    assert re.search(r"tcp_rmem \d+ \d+ \d+", text)
    assert len(re.findall(r"AF_UNIX, .* \d+ of (\d+|unlimited), hard (\d+|unlimited) │ +[+-]0\.\d{3} ms", text)) == n
    if n > 1:
        assert re.search(rf"│ {n * (n - 1) // 2} +│ unix +│ same host +│ +\d+ us │ +\d+ MB/s │", text)
        assert "\nMB/s from rank to rank, round trip in us" in text
        assert len(re.findall(rf"^│ \d │(?: +\d+ │|      +│){{{n}}}$", text, re.MULTILINE)) == n
    assert NOTES.sub("", text).endswith("┘\nnothing is wrong\n")


@pytest.mark.parametrize("n", [1, 5])
def test_json(mpi_jobs: None, n: int) -> None:
    found = json.loads(doctor(n, "--json").stdout)
    assert found["ok"]
    assert {each["severity"] for each in found["findings"]} <= {"note"}
    assert [each["rank"] for each in found["ranks"]] == list(range(n))
    assert {len(each["buffers"]) for each in found["ranks"]} == {4}
    assert [(link["source"], link["target"]) for link in found["links"]] == [
        (a, b) for a in range(n) for b in range(n) if a != b
    ]
    for link in found["links"]:
        assert link["connected"]
        assert (link["transport"], link["why"], link["failure"]) == ("unix", "same host", "")
        assert 1e-6 < link["round_trip"] < 1.0
        assert 1e6 < link["bandwidth"] < 1e12


def test_json_to_file_and_picture(mpi_jobs: None, tmp_path: Path) -> None:
    from matplotlib.image import imread

    done = doctor(2, "--json", tmp_path / "job.json", "--plot", tmp_path / "matrix.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(json.loads((tmp_path / "job.json").read_text())["links"]) == 2
    pixels = imread(tmp_path / "matrix.png")
    height, width = pixels.shape[:2]
    assert width > height > 500
    for half in (pixels[:, : width // 2], pixels[:, width // 2 :]):
        assert len({tuple(pixel) for row in half[::7, ::7] for pixel in row}) > 20  # a colour bar alone has more


def test_without_measuring(mpi_jobs: None) -> None:
    done = doctor(2, "--no-measure")
    assert done.returncode == 0
    assert "MB/s" not in done.stdout
    assert "same host" in done.stdout


def test_binding_to_cores_is_not_crowding(mpi_jobs: None) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs 2 cores")
    flag = "--bind-to" if vendor() == "openmpi" else "-bind-to"
    command = f"{mpiexec()} {flag} core -n 2 {sys.executable} -m gloompi doctor --no-measure".split()
    done = subprocess.run(command, env={**os.environ, **AS_ROOT}, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.endswith("┘\nnothing is wrong\n"), done.stdout


# -- on a terminal --------------------------------------------------------------------------------------------------------


def on_terminal(columns: int, redirection: str = "") -> str:
    """What appears on a terminal on which the doctor runs, its output redirected in the shell."""
    run = f"{mpiexec()} -n 2 {sys.executable} -m gloompi doctor {redirection}; true"  # the shell stays its parent
    command = [sys.executable, str(JOBS / "on_terminal.py"), str(columns), run]
    environment = {**os.environ, **AS_ROOT, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize(("columns", "width"), [(60, 60), (80, 80), (0, 80)])
def test_terminal(mpi_jobs: None, columns: int, width: int) -> None:
    bar, _, text = on_terminal(columns).rpartition("\x1b[2K")
    assert "measuring pairs" in bar
    assert "━" in bar
    assert "\x1b[32mnothing is wrong\x1b[0m" in text  # green
    lines = re.sub(r"\x1b\[[\d;?]*\w", "", text).splitlines()
    assert lines[0].startswith("2 ranks on 1 host")  # the bar is gone before the text comes
    assert "nothing is wrong" in lines
    assert max(map(len, lines)) == width


@pytest.mark.parametrize("redirection", ["> {}", "| cat > {}"])
def test_terminal_has_the_bar_alone(mpi_jobs: None, tmp_path: Path, redirection: str) -> None:
    seen = on_terminal(80, redirection.format(tmp_path / "text"))
    assert "measuring pairs" in seen
    assert "ranks on 1 host" not in seen
    text = (tmp_path / "text").read_text()
    assert "\x1b" not in text
    assert text.endswith("nothing is wrong\n")


def test_terminal_has_the_text_alone(mpi_jobs: None, tmp_path: Path) -> None:
    assert "nothing is wrong" in on_terminal(80, f"2> {tmp_path / 'errors'}")
    assert (tmp_path / "errors").read_text() == ""


# -- what rank 0 needs for its report -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "args", "what"), [("rich", (), "rich"), ("matplotlib", ("--json", "--plot", "matrix.png"), "matplotlib")]
)
def test_missing_package(mpi_jobs: None, package: str, args: tuple[str, ...], what: str) -> None:
    began = time.monotonic()
    done = ailing(2, f"without={package}", "0,1", *args)
    assert done.returncode == 1
    assert f"gloompi doctor: the doctor needs the package {what}: pip install 'gloompi[doctor]'\n" in done.stderr
    assert done.stderr.count("gloompi doctor") == 1
    assert done.stdout == ""
    assert time.monotonic() - began < LIMIT / 2


@pytest.mark.parametrize(("package", "args"), [("rich", ("--json",)), ("matplotlib", ("--no-measure",))])
def test_missing_package_that_is_not_needed(mpi_jobs: None, package: str, args: tuple[str, ...]) -> None:
    assert ailing(2, f"without={package}", "0,1", *args).returncode == 0


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--plot", "/nowhere/matrix.png"), "[Errno 2] No such file or directory: '/nowhere/matrix.png'"),
        (("--json", "/nowhere/job.json"), "[Errno 2] No such file or directory: '/nowhere/job.json'"),
    ],
)
def test_report_that_cannot_be_written(mpi_jobs: None, args: tuple[str, ...], text: str) -> None:
    done = doctor(2, *args)
    assert done.returncode == 1
    assert f"gloompi doctor: {text}\n" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["m.jpg", "m.doc", "m"])
def test_picture_that_cannot_be_written_is_refused_before_anything_begins(mpi_jobs: None, name: str, n: int) -> None:
    done = doctor(n, "--plot", name)
    assert (done.returncode, done.stdout) == (2, "")
    text = f"argument --plot: no picture can be written to {name!r}: its name must end in .png, .svg or .pdf\n"
    assert done.stderr.count(f"python -m gloompi doctor: error: {text}") == 1  # not by each rank


@pytest.mark.parametrize("seconds", ["0", "inf", "soon"])
def test_bad_timeout(seconds: str) -> None:
    command = [sys.executable, "-m", "gloompi", "doctor", f"--timeout={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "error: argument --timeout: " in done.stderr


def test_fault_of_the_doctor_on_rank_0(mpi_jobs: None) -> None:
    done = ailing(2, "fails=report", "0")
    assert done.returncode != 0
    assert "RuntimeError: this rank fails" in done.stderr
    assert "rendezvous" not in done.stderr  # the other rank knew at once


# -- settings -------------------------------------------------------------------------------------------------------------


def test_setting_without_a_meaning(mpi_jobs: None) -> None:
    done = ailing(2, "setting=GLOOMPI_TLS:yes", "1", "--no-measure")
    assert done.returncode == 1
    assert re.search(
        r"^error rank 1 \(.*\) cannot listen: GLOOMPI_TLS must be 0 or 1, not 'yes'\n\Z", done.stdout, re.MULTILINE
    )


def test_variable_that_is_no_setting(mpi_jobs: None) -> None:
    done = ailing(2, "setting=GLOOMPI_TRANPORT:tcp", "0,1", "--no-measure")
    assert (done.returncode, done.stderr) == (1, "")  # said once, and not by each rank
    text = "warning GLOOMPI_TRANPORT is no setting of gloompi and has no effect; did you mean GLOOMPI_TRANSPORT?\n"
    assert done.stdout.endswith(text)


def test_store_is_shown_as_it_is(tmp_path: Path) -> None:
    (rank,) = over_a_store(1, "-m", "gloompi", "doctor", "--no-measure", GLOOMPI_STORE=f"file://{tmp_path}/store")
    assert rank.stdout.splitlines()[1].endswith(f", GLOOMPI_STORE=file://{tmp_path}/store")


# -- ranks that end or stop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["facts", "measure", "diagnosis"])
def test_dead_rank(mpi_jobs: None, stage: str) -> None:
    assert ailing(3, f"dies={stage}", "1").returncode != 0  # the launcher ends the job


def test_rank_that_stops_before_it_is_connected(mpi_jobs: None) -> None:
    done = ailing(3, "stops=facts", "1", "--timeout", 2)
    assert done.returncode == 1
    assert "gloompi doctor: rendezvous failed: not all 3 ranks of the communicator" in done.stderr
    assert "within 2.0 s" in done.stderr


def test_rank_that_stops_while_it_measures(mpi_jobs: None) -> None:
    done = ailing(3, "stops=measure", "1")
    assert done.returncode == 1
    assert "error some rank did not say what it measured, so this is only what rank 0 knows: not all 3 ranks" in done.stdout
    assert re.search(r"error rank 0 \(.*\) stopped measuring: .* from rank 1 \(.*which may have stopped", done.stdout)
    assert done.stdout.count("AF_UNIX") == 3
    assert "nothing is wrong" not in done.stdout


def test_rank_0_stops_while_it_measures(mpi_jobs: None) -> None:
    done = ailing(3, "stops=measure", "0")
    assert done.returncode == 1
    assert re.search(r"gloompi doctor: .* timed out after 2\.0 s: .* from rank 0 \(.*which may have stopped", done.stderr)


# -- limits ---------------------------------------------------------------------------------------------------------------


def test_few_open_files(mpi_jobs: None) -> None:
    done = ailing(5, "files=64", "1")
    assert done.returncode == 1
    assert re.search(
        r"^warning rank 1 \(.*\) may open 64 files and has \d+ open: enough for \d+ ranks, there are 5\n"
        r" +ulimit -n 4096 in the job script",
        done.stdout,
        re.MULTILINE,
    )
    assert len(re.findall("^(warning|error)", done.stdout, re.MULTILINE)) == 1


def test_too_few_open_files(mpi_jobs: None) -> None:
    done = ailing(5, "files=36", "1")
    assert done.returncode == 1
    assert re.search(r"^error rank 1 \(.*\) cannot listen: too few file descriptors: \d+ of 36", done.stdout, re.MULTILINE)
    assert re.search(r"^error rank 1 \(.*\) may open 36 files and has \d+ open", done.stdout, re.MULTILINE)
    assert "ulimit -n" in done.stdout
    assert len(re.findall("^(warning|error)", done.stdout, re.MULTILINE)) == 2
    assert done.stdout.count("none") == 8  # the others are connected


# -- without MPI ----------------------------------------------------------------------------------------------------------


def over_a_store(n: int, *program: object, **more: str) -> list[Done]:
    """Run n processes without a launcher."""
    variables = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **more}
    ranks = [
        subprocess.Popen(
            [sys.executable, *map(str, program)],
            env={**os.environ, **variables, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    try:
        outputs = [rank.communicate(timeout=LIMIT) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(10)
    return [Done(rank.args, rank.returncode, *output) for rank, output in zip(ranks, outputs, strict=True)]


def test_over_a_store() -> None:
    ranks = over_a_store(3, "-m", "gloompi", "doctor")
    assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * 3
    first, second, *_ = ranks[0].stdout.splitlines()
    assert first.startswith("3 ranks on 1 host; ")
    assert "MPI " not in first
    assert second.startswith("started by RANK and WORLD_SIZE, MASTER_ADDR=127.0.0.1, MASTER_PORT=")
    assert ranks[0].stdout.endswith("nothing is wrong\n")
    assert [rank.stdout for rank in ranks[1:]] == ["", ""]


def test_over_a_store_without_a_rank_that_dies() -> None:
    ranks = over_a_store(3, JOBS / "ailing_rank.py", "dies=measure", "1")
    assert [ranks[0].returncode, ranks[2].returncode] == [1, 1]
    assert re.search(r"error rank 0 \(.*\) stopped measuring: lost rank 1 \(", ranks[0].stdout)
    assert "rank 1 of 3" in ranks[0].stderr
