"""The terminal that shows what this rank prints: most launchers read it through a pipe and print it themselves."""

from __future__ import annotations

import os
import stat

import psutil
from rich.console import Console

from ..launcher import started_by

__all__ = ["console"]

# Names of the processes that print what their ranks do.
_LAUNCHERS = ("mpiexec", "mpirun", "orterun", "prterun")
_PLAIN_WIDTH = 140
# For terminals that do not tell.
_USUAL_WIDTH = 80


def console(stderr: bool = False) -> Console:
    """A console for stdout or stderr, in colour and as wide as the terminal if there is one at the end.

    COLUMNS, where it is set, says how wide.
    """
    width, asked = _terminal_width(2 if stderr else 1), os.environ.get("COLUMNS", "")
    columns = int(asked) if asked.isdecimal() else 0
    if width is None:
        return Console(stderr=stderr, force_terminal=False, width=columns or _PLAIN_WIDTH, soft_wrap=not columns)
    return Console(stderr=stderr, force_terminal=True, width=columns or width or _USUAL_WIDTH)


def _terminal_width(fd: int) -> int | None:
    """Columns of the terminal at the end of a file descriptor, 0 if it does not say; None if there is none."""
    try:
        owner = _printing_process()
        path = f"/proc/{owner}/fd/{fd}"
        if owner is None or not stat.S_ISCHR(os.stat(path).st_mode):
            return None
        terminal = os.open(path, os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.get_terminal_size(terminal).columns
        finally:
            os.close(terminal)
    except (OSError, psutil.Error):  # no terminal, or one of another user
        return None


def _printing_process() -> int | None:
    """The process whose file descriptors the text comes out of; None if it is not on this host."""
    for parent in psutil.Process().parents():
        if parent.name().startswith(_LAUNCHERS):
            return int(parent.pid)
    launcher = started_by()
    # Open MPI gives its ranks pseudo terminals of its own, whatever its own output goes to.
    return None if launcher is not None and launcher.name == "Open MPI" else os.getpid()
