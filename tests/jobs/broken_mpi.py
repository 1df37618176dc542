"""mpi4py.MPI with one fault, which the environment variable FAULT names: what a comparison must find."""

from __future__ import annotations

import os
import time
from typing import Any

from mpi4py import MPI

FAULT = os.environ.get("FAULT", "")


class _Faulty(MPI.Intracomm):
    """Dup and Split of it are faulty as well: mpi4py makes them of the same class."""

    def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:
        super().Allgather(sendbuf, recvbuf)
        array = recvbuf[0] if isinstance(recvbuf, list | tuple) else recvbuf
        if FAULT == "swapped" and self.Get_rank() == 1 and memoryview(array).nbytes:
            memory = memoryview(array).cast("B")
            memory[0], memory[-1] = memory[-1], memory[0]

    def Recv(self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: Any = None) -> None:
        super().Recv(buf, source, tag, status)
        if FAULT == "tag" and status is not None:
            status.Set_tag(status.Get_tag() + 1)

    def bcast(self, obj: Any, root: int = 0) -> Any:
        if FAULT == "raises" and self.Get_rank() == root:
            raise RuntimeError("a fault")
        return super().bcast(obj, root)

    def Barrier(self) -> None:
        while FAULT == "hangs" and self.Get_rank() == 0:
            time.sleep(1)
        super().Barrier()


COMM_WORLD = _Faulty(MPI.COMM_WORLD)
COMM_SELF = _Faulty(MPI.COMM_SELF)


def __getattr__(name: str) -> Any:
    return getattr(MPI, name)
