"""Facts of all ranks on all ranks, over the exchange that the rendezvous uses too."""

from __future__ import annotations

import json
from typing import Any

from ..deadline import Deadline
from ..errors import RendezvousError
from ..foreign import plain
from ..rendezvous.exchange import Exchange, no_watch

__all__ = ["gather"]

# No text of a rank's is as long, and nothing that it has found out.
_TEXT_LENGTH, _MOST_NBYTES = 4000, 16 * 1024**2


def gather(exchange: Exchange, mine: Any, deadline: Deadline) -> list[Any]:
    """Return what every rank gave, in rank order; anything that JSON can carry, of any length.

    Raises
    ------
    RendezvousError
        Not all ranks came before the deadline, or what one of them gave is not that.
    """
    if exchange.size == 1:
        return [mine]
    packed = json.dumps(mine).encode()
    announced = exchange(b"%16d" % len(packed), deadline, no_watch)
    longest = max(_length(rank, each) for rank, each in enumerate(announced))
    records = exchange(packed.ljust(longest), deadline, no_watch)
    return [_told(rank, record) for rank, record in enumerate(records)]


def _length(rank: int, announced: bytes) -> int:
    if len(announced) > 16 or not announced.strip().isdigit() or int(announced) > _MOST_NBYTES:
        raise _strange(rank, f"announces {announced[:16]!r} bytes of what it has found, and may have {_MOST_NBYTES}")
    return int(announced)


def _told(rank: int, record: bytes) -> Any:
    try:
        return _shown(json.loads(record))
    except (ValueError, RecursionError) as exc:
        raise _strange(rank, f"has given what is no JSON ({type(exc).__name__})") from exc


def _strange(rank: int, what: str) -> RendezvousError:
    return RendezvousError(
        f"rank {rank} {what}: somebody else writes where the ranks meet, or they run different versions of gloompi"
    )


def _shown(told: Any) -> Any:
    """Return the findings of a rank, with their texts as they may be shown."""
    if isinstance(told, str):
        return plain(told, _TEXT_LENGTH)
    if isinstance(told, list):
        return [_shown(each) for each in told]
    if isinstance(told, dict):
        return {plain(name, _TEXT_LENGTH): _shown(each) for name, each in told.items()}
    return told
