"""Running a program that was written for mpi4py: ``python -m gloompi script.py``."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from typing import NoReturn

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Run ``script.py args``, ``-m module args`` or ``-c code args`` with `mpi4py.MPI` replaced; return its exit code.

    If it ends with an exception here, the other ranks are told, and the job is ended.
    """
    import mpi4py

    from . import MPI

    sys.modules["mpi4py.MPI"] = MPI
    mpi4py.MPI = MPI
    try:
        _execute(arguments)
    except SystemExit as exc:
        code = exc.code
        if code in (None, 0):
            return 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        _end(SystemExit(exc.code), code)
    except BaseException as exc:
        traceback.print_exception(exc)
        _end(exc, 1)
    return 0


def _execute(arguments: list[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.realpath(first)))
        runpy.run_path(first, run_name="__main__")


def _end(exc: BaseException, code: int) -> NoReturn:
    """Tell the other ranks, and end the job, even ranks that are busy with something else."""
    from . import MPI

    sys.stdout.flush()
    sys.stderr.flush()
    MPI._world.fail(exc)
    MPI._world.end_job(code)
    os._exit(code)
