"""Random programs over gloompi.MPI and over mpi4py.MPI: ``python tests/differential.py --programs 20000 --seed 1``.

Programs run in jobs of many, one job per number of ranks at a time.  Of a program whose results differ, or that does
not end, the smallest part that still fails is looked for and printed, with the command that runs it once more.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import Job
from minimising import shrink
from programs import Program, random_programs

# Marks of reasons: the first is jobs/compare.py's.
NOT_CORRECT, DID_NOT_END = "is not correct, mpi4py has raised", "did not end"

GLOOMPI, MPI4PY = "gloompi.MPI", "mpi4py.MPI"
SIZES = (2, 3, 4, 5)

# Programs of one call of hypothesis and of one job: with fewer, starting jobs would take most of the time.
BATCH = 500

# Seconds for a program: some hundred times what the slowest needs on a machine that does nothing else.
PATIENCE = 60.0


@dataclass(frozen=True)
class Failure:
    """Program `number` of those given differed, or did not end, for `reason`."""

    number: int
    reason: str


def compare(
    programs: Sequence[Program],
    size: int,
    *,
    module: str = GLOOMPI,
    patience: float = PATIENCE,
    env: dict[str, str] | None = None,
    most: int | None = None,
) -> list[Failure]:
    """Run programs on `size` ranks over `module` and over mpi4py.MPI; return those that failed, `most` at most."""
    failures: list[Failure] = []
    first = 0
    while first < len(programs) and (most is None or len(failures) < most):
        failure = _first_failure(programs, first, size, module, patience, env)
        if failure is None:
            break
        failures.append(failure)
        first = failure.number + 1
    return failures


def _first_failure(
    programs: Sequence[Program], first: int, size: int, module: str, patience: float, env: dict[str, str] | None
) -> Failure | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "programs.json")
        file.write_text(json.dumps(programs))
        job = Job(size, "compare.py", module, file, first, folder, patience, env=env)
        done = job.finish(60 + patience + 2 * (len(programs) - first))
        notes = []
        for rank in range(size):
            path = Path(folder, f"{rank}.jsonl")
            lines = path.read_text().splitlines() if path.exists() else []
            notes.append([json.loads(line) for line in lines])
        traces = [Path(folder, f"{rank}.trace") for rank in range(size)]
        texts = [trace.read_text() if trace.exists() else "" for trace in traces]
    differences = [
        (note["ended"], f"rank {rank}: {note['difference']}")
        for rank, told in enumerate(notes)
        for note in told
        if note.get("difference")
    ]
    if all(told and "over" in told[-1] for told in notes) and done.returncode == 0:
        return Failure(differences[0][0], "\n".join(text for _, text in differences)) if differences else None
    begun = [max((note["begun"] for note in told if "begun" in note), default=first) for told in notes]
    number = min(begun)
    ends = [_end(rank, told) for rank, told in enumerate(notes)]
    output = f"exit code {done.returncode}\n{done.stdout}{done.stderr}"[-3000:]
    tracebacks = [f"rank {rank}:\n{text}" for rank, text in enumerate(texts) if text]
    found = [text for at, text in differences if at == number]
    return Failure(number, "\n".join([*ends, *found, output, *tracebacks]))


def _end(rank: int, notes: list[dict[str, object]]) -> str:
    if not notes:
        return f"rank {rank} did not begin"
    last = notes[-1]
    if "begun" in last:
        return f"rank {rank} {DID_NOT_END} program {last['begun']} over mpi4py.MPI"
    if "expected" in last:
        return f"rank {rank} {DID_NOT_END} program {last['expected']} over the other module"
    return f"rank {rank} ended program {last['ended']}" if "ended" in last else f"rank {rank} ended all but did not exit"


def smallest(
    program: Program,
    size: int,
    *,
    module: str = GLOOMPI,
    patience: float = 10.0,
    env: dict[str, str] | None = None,
    trials: int = 120,
    seconds: float = 120.0,
) -> tuple[Program, str]:
    """Shrink a program that fails, each trial a job; return it, and its reason or that it did not fail alone."""
    deadline = time.monotonic() + seconds

    def reason(candidate: Program) -> str:
        return "".join(failure.reason for failure in compare([candidate], size, module=module, patience=patience, env=env))

    def kind(reason: str) -> str:
        return next((mark for mark in (NOT_CORRECT, DID_NOT_END) if mark in reason), "differs" if reason else "")

    def fails(candidate: Program) -> bool:
        return time.monotonic() < deadline and kind(reason(candidate)) == first_kind

    first_kind = kind(reason(program))
    if not first_kind:
        return program, "it did not fail when it ran alone: it depends on timing, or on the programs before it"
    found = shrink(program, fails, trials)
    return found, reason(found) or "the smallest program fails only sometimes"


def described(
    failure: Failure, key: int, programs: Sequence[Program], size: int, *, trials: int = 120, **options: str
) -> str:
    """A failure for people: which program, the smallest that fails, and how to run that."""
    small, reason = smallest(programs[failure.number], size, trials=trials, **options)
    text = json.dumps(small)
    return (
        f"program {failure.number} of seed {key} at {size} ranks: {failure.reason}\n\n"
        f"smallest program: {text}\n{reason}\n\n"
        f"once more: python tests/differential.py --size {size} --program {shlex.quote(text)}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=500, help="how many, over all numbers of ranks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, action="append", help=f"ranks; may be repeated; default {SIZES}")
    parser.add_argument("--module", default=GLOOMPI, help="the module that is compared with mpi4py.MPI")
    parser.add_argument("--reference-only", action="store_true", help="mpi4py.MPI on both sides: are the programs correct?")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    parser.add_argument("--trials", type=int, default=120, help="jobs to shrink each failure with; 0 keeps it as it is")
    parser.add_argument("--program", help="run this program, JSON, instead of random ones")
    given = parser.parse_args()
    module, sizes = MPI4PY if given.reference_only else given.module, given.size or SIZES
    if given.program is not None:
        failed = False
        for size in sizes:
            for failure in compare([json.loads(given.program)], size, module=module):
                failed = True
                print(f"at {size} ranks: {failure.reason}")
        return int(failed)
    began, run, failed_programs = time.monotonic(), 0, 0
    for batch in range(-(-given.programs // BATCH)):
        number = min(BATCH, given.programs - batch * BATCH)
        key = given.seed * 10_000 + batch
        programs, size = random_programs(number, key), sizes[batch % len(sizes)]
        failures = compare(programs, size, module=module, most=given.failures - failed_programs)
        for failure in failures:
            print(described(failure, key, programs, size, module=module, trials=given.trials), flush=True)
        run, failed_programs = run + number, failed_programs + len(failures)
        print(f"{run} programs, {failed_programs} failures, {time.monotonic() - began:.0f} s ({size} ranks)", flush=True)
        if failed_programs >= given.failures:
            break
    return int(failed_programs > 0)


if __name__ == "__main__":
    sys.exit(main())
