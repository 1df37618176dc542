"""Hang-ups: connections that end before all ranks have agreed that they are connected, and the last words of who leaves.

A rank that gives up says why on every connection before it closes them, so that also those learn of it which the culprit has
never reached.  It says so in the frame that aborts a Context: a rank that has agreed already, and works, understands it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from time import monotonic

from ..deadline import Deadline
from ..errors import RendezvousError
from ..transport.endpoint import Endpoint
from ..transport.frames import HEADER_NBYTES, VERSION, Kind, unpack_header
from ..transport.route import Route

__all__ = ["Departures", "Hangups", "error_at", "heard", "tell"]

# How long a rank that sees a connection end waits for the verdict, which may say more: a part of the 2 s in which all are
# to learn of a rank that has left.
_GRACE_SECONDS = 0.5

# A rank that notices that another has left goes on for so long, to reach those that it will tell.
_PARTING_SECONDS = 0.2


def error_at(rank: int, reason: str, endpoints: Sequence[Endpoint]) -> RendezvousError:
    """The error that the rendezvous has failed at a rank."""
    return RendezvousError(reason, rank, endpoints[rank].host, endpoints[rank].pid)


def _hung_up(peer: int, sock: socket.socket, endpoints: Sequence[Endpoint]) -> RendezvousError:
    """The error that a peer has ended its connection: its own words if it has left some."""
    text = "its connection ended before all ranks were connected; it has probably died"
    return heard(peer, sock) or error_at(peer, text, endpoints)


def tell(error: RendezvousError, rank: int, sockets: Sequence[socket.socket | None]) -> None:
    """Leave last words on connections on which nothing else will be said."""
    from ..transport.abort import abort_frame  # only who fails needs it

    header, payload = abort_frame(error, rank)
    for sock in sockets:
        if sock is not None:
            with suppress(OSError):  # it has gone too
                sock.send(header + bytes(payload))
                sock.shutdown(socket.SHUT_WR)


def heard(peer: int, sock: socket.socket) -> RendezvousError | None:
    """The last words on a connection that the peer has ended; None if it left none."""
    from ..transport.abort import MAX_ABORT_NBYTES, Abort

    try:
        data = sock.recv(HEADER_NBYTES + MAX_ABORT_NBYTES, socket.MSG_PEEK)
    except OSError:
        return None
    if len(data) < HEADER_NBYTES:
        return None
    version, kind, _, _, nbytes, _ = unpack_header(data, 0)
    if (version, kind, nbytes) != (VERSION, Kind.ABORT, len(data) - HEADER_NBYTES):
        return None
    words: list[Exception] = []
    sink = Abort(peer, nbytes, words.append)
    sink.feed(memoryview(data)[HEADER_NBYTES:])
    sink.finish()
    return words[0] if isinstance(words[0], RendezvousError) else None


class Departures:
    """Notices who leaves while connections are still being made.

    Parameters
    ----------
    epoll : select.epoll
        Reports what is watched, see `hung_up`.
    endpoints : list of Endpoint

    Attributes
    ----------
    due : float
        When `check` will raise, by `time.monotonic`.
    """

    def __init__(self, epoll: select.epoll, endpoints: Sequence[Endpoint]) -> None:
        self._epoll = epoll
        self._endpoints = endpoints
        self._connected: dict[int, tuple[int, socket.socket]] = {}
        self._error: RendezvousError | None = None
        self.due = inf

    def watch(self, peer: int, sock: socket.socket) -> None:
        """Watch a connection: nobody ends one before all ranks are connected, but who fails."""
        self._connected[sock.fileno()] = peer, sock
        self._epoll.register(sock.fileno(), select.EPOLLRDHUP)

    def hung_up(self, fd: int) -> None:
        """The connection with this descriptor has ended, if it is one."""
        if fd in self._connected:
            self._epoll.unregister(fd)
            self._note(_hung_up(*self._connected.pop(fd), self._endpoints))

    def refused(self, peer: int, route: Route) -> None:
        """A rank listens from before its record until all are connected to it: on AF_UNIX, a refusal means that it left."""
        text = f"it stopped listening at {route.text} before all ranks were connected; it has probably died"
        self._note(error_at(peer, text, self._endpoints))

    def _note(self, error: RendezvousError) -> None:
        if error.reported_by is not None:
            self._error, self.due = error, 0.0
        elif self._error is None:
            self._error, self.due = error, monotonic() + _PARTING_SECONDS

    def check(self, now: float) -> None:
        """Raise the error of who has left, once those that are to be told can be reached.

        Raises
        ------
        RendezvousError
        """
        if self._error is not None and now >= self.due:
            raise self._error


class Hangups:
    """Finds out which peer's connection ended first while the ranks agree.

    Parameters
    ----------
    sockets : list of socket or None
        Connected, by rank.
    endpoints : list of Endpoint
    known : RendezvousError, optional
        What this rank has noticed already.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket | None],
        endpoints: Sequence[Endpoint],
        known: RendezvousError | None = None,
    ) -> None:
        self._connected = {sock.fileno(): (peer, sock) for peer, sock in enumerate(sockets) if sock is not None}
        self._endpoints = endpoints
        self._error: RendezvousError | None = None
        self._since = Deadline(None)
        if known is not None:
            self._note(known)

    def _note(self, error: RendezvousError) -> None:
        # Ranks that raise hang up as well: those that look later must not take them for the culprit.
        self._error = error
        self._since = Deadline(_GRACE_SECONDS)

    def check(self) -> None:
        """Raise the error of the peer that hung up first, once the others have had the time to notice it too.

        Raises
        ------
        RendezvousError
        """
        if self._error is None or self._error.reported_by is None:
            self._look()
        if self._error is not None and self._since.expired():
            raise self._error

    def _look(self) -> None:
        poller = select.poll()
        for fd in self._connected:
            poller.register(fd, select.POLLRDHUP)
        for fd, _ in poller.poll(0):
            error = _hung_up(*self._connected[fd], self._endpoints)
            known = None if self._error is None else self._error.rank
            # What others say of the rank that has left already adds nothing, and may be this rank's own word.
            if error.reported_by is not None and (known != error.rank or error.reported_by == error.rank):
                self._note(error)
                return
            # A peer that has agreed first may have worked and said goodbye already: then there is input.
            if self._error is None and not _has_input(self._connected[fd][1]):
                self._note(error)


def _has_input(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
