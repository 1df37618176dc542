"""What rank 0 prints while it measures: tables as they come, and a bar on a terminal (package rich)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Screen", "screen"]


class Screen:
    """Where text and progress go; by default the text to stdout, and the progress nowhere."""

    def __init__(
        self, show: Callable[[str], None] | None = None, advance: Callable[[str], None] = lambda what: None
    ) -> None:
        self.show = show or (lambda text: print(text, flush=True))
        self.advance = advance


@contextmanager
def screen(rank: int, total: int, prints_table: bool) -> Iterator[Screen]:
    """The screen of a rank; all but rank 0 show nothing.

    Launchers forward stdout and stderr apart: on a terminal that has both, only what comes by one way is in order.  So the
    bar is on stdout where tables and the bar share a terminal, else on stderr.

    Parameters
    ----------
    total : int
        How often `Screen.advance` will be called.
    """
    if rank != 0:
        yield Screen(lambda text: None)
        return
    if importlib.util.find_spec("rich") is None:
        yield Screen()
        return
    from rich.markup import escape
    from rich.progress import Progress

    from ..doctor.terminal import console

    out, err = console(), console(stderr=True)
    both = prints_table and out.is_terminal
    where = out if both else err
    if not where.is_terminal:
        yield Screen()
        return
    with Progress(console=where, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("measuring", total=total)
        done = iter(range(total + 1))

        def advance(what: str) -> None:
            bar.update(task, completed=next(done, total), description=escape(what))

        show = (lambda text: where.print(text, markup=False, highlight=False, soft_wrap=True)) if both else None
        yield Screen(show, advance)
