"""Exchange over MPI: a duplicate of the caller's communicator, one allgather at a time, all of it polled.

The only module, beside the face that looks like mpi4py, that imports mpi4py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline
from ..errors import RendezvousError
from .signing import Signed

if TYPE_CHECKING:
    from .exchange import Exchange

__all__ = ["exchange_over"]

# While MPI has not finished: try at once for a while, then sleep, so that ranks that share cores let each other run. An
# allgather takes several steps, each as long as the sleep of whoever it concerns. What a rendezvous asks of MPI took 160 ms
# with 64 ranks on 2 cores when sleeps grew by half, most of it asleep; with sleeps of a twentieth of the wait so far, 40 ms.
# A wake takes 20 us, and there are 66 of them before the sleeps are longest.
_TRIES = 20
_SLEEP_SECONDS = (200e-6, 5e-3)  # first, longest
_SLEEP_GROWTH = 1.05
_WATCH_SECONDS = 0.1


@contextmanager
def exchange_over(comm: Any, secret: bytes, deadline: Deadline) -> Iterator[Exchange]:
    """An exchange on a duplicate of `comm`, which is freed at the end; None is MPI.COMM_WORLD.

    Parameters
    ----------
    secret : bytes
        Signs the records, so that who can change MPI's messages cannot join; empty to trust MPI.

    Raises
    ------
    TypeError
        `comm` is not a communicator, is null or freed, or is an inter-communicator.
    RendezvousError
        MPI is not initialised or finalized already, or not all ranks came before the deadline.
    """
    from mpi4py import MPI

    if MPI.Is_finalized() or not MPI.Is_initialized():
        state = "has been finalized" if MPI.Is_finalized() else "is not initialised"
        raise RendezvousError(f"MPI {state}; call from_mpi between MPI.Init() and MPI.Finalize()")
    comm = MPI.COMM_WORLD if comm is None else comm
    if not isinstance(comm, MPI.Comm):
        raise TypeError(f"comm must be an mpi4py communicator, not {type(comm).__name__}")
    if comm == MPI.COMM_NULL:
        raise TypeError("comm is COMM_NULL or was freed")
    if comm.Is_inter():
        raise TypeError("comm is an inter-communicator; merge it first: comm.Merge()")
    _check_launcher(MPI)
    if comm.Get_size() == 1:
        from .local import local_exchanges

        yield local_exchanges(1)[0]
        return
    exchange = _MPIExchange(comm)
    try:
        exchange.connect(deadline)
        yield Signed(exchange, secret)
    finally:
        exchange.free()


class _MPIExchange:
    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._error = MPI.Exception
        self._errors_return = MPI.ERRORS_RETURN
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._pending: list[Any] = []
        try:
            # A duplicate: no message of the caller's can meet ours.
            self._comm, self._duplicated = comm.Idup()
        except self._error as exc:
            raise RendezvousError(f"MPI could not duplicate the communicator: {exc}") from exc

    def connect(self, deadline: Deadline) -> None:
        """Wait for the duplicate."""
        self._wait(self._duplicated, None, deadline, lambda: None)
        self._comm.Set_errhandler(self._errors_return)  # the caller's may end the process

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        nbytes = len(record)
        gathered = bytearray(nbytes * self.size)
        try:
            request = self._comm.Iallgather(bytearray(record), gathered)
        except self._error as exc:
            raise RendezvousError(f"MPI_Iallgather failed: {exc}") from exc
        self._wait(request, gathered, deadline, watch)
        return [bytes(gathered[start : start + nbytes]) for start in range(0, len(gathered), nbytes)]

    def _wait(self, request: Any, buffer: Any, deadline: Deadline, watch: Callable[[], None]) -> None:
        # MPI writes to the buffer for as long as the request is pending, whatever becomes of us.
        self._pending.append((request, buffer))
        pause, longest = _SLEEP_SECONDS
        tries, slept = 0, 0.0
        try:
            while not request.Test():
                if deadline.expired():
                    raise RendezvousError(
                        f"not all {self.size} ranks of the communicator called from_mpi, or went through it, within "
                        f"{deadline.timeout:.1f} s; one of them may have died or be late (connect_timeout)"
                    )
                tries += 1
                if tries < _TRIES:
                    os.sched_yield()
                    continue
                sleep(pause)
                slept += pause
                pause = min(_SLEEP_GROWTH * pause, longest)
                if slept >= _WATCH_SECONDS:
                    slept = 0.0
                    watch()
        except self._error as exc:
            raise RendezvousError(f"MPI failed during the rendezvous, so a rank has probably died: {exc}") from exc
        self._pending.pop()

    def free(self) -> None:
        """Free the duplicate, unless an unfinished operation still needs it."""
        if self._pending:
            _abandoned.append((self._comm, self._pending))
        else:
            self._comm.Free()


# Communicators with operations that some rank never joined, and their buffers: MPI can neither cancel nor free them.
_abandoned: list[Any] = []


def _check_launcher(MPI: Any) -> None:
    """Warn if every process is a world of its own although a launcher started several."""
    if MPI.COMM_WORLD.Get_size() > 1:
        return
    from ..launcher import claimed_sizes

    for variable, size in claimed_sizes():
        if size > 1:
            warnings.warn(
                f"MPI.COMM_WORLD has 1 rank, but {variable}={size}: this is the wrong mpiexec for this mpi4py, which uses "
                f"{MPI.Get_library_version().splitlines()[0]}; use the mpiexec of that MPI, in most cases the one "
                f"beside the python in use, or with srun a PMI that it knows (srun --mpi=list)",
                RuntimeWarning,
                stacklevel=5,  # whoever called from_mpi
            )
            return
