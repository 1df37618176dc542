"""The IP addresses at which ranks reach each other, as a Context has found them."""

from __future__ import annotations

from ..context import Context

__all__ = ["ip_of", "own_ips"]

_LOOPBACK = "127.0.0.1"


def ip_of(ctx: Context, peer: int) -> str:
    """The address at which this rank reaches a peer; that of loopback for AF_UNIX."""
    found = ctx.peers[peer]
    return found.address.rpartition(":")[0].strip("[]") if found.transport in ("tcp", "tls") else _LOOPBACK


def own_ips(ctx: Context) -> list[str]:
    """The addresses at which the others reach this rank; collective."""
    rows = ctx.allgather_object([ip_of(ctx, peer) for peer in range(ctx.size)])
    found = dict.fromkeys(row[ctx.rank] for rank, row in enumerate(rows) if rank != ctx.rank)
    return list(found) or [_LOOPBACK]
