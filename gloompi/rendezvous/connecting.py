"""Dialing and accepting: all connections of one rank, in one event loop, without a thread.

The higher rank dials, the lower accepts.  Whoever connects has 5 s to prove that it belongs here; strangers cost a file
descriptor and 64 bytes each until then, and the oldest go first when there are many.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections import deque
from collections.abc import Collection
from time import monotonic

from ..deadline import Deadline
from ..errors import AuthenticationError, RendezvousError
from ..transport.credentials import OVERFLOW_UID, peer_uid
from ..transport.endpoint import Endpoint
from ..transport.handshake import Flights, Session, Transport, accept, dial
from ..transport.options import tune
from ..transport.route import Route, routes
from .allowance import Allowance
from .attempts import Attempt, Attempts, Failure, failed
from .hangups import Departures

__all__ = ["Connecting"]

_log = logging.getLogger("gloompi")

# Seconds a connection has to authenticate.
_HANDSHAKE_SECONDS = 5.0
# A rank's handshake takes milliseconds: who needs longer than this may be dropped when descriptors run out.
_PATIENCE_SECONDS = 0.2
# How often it is looked whether one of those that this rank dialed has taken too long.
_LOOK_SECONDS = 0.1
# Connects under way at a time: bounds the backlog that a rank needs when all others dial it.
_MAX_DIALING = 64
# Connections that have not authenticated yet; beyond it the oldest is dropped.
_MAX_UNKNOWN = 512
# Connections taken from the listening sockets a second, beyond one from each rank and those that are kept. Where 16 threads
# made strangers as fast as they could, each cost 35 us: so a seventh of a core. No scanner of networks comes near it.
_RATE = 4000.0
# Taken at a time: a flood of strangers must not keep us from the handshakes of those we know.
_BATCH = 16
# Errors of accept(2) that are this rank's own trouble.
_FATAL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EBADF, errno.EINVAL)


class _Handshake:
    """A connection that is not authenticated yet."""

    __slots__ = ("attempt", "expires", "fd", "flights", "outgoing", "patience", "peer", "received", "sock", "wanted")

    def __init__(self, sock: socket.socket, flights: Flights, patience: float, attempt: Attempt | None = None) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.flights = flights
        self.peer = -1 if attempt is None else attempt.peer  # -1: whoever it is
        self.patience = patience  # seconds
        self.expires = monotonic() + patience
        self.attempt = attempt  # None: it was accepted
        self.outgoing, self.wanted = next(flights)
        self.received = b""


class Connecting:
    """The connections of one rank while they are being made.

    Parameters
    ----------
    ways : list of list of Route
        How to reach each rank, best first.
    listeners : list of socket
        Non-blocking; stay the caller's.
    without : collection of int
        Ranks that are left out.

    Attributes
    ----------
    sockets : list of socket or None
        The connections made so far, by rank; None for this rank.
    """

    def __init__(
        self,
        rank: int,
        endpoints: list[Endpoint],
        ways: list[list[Route]],
        listeners: list[socket.socket],
        session: Session,
        without: Collection[int] = (),
    ) -> None:
        self._rank = rank
        self._endpoints = endpoints
        self._ways = ways
        self._session = session
        self._epoll = select.epoll()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._allowance = Allowance(_RATE, len(endpoints) + _MAX_UNKNOWN)
        self._deaf = True
        self._listen(True)
        self.sockets: list[socket.socket | None] = [None] * len(endpoints)
        self._taken: list[Route | None] = [None] * len(endpoints)
        self._wanted = set(range(len(endpoints))) - {rank, *without}
        self._missing = len(self._wanted)
        self._departures = Departures(self._epoll, endpoints)
        self._handshakes: dict[int, _Handshake] = {}
        self._unknown: deque[_Handshake] = deque()
        self._dialing = 0
        self._looked = 0.0
        self._attempts = Attempts(ways, [peer for peer in self._wanted if peer < rank])
        self._remaining: float | None = None
        self._refused = 0
        self._complained = 0.0

    def run(self, deadline: Deadline) -> None:
        """Connect to all ranks.

        Raises
        ------
        RendezvousError
            Somebody could not be reached, or did not come, before the deadline; or, with its `rank`, somebody has left.
        OSError
            The system has no file descriptors left.
        """
        while self._missing:
            now = monotonic()
            self._remaining = deadline.remaining()
            self._dial_due(now)
            self._expire(now)
            if self._deaf and not self._allowance.pause(_BATCH):
                self._listen(True)
            if deadline.expired():
                raise RendezvousError(self._report(deadline))
            for fd, event in self._epoll.poll(self._pause(deadline, now)):
                if fd in self._listeners:
                    self._accept(self._listeners[fd])
                elif fd in self._handshakes:
                    self._step(self._handshakes[fd], event)
                else:
                    self._departures.hung_up(fd)
            if self._missing:
                self._departures.check(now)
        if _log.isEnabledFor(logging.DEBUG):
            self._explain()

    def _explain(self) -> None:
        for peer, route in enumerate(self._taken):
            if route is not None:
                others = [f"{way.text} ({way.why})" for way in self._ways[peer] if way.text != route.text]
                instead = f"; not {', '.join(others)}" if others and peer < self._rank else ""
                text = f"{route.transport} {route.text} ({route.why}){instead}"
                _log.debug("rank %d to rank %d: %s", self._rank, peer, text)

    def route(self, peer: int) -> Route | None:
        """The way that a connected rank is reached; None if it is not connected."""
        return None if self.sockets[peer] is None else self._taken[peer]

    def failures(self) -> dict[int, Failure]:
        """The ranks that are not connected, with what came of the best way to each of them."""
        missing = [peer for peer in self._wanted if self.sockets[peer] is None]
        return {peer: self._failure(peer) for peer in missing}

    def _failure(self, peer: int) -> Failure:
        if peer > self._rank:
            return Failure("", "it did not connect", None)
        route = self._taken[peer]
        address, reason = ("any address", "not tried yet") if route is None else (route.text, "no answer yet")
        return self._attempts.failure(peer) or Failure(address, reason, None)

    def hand_over(self) -> tuple[list[socket.socket | None], list[Route | None]]:
        """Return the sockets, which are the caller's now, and the routes they took; None for this rank."""
        sockets, self.sockets = self.sockets, []
        return sockets, self._taken

    def close(self) -> None:
        """Drop all connections that have not been handed over."""
        for handshake in list(self._handshakes.values()):
            self._drop(handshake)
        for sock in self.sockets:
            if sock is not None:
                sock.close()
        self._epoll.close()

    def _pause(self, deadline: Deadline, now: float) -> float:
        # Expiries are looked at often enough without being computed: at least every half second.
        remaining = deadline.remaining()
        pause = 0.5 if remaining is None else min(0.5, remaining)
        pause = min(pause, max(0.0, self._departures.due - now))
        if self._deaf:
            pause = min(pause, self._allowance.pause(_BATCH))
        return pause if self._dialing >= _MAX_DIALING else min(pause, self._attempts.pause(now))

    # -- dialing --------------------------------------------------------------------------------------------------------

    def _dial_due(self, now: float) -> None:
        while self._dialing < _MAX_DIALING:
            attempt = self._attempts.next(now)
            if attempt is None:
                return
            self._dial(attempt)

    def _dial(self, attempt: Attempt) -> None:
        peer, _, route = attempt
        try:
            sock = socket.socket(route.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as exc:
            if not self._make_room(exc):
                raise
            self._attempts.again(attempt, Failure(route.text, "no file descriptor was free", exc.errno))
            return
        tune(sock)
        error = sock.connect_ex(route.address)
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            if error == errno.ECONNREFUSED and route.transport == "unix":
                self._departures.refused(peer, route)
            self._attempts.again(attempt, failed(route, error))
            return
        if why := self._not_of_this_user(sock):
            sock.close()
            self._attempts.again(attempt, Failure(route.text, why, None))
            return
        flights = dial(self._session, self._rank, peer, _transport(sock))
        handshake = _Handshake(sock, flights, self._attempts.patience(peer, self._remaining), attempt)
        self._taken[peer] = route
        self._dialing += 1
        self._handshakes[handshake.fd] = handshake
        if error:
            self._epoll.register(handshake.fd, select.EPOLLOUT)
        else:
            self._epoll.register(handshake.fd, select.EPOLLIN)
            self._send(handshake)

    # -- accepting ------------------------------------------------------------------------------------------------------

    def _listen(self, listens: bool) -> None:
        """Take connections from the listening sockets, or let them wait there."""
        if self._deaf == listens:
            self._deaf = not listens
            for fd in self._listeners:
                if listens:
                    self._epoll.register(fd, select.EPOLLIN)
                else:
                    self._epoll.unregister(fd)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BATCH):
            if not self._allowance.take():
                self._listen(False)
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno in _FATAL and not self._make_room(exc):
                    raise
                return  # accept(2): a connection's own network errors are reported here, and concern nobody else
            if why := self._not_of_this_user(sock):
                sock.close()
                self._complain(why)
                continue
            sock.setblocking(False)
            if sock.family == socket.AF_UNIX:
                tune(sock)  # TCP's has inherited it
            handshake = _Handshake(sock, accept(self._session, self._rank, _transport(sock)), _HANDSHAKE_SECONDS)
            self._handshakes[handshake.fd] = handshake
            self._unknown.append(handshake)
            self._epoll.register(handshake.fd, select.EPOLLIN)
            if len(self._unknown) > _MAX_UNKNOWN:
                self._refuse(self._unknown[0], "too many connections at once")

    def _make_room(self, exc: OSError) -> bool:
        """Out of descriptors: let handshakes go on, or drop one that takes long; False if there is none."""
        if exc.errno not in (errno.EMFILE, errno.ENFILE) or not self._unknown:
            return False
        if self._unknown[0].expires - monotonic() < _HANDSHAKE_SECONDS - _PATIENCE_SECONDS:
            self._refuse(self._unknown[0], "its descriptor is needed for the ranks")
        return True

    def _expire(self, now: float) -> None:
        while self._unknown and self._unknown[0].expires <= now:
            self._refuse(self._unknown[0], f"it did not authenticate within {_HANDSHAKE_SECONDS:.0f} s")
        if self._dialing and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            for handshake in [each for each in self._handshakes.values() if each.peer >= 0 and each.expires <= now]:
                self._lose(handshake, f"no answer within {handshake.patience:.1f} s")

    # -- both -----------------------------------------------------------------------------------------------------------

    def _not_of_this_user(self, sock: socket.socket) -> str:
        """Why nothing is to be read from an AF_UNIX connection, nor sent to it; empty if all is well.

        Who has read what the ranks told each other may have the key, and take the name of a rank's socket once it is free.
        Ranks that use AF_UNIX have one user, see `routes`.
        """
        if sock.family != socket.AF_UNIX:
            return ""
        uid, own = peer_uid(sock), self._endpoints[self._rank].uid
        if uid == own:
            return ""
        unknown = " (which stands for all that have no number in this user namespace)" if uid == OVERFLOW_UID else ""
        return f"the process at the other end belongs to user {uid}{unknown}, the ranks belong to user {own}"

    def _step(self, handshake: _Handshake, event: int) -> None:
        try:
            if event & (select.EPOLLOUT | select.EPOLLERR):
                # A firewall's ICMP message may come as EPOLLERR alone, as an error that only SO_ERROR tells.
                error = handshake.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self._lose(handshake, errno.errorcode.get(error, str(error)), error)
                    return
            if event & select.EPOLLOUT:
                self._epoll.modify(handshake.fd, select.EPOLLIN)
                self._send(handshake)
                return
            data = handshake.sock.recv(handshake.wanted - len(handshake.received))
        except BlockingIOError:
            return
        except OSError as exc:
            self._lose(handshake, exc.strerror or str(exc), exc.errno)
            return
        if not data:
            self._lose(handshake, "it closed the connection during the handshake")
            return
        handshake.received += data
        if len(handshake.received) == handshake.wanted:
            self._flight(handshake)

    def _flight(self, handshake: _Handshake) -> None:
        received, handshake.received = handshake.received, b""
        try:
            handshake.outgoing, handshake.wanted = handshake.flights.send(received)
        except AuthenticationError as exc:
            self._lose(handshake, str(exc))
        except StopIteration as stop:
            self._finish(handshake, stop.value)
        else:
            if handshake.peer >= 0:
                # The proof is about to be sent: from now on the other side may hold this connection for good, and
                # a second one would be refused. Only its end lets us dial again.
                handshake.expires = float("inf")
            self._send(handshake)

    def _send(self, handshake: _Handshake) -> None:
        """A flight of 64 bytes always fits into an empty socket buffer."""
        outgoing, handshake.outgoing = handshake.outgoing, b""
        try:
            if outgoing and handshake.sock.send(outgoing) != len(outgoing):
                raise BlockingIOError
        except OSError as exc:
            self._lose(handshake, exc.strerror or "its socket takes no data")

    def _finish(self, handshake: _Handshake, accepted: tuple[int, bytes] | None) -> None:
        peer = handshake.peer
        if accepted is not None:
            peer, handshake.outgoing = accepted
            if self.sockets[peer] is not None or peer not in self._wanted:
                why = "is left out" if self.sockets[peer] is None else "is connected already"
                self._refuse(handshake, f"rank {peer} {why}")
                return
            self._taken[peer] = self._way_of(handshake.sock, peer)
            self._send(handshake)
            if handshake.fd not in self._handshakes:
                return  # it went away in the last moment, and will dial again
        self._forget(handshake)
        self.sockets[peer] = handshake.sock
        self._missing -= 1
        self._departures.watch(peer, handshake.sock)

    def _way_of(self, sock: socket.socket, peer: int) -> Route:
        """The route of an accepted connection, as this side sees it."""
        if sock.family == socket.AF_UNIX:
            return self._ways[peer][0]
        host, port = sock.getpeername()[:2]
        text = f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"
        # Both sides follow one rule, so this side knows why the other dialed the address that it did.
        dialed = sock.getsockname()[:2]
        theirs = routes(self._endpoints[peer], self._endpoints[self._rank])
        why = next((way.why for way in theirs if way.transport == "tcp" and way.address[:2] == dialed), "advertised address")
        return Route("tcp", sock.family, None, text, f"{why}, it dialed")

    def _lose(self, handshake: _Handshake, why: str, error: int | None = None) -> None:
        if handshake.attempt is None:
            self._refuse(handshake, why)
            return
        self._drop(handshake)
        self._attempts.again(handshake.attempt, Failure(handshake.attempt.route.text, why, error))

    def _refuse(self, handshake: _Handshake, why: str) -> None:
        self._complain(why)
        self._drop(handshake)

    def _complain(self, why: str) -> None:
        """Count somebody who was refused, and log it, once a second."""
        self._refused += 1
        now = monotonic()
        if now - self._complained >= 1.0:
            self._complained = now
            _log.warning("refused %d connection(s) of strangers so far; the last: %s", self._refused, why)

    def _drop(self, handshake: _Handshake) -> None:
        self._forget(handshake)
        handshake.sock.close()

    def _forget(self, handshake: _Handshake) -> None:
        self._epoll.unregister(handshake.fd)
        del self._handshakes[handshake.fd]
        if handshake.peer < 0:
            self._unknown.remove(handshake)
        else:
            self._dialing -= 1

    def _report(self, deadline: Deadline) -> str:
        failures = self.failures()
        facts = []
        for peer, failure in list(failures.items())[:3]:
            who = f"rank {peer} ({self._endpoints[peer].host}, pid {self._endpoints[peer].pid})"
            facts.append(f"could not connect to {who} at {failure}" if failure.address else f"{who} did not connect")
        more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
        return (
            f"after {deadline.timeout or 0:.1f} s {len(failures)} of {len(self._wanted)} peers are missing: "
            f"{'; '.join(facts)}{more}; a firewall, a wrong interface (GLOOMPI_SOCKET_IFNAME) or a rank that died"
        )


def _transport(sock: socket.socket) -> Transport:
    return Transport.UNIX if sock.family == socket.AF_UNIX else Transport.TCP
