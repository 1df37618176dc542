"""A rendezvous that does not give up: every pair that can be connected is, and every other one says why not."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ..context import Context
from ..deadline import Deadline
from ..engine.engine import Engine
from ..errors import RendezvousError
from ..rendezvous.connecting import Connecting
from ..rendezvous.exchange import Exchange, no_watch
from ..rendezvous.mesh import Mesh, prepare
from ..rendezvous.record import Record
from ..transport.device import Device
from ..transport.endpoint import Endpoint
from ..transport.handshake import Session
from ..transport.route import Route, routes
from .gathering import gather

if TYPE_CHECKING:
    from ..transport.certificate import Certificate
    from ..transport.tls import Encrypted

    Stream = socket.socket | Encrypted | None

__all__ = ["Outcome", "Trial", "try_out"]

# How much later than its own trial a rank waits for the others'.
_MARGIN_SECONDS = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of one direction of a pair.

    Attributes
    ----------
    transport, address, why : str
        How the pair is connected, as in ``ctx.peers``; the transport is empty if it is not.
    failure : str
        Why it is not connected.
    error : int or None
        The errno of the last attempt; None if nothing came back.
    dialed : bool
        Whether this rank is the one that dials.
    blame : int
        How much a failure to encrypt says, see `gloompi.rendezvous.record.Blame`; -1 where that is not what has failed.
    """

    transport: str = ""
    address: str = ""
    why: str = ""
    failure: str = ""
    error: int | None = None
    dialed: bool = False
    blame: int = -1


@dataclass
class Trial:
    """What all ranks know after a trial.

    Attributes
    ----------
    endpoints : list of Endpoint
    failures : list of str
        Why a rank could not listen; empty if it could.
    outcomes : list of list of Outcome
        Row r is what rank r saw of each rank.
    encrypts : list of bool
        Whether a rank wants its TCP connections encrypted; they are if all want it that can listen.
    context : Context
        Over the pairs that are connected; the others must not be used.
    """

    endpoints: list[Endpoint]
    failures: list[str]
    outcomes: list[list[Outcome]]
    encrypts: list[bool]
    context: Context


def try_out(exchange: Exchange, device: Device | None, secret: bytes, seconds: float, timeout: float) -> Trial:
    """Connect what can be connected within `seconds`.

    Parameters
    ----------
    timeout : float
        Budget of an operation on the Context, seconds.

    Raises
    ------
    RendezvousError
        The ranks cannot even exchange records.
    """
    rank, size = exchange.rank, exchange.size
    record, listeners = prepare(device, size, secret, warn=False)  # the doctor says itself what it finds
    try:
        packed = exchange(record.pack(), Deadline(seconds), no_watch) if size > 1 else [record.pack()]
        records = [Record.unpack(each) for each in packed]
        endpoints = [each.endpoint for each in records]
        unable = {peer for peer, each in enumerate(records) if each.failure}
        ways = [routes(endpoints[rank], endpoint) if peer != rank else [] for peer, endpoint in enumerate(endpoints)]
        without = unable | {peer for peer, way in enumerate(ways) if not way}
        session = Session(packed, secret, [endpoint.digest for endpoint in endpoints])
        connecting = Connecting(rank, endpoints, ways, listeners.sockets, session, without)
        trouble = ""
        with closing(connecting):
            try:
                if rank not in unable:
                    connecting.run(Deadline(seconds))
            except (RendezvousError, OSError) as exc:
                trouble = "" if isinstance(exc, RendezvousError) else str(exc)
            outcomes = _gather(exchange, _outcomes(rank, connecting, ways, unable, trouble), seconds)
            found, taken = connecting.hand_over()
        sockets = _both_ways(rank, found, outcomes)
        encrypts = [bool(endpoint.digest) for endpoint in endpoints]
        if all(encrypts[peer] for peer in range(size) if peer not in unable):
            sockets, mine = _secure(rank, endpoints, sockets, listeners.certificate, outcomes[rank], Deadline(seconds))
            outcomes = _gather(exchange, mine, seconds)
            sockets = _both_ways(rank, sockets, outcomes)
    finally:
        listeners.close()
    mesh = Mesh.of(rank, endpoints, sockets, taken)
    engine = Engine(rank, mesh.peers, mesh.sockets, crowded=mesh.crowded, shared=mesh.shared)
    return Trial(endpoints, [each.failure for each in records], outcomes, encrypts, Context(engine, timeout))


def _gather(exchange: Exchange, mine: list[Outcome], seconds: float) -> list[list[Outcome]]:
    rows = gather(exchange, [asdict(each) for each in mine], Deadline(seconds + _MARGIN_SECONDS))
    return [[Outcome(**fields) for fields in row] for row in rows]


def _both_ways(rank: int, sockets: Sequence[Stream], outcomes: list[list[Outcome]]) -> list[Stream]:
    """The connections that both sides have; others are closed."""
    kept = list(sockets)
    for peer, sock in enumerate(sockets):
        if sock is not None and not (outcomes[peer][rank].transport and outcomes[rank][peer].transport):
            (sock.sock if isinstance(sock, tuple) else sock).close()
            kept[peer] = None
    return kept


def _secure(
    rank: int,
    endpoints: list[Endpoint],
    sockets: list[Stream],
    certificate: Certificate | None,
    outcomes: list[Outcome],
    deadline: Deadline,
) -> tuple[list[Stream], list[Outcome]]:
    """The connections as a rendezvous would encrypt them, and what has become of them."""
    if certificate is None:  # this rank cannot listen, and has none
        return sockets, outcomes
    from ..rendezvous.securing import Securing  # brings ssl, which only its users pay for

    plain = [sock for sock in sockets if not isinstance(sock, tuple)]
    with closing(Securing(rank, endpoints, plain, certificate)) as securing:
        reasons = securing.secure(deadline)
    secured = [securing.streams.get(peer, sock) for peer, sock in enumerate(plain)]
    found = []
    for peer, outcome in enumerate(outcomes):
        if peer in securing.streams:
            outcome = replace(outcome, transport="tls")
        elif peer in reasons:
            reason, blame = reasons[peer]
            outcome = Outcome(address=outcome.address, failure=f"TLS: {reason}", dialed=peer < rank, blame=int(blame))
        found.append(outcome)
    return secured, found


def _outcomes(rank: int, connecting: Connecting, ways: list[list[Route]], unable: set[int], trouble: str) -> list[Outcome]:
    failures = connecting.failures()
    outcomes = []
    for peer, way in enumerate(ways):
        route = connecting.route(peer)
        if peer == rank:
            outcome = Outcome("self")
        elif route is not None:
            outcome = Outcome(route.transport, route.text, route.why)
        elif peer in unable or rank in unable:
            outcome = Outcome(failure=f"rank {peer if peer in unable else rank} does not listen")
        elif not way:
            outcome = Outcome(failure="no address of one can be reached from an address of the other")
        else:
            failure = failures[peer]
            outcome = Outcome(
                address=failure.address, failure=trouble or failure.reason, error=failure.error, dialed=peer < rank
            )
        outcomes.append(outcome)
    return outcomes
