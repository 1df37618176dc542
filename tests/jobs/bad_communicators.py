"""What is no usable communicator is refused alike on all ranks, whatever the state of MPI."""

import mpi4py

mpi4py.rc.initialize = False

from mpi4py import MPI  # noqa: E402
from report import facts_of, report  # noqa: E402
from traces import open_files  # noqa: E402

from gloompi import Context  # noqa: E402


class Falsy:
    """Not None, but nothing either."""

    def __bool__(self) -> bool:
        return False


class Broken(MPI.Intracomm):
    """A communicator that MPI cannot duplicate."""

    def Idup(self, info=MPI.INFO_NULL):
        raise MPI.Exception(MPI.ERR_OTHER)


def refusal(comm):
    try:
        Context.from_mpi(comm, connect_timeout=10)
    except Exception as exc:
        facts = facts_of(exc)
        return [facts["error"], facts["text"]]
    return ["", "no error"]


refused = {"before Init": refusal(None)}
MPI.Init()
world = MPI.COMM_WORLD
rank = world.Get_rank()
files = open_files()
freed = world.Dup()
freed.Free()
inter = MPI.COMM_SELF.Create_intercomm(0, world, 1 - rank)
bad = {"int": 0, "falsy": Falsy(), "str": "world", "group": world.Get_group(), "class": MPI.Comm}
bad |= {"null": MPI.COMM_NULL, "freed": freed, "inter": inter, "broken": Broken(world)}
for name, comm in bad.items():
    refused[name] = refusal(comm)
inter.Free()
with Context.from_mpi(world, connect_timeout=30) as ctx:
    total = int(ctx.allreduce(1))
MPI.Finalize()
refused["finalized"] = refusal(world)
report(rank, refused=refused, total=total)
