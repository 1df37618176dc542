"""The world: the connections of all ranks, from the rendezvous to the end of the program."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType

from mpi4py import MPI as mpi

from ..context import Context
from ..ending import at_the_end
from ..errors import summary
from .communicator import CommContext

__all__ = ["World"]


class World:
    """COMM_WORLD and COMM_SELF of this process, connected when this is made.

    Attributes
    ----------
    context : Context
        Of all ranks.
    itself : Context
        Of this rank alone.
    """

    def __init__(self) -> None:
        self.context: Context = CommContext.from_env()
        itself = self.context.split(self.context.rank)
        assert itself is not None
        self.itself = itself
        self._ended = False
        self._failure: BaseException | None = None
        self._hook = sys.excepthook
        sys.excepthook = self._note
        atexit.register(self._exit)

    def _note(self, kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        """Remember the exception that ends the program; at an interactive prompt it does not."""
        if not hasattr(sys, "ps1"):
            self._failure = exc
        self._hook(kind, exc, trace)

    def _exit(self) -> None:
        """After an exception that nobody has caught, tell the others; else the program's objects may still communicate."""
        self._hook = sys.__excepthook__  # the program's, perhaps
        if self._ended:
            return
        if self._failure is not None:
            self.fail(self._failure)
        else:
            at_the_end(self.end)

    def end(self) -> None:
        """Close the connections."""
        if self._ended:
            return
        self._ended = True
        engine = self.context._engine
        for conversation in tuple(engine._conversations - {self.context._conversation}):
            engine.forget(conversation)
        self.context.close()

    def fail(self, exc: BaseException) -> None:
        """Break the connections on all ranks: this one ends with an exception."""
        self._ended = True
        self.context.abort(summary(exc))

    def end_job(self, code: int) -> None:
        """Have MPI end all ranks, whatever they are doing; once it is finalized, this one alone."""
        if not mpi.Is_finalized():
            mpi.COMM_WORLD.Abort(code)
        os._exit(code)

    def finalize(self) -> None:
        """As MPI.Finalize."""
        self.end()
        mpi.Finalize()
