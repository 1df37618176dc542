"""Running a program that was written for mpi4py: ``python -m gloompi script.py``."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import time
import traceback
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import NoReturn

from .errors import GloompiError, is_clean

__all__ = ["run"]

# A rank that another one has told of its end leaves it to that one to end the job, with its exit code.
_CULPRIT_SECONDS = 2.0

# mpiexec drops what it has not passed on when a rank aborts; MPICH's has been seen to lose all but a line of a traceback.
_FORWARD_SECONDS = 0.3


def run(arguments: list[str]) -> int:
    """Run ``script.py args``, ``-m module args`` or ``-c code args`` with `mpi4py.MPI` replaced; return its exit code.

    If it ends with an exception here, the other ranks are told, and the job is ended.
    """
    import mpi4py

    from . import MPI

    process = os.getpid()
    sys.modules["mpi4py.MPI"] = MPI
    mpi4py.MPI = MPI
    try:
        _execute(arguments)
    except SystemExit as exc:
        if is_clean(exc):
            return 0
        if os.getpid() != process:
            raise
        code = exc.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        _end(exc, code)
    except BaseException as exc:
        if os.getpid() != process:
            raise  # a child that the program has forked, which is nobody's rank
        lines = traceback.format_exception(type(exc), exc, _of_the_program(exc.__traceback__))
        sys.stderr.write("".join(lines))  # in one piece, or it mixes with those of other ranks
        _end(exc, 1)
    return 0


def _of_the_program(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that run the program."""
    inner = trace
    while inner is not None and inner.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        inner = inner.tb_next
    return inner or trace


def _execute(arguments: list[str]) -> None:
    """Run a program as Python would have, with the same sys.argv, sys.path and __main__."""
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        _run(rest[0], "<string>")
    elif first == "-m":
        sys.argv = rest  # sys.path begins with the current folder, as `python -m gloompi` has put it there
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.realpath(first))
        with io.open_code(os.path.abspath(first)) as file:
            _run(file.read(), os.path.abspath(first))


def _run(source: str | bytes, path: str) -> None:
    main = sys.modules["__main__"] = ModuleType("__main__")  # what is pickled by name is looked up there
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    if path != "<string>":
        main.__file__ = path
    exec(compile(source, path, "exec"), vars(main))  # the user's program # nosec B102


def _end(exc: BaseException, code: int) -> NoReturn:
    """Tell the other ranks, and end the job, even ranks that are busy with something else."""
    from . import MPI

    MPI._world.fail(exc)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the program may have closed it
            stream.flush()
    told = isinstance(exc, GloompiError) and exc.reported_by is not None
    time.sleep(_CULPRIT_SECONDS if told else _FORWARD_SECONDS)
    MPI._world.end_job(code)
    raise AssertionError("the process has ended")
