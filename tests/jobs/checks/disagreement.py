"""Ranks that do not make the same calls: an error that says so on all of them, at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gloompi

from .registry import Registry

CHECKS = Registry()


def disagree(comm: Any, call: Callable[[], Any]) -> gloompi.MismatchError:
    """Every rank gets the same error in no time."""
    begun = time.monotonic()
    error = None
    try:
        result = call()
        if hasattr(result, "Wait"):
            result.Wait()
        comm.Barrier()  # a rank that needs nothing of the others learns of it here
    except gloompi.MismatchError as exc:
        error = exc
    assert time.monotonic() - begun < 5
    assert error is not None, "nothing was raised"
    # From then on the communicator is broken, with the same error.
    again = None
    try:
        comm.Barrier()
    except gloompi.MismatchError as exc:
        again = exc.operation
    assert again == error.operation
    return error


def check(call: Callable[[Any, Any, bool], Any]) -> None:
    """A check of what `call` does; its last argument is whether this rank is the odd one."""

    def check(MPI: Any, comm: Any) -> None:
        disagree(comm, lambda: call(MPI, comm, comm.rank == 1))
        comm.Free()

    check.__name__ = call.__name__
    CHECKS.ours(check)


@check
def bcast_of_other_length(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Bcast(np.zeros(4 if odd else 5))


@check
def long_bcast_of_other_length(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Bcast(np.zeros(300_000 if odd else 300_001))


@check
def bcast_from_another_root(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Bcast(np.zeros(4), 1 if odd else 0)


@check
def objects_from_another_root(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.bcast("x", 1 if odd else 0)


@check
def objects_here_and_buffers_there(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.bcast(None) if odd else comm.Bcast(np.zeros(4))


@check
def another_collective(MPI: Any, comm: Any, odd: bool) -> Any:
    x, out = np.zeros(4), np.zeros((comm.size, 4))
    return comm.Allreduce(x, np.zeros(4)) if odd else comm.Allgather(x, out)


@check
def nonblocking_of_another_collective(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Ibarrier() if odd else comm.Ibcast(np.zeros(4))


@check
def reduction_by_another_operator(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Allreduce(np.zeros(4), np.zeros(4), MPI.MAX if odd else MPI.SUM)


@check
def reduction_of_another_datatype(MPI: Any, comm: Any, odd: bool) -> Any:
    kind = "i8" if odd else "f8"
    return comm.Allreduce(np.zeros(4, kind), np.zeros(4, kind))


@check
def reduction_of_another_length(MPI: Any, comm: Any, odd: bool) -> Any:
    n = 5 if odd else 4
    return comm.Reduce(np.zeros(n), np.zeros(n))


@check
def gather_to_another_root(MPI: Any, comm: Any, odd: bool) -> Any:
    root = 1 if odd else 0
    return comm.Gather(np.zeros(2), np.zeros(2 * comm.size) if comm.rank == root else None, root)


@check
def alltoall_of_another_length(MPI: Any, comm: Any, odd: bool) -> Any:
    n = comm.size * (2 if odd else 3)
    return comm.Alltoall(np.zeros(n), np.zeros(n))


@check
def scan_by_another_operator(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Scan(np.zeros(4), np.zeros(4), MPI.PROD if odd else MPI.SUM)


@check
def reduce_scatter_by_other_counts(MPI: Any, comm: Any, odd: bool) -> Any:
    counts = [2] * comm.size
    if odd:
        counts[0], counts[2] = 3, 1
    return comm.Reduce_scatter(np.zeros(sum(counts)), np.zeros(counts[comm.rank]), counts)


@check
def gather_of_other_lengths_than_expected(MPI: Any, comm: Any, odd: bool) -> Any:
    counts = [2, 1, *[2] * (comm.size - 2)]
    return comm.Gatherv(np.zeros(2), [np.zeros(sum(counts)), counts] if comm.rank == 0 else None)


@check
def allgather_of_other_lengths_than_expected(MPI: Any, comm: Any, odd: bool) -> Any:
    counts = [2] * comm.size
    if odd:
        counts[2] = 1
    return comm.Allgatherv(np.zeros(2), [np.zeros(sum(counts)), counts])


@check
def scatter_of_other_lengths_than_expected(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Scatter(np.zeros(2 * comm.size) if comm.rank == 0 else None, np.zeros(1 if odd else 2))


@check
def alltoallv_of_other_lengths_than_expected(MPI: Any, comm: Any, odd: bool) -> Any:
    counts = [2] * comm.size
    received = [2, 2, 1] if odd else counts
    return comm.Alltoallv([np.zeros(sum(counts)), counts], [np.zeros(sum(received)), received])


@check
def dup_here_and_barrier_there(MPI: Any, comm: Any, odd: bool) -> Any:
    return comm.Barrier() if odd else comm.Dup()


@CHECKS.ours
def error_says_who_called_what(MPI: Any, comm: Any) -> None:
    odd = comm.rank == 1
    error = disagree(comm, lambda: comm.Allreduce(np.zeros(4), np.zeros(4), MPI.MAX if odd else MPI.SUM))
    operators = ("max", "sum") if error.rank == 1 else ("sum", "max")
    here, there = (f"allreduce({op}, <f8, count 4, algorithm recursive_doubling)" for op in operators)
    told = "" if error.reported_by is None else f" (reported by rank {error.reported_by})"
    assert 1 in (error.rank, error.other)
    assert str(error) == (
        f"ranks disagree on allreduce #1: rank {error.rank} called {here}, rank {error.other} called {there}; every rank "
        f"must make the same calls in the same order{told}"
    ), str(error)
    comm.Free()
