"""The errors gloompi raises: facts as attributes, the text built from them.

Misuse that one rank can see by itself is ``ValueError`` or ``TypeError``, raised before a byte is sent; everything
here is about the other ranks.  An error can travel: `facts` is what an abort frame carries, and `rebuild` makes the
same error on the rank that receives it.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AuthenticationError",
    "ContextClosedError",
    "GloompiError",
    "MismatchError",
    "OperationTimeoutError",
    "PeerLostError",
    "RendezvousError",
    "SystemCallError",
]


class GloompiError(Exception):
    """Base of all errors of gloompi.

    Attributes
    ----------
    reported_by : int or None
        The rank that met the fault first and told this one; None when this rank met it itself.
    interrupted : str
        What this rank was doing when it was told; empty if nothing.  An operation that the error names is the other's.
    """

    _facts: ClassVar[tuple[str, ...]] = ("reason",)
    reported_by: int | None = None
    interrupted = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def _text(self) -> str:
        return self.reason

    def __str__(self) -> str:
        if self.reported_by is None:
            return self._text()
        here = f"; this rank was in {self.interrupted}" if self._is_elsewhere() else ""
        return f"{self._text()} (reported by rank {self.reported_by}{here})"

    def _is_elsewhere(self) -> bool:
        """Whether the text names an operation of the rank that reports, and this rank was in another one."""
        return False

    def facts(self) -> dict[str, Any]:
        """The keyword arguments that make this error again."""
        return {name: getattr(self, name) for name in self._facts}

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self).__name__, self.facts(), self.reported_by, self.interrupted)


class RendezvousError(GloompiError):
    """The ranks did not find each other; raised on every rank that can still be reached.

    Attributes
    ----------
    rank : int or None
        The rank at which it failed, None if that is not known.
    host, pid
        Where that rank runs.
    reason : str
        What failed there.
    """

    _facts = ("reason", "rank", "host", "pid")

    def __init__(self, reason: str, rank: int | None = None, host: str = "", pid: int = 0) -> None:
        super().__init__(reason)
        self.rank, self.host, self.pid = rank, host, pid

    def _text(self) -> str:
        if self.rank is None:
            return f"rendezvous failed: {self.reason}"
        where = f" ({self.host}, pid {self.pid})" if self.host else ""
        return f"rendezvous failed at rank {self.rank}{where}: {self.reason}"


class PeerLostError(GloompiError, ConnectionError):
    """The connection to a peer is gone: its process ended, it aborted, or the network failed.

    Attributes
    ----------
    rank, host, pid, address
        The lost peer.  `address` starts with the transport: ``"tcp 10.0.0.4:40112"``.
    operation : str or None
        What the rank that met the loss was doing, such as ``"allreduce #17"``; None when it was idle.
    """

    _facts = ("rank", "host", "pid", "address", "operation", "reason")

    def __init__(self, rank: int, host: str, pid: int, address: str, operation: str | None, reason: str) -> None:
        super().__init__(reason)
        self.rank, self.host, self.pid, self.address = rank, host, pid, address
        self.operation = operation

    def _is_elsewhere(self) -> bool:
        # A rank that reports itself has aborted: what it was doing is part of that.
        return self.interrupted not in ("", self.operation) and self.rank != self.reported_by

    def _text(self) -> str:
        doing = f"in {self.operation}" if self.operation else "between operations"
        return f"lost rank {self.rank} ({self.host}, pid {self.pid}, {self.address}) {doing}: {self.reason}"


class OperationTimeoutError(GloompiError, TimeoutError):
    """An operation did not finish within its budget.

    Attributes
    ----------
    operation : str
        Such as ``"allreduce #17"``.
    timeout : float
        The budget in seconds.
    reason : str
        What was outstanding, with which peer, and how many bytes of how many had come.
    """

    _facts = ("operation", "timeout", "reason")

    def __init__(self, operation: str, timeout: float, reason: str) -> None:
        super().__init__(reason)
        self.operation, self.timeout = operation, timeout

    def _is_elsewhere(self) -> bool:
        return self.interrupted not in ("", self.operation)

    def _text(self) -> str:
        return f"{self.operation} timed out after {self.timeout:.1f} s: {self.reason}"


class SystemCallError(GloompiError, OSError):
    """A system call has failed for a reason of one rank's own, such as memory that cannot be read or a closed descriptor.

    Attributes
    ----------
    rank : int
        The rank on which it failed.
    operation : str or None
        What that rank was doing, such as ``"send"``; None between operations.
    errno : int
        As of any OSError.
    reason : str
        Which bytes were being moved, between whom, the likely cause, and the next step.
    """

    _facts = ("rank", "operation", "errno", "reason")

    def __init__(self, rank: int, operation: str | None, errno: int, reason: str) -> None:
        super().__init__(reason)
        self.rank, self.operation, self.errno = rank, operation, errno

    def _is_elsewhere(self) -> bool:
        return self.interrupted not in ("", self.operation)

    def _text(self) -> str:
        doing = f"in {self.operation}" if self.operation else "between operations"
        return f"a system call of rank {self.rank} failed {doing}: {self.reason}"


class MismatchError(GloompiError, ValueError):
    """Two ranks disagree about an operation: which one it is, dtype, count, root, op or algorithm; or about a message.

    Attributes
    ----------
    operation : str
        The operation as the rank that noticed calls it, with its number.
    rank, other : int
        The rank that noticed, and the one that it disagrees with.
    here, there : str
        What each of the two called.
    """

    _facts = ("operation", "rank", "here", "other", "there")

    def __init__(self, operation: str, rank: int, here: str, other: int, there: str) -> None:
        super().__init__("")
        self.operation, self.rank, self.other = operation, rank, other
        self.here, self.there = here, there

    def _text(self) -> str:
        if self.operation.startswith("the message "):  # from rank to rank: it is no call that all ranks make
            advice = (
                "a receive needs the dtype that was sent and room for all of it; recv_array takes any array, recv_object "
                "any object"
            )
        else:
            advice = "every rank must make the same calls in the same order"
        return (
            f"ranks disagree on {self.operation}: rank {self.rank} called {self.here}, rank {self.other} called "
            f"{self.there}; {advice}"
        )


class ContextClosedError(GloompiError):
    """The Context was closed or aborted on this rank, or inherited through fork."""


class AuthenticationError(GloompiError):
    """A connection did not prove that it belongs to this session."""


_BY_NAME: dict[str, type[GloompiError]] = {
    error.__name__: error
    for error in (
        GloompiError,
        RendezvousError,
        PeerLostError,
        OperationTimeoutError,
        SystemCallError,
        MismatchError,
        ContextClosedError,
        AuthenticationError,
    )
}


def readable(text: str, most: int | None = None) -> str:
    """Return `text`, or its first characters, as a plain str that can be encoded: what is none is written as an escape."""
    return text[:most].encode(errors="backslashreplace").decode()[:most]


def summary(exc: BaseException) -> str:
    """Describe an exception to others: ``"ValueError: boom"``.

    Works for every exception, whatever making its text raises, except for what is not an Exception: that is the word of a
    signal handler, as a rule.
    """
    name = type(exc).__name__
    try:
        text = readable(str(exc))
    except Exception:
        return f"{name} (its text cannot be made)"
    return f"{name}: {text}" if text else name


def note(error: BaseException, *texts: str) -> None:
    """Let the traceback of an error end with texts (from Python 3.11 on), whatever class it is of, a frozen one perhaps."""
    if texts:
        vars(error).setdefault("__notes__", []).extend(texts)


def wire_name(error: GloompiError) -> str:
    """The name under which `rebuild` makes an error again: of a class of the program's own, that of its base."""
    return next(each.__name__ for each in type(error).__mro__ if _BY_NAME.get(each.__name__) is each)


def is_clean(exc: BaseException | None) -> bool:
    """Whether a program that ends with this exception, if any, ends as it should: ``sys.exit()`` and ``sys.exit(0)``."""
    if isinstance(exc, SystemExit):
        return exc.code is None or (isinstance(exc.code, int) and exc.code == 0)
    return exc is None


def rebuild(name: str, facts: dict[str, Any], reported_by: int | None, interrupted: str = "") -> GloompiError:
    """Make the error called `name` again from its `facts` (see `GloompiError.facts`)."""
    error = _BY_NAME.get(name, GloompiError)(**facts)
    error.reported_by, error.interrupted = reported_by, interrupted
    return error
