"""The command ``python -m gloompi.bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..context import Context
from ..errors import GloompiError
from ..stores.remote import extra
from .cliffs import CLIFFS
from .document import to_csv, to_json
from .heading import heading, heading_text
from .line import Line
from .options import Options, parse
from .rendezvous import measure_rendezvous, text
from .screen import screen
from .slope import Slope, measure_cliffs
from .slope import text as slope_text
from .survey import PeerError, Survey, cases, groups
from .table import table
from .timing import WrongResultError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line ``python -m gloompi.bench``; collective over the ranks of MPI.COMM_WORLD.

    Raises
    ------
    SystemExit
        2 if the command line has no meaning, 1 if something could not be measured; the same on all ranks, with a message
        on rank 0.
    """
    options = parse(arguments)
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    try:
        options.check(comm.Get_size())
    except ValueError as exc:
        raise SystemExit(_say(comm, exc, 2)) from None
    try:
        _check_report(comm, options)
        if options.what == "rendezvous":
            _rendezvous(comm, options)
        elif options.what == "cliffs":
            _cliffs(comm, options)
        else:
            _operations(comm, options)
    except (GloompiError, PeerError, WrongResultError, ReportError) as exc:
        raise SystemExit(_say(comm, exc, 1)) from None


class ReportError(Exception):
    """Rank 0 could not report what was measured."""


def _say(comm: Any, exc: Exception, code: int) -> int:
    if comm.Get_rank() == 0:
        print(f"gloompi bench: {exc}", file=sys.stderr, flush=True)
    return code


def _check_report(comm: Any, options: Options) -> None:
    """Raise, on all ranks, what would keep rank 0 from its report: before anything is measured."""
    failure = None
    if comm.Get_rank() == 0:
        try:
            with extra("bench", "the picture"):
                if options.plot:
                    import matplotlib  # noqa: F401
            for path in (options.json, options.csv, options.plot):
                if path not in (None, "-"):
                    with open(path, "ab"):
                        pass
        except (ImportError, OSError, ValueError) as exc:
            failure = str(exc)
    failure = comm.bcast(failure)
    if failure is not None:
        raise ReportError(failure)


def _rendezvous(comm: Any, options: Options) -> None:
    facts = measure_rendezvous(comm, options)
    if comm.Get_rank() == 0:
        if options.prints_table:
            print(text(facts), flush=True)
        _write(options.json, json.dumps(facts))


def _cliffs(comm: Any, options: Options) -> None:
    with Context.from_mpi(comm, timeout=None) as world:
        facts = heading(world, options)
        about = "\n".join(heading_text(facts).splitlines()[:2])
        with screen(world.rank, len(CLIFFS), options.prints_table) as shown:
            if options.prints_table:
                shown.show(f"{about}\nratio: gloompi's / the other's; slope on logarithmic axes: 1 is linear, 2 quadratic")

            def report(slope: Slope) -> None:
                if options.prints_table:
                    shown.show("\n" + slope_text(slope))

            slopes = measure_cliffs(comm, options, report, shown.advance)
    if comm.Get_rank() == 0:
        _write(options.json, json.dumps({**facts, "cliffs": [slope.to_json() for slope in slopes]}, indent=2))
        if options.plot:
            from .plot import plot_slopes

            plot_slopes(slopes, about.partition("\n")[0], options.plot)


def _write(path: str | None, content: str) -> None:
    if path == "-":
        print(content.removesuffix("\n"), flush=True)
    elif path is not None:
        Path(path).write_text(content.removesuffix("\n") + "\n")


def _operations(comm: Any, options: Options) -> None:
    from mpi4py import MPI

    plan = groups(options, comm.Get_size())
    total = sum(len(cases(options, size, operation)) for size, operations in plan for operation in operations)
    lines: list[Line] = []
    with Context.from_mpi(comm, timeout=None) as world:
        facts = heading(world, options)
        with screen(world.rank, total, options.prints_table) as shown:
            if options.prints_table:
                shown.show(heading_text(facts))

            def report(found: list[Line]) -> None:
                lines.extend(found)
                if options.prints_table:
                    shown.show("\n" + table(found, survey.used))

            survey = Survey(options, report, shown.advance)
            failure: Exception | None = None
            for size, operations in plan:
                part = comm.Split(0 if world.rank < size else MPI.UNDEFINED, world.rank)
                if world.rank < size:
                    try:
                        survey.run(part, operations)
                    except (PeerError, WrongResultError) as exc:
                        failure = exc
                    part.Free()
                # The ranks that have no part in it sleep here.
                failure = world.broadcast_object(failure)
                if failure is not None:
                    break
            notes = [*_left_out(options, plan), *survey.notes]
            if options.prints_table and notes and failure is None:
                shown.show("\n" + "\n".join(f"note: {note}" for note in notes))
    if failure is not None:
        raise failure
    if comm.Get_rank() == 0:
        _write(options.json, to_json(facts, lines, survey.used, notes))
        _write(options.csv, to_csv(facts, lines))
        if options.plot:
            from .plot import plot

            plot(lines, heading_text(facts).partition("\n")[0], options.plot)


def _left_out(options: Options, plan: list[tuple[int, tuple[str, ...]]]) -> list[str]:
    measured = {operation for _, operations in plan for operation in operations}
    return [f"{each} left out: it needs 2 ranks" for each in options.operations if each not in measured]
