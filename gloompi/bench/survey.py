"""The measurement: every operation at every size, with gloompi's transports and algorithms beside the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..context import Context
from ..errors import GloompiError
from ..foreign import plain
from ..transport.device import Device
from .candidate import Candidate
from .case import Case
from .gloo import Gloo, import_torch
from .limit import Limit
from .line import Line
from .mpi import MPICandidate
from .options import SHORT_NBYTES, Options
from .own import ALGORITHMS, Own
from .timing import Entrant, WrongResultError, enter, time_in_turn

__all__ = ["PeerError", "Survey", "algorithms_of", "cases", "groups"]

_Made = TypeVar("_Made")

# Characters of what another rank says of why it cannot take part.
_FAILURE_LENGTH = 4000


class PeerError(Exception):
    """A peer that was asked for cannot be measured."""


def groups(options: Options, size: int) -> list[tuple[int, tuple[str, ...]]]:
    """How many ranks measure which operations, one group of ranks after the other.

    A message is between two ranks by its nature: with more, ranks 0 and 1 are measured once, while the others sleep.
    """
    found = []
    asked = options.ranks or (size,)
    for count in asked:
        operations = tuple(
            each
            for each in options.operations
            if not (each == "send/recv" and count != 2) and not (each == "sendrecv" and count == 1)
        )
        if operations:
            found.append((count, operations))
    if "send/recv" in options.operations and 2 not in asked and max(asked) > 2:
        found.append((2, ("send/recv",)))
    return found


def cases(options: Options, size: int, operation: str) -> list[Case]:
    """An operation at all sizes, each once; a barrier has none."""
    sizes = (1,) if operation == "barrier" else options.sizes
    found = [Case(operation, nbytes, size, options.dtype, options.op) for nbytes in sizes]
    return list({case.nbytes: case for case in found}.values())


def algorithms_of(operation: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the wanted algorithms that an operation has; "auto" if it has none of them."""
    known = ("auto", *ALGORITHMS.get(operation, ()))
    if "all" in wanted:
        return known
    return tuple(name for name in wanted if name in known) or ("auto",)


@dataclass
class Survey:
    """Measures what the options say.

    Parameters
    ----------
    options : Options
    report : callable
        Given the lines of each operation as soon as they are there.  Those of rank 0 are about all ranks.
    advance : callable
        Told what is measured next.

    Attributes
    ----------
    notes : list of str
        What was left out, and why.
    used : dict of str to str
        By transport as it was asked for: the transports of the connections, such as "unix".
    """

    options: Options
    report: Callable[[list[Line]], None]
    advance: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)

    def run(self, comm: Any, operations: tuple[str, ...]) -> None:
        """Measure operations on the ranks of an MPI communicator; collective over them.

        Raises
        ------
        WrongResultError
            A result is not what NumPy computes.
        PeerError
            A peer that the user has named cannot be measured.
        GloompiError
            The ranks could not connect, or lost each other.
        """
        failure: Exception | None = None
        with ExitStack() as stack:
            try:
                self._run(comm, operations, stack)
            except (PeerError, WrongResultError) as exc:
                failure = exc  # known to all ranks: the Contexts are closed, not aborted
        if failure is not None:
            raise failure

    def _run(self, comm: Any, operations: tuple[str, ...], stack: ExitStack) -> None:
        contexts: dict[str, Context] = {}
        for transport in self.options.transports:
            ctx = stack.enter_context(Context.from_mpi(comm, device=Device(transport=transport)))
            contexts[transport] = ctx
            ways = ", ".join(sorted({peer.transport for peer in ctx.peers} - {"self"}))
            if ways:
                self.used[transport] = ways
        ctx = next(iter(contexts.values()))
        peers: list[Candidate] = []
        for make in self._makers(comm, contexts):
            peers += [stack.enter_context(closing(peer)) for peer in make()]
        for operation in operations:
            lines = []
            for case in cases(self.options, ctx.size, operation):
                self.advance(f"{operation}, {ctx.size} ranks, {case.nbytes} bytes")
                lines += self._measure(ctx, contexts, peers, case)
            self.report(lines)

    def _makers(self, comm: Any, contexts: dict[str, Context]) -> Iterator[Callable[[], list[Candidate]]]:
        ctx = next(iter(contexts.values()))
        if "mpi" in self.options.peers:
            yield lambda: [MPICandidate(comm)]
        if ctx.size == 1:  # the others have nobody to exchange with
            return
        if "gloo" in self.options.peers:
            yield lambda: self._gloo(ctx)
        if "limit" in self.options.peers:
            for transport, each in contexts.items():
                yield lambda each=each, transport=transport: self._limit(each, transport)  # type: ignore[misc]

    def _gloo(self, ctx: Context) -> list[Candidate]:
        # Where torch is installed on some hosts only, nobody tries to connect.
        _, failure = together(ctx, import_torch)
        missing = failure is not None
        gloo = None
        if failure is None:
            gloo, failure = together(ctx, lambda: Gloo(ctx))
        if gloo is not None:
            return [gloo]
        if self.options.peers_asked:
            raise PeerError(failure)
        if not missing:
            self._note(f"gloo left out: {failure}")
        return []

    def _limit(self, ctx: Context, transport: str) -> list[Candidate]:
        limit, failure = together(ctx, lambda: Limit(ctx, transport))
        if limit is None:
            raise PeerError(failure)
        return [limit]

    def _measure(self, ctx: Context, contexts: dict[str, Context], peers: list[Candidate], case: Case) -> list[Line]:
        buffers = case.buffers(ctx.rank)
        own = [
            Own(each, transport, algorithm)
            for transport, each in contexts.items()
            for algorithm in algorithms_of(case.operation, self.options.algorithms)
        ]
        entrants: list[Entrant] = []
        for candidate in [*own, *peers]:
            entrant = enter(ctx, candidate, case, buffers)
            if isinstance(entrant, Entrant):
                entrants.append(entrant)
            else:
                self._note(f"{candidate.name} left out of {case.operation}: {entrant}")
        streak = self.options.streak if case.nbytes <= SHORT_NBYTES else 1
        times = time_in_turn(ctx, entrants, self.options.seconds * len(own), streak)
        lines = []
        for index, each in enumerate(own):
            beside = {
                entrant.candidate.name: seconds
                for entrant, seconds in zip(entrants, times, strict=True)
                if entrant.candidate in peers and getattr(entrant.candidate, "transport", each.transport) == each.transport
            }
            lines.append(Line.of(case, each.transport, each.algorithm, times[index], beside))
        return lines

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def together(ctx: Context, make: Callable[[], _Made]) -> tuple[_Made | None, str | None]:
    """What `make` returns if it succeeds on all ranks, else None and why it failed on one of them; collective."""
    made = failure = None
    try:
        made = make()
    except GloompiError:
        raise
    except Exception as exc:  # whatever it is, the other ranks must know
        failure = str(exc) or type(exc).__name__
    told = [plain(each, _FAILURE_LENGTH) for each in ctx.allgather_object(failure) if each is not None]
    return (None, told[0]) if told else (made, None)
