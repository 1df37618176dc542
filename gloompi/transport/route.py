"""Which way a pair takes: one rule, computed alike on both sides from the two endpoints."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from .device import unix_address
from .endpoint import Address, Endpoint, Nearness

__all__ = ["Route", "routes"]


class Route(NamedTuple):
    """One way to dial a peer.

    Attributes
    ----------
    transport : str
        ``"unix"`` or ``"tcp"``.
    family : int
    address
        What ``socket.connect`` takes.
    text : str
        The address for people.
    why : str
        Why this way was picked, for the log.
    """

    transport: str
    family: int
    address: Any
    text: str
    why: str


def routes(mine: Endpoint, theirs: Endpoint) -> list[Route]:
    """All ways from one endpoint to another, best first; empty if there is none.

    Same host: AF_UNIX alone if both have it, and one user, else loopback first.  Then addresses in a shared subnet, then
    those that a router may reach; fast interfaces before others; bridges of containers and link-local addresses last.
    """
    same_host = mine.host_id == theirs.host_id
    if same_host and mine.unix and theirs.unix and mine.uid == theirs.uid:
        name = unix_address(theirs.unix)
        return [Route("unix", socket.AF_UNIX, name, f"@{name[1:]}", "same host")]
    found: list[tuple[tuple[int, ...], Route]] = []
    own = {address.ip.ip for address in mine.addresses if address.scope}
    for address in theirs.addresses if mine.addresses else ():
        if address.nearness is Nearness.LOOPBACK:
            if same_host:
                found.append(((-1,), _tcp(address, 0, "same host, loopback")))
        elif same_host or address.ip.ip not in own:  # docker0 may have one address on all hosts: it leads back
            found += [_way(local, address) for local in mine.addresses if _may_reach(local, address)]
    found.sort(key=lambda item: item[0])
    best_first: dict[tuple[str, object], Route] = {}
    for _, route in found:
        best_first.setdefault((route.transport, route.address), route)
    return list(best_first.values())


def _may_reach(local: Address, remote: Address) -> bool:
    if local.nearness is Nearness.LOOPBACK or local.ip.version != remote.ip.version:
        return False
    # A link-local address is heard on its own link alone.
    return (local.nearness is Nearness.LINK_LOCAL) == (remote.nearness is Nearness.LINK_LOCAL)


def _way(local: Address, remote: Address) -> tuple[tuple[int, ...], Route]:
    shared = local.ip.network == remote.ip.network
    worse = max(local.nearness, remote.nearness)
    why = f"shared subnet {remote.ip.network}" if shared else f"routed from {local.ip}"
    last_resort = worse if worse >= Nearness.VIRTUAL else 0
    return (last_resort, not shared, worse, local.ip.version), _tcp(remote, local.scope, why)


def _tcp(address: Address, scope: int, why: str) -> Route:
    ip = str(address.ip.ip)
    if address.ip.version == 4:
        return Route("tcp", socket.AF_INET, (ip, address.port), str(address), why)
    zone = scope if address.ip.is_link_local else 0
    return Route("tcp", socket.AF_INET6, (ip, address.port, 0, zone), str(address), why)
