"""The mesh: every rank connected to every other, or the same error on all of them."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from .. import settings
from ..deadline import Deadline
from ..errors import RendezvousError, summary
from ..transport.device import Device, Listeners
from ..transport.endpoint import Endpoint, Nearness, Peer
from ..transport.handshake import Session
from ..transport.route import Route, routes
from .connecting import Connecting
from .exchange import Exchange, no_watch
from .hangups import Hangups, error_at, tell
from .record import Blame, Record, pack_verdict, unpack_verdict

if TYPE_CHECKING:
    from ..transport.tls import Encrypted
    from .securing import Securing

__all__ = ["Mesh", "connect", "prepare"]

_log = logging.getLogger("gloompi")

# Part of the budget that is kept for telling each other how it went.
_VERDICT_SHARE = 0.1


class Mesh(NamedTuple):
    """A finished rendezvous.

    Attributes
    ----------
    peers : list of Peer
        In rank order, this rank included.
    sockets : list of socket, Encrypted or None
        Connected, authenticated and non-blocking; None for this rank.
    crowded : bool
        Some host has more ranks than cores; alike on all ranks.
    shared : bool
        Another rank lives in this process.
    marker : bytes
        Of the session, see `gloompi.engine.remnants`.
    """

    peers: list[Peer]
    sockets: Sequence[socket.socket | Encrypted | None]
    crowded: bool = False
    shared: bool = False
    marker: bytes = b""

    @classmethod
    def of(
        cls,
        rank: int,
        endpoints: list[Endpoint],
        sockets: Sequence[socket.socket | Encrypted | None],
        taken: list[Route | None],
    ) -> Mesh:
        """The mesh that these sockets make, as `rank` sees it."""
        return cls(_peers(rank, endpoints, sockets, taken), sockets, _crowded(endpoints), _shared(rank, endpoints))


def connect(
    exchange: Exchange,
    device: Device | None,
    deadline: Deadline,
    secret: bytes = b"",
    trouble: Exception | None = None,
) -> Mesh:
    """Exchange records, connect to all other ranks, agree that everybody is connected.

    Parameters
    ----------
    secret : bytes
        What the ranks know and others do not; empty if nobody else can read the exchange.
    trouble : Exception, optional
        Why this rank cannot take part: all are told.

    Raises
    ------
    RendezvousError
        On all ranks alike, if any of them failed.
    """
    rank, size = exchange.rank, exchange.size
    if size == 1:
        return _alone(device, secret, trouble)
    mine, listeners = prepare(device, size, secret, trouble)
    try:
        packed = _exchanged(exchange, mine, deadline)
        endpoints = [record.endpoint for record in _unpack(packed)]
        _check_encryption(endpoints)
        session = Session(packed, secret, [endpoint.digest for endpoint in endpoints])
        ways = [routes(endpoints[rank], endpoint) if peer != rank else [] for peer, endpoint in enumerate(endpoints)]
        with ExitStack() as made:
            failure, blame = "", Blame.WAITED
            connecting: Connecting | None = None
            securing: Securing | None = None
            gone: RendezvousError | None = None
            budget = _most_of(deadline)
            try:
                _check(rank, ways, endpoints)
                connecting = Connecting(rank, endpoints, ways, listeners.sockets, session)
                made.callback(connecting.close)
                connecting.run(budget)
                if listeners.certificate is not None:
                    from .securing import Securing  # brings ssl, which only its users pay for

                    securing = Securing(rank, endpoints, connecting.sockets, listeners.certificate)
                    made.callback(securing.close)
                    securing.run(budget)
            except RendezvousError as exc:
                failure = exc.reason
                gone = exc if exc.rank is not None else None
                if gone is not None:
                    failure = f"rank {exc.rank} ({exc.host}, pid {exc.pid}): {failure}"
                elif securing is not None:
                    blame = securing.blame
                elif connecting is None or any(each.address for each in connecting.failures().values()):
                    blame = Blame.DIALED
            except OSError as exc:
                failure, blame = str(exc) or summary(exc), Blame.OWN
            except BaseException as exc:
                if connecting is not None and securing is None:
                    tell(error_at(rank, f"it gave up: {summary(exc)}", endpoints), rank, connecting.sockets)
                raise
            if gone is None:  # else those who come would take this rank for the one that has left
                listeners.close()
            elif connecting is not None:  # those who wait for that rank are to say so too: it may live, and say why
                tell(gone, rank, connecting.sockets)
            # What is connected stays open meanwhile: the others must not take this rank for dead.
            plain = connecting.sockets if connecting is not None and not (failure and securing) else []
            _agree(exchange, failure, blame, gone, endpoints, plain, securing is None, deadline)
            assert connecting is not None
            sockets, taken = connecting.hand_over()
    finally:
        listeners.close()
    streams = {} if securing is None else securing.streams
    mesh = Mesh.of(rank, endpoints, [streams.get(peer, sock) for peer, sock in enumerate(sockets)], taken)
    return mesh._replace(marker=session.marker)


def _alone(device: Device | None, secret: bytes, trouble: Exception | None) -> Mesh:
    """The mesh of one rank.  What is wrong with its settings is an error here too, and not only once there are more."""
    host, pid = socket.gethostname(), os.getpid()
    try:
        if trouble is not None:
            raise trouble
        settings.warn_of_unknown()
        _configured(device, secret).check()
    except Exception as exc:  # as `prepare`
        raise RendezvousError(_reason(exc), 0, host, pid) from exc
    return Mesh([Peer(0, host, pid, "self", "")], [None])


def prepare(
    device: Device | None, size: int, secret: bytes = b"", trouble: Exception | None = None, *, warn: bool = True
) -> tuple[Record, Listeners]:
    """Open the listening sockets; a failure becomes part of the record, so that all ranks learn of it.

    Parameters
    ----------
    secret, trouble
        As for `connect`.
    warn : bool
        Of variables that are no settings.
    """
    entropy = os.urandom(32)
    try:
        if trouble is not None:
            raise trouble
        if warn:
            settings.warn_of_unknown()
        _check_descriptors(size)
        listeners = _configured(device, secret).listen(backlog=size + 64)
        return Record(listeners.endpoint, entropy), listeners
    except Exception as exc:  # whatever it is: the others must not wait for this rank
        nobody = Endpoint(socket.gethostname(), os.getpid(), 1, bytes(16), b"", ())
        return Record(nobody, entropy, _reason(exc)), Listeners([], nobody)


def _configured(device: Device | None, secret: bytes) -> Device:
    """The device to use, by default the one that the environment describes; raises what is wrong with any setting."""
    settings.check(bool(secret))
    return device or Device()


def _reason(exc: Exception) -> str:
    """What the ranks are told of an exception of one of them."""
    if isinstance(exc, OSError) and exc.filename is None and exc.strerror:
        return exc.strerror
    text = summary(exc)
    return text.removeprefix(f"{type(exc).__name__}: ") if isinstance(exc, (OSError, ValueError, ImportError)) else text


def _check_descriptors(size: int) -> None:
    limit = os.sysconf("SC_OPEN_MAX")
    used = len(os.listdir("/proc/self/fd"))
    needed = size + 16  # one a peer; listening sockets, epoll and strangers for a while
    if 0 <= limit < used + needed:  # -1: no limit
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise OSError(
            f"too few file descriptors: {used} of {limit} are in use and {size} ranks need {needed}; "
            f"raise the limit (ulimit -n, at most {hard})"
        )


def _exchanged(exchange: Exchange, mine: Record, deadline: Deadline) -> list[bytes]:
    """The records of all ranks, as they have come."""
    try:
        return exchange(mine.pack(), deadline, no_watch)
    except RendezvousError as exc:
        if mine.failure:  # it says more; and who has no secret takes what the others have signed for forged
            raise RendezvousError(mine.failure, exchange.rank, mine.endpoint.host, mine.endpoint.pid) from exc
        raise


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


def _check_encryption(endpoints: list[Endpoint]) -> None:
    does = [rank for rank, endpoint in enumerate(endpoints) if endpoint.digest]
    if 0 < len(does) < len(endpoints):
        rank, other = next(rank for rank in range(len(endpoints)) if rank not in does), does[0]
        reason = (
            f"it does not encrypt and rank {other} ({endpoints[other].host}, pid {endpoints[other].pid}) does; give all "
            f"ranks Device(tls=True) (GLOOMPI_TLS=1), or none"
        )
        raise error_at(rank, reason, endpoints)


def _check(rank: int, ways: list[list[Route]], endpoints: list[Endpoint]) -> None:
    for peer, way in enumerate(ways):
        if peer != rank and not way:
            mine, theirs = _published(endpoints[rank]), _published(endpoints[peer])
            need = "an address family or a host in common"
            if endpoints[rank].host_id == endpoints[peer].host_id and endpoints[rank].unix and endpoints[peer].unix:
                users = f"{endpoints[rank].uid} and {endpoints[peer].uid}"
                need = f'one user: they have {users}, between which no AF_UNIX socket is used; or transport="tcp"'
            elif _outside(endpoints[rank]) & _outside(endpoints[peer]):
                need = "addresses of their own: one that both have leads back to whoever dials it"
            raise RendezvousError(
                f"there is no way to rank {peer} ({endpoints[peer].host}): this rank listens on {mine}, that one on "
                f"{theirs}; the ranks need {need}"
            )


def _outside(endpoint: Endpoint) -> set[object]:
    return {address.ip.ip for address in endpoint.addresses if address.nearness is not Nearness.LOOPBACK}


def _published(endpoint: Endpoint) -> str:
    names = ["an AF_UNIX socket"] if endpoint.unix else []
    return ", ".join(names + [str(address) for address in endpoint.addresses]) or "nothing"


def _most_of(deadline: Deadline) -> Deadline:
    remaining = deadline.remaining()
    return deadline if remaining is None else Deadline(remaining * (1 - _VERDICT_SHARE))


def _agree(
    exchange: Exchange,
    failure: str,
    blame: Blame,
    gone: RendezvousError | None,
    endpoints: list[Endpoint],
    sockets: list[socket.socket | None],
    speaks: bool,
    deadline: Deadline,
) -> None:
    """Tell all ranks how it went here; raise the failure that says most, the same everywhere.

    Without `speaks` nothing may be written to the sockets: their streams are encrypted.
    """
    try:
        hangups = Hangups(sockets, endpoints, gone)
        packed = exchange(pack_verdict(failure, blame), deadline, hangups.check)
    except BaseException as exc:
        error = exc if isinstance(exc, RendezvousError) else None
        if error is None:
            error = error_at(exchange.rank, f"it gave up: {summary(exc)}", endpoints)
        elif failure and gone is None and (error.reported_by is None or error.rank == exchange.rank):
            error = error_at(exchange.rank, failure, endpoints)
        if speaks:
            tell(error, exchange.rank, sockets)
        if error is exc or not isinstance(exc, RendezvousError):
            raise
        raise error from exc
    verdicts = [unpack_verdict(each) for each in packed]
    failures = [(peer, reason, blame) for peer, (reason, blame) in enumerate(verdicts) if reason]
    if failures:
        peer, reason, _ = max(failures, key=lambda found: (found[2], -found[0]))
        raise error_at(peer, reason, endpoints)


def _peers(
    rank: int,
    endpoints: list[Endpoint],
    sockets: Sequence[socket.socket | Encrypted | None],
    taken: list[Route | None],
) -> list[Peer]:
    wanted, peers = endpoints[rank].checksum, []
    for peer, (endpoint, sock, route) in enumerate(zip(endpoints, sockets, taken, strict=True)):
        way = ("self", "", "") if route is None else (route.transport, route.text, route.why)
        if isinstance(sock, tuple):
            way = ("tls", *way[1:])
        checked = (wanted or endpoint.checksum) and way[0] in ("unix", "tcp")  # TLS does it by itself
        peers.append(Peer(peer, endpoint.host, endpoint.pid, *way, endpoint.host_id, endpoint.readable, checked))
    return peers


def _crowded(endpoints: list[Endpoint]) -> bool:
    """Whether some host has more ranks than cores."""
    ranks = Counter(endpoint.host_id for endpoint in endpoints)
    # Launchers bind ranks to cores of their own, or several to the same ones: whose first core differs has others.
    sets = {(endpoint.host_id, endpoint.first_core): endpoint.cores for endpoint in endpoints}
    cores: Counter[bytes] = Counter()
    for (host, _), count in sets.items():
        cores[host] += count
    return any(ranks[host] > cores[host] for host in ranks)


def _shared(rank: int, endpoints: list[Endpoint]) -> bool:
    me = (endpoints[rank].host_id, endpoints[rank].pid)
    return sum((endpoint.host_id, endpoint.pid) == me for endpoint in endpoints) > 1
