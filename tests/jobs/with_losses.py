"""Run a program of whose ranks some are killed: in their Nth allreduce, counted over all Contexts.

Arguments: the program; the victims, such as ``{"1": 25}``: by rank, N.
"""

import json
import os
import runpy
import signal
import sys

from mpi4py import MPI

from gloompi import Context

program, victims = sys.argv[1], json.loads(sys.argv[2])
last = victims.get(str(MPI.COMM_WORLD.Get_rank()))
allreduce = Context.allreduce
calls = []


def counted(self, *arguments, **options):
    calls.append(self)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return allreduce(self, *arguments, **options)


Context.allreduce = counted
sys.argv = [program]
runpy.run_path(program, run_name="__main__")
