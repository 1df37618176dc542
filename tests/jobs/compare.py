"""Runs programs over mpi4py.MPI and over another such module, in one process, and writes down where the results differ.

Arguments: the other module's name, a file with a JSON list of programs, the number of the first to run, a folder for what
the ranks write down, the seconds that a program may take.  Ends after the first program with a difference: what the modules
are worth after it is not known.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from interpreter import RAISED, execute
from mpi4py import MPI

# A rank that is killed ends the job.  Before, all ranks have the time to write their traceback.
GRACE = 2


def difference(program: list[dict[str, Any]], expected: list[Any], found: list[Any]) -> str | None:
    """Where two results differ first, in a few words, or None.  What mpi4py does not accept is no correct program."""
    for number, (step, one, other) in enumerate(zip(program, expected, found, strict=False)):
        if one and one[0] == RAISED:
            return f"step {number} ({_named(step)}) is not correct, mpi4py has raised {one[1]}"
        if other and other[0] == RAISED:
            return f"step {number} ({_named(step)}): the other module has raised {other[1]}"
        if one != other:
            return f"step {number} ({_named(step)}): {_where(one, other)}"
    if len(expected) != len(found):
        return f"{len(expected)} and {len(found)} results"
    return None


def _named(step: dict[str, Any]) -> str:
    return " ".join(str(step[key]) for key in ("do", "call", "how", "mistake", "form") if key in step)


def _where(one: Any, other: Any, path: str = "") -> str:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return _where(a, b, f"{path}[{i}]")
    if isinstance(one, bytes) and isinstance(other, bytes) and len(one) == len(other):
        first = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        from_there = slice(first - first % 16, first - first % 16 + 16)
        return (
            f"result{path}: {len(one)} bytes differ from byte {first} on, mpi4py has "
            f"{one[from_there].hex(' ')}, the other {other[from_there].hex(' ')}"
        )
    return f"result{path}: mpi4py has {_short(one)}, the other {_short(other)}"


def _short(thing: Any) -> str:
    text = repr(thing)
    return text if len(text) <= 300 else text[:300] + " ..."


def main() -> None:
    module, file, first, folder, seconds = sys.argv[1:]
    programs = json.loads(Path(file).read_text())
    world = MPI.COMM_WORLD
    rank = world.Get_rank()
    other = importlib.import_module(module)
    with open(Path(folder, f"{rank}.jsonl"), "w") as notes, open(Path(folder, f"{rank}.trace"), "w") as trace:

        def note(**facts: Any) -> None:
            notes.write(json.dumps(facts) + "\n")
            notes.flush()

        for number in range(int(first), len(programs)):
            program = programs[number]
            faulthandler.dump_traceback_later(float(seconds), file=trace)
            signal.setitimer(signal.ITIMER_REAL, float(seconds) + GRACE)
            note(begun=number)
            expected = execute(program, MPI)
            # Two modules over one MPI have one channel: no message of the second run meets a receive of the first.
            world.Barrier()
            note(expected=number)
            found = difference(program, expected, execute(program, other))
            note(ended=number, difference=found)
            if world.allreduce(found is not None, MPI.LOR):
                break
        note(over=True)  # the alarm stays: Finalize can hang as well


if __name__ == "__main__":
    main()
