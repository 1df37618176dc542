"""A rendezvous that does not give up: every pair that can be connected is, and every other one says why not."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass

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
    """

    transport: str = ""
    address: str = ""
    why: str = ""
    failure: str = ""
    error: int | None = None
    dialed: bool = False


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
    context : Context
        Over the pairs that are connected; the others must not be used.
    """

    endpoints: list[Endpoint]
    failures: list[str]
    outcomes: list[list[Outcome]]
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
    record, listeners = prepare(device, size, warn=False)  # the doctor says itself what it finds
    try:
        packed = exchange(record.pack(), Deadline(seconds), no_watch) if size > 1 else [record.pack()]
        records = [Record.unpack(each) for each in packed]
        endpoints = [each.endpoint for each in records]
        unable = {peer for peer, each in enumerate(records) if each.failure}
        ways = [routes(endpoints[rank], endpoint) if peer != rank else [] for peer, endpoint in enumerate(endpoints)]
        without = unable | {peer for peer, way in enumerate(ways) if not way}
        session = Session([each.entropy for each in records], secret)
        connecting = Connecting(rank, endpoints, ways, listeners.sockets, session, without)
        trouble = ""
        with closing(connecting):
            try:
                if rank not in unable:
                    connecting.run(Deadline(seconds))
            except (RendezvousError, OSError) as exc:
                trouble = "" if isinstance(exc, RendezvousError) else str(exc)
            mine = _outcomes(rank, connecting, ways, unable, trouble)
            rows = gather(exchange, [asdict(each) for each in mine], Deadline(seconds + _MARGIN_SECONDS))
            outcomes = [[Outcome(**fields) for fields in row] for row in rows]
            sockets, taken = connecting.hand_over()
    finally:
        listeners.close()
    for peer, sock in enumerate(sockets):
        if sock is not None and not outcomes[peer][rank].transport:
            sock.close()  # the other side has given it up
            sockets[peer] = None
    mesh = Mesh.of(rank, endpoints, sockets, taken)
    engine = Engine(rank, mesh.peers, mesh.sockets, crowded=mesh.crowded, shared=mesh.shared)
    return Trial(endpoints, [each.failure for each in records], outcomes, Context(engine, timeout))


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
