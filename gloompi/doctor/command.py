"""The command ``python -m gloompi doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from ..deadline import Deadline
from ..errors import GloompiError, RendezvousError
from ..launcher import started_by
from ..rendezvous.environment import exchange_from_env
from ..rendezvous.exchange import Exchange
from ..reports import picture
from ..secret import shared_secret
from ..settings import SETTINGS
from ..stores.remote import extra
from .examination import Examination
from .facts import Facts
from .findings import Finding, diagnose, wrong
from .gathering import gather
from .measure import Measured, measure_all, measure_pair, patience, rounds
from .slowness import suspects
from .trial import Trial, try_out

__all__ = ["main"]

# Budget of one message while measuring; and how long a rank waits for the others' results. Once a rank has met trouble, the
# others have it too before their next message is due.
_MESSAGE_SECONDS = 30.0
_RESULT_SECONDS = 120.0
# What the other ranks leave rank 0 to say what it knows before they end the job.
_LAST_WORDS_SECONDS = 2.0
# Slow pairs are measured again one by one: not more than these.
_MAX_SUSPECTS = 16


def main(arguments: list[str]) -> int:
    """Examine the job that this process belongs to; collective over its ranks.

    Returns
    -------
    int
        Exit code, the same on all ranks: 0 if nothing is wrong, else 1.
    """
    options = _parser().parse_args(arguments)
    try:
        secret = shared_secret(None)
        with exchange_from_env(secret, Deadline(options.timeout)) as exchange:
            return _run(exchange, secret, options)
    except (GloompiError, ValueError, OSError, ImportError) as exc:
        print(f"gloompi doctor: {exc}", file=sys.stderr)
        if isinstance(exc, RendezvousError):
            _end_job()
        return 1


def _end_job() -> None:
    """End an MPI job in which a rank is late or stopped: MPI_Finalize, which comes next, would wait for it."""
    if "mpi4py.MPI" not in sys.modules:
        return
    from mpi4py import MPI

    if MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.Get_size() > 1:
        if MPI.COMM_WORLD.Get_rank() > 0:
            time.sleep(_LAST_WORDS_SECONDS)
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)


def _run(exchange: Exchange, secret: bytes, options: argparse.Namespace) -> int:
    # What rank 0 needs for its report is looked for first: it would be a pity afterwards.
    _only_rank_0(exchange, lambda: _check_report(options))
    exam = _examine(exchange, secret, options)
    findings = diagnose(exam)
    if exam.silence is not None:  # the ranks cannot agree on anything any more
        if exchange.rank == 0:
            _report(exam, findings, options)
        elif trouble := exam.trouble[exchange.rank]:
            print(f"gloompi doctor: {trouble}", file=sys.stderr)
        raise exam.silence
    _only_rank_0(exchange, lambda: _report(exam, findings, options))
    return int(wrong(findings))


def _only_rank_0(exchange: Exchange, action: Callable[[], None]) -> None:
    """Do something on rank 0; if it fails there, it fails everywhere, with the text on rank 0."""
    failure: Exception | None = None
    if exchange.rank == 0:
        try:
            action()
        except Exception as exc:  # whatever it is: the others must not wait for this rank
            failure = exc
    if gather(exchange, failure is not None, Deadline(_RESULT_SECONDS))[0]:
        raise failure or SystemExit(1)


class _Parser(argparse.ArgumentParser):
    """Says on one rank what all would say; without the rendezvous, which has yet to begin."""

    def error(self, message: str) -> NoReturn:
        launcher = started_by()
        if launcher is not None and launcher.rank:
            time.sleep(_LAST_WORDS_SECONDS)  # a launcher may end the job, and with it rank 0, when a rank ends
            raise SystemExit(2)
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m gloompi doctor",
        description="Examine the hosts and connections of a job before it runs: mpiexec -n 8 python -m gloompi doctor",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (environment variables) that change what it does, as they do for programs:\n"
        + "\n".join(f"  {setting.name:<23}{setting.meaning}" for setting in SETTINGS.values()),
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print everything as JSON, or write it to FILE")
    parser.add_argument(
        "--plot", type=picture, metavar="FILE", help="draw the matrix of all pairs to FILE (.png, .svg, .pdf)"
    )
    parser.add_argument("--timeout", type=_seconds, default=20.0, help="seconds to connect all pairs (default %(default)s)")
    parser.add_argument("--no-measure", action="store_true", help="only connect, do not measure")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be seconds > 0, not {text}")
    return value


def _examine(exchange: Exchange, secret: bytes, options: argparse.Namespace) -> Examination:
    mine = asdict(Facts.of_this_process(exchange.rank))
    facts = [Facts.from_json(fields) for fields in gather(exchange, mine, Deadline(options.timeout))]
    trial = try_out(exchange, None, secret, options.timeout, _MESSAGE_SECONDS)
    published = [[*(["AF_UNIX"] if endpoint.unix else []), *map(str, endpoint.addresses)] for endpoint in trial.endpoints]
    exam = Examination(facts, published, trial.failures, trial.outcomes, trial.encrypts)
    if not options.no_measure:
        with _progress(exchange.rank, exam.size) as progress:
            _measure(exchange, exam, trial, progress)
    if not any(exam.trouble) and exam.silence is None:
        trial.context.close()
    return exam


def _measure(exchange: Exchange, exam: Examination, trial: Trial, progress: Callable[[int, int], None]) -> None:
    rank, ctx = exchange.rank, trial.context
    found: dict[int, Measured] = {}
    trouble = ""
    try:
        # First one pair of each two hosts, so that no ranks share an interface; then all pairs.
        lone = [[exam.pair_between(*hosts) for hosts in each] for each in rounds(len(exam.hosts))]
        measure_all(ctx, [*lone, *rounds(exam.size)], exam.connected, found, progress)
    except GloompiError as exc:
        trouble = str(exc)
    _share(exchange, exam, found, trouble)
    # What was slow while others measured too may not be: once more, one pair after the other.
    slow = suspects(exam)[:_MAX_SUSPECTS]
    if slow and exam.complete and not any(exam.trouble) and exam.silence is None:
        try:
            for one, other in slow:
                ctx.barrier(timeout=patience(ctx))
                if rank in (one, other):
                    partner = other if rank == one else one
                    found[partner] = max(found[partner], measure_pair(ctx, partner), key=lambda each: each.bandwidth)
        except GloompiError as exc:
            trouble = str(exc)
        _share(exchange, exam, found, trouble)


def _share(exchange: Exchange, exam: Examination, found: dict[int, Measured], trouble: str) -> None:
    mine = {"trouble": trouble, "measured": {partner: asdict(each) for partner, each in found.items()}}
    try:
        rows = gather(exchange, mine, Deadline(_MESSAGE_SECONDS if trouble else _RESULT_SECONDS))
    except RendezvousError as exc:
        exam.silence = exc
        rows = [mine if rank == exchange.rank else {"trouble": "", "measured": {}} for rank in range(exchange.size)]
    exam.trouble = [row["trouble"] for row in rows]
    exam.measured = [{int(partner): Measured(**fields) for partner, fields in row["measured"].items()} for row in rows]


@contextmanager
def _progress(rank: int, size: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on rank 0's terminal; on others, and where there is no terminal, nothing."""
    if rank == 0 and size > 1 and importlib.util.find_spec("rich") is not None:
        from rich.progress import Progress

        from .terminal import console

        # Launchers forward stdout and stderr apart: on a terminal that has both, only what comes by one way is in order.
        out = console()
        out = out if out.is_terminal else console(stderr=True)
        with Progress(console=out, transient=True, disable=not out.is_terminal) as bar:
            task = bar.add_task("measuring pairs", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield lambda done, total: None


def _check_report(options: argparse.Namespace) -> None:
    """Raise what would keep rank 0 from its report."""
    with extra("doctor", "the doctor"):
        if options.json is None:
            import rich  # noqa: F401
        if options.plot:
            import matplotlib  # noqa: F401
    for path in (options.json, options.plot):
        if path not in (None, "-"):
            with open(path, "ab"):
                pass


def _report(exam: Examination, findings: list[Finding], options: argparse.Namespace) -> None:
    if options.json is None:
        from .terminal import console
        from .text import print_examination

        print_examination(exam, findings, console())
    else:
        everything = exam.to_json()
        everything["findings"] = [{**asdict(each), "severity": each.severity.name.lower()} for each in findings]
        everything["ok"] = not wrong(findings)
        text = json.dumps(everything, indent=2)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n")
    if options.plot:
        from .plot import plot

        plot(exam, options.plot)
