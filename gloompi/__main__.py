"""The command line: ``python -m gloompi doctor``, ``python -m gloompi bench``."""

from __future__ import annotations

import sys

_USAGE = """usage: python -m gloompi COMMAND ...

  doctor   examine the hosts and connections of a job:  mpiexec -n 8 python -m gloompi doctor
  bench    measure operations and the rendezvous:       mpiexec -n 2 python -m gloompi bench

python -m gloompi COMMAND --help says more.
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
    asked = command in ("-h", "--help")
    print(_USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
