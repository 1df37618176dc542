"""How checks are told from helpers, and what many of them ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any, Any], Any]


class Registry(list[Check]):
    """The checks of a module, in its order."""

    def same(self, check: Check) -> Check:
        """A check whose result has to be the same over mpi4py.MPI."""
        check.compared = "by all"  # type: ignore[attr-defined]
        self.append(check)
        return check

    def same_as_mpich(self, check: Check) -> Check:
        """The same, but Open MPI is no judge of it: it does something of its own, or hangs."""
        check.compared = "by MPICH"  # type: ignore[attr-defined]
        self.append(check)
        return check

    def ours(self, check: Check) -> Check:
        """A check of gloompi.MPI alone."""
        check.compared = ""  # type: ignore[attr-defined]
        self.append(check)
        return check


def error_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call raises: the class of an MPI error, or the name of the exception; None if it does not raise."""
    try:
        call(*arguments, **options)
    except Exception as exc:
        if type(exc).__name__ == "Exception":
            return "MPI", exc.Get_error_class()  # type: ignore[attr-defined]
        return type(exc).__name__
    return None


def cause_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The text beside an error of MPI's."""
    try:
        call(*arguments, **options)
    except Exception as exc:
        return str(exc.__cause__)
    raise AssertionError("nothing was raised")


def neighbours(comm: Any) -> tuple[int, int]:
    """Who is left and right in the ring of all ranks."""
    return (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size


def seen(MPI: Any, status: Any) -> tuple[Any, ...]:
    """All that a Status says."""
    return status.source, status.tag, status.Get_count(MPI.BYTE), status.Get_elements(MPI.BYTE), status.Is_cancelled()


def junk(MPI: Any) -> Any:
    """A Status with something in it that must not remain."""
    status = MPI.Status()
    status.source, status.tag = 77, 78
    status.Set_elements(MPI.BYTE, 79)
    status.Set_cancelled(True)
    return status
