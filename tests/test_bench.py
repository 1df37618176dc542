"""``python -m gloompi.bench``: what it computes, prints and writes, and that every result is checked.  Nothing here looks at
how long anything takes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import JOBS, Job, mpiexec, vendor

from gloompi import Context, Device
from gloompi.bench import sockets
from gloompi.bench.candidate import Unsupported, Work
from gloompi.bench.case import OPERATIONS, OPERATORS, Buffers, Case
from gloompi.bench.document import to_csv, to_json
from gloompi.bench.heading import heading_text, mpi_library
from gloompi.bench.limit import Limit
from gloompi.bench.line import Line, Times, bus_factor
from gloompi.bench.options import DEFAULT_OPERATIONS, DEFAULT_SIZES, Options, parse
from gloompi.bench.own import ALGORITHMS, Own
from gloompi.bench.patterns import keep_own, steps
from gloompi.bench.survey import algorithms_of, cases, groups, together
from gloompi.bench.table import size_text, table
from gloompi.bench.timing import Entrant, WrongResultError, affordable_calls, enter, time_in_turn
from gloompi.testing import RankError, run_ranks

LIMIT = 60.0
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
QUICK = ("--seconds", "0.005")
FACTS: dict[str, Any] = {
    "gloompi": "0.1.0",
    "ranks": 4,
    "hosts": 1,
    "cores": 2,
    "load": 0.5,
    "python": "3.12.1",
    "numpy": "2.1.0",
    "system": "Linux 6.1",
    "mpi4py": "4.1.2",
    "mpi": "Open MPI v5.0.11",
    "torch": "2.13.0+cpu",
    "settings": {"OMPI_MCA_btl": "tcp,self"},
    "dtype": "float32",
    "op": "sum",
}

Done = subprocess.CompletedProcess[str]


def bench(n: int, *args: object, **options: Any) -> Done:
    return Job(n, "-m", "gloompi.bench", *args, **options).finish(LIMIT)


def altered(n: int, alteration: str, ranks: str, *args: object) -> Done:
    """The benchmark on a job of which some ranks are altered (see `jobs/bench_altered.py`)."""
    return Job(n, "bench_altered.py", alteration, ranks, *args).finish(LIMIT)


def said(done: Done) -> list[str]:
    """The benchmark's own lines on stderr, without what a launcher says about the exit code."""
    return [line for line in done.stderr.splitlines() if line.startswith(("gloompi bench: ", "python -m gloompi.bench: "))]


# -- the command line -----------------------------------------------------------------------------------------------------


def test_options_by_default() -> None:
    options = parse([])
    assert options == Options(
        what="operations",
        operations=("allreduce", "broadcast", "allgather", "reduce_scatter", "alltoall", "send/recv"),
        sizes=(8, 1024, 65536, 1048576, 16777216, 67108864),
        ranks=(),
        transports=("auto",),
        algorithms=("auto",),
        dtype="float32",
        op="sum",
        peers=("mpi", "gloo"),
        peers_asked=False,
        seconds=1.0,
        streak=10,
        repeats=3,
        counts=(250, 1000, 4000),
        json=None,
        csv=None,
        plot=None,
    )
    assert (options.operations, options.sizes) == (DEFAULT_OPERATIONS, DEFAULT_SIZES)


def test_options_given() -> None:
    arguments = "--operations all --sizes 8,64KiB,1mib --ranks 2,4,2 --transport tcp,unix --algorithm ring,bruck"
    options = parse([*arguments.split(), "--peers", "none", "--json", "--csv", "lines.csv"])
    assert options.operations == OPERATIONS
    assert options.sizes == (8, 65536, 1048576)
    assert options.ranks == (2, 4)
    assert options.transports == ("tcp", "unix")
    assert options.algorithms == ("ring", "bruck")
    assert (options.peers, options.peers_asked) == ((), True)
    assert (options.json, options.csv) == ("-", "lines.csv")
    assert not options.prints_table


@pytest.mark.parametrize(
    ("arguments", "peers"),
    [
        ("limit", ("limit",)),
        ("limit --peers mpi", ("mpi", "limit")),
        ("limit --peers limit,gloo", ("limit", "gloo")),
        ("rendezvous", ()),
        ("rendezvous --peers gloo", ("gloo",)),
        ("cliffs", ("mpi",)),
        ("cliffs --peers none", ()),
    ],
)
def test_options_peers(arguments: str, peers: tuple[str, ...]) -> None:
    assert parse(arguments.split()).peers == peers


def test_options_transport_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TRANSPORT", "tcp")
    assert parse([]).transports == ("tcp",)


@pytest.mark.parametrize(
    ("text", "nbytes"), [("1", 1), ("8B", 8), ("64KiB", 65536), ("16 MiB", 16777216), ("2gib", 2147483648)]
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse(["--sizes", text]).sizes == (nbytes,)


REDUCING = ", ".join(ALGORITHMS["allreduce"])
WRONG = [
    ("--sizes 3x", "argument --sizes: must be bytes >= 1, such as 8, 64KiB, 1MiB or 1GiB, not '3x'"),
    ("--sizes 8,,16", "argument --sizes: must be bytes >= 1, such as 8, 64KiB, 1MiB or 1GiB, not ''"),
    ("--sizes 0", "argument --sizes: must be bytes >= 1, such as 8, 64KiB, 1MiB or 1GiB, not '0'"),
    (
        "--operations allreduce,fold",
        "argument --operations: 'fold' is none of barrier, broadcast, reduce, allreduce, reduce_scatter, scan, exscan, "
        "gather, allgather, scatter, alltoall, sendrecv, send/recv, all",
    ),
    (
        "--operations allreduce,gather --algorithm bruck",
        f"argument --algorithm: no chosen operation has 'bruck' (allreduce: {REDUCING})",
    ),
    ("--operations gather --algorithm ring", "argument --algorithm: no chosen operation has 'ring' (none has any)"),
    ("--transport pigeon", "argument --transport: 'pigeon' is none of auto, tcp, unix"),
    ("--peers mpi,nccl", "argument --peers: 'nccl' is none of mpi, gloo, limit, none"),
    ("--ranks 0", "argument --ranks: must be a number >= 1, not '0'"),
    ("--seconds inf", "argument --seconds: must be seconds > 0, not 'inf'"),
    ("--seconds soon", "argument --seconds: must be seconds > 0, not 'soon'"),
    ("--json --csv", "--json and --csv cannot both go to stdout: give one of them a file name"),
    (
        "rendezvous --ranks 2",
        "--ranks is not for the rendezvous, which is that of all ranks: start fewer with mpiexec -n",
    ),
    ("rendezvous --csv a", "--csv and --plot are not for the rendezvous, which has few numbers: --json has them"),
    ("rendezvous --transport tcp,unix", "the rendezvous is measured with one --transport at a time"),
    ("rendezvous --peers mpi", "the rendezvous has no peer but gloo"),
    *(
        (
            f"--plot lines.{ending}",
            f"argument --plot: no picture can be written to 'lines.{ending}': its name must end in .png, .svg or .pdf",
        )
        for ending in ("doc", "jpg", "png.gz")
    ),
    ("cliffs --counts 5,x", "argument --counts: must be a number >= 1, not 'x'"),
    ("cliffs --ranks 2", "--ranks is not for the cliffs: start fewer with mpiexec -n"),
    ("cliffs --csv a", "--csv is not for the cliffs: --json has their numbers"),
    ("cliffs --transport tcp,unix", "the cliffs are measured with one --transport at a time"),
    ("cliffs --peers gloo", "the cliffs have no peer but mpi"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_options_without_meaning(arguments: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments.split())
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"python -m gloompi.bench: error: {text}"


@pytest.mark.parametrize(
    ("variable", "arguments", "text"),
    [
        ("GLOOMPI_TRANSPORT", [], "GLOOMPI_TRANSPORT must be one of auto, tcp, unix, not 'pigeon'"),
        ("GLOOMPI_PORT_RANGE", ["--transport", "tcp"], "GLOOMPI_PORT_RANGE must be low:high, not 'pigeon'"),
    ],
)
def test_options_environment_without_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, arguments: list[str], text: str
) -> None:
    monkeypatch.setenv(variable, "pigeon")
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"python -m gloompi.bench: error: {text}\n")


def test_options_where_objects_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GLOOMPI_PICKLE", "off")
    with pytest.raises(SystemExit) as caught:
        parse([])
    assert caught.value.code == 2
    assert "error: GLOOMPI_PICKLE=off: unset it, because ranks tell" in capsys.readouterr().err


def test_options_more_ranks_than_there_are() -> None:
    options = parse(["--ranks", "1,2,8"])
    options.check(8)
    with pytest.raises(ValueError, match=r"^--ranks 8 needs 8 ranks, this job has 4: start it with mpiexec -n 8$"):
        options.check(4)


def test_help_says_what_sizes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert (
        "The bytes of --sizes are those of the array that one rank passes; of gather and allgather, of the result;" in text
    )
    assert "mpiexec --mca pml ob1 --mca btl tcp,self" in text


# -- what is measured -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "size", "expected"),
    [
        ("--operations allreduce,send/recv", 2, [(2, ("allreduce", "send/recv"))]),
        ("--operations allreduce,send/recv", 5, [(5, ("allreduce",)), (2, ("send/recv",))]),
        ("--operations send/recv", 3, [(2, ("send/recv",))]),
        ("--operations send/recv,sendrecv,barrier", 1, [(1, ("barrier",))]),
        ("--operations send/recv", 1, []),
        (
            "--operations sendrecv,send/recv --ranks 1,2,4",
            5,
            [(2, ("sendrecv", "send/recv")), (4, ("sendrecv",))],
        ),
    ],
)
def test_groups(arguments: str, size: int, expected: list[tuple[int, tuple[str, ...]]]) -> None:
    assert groups(parse(arguments.split()), size) == expected


def test_cases_once_each() -> None:
    options = parse(["--sizes", "1,2,8,9"])
    assert [case.nbytes for case in cases(options, 4, "allgather")] == [16]  # an element of each of 4 ranks
    assert [case.nbytes for case in cases(options, 4, "allreduce")] == [4, 8]
    assert [case.nbytes for case in cases(options, 4, "barrier")] == [0]


@pytest.mark.parametrize(
    ("operation", "wanted", "expected"),
    [
        ("allreduce", ("auto",), ("auto",)),
        ("allreduce", ("all",), ("auto", *ALGORITHMS["allreduce"])),
        ("allreduce", ("ring", "bruck"), ("ring",)),
        ("allgather", ("ring", "bruck"), ("ring", "bruck")),
        ("broadcast", ("ring",), ("auto",)),
        ("gather", ("all",), ("auto",)),
        ("gather", ("ring",), ("auto",)),
    ],
)
def test_algorithms_of(operation: str, wanted: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert algorithms_of(operation, wanted) == expected


# -- cases ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_case_nbytes(operation: str, size: int) -> None:
    case = Case(operation, 1000, size)
    cut = operation in ("reduce_scatter", "gather", "allgather", "scatter", "alltoall")
    assert case.nbytes == (0 if operation == "barrier" else 1000 // (4 * size) * 4 * size if cut else 1000)
    buffers = [case.buffers(rank) for rank in range(size)]
    root, last = buffers[0], buffers[-1]
    if operation in ("gather", "allgather"):
        assert root.out is not None
        assert root.out.nbytes == case.nbytes
        assert root.out.shape[0] == size
    elif operation != "barrier":
        assert root.x is not None
        assert root.x.nbytes == case.nbytes
    assert (last.out is None) == (operation == "barrier" or (operation == "gather" and size > 1))
    assert (last.x is None) == (operation == "barrier" or (operation == "scatter" and size > 1))


def definition(case: Case, inputs: list[Any]) -> list[Any]:
    """What each rank gets, straight from what the operation means; None if nothing."""
    size, block = case.size, case.block
    apply = OPERATORS[case.op]
    flat = [None if x is None else x.reshape(-1) for x in inputs]
    own = [slice(rank * block, (rank + 1) * block) for rank in range(size)]
    everything: dict[str, Any] = {
        "barrier": lambda rank: None,
        "broadcast": lambda rank: flat[0],
        "reduce": lambda rank: reduce(apply, flat) if rank == 0 else None,
        "allreduce": lambda rank: reduce(apply, flat),
        "reduce_scatter": lambda rank: reduce(apply, flat)[own[rank]],
        "scan": lambda rank: reduce(apply, flat[: rank + 1]),
        "exscan": lambda rank: reduce(apply, flat[:rank]) if rank else None,
        "gather": lambda rank: np.concatenate(flat) if rank == 0 else None,
        "allgather": lambda rank: np.concatenate(flat),
        "scatter": lambda rank: flat[0][own[rank]],
        "alltoall": lambda rank: np.concatenate([x[own[rank]] for x in flat]),
        "sendrecv": lambda rank: flat[rank - 1],
        "send/recv": lambda rank: flat[1 - rank],
    }
    return [everything[case.operation](rank) for rank in range(size)]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint8"])
def test_case_expects_what_the_operation_means(operation: str, op: str, dtype: str) -> None:
    for size in (2,) if operation == "send/recv" else (1, 2, 3, 5):
        for nbytes in (1, 5000):
            case = Case(operation, nbytes, size, dtype, op)
            buffers = [case.buffers(rank) for rank in range(size)]
            for rank, each in enumerate(buffers):
                case.fill(rank, each)
            meant = definition(case, [each.x for each in buffers])
            for rank, each in enumerate(buffers):
                expected = case.expected(rank)
                assert (expected is None) == (meant[rank] is None)
                if expected is None:
                    assert case.fault(rank, each) is None
                    continue
                assert expected.dtype == np.dtype(dtype)
                assert np.array_equal(expected, meant[rank])
                assert each.out is not None
                if not (operation == "broadcast" and rank == 0):
                    assert case.fault(rank, each) is not None  # before anything has happened
                each.out.reshape(-1)[:] = meant[rank]
                assert case.fault(rank, each) is None


def test_case_fault() -> None:
    case = Case("allreduce", 400, 3)
    buffers = case.buffers(1)
    expected = case.expected(1)
    assert buffers.out is not None
    assert expected is not None
    buffers.out[:] = expected
    buffers.out[7] = 1000
    buffers.out[50:] = -1
    assert case.fault(1, buffers) == f"51 of 100 elements are wrong, the first is [7]: 1000.0, not {expected[7]}"


def test_case_values_depend_on_rank_and_index() -> None:
    case = Case("allreduce", 4000, 5)
    arrays = []
    for rank in range(5):
        buffers = case.buffers(rank)
        case.fill(rank, buffers)
        assert buffers.x is not None
        arrays.append(buffers.x)
    for one in range(5):
        assert len(set(arrays[one])) == 5
        for other in range(one):
            assert not np.array_equal(arrays[one], arrays[other])
        for shift in (1, 4, 64, 250, 256, 500):
            assert not np.array_equal(arrays[one][shift:], arrays[one][:-shift])


# -- lines ----------------------------------------------------------------------------------------------------------------


def test_times() -> None:
    seconds = np.arange(1, 102) * 1e-3
    assert asdict(Times.of(seconds)) == pytest.approx({"median": 0.051, "p99": 0.1})
    assert asdict(Times.of(seconds, "send/recv")) == pytest.approx({"median": 0.0255, "p99": 0.05})
    assert Times.of([0.5]) == Times(0.5, 0.5)


@pytest.fixture
def line() -> Line:
    case = Case("allreduce", 1 << 20, 4)
    return Line.of(case, "auto", "auto", [2e-3, 1e-3, 3e-3], {"mpi": [4e-3] * 3, "limit": [1e-3] * 3})


def test_line(line: Line) -> None:
    assert (line.operation, line.ranks, line.nbytes, line.calls) == ("allreduce", 4, 1 << 20, 3)
    assert line.own.median == 2e-3
    assert line.own.p99 == pytest.approx(2.98e-3)
    assert line.ratio("mpi") == pytest.approx(0.5)
    assert line.ratio("limit") == pytest.approx(2.0)
    assert line.bandwidth == pytest.approx((1 << 20) / 2e-3)
    assert line.bus_bandwidth == pytest.approx((1 << 20) / 2e-3 * 1.5)


@pytest.mark.parametrize(
    ("operation", "factor"), [("allreduce", 1.5), ("reduce_scatter", 0.75), ("allgather", 0.75), ("gather", None)]
)
def test_bus_factor(operation: str, factor: float | None) -> None:
    assert bus_factor(operation, 4) == factor


def test_line_without_bytes() -> None:
    line = Line.of(Case("barrier", 1, 4), "auto", "auto", [2e-5], {})
    assert (line.nbytes, line.bandwidth, line.bus_bandwidth) == (0, None, None)


def made_up(operation: str, nbytes: int, algorithm: str = "auto", transport: str = "auto", **peers: float) -> Line:
    case = Case(operation, nbytes, 4)
    own = [20e-6 + nbytes * 0.25e-9] * 5
    return Line.of(
        case, transport, algorithm, own, {name: [each * factor for each in own] for name, factor in peers.items()}
    )


def test_table() -> None:
    lines = [made_up("allreduce", nbytes, mpi=0.5, gloo=25.0) for nbytes in (8, 65536, 16 << 20)]
    lines += [made_up("broadcast", 65500, "binomial", "tcp"), made_up("barrier", 1)]
    assert (
        table(lines, {"auto": "unix", "tcp": "tcp"})
        == """\
allreduce, 4 ranks, transport auto (unix)
                 gloompi                        |      mpi                |     gloo
     size calls   median      p99   GB/s    bus |   median      p99 ratio |   median      p99 ratio
      8 B     5     20.0     20.0               |     10.0     10.0  2.00 |    500.1    500.1  0.04
   64 KiB     5     36.4     36.4   1.80   2.70 |     18.2     18.2  2.00 |    909.6    909.6  0.04
   16 MiB     5     4214     4214   3.98   5.97 |     2107     2107  2.00 |   105358   105358  0.04

broadcast, 4 ranks, transport tcp, algorithm binomial
                 gloompi
     size calls   median      p99   GB/s    bus
63.96 KiB     5     36.4     36.4   1.80

barrier, 4 ranks, transport auto (unix)
                 gloompi
     size calls   median      p99   GB/s    bus
        -     5     20.0     20.0"""
    )


def test_table_where_a_peer_is_missing_at_one_size() -> None:
    rows = table([made_up("scan", 8, mpi=1.0, limit=2.0), made_up("scan", 64, limit=1e-4)], {}).splitlines()
    assert rows[3].endswith("|     20.0     20.0  1.00 |     40.0     40.0  0.50")
    assert rows[4].endswith("|                         |      0.0      0.0 10000")


def test_table_width() -> None:
    slow = Line.of(
        Case("allreduce", (64 << 20) - 4, 4), "auto", "auto", [12.3], {"mpi": [0.012], "gloo": [9.0], "limit": [2.0]}
    )
    rows = table([slow], {}).splitlines()
    assert max(map(len, rows)) == 125
    assert rows[-1].startswith("64.00 MiB     1 12300000 12300000   0.01   0.01 |    12000    12000  1025 |")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "-"), (1000, "1000 B"), (1024, "1 KiB"), (1536, "1.50 KiB"), (64 << 20, "64 MiB"), (1 << 30, "1 GiB")],
)
def test_size_text(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text


def test_heading() -> None:
    assert heading_text(FACTS) == (
        "gloompi 0.1.0: 4 ranks on 1 host with 2 cores, load average 0.50; Python 3.12.1, NumPy 2.1.0, Linux 6.1\n"
        "MPI: Open MPI v5.0.11, mpi4py 4.1.2, OMPI_MCA_btl=tcp,self; torch 2.13.0+cpu\n"
        "float32, sum; us: median and 99th percentile, of each call the slowest rank; ratio: gloompi's median / the other's"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Open MPI v5.0.11, package: Open MPI root@vm, ident: 5.0.11\0", "Open MPI v5.0.11"),
        ("MPICH Version:      5.0.2\nMPICH Release date: today\n", "MPICH Version: 5.0.2"),
    ],
)
def test_mpi_library(text: str, name: str) -> None:
    assert mpi_library(text) == name


def test_json(line: Line) -> None:
    found = json.loads(to_json(FACTS, [line], {"auto": "unix"}, ["gloo left out of scan: why"]))
    assert found["mpi"] == "Open MPI v5.0.11"
    assert found["notes"] == ["gloo left out of scan: why"]
    assert found["lines"] == [
        {
            "operation": "allreduce",
            "ranks": 4,
            "transport": "auto",
            "used_transport": "unix",
            "algorithm": "auto",
            "nbytes": 1 << 20,
            "calls": 3,
            "median": 2e-3,
            "p99": pytest.approx(2.98e-3),
            "bandwidth": pytest.approx(524288000.0),
            "bus_bandwidth": pytest.approx(786432000.0),
            "peers": {
                "mpi": {"median": 4e-3, "p99": 4e-3, "ratio": 0.5},
                "limit": {"median": 1e-3, "p99": 1e-3, "ratio": 2.0},
            },
        }
    ]


def test_csv(line: Line) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(FACTS, [line]))))
    assert [row["candidate"] for row in rows] == ["gloompi", "mpi", "limit"]
    assert {(row["operation"], row["ranks"], row["dtype"], row["op"], row["nbytes"], row["calls"]) for row in rows} == {
        ("allreduce", "4", "float32", "sum", "1048576", "3")
    }
    assert [row["median_seconds"] for row in rows] == ["0.002", "0.004", "0.001"]
    assert [row["ratio"] for row in rows] == ["", "0.5", "2.0"]
    assert [bool(row["bandwidth"]) for row in rows] == [True, False, False]


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[bench]'")
    from matplotlib.image import imread

    from gloompi.bench.plot import plot

    lines = [
        made_up(operation, nbytes, algorithm, transport, mpi=0.8, gloo=4.0, limit=0.6)
        for operation in ("allreduce", "broadcast", "barrier")
        for nbytes in (8, 1024, 1 << 20)
        for transport in ("unix", "tcp")
        for algorithm in ("auto", "ring")
    ]
    plot(lines, "a heading", str(tmp_path / "all.png"))
    plot(lines[:1], "a heading", str(tmp_path / "one.png"))
    plot([], "nothing but barriers", str(tmp_path / "none.png"))
    pixels, one = imread(tmp_path / "all.png"), imread(tmp_path / "one.png")
    assert pixels.shape[0] > 1.5 * one.shape[0]  # a row for each operation that has sizes
    for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]):
        assert len({tuple(pixel) for row in half for pixel in row}) > 20


# -- calls in turn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "budget", "calls"), [(0.01, 1.0, 100), (1.0, 0.5, 5), (1e-9, 1.0, 1000), (0.0, 1.0, 1000), (0.5, 60.0, 120)]
)
def test_affordable_calls(seconds: float, budget: float, calls: int) -> None:
    assert affordable_calls(seconds, budget) == calls


class Pretender:
    """A candidate that does what it is told, for allreduce."""

    name = "pretender"

    def __init__(self, ctx: Context, fault: str = "") -> None:
        self.ctx, self.fault = ctx, fault
        self.calls: list[str] = []

    def barrier(self) -> None:
        self.calls.append("barrier")
        self.ctx.barrier()

    def work(self, case: Case, buffers: Buffers) -> Work:
        if self.fault == "unsupported":
            raise Unsupported("it has no such operation")

        def run() -> None:
            self.calls.append("run")
            self.ctx.allreduce(buffers.x, buffers.out)
            if self.ctx.rank == 1 and self.fault == "raises":
                raise RuntimeError("no such type\nand more")
            if self.ctx.rank == 1 and self.fault == "wrong" and buffers.out is not None:
                buffers.out[3] = 77

        return Work(run)

    def close(self) -> None:
        pass


def test_time_in_turn() -> None:
    def measure(ctx: Context) -> tuple[Any, list[str], list[str]]:
        case = Case("allreduce", 40, ctx.size)
        buffers = case.buffers(ctx.rank)
        pretenders = [Pretender(ctx), Pretender(ctx)]
        entrants = [enter(ctx, each, case, buffers) for each in pretenders]
        assert all(isinstance(entrant, Entrant) for entrant in entrants)
        own = enter(ctx, Own(ctx, "auto"), case, buffers)
        times = time_in_turn(ctx, [*entrants, own], 1e-4)  # type: ignore[list-item]
        return times, pretenders[0].calls, pretenders[1].calls

    ranks = run_ranks(3, measure)
    slowest = ranks[0][0]
    assert slowest.shape[0] == 3
    assert slowest.shape[1] >= 5
    for times, first, second in ranks:
        assert times.shape == slowest.shape
        assert (times <= slowest).all()  # rank 0 has the slowest rank of each call
        assert (times > 0).all()
        assert first == second == ["barrier", "run"] * (len(first) // 2)


@pytest.mark.parametrize("streak", [1, 4])
def test_a_turn_is_a_streak_of_calls(streak: int) -> None:
    def measure(ctx: Context) -> list[str]:
        order: list[str] = []

        class Named(Pretender):
            def __init__(self, name: str) -> None:
                super().__init__(ctx)
                self.name = name

            def barrier(self) -> None:
                order.append(self.name)

        case = Case("allreduce", 40, ctx.size)
        buffers = case.buffers(ctx.rank)
        entrants = [enter(ctx, Named(name), case, buffers) for name in "ab"]
        order.clear()
        time_in_turn(ctx, entrants, 1e-9, streak)  # type: ignore[arg-type]
        return order

    # One call, three to estimate with, none to warm up, five that are timed.
    counts = [1, 3, 0, 5]
    turns = [min(streak, count - first) for count in counts for first in range(0, count, streak)]
    assert run_ranks(2, measure) == [[name for turn in turns for name in "a" * turn + "b" * turn]] * 2


@pytest.mark.parametrize(
    ("fault", "why"), [("unsupported", "it has no such operation"), ("raises", "RuntimeError: no such type")]
)
def test_enter_without(fault: str, why: str) -> None:
    def measure(ctx: Context) -> Any:
        case = Case("allreduce", 40, ctx.size)
        return enter(ctx, Pretender(ctx, fault), case, case.buffers(ctx.rank))

    assert run_ranks(3, measure) == [why] * 3


def test_enter_wrong_result() -> None:
    def measure(ctx: Context) -> str:
        case = Case("allreduce", 40, ctx.size)
        with pytest.raises(WrongResultError) as caught:
            enter(ctx, Pretender(ctx, "wrong"), case, case.buffers(ctx.rank))
        return str(caught.value)

    (text,) = set(run_ranks(3, measure))
    expected = Case("allreduce", 40, 3).expected(1)
    assert expected is not None
    assert text == (
        "pretender: allreduce of 40 bytes, float32, gave rank 1 of 3 a wrong result: 1 of 10 elements are wrong, the first "
        f"is [3]: 77.0, not {expected[3]}; times of wrong results are worth nothing, so nothing more is measured"
    )


def test_enter_error_of_gloompi() -> None:
    def measure(ctx: Context) -> Any:
        case = Case("allreduce", 40, ctx.size)
        return enter(ctx, Own(ctx, "auto", "no such algorithm"), case, case.buffers(ctx.rank))

    with pytest.raises(RankError, match="ValueError: algorithm must be"):
        run_ranks(2, measure)


def test_together() -> None:
    def make(ctx: Context) -> int:
        if ctx.rank == 1:
            raise OSError("no socket")
        return ctx.rank

    assert run_ranks(3, lambda ctx: together(ctx, lambda: make(ctx))) == [(None, "no socket")] * 3
    assert run_ranks(3, lambda ctx: together(ctx, lambda: ctx.rank)) == [(rank, None) for rank in range(3)]


# -- the bare exchange ----------------------------------------------------------------------------------------------------

MOVING = ("broadcast", "gather", "allgather", "scatter", "alltoall", "sendrecv", "send/recv")


def exchange_all(case: Case) -> tuple[list[Buffers], list[int]]:
    """Let all ranks take their steps, with queues for sockets; the buffers and what each rank has sent."""
    size = case.size
    buffers = [case.buffers(rank) for rank in range(size)]
    queues: dict[tuple[int, int], deque[bytes]] = {}
    sent = [0] * size
    waiting: list[Any] = []
    ways = []
    for rank, each in enumerate(buffers):
        case.fill(rank, each)
        keep_own(case, rank, each)
        ways.append(iter(steps(case, rank, each)))
        waiting.append([])
    over: set[int] = set()
    while len(over) < size:
        moved = False
        for rank in set(range(size)) - over:
            while waiting[rank] and queues.get((waiting[rank][0][0], rank)):
                source, part = waiting[rank].pop(0)
                data = queues[source, rank].popleft()
                assert len(data) == part.nbytes
                part[:] = np.frombuffer(data, part.dtype)
                moved = True
            if not waiting[rank]:
                moved = True
                step = next(ways[rank], None)
                if step is None:
                    over.add(rank)
                    continue
                outgoing, incoming = step
                for peer, part in outgoing:
                    assert peer != rank
                    queues.setdefault((rank, peer), deque()).append(part.tobytes())
                    sent[rank] += part.nbytes
                waiting[rank] = list(incoming)
        assert moved, "the ranks wait for each other"
    assert not any(queues.values())
    return buffers, sent


@pytest.mark.parametrize(
    ("operation", "size"), [*((operation, size) for operation in MOVING[:-1] for size in (2, 3, 4, 5, 8)), (MOVING[-1], 2)]
)
def test_patterns_move_what_the_operation_means(operation: str, size: int) -> None:
    for nbytes in (4, 1000, 70000):
        case = Case(operation, nbytes, size)
        buffers, _ = exchange_all(case)
        for rank, each in enumerate(buffers):
            assert case.fault(rank, each) is None


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_patterns_send_no_more_than_an_operation_needs(size: int) -> None:
    nbytes = 4 * 2520 * 8
    part = nbytes * (size - 1) // size
    sent = {
        operation: exchange_all(Case(operation, nbytes, size))[1] for operation in ("barrier", "allreduce", *MOVING[1:6])
    }
    sent["reduce_scatter"] = exchange_all(Case("reduce_scatter", nbytes, size))[1]
    sent["reduce"] = exchange_all(Case("reduce", nbytes, size))[1]
    assert sent["barrier"] == [(size - 1).bit_length()] * size
    assert sent["allreduce"] == [2 * part] * size
    assert sent["reduce_scatter"] == sent["allgather"] == sent["alltoall"] == [part] * size
    assert sent["gather"] == [0] + [nbytes // size] * (size - 1)
    assert sent["scatter"] == [part] + [0] * (size - 1)
    assert sent["sendrecv"] == [nbytes] * size
    assert sent["reduce"] == [0] + [nbytes] * (size - 1)


def test_patterns_short_allreduce_has_few_steps() -> None:
    case = Case("allreduce", 8, 8)
    assert len(list(steps(case, 0, case.buffers(0)))) == 3
    assert exchange_all(case)[1] == [24] * 8


@pytest.mark.parametrize("operation", ["scan", "exscan"])
def test_patterns_unknown(operation: str) -> None:
    case = Case(operation, 8, 2)
    with pytest.raises(Unsupported, match=f"^no bare pattern of {operation} is known$"):
        steps(case, 0, case.buffers(0))


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_limit(nothing_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, size: int) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def measure(ctx: Context) -> list[str]:
        limit = Limit(ctx, transport)
        families = {sock.family for sock in limit._sockets.values()}
        assert families == {socket.AF_UNIX if transport == "unix" else socket.AF_INET}
        wrong = []
        for operation in OPERATIONS:
            if operation in ("scan", "exscan") or (operation == "send/recv" and size > 2):
                continue
            for nbytes in (4, 1000, 3_000_000):  # more than a socket holds
                case = Case(operation, nbytes, size)
                entrant = enter(ctx, limit, case, case.buffers(ctx.rank))
                if not isinstance(entrant, Entrant):
                    wrong.append(entrant)
        ctx.barrier()
        limit.close()
        return wrong

    assert run_ranks(size, measure, device=Device(transport=transport)) == [[]] * size
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["nothing", "noise"])
def test_sockets_and_a_stranger(nothing_leaks: None, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    true = sockets._listen

    def listen(family: int, address: str, backlog: int) -> socket.socket:
        listener = true(family, address, backlog + 1)
        if family == socket.AF_INET:  # before any rank knows of it
            with socket.create_connection(listener.getsockname()) as stranger:
                stranger.sendall(b"" if what == "nothing" else bytes(20))
        return listener

    def meet(ctx: Context) -> set[int]:
        found = sockets.connect(ctx)
        ctx.barrier()
        for sock in found.values():
            sock.close()
        return set(found)

    monkeypatch.setattr(sockets, "_listen", listen)
    assert run_ranks(2, meet, device=Device(transport="tcp")) == [{1}, {0}]


def test_sockets_of_a_rank_that_cannot_listen(nothing_leaks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    true = tempfile.mkdtemp

    def mkdtemp(prefix: str) -> str:
        return "/nowhere" if threading.current_thread().name == "rank 1" else true(prefix=prefix)

    def meet(ctx: Context) -> str:
        with pytest.raises(OSError, match="rank 1") as caught:
            sockets.connect(ctx)
        return str(caught.value)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    text = (
        "rank 1 cannot take part in a bare exchange: [Errno 2] cannot listen on /nowhere/socket: No such file or directory"
    )
    assert run_ranks(3, meet, device=Device(transport="tcp")) == [text] * 3


# -- jobs -----------------------------------------------------------------------------------------------------------------


def lines_of(done: Done) -> dict[tuple[str, int, str, str, int], dict[str, Any]]:
    assert done.returncode == 0, done.stdout + done.stderr
    keys = ("operation", "ranks", "transport", "algorithm", "nbytes")
    return {tuple(line[key] for key in keys): line for line in json.loads(done.stdout)["lines"]}  # type: ignore[misc]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_all_operations(mpi_jobs: None, n: int) -> None:
    done = bench(n, "--operations", "all", "--sizes", "8,1024", "--peers", "mpi,limit", "--json", *QUICK)
    found = lines_of(done)
    for (operation, ranks, *_), line in found.items():
        assert ranks == (2 if operation == "send/recv" else n)
        limited = n > 1 and operation not in ("scan", "exscan")
        assert set(line["peers"]) == {"mpi", *(["limit"] * limited)}
        assert 5 <= line["calls"] <= 1000
        assert 0 < line["median"] <= line["p99"]
    measured = set(OPERATIONS) - ({"sendrecv", "send/recv"} if n == 1 else set())
    assert {key[0] for key in found} == measured
    document = json.loads(done.stdout)
    assert (document["ranks"], document["hosts"]) == (n, 1)
    assert ("Open MPI" if vendor() == "openmpi" else "MPICH") in document["mpi"]
    assert any("scan left out" in note or "left out of scan" in note for note in document["notes"]) == (n > 1)
    assert any(note == "send/recv left out: it needs 2 ranks" for note in document["notes"]) == (n == 1)


def test_first_ranks_transports_and_algorithms(mpi_jobs: None, tmp_path: Path) -> None:
    arguments = (
        "--ranks 1,2,3 --transport unix,tcp --algorithm all --operations allreduce,broadcast --sizes 1KiB --peers none"
    )
    found = lines_of(bench(4, *arguments.split(), "--json", "-", *QUICK))
    assert set(found) == {
        (operation, ranks, transport, algorithm, 1024)
        for operation in ("allreduce", "broadcast")
        for ranks in (1, 2, 3)
        for transport in ("unix", "tcp")
        for algorithm in ("auto", *ALGORITHMS[operation])
    }
    assert {line["used_transport"] for key, line in found.items() if key[2] == "tcp"} == {"tcp"}


@pytest.mark.parametrize(("dtype", "op"), [("float16", "max"), ("int8", "sum"), ("uint64", "prod"), ("float64", "min")])
def test_dtypes_and_operators(mpi_jobs: None, dtype: str, op: str) -> None:
    done = bench(3, "--dtype", dtype, "--op", op, "--sizes", "1000", "--peers", "none", "--json", *QUICK)
    assert len(lines_of(done)) == len(DEFAULT_OPERATIONS)


def test_table_of_a_job(mpi_jobs: None) -> None:
    done = Job(2, "-m", "gloompi", "bench", "--peers", "mpi", "--sizes", "8", *QUICK).finish(LIMIT)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    first, second, _, *rows = done.stdout.splitlines()
    assert first.startswith("gloompi 0.1.0: 2 ranks on 1 host with ")
    assert second.startswith("MPI: " + ("Open MPI v" if vendor() == "openmpi" else "MPICH Version: "))
    titles = [row for row in rows if "transport" in row]
    assert titles == [f"{operation}, 2 ranks, transport auto (unix)" for operation in DEFAULT_OPERATIONS]
    assert len([row for row in rows if re.fullmatch(r" +8 B +\d+ +[\d.]+ +[\d.]+ +\| +[\d.]+ +[\d.]+ +[\d.]+", row)]) == 6


def test_heading_has_the_settings(mpi_jobs: None) -> None:
    env = {
        "UCX_TLS": "tcp,self",
        "GLOOMPI_CHECKSUM": "1",
        "GLOOMPI_TIMEOUT": "500",
        "GLOOMPI_STORE": "redis://:hunter2@node7",
    }
    done = bench(2, "--peers", "none", "--operations", "barrier", *QUICK, env=env)
    shown = ", UCX_TLS=tcp,self, GLOOMPI_STORE=redis://node7, GLOOMPI_CHECKSUM=1, GLOOMPI_TIMEOUT=500"
    assert done.stdout.splitlines()[1].endswith(shown)


def test_limit_of_a_job(mpi_jobs: None) -> None:
    found = lines_of(
        bench(3, "limit", "--transport", "tcp,unix", "--sizes", "1KiB", "--operations", "alltoall", "--json", *QUICK)
    )
    assert [set(line["peers"]) for line in found.values()] == [{"limit"}] * 2
    medians = {key[2]: line["peers"]["limit"]["median"] for key, line in found.items()}
    assert medians["tcp"] != medians["unix"]  # each beside the bare exchange of its own kind


def test_files(mpi_jobs: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[bench]'")
    from matplotlib.image import imread

    paths = [tmp_path / name for name in ("lines.json", "lines.csv", "lines.png")]
    args = ("--json", paths[0], "--csv", paths[1], "--plot", paths[2], "--operations", "allreduce", "--sizes", "8,1024")
    done = bench(2, *args, "--peers", "mpi", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "\nallreduce, 2 ranks, transport auto (unix)\n" in done.stdout
    assert len(json.loads(paths[0].read_text())["lines"]) == 2
    assert len(list(csv.DictReader(io.StringIO(paths[1].read_text())))) == 4
    assert imread(paths[2]).shape[1] > 1000


def test_csv_on_stdout(mpi_jobs: None) -> None:
    done = bench(2, "--csv", "--operations", "barrier", "--peers", "none", *QUICK)
    assert [row["candidate"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["gloompi"]


def test_without_a_launcher() -> None:
    command = [sys.executable, "-m", "gloompi.bench", "--sizes", "8", "--operations", "allreduce", "--peers", "none", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout.startswith("gloompi 0.1.0: 1 rank on 1 host with ")
    assert "\nallreduce, 1 rank, transport auto\n" in done.stdout


@pytest.mark.parametrize("n", [1, 3])
def test_rendezvous(mpi_jobs: None, n: int) -> None:
    found = json.loads(bench(n, "rendezvous", "--repeats", "2", "--transport", "tcp", "--json").stdout)
    assert (found["ranks"], found["transport"], len(found["seconds"])) == (n, "tcp", 2)
    assert found["peak_memory_bytes"] > 10e6
    text = bench(n, "rendezvous", "--repeats", "2").stdout
    ranks = "1 rank" if n == 1 else f"{n} ranks"
    first, second = text.splitlines()
    assert re.fullmatch(rf"{ranks}, transport auto, load average \d+\.\d\d: first \d\.\d{{3}} s, then \d\.\d{{3}} s", first)
    assert re.fullmatch(r"at most \d+\.\d MB in a rank", second)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--sizes 8,x", WRONG[0][1].replace("3x", "x")),
        ("--operations fold", WRONG[3][1]),
        ("--algorithm tree --operations gather", "argument --algorithm: no chosen operation has 'tree' (none has any)"),
        ("--transport pigeon", WRONG[6][1]),
    ],
)
def test_wrong_argument_of_a_job(mpi_jobs: None, arguments: str, text: str) -> None:
    done = bench(3, *arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said(done) == [f"python -m gloompi.bench: error: {text}"]
    assert "Traceback" not in done.stderr


def test_ranks_that_cannot_connect(mpi_jobs: None) -> None:
    done = bench(2, "--transport", "tcp", *QUICK, env={"GLOOMPI_SOCKET_IFNAME": "=nothing"})
    assert (done.returncode, done.stdout) == (1, "")
    (text,) = said(done)
    assert "no interface that is up matches GLOOMPI_SOCKET_IFNAME='=nothing'" in text
    assert "Traceback" not in done.stderr


def test_too_many_ranks(mpi_jobs: None) -> None:
    done = bench(3, "--ranks", "2,4")
    assert (done.returncode, done.stdout) == (2, "")
    assert said(done) == ["gloompi bench: --ranks 4 needs 4 ranks, this job has 3: start it with mpiexec -n 4"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--plot", "/nowhere/lines.png"), "[Errno 2] No such file or directory: '/nowhere/lines.png'"),
        (("--json", "/nowhere/lines.json"), "[Errno 2] No such file or directory: '/nowhere/lines.json'"),
        (("rendezvous", "--json", "/nowhere/lines.json"), "[Errno 2] No such file or directory: '/nowhere/lines.json'"),
    ],
)
def test_report_that_cannot_be_written(mpi_jobs: None, args: tuple[str, ...], text: str) -> None:
    done = bench(2, *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert said(done) == [f"gloompi bench: {text}"]


@pytest.mark.parametrize(
    ("package", "args", "what"),
    [("torch", ("--peers", "gloo"), "the peer gloo"), ("matplotlib", ("--plot", "a.png"), "the picture")],
)
def test_missing_package(mpi_jobs: None, package: str, args: tuple[str, ...], what: str) -> None:
    done = altered(3, f"without={package}", "0,1,2", *args, *QUICK)
    assert done.returncode == 1
    assert said(done) == [f"gloompi bench: {what} needs the package {package}: pip install 'gloompi[bench]'"]
    assert "Traceback" not in done.stderr


def test_missing_torch_of_the_rendezvous(mpi_jobs: None) -> None:
    done = altered(2, "without=torch", "0,1", "rendezvous", "--peers", "gloo", "--repeats", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert said(done) == ["gloompi bench: the peer gloo needs the package torch: pip install 'gloompi[bench]'"]


@pytest.mark.parametrize("ranks", ["0,1", "1"])
def test_missing_torch_that_was_not_asked_for(mpi_jobs: None, ranks: str) -> None:
    done = altered(2, "without=torch", ranks, "--operations", "allreduce", "--sizes", "8", "--json", *QUICK)
    assert [set(line["peers"]) for line in lines_of(done).values()] == [{"mpi"}]
    assert json.loads(done.stdout)["notes"] == []


def test_missing_rich(mpi_jobs: None) -> None:
    done = altered(2, "without=rich", "0,1", "--operations", "barrier", "--peers", "none", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "\nbarrier, 2 ranks, transport auto (unix)\n" in done.stdout


def test_wrong_result_of_a_job(mpi_jobs: None) -> None:
    done = altered(4, "wrong=allgather", "1", "--ranks", "2", "--sizes", "1000", "--json", "--peers", "none", *QUICK)
    assert (done.returncode, done.stdout) == (1, "")
    (text,) = said(done)
    assert re.fullmatch(
        r"gloompi bench: gloompi: allgather of 1000 bytes, float32, gave rank 1 of 2 a wrong result: 1 of 250 elements are "
        r"wrong, the first is \[249\]: (\d)\.0, not (\d)\.0; times of wrong results are worth nothing, so nothing more is "
        r"measured",
        text,
    )
    assert "Traceback" not in done.stderr


def test_gloo(mpi_jobs: None) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install 'gloompi[bench]'")
    done = bench(3, "--operations", "all", "--sizes", "8,1000", "--peers", "gloo", "--ranks", "2,3", "--json", *QUICK)
    found = lines_of(done)
    assert {key[0] for key, line in found.items() if "gloo" not in line["peers"]} == {"scan", "exscan"}
    document = json.loads(done.stdout)
    assert document["torch"]
    assert document["notes"] == [
        "gloo left out of scan: torch.distributed has no scan",
        "gloo left out of exscan: torch.distributed has no exscan",
    ]


def test_gloo_rendezvous(mpi_jobs: None) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install 'gloompi[bench]'")
    found = json.loads(bench(2, "rendezvous", "--peers", "gloo", "--repeats", "2", "--json").stdout)
    assert len(found["gloo_seconds"]) == len(found["seconds"]) == 2


# -- on a terminal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redirection", ["", "> {}", "2> {}"])
def test_terminal(mpi_jobs: None, tmp_path: Path, redirection: str) -> None:
    pytest.importorskip("rich", reason="needs rich: pip install 'gloompi[bench]'")
    run = f"{mpiexec()} -n 2 {sys.executable} -m gloompi.bench --operations barrier,scan --sizes 8 --peers none"
    run += f" --seconds 0.005 {redirection.format(tmp_path / 'other')}; true"  # the shell stays its parent
    command = [sys.executable, str(JOBS / "on_terminal.py"), "130", run]
    environment = {**os.environ, **AS_ROOT, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT, check=True)
    seen = done.stdout.decode()
    assert "scan, 2 ranks, 8 bytes" in seen  # the bar
    assert "━" in seen
    text = re.sub(r"\x1b\[[\d;?]*\w", "", seen)
    table_seen = "barrier, 2 ranks, transport auto (unix)" in text
    assert table_seen == (redirection != "> {}")
    if redirection == "> {}":
        other = (tmp_path / "other").read_text()
        assert "\x1b" not in other
        assert "barrier, 2 ranks, transport auto (unix)\n" in other
    if redirection == "2> {}":
        assert (tmp_path / "other").read_text() == ""
