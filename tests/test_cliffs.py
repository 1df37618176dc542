"""``python -m gloompi.bench cliffs``: its programs, its slopes, what it prints and writes.  Nothing here looks at how long
anything takes.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import Job

from gloompi import Context
from gloompi.bench.cliffs import CLIFFS, Cliff, Side, _require
from gloompi.bench.options import parse
from gloompi.bench.slope import Slope, _measure, text
from gloompi.bench.timing import WrongResultError
from gloompi.facade.intracomm import Intracomm
from gloompi.facade.requests import Request
from gloompi.testing import RankError, run_ranks

LIMIT = 60.0
QUICK = ("cliffs", "--counts", "5,20", "--repeats", "1")
OPTIONS = replace(parse(["cliffs"]), counts=(5, 20), repeats=2)
FEW = Cliff("some messages", lambda side, count: 0.0)


def side(ctx: Context, name: str = "gloompi") -> Side:
    return Side(name, Intracomm._of(ctx), Request, ctx.barrier, ctx)


# -- the programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("cliff", CLIFFS, ids=lambda cliff: cliff.name)
def test_each_program_leaves_nothing_behind(cliff: Cliff, n: int) -> None:
    def body(ctx: Context) -> float:
        with ctx.dup() as own:
            for count in (2, 7):
                taken = cliff.program(side(own), count)
                ctx.barrier()
            assert own.iprobe() is None
            return taken

    taken = run_ranks(n, body)
    assert max(taken) > 0
    assert min(taken) == 0 or cliff.name.startswith("allreduce")


def test_numbers_in_a_wrong_order_are_noticed() -> None:
    _require(np.arange(5.0))
    with pytest.raises(WrongResultError, match=r"^2 of 5 messages have wrong data or came out of order$"):
        _require(np.array([0.0, 2.0, 1.0, 3.0, 4.0]))


def test_a_wrong_result_ends_it_on_all_ranks() -> None:
    def program(side: Side, count: int) -> float:
        if side.comm.rank == 1 and count > 5:
            raise WrongResultError("too many")
        return 1.0

    def body(ctx: Context) -> None:
        with pytest.raises(WrongResultError, match=r"^gloompi: some messages, 20 messages, rank 1 of 3: too many$"):
            _measure(ctx, [side(ctx)], replace(FEW, program=program), OPTIONS)
        ctx.barrier()

    run_ranks(3, body)


def test_the_best_of_some_times_in_turn() -> None:
    called: list[tuple[str, int]] = []

    def program(side: Side, count: int) -> float:
        if side.comm.rank == 0:
            called.append((side.name, count))
            return 0.0
        return count + len(called) / 100

    def body(ctx: Context) -> Slope:
        sides = [side(ctx), side(ctx, "mpi")]
        return _measure(ctx, sides, replace(FEW, program=program, part=5), replace(OPTIONS, counts=(5, 15, 20)))

    slope = run_ranks(2, body)[1]
    once = [(name, count) for count in (2, 3, 4) for name in ("gloompi", "mpi")]
    assert called == 2 * once
    assert slope.counts == [2, 3, 4]
    assert list(slope.taken) == ["gloompi", "mpi"]
    assert [int(each) for each in slope.taken["mpi"]] == [2, 3, 4]


def test_what_mpi_has_nothing_like_is_not_measured_there() -> None:
    def body(ctx: Context) -> Slope:
        return _measure(ctx, [side(ctx), side(ctx, "mpi")], replace(FEW, mpi=False), OPTIONS)

    assert list(run_ranks(2, body)[0].taken) == ["gloompi"]


def test_another_exception_is_no_result() -> None:
    def program(side: Side, count: int) -> float:
        raise ArithmeticError("no")

    def body(ctx: Context) -> None:
        _measure(ctx, [side(ctx)], replace(FEW, program=program), OPTIONS)

    with pytest.raises(RankError, match="ArithmeticError: no"):
        run_ranks(2, body)


# -- slopes ---------------------------------------------------------------------------------------------------------------


def test_slope_and_text() -> None:
    slope = Slope(FEW, [10, 100, 1000], {"gloompi": [1e-4, 1e-3, 1e-2], "mpi": [2e-6, 2e-4, 2e-2]})
    assert slope.slope("gloompi") == pytest.approx(1)
    assert slope.slope("mpi") == pytest.approx(2)
    assert text(slope).splitlines() == [
        "some messages",
        "    messages     gloompi         mpi    ratio",
        "          10    100.0 us      2.0 us    50.00",
        "         100     1.00 ms    200.0 us     5.00",
        "        1000    10.00 ms    20.00 ms     0.50",
        "       slope        1.00        2.00",
    ]
    assert slope.to_json() == {
        "name": "some messages",
        "noun": "messages",
        "unit": "s",
        "counts": [10, 100, 1000],
        "taken": slope.taken,
        "slopes": {"gloompi": pytest.approx(1), "mpi": pytest.approx(2)},
    }


def test_one_point_has_no_slope() -> None:
    slope = Slope(replace(FEW, unit="B", noun="objects"), [10], {"gloompi": [3 * 2**20]})
    assert slope.slope("gloompi") is None
    assert text(slope).splitlines()[1:] == ["     objects     gloompi", "          10    3.00 MiB", "       slope"]


# -- the command ----------------------------------------------------------------------------------------------------------


def bench(n: int, *args: object) -> Any:
    return Job(n, "-m", "gloompi.bench", *args).finish(LIMIT)


@pytest.mark.parametrize("n", [2, 3])
def test_table_and_document_of_a_job(mpi_jobs: None, tmp_path: Path, n: int) -> None:
    path = tmp_path / "cliffs.json"
    done = bench(n, *QUICK, "--json", path)
    assert done.returncode == 0, done.stderr
    assert re.match(rf"gloompi \d.*: {n} ranks on 1 host", done.stdout)
    sections = done.stdout.split("\n\n")[1:]
    assert [section.splitlines()[0] for section in sections] == [cliff.name for cliff in CLIFFS]
    found = json.loads(path.read_text())
    assert found["ranks"] == n
    for cliff, each in zip(CLIFFS, found["cliffs"], strict=True):
        assert (each["name"], each["unit"]) == (cliff.name, cliff.unit)
        assert each["counts"] == ([5, 20] if cliff.part == 1 else [2])
        assert list(each["taken"]) == list(each["slopes"]) == (["gloompi", "mpi"] if cliff.mpi else ["gloompi"])
        assert all(0 < value < float("inf") for taken in each["taken"].values() for value in taken)


def test_picture_of_a_job(mpi_jobs: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[bench]'")
    from matplotlib.image import imread

    path = tmp_path / "cliffs.png"
    done = bench(2, *QUICK, "--peers", "none", "--transport", "tcp", "--plot", path, "--json")
    assert done.returncode == 0, done.stderr
    assert all(list(each["taken"]) == ["gloompi"] for each in json.loads(done.stdout)["cliffs"])
    assert imread(path).std() > 0.05


def test_one_rank_is_too_few(mpi_jobs: None) -> None:
    done = bench(1, *QUICK)
    assert (done.returncode, done.stdout) == (2, "")
    text = "gloompi bench: cliffs needs 2 ranks, one that sends and one that receives: start it with mpiexec -n 2"
    assert text in done.stderr.splitlines()
