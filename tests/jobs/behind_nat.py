"""Ranks that listen on an address which all hosts have, reached at another: `behind_nat.py ADDRESS ...`, one a host."""

import sys

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, Device

rank, ranks_per_host = MPI.COMM_WORLD.Get_rank(), 2
outside = sys.argv[1 + rank // ranks_per_host]
device = Device(host="172.30.0.2", advertise=outside, port=(40_000, 40_009))
with Context.from_mpi(device=device, timeout=20, connect_timeout=15) as ctx:
    total = ctx.allreduce(np.arange(100_000) + ctx.rank)
    np.testing.assert_array_equal(total, np.arange(100_000) * ctx.size + sum(range(ctx.size)))
    report(rank, peers=[(peer.transport, peer.address, peer.why) for peer in ctx.peers])
