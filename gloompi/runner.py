"""Running a program that was written for mpi4py: ``python -m gloompi script.py``."""

from __future__ import annotations

import os
import runpy
import sys
import time
import traceback
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

from .errors import GloompiError

__all__ = ["run"]

# A rank that another one has told of its end leaves it to that one to end the job, with its exit code.
_CULPRIT_SECONDS = 2.0


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
        traceback.print_exception(type(exc), exc, _of_the_program(exc.__traceback__))
        _end(exc, 1)
    return 0


def _of_the_program(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that run the program."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        inner = inner.tb_next
    return inner or trace


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

    MPI._world.fail(exc)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the program may have closed it
            stream.flush()
    if isinstance(exc, GloompiError) and exc.reported_by is not None:
        time.sleep(_CULPRIT_SECONDS)
    MPI._world.end_job(code)
    raise AssertionError("the process has ended")
