"""A candidate: something that can do the operations, so that it can be measured beside others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .case import Buffers, Case

__all__ = ["Candidate", "Unsupported", "Work", "nothing"]


class Unsupported(Exception):
    """A candidate cannot do an operation; the text says what is missing."""


def nothing() -> None:
    """Do it before a call that needs no preparation."""


@dataclass(frozen=True)
class Work:
    """An operation on given arrays.

    Attributes
    ----------
    run : callable
        Does it once.
    prepare : callable
        Puts the input where `run` wants it, if that is not `x`.  Needed before the results are checked, not while it is
        timed.
    exact : bool
        Whether `run` leaves the results in `out`; a bare exchange does not reduce.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = nothing
    exact: bool = True


class Candidate(Protocol):
    """Attributes: name, as in ``--peers``."""

    name: str

    def barrier(self) -> object:
        """Return when all ranks have called it."""

    def work(self, case: Case, buffers: Buffers) -> Work:
        """Make the work of a case; raises Unsupported, on all ranks alike."""

    def close(self) -> None:
        """Give back what it holds; collective."""
