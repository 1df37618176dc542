"""How ranks that share nothing but a store agree that they are the ones who meet now.

A store may hold what an earlier run left there when it was killed, so nothing that is in it proves that its writer is alive.
Four keys for each rank r settle it::

    rank r      hello/r            a fresh nonce
    rank 0      offer/r            once all hellos are there: a fresh session id, with rank r's nonce
    rank r      ack/r, trace/r     that id, if the nonce is r's own
    rank 0      trace/0            that id, once every ack has it: the ranks have met

A hello from an earlier run is offered an id that nobody takes up; when the real rank r comes and writes over it, rank 0
makes new offers.  What the run writes from then on lies under the id, which no other run has; the traces tell a later run
where to find it if this one is killed.
"""

from __future__ import annotations

import json
import os
import re
import socket
from secrets import token_hex
from typing import Any

from ..deadline import Deadline
from ..errors import RendezvousError
from ..foreign import plain
from ..stores.store import Store, looks

__all__ = ["MAX_TEXT", "agree", "earlier_run", "forget", "forget_trace", "missing_ranks"]

# A trace that names more ranks, or another session, was not written by this module.
_MAX_DIGITS = 5
# Its place in keys, and in what is signed, is told apart from what is beside it: nothing else may stand there.
_SESSION = re.compile("[0-9a-f]{32}")
# No text that this module writes is as long.
MAX_TEXT = 2000


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
    """Delete what `agree` left but the trace; every rank for itself, once it needs nobody's answer any more."""
    store.delete([f"hello/{rank}", f"offer/{rank}", f"ack/{rank}"])


def earlier_run(store: Store, rank: int) -> tuple[str, int] | None:
    """Session id and size of a run in which this rank was killed; None if there is no trace of one."""
    mine = store.peek([f"trace/{rank}"])[0] or b""
    session, _, digits = mine.decode(errors="replace").partition(" ")
    if not _SESSION.fullmatch(session) or not digits.isdecimal() or len(digits) > _MAX_DIGITS:
        return None
    # One rank clears up after all: the first of those that have a trace.
    lower = store.peek([f"trace/{peer}" for peer in range(min(rank, int(digits)))])
    return None if mine in lower else (session, int(digits))


def forget_trace(store: Store, rank: int, session: str, size: int) -> None:
    """Delete the trace of this run, unless it is that of another: a process that came later may have the same rank."""
    if store.peek([f"trace/{rank}"])[0] == _trace(session, size):
        store.delete([f"trace/{rank}"])


def _trace(session: str, size: int) -> bytes:
    return f"{session} {size}".encode()


def _lead(store: Store, hello: bytes, size: int, deadline: Deadline) -> str:
    others = range(1, size)
    session = ""
    offered, packed = [b""], [b""]
    hellos: list[bytes | None] = []
    acks: list[bytes | None] = []
    seen: dict[int, bytes] = {}
    for _ in looks(deadline):
        keys = [f"{kind}/{peer}" for kind in ("hello", "ack", "offer") for peer in others]
        mine, *found = store.peek(["hello/0", *keys])
        hellos, acks, offers = (found[start : start + size - 1] for start in range(0, len(found), size - 1))
        seen.update((peer, each) for peer, each in zip(others, hellos, strict=True) if each is not None)
        _check(store, 0, hello, mine)
        present = [each for each in hellos if each is not None]
        if len(present) < len(hellos):
            continue
        if present != offered:
            session, offered = token_hex(16), present
            packed = _offers(session, offered)
            _put(store, packed)
        elif all(ack == session.encode() for ack in acks):
            store.set("trace/0", _trace(session, size))
            return session
        elif offers != packed:  # an earlier run has cleaned up late, or its rank 0 has not noticed yet that it is not alone
            _put(store, packed)
    absent = [
        peer
        for peer, each, ack in zip(others, hellos, acks, strict=True)
        if peer not in seen or (session and ack != session.encode())
    ]
    why = _absence(store, absent, size, deadline, [hello, *map(seen.get, others)])
    # Those that wait say the same when their time is up.
    here = {peer: _text(_fields(each).get("nonce")) for peer, each in zip(others, hellos, strict=True) if each is not None}
    store.multi_set({f"offer/{peer}": json.dumps({"nonce": here[peer], "failed": why}).encode() for peer in here})
    raise RendezvousError(why)


def _offers(session: str, hellos: list[bytes]) -> list[bytes]:
    size = len(hellos) + 1
    offers = [{"nonce": _text(_fields(hello).get("nonce")), "session": session, "size": size} for hello in hellos]
    return [json.dumps(each).encode() for each in offers]


def _put(store: Store, packed: list[bytes]) -> None:
    store.multi_set({f"offer/{peer}": each for peer, each in enumerate(packed, 1)})


def _follow(store: Store, rank: int, hello: bytes, size: int, deadline: Deadline) -> str:
    nonce = _fields(hello)["nonce"]
    session, told = "", ""
    for _ in looks(deadline):
        mine, packed, ack, go = store.peek([f"hello/{rank}", f"offer/{rank}", f"ack/{rank}", "trace/0"])
        if session and go == _trace(session, size):
            return session
        _check(store, rank, hello, mine)
        offer = _fields(packed)
        if offer.get("nonce") == nonce:  # not of an earlier run
            # A rank 0 that gives up may be one of an earlier run; the right one may come yet.
            told = _text(offer.get("failed"))
            session = _session(offer.get("session"), store)
            if session and offer.get("size") != size:
                theirs = _text(offer.get("size"))
                raise RendezvousError(f"rank 0 says that there are {theirs} ranks, this is rank {rank} of {size}")
        if session and ack != session.encode():
            store.multi_set({f"ack/{rank}": session.encode(), f"trace/{rank}": _trace(session, size)})
    forget_trace(store, rank, session, size)
    if told:
        raise RendezvousError(told)
    hellos = store.peek([f"hello/{peer}" for peer in range(size)])
    absent = [peer for peer, each in enumerate(hellos) if each is None]
    if session:  # rank 0 is there and waits for the others
        acks = store.peek([f"ack/{peer}" for peer in range(size)])
        absent = [peer for peer, ack in enumerate(acks) if peer and ack != session.encode()]
    raise RendezvousError(_absence(store, absent or [0], size, deadline, hellos))


def _check(store: Store, rank: int, hello: bytes, found: bytes | None) -> None:
    """Raise if somebody else is this rank."""
    if found is None:  # an earlier run has cleaned up late
        store.set(f"hello/{rank}", hello)
    elif found != hello:
        other = _fields(found)
        raise RendezvousError(
            f"another process, pid {_text(other.get('pid'))} on {_text(other.get('host'))}, came later and is rank {rank} "
            f"too in {store!r}; give each rank its number, or each job a prefix of its own (PrefixStore)"
        )


def _fields(packed: bytes | None) -> dict[str, Any]:
    """What a key holds; nothing if it was not written by this module."""
    try:
        fields = json.loads(packed or b"{}")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _text(field: object) -> str:
    """A field as it may be shown, stored and compared, whoever has written it: nothing nested."""
    if not isinstance(field, str | int | float):
        return ""
    return plain(str(field), MAX_TEXT)


def _session(field: object, store: Store) -> str:
    """The session of an offer; empty if it has none."""
    text = _text(field)
    if text and not _SESSION.fullmatch(text):
        raise RendezvousError(
            f"rank 0 offers the session {text[:64]!r} in {store!r}, which is not 32 hexadecimal digits: somebody else "
            f"writes there"
        )
    return text


def _absence(store: Store, absent: list[int], size: int, deadline: Deadline, hellos: list[bytes | None]) -> str:
    text = f"{missing_ranks(absent, size)} not shown up in {store!r} within {deadline.timeout or 0:.1f} s"
    for peer, hello in enumerate(hellos):
        other = _fields(hello).get("size", size)
        if other != size:
            text += f"; a hello of rank {peer} says that there are {_text(other)} ranks"
            break
    return f"{text}; late (connect_timeout), dead, or started with another store, prefix or size"


def missing_ranks(ranks: list[int], size: int) -> str:
    """Such as ``"ranks 2, 3 of 4 have"``."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank {shown} of {size} has" if len(ranks) == 1 else f"ranks {shown} of {size} have"
