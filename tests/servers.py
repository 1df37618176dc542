"""Real servers for the tests of the stores: Redis, etcd and ZooKeeper, as Debian packages them.

Each has a free port on the loopback interface and a folder of its own; it ends with the test that started it, and with the
tests' process however that ends.  A test whose server or Python client is not installed is skipped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import psutil
import pytest

HOST = "127.0.0.1"
# Seconds until a server answers.  Measured on two idle cores: Redis 0.03, etcd 0.1, ZooKeeper 0.3.
BUDGET = 30.0
# A free port may be somebody else's by the time the server binds it.
ATTEMPTS = 3
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Server:
    """A server that answers, and what a test needs to use it or to look for what is left of it."""

    url: str  # as the stores take it, without the password
    port: int
    pid: int
    log: Path
    password: str | None = None
    ca: Path | None = None  # certificate of the authority that signed the server's


# -- Redis --------------------------------------------------------------------------------------------------------------


@contextmanager
def running_redis() -> Iterator[Server]:
    """Redis without password and TLS."""
    require("redis-server", "redis-server", client="redis")

    def command(port: int, folder: Path) -> list[object]:
        return [*_redis(folder), "--port", port]

    with running("redis://", command, b"PING\r\nQUIT\r\n", b"+PONG") as server:
        yield server


@contextmanager
def running_redis_tls() -> Iterator[Server]:
    """Redis that wants a password and speaks TLS only, with a certificate of its own authority."""
    require("redis-server", "redis-server", client="redis")
    trustme = pytest.importorskip("trustme", reason="no trustme: pip install trustme")
    ca, password, tls = trustme.CA(), secrets.token_hex(), ssl.create_default_context()
    ca.configure_trust(tls)

    def command(port: int, folder: Path) -> list[object]:
        pem = folder / "server.pem"
        ca.cert_pem.write_to_path(folder / "ca.pem")
        ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(pem)
        files = ["--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", folder / "ca.pem"]
        ports = ["--port", 0, "--tls-port", port, "--tls-auth-clients", "no"]  # no certificates of clients
        return [*_redis(folder), *ports, *files, "--requirepass", password]

    with running("rediss://", command, f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode(), b"+PONG", tls) as server:
        yield replace(server, password=password, ca=server.log.with_name("ca.pem"))


def _redis(folder: Path) -> list[object]:
    return ["redis-server", "--bind", HOST, "--dir", folder, "--save", ""]


# -- etcd ---------------------------------------------------------------------------------------------------------------


@contextmanager
def running_etcd() -> Iterator[Server]:
    """A cluster of one etcd."""
    require("etcd-server", "etcd", client="etcd3gw")

    def command(port: int, folder: Path) -> list[object]:
        url = f"http://{HOST}:{port}"
        clients = ["--listen-client-urls", url, "--advertise-client-urls", url]
        # It listens for peers even where there are none; any port will do, for nobody is told it.
        peers = ["--listen-peer-urls", f"http://{HOST}:0"]
        # It answers as soon as it has elected itself, after one election timeout: 1 s unless it is set.
        election = ["--heartbeat-interval", 10, "--election-timeout", 100]
        return ["etcd", "--data-dir", folder / "data", *clients, *peers, *election]

    with running("http://", command, b"GET /health HTTP/1.0\r\n\r\n", b'"health":"true"') as server:
        yield server


# -- ZooKeeper ----------------------------------------------------------------------------------------------------------

JARS = ("/usr/share/java/zookeeper.jar", "/usr/share/java/slf4j-simple.jar")  # the latter logs to standard error


@contextmanager
def running_zookeeper() -> Iterator[Server]:
    """One ZooKeeper."""
    require("zookeeper", "java", *JARS, client="kazoo")

    def command(port: int, folder: Path) -> list[object]:
        address = f"clientPort={port}\nclientPortAddress={HOST}\nadmin.enableServer=false\n"
        (folder / "zoo.cfg").write_text(f"dataDir={folder / 'data'}\n{address}")
        # Without the optimizing compiler the JVM starts in half the time; UsePerfData writes outside the folder.
        java = ["java", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xmx256m", "-Djava.net.preferIPv4Stack=true"]
        return [*java, "-cp", ":".join(JARS), "org.apache.zookeeper.server.ZooKeeperServerMain", folder / "zoo.cfg"]

    with running("", command, b"srvr", b"Mode: standalone") as server:
        yield server


# -- any server ---------------------------------------------------------------------------------------------------------


def require(package: str, *files: str, client: str) -> None:
    """Skip the test if a file of a Debian package is not there, or the Python client."""
    if not all(shutil.which(file, mode=os.F_OK) for file in files):
        pytest.skip(f"no {package}: apt-get install {package}")
    pytest.importorskip(client, reason=f"no {client}: pip install {client}")


@contextmanager
def running(
    scheme: str,
    command: Callable[[int, Path], Sequence[object]],
    question: bytes,
    answer: bytes,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """Start a server, wait until it answers `question` with `answer`, and stop it in the end.

    `command` gets a port and the server's folder.
    """
    with TemporaryDirectory(prefix="gloompi-server-") as name:
        log = Path(name, "log")
        give_up = monotonic() + BUDGET
        for _ in range(ATTEMPTS):
            port = free_port()
            with _process(list(map(str, command(port, log.parent))), log) as process:
                while process.poll() is None and monotonic() < give_up:
                    # Another server of the kind may have been faster to take the port: it gives the same answer.
                    if answer in _ask(port, question, tls) and (HOST, port) in listening(process.pid):
                        yield Server(f"{scheme}{HOST}:{port}", port, process.pid, log)
                        return
                    sleep(0.02)
        raise AssertionError(f"{process.args} did not come up; its log:\n{log.read_text(errors='replace')}")


def ipv6_loopback() -> bool:
    """Whether this host has ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def listening(pid: int) -> set[tuple[str, int]]:
    """Address and port of everything that a process receives on, TCP and UDP."""
    bound = [each for each in psutil.net_connections("inet") if each.pid == pid and each.laddr and not each.raddr]
    return {(each.laddr.ip, each.laddr.port) for each in bound}


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            # However this process ends: the server ends with it (to be exact, with the thread that runs this).
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={"PATH": os.environ["PATH"]},  # no ETCD_... and no JAVA_TOOL_OPTIONS
            start_new_session=True,  # an interrupt from the keyboard is for the tests, which then stop it
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(port: int, question: bytes, tls: ssl.SSLContext | None) -> bytes:
    """What is said on a port until the connection is closed; nothing if there is nobody, or nobody who speaks in time."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as plain:
            with tls.wrap_socket(plain, server_hostname=HOST) if tls else plain as connection:
                connection.sendall(question)
                with connection.makefile("rb") as answer:
                    return answer.read()
    except OSError:
        return b""


# -- fixtures -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def redis_tls_server() -> Iterator[Server]:
    with running_redis_tls() as server:
        yield server


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Server]:
    with running_etcd() as server:
        yield server


@pytest.fixture(scope="session")
def zookeeper_server() -> Iterator[Server]:
    with running_zookeeper() as server:
        yield server
