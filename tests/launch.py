"""Start MPI jobs from tests: the mpiexec beside the python in use, a time limit, and a kill by process group."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

JOBS = Path(__file__).parent / "jobs"


@functools.cache
def mpiexec() -> str | None:
    """The mpiexec beside the python in use, else the first on PATH."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


@functools.cache
def vendor() -> str:
    """``"mpich"``, ``"openmpi"`` or ``""``."""
    path = mpiexec()
    if path is None:
        return ""
    text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return "openmpi" if "Open MPI" in text or "open-mpi" in text else "mpich"


# Under MPICH every rank writes to files of its own: its launcher mixes the lines of ranks that write at once, and drops some
# of what they have written when one of them ends badly. Open MPI's does not, but hangs once in some twenty times after ranks
# that have closed its streams and end with an error.
_APART = 'exec "$@" >"$0/$PMI_RANK.out" 2>"$0/$PMI_RANK.err"'


class Job:
    """Ranks of one program under mpiexec.

    Parameters
    ----------
    n : int
    program : str
        A file in tests/jobs, another file's full path, or an option of Python's such as ``-m``.
    args
        Command line arguments of the program.
    survivors : bool
        Let the other ranks go on when one dies: Open MPI's launcher has an option for it; for MPICH's see `jobs/outlive.py`.
    env : dict, optional
        Additional environment variables.
    launcher : sequence of str, optional
        The command that stands for mpiexec, with options: an mpiexec on other hosts (see `hosts.py`).
    """

    def __init__(
        self,
        n: int,
        program: str,
        *args: object,
        survivors: bool = False,
        env: dict[str, str] | None = None,
        launcher: Sequence[str] | None = None,
    ) -> None:
        path = mpiexec()
        assert path is not None
        environment = {**os.environ, **(env or {})}
        self._n = n
        self._written = Path(tempfile.mkdtemp(prefix="gloompi-job-"))
        weakref.finalize(self, shutil.rmtree, self._written, ignore_errors=True)  # a killed rank may be writing yet
        if vendor() == "openmpi":
            environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
            command = [path, *(["--enable-recovery"] if survivors else []), "--map-by", ":OVERSUBSCRIBE", "-n", str(n)]
        else:
            command = [*(launcher or [path]), *(["-disable-auto-cleanup"] if survivors else []), "-n", str(n)]
        if vendor() != "openmpi":
            command += ["sh", "-c", _APART, str(self._written)]
        if survivors and vendor() != "openmpi":
            command += [sys.executable, "-IS", str(JOBS / "outlive.py")]
        command += [sys.executable, program if program.startswith("-") else str(JOBS / program), *map(str, args)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def finish(self, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Wait for the end; a job that is not over by then is killed, and that fails the test.

        Returns
        -------
        subprocess.CompletedProcess
            With what the launcher has written, and after it what each rank has, one rank after the other.
        """
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate(timeout=20)
            raise AssertionError(
                f"the job was not over after {timeout} s\n{out}{self._of_ranks('out')}\n{err}{self._of_ranks('err')}"
            ) from None
        out, err = out + self._of_ranks("out"), err + self._of_ranks("err")
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, err)

    def _of_ranks(self, stream: str) -> str:
        files = [self._written / f"{rank}.{stream}" for rank in range(self._n)]
        return "".join(file.read_text() for file in files if file.exists())

    def kill(self) -> None:
        ranks = []
        with suppress(psutil.NoSuchProcess):
            ranks = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()  # mpiexec ends its ranks
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for rank in ranks:  # those that are stopped, or that nobody looks after any more
            with suppress(psutil.NoSuchProcess):
                rank.kill()


def run_job(
    n: int, program: str, *args: object, timeout: float = 60.0, survivors: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """Run a program of tests/jobs on `n` ranks; return what the ranks reported, by rank.

    Every rank prints one line of JSON with at least ``{"rank": r}`` (see `jobs/report.py`).  A rank without a report has
    the entry ``{}``: it died.  Without `survivors`, the job must end with exit code 0.  `options` are `Job`'s.
    """
    done = Job(n, program, *args, survivors=survivors, **options).finish(timeout)
    if not survivors:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return reports(n, done.stdout)


def reports(n: int, stdout: str) -> list[dict[str, Any]]:
    """What the ranks of a job have reported, by rank."""
    found: list[dict[str, Any]] = [{} for _ in range(n)]
    for line in stdout.splitlines():
        if line.startswith('{"rank"'):
            report = json.loads(line)
            found[report["rank"]] = report
    return found
