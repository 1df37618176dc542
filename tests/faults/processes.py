"""Ranks that are plain processes, on this host or on several, and what every surviving rank of a fault must report."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hosts import Host
from launch import JOBS

from gloompi.deadline import Deadline

__all__ = [
    "PROMPT",
    "Processes",
    "Report",
    "allreduce_number",
    "assert_lost",
    "assert_nothing_left",
    "assert_same_later",
    "processes",
]

PROMPT = 2.0
"""Seconds from a fault that the system reports to the error, on all ranks."""

Report = dict[str, Any]


def assert_lost(
    outcome: Report, lost: Collection[int], operation: str, since: float, limit: float = PROMPT, own: str = ""
) -> None:
    """The error names a lost peer, and the operation in which it was met; it has come within `limit` seconds.

    Where another rank has met it, the text names this rank's `own` operation too, if that is another one.  What a rank is
    told in the moment in which its operation ends concerns none.
    """
    assert outcome["error"] == "PeerLostError", outcome
    assert outcome["lost"] in lost, outcome
    assert outcome["operation"] is not None, outcome
    assert outcome["operation"].startswith(operation), outcome
    assert f"lost rank {outcome['lost']} (" in outcome["text"]
    assert f" in {outcome['operation']}: " in outcome["text"]
    assert outcome["ended"] - max(since, outcome["began"]) < limit, outcome
    if outcome["reported_by"] is None:
        assert own in ("", outcome["operation"]), outcome
        return
    assert own == "" or outcome["interrupted"] in ("", own), outcome
    told = f"(reported by rank {outcome['reported_by']}"
    other = outcome["interrupted"] not in ("", outcome["operation"]) and outcome["reported_by"] != outcome["lost"]
    assert outcome["text"].endswith(f"{told}; this rank was in {outcome['interrupted']})" if other else f"{told})"), outcome


def allreduce_number(found: Report, ranks: Collection[Report]) -> int:
    """The number of the operation that a rank's error names: its own, or that of the rank which has told it.

    Of ranks that work in a loop of allreduces after a barrier; operations are counted from 1.
    """
    reporter = found["outcome"]["reported_by"]
    own = int(found["finished"]) + 2
    if reporter is None:
        return own
    for each in ranks:
        if each and each["rank"] == reporter:
            return int(each["finished"]) + 2
    # It has told the others before it was killed as well. Ranks are one allreduce apart at most.
    named = int(found["outcome"]["operation"].removeprefix("allreduce #"))
    assert abs(named - own) <= 1, found
    return named


def assert_same_later(outcome: Report, later: list[Report]) -> None:
    """Operations on a Context that is broken raise what broke it, at once."""
    assert later
    for each in later:
        assert (each["error"], each["text"]) == (outcome["error"], outcome["text"])
        assert each["ended"] - each["began"] < 0.5


def assert_nothing_left(ranks: Collection[Report]) -> None:
    """Open files, threads and children are back to where they were, and the processes have ended."""
    for found in ranks:
        assert found.get("remains", {}) in ({}, {"files": [], "threads": [], "children": []}), found
        assert _ends(found["pid"]), f"process {found['pid']} lives"


def _ends(pid: int) -> bool:
    """Whether a process has ended, or does so soon: a launcher may be over before those that it has killed."""
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([end], [], [], PROMPT)[0])
    finally:
        os.close(end)


class Processes:
    """Ranks without a launcher: they meet over a folder, speak in lines of JSON, and hear single lines.

    A program gets ``FOLDER RANK SIZE`` and then `args`.  Its reports are those of `jobs/report.py`.

    Parameters
    ----------
    size : int
    program : str
        A file in tests/jobs.
    folder : Path
        An empty one.
    args
        Command line arguments of the program.
    hosts : sequence of Host, optional
        Where the ranks run, as many on each; the first ones on the first host.
    env : dict, optional
        Additional environment variables.
    """

    def __init__(
        self,
        size: int,
        program: str,
        folder: Path,
        *args: object,
        hosts: Sequence[Host] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.size = size
        self._folder = folder
        self._lines: list[list[Report]] = [[] for _ in range(size)]
        self._parts = [b""] * size
        self._ranks = []
        self._killed: set[int] = set()
        for rank in range(size):
            command = [sys.executable, str(JOBS / program), str(folder / "store"), str(rank), str(size), *map(str, args)]
            if hosts:
                command = hosts[rank * len(hosts) // size].command(*command)
            with open(folder / f"stderr {rank}", "wb") as errors:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
            self._ranks.append(process)

    def report(self, rank: int, timeout: float = 30.0) -> Report:
        """The next report of a rank; to be called only if there will be one."""
        deadline = Deadline(timeout)
        stdout = self._ranks[rank].stdout
        assert stdout is not None
        while not self._lines[rank]:
            ready, _, _ = select.select([stdout], [], [], deadline.remaining())
            assert ready, f"rank {rank} did not report within {timeout} s{self._errors()}"
            data = os.read(stdout.fileno(), 65536)
            assert data, f"rank {rank} has ended{self._errors()}"
            *lines, self._parts[rank] = (self._parts[rank] + data).split(b"\n")
            self._lines[rank] += [json.loads(line) for line in lines]
        return self._lines[rank].pop(0)

    def reports(self, ranks: Collection[int] | None = None, timeout: float = 30.0) -> list[Report]:
        """The next report of each rank, or of some."""
        deadline = Deadline(timeout)
        return [self.report(rank, deadline.remaining() or 0.0) for rank in (range(self.size) if ranks is None else ranks)]

    def tell(self, ranks: Collection[int] | None = None) -> None:
        """Let ranks that wait for a line go on."""
        for rank in range(self.size) if ranks is None else ranks:
            stdin = self._ranks[rank].stdin
            assert stdin is not None
            stdin.write(b"\n")
            stdin.flush()

    def alive(self, rank: int) -> bool:
        """Whether a rank has not been killed; it may have ended by itself."""
        return rank not in self._killed

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, wait for the end."""
        self._ranks[rank].send_signal(number)
        if number == signal.SIGKILL:
            self._killed.add(rank)
            self._ranks[rank].wait(10)

    def finish(self, timeout: float = 20.0) -> list[int]:
        """Wait for all ranks to end; return their exit codes."""
        deadline = Deadline(timeout)
        return [process.wait(deadline.remaining()) for process in self._ranks]

    def errors(self, rank: int) -> str:
        """What a rank has written to its standard error."""
        return (self._folder / f"stderr {rank}").read_text()

    def _errors(self) -> str:
        return "".join(f"\nrank {rank}: {self.errors(rank)}" for rank in range(self.size) if self.errors(rank))

    def close(self) -> None:
        """Kill what is left."""
        for process in self._ranks:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):
                    stream.close()


@contextmanager
def processes(size: int, program: str, folder: Path, *args: object, **options: Any) -> Iterator[Processes]:
    """`Processes` until the end of the with block."""
    ranks = Processes(size, program, folder, *args, **options)
    try:
        yield ranks
    finally:
        ranks.close()
