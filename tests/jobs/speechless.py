"""One rank leaves a with statement, or an operator, with an exception that has no text; each time in a new Context."""

import os
import sys
import time

import numpy as np
from mpi4py import MPI
from report import report

from gloompi import Context, Device, GloompiError

rank = MPI.COMM_WORLD.Get_rank()
victim, transport = int(sys.argv[1]), sys.argv[2]


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


def mute():
    raise Mute


def deep():
    return deep()


def memory():
    np.empty(1 << 55, "u1")


def surrogate():
    os.stat("/no/such/\udce9")


def failing(fault):
    """An operator that has nothing against single items."""
    return lambda a, b: fault() if a.size > 1 else a + b


outcomes = {}
for name, fault in (("mute", mute), ("deep", deep), ("memory", memory), ("surrogate", surrogate)):
    for where in ("with", "op"):
        raised, outcome = 0.0, {}
        try:
            with Context.from_mpi(device=Device(transport=transport), timeout=20.0, connect_timeout=30.0) as ctx:
                ctx.barrier()
                if rank == victim:
                    raised = time.monotonic()
                    if where == "with":
                        fault()
                    ctx.allreduce(np.ones(30), op=failing(fault))
                elif where == "op":
                    ctx.allreduce(np.ones(30), op=lambda a, b: a + b)
                ctx.barrier()
        except GloompiError as exc:
            outcome = {"error": type(exc).__name__, "text": str(exc), "lost": exc.rank}
        except Exception as exc:
            outcome = {"error": type(exc).__name__}
        outcomes[f"{name} {where}"] = {**outcome, "raised": raised, "ended": time.monotonic()}
report(rank, outcomes=outcomes)
