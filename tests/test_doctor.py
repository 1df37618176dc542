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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examined import examined
from launch import JOBS, Job, mpiexec, vendor
from servers import free_port

from gloompi import Device
from gloompi.doctor.findings import diagnose
from gloompi.doctor.trial import Outcome, try_out
from gloompi.rendezvous.local import LocalExchange, local_exchanges
from gloompi.transport.device import Listeners

pytest.importorskip("rich", reason="needs rich: pip install 'gloompi[doctor]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[doctor]'")

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# A job that hangs would reach it; one that notices a rank's end needs the seconds in jobs/ailing_rank.py.
LIMIT = 30.0

Done = subprocess.CompletedProcess[str]


def doctor(n: int, *args: object, **options: Any) -> Done:
    return Job(n, "-m", "gloompi", "doctor", *args, **options).finish(LIMIT)


def ailing(n: int, ailment: str, ranks: str, *args: object, **options: Any) -> Done:
    """The doctor's word on a job of which some ranks have an ailment (see `jobs/ailing_rank.py`)."""
    return Job(n, "ailing_rank.py", ailment, ranks, *args, **options).finish(LIMIT)


def healthy(n: int, *args: object, **options: Any) -> Done:
    """Its word on a job without one, and on a host that has nothing else to do."""
    return ailing(n, "none", "", *args, **options)


NOTHING = r"(?:note .* they wait for each other\nnothing is wrong but what the notes say|nothing is wrong)\n\Z"

# -- healthy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_text(mpi_jobs: None, n: int) -> None:
    done = healthy(n)
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
        assert len(re.findall(rf"^│ \d │(?: +\d+ │| +│){{{n}}}$", text, re.MULTILINE)) == n
    assert text.splitlines()[2] == "load average of the last minute: 0.00"
    assert re.search("┘\n" + NOTHING, text)


@pytest.mark.parametrize("n", [1, 5])
def test_json(mpi_jobs: None, n: int) -> None:
    found = json.loads(healthy(n, "--json").stdout)
    assert found["ok"]
    assert {each["severity"] for each in found["findings"]} <= {"note"}
    assert {(each["processors"], each["load"], each["encrypts"]) for each in found["ranks"]} == {
        (os.cpu_count(), 0.0, False)
    }
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

    done = healthy(2, "--json", tmp_path / "job.json", "--plot", tmp_path / "matrix.png")
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
    command = f"{mpiexec()} {flag} core -n 2 {sys.executable} {JOBS / 'ailing_rank.py'} none 0 --no-measure".split()
    done = subprocess.run(command, env={**os.environ, **AS_ROOT}, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.endswith("┘\nnothing is wrong\n"), done.stdout


# -- on a terminal --------------------------------------------------------------------------------------------------------


def on_terminal(columns: int, redirection: str = "", **more: str) -> str:
    """What appears on a terminal on which the doctor runs, its output redirected in the shell."""
    program = JOBS / "ailing_rank.py"
    run = f"{mpiexec()} -n 2 {sys.executable} {program} none 0 {redirection}; true"  # the shell stays its parent
    command = [sys.executable, str(JOBS / "on_terminal.py"), str(columns), run]
    environment = {**os.environ, **AS_ROOT, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    environment |= more
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


@pytest.mark.parametrize("columns", ["70", "110"])
def test_columns_of_the_environment(mpi_jobs: None, columns: str) -> None:
    for text in (healthy(2, env={"COLUMNS": columns}).stdout, on_terminal(90, COLUMNS=columns)):
        lines = re.sub(r"\x1b\[[\d;?]*\w", "", text.rpartition("\x1b[2K")[2]).splitlines()
        assert max(map(len, lines)) == int(columns)
    assert max(map(len, healthy(2, env={"COLUMNS": "wide"}).stdout.splitlines())) > 120


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
    assert done.returncode == 1
    assert "GLOOMPI_TRANPORT" not in done.stderr  # said once, and not by each rank
    text = "warning GLOOMPI_TRANPORT is no setting of gloompi and has no effect; did you mean GLOOMPI_TRANSPORT?\n"
    assert done.stdout.endswith(text)


def test_text_of_a_variable_that_is_no_setting_is_not_shown(mpi_jobs: None) -> None:
    """It may be a secret that somebody has put there: the doctor shows those alone that it knows, and their names."""
    done = ailing(2, "setting=GLOOMPI_SECRET:hunter2", "0,1", "--no-measure")
    assert done.returncode == 1
    assert "GLOOMPI_SECRET is no setting of gloompi and has no effect" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_store_is_shown_as_it_is(tmp_path: Path) -> None:
    (rank,) = over_a_store(1, "-m", "gloompi", "doctor", "--no-measure", GLOOMPI_STORE=f"file://{tmp_path}/store")
    assert rank.stdout.splitlines()[1].endswith(f", GLOOMPI_STORE=file://{tmp_path}/store")


# -- hosts that have no time ----------------------------------------------------------------------------------------------


def test_busy_host(mpi_jobs: None) -> None:
    done = ailing(2, "load=77.5", "0,1", "--no-measure")
    assert done.returncode == 0
    assert done.stdout.splitlines()[2] == "load average of the last minute: 77.50"
    assert re.search(
        r"^note (\S+) is busy: 77\.3 processes besides this job's ranks want to run on its \d+ cores? \(", done.stdout, re.M
    )
    assert done.stdout.endswith("nothing is wrong but what the notes say\n")


def test_slow_round_trips(mpi_jobs: None) -> None:
    done = ailing(2, "slow=1e-6", "0,1")
    assert done.returncode == 1
    slow = r"^warning round trips within \S+ are slow: \d+ us at best, less than 1 us are usual\n +look for load, "
    assert re.search(slow, done.stdout, re.MULTILINE)
    assert "nothing is wrong" not in done.stdout


def test_load_of_this_host(mpi_jobs: None) -> None:
    assert re.fullmatch(r"load average of the last minute: \d+\.\d\d", doctor(1).stdout.splitlines()[2])


# -- encryption -----------------------------------------------------------------------------------------------------------

ENCRYPTED = {"GLOOMPI_TLS": "1", "GLOOMPI_TRANSPORT": "tcp"}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_what_is_tried_is_what_will_be_used(mpi_jobs: None, n: int) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'gloompi[tls]'")
    found = json.loads(healthy(n, "--json", env=ENCRYPTED).stdout)
    assert found["ok"]
    assert [each["encrypts"] for each in found["ranks"]] == [True] * n
    assert all(link["transport"] == "tls" and link["why"].startswith("same host, loopback") for link in found["links"])
    assert all(1e6 < link["bandwidth"] < 1e12 for link in found["links"])


def test_table_says_what_is_encrypted(mpi_jobs: None) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'gloompi[tls]'")
    text = healthy(2, env=ENCRYPTED).stdout
    assert re.search(r"┃ best round trip ┃ best bandwidth ┃\n.*\n│ \S+ +│ \S+ +│ 1 +│ tls +│ same host, loopback │", text)
    assert re.search(r"│ 1 +│ unix +│ same host +│", healthy(2, env={"GLOOMPI_TLS": "1"}).stdout)  # it stays in the kernel


def test_one_rank_does_not_encrypt(mpi_jobs: None) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'gloompi[tls]'")
    done = ailing(3, "setting=GLOOMPI_TLS:0", "1", env=ENCRYPTED)
    assert done.returncode == 1
    text = (
        r"^error rank 1 \(.*\) does not encrypt and rank 0 \(.*\) does: no program can connect them, and here they were "
        r"connected without TLS\n +set GLOOMPI_TLS=1 on all ranks, or on none\n"
    )
    assert re.search(text, done.stdout, re.MULTILINE)
    assert re.search(r"│ 3 +│ tcp +│", done.stdout)


def test_package_for_encryption_is_missing(mpi_jobs: None) -> None:
    done = ailing(2, "without=cryptography", "1", "--no-measure", env=ENCRYPTED)
    assert done.returncode == 1
    text = (
        r"^error rank 1 \((.*)\) cannot listen: Device\(tls=True\) \(GLOOMPI_TLS=1\) needs the package cryptography: pip "
        r"install 'gloompi\[tls\]'\n +install it on \1, or set GLOOMPI_TLS=0 on all ranks\n"
    )
    assert re.search(text, done.stdout, re.MULTILINE)
    assert "GLOOMPI_SOCKET_IFNAME" not in done.stdout


def test_connection_that_cannot_be_encrypted(nothing_leaks: None) -> None:
    """Rank 1 shows another certificate than its record describes; the other pair is encrypted and can be used."""
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'gloompi[tls]'")
    from gloompi.transport.certificate import make_certificate

    class Other(Device):
        def listen(self, backlog: int) -> Listeners:
            listeners = super().listen(backlog)
            assert listeners.certificate is not None
            listeners.certificate.close()
            return listeners._replace(certificate=make_certificate())

    def rank(exchange: LocalExchange) -> tuple[list[list[Outcome]], float]:
        device = (Other if exchange.rank == 1 else Device)(host="127.0.0.1", transport="tcp", tls=True)
        trial = try_out(exchange, device, b"", 5.0, 10.0)
        with trial.context as ctx:
            total = 0.0
            if ctx.rank != 1:
                out = np.empty(1)
                ctx.sendrecv(np.array([10.0 + ctx.rank]), 2 - ctx.rank, out, 2 - ctx.rank)
                total = out[0]
            return trial.outcomes, total

    with ThreadPoolExecutor(3) as pool:
        (outcomes, zero), (_, one), (_, two) = pool.map(rank, local_exchanges(3))
    assert (zero, one, two) == (12.0, 0.0, 10.0)
    ways = [[outcome.transport for outcome in row] for row in outcomes]
    assert (ways[0][2], ways[2][0]) == ("tls", "tls")
    for other in (0, 2):
        assert "" in (ways[other][1], ways[1][other])
        text = (
            "TLS: the certificate that rank 1 (.*) has shown is not the one that its record describes: somebody between .*"
        )
        assert re.fullmatch(text.replace("(.*)", r"\(.*\)"), outcomes[other][1].failure)
    exam = replace(examined("abc"), outcomes=outcomes, encrypts=[True] * 3)
    texts = [(finding.text, finding.advice) for finding in diagnose(exam) if "TLS: the certificate" in finding.text]
    assert len(texts) == 2
    assert all(advice.startswith("what was sent in the plain came through: ") for _, advice in texts)


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


def test_over_a_store(tmp_path: Path) -> None:
    secret = tmp_path / "secret"  # without one, rank 0 says what others can do
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    secret.chmod(0o600)
    ranks = over_a_store(3, JOBS / "ailing_rank.py", "none", "0", GLOOMPI_SECRET_FILE=str(secret))
    assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * 3
    first, second, *_ = ranks[0].stdout.splitlines()
    assert first.startswith("3 ranks on 1 host; ")
    assert "MPI " not in first
    assert second.startswith("started by RANK and WORLD_SIZE, MASTER_ADDR=127.0.0.1, MASTER_PORT=")
    assert re.search(NOTHING, ranks[0].stdout)
    assert [rank.stdout for rank in ranks[1:]] == ["", ""]


def test_over_a_store_without_a_rank_that_dies() -> None:
    ranks = over_a_store(3, JOBS / "ailing_rank.py", "dies=measure", "1")
    assert [ranks[0].returncode, ranks[2].returncode] == [1, 1]
    assert re.search(r"error rank 0 \(.*\) stopped measuring: lost rank 1 \(", ranks[0].stdout)
    assert "rank 1 of 3" in ranks[0].stderr
