"""Ranks that meet over MPI with secrets: the same, different ones, or one that cannot be read.

``with_secrets.py WAY SOURCE FOLDER same|different|missing``
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import monotonic

from mpi4py import MPI
from report import report

from gloompi import Context

way, source, folder, kind = sys.argv[1:]
rank = MPI.COMM_WORLD.Get_rank()
secret = "s" * 32 if kind == "same" or rank == 0 else "t" * 32
options = {}
if source == "argument":
    options["secret"] = secret
else:
    path = Path(folder) / f"{kind}{rank}"
    if not (kind == "missing" and rank == 1):
        path.write_text("s" * 32 if kind == "missing" else secret)
        path.chmod(0o600)
    os.environ["GLOOMPI_SECRET_FILE"] = str(path)

began = monotonic()
found: dict[str, object] = {"rank": rank}
try:
    if way == "facade":
        from gloompi import MPI as FACE

        found["total"] = FACE.COMM_WORLD.allreduce(rank + 1.0)
    else:
        make = Context.from_mpi if way == "from_mpi" else Context.from_env
        with make(connect_timeout=30.0, **options) as ctx:
            found["total"] = float(ctx.allreduce(rank + 1.0))
except Exception as exc:
    found["error"] = str(exc)
found["seconds"] = monotonic() - began
report(**found)
