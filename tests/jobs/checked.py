"""Small and large messages over checked connections, made in two ways."""

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context

rank = MPI.COMM_WORLD.Get_rank()
found = {}
for way in (Context.from_mpi, Context.from_env):
    with way() as ctx:
        totals = [ctx.allreduce(np.arange(count, dtype="f8") * (rank + 1)).sum() for count in (1, 1000, 300_000)]
        found[way.__name__] = {"totals": totals, "checked": [peer.checked for peer in ctx.peers]}
report(rank, **found)
