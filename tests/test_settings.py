"""Settings: each is checked however many ranks there are, what looks like one is told of, and documents list the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launch import Job

from gloompi import Context, Device, HashStore, RendezvousError, settings
from gloompi.deadline import Deadline
from gloompi.rendezvous.exchange import Exchange
from gloompi.rendezvous.local import local_exchanges
from gloompi.settings import INTERFACES, PREFIX, SETTINGS, check, given, unknown, value
from gloompi.testing import run_ranks

TOP = Path(__file__).parent.parent
SIZES = [1, 2, 3]

# A text without a meaning, and what is said about it.
BAD = {
    "GLOOMPI_STORE": ("rdeis://node7", r": 'rdeis://node7' names no store; there are: redis://.*"),
    "GLOOMPI_SECRET_FILE": ("/nowhere/secret", r"cannot read the file that GLOOMPI_SECRET_FILE names: No such file .*"),
    "GLOOMPI_SOCKET_IFNAME": (
        "=nosuch0",
        r"no interface that is up matches GLOOMPI_SOCKET_IFNAME='=nosuch0'; there are: .*",
    ),
    "GLOO_SOCKET_IFNAME": ("=nosuch0", r"no interface that is up matches GLOO_SOCKET_IFNAME='=nosuch0'; there are: .*"),
    "NCCL_SOCKET_IFNAME": ("10.0.0.0/99", r"NCCL_SOCKET_IFNAME='10\.0\.0\.0/99': '10\.0\.0\.0/99' does not appear to be .*"),
    "GLOOMPI_ADVERTISE": ("node7", r"GLOOMPI_ADVERTISE must be an IP address, not 'node7'"),
    "GLOOMPI_PORT_RANGE": ("foo", r"GLOOMPI_PORT_RANGE must be low:high, not 'foo'"),
    "GLOOMPI_TRANSPORT": ("rdma", r"GLOOMPI_TRANSPORT must be one of auto, tcp, unix, not 'rdma'"),
    "GLOOMPI_SINGLE_COPY": ("2", r"GLOOMPI_SINGLE_COPY must be 0 or 1, not '2'"),
    "GLOOMPI_TLS": ("yes", r"GLOOMPI_TLS must be 0 or 1, not 'yes'"),
    "GLOOMPI_CHECKSUM": ("on", r"GLOOMPI_CHECKSUM must be 0 or 1, not 'on'"),
    "GLOOMPI_PICKLE": ("no", r"GLOOMPI_PICKLE must be on or off, not 'no'"),
    "GLOOMPI_TIMEOUT": ("soon", r"GLOOMPI_TIMEOUT must be seconds >= 0, not 'soon'"),
    "GLOOMPI_LOG_LEVEL": ("loud", r"GLOOMPI_LOG_LEVEL must be debug, info, warning or error, not 'loud'"),
}
GOOD = {
    "GLOOMPI_STORE": "file:///scratch/store",
    "GLOOMPI_SOCKET_IFNAME": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "^docker",
    "GLOOMPI_PORT_RANGE": "40000:40999",
    "GLOOMPI_TRANSPORT": "tcp",
    "GLOOMPI_SINGLE_COPY": "0",
    "GLOOMPI_TLS": "0",
    "GLOOMPI_CHECKSUM": "1",
    "GLOOMPI_PICKLE": "off",
    "GLOOMPI_TIMEOUT": "7.5",
    "GLOOMPI_LOG_LEVEL": "debug",
}


def failures(size: int, device: Device | None = None) -> list[RendezvousError]:
    """The error with which each rank's rendezvous has failed."""

    def rank(exchange: Exchange) -> RendezvousError:
        with pytest.raises(RendezvousError) as caught:
            Context._from_exchange(exchange, device, 10.0, Deadline(10.0))
        return caught.value

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, local_exchanges(size)))


# -- what is checked --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BAD)
def test_setting_without_a_meaning_fails_alike_on_all_ranks(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text, said = BAD[name]
    monkeypatch.setenv(name, text)
    errors = failures(size)
    assert len({str(error) for error in errors}) == 1
    assert (errors[0].rank, errors[0].pid) == (0, os.getpid())
    assert re.search(said + "$", errors[0].reason), errors[0].reason


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", GOOD)
def test_setting_with_a_meaning(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, GOOD[name])
    assert run_ranks(size, lambda ctx: ctx.size) == [size] * size


@pytest.mark.parametrize("size", SIZES)
def test_setting_that_is_empty_is_none(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("GLOOMPI_NO_SUCH", "")
    assert run_ranks(size, lambda ctx: ctx.timeout, timeout=1800.0) == [1800.0] * size
    assert given() == {}


def test_every_setting_is_tried_here() -> None:
    assert BAD.keys() == SETTINGS.keys() - {"GLOOMPI_TRACE"}  # any text is a folder; test_trace.py has those that cannot be
    assert tuple(name for name, setting in SETTINGS.items() if setting.device == "interface") == INTERFACES


def test_secret_file_that_is_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(tmp_path / "secret"))
    assert failures(1)[0].reason.endswith("the file is empty; fill it with random text: openssl rand -hex 32")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (Device("=nosuch0"), "no interface that is up matches interface='=nosuch0'; there are: .*"),
        (Device(host="192.0.2.77"), "host 192.0.2.77 is no address of this host; there are: .*"),
        (Device(host="127.0.0.1", advertise="192.0.2.7"), ""),
        (Device("=nosuch0", transport="unix"), ""),  # which needs none
    ],
)
def test_device_of_a_rank_that_is_alone(device: Device, said: str) -> None:
    if said:
        assert re.fullmatch(said, failures(1, device)[0].reason)
    else:
        assert run_ranks(1, lambda ctx: ctx.size, device=device) == [1]


def test_argument_of_a_device_takes_the_place_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TRANSPORT", "rdma")
    for size in SIZES:
        assert run_ranks(size, lambda ctx: ctx.size, device=Device(transport="tcp")) == [size] * size


@pytest.mark.parametrize(("text", "timeout"), [("7.5", 7.5), ("inf", None), ("", 1800.0)])
def test_timeout_of_the_environment(text: str, timeout: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TIMEOUT", text)
    with Context.from_store(HashStore(), 0, 1) as ctx, Context.from_store(HashStore(), 0, 1, timeout=3.0) as other:
        assert (ctx.timeout, other.timeout) == (timeout, 3.0)


WAYS = {
    "from_store": ["-c", "import gloompi; gloompi.Context.from_store(gloompi.HashStore(), 0, 1)"],
    "from_mpi": ["-c", "import gloompi; gloompi.Context.from_mpi()"],
    "from_env": ["-c", "import gloompi; gloompi.Context.from_env()"],
    "facade": ["-c", "from gloompi import MPI"],
    "runner": ["-m", "gloompi", "-c", "from mpi4py import MPI"],
}


@pytest.mark.parametrize("way", WAYS)
def test_program_of_one_rank(mpi_jobs: None, way: str) -> None:
    done = Job(1, *WAYS[way], env={"GLOOMPI_TRANSPORT": "rdma", "GLOOMPI_TRANPORT": "tcp"}).finish()
    assert done.returncode
    assert "GLOOMPI_TRANSPORT must be one of auto, tcp, unix, not 'rdma'" in done.stderr
    assert done.stderr.count("RuntimeWarning: GLOOMPI_TRANPORT is no setting of gloompi") == 1


# -- what is no setting -----------------------------------------------------------------------------------------------------


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not warned yet."""
    monkeypatch.setattr(settings, "_told", set())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GLOOMPI_TRANPORT", "did you mean GLOOMPI_TRANSPORT?"),
        ("GLOOMPI_TIMOUT", "did you mean GLOOMPI_TIMEOUT?"),
        ("GLOOMPI_IFNAME", "did you mean GLOOMPI_SOCKET_IFNAME?"),
        ("GLOOMPI_SECRET", "did you mean GLOOMPI_SECRET_FILE?"),
        ("GLOOMPI_LOGLEVEL", "did you mean GLOOMPI_LOG_LEVEL?"),
        ("GLOOMPI_QUIXOTIC", "python -m gloompi doctor --help lists the settings"),
    ],
)
def test_nearest_name(name: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hunter2")  # which may be a secret
    assert unknown() == [f"{name} is no setting of gloompi and has no effect; {advice}"]
    assert given() == {}


@pytest.mark.parametrize("size", SIZES)
def test_unknown_names_are_told_of_once_a_process(size: int, forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TRANPORT", "tcp")
    monkeypatch.setenv("GLOOMPI_QUIXOTIC", "1")
    with pytest.warns(RuntimeWarning) as record:
        run_ranks(size, lambda ctx: ctx.size)
    run_ranks(size, lambda ctx: ctx.size)  # or it would fail
    assert sorted(str(each.message) for each in record) == unknown()
    assert len(record) == 2


def test_warning_names_the_line_of_the_program(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TRANPORT", "tcp")
    with pytest.warns(RuntimeWarning) as record:
        Context.from_store(HashStore(), 0, 1).close()
    assert record[0].filename == __file__


@pytest.mark.parametrize("size", SIZES)
def test_warning_that_is_an_error_fails_alike_on_all_ranks(
    size: int, forgetful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOOMPI_TRANPORT", "tcp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (text,) = {str(error) for error in failures(size)}
    assert "RuntimeWarning: GLOOMPI_TRANPORT is no setting of gloompi and has no effect; did you mean" in text


# -- one list of them -------------------------------------------------------------------------------------------------------


def sources(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(TOP.glob(pattern))]


def test_nothing_else_reads_the_environment_for_a_setting() -> None:
    reads = re.compile(r"environ\W+(?:get\W+)?\"?(?:GLOOMPI_|GLOO_|NCCL_)")
    found = {str(path.relative_to(TOP)) for path in sources("gloompi/**/*.py") if reads.search(path.read_text())}
    assert found == {"gloompi/__init__.py"}  # whether GLOOMPI_LOG_LEVEL is set: `import gloompi` loads nothing for it if not


def test_every_name_in_code_and_documents_is_a_setting() -> None:
    for path in sources("gloompi/**/*.py", "docs/*.md", "*.md", "examples/*.py"):
        names = set(re.findall(r"\b(?:GLOOMPI|GLOO|NCCL)_[A-Z_]+\b", path.read_text()))
        misspelt = {"GLOOMPI_TRANPORT"} if path.name == "doctor.md" else set()  # an example of what the doctor finds
        assert names <= SETTINGS.keys() | {PREFIX} | misspelt, path


def test_document_has_the_table() -> None:
    text = (TOP / "docs" / "clusters.md").read_text().partition("## Variables that gloompi reads")[2]
    rows = re.findall(r"^\| ((?:GLOOMPI|GLOO|NCCL)_\w+) \| (.*) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(SETTINGS)
    for name, meaning in rows:
        assert meaning.startswith(SETTINGS[name].meaning)


def test_readme_has_those_of_a_device() -> None:
    text = (TOP / "README.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)=.*?` \| (GLOOMPI_\w+)", text, re.MULTILINE))
    assert rows == {each.device: each.name for each in SETTINGS.values() if each.device and each.name.startswith(PREFIX)}


def test_doctor_lists_them() -> None:
    command = [sys.executable, "-m", "gloompi", "doctor", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name, setting in SETTINGS.items():
        assert re.search(rf"^  {name} +{re.escape(setting.meaning)}$", done.stdout, re.MULTILINE)


def test_what_is_shown_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_STORE", "redis://:hunter2@node7:6379/0")
    monkeypatch.setenv("GLOOMPI_TLS", "1")
    assert given() == {"GLOOMPI_STORE": "redis://node7:6379/0", "GLOOMPI_TLS": "1"}
    check()
    assert value("GLOOMPI_STORE") == "redis://:hunter2@node7:6379/0"
