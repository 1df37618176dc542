"""The mesh: every rank connected to every other, or the same error on all of them."""

from __future__ import annotations

import logging
import os
import resource
import socket
from collections import Counter
from dataclasses import dataclass
from select import POLLRDHUP, poll

from ..deadline import Deadline
from ..errors import GloompiError, RendezvousError
from ..transport.device import Device, Listeners
from ..transport.endpoint import Endpoint, Peer
from ..transport.handshake import Session
from ..transport.route import Route, routes
from .connecting import Connecting
from .exchange import Exchange
from .record import Record, pack_verdict, unpack_verdict

__all__ = ["Mesh", "connect"]

_log = logging.getLogger("gloompi")

# Part of the budget that is kept for telling each other how it went.
_VERDICT_SHARE = 0.1


@dataclass
class Mesh:
    """A finished rendezvous.

    Attributes
    ----------
    peers : list of Peer
        In rank order, this rank included.
    sockets : list of socket or None
        Connected, authenticated and non-blocking; None for this rank.
    crowded : bool
        Some host has more ranks than cores; alike on all ranks.
    shared : bool
        Another rank lives in this process.
    """

    peers: list[Peer]
    sockets: list[socket.socket | None]
    crowded: bool = False
    shared: bool = False


def connect(exchange: Exchange, device: Device | None, deadline: Deadline) -> Mesh:
    """Exchange records, connect to all other ranks, agree that everybody is connected.

    Raises
    ------
    RendezvousError
        On all ranks alike, if any of them failed.
    """
    rank, size = exchange.rank, exchange.size
    if size == 1:
        return Mesh([Peer(0, socket.gethostname(), os.getpid(), "self", "")], [None])
    mine, listeners = _listen(device, size)
    sockets: list[socket.socket | None] = [None] * size
    try:
        records = _unpack(exchange(mine.pack(), deadline, _nothing))
        session = Session([record.entropy for record in records])
        endpoints = [record.endpoint for record in records]
        failure = ""
        taken: list[Route | None] = [None] * size
        try:
            taken, sockets = _connect_all(rank, endpoints, listeners, session, deadline)
        except (GloompiError, OSError) as exc:
            failure = exc.reason if isinstance(exc, RendezvousError) else f"{exc}"
        listeners.close()
        _agree(exchange, failure, endpoints, sockets, deadline)
    except BaseException:
        for sock in sockets:
            if sock is not None:
                sock.close()
        raise
    finally:
        listeners.close()
    return Mesh(_peers(rank, endpoints, taken), sockets, _crowded(endpoints), _shared(rank, endpoints))


def _nothing() -> None:
    """There is nothing to watch yet."""


def _listen(device: Device | None, size: int) -> tuple[Record, Listeners]:
    """Open the listening sockets; a failure becomes part of the record, so that all ranks learn of it."""
    entropy = os.urandom(32)
    try:
        _check_descriptors(size)
        listeners = (device or Device()).listen(backlog=size + 64)
        return Record(listeners.endpoint, entropy), listeners
    except (OSError, ValueError) as exc:
        text = exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
        nobody = Endpoint(socket.gethostname(), os.getpid(), 1, bytes(16), b"", ())
        return Record(nobody, entropy, text), Listeners([], nobody)


def _check_descriptors(size: int) -> None:
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    needed = size + 16  # one a peer; listening sockets, epoll and strangers for a while
    if used + needed > limit:
        raise OSError(
            f"too few file descriptors: {used} of {limit} are in use and {size} ranks need {needed}; "
            f"raise the limit (ulimit -n, at most {hard})"
        )


def _unpack(packed: list[bytes]) -> list[Record]:
    records = []
    for rank, each in enumerate(packed):
        try:
            records.append(Record.unpack(each))
        except ValueError as exc:
            raise RendezvousError(str(exc), rank) from exc
    for rank, record in enumerate(records):
        if record.failure:
            raise RendezvousError(record.failure, rank, record.endpoint.host, record.endpoint.pid)
    return records


def _connect_all(
    rank: int, endpoints: list[Endpoint], listeners: Listeners, session: Session, deadline: Deadline
) -> tuple[list[Route | None], list[socket.socket | None]]:
    ways = [routes(endpoints[rank], endpoint) if peer != rank else [] for peer, endpoint in enumerate(endpoints)]
    for peer, way in enumerate(ways):
        if peer != rank and not way:
            raise RendezvousError(
                f"there is no way to rank {peer} ({endpoints[peer].host}): this rank listens on "
                f"{_published(endpoints[rank])}, that one on {_published(endpoints[peer])}; "
                f"the ranks need an address family or a host in common"
            )
    remaining = deadline.remaining()
    budget = deadline if remaining is None else Deadline(remaining * (1 - _VERDICT_SHARE))
    connecting = Connecting(rank, endpoints, ways, listeners.sockets, session)
    try:
        taken, sockets = connecting.run(budget)
    finally:
        connecting.close()
    for peer, route in enumerate(taken):
        if route is not None:
            _log.debug("rank %d to rank %d: %s %s (%s)", rank, peer, route.transport, route.text, route.why)
    return taken, sockets


def _published(endpoint: Endpoint) -> str:
    names = ["an AF_UNIX socket"] if endpoint.unix else []
    return ", ".join(names + [str(address) for address in endpoint.addresses]) or "nothing"


def _agree(
    exchange: Exchange,
    failure: str,
    endpoints: list[Endpoint],
    sockets: list[socket.socket | None],
    deadline: Deadline,
) -> None:
    """Tell all ranks how it went here; raise the first failure, alike everywhere."""

    def watch() -> None:
        if failure:
            return
        hangups = poll()
        by_fd = {sock.fileno(): peer for peer, sock in enumerate(sockets) if sock is not None}
        for fd in by_fd:
            hangups.register(fd, POLLRDHUP)
        for fd, _ in hangups.poll(0):
            peer, sock = by_fd[fd], sockets[by_fd[fd]]
            # A peer that was told of success first may have worked and said goodbye already: then there is input.
            if sock is not None and not _has_input(sock):
                who = endpoints[peer]
                raise RendezvousError("its connection ended before all ranks were connected", peer, who.host, who.pid)

    try:
        verdicts = exchange(pack_verdict(failure), deadline, watch)
    except RendezvousError as exc:
        if not failure:
            raise
        who = endpoints[exchange.rank]
        raise RendezvousError(failure, exchange.rank, who.host, who.pid) from exc
    for peer, verdict in enumerate(verdicts):
        reason = unpack_verdict(verdict)
        if reason:
            raise RendezvousError(reason, peer, endpoints[peer].host, endpoints[peer].pid)


def _has_input(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _peers(rank: int, endpoints: list[Endpoint], taken: list[Route | None]) -> list[Peer]:
    peers = []
    for peer, (endpoint, route) in enumerate(zip(endpoints, taken, strict=True)):
        transport, address = ("self", "") if route is None else (route.transport, route.text)
        peers.append(Peer(peer, endpoint.host, endpoint.pid, transport, address))
    return peers


def _crowded(endpoints: list[Endpoint]) -> bool:
    ranks = Counter(endpoint.host_id for endpoint in endpoints)
    return any(ranks[endpoint.host_id] > endpoint.cores for endpoint in endpoints)


def _shared(rank: int, endpoints: list[Endpoint]) -> bool:
    me = (endpoints[rank].host_id, endpoints[rank].pid)
    return sum((endpoint.host_id, endpoint.pid) == me for endpoint in endpoints) > 1
