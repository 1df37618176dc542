"""On the communicator of a running MPI job: mpiexec -n 4 python -m pytest --with-mpi tests/test_on_communicator.py

Without --with-mpi, one test starts just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from launch import Job
from operations import OPERATIONS

from gloompi import Context

SECONDS = 20.0  # a rank whose test has failed leaves the others waiting


@pytest.fixture(scope="module")
def world() -> Iterator[Context]:
    """A Context of MPI.COMM_WORLD."""
    with Context.from_mpi(timeout=SECONDS, connect_timeout=SECONDS) as ctx:
        yield ctx


@pytest.mark.mpi
def test_context_has_the_ranks_of_the_communicator(world: Context) -> None:
    from mpi4py import MPI

    assert (world.rank, world.size) == (MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size())
    assert [peer.rank for peer in world.peers] == list(range(world.size))


@pytest.mark.mpi
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(world: Context, operation: str) -> None:
    OPERATIONS[operation](world)


@pytest.mark.mpi(min_size=2)
def test_ranks_are_connected_over_unix_sockets_or_tcp(world: Context) -> None:
    transports = {peer.transport for peer in world.peers if peer.rank != world.rank}
    assert transports <= {"unix", "tcp"}
    assert world.peers[world.rank].transport == "self"


@pytest.mark.mpi(min_size=2)
def test_results_are_those_of_mpi(world: Context) -> None:
    from mpi4py import MPI

    x = np.random.default_rng(world.rank).standard_normal(10_000)
    expected = np.empty_like(x)
    MPI.COMM_WORLD.Allreduce(x, expected)
    np.testing.assert_allclose(world.allreduce(x), expected, rtol=1e-12, atol=1e-12)
    MPI.COMM_WORLD.Allreduce(x, expected, MPI.MAX)
    np.testing.assert_array_equal(world.allreduce(x, op="max"), expected)


@pytest.mark.mpi(min_size=3)
def test_split_communicators_side_by_side(world: Context) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Split(world.rank % 2, world.rank)
    try:
        with Context.from_mpi(comm, timeout=SECONDS, connect_timeout=SECONDS) as part:
            members = range(world.rank % 2, world.size, 2)
            assert part.size == len(members)
            assert part.allreduce(world.rank) == sum(members)
            assert world.allreduce(world.rank) == sum(range(world.size))
    finally:
        comm.Free()


@pytest.mark.mpi_skip
def test_these_tests_under_mpiexec(mpi_jobs: None) -> None:
    options = ("-q", "--tb=short", "--color=no", "-p", "no:cacheprovider", "--with-mpi")
    done = Job(4, "-m", "pytest", *options, Path(__file__).resolve(), env={"PYTHONUNBUFFERED": ""}).finish(100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    # All but this one; the lines of the ranks may mix.
    assert f"{4 + len(OPERATIONS)} passed, 1 deselected" in done.stdout
