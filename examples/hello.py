"""Who is where, over which transport, and one allreduce: mpiexec -n 4 python examples/hello.py"""

from mpi4py import MPI

import gloompi

with gloompi.Context.from_mpi(MPI.COMM_WORLD) as ctx:
    MPI.Finalize()  # nothing below uses MPI
    total = ctx.allreduce(ctx.rank)
    ways = ", ".join(f"{peer.rank} over {peer.transport}" for peer in ctx.peers if peer.rank != ctx.rank)
    me = ctx.peers[ctx.rank]
    print(f"rank {ctx.rank} of {ctx.size} on {me.host} (pid {me.pid}): peers {ways or 'none'}; ranks sum to {total}")
