"""What MPI says to calls that the shim refuses, and to local ones."""

import sys
from collections.abc import Callable

from door import Door

door = Door(sys.argv[1])

from mpi4py import MPI  # noqa: E402
from report import report  # noqa: E402

comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()


def error_of(function: Callable[..., object], *arguments: object) -> bool | None:
    """Whether the exception that a call raises has the class ERR_OTHER; None if it raises none."""
    try:
        function(*arguments)
    except MPI.Exception as exc:
        return exc.Get_error_class() == MPI.ERR_OTHER
    return None


def exchanged() -> int:
    """What the left neighbour sends to its right one."""
    received = bytearray(1)
    comm.Sendrecv(bytes([rank]), (rank + 1) % size, 0, received, (rank - 1) % size, 0)
    return received[0]


before = exchanged()
counted_before = door.refused()
door.refuse()
one = error_of(MPI.COMM_SELF.Sendrecv, b"a", 0, 0, bytearray(1), 0, 0)
counted_one = door.refused()
errors = [
    error_of(comm.Barrier),
    error_of(comm.Barrier),
    error_of(comm.Iallreduce, bytearray(8), bytearray(8)),
    error_of(comm.Dup),
    error_of(comm.Irecv, bytearray(1)),
    error_of(comm.Iprobe),
    error_of(MPI.Win.Create, None, 1, MPI.INFO_NULL, comm),
]
vector = MPI.INT.Create_vector(2, 1, 2).Commit()
packed = bytearray(8)
vector.Pack(bytearray(range(12)), packed, 0, MPI.COMM_SELF)
vector.Free()
group = comm.Get_group()
local = [comm.Get_rank(), comm.Get_size(), group.Get_size(), MPI.Wtime() > 0, list(packed)]
group.Free()
door.allow()
after = exchanged()
report(
    rank,
    exchanged=[before, after],
    before=counted_before,
    one=one,
    counted_one=counted_one,
    errors=errors,
    counted=door.refused(),
    local=local,
)
