"""After from_mpi has returned, the MPI library is never called again: counted at the library's door.

A shared library of trampolines, preloaded into the ranks, stands between mpi4py and MPI.  Every MPI_X of the MPI library
that has a PMPI_X (MPI's profiling interface, MPI 4.1, chapter 15) is replaced by code that counts and jumps there; being
one jump, it keeps all arguments whatever they are.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch import run_job

_LOADED = """
import re
from mpi4py import MPI
paths = {line.split()[-1] for line in open("/proc/self/maps")}
print(*[path for path in paths if re.search(r"/libmpi[^/]*[.]so[^/]*$", path)], sep="\\n")
"""

_COUNTER = """
    .text
    .globl mpi_calls
    .type mpi_calls, @function
mpi_calls:
    movq calls(%rip), %rax
    ret
    .local calls
    .comm calls, 8, 8
    .section .note.GNU-stack, "", @progbits
    .text
"""

_TRAMPOLINE = """
    .globl {name}
    .type {name}, @function
{name}:
    lock incq calls(%rip)
    jmp *P{name}@GOTPCREL(%rip)
"""


def _functions(library: str) -> set[str]:
    """The functions that a shared library exports."""
    symbols = _output("nm", "-D", "--defined-only", library)
    return {fields[2].partition("@")[0] for fields in map(str.split, symbols.splitlines()) if fields[1] in ("T", "W")}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def shim(mpi_jobs: None, tmp_path: Path) -> str:
    """The path of a library that counts the calls into MPI; its `mpi_calls` says how many there were."""
    if platform.machine() != "x86_64":
        pytest.skip(f"the trampolines are written for x86_64, this is {platform.machine()}")
    for tool in ("cc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"the trampolines need {tool}")
    libraries = {path: _functions(path) for path in _output(sys.executable, "-c", _LOADED).split()}
    library = next(path for path, functions in libraries.items() if "PMPI_Init" in functions)
    functions = libraries[library]
    names = sorted(name for name in functions if name.startswith("MPI_") and f"P{name}" in functions)
    assert {"MPI_Init_thread", "MPI_Comm_idup", "MPI_Iallgather", "MPI_Test", "MPI_Barrier", "MPI_Finalized"} <= set(names)
    source, built = tmp_path / "shim.s", tmp_path / "shim.so"
    source.write_text(_COUNTER + "".join(_TRAMPOLINE.format(name=name) for name in names))
    # By its full path: the process has to load the same one that mpi4py asks for.
    _output("cc", "-shared", "-o", str(built), str(source), library, f"-Wl,-rpath,{Path(library).parent}")
    return str(built)


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_calls_mpi_after_from_mpi(shim: str, size: int) -> None:
    for found in run_job(size, "counting.py", shim):
        assert found["missing"] == [], "add these operations to tests/jobs/operations.py"
        assert found["imported"] > 0
        before = found["imported"]
        for transport in ("unix", "tcp"):
            after_from_mpi, after_operations, after_close = found[transport]
            assert after_from_mpi > before
            assert after_operations == after_from_mpi
            assert after_close == after_from_mpi
            before = after_close
        assert found["end"] == before + 1  # the one call that the job makes to see that calls are still counted
