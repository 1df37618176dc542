"""The servers of the other tests: they answer, on the loopback interface only, and leave nothing behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
import servers
from servers import HOST, Server, listening, running_etcd, running_redis, running_redis_tls, running_zookeeper

pytestmark = pytest.mark.usefixtures("nothing_leaks")

every_server = pytest.mark.parametrize("running", [running_redis, running_redis_tls, running_etcd, running_zookeeper])
Running = Callable[[], AbstractContextManager[Server]]


# -- the clients --------------------------------------------------------------------------------------------------------


def test_redis_sets_and_gets(redis_server: Server) -> None:
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        assert client.set("redis", b"\0\xff")
        assert client.get("redis") == b"\0\xff"


def test_redis_tls_sets_and_gets(redis_tls_server: Server) -> None:
    import redis

    server = redis_tls_server
    with redis.Redis.from_url(server.url, password=server.password, ssl_ca_certs=str(server.ca)) as client:
        assert client.set("redis", b"\0\xff")
        assert client.get("redis") == b"\0\xff"
    with redis.Redis.from_url(server.url, ssl_ca_certs=str(server.ca)) as client:
        with pytest.raises(redis.AuthenticationError):
            client.get("redis")
    with redis.Redis.from_url(server.url, password=server.password) as client:
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            client.get("redis")


def test_etcd_puts_and_gets(etcd_server: Server) -> None:
    import etcd3gw

    client = etcd3gw.client(HOST, etcd_server.port)
    client.session.trust_env = False  # a proxy cannot reach this host's loopback interface
    client.put("etcd", b"\0\xff")
    assert client.get("etcd") == [b"\0\xff"]
    client.session.close()


def test_zookeeper_creates_and_gets(zookeeper_server: Server) -> None:
    import kazoo.client

    client = kazoo.client.KazooClient(zookeeper_server.url)
    client.start()
    client.create("/zookeeper-test", b"\0\xff")
    assert client.get("/zookeeper-test")[0] == b"\0\xff"
    client.stop()
    client.close()


# -- where, and until when ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["redis_server", "redis_tls_server", "etcd_server", "zookeeper_server"])
def test_listens_on_the_loopback_interface_only(name: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(name)
    where = listening(server.pid)
    assert (HOST, server.port) in where
    assert {address for address, _ in where} == {HOST}


@every_server
def test_nothing_is_left(running: Running) -> None:
    with running() as server:
        assert server.log.exists()
        assert psutil.pid_exists(server.pid)
    assert not psutil.pid_exists(server.pid)
    assert not server.log.parent.exists()


def test_nothing_is_left_after_a_failure() -> None:
    with pytest.raises(KeyError):
        with running_redis() as server:
            raise KeyError
    assert not psutil.pid_exists(server.pid)
    assert not server.log.parent.exists()


@every_server
def test_ends_when_the_tests_are_killed(running: Running, tmp_path: Path) -> None:
    with running():
        pass  # or the test is skipped
    program = f"import servers\nwith servers.{running.__name__}() as server: print(server.pid, flush=True), input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(servers.__file__).parent,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # nobody is left to remove its folder
    ) as tests:
        assert tests.stdout is not None
        server = os.pidfd_open(int(tests.stdout.readline()))
        tests.kill()
    try:
        assert select.select([server], [], [], 10.0)[0]  # readable once the process has ended, whoever waits for it
    finally:
        os.close(server)


# -- starting -----------------------------------------------------------------------------------------------------------


@every_server
def test_another_port_if_the_first_is_taken_by_a_server_of_the_kind(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as first:
        ports = iter([first.port, servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))
        with running() as second:
            assert second.port != first.port
            assert second.pid != first.pid


def test_log_is_shown_if_a_server_does_not_start() -> None:
    servers.require("redis-server", "redis-server", client="redis")
    with pytest.raises(AssertionError, match="Bad directive"):
        with servers.running("redis://", lambda port, folder: ["redis-server", "--nonsense", port], b"PING\r\n", b"+PONG"):
            pass


def test_skipped_if_a_package_is_not_installed() -> None:
    with pytest.raises(pytest.skip.Exception, match="no etcd-server: apt-get install etcd-server"):
        servers.require("etcd-server", "etcd-of-another-name", client="pytest")
    with pytest.raises(pytest.skip.Exception, match="no client_of_another_name: pip install client_of_another_name"):
        servers.require("python3", sys.executable, client="client_of_another_name")
