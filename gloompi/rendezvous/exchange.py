"""An exchange: every rank gives a record, every rank gets all of them.  MPI, a store or a list in memory can do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..deadline import Deadline

__all__ = ["Exchange", "no_watch"]


class Exchange(Protocol):
    """A channel between ranks that are not connected yet.

    Attributes
    ----------
    rank, size : int
    """

    rank: int
    size: int

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        """Return the records of all ranks, in rank order; all are of one length.

        Parameters
        ----------
        watch : callable
            To be called about ten times a second while waiting; it may raise.

        Raises
        ------
        RendezvousError
            Not all ranks came before the deadline.
        """


def no_watch() -> None:
    """For those who have nothing to watch while they wait."""
