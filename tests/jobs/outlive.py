"""Run a rank's program as a child, so that the launcher does not see the rank die and lets the others live.

MPICH's mpiexec has -disable-auto-cleanup for that, but 5.0.2's kills the survivors nevertheless in most cases: its proxy
sends SIGUSR1, which ends a process that does not expect it, and then SIGKILL once it has reaped the dead process.
"""

import os
import subprocess
import sys
import time
from pathlib import Path


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


# The launcher's socket is inherited, and stays open here when the child dies.
code = subprocess.call(sys.argv[1:], close_fds=False)
# A rank that ends without MPI_Finalize may end the job too: wait until the others are over.
while any(children(other) for other in children(os.getppid()) if other != os.getpid()):
    time.sleep(0.02)
sys.exit(max(code, 0))
