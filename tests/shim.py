"""A library that stands between mpi4py and MPI: it counts the calls, and refuses communication when it is told to.

It is preloaded into the ranks (`jobs/door.py`).  Every MPI_X of the MPI library that has a PMPI_X (MPI's profiling
interface, MPI 4.1, chapter 15) is replaced by code that counts and jumps there; being one jump, it keeps all arguments
whatever they are.

From ``mpi_refuse(1)`` to ``mpi_refuse(0)``, functions that are not local return MPI_ERR_OTHER instead, and do nothing else.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

# What stays allowed is listed, and not what is refused: a function that nobody has thought of is refused, and is noticed.
_LOCAL = (
    # objects that never leave their rank
    *("Errhandler_*", "Group_*", "Info_*", "Op_*", "Status_*", "Type_*", "T_*"),
    *("*_attr", "*_c2f", "*_errhandler", "*_f2c", "*_fromint", "*_keyval", "*_toint", "Attr_*", "Keyval_*"),
    # memory and arithmetic
    *("Address", "Aint_*", "Alloc_mem", "Buffer_attach", "Buffer_detach", "Free_mem", "Get_address", "Pack", "Pack_*"),
    *("Reduce_local", "Unpack", "Unpack_*"),
    # questions about a communicator
    *("Comm_compare", "Comm_get_*", "Comm_group", "Comm_rank", "Comm_remote_group", "Comm_remote_size", "Comm_set_name"),
    *("Comm_size", "Comm_test_inter", "Topo_test"),
    # the process, the library, the clock
    *("Abi_*", "Add_error_*", "Dims_create", "Error_*", "Get_hw_resource_info", "Get_library_version", "Get_processor_name"),
    *("Get_version", "Initialized", "Finalized", "Is_thread_main", "Pcontrol", "Query_thread", "Remove_error_*", "Wtick"),
    "Wtime",
    # what ends the job must end it
    *("Abort", "Finalize"),
    # the result of a message, and requests: one that communicates can only have come from a function that is refused
    *("Cancel", "Get_count", "Get_elements", "Get_elements_x", "Grequest_*", "Request_free", "Request_get_status*"),
    *("Test", "Test_cancelled", "Testall", "Testany", "Testsome", "Wait", "Waitall", "Waitany", "Waitsome"),
)

_LOADED = """
import re
from mpi4py import MPI
paths = {line.split()[-1] for line in open("/proc/self/maps")}
print(MPI.ERR_OTHER, *[path for path in paths if re.search(r"/libmpi[^/]*[.]so[^/]*$", path)], sep="\\n")
"""

_COUNTERS = """
    .text
    .globl mpi_calls, mpi_refuse, mpi_refused, mpi_refusable
    .type mpi_calls, @function
    .type mpi_refuse, @function
    .type mpi_refused, @function
    .type mpi_refusable, @function
mpi_calls:
    movq calls(%rip), %rax
    ret
mpi_refuse:
    movb %dil, refusing(%rip)
    ret
mpi_refused:
    movslq %edi, %rdi
    leaq refused(%rip), %rax
    movq (%rax,%rdi,8), %rax
    ret
mpi_refusable:
    leaq refusable(%rip), %rax
    ret
    .local calls, refusing, refused
    .comm calls, 8, 8
    .comm refusing, 1, 1
    .comm refused, {nbytes}, 8
    .section .rodata
refusable:
    .asciz "{refusable}"
    .section .note.GNU-stack, "", @progbits
    .text
"""

_LOCAL_TRAMPOLINE = """
    .globl {name}
    .type {name}, @function
{name}:
    lock incq calls(%rip)
    jmp *P{name}@GOTPCREL(%rip)
"""

_REFUSABLE_TRAMPOLINE = """
    .globl {name}
    .type {name}, @function
{name}:
    lock incq calls(%rip)
    cmpb $0, refusing(%rip)
    jne 1f
    jmp *P{name}@GOTPCREL(%rip)
1:  lock incq refused+{offset}(%rip)
    movl ${error}, %eax
    ret
"""


def unavailable() -> str | None:
    """Why the library cannot be built here; None if it can."""
    if platform.machine() != "x86_64":
        return f"the trampolines are written for x86_64, this is {platform.machine()}"
    missing = [tool for tool in ("cc", "nm") if shutil.which(tool) is None]
    return f"the trampolines need {' and '.join(missing)}" if missing else None


def is_local(name: str) -> bool:
    """Whether a function of MPI's stays allowed while communication is refused."""
    function = name.removeprefix("MPIX_").removeprefix("MPI_").removesuffix("_c")  # MPI_Send_c: MPI_Send with large counts
    return any(fnmatchcase(function, pattern) for pattern in _LOCAL)


def build(folder: Path) -> Path:
    """Build the library for the MPI that mpi4py loads here; return its path.

    Its functions: ``mpi_calls()``, all calls until now; ``mpi_refuse(flag)``; ``mpi_refusable()``, the names of what can
    be refused, one per line; ``mpi_refused(i)``, how many calls of the i-th of them were.
    """
    error, *paths = _output(sys.executable, "-c", _LOADED).split()
    libraries = {path: _functions(path) for path in paths}
    library = next(path for path, functions in libraries.items() if "PMPI_Init" in functions)
    functions = libraries[library]
    names = sorted(name for name in functions if name.startswith(("MPI_", "MPIX_")) and f"P{name}" in functions)
    assert {"MPI_Init_thread", "MPI_Comm_idup", "MPI_Iallgather", "MPI_Test", "MPI_Barrier", "MPI_Finalized"} <= set(names)
    refusable = [name for name in names if not is_local(name)]
    code = _COUNTERS.format(nbytes=8 * len(refusable), refusable="\\n".join(refusable))
    code += "".join(_LOCAL_TRAMPOLINE.format(name=name) for name in names if is_local(name))
    for index, name in enumerate(refusable):
        code += _REFUSABLE_TRAMPOLINE.format(name=name, offset=8 * index, error=error)
    source, built = folder / "shim.s", folder / "shim.so"
    source.write_text(code)
    # By its full path: the process has to load the same one that mpi4py asks for.
    _output("cc", "-shared", "-o", str(built), str(source), library, f"-Wl,-rpath,{Path(library).parent}")
    return built


def _functions(library: str) -> set[str]:
    """The functions that a shared library exports."""
    symbols = _output("nm", "-D", "--defined-only", library)
    return {fields[2].partition("@")[0] for fields in map(str.split, symbols.splitlines()) if fields[1] in ("T", "W")}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
