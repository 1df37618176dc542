"""How ranks that share nothing but a store agree that they are the ones who meet now.

A store may hold what an earlier run left there when it was killed, so nothing that is in it proves that its writer is alive.
Four keys for each rank r settle it::

    rank r      hello/r   a fresh nonce
    rank 0      offer/r   once all hellos are there: a fresh session id, with rank r's nonce
    rank r      ack/r     that id, if the nonce is r's own
    rank 0      offer/r   the same with "go", once every ack has that id

A hello from an earlier run is offered an id that nobody takes up; when the real rank r comes and writes over it, rank 0
makes new offers.  What the run writes from then on lies under the id, which no other run has.
"""

from __future__ import annotations

import json
import os
import socket
from secrets import token_hex
from typing import Any

from ..deadline import Deadline
from ..errors import RendezvousError
from ..stores.store import Store, looks

__all__ = ["agree", "forget", "missing_ranks"]


def agree(store: Store, rank: int, size: int, deadline: Deadline) -> str:
    """Meet the other ranks; return the session id that all of them have.

    Raises
    ------
    RendezvousError
        Not all ranks came before the deadline, or another process has the same rank.
    """
    hello = json.dumps({"nonce": token_hex(16), "size": size, "host": socket.gethostname(), "pid": os.getpid()}).encode()
    store.set(f"hello/{rank}", hello)
    return _lead(store, hello, size, deadline) if rank == 0 else _follow(store, rank, hello, size, deadline)


def forget(store: Store, rank: int) -> None:
    """Delete what `agree` left; every rank for itself, once it needs nobody's answer any more."""
    store.delete([f"hello/{rank}", f"offer/{rank}", f"ack/{rank}"])


def _lead(store: Store, hello: bytes, size: int, deadline: Deadline) -> str:
    others = range(1, size)
    session, offered = "", [b""]
    hellos: list[bytes | None] = []
    acks: list[bytes | None] = []
    for _ in looks(deadline):
        mine, *found = store.peek(["hello/0", *(f"hello/{peer}" for peer in others), *(f"ack/{peer}" for peer in others)])
        hellos, acks = found[: size - 1], found[size - 1 :]
        _check(store, 0, hello, mine)
        present = [each for each in hellos if each is not None]
        if len(present) < len(hellos):
            continue
        if present != offered:
            session, offered = token_hex(16), present
            _offer(store, session, offered, go=False)
        elif all(ack == session.encode() for ack in acks):
            _offer(store, session, offered, go=True)
            return session
    absent = [
        peer
        for peer, each, ack in zip(others, hellos, acks, strict=True)
        if each is None or (session and ack != session.encode())
    ]
    raise RendezvousError(_absence(store, absent, size, deadline, hellos))


def _offer(store: Store, session: str, hellos: list[bytes], go: bool) -> None:
    offers = [json.dumps({"session": session, "nonce": _fields(hello).get("nonce"), "go": go}).encode() for hello in hellos]
    store.multi_set([f"offer/{peer}" for peer in range(1, len(hellos) + 1)], offers)


def _follow(store: Store, rank: int, hello: bytes, size: int, deadline: Deadline) -> str:
    nonce = _fields(hello)["nonce"]
    session = ""
    for _ in looks(deadline):
        mine, packed = store.peek([f"hello/{rank}", f"offer/{rank}"])
        _check(store, rank, hello, mine)
        offer = _fields(packed)
        if offer.get("nonce") != nonce:
            continue  # of an earlier run, or none yet
        if offer["session"] != session:
            session = offer["session"]
            store.set(f"ack/{rank}", session.encode())
        elif offer["go"]:
            return session
    hellos = store.peek([f"hello/{peer}" for peer in range(size)])
    absent = [peer for peer, each in enumerate(hellos) if each is None]
    if session:  # rank 0 is there and waits for the others
        acks = store.peek([f"ack/{peer}" for peer in range(size)])
        absent = [peer for peer, ack in enumerate(acks) if peer and ack != session.encode()]
    raise RendezvousError(_absence(store, absent or [0], size, deadline, hellos[1:]))


def _check(store: Store, rank: int, hello: bytes, found: bytes | None) -> None:
    """Raise if somebody else is this rank."""
    if found is None:  # an earlier run has cleaned up late
        store.set(f"hello/{rank}", hello)
    elif found != hello:
        other = _fields(found)
        raise RendezvousError(
            f"another process, pid {other.get('pid')} on {other.get('host')}, came later and is rank {rank} too in "
            f"{store!r}; give each rank its number, or each job a prefix of its own (PrefixStore)"
        )


def _fields(packed: bytes | None) -> dict[str, Any]:
    """What a key holds; nothing if it was not written by this module."""
    try:
        fields = json.loads(packed or b"{}")
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _absence(store: Store, absent: list[int], size: int, deadline: Deadline, hellos: list[bytes | None]) -> str:
    text = f"{missing_ranks(absent, size)} not shown up in {store!r} within {deadline.timeout or 0:.1f} s"
    for peer, hello in enumerate(hellos, 1):
        other = _fields(hello).get("size", size)
        if other != size:
            text += f"; a hello of rank {peer} says that there are {other} ranks"
            break
    return f"{text}; late (connect_timeout), dead, or started with another store, prefix or size"


def missing_ranks(ranks: list[int], size: int) -> str:
    """Such as ``"ranks 2, 3 of 4 have"``."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank {shown} of {size} has" if len(ranks) == 1 else f"ranks {shown} of {size} have"
