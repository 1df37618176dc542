"""Run mpi4py's own tests over gloompi.MPI, and count what passes: docs/conformance.md.

    python tests/conformance.py [--ranks 1,2,3,4,5] [--files core|all|NAME,...] [--write docs/conformance.md]

Uses the mpiexec beside the python in use: once in an environment with MPICH and once in one with Open MPI covers both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from launch import Job, vendor
from shim import build, unavailable
from sources import tests_of_mpi4py
from verdicts import Outcome, Result, merge, read

CORE = (
    *("test_cco_obj", "test_cco_buf", "test_cco_vec", "test_cco_nb_buf", "test_cco_nb_vec"),
    *("test_p2p_obj", "test_p2p_buf", "test_msgzero", "test_p2p_buf_matched", "test_p2p_obj_matched"),
)
LATER = ("test_cco_pr_buf", "test_cco_pr_vec", "test_msgspec", "test_op", "test_request", "test_status", "test_util_pkl5")

_ADDRESSES = "needs datatypes of absolute addresses, for MPI.BOTTOM"
_INTER = "needs intercommunicators, which gloompi.MPI has not"
# File, pattern of classes, method, why: what cannot work without an MPI that communicates.
EXCLUDED = (
    ("test_p2p_buf", "*", "testConstructor", "needs the C handle of an MPI request"),
    ("test_p2p_obj", "*", "testCommLock", "looks into mpi4py's table of locks, one of its internals"),
    ("test_cco_vec", "*", "testAlltoallwBottom", _ADDRESSES),
    ("test_cco_nb_vec", "*", "testAlltoallwBottom", _ADDRESSES),
    ("test_cco_pr_vec", "*", "testAlltoallwBottom", _ADDRESSES),
    ("test_msgspec", "TestMessageVectorW", "testMessageBottom", _ADDRESSES),
    ("test_msgspec", "TestMessageRMA", "*", "one-sided"),
    ("test_util_pkl5", "*World", "test*Inter", _INTER),
    ("test_util_pkl5", "*World", "testBigMPI", _INTER),
)

# Seconds for one file on one number of ranks.  On two cores, 3 ranks need 3 s for the slowest over MPI, and 5 ranks 27 s:
# MPICH's ranks spin while they wait.
LIMIT = 120.0


def run(
    file: str,
    ranks: int,
    *,
    facade: bool = True,
    shim: Path | None = None,
    only: str | None = None,
    limit: float = LIMIT,
    tests: Path | None = None,
) -> Result:
    """Run one file of mpi4py's tests on a number of ranks.

    Parameters
    ----------
    file : str
        Its name, without ``.py``.
    facade : bool
        Over gloompi.MPI, without what is excluded; else all of it over mpi4py.MPI.
    shim : Path, optional
        The library of `shim.py`: refuse MPI's communication functions while the tests run.
    only : str, optional
        A pattern of ``Class.method``: run no others.
    limit : float
        Seconds; what has not finished by then has failed.
    tests : Path, optional
        The folder with the file. Default: mpi4py's.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as journal:
        settings = {
            "tests": str(tests or tests_of_mpi4py()),
            "file": file,
            "journal": journal,
            "facade": facade,
            "shim": str(shim) if shim else None,
            "excluded": [(classes, method) for name, classes, method, _ in EXCLUDED if name == file] if facade else [],
            "only": only,
            "limit": limit,
        }
        start, problem = time.monotonic(), ""
        try:
            # The ranks write down where they are when the time is over, which takes them a moment.
            done = Job(ranks, "conform.py", json.dumps(settings)).finish(limit + 10)
            if done.returncode != 0:
                problem = f"the job ended with exit code {done.returncode}: {done.stderr.strip()[-2000:]}"
        except AssertionError as exc:
            problem = str(exc)[-2000:]
        result = merge(file, read(Path(journal), ranks), problem)
    return replace(result, seconds=time.monotonic() - start)


def table(results: Sequence[Result]) -> str:
    """The results as a table in Markdown: a row per file, a column per number of ranks."""
    sizes = sorted({result.ranks for result in results})
    files = list(dict.fromkeys(result.file for result in results))
    by_place = {(result.file, result.ranks): result for result in results}
    rows = [["file", "methods", "instances", "excluded", *map(_ranks, sizes)]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for file in files:
        here = [by_place[file, size] for size in sizes if (file, size) in by_place]
        row = [file, _same(result.methods for result in here), _same(len(result.verdicts) for result in here)]
        row.append(_same(result.count("excluded") for result in here))
        rows.append([*row, *(_cell([by_place[file, size]]) if (file, size) in by_place else "" for size in sizes)])
    columns = [[result for result in results if result.ranks == size] for size in sizes]
    total = ["all", _same(sum(result.methods for result in column) for column in columns)]
    total.append(_same(sum(len(result.verdicts) for result in column) for column in columns))
    total.append(_same(sum(result.count("excluded") for result in column) for column in columns))
    rows.append([*total, *(_cell(column) for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(results: Sequence[Result]) -> str:
    outcomes: tuple[Outcome, ...] = ("passed", "skipped", "failed")
    return " / ".join(str(sum(result.count(outcome) for result in results)) for outcome in outcomes)


def _ranks(number: int) -> str:
    return "1 rank" if number == 1 else f"{number} ranks"


def _same(numbers: Iterable[int]) -> str:
    """One number, if it is the same for all numbers of ranks."""
    return ", ".join(map(str, dict.fromkeys(numbers)))


def refused(results: Sequence[Result]) -> dict[str, int] | None:
    """How many calls of which of MPI's communication functions there were; None: they were not counted everywhere."""
    total: Counter[str] = Counter()
    for result in results:
        if result.refused is None:
            return None
        total += Counter(result.refused)
    return dict(total)


def summary(results: Sequence[Result], command: str) -> str:
    """The table with what it is a table of, in Markdown."""
    library = next((result.library for result in results if result.library), "unknown MPI")
    # Open MPI also says who built it, and where.
    title = f"mpi4py {version('mpi4py')}, {' '.join(library.partition(',')[0].split())}: `{command}`"
    counted = refused(results)
    if counted is None:
        calls = "Calls of MPI's communication functions were not counted."
    else:
        names = ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
        calls = f"Calls of MPI's communication functions: {sum(counted.values())}{f' ({names})' if names else ''}."
    return f"{title}\n\n{table(results)}\n\nPassed / skipped by the test itself / failed. {calls}"


def write_section(page: Path, name: str, text: str) -> None:
    """Put a text between the two comments of a page that bear this name, in place of what is there."""
    begin, end = f"<!-- tables: {name} -->", f"<!-- end of tables: {name} -->"
    content = page.read_text()
    if begin not in content or end not in content:
        raise SystemExit(f"{page} lacks the comments {begin} and {end}: nothing was written")
    before, _, rest = content.partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def failures(result: Result) -> str:
    """What has failed, and its messages."""
    lines = [f"{result.file}: {result.problem}"] if result.problem else []
    for instance, verdict in result.verdicts.items():
        if verdict.outcome == "failed":
            lines.append(f"{result.file} {instance}: {verdict.message}")
    return "\n".join(f"[{_ranks(result.ranks)}] {line}" for line in lines)


def main() -> int:
    """Run what the command line asks for; return 0 if all that is not excluded passed or was skipped by itself."""
    parser = argparse.ArgumentParser(description="Run mpi4py's own tests over gloompi.MPI.")
    parser.add_argument("--ranks", default="1,2,3,4,5", help="numbers of ranks, with commas")
    parser.add_argument("--files", default="core", help="core, all, or names with commas")
    parser.add_argument("--only", metavar="PATTERN", help="run only the instances CLASS.METHOD that fit it")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one file on one number of ranks")
    parser.add_argument("--direct", action="store_true", help="over mpi4py.MPI itself, with nothing excluded")
    parser.add_argument("--no-shim", action="store_true", help="do not refuse and count MPI's communication calls")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page, docs/conformance.md")
    options = parser.parse_args()
    if options.write and (options.direct or options.no_shim or options.only):
        parser.error("--write is for complete runs: not with --direct, --no-shim or --only")
    files = {"core": CORE, "all": CORE + LATER}.get(options.files, options.files.split(","))
    sizes = [int(size) for size in options.ranks.split(",")]

    results = []
    with tempfile.TemporaryDirectory(prefix="shim-") as folder:
        shim = None
        if not options.direct and not options.no_shim:
            reason = unavailable()
            if reason is not None:
                parser.error(f"{reason}; --no-shim goes without counting MPI's calls")
            shim = build(Path(folder))
        for size in sizes:
            for file in files:
                result = run(file, size, facade=not options.direct, shim=shim, only=options.only, limit=options.limit)
                results.append(result)
                print(f"{file}, {_ranks(size)}, {result.seconds:.1f} s: {_cell([result])}", file=sys.stderr, flush=True)
                print(failures(result), end="\n" * bool(failures(result)), flush=True)

    text = summary(results, f"python tests/conformance.py --ranks {options.ranks} --files {options.files}")
    print(text)
    if options.write:
        write_section(options.write, vendor(), text)
    failed = sum(result.count("failed") for result in results)
    return 1 if failed or refused(results) else 0


if __name__ == "__main__":
    sys.exit(main())
