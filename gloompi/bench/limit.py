"""The ceiling: the bytes of an operation over bare sockets, with no frames, no matching and no reduction.

Non-blocking sends and receives in a loop, as much as the socket takes or gives, until all bytes have moved.  When
nothing moves, a rank tries again, yielding where ranks share cores, and sleeps at last: else it would take the time of
others that share its core.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..context import Context
from .candidate import Work
from .case import Buffers, Case
from .patterns import keep_own, steps
from .sockets import connect

__all__ = ["Limit"]

# Longer than the other side of an exchange takes for anything that a rank with a core of its own does.
_PATIENCE_SECONDS = 300e-6

# What one call sends or receives, so that a rank that does both alternates. Over AF_UNIX between 2 ranks, 16 MiB took 3.7 ms
# for allreduce and 1.6 ms for allgather with all at once, 3.0 and 1.5 with 1 MiB, 4.0 and 2.0 with 64 KiB.
_PIECE_NBYTES = 1024 * 1024

_Transfers = list[tuple[socket.socket, memoryview]]


class Limit:
    """A bare exchange between the ranks of a Context; making one is collective.

    Parameters
    ----------
    transport : str
        The Context's, as it was asked for.

    Raises
    ------
    OSError
        The ranks could not connect.
    """

    name = "limit"

    def __init__(self, ctx: Context, transport: str) -> None:
        self.transport = transport
        self._rank, self._size = ctx.rank, ctx.size
        cores = sorted(os.sched_getaffinity(0))
        here = [
            theirs
            for host, theirs in ctx.allgather_object((ctx.peers[ctx.rank].host_id, cores))
            if host == ctx.peers[ctx.rank].host_id
        ]
        self._crowded = len(here) > len(set().union(*here))
        self._sockets = connect(ctx)
        self._barrier = self._runner(Case("barrier", 1, self._size), Buffers(None, None))

    def barrier(self) -> None:
        self._barrier()

    def work(self, case: Case, buffers: Buffers) -> Work:
        return Work(self._runner(case, buffers), lambda: keep_own(case, self._rank, buffers), exact=not case.reduces)

    def _runner(self, case: Case, buffers: Buffers) -> Callable[[], None]:
        plan = [(self._views(outgoing), self._views(incoming)) for outgoing, incoming in steps(case, self._rank, buffers)]
        crowded = self._crowded

        def run() -> None:
            for outgoing, incoming in plan:
                _exchange(outgoing, incoming, crowded)

        return run

    def _views(self, side: list[tuple[int, Any]]) -> _Transfers:
        return [(self._sockets[peer], memoryview(part).cast("B")) for peer, part in side if len(part)]

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


def _exchange(outgoing: _Transfers, incoming: _Transfers, crowded: bool) -> None:
    """Move all bytes; what is left of each transfer shrinks."""
    idle_since = 0.0
    while outgoing or incoming:
        outgoing, sent = _send(outgoing)
        incoming, received = _receive(incoming)
        if sent or received:
            idle_since = 0.0
        elif not idle_since:
            idle_since = perf_counter()
        elif perf_counter() - idle_since > _PATIENCE_SECONDS:
            _sleep(outgoing, incoming)
        elif crowded:
            os.sched_yield()


def _send(outgoing: _Transfers) -> tuple[_Transfers, bool]:
    left, moved = [], False
    for sock, view in outgoing:
        try:
            nbytes = sock.send(view[:_PIECE_NBYTES])
        except BlockingIOError:
            left.append((sock, view))
            continue
        moved = True
        if nbytes < len(view):
            left.append((sock, view[nbytes:]))
    return left, moved


def _receive(incoming: _Transfers) -> tuple[_Transfers, bool]:
    left, moved = [], False
    for sock, view in incoming:
        try:
            nbytes = sock.recv_into(view, min(len(view), _PIECE_NBYTES))
        except BlockingIOError:
            left.append((sock, view))
            continue
        if nbytes == 0:
            raise ConnectionError("a rank closed its socket of the bare exchange; it has probably died, see its log")
        moved = True
        if nbytes < len(view):
            left.append((sock, view[nbytes:]))
    return left, moved


def _sleep(outgoing: _Transfers, incoming: _Transfers) -> None:
    poll = select.poll()
    events: dict[socket.socket, int] = {}
    for transfers, event in ((outgoing, select.POLLOUT), (incoming, select.POLLIN)):
        for sock, _ in transfers:
            events[sock] = events.get(sock, 0) | event
    for sock, wanted in events.items():
        poll.register(sock, wanted)
    poll.poll()
