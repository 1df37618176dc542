"""The command line of the benchmark, as data.  What depends on the number of ranks is checked by `Options.check`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..reports import picture
from ..settings import TRANSPORTS, value
from ..transport.device import Device
from .case import OPERATIONS, OPERATORS
from .own import ALGORITHMS

__all__ = ["DEFAULT_OPERATIONS", "DEFAULT_SIZES", "PEERS", "Options", "parse", "parse_nbytes"]

PEERS = ("mpi", "gloo", "limit")
DEFAULT_OPERATIONS = ("allreduce", "broadcast", "allgather", "reduce_scatter", "alltoall", "send/recv")
DEFAULT_SIZES = (8, 1024, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
DEFAULT_COUNTS = (250, 1000, 4000)

# Calls that take so little that what they find in the caches counts.
SHORT_NBYTES = 64 << 10

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_DTYPES = tuple(np.dtype(code).name for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"))

_EPILOG = """\
The bytes of --sizes are those of the array that one rank passes; of gather and allgather, of the result; of scatter, of
what the root passes.  They are rounded to whole elements, and to the same number for each rank where it is cut up.

A time is that of the slowest rank of each call.  A ratio is gloompi's median over the other's: below 1, gloompi is faster.
send/recv is half a round trip of ranks 0 and 1, sendrecv sends to the next rank while it receives from the one before.

MPI over TCP, instead of the shared memory that it takes on one host:
  Open MPI  mpiexec --mca pml ob1 --mca btl tcp,self -n 2 python -m gloompi.bench --transport tcp
  MPICH     MPIR_CVAR_NOLOCAL=1 UCX_TLS=tcp,self mpiexec -n 2 python -m gloompi.bench --transport tcp
"""


@dataclass(frozen=True)
class Options:
    """What to measure and where to report it.

    Attributes
    ----------
    what : {"operations", "limit", "rendezvous", "cliffs"}
    operations, transports, algorithms, peers : tuple of str
    sizes : tuple of int
        Bytes.
    ranks : tuple of int
        Measure on the first so many ranks; empty for all of them.
    dtype, op : str
    seconds : float
        Budget of a line.
    streak : int
        Calls of up to `SHORT_NBYTES` that a candidate makes in a row.
    repeats : int
        Of the rendezvous, and of each count of a cliff.
    counts : tuple of int
        Of the cliffs.
    peers_asked : bool
        Whether the peers were named: then one that is not installed is an error.
    json, csv, plot : str or None
        File names, "-" for stdout.
    """

    what: str
    operations: tuple[str, ...]
    sizes: tuple[int, ...]
    ranks: tuple[int, ...]
    transports: tuple[str, ...]
    algorithms: tuple[str, ...]
    dtype: str
    op: str
    peers: tuple[str, ...]
    peers_asked: bool
    seconds: float
    streak: int
    repeats: int
    counts: tuple[int, ...]
    json: str | None
    csv: str | None
    plot: str | None

    @property
    def prints_table(self) -> bool:
        return "-" not in (self.json, self.csv)

    def check(self, size: int) -> None:
        """Raise ValueError if a job of `size` ranks cannot do it."""
        if self.what == "cliffs" and size < 2:
            raise ValueError("cliffs needs 2 ranks, one that sends and one that receives: start it with mpiexec -n 2")
        for count in self.ranks:
            if count > size:
                raise ValueError(
                    f"--ranks {count} needs {count} ranks, this job has {size}: start it with mpiexec -n {count}"
                )


class _Parser(argparse.ArgumentParser):
    """Says on rank 0 alone what all ranks have to say."""

    def error(self, message: str) -> NoReturn:
        if _rank() == 0:
            super().error(message)
        raise SystemExit(2)

    def print_help(self, file: Any = None) -> None:
        if _rank() == 0:
            super().print_help(file)


def _rank() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_rank())


def parse(arguments: Sequence[str] | None) -> Options:
    """Options from a command line; SystemExit(2), with a message on rank 0, if it has no meaning."""
    parser = _parser()
    given = parser.parse_args(arguments)
    default_peers = {"operations": ("mpi", "gloo"), "limit": ("limit",), "rendezvous": (), "cliffs": ("mpi",)}[given.what]
    peers = default_peers if given.peers is None else given.peers
    if given.what == "limit" and "limit" not in peers:
        peers = (*peers, "limit")
    try:
        transports = given.transport or (Device().transport,)
        for transport in transports:
            Device(transport=transport)
        if not value("GLOOMPI_PICKLE", True):
            raise ValueError(
                "GLOOMPI_PICKLE=off: unset it, because ranks tell each other what they have measured as objects"
            )
    except ValueError as exc:  # what the environment says
        parser.error(str(exc))
    options = Options(
        what=given.what,
        operations=given.operations,
        sizes=given.sizes,
        ranks=given.ranks,
        transports=transports,
        algorithms=given.algorithm,
        dtype=given.dtype,
        op=given.op,
        peers=peers,
        peers_asked=given.peers is not None,
        seconds=given.seconds,
        streak=given.streak,
        repeats=given.repeats,
        counts=given.counts,
        json=given.json,
        csv=given.csv,
        plot=given.plot,
    )
    if (problem := _problem(options)) is not None:
        parser.error(problem)
    return options


def _problem(options: Options) -> str | None:
    """What is wrong with options that are all right by themselves."""
    for name in options.algorithms:
        if name not in ("auto", "all") and not any(name in ALGORITHMS.get(each, ()) for each in options.operations):
            having = {each: ALGORITHMS[each] for each in options.operations if each in ALGORITHMS}
            known = "; ".join(f"{each}: {', '.join(names)}" for each, names in having.items()) or "none has any"
            return f"argument --algorithm: no chosen operation has {name!r} ({known})"
    if options.json == "-" and options.csv == "-":
        return "--json and --csv cannot both go to stdout: give one of them a file name"
    if options.what == "rendezvous":
        if options.ranks:
            return "--ranks is not for the rendezvous, which is that of all ranks: start fewer with mpiexec -n"
        if options.csv or options.plot:
            return "--csv and --plot are not for the rendezvous, which has few numbers: --json has them"
        if len(options.transports) > 1:
            return "the rendezvous is measured with one --transport at a time"
        if set(options.peers) - {"gloo"}:
            return "the rendezvous has no peer but gloo"
    if options.what == "cliffs":
        if options.ranks:
            return "--ranks is not for the cliffs: start fewer with mpiexec -n"
        if options.csv:
            return "--csv is not for the cliffs: --json has their numbers"
        if len(options.transports) > 1:
            return "the cliffs are measured with one --transport at a time"
        if set(options.peers) - {"mpi"}:
            return "the cliffs have no peer but mpi"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m gloompi.bench",
        description="Measure gloompi on the ranks of a job, beside MPI and torch's gloo: "
        "mpiexec -n 2 python -m gloompi.bench",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["operations", "limit", "rendezvous", "cliffs"],
        default="operations",
        help="limit: the operations beside a bare exchange of the same bytes over the same kind of socket; "
        "rendezvous: how long Context.from_mpi takes; cliffs: what the number of messages and requests does to the cost of "
        "each (default operations)",
    )
    parser.add_argument(
        "--operations",
        type=_choices(OPERATIONS, every=True),
        default=DEFAULT_OPERATIONS,
        metavar="LIST",
        help=f"all, or some of {', '.join(OPERATIONS)} (default {','.join(DEFAULT_OPERATIONS)})",
    )
    parser.add_argument(
        "--sizes",
        type=_list(parse_nbytes),
        default=DEFAULT_SIZES,
        metavar="LIST",
        help="bytes; 64KiB, 1MiB, 1GiB too (default 8,1KiB,64KiB,1MiB,16MiB,64MiB)",
    )
    parser.add_argument(
        "--ranks", type=_list(_count), default=(), metavar="LIST", help="measure on the first so many ranks (default all)"
    )
    parser.add_argument(
        "--transport",
        type=_choices(TRANSPORTS),
        metavar="LIST",
        help="some of auto, unix, tcp (default GLOOMPI_TRANSPORT, else auto)",
    )
    parser.add_argument(
        "--algorithm",
        type=_list(str),
        default=("auto",),
        metavar="LIST",
        help="of the operations that have several; all measures each (default auto)",
    )
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", metavar="NAME", help="(default %(default)s)")
    parser.add_argument("--op", choices=OPERATORS, default="sum", help="of those that reduce (default %(default)s)")
    parser.add_argument(
        "--peers",
        type=_choices(PEERS, none=True),
        metavar="LIST",
        help="measure in turn with gloompi: some of mpi, gloo (needs torch), limit; none (default mpi, and gloo if torch is "
        "installed; limit alone for limit)",
    )
    parser.add_argument("--seconds", type=_seconds, default=1.0, help="budget of a line (default %(default)s)")
    parser.add_argument(
        "--streak",
        type=_count,
        default=10,
        help="calls of up to 64 KiB that each candidate makes in a row before the next one's turn; longer ones are made "
        "one at a time (default %(default)s)",
    )
    parser.add_argument(
        "--repeats", type=_count, default=3, help="of the rendezvous, and of each count of a cliff (default %(default)s)"
    )
    parser.add_argument(
        "--counts",
        type=_list(_count),
        default=DEFAULT_COUNTS,
        metavar="LIST",
        help="of messages or requests, for the cliffs (default 250,1000,4000)",
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write a JSON document; to stdout without FILE")
    parser.add_argument("--csv", nargs="?", const="-", metavar="FILE", help="write a CSV table; to stdout without FILE")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="draw latency and bandwidth to FILE (.png, .svg, .pdf)")
    return parser


def parse_nbytes(text: str) -> int:
    """``"64KiB"`` is 65536."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"must be bytes >= 1, such as 8, 64KiB, 1MiB or 1GiB, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _list(one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def parsed(text: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(one(item.strip()) for item in text.split(",")))

    return parsed


def _choices(names: Sequence[str], every: bool = False, none: bool = False) -> Callable[[str], tuple[str, ...]]:
    def one(name: str) -> str:
        if name not in names:
            more = ["all"] * every + ["none"] * none
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join([*names, *more])}")
        return name

    def parsed(text: str) -> tuple[str, ...]:
        if every and text == "all":
            return tuple(names)
        if none and text == "none":
            return ()
        return tuple(_list(one)(text))

    return parsed


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number >= 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be seconds > 0, not {text!r}")
    return value
