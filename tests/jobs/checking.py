"""Runs the checks of a module of tests/jobs/checks over gloompi.MPI, and those that can be compared over mpi4py.MPI too.

Arguments: the module's name, the number of the first check to run.  A check is a function of an MPI module and a
communicator of all ranks; it raises, or returns what is compared.  Every check has connections of its own, so that one
that fails does not disturb the next.  Ends at a check that does not come to an end: then the next run begins after it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from mpi4py import MPI as mpi

import gloompi.MPI
from gloompi.facade.communicator import CommContext

# What an operation of gloompi may take, and what a check may take altogether.
TIMEOUT, LIMIT = 8.0, 25.0
Check = Callable[[Any, Any], Any]


def over_gloompi(check: Check) -> Any:
    context = CommContext.from_mpi(timeout=TIMEOUT)
    comm = gloompi.MPI.Intracomm._of(context, "communicator of the check")
    try:
        result = check(gloompi.MPI, comm)
        if comm:
            comm.Barrier()
            comm.Free()
        context.close()
    except BaseException as exc:
        context.abort(f"{type(exc).__name__}: {exc}")
        raise
    return result


def over_mpi(check: Check) -> Any:
    comm = mpi.COMM_WORLD.Dup()
    result = check(mpi, comm)
    if comm:
        comm.Free()
    return result


def error_of(check: Check) -> str | None:
    found, error = None, None
    try:
        found = over_gloompi(check)
    except BaseException:
        error = traceback.format_exc()
    # All ranks or none go on to mpi4py, where nobody notices that one is missing.
    failed = mpi.COMM_WORLD.allreduce(error is not None, mpi.LOR)
    compared = check.compared  # type: ignore[attr-defined]
    if failed or not compared or (compared == "by MPICH" and "MPICH" not in mpi.Get_library_version()):
        return error
    try:
        expected = over_mpi(check)
    except BaseException:
        print("over mpi4py.MPI:", traceback.format_exc(), file=sys.stderr, flush=True)
        mpi.COMM_WORLD.Abort(1)
        raise
    return None if found == expected else difference(found, expected)


def difference(found: Any, expected: Any, path: str = "result") -> str:
    """Where two results differ first."""
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        for i, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            if mine != theirs:
                return difference(mine, theirs, f"{path}[{i}]")
    return f"{path}: gloompi.MPI has {found!r:.500}, mpi4py.MPI {expected!r:.500}"


def main() -> None:
    name, first = sys.argv[1], int(sys.argv[2])
    module = importlib.import_module(f"checks.{name}")
    rank = mpi.COMM_WORLD.Get_rank()
    warnings.simplefilter("error")
    for number, check in enumerate(module.CHECKS[first:], first):
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        os.write(1, (json.dumps({"rank": rank, "ended": number, "error": error_of(check)}) + "\n").encode())
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
