"""Context.from_env: what launchers leave in the environment, and the processes that find each other by it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from launch import JOBS, reports, run_job
from servers import HOST, Server, free_port, ipv6_loopback

from gloompi import Context, RendezvousError
from gloompi.stores.greeting import line

pytestmark = pytest.mark.usefixtures("nothing_leaks")

# What launchers and batch systems set.
LAUNCHERS = re.compile(r"RANK|WORLD_SIZE|MASTER_|LOCAL_|TORCHELASTIC_|OMPI_|PMI|PALS_|FLUX_|SLURM_|PBS_|HYDRA|MPI_|GLOOMPI_")


def run(
    size: int, *args: object, variables: dict[str, str], rank: str = "RANK", first: int = 0, timeout: float = 60.0
) -> list[dict[str, Any]]:
    """Run jobs/from_env.py without a launcher; return the reports.

    Parameters
    ----------
    args
        Of the program, behind its number.
    variables : dict
        All that is in the environment of a launcher's kind, beside the variable that is called `rank`.
    first : int
        The ranks below are not there.
    """
    clean = {name: value for name, value in os.environ.items() if not LAUNCHERS.match(name)}
    command = [sys.executable, str(JOBS / "from_env.py")]
    with ExitStack() as started:
        processes = [
            started.enter_context(
                subprocess.Popen(
                    [*command, str(number), *map(str, args)],
                    env={**clean, **variables, rank: str(number)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(first, size)
        ]
        try:
            ended = [process.communicate(timeout=timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), ended
    return reports(size, "".join(out for out, _ in ended))[first:]


def alone(*args: object, **variables: str) -> dict[str, Any]:
    """The report of one process with these variables."""
    (report,) = run(1, *args, variables=variables, rank="UNUSED")
    return report


def met(size: int, times: int = 1) -> list[dict[str, Any]]:
    """The reports of ranks that have met so many times."""
    total = sum(10.0**rank for rank in range(size))
    return [{"rank": rank, "size": size, "totals": [total + n * size for n in range(times)]} for rank in range(size)]


def by_hand(size: int, port: int | None = None, **more: str) -> dict[str, str]:
    return {"WORLD_SIZE": str(size), "MASTER_ADDR": HOST, "MASTER_PORT": str(port or free_port()), **more}


def torchrun(size: int, port: int, **more: str) -> dict[str, str]:
    return by_hand(size, port, TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="0", **more)


def slurm(size: int, job: str = "7", **more: str) -> dict[str, str]:
    """What srun sets."""
    return {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_NTASKS": str(size), **more}


# -- RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT -------------------------------------------------------------------------


@contextmanager
def taken(says: bytes) -> Iterator[int]:
    """A port on which another program listens, which says something to whoever connects and hangs up."""
    with socket.create_server((HOST, 0), backlog=100) as listener:
        port = listener.getsockname()[1]
        code = f"""
import socket
listener = socket.socket(fileno={listener.fileno()})
while True:
    with listener.accept()[0] as sock:
        sock.sendall({says!r})
"""
        with subprocess.Popen([sys.executable, "-c", code], pass_fds=[listener.fileno()]) as program:
            try:
                yield port
            finally:
                program.kill()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_variables_set_by_hand(size: int) -> None:
    assert run(size, variables=by_hand(size)) == met(size)


def test_several_times_in_a_row() -> None:
    assert run(3, 4, variables=by_hand(3)) == met(3, 4)


def test_master_by_name() -> None:
    assert run(2, variables={**by_hand(2), "MASTER_ADDR": "localhost"}) == met(2)


def test_master_by_ipv6_address_in_brackets() -> None:
    if not ipv6_loopback():
        pytest.skip("no IPv6 here")
    assert run(2, variables={**by_hand(2), "MASTER_ADDR": "[::1]"}) == met(2)
    port = free_port()
    assert run(2, variables={"WORLD_SIZE": "2", "GLOOMPI_STORE": f"tcp://[::1]:{port}"}) == met(2)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("variables", "named", "store"),
    [
        (
            {"MASTER_ADDR": "node..7", "MASTER_PORT": "29500"},
            "MASTER_ADDR=node..7, MASTER_PORT=29500",
            "TCPStore('node..7', 29500)",
        ),
        ({"GLOOMPI_STORE": "tcp://node..7:29500"}, "GLOOMPI_STORE=tcp://node..7:29500", "TCPStore('node..7', 29500)"),
    ],
)
def test_master_that_cannot_be_resolved(rank: str, variables: dict[str, str], named: str, store: str) -> None:
    found = alone(RANK=rank, WORLD_SIZE="2", **variables)
    assert found["error"] == "RendezvousError"
    assert found["text"] == (
        f"rendezvous failed: {named}: {store} cannot be found: {socket.gethostname()} cannot resolve 'node..7' (it is no "
        "name of a host); check its spelling (getent hosts node..7), or give an IP address"
    )


@pytest.mark.parametrize("says", [b"", b"something else that is long enough"])
@pytest.mark.parametrize("variables", [{}, {"TORCHELASTIC_USE_AGENT_STORE": "True"}])
def test_port_is_taken_by_somebody_else(says: bytes, variables: dict[str, str]) -> None:
    """Who may be waiting to be taken for rank 0: the ranks do not meet on another port, as if nothing were."""
    with taken(says) as port:
        zero, one = run(2, 1, 2.0, variables=by_hand(2, port, **variables))
    assert zero["error"] == "OSError"
    assert f"cannot serve a store on port {port} of 127.0.0.1: " in zero["text"]
    assert "end the program that listens there (ss -ltnp), or choose another port" in zero["text"]
    assert one["error"] == "RendezvousError"
    assert f"nobody serves TCPStore('127.0.0.1', {port}): " in one["text"]


def test_port_beside_the_agents_is_taken() -> None:
    with taken(b"") as port:
        zero, _ = run(2, 1, 0.5, variables=torchrun(2, port - 1, TORCHELASTIC_USE_AGENT_STORE="True"))
    assert zero["error"] == "OSError"
    assert f"cannot serve a store on port {port} of 127.0.0.1: " in zero["text"]


def test_torchrun() -> None:
    assert run(3, variables=torchrun(3, free_port(), TORCHELASTIC_USE_AGENT_STORE="False")) == met(3)


def test_torchrun_whose_agent_has_the_port() -> None:
    with taken(b"agent") as port:
        assert run(3, variables=torchrun(3, port, TORCHELASTIC_USE_AGENT_STORE="True")) == met(3)


def test_variables_set_by_hand_within_a_slurm_job() -> None:
    assert run(2, variables={**slurm(2), "SLURM_PROCID": "0", **by_hand(2)}) == met(2)


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, "MASTER_ADDR=None and MASTER_PORT=''"),
        ({"MASTER_PORT": "29500"}, "MASTER_ADDR=None and MASTER_PORT='29500'"),
        ({"MASTER_ADDR": "node7"}, "MASTER_ADDR='node7' and MASTER_PORT=''"),
        ({"MASTER_ADDR": "node7", "MASTER_PORT": "any"}, "MASTER_ADDR='node7' and MASTER_PORT='any'"),
    ],
)
def test_master_that_is_not_known(variables: dict[str, str], shown: str) -> None:
    found = alone(RANK="1", WORLD_SIZE="3", **variables)
    assert found["error"] == "RendezvousError"
    assert found["text"] == (
        f"rendezvous failed: RANK=1 and WORLD_SIZE=3 are set, but {shown} do not say where rank 0 is; set them, or "
        "GLOOMPI_STORE=URL"
    )


def test_rank_zero_does_not_come() -> None:
    variables = by_hand(2)
    port = int(variables["MASTER_PORT"])
    (found,) = run(2, 1, 0.5, variables=variables, first=1)
    assert found["error"] == "RendezvousError"
    assert f"nobody serves TCPStore('127.0.0.1', {port}): " in found["text"]
    assert found["seconds"] < 15.0


def test_another_rank_does_not_come() -> None:
    variables = by_hand(3)
    variables["RANK"] = "0"
    found = alone(1, 0.5, **variables)
    assert found["error"] == "RendezvousError"
    assert "ranks 1, 2 of 3 have not shown up in " in found["text"]
    assert found["seconds"] < 15.0


def test_rank_zero_cannot_listen() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        found = alone(1, 5.0, RANK="0", **by_hand(2, port))
    assert found["error"] == "OSError"
    assert f"cannot serve a store on port {port} of 127.0.0.1: " in found["text"]


@pytest.mark.parametrize("rank", ["3", "-1", "first"])
def test_rank_that_there_is_not(rank: str) -> None:
    """Not the only rank of a job of its own, for which the others would wait."""
    found = alone(1, 0.5, RANK=rank, **by_hand(3))
    assert found.get("error") in ("RendezvousError", "ValueError"), found


# -- GLOOMPI_STORE ------------------------------------------------------------------------------------------------------


def test_slurm_with_a_folder(tmp_path: Path) -> None:
    variables = slurm(3, GLOOMPI_STORE=f"file://{tmp_path}/store")
    assert run(3, 2, variables=variables, rank="SLURM_PROCID") == met(3, 2)


def test_slurm_jobs_at_once_in_one_redis(redis_server: Server) -> None:
    """And a step of one of them."""
    variables = [slurm(2, job="7"), slurm(3, job="8"), {**slurm(2, job="8"), "SLURM_STEP_ID": "1"}]

    def job(each: dict[str, str]) -> list[dict[str, Any]]:
        size = int(each["SLURM_STEP_NUM_TASKS"])
        return run(size, variables={**each, "GLOOMPI_STORE": redis_server.url}, rank="SLURM_PROCID")

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(job, variables)) == [met(2), met(3), met(2)]


def test_batch_script_that_starts_the_ranks_itself(tmp_path: Path) -> None:
    """Without srun there is no step; a store says that there are several ranks nevertheless."""
    variables = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "GLOOMPI_STORE": f"file://{tmp_path}"}
    assert run(2, variables=variables, rank="SLURM_PROCID") == met(2)


def test_store_that_rank_zero_serves() -> None:
    variables = {"WORLD_SIZE": "3", "GLOOMPI_STORE": f"tcp://{HOST}:{free_port()}"}
    assert run(3, 2, variables=variables) == met(3, 2)


def test_store_of_one_rank() -> None:
    assert alone(2, RANK="0", WORLD_SIZE="1", GLOOMPI_STORE=f"tcp://{HOST}:{free_port()}") == met(1, 2)[0]


def test_store_that_nobody_serves() -> None:
    variables = {"WORLD_SIZE": "2", "GLOOMPI_STORE": f"tcp://{HOST}:{free_port()}"}
    (found,) = run(2, 1, 0.5, variables=variables, first=1, timeout=10.0)
    assert found["error"] == "RendezvousError"
    assert "nobody serves TCPStore('127.0.0.1', " in found["text"]


def test_store_without_a_launcher(tmp_path: Path) -> None:
    found = alone(GLOOMPI_STORE=f"file://{tmp_path}")
    assert found["error"] == "RendezvousError"
    assert found["text"] == (
        "rendezvous failed: GLOOMPI_STORE is set, but no launcher has set rank and size; set RANK and WORLD_SIZE, or use "
        "Context.from_store(store, rank, size)"
    )


def test_store_that_there_is_not() -> None:
    found = alone(RANK="0", WORLD_SIZE="2", GLOOMPI_STORE="http://user:hunter2@node7:80")
    assert found["error"] == "ValueError"
    assert found["text"].startswith("GLOOMPI_STORE: 'http://node7:80' names no store; there are: redis://host:port/db, ")


def test_server_that_is_not_there() -> None:
    pytest.importorskip("redis")
    port = free_port()
    found = alone(RANK="0", WORLD_SIZE="2", GLOOMPI_STORE=f"redis://user:hunter2@{HOST}:{port}/0")
    assert found["error"] == "RendezvousError"
    assert f"RedisStore('redis://127.0.0.1:{port}/0') cannot be used: " in found["text"]
    assert "hunter2" not in found["text"]


def test_store_comes_before_the_master(tmp_path: Path) -> None:
    variables = by_hand(2, 1, GLOOMPI_STORE=f"file://{tmp_path}")
    assert run(2, variables=variables) == met(2)


# -- the secret ---------------------------------------------------------------------------------------------------------


def test_secret_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text("correct horse battery staple")
    assert run(2, variables=by_hand(2, GLOOMPI_SECRET_FILE=str(path))) == met(2)


def test_secret_files_that_differ(tmp_path: Path) -> None:
    variables = by_hand(2)

    def rank(number: int) -> dict[str, Any]:
        path = tmp_path / str(number)
        path.touch(0o600)
        path.write_text(f"correct horse battery {number}")
        return alone(1, 8.0, RANK=str(number), GLOOMPI_SECRET_FILE=str(path), **variables)

    with ThreadPoolExecutor(2) as pool:
        zero, one = pool.map(rank, range(2))
    # Rank 1 does not even get to the store.
    assert zero["error"] == one["error"] == "RendezvousError"
    assert "rank 1 of 2 has not shown up" in zero["text"]
    assert "cannot be the rank of this job: it has another secret (secret=, GLOOMPI_SECRET_FILE)" in one["text"]
    assert one["seconds"] < 7.5


def test_secret_files_that_differ_over_another_store(tmp_path: Path) -> None:
    def rank(number: int) -> dict[str, Any]:
        path = tmp_path / f"secret {number}"
        path.touch(0o600)
        path.write_text(f"correct horse battery {number}")
        variables = {"RANK": str(number), "WORLD_SIZE": "2", "GLOOMPI_STORE": f"file://{tmp_path}/store"}
        return alone(GLOOMPI_SECRET_FILE=str(path), **variables)

    with ThreadPoolExecutor(2) as pool:
        for number, found in enumerate(pool.map(rank, range(2))):
            assert found["error"] == "RendezvousError"
            assert found["lost"] == 1 - number
            assert "the ranks have different secrets" in found["text"]


# -- MPI, or nothing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def without_mpi(tmp_path: Path) -> dict[str, str]:
    """Variables by which mpi4py finds no MPI library."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").touch()
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.mark.parametrize("size", [1, 3])
def test_mpiexec(mpi_jobs: None, size: int) -> None:
    assert run_job(size, "from_env.py", 0, 2) == met(size, 2)


def test_mpiexec_with_a_store(mpi_jobs: None, tmp_path: Path) -> None:
    assert run_job(3, "from_env.py", 0, 2, env={"GLOOMPI_STORE": f"file://{tmp_path}/store"}) == met(3, 2)


def test_nothing_is_one_rank() -> None:
    assert alone(2) == met(1, 2)[0]


def test_nothing_at_all_is_one_rank(without_mpi: dict[str, str]) -> None:
    assert alone(2, **without_mpi) == met(1, 2)[0]


def test_batch_script_is_one_rank() -> None:
    assert alone(SLURM_JOB_ID="7", SLURM_NTASKS="4", SLURM_PROCID="0") == met(1)[0]


def test_slurm_with_an_mpi_that_does_not_know_it(mpi_jobs: None) -> None:
    found = alone(**slurm(4), SLURM_PROCID="3")
    assert found["error"] == "RendezvousError"
    assert found["text"] == (
        "rendezvous failed: Slurm has started 4 processes, but MPI.COMM_WORLD has 1 rank; this mpi4py's MPI does not know "
        "that launcher (srun --mpi=list; the mpiexec of that MPI), or WORLD_SIZE is missing; GLOOMPI_STORE=URL does "
        "without MPI"
    )


def test_slurm_without_mpi(without_mpi: dict[str, str]) -> None:
    found = alone(**slurm(4), SLURM_PROCID="3", **without_mpi)
    assert found["error"] == "RendezvousError"
    assert re.search(r"one of several \(.*SLURM_PROCID=3.*\), but no MPI library can be loaded; ", found["text"])
    assert "GLOOMPI_STORE=URL" in found["text"]


@pytest.mark.parametrize("name", ["PMI_RANK", "PMIX_RANK", "PMI_ID", "OMPI_COMM_WORLD_RANK", "PALS_RANKID"])
def test_rank_of_unknown_size_without_mpi(without_mpi: dict[str, str], name: str) -> None:
    found = alone(**without_mpi, **{name: "3"})
    assert found["error"] == "RendezvousError"
    assert found["text"] == (
        f"rendezvous failed: this process is one of several ({name}=3), but no MPI library can be loaded; install one, or "
        "set GLOOMPI_STORE=URL to do without"
    )


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": ""}, {"PALS_RANKID": "1"}])
def test_rank_without_a_size_is_not_alone(variables: dict[str, str]) -> None:
    found = alone(**variables)
    assert found["error"] == "RendezvousError"
    name, rank = next(iter(variables.items()))
    assert f"this process is one of several ({name}={rank})" in found["text"]


def test_master_address_may_be_spelled_in_several_ways() -> None:
    """Rank 0 serves the store of this job alone: there is nobody to be told apart from."""
    variables = {"WORLD_SIZE": "2", "MASTER_PORT": str(free_port())}
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(run, 1, variables={**variables, "MASTER_ADDR": HOST})
        one = pool.submit(run, 2, first=1, variables={**variables, "MASTER_ADDR": "localhost"})
        assert zero.result() + one.result() == met(2)


@pytest.mark.parametrize("way", ["MASTER_ADDR", "tcp", "zookeeper"])
def test_a_server_that_falls_silent_is_waited_for_no_longer_than_connect_timeout(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as taken:
        port = listener.getsockname()[1]

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = taken.enter_context(listener.accept()[0])
                    if way != "zookeeper":
                        connection.sendall(line(port, b""))

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        for name, text in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, text)
        if way != "MASTER_ADDR":
            monkeypatch.setenv("GLOOMPI_STORE", f"{way}://127.0.0.1:{port}")
        began = monotonic()
        with pytest.raises(RendezvousError):
            Context.from_env(connect_timeout=1.0)
        assert monotonic() - began < 8  # 1 s, 2 s of grace, and a busy machine; 10 and 30 were their own
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        server.join(20)
