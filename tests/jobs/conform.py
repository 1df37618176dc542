"""Run one file of mpi4py's tests on this rank, over gloompi.MPI or over mpi4py's own MPI, and keep a journal.

The argument is JSON:

tests
    The folder with mpi4py's tests.
file
    The name of one of them, without ``.py``.
journal
    A folder.  This rank writes ``RANK.jsonl`` there, one line when a test begins and one when it ends, so that what
    happened before a hang or a crash is known; and ``RANK.trace``, where it was when the time was over.
facade
    Replace mpi4py.MPI by gloompi.MPI.
shim
    The library of `shim.py`, or null: while the tests run, it refuses MPI's communication functions.
excluded
    Pairs of patterns, for classes and methods: not to be run.
only
    A pattern of ``Class.method``, or null: what to run.
limit
    Seconds until the trace is written; whoever starts this program ends it.
"""

import faulthandler
import fnmatch
import importlib
import json
import sys
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from door import Door

settings = json.loads(sys.argv[1])
door = Door(settings["shim"]) if settings["shim"] else None

import mpi4py  # noqa: E402
import mpi4py.MPI  # noqa: E402

rank = mpi4py.MPI.COMM_WORLD.Get_rank()
library = mpi4py.MPI.Get_library_version().splitlines()[0].strip("\0 ")
journal = Path(settings["journal"])
lines = (journal / f"{rank}.jsonl").open("w", buffering=1)
trace = (journal / f"{rank}.trace").open("w")
faulthandler.dump_traceback_later(settings["limit"], file=trace)


def write(**facts: Any) -> None:
    lines.write(json.dumps(facts) + "\n")


def instance(test: unittest.TestCase) -> str:
    return f"{type(test).__name__}.{test._testMethodName}"


class Recorder(unittest.TestResult):
    """Writes down what becomes of every test.  It has passed if none of its subtests has failed."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.failed: list[str] = []
        self.skipped_for: list[str] = []
        write(begin=instance(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if self.failed:
            write(end=instance(test), outcome="failed", message=self.failed[0], more=len(self.failed) - 1)
        elif self.skipped_for:
            write(end=instance(test), outcome="skipped", message=self.skipped_for[0])
        else:
            write(end=instance(test), outcome="passed")

    def _fail(self, test: Any, exc_info: Any, subtest: str = "") -> None:
        text = "".join(traceback.format_exception(*exc_info))
        if isinstance(test, unittest.TestCase):
            self.failed.append(f"{subtest}: {text}" if subtest else text)
        else:  # setUpClass or setUpModule: its tests never begin
            write(broken=f"{test}: {text}")

    def addError(self, test: Any, exc_info: Any) -> None:
        self._fail(test, exc_info)

    def addFailure(self, test: Any, exc_info: Any) -> None:
        self._fail(test, exc_info)

    def addSubTest(self, test: Any, subtest: Any, exc_info: Any) -> None:
        if exc_info is not None:
            self._fail(test, exc_info, subtest._subDescription())

    def addSkip(self, test: Any, reason: str) -> None:
        if isinstance(test, unittest.TestCase):  # or a subtest, which is one too
            self.skipped_for.append(reason)
        else:
            write(broken=f"{test}: {reason}")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.failed.append("it is marked as expected to fail, and has passed")


def definer(test: unittest.TestCase) -> str:
    """The class that has the method: inherited by others, it is one method and several instances."""
    return next(cls.__name__ for cls in type(test).__mro__ if test._testMethodName in vars(cls))


def is_excluded(test: unittest.TestCase) -> bool:
    return any(
        fnmatch.fnmatchcase(type(test).__name__, classes) and fnmatch.fnmatchcase(test._testMethodName, methods)
        for classes, methods in settings["excluded"]
    )


def is_wanted(test: unittest.TestCase) -> bool:
    return settings["only"] is None or fnmatch.fnmatchcase(instance(test), settings["only"])


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flat(item)
        else:
            yield item


def load() -> list[unittest.TestCase]:
    # As mpi4py's own runner does: arrays on graphics processors are for those who ask for them.
    sys.modules["cupy"] = sys.modules["numba"] = None
    sys.path.insert(0, settings["tests"])
    if settings["facade"]:
        # Marks known defects of MPI libraries; where none is used, there are none.
        importlib.import_module("mpiunittest").skipMPI = lambda *_, **__: lambda test: test
    module = importlib.import_module(settings["file"])
    return [test for test in flat(unittest.defaultTestLoader.loadTestsFromModule(module)) if is_wanted(test)]


try:
    if settings["facade"]:
        from gloompi import MPI

        sys.modules["mpi4py.MPI"] = mpi4py.MPI = MPI
        MPI.COMM_WORLD.Barrier()  # whatever the rendezvous needs of MPI is over now
    if door is not None:
        door.refuse()
    tests = load()
    write(plan=[[instance(test), f"{definer(test)}.{test._testMethodName}", is_excluded(test)] for test in tests])
    unittest.TestSuite(test for test in tests if not is_excluded(test)).run(Recorder())
except BaseException:
    write(broken=traceback.format_exc())
    raise
finally:
    if door is not None:
        door.allow()  # MPI_Finalize may need it
    write(over=True, library=library, refused=None if door is None else door.refused())
    faulthandler.cancel_dump_traceback_later()
