"""The command line: ``python -m gloompi doctor``, ``... bench``, ``... trace``, ``... script.py``."""

from __future__ import annotations

import os
import sys

_USAGE = """usage: python -m gloompi COMMAND ...
       python -m gloompi script.py ARGUMENTS | -m MODULE ARGUMENTS | -c CODE ARGUMENTS

  doctor   examine the hosts and connections of a job:  mpiexec -n 8 python -m gloompi doctor
  bench    measure operations and the rendezvous:       mpiexec -n 2 python -m gloompi bench
  trace    merge what GLOOMPI_TRACE=FOLDER has written: python -m gloompi trace FOLDER

python -m gloompi COMMAND --help says more.

  script.py, -m, -c   run a program written for mpi4py over gloompi's sockets:
                      mpiexec -n 4 python -m gloompi script.py
"""


def main() -> int:
    """Run the command that the first argument names; return the exit code."""
    command, *arguments = sys.argv[1:] or [""]
    if command == "doctor":
        from .doctor.command import main as doctor

        return doctor(arguments)
    if command == "bench":
        from .bench import main as bench

        bench(arguments)
        return 0
    if command == "trace":
        from .trace.command import main as trace

        return trace(arguments)
    if (command in ("-m", "-c") and arguments) or command.endswith(".py") or os.path.isfile(command):
        from .runner import run

        if command not in ("-m", "-c") and not os.path.isfile(command):
            print(f"python -m gloompi: cannot open {command!r}: no such file", file=sys.stderr)
            return 2
        return run(sys.argv[1:])
    asked = command in ("-h", "--help")
    print(_USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
