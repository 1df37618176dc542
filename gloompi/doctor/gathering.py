"""Facts of all ranks on all ranks, over the exchange that the rendezvous uses too."""

from __future__ import annotations

import json
from typing import Any

from ..deadline import Deadline
from ..foreign import plain
from ..rendezvous.exchange import Exchange, no_watch

__all__ = ["gather"]

# No text of a rank's is as long.
_TEXT_LENGTH = 4000


def gather(exchange: Exchange, mine: Any, deadline: Deadline) -> list[Any]:
    """Return what every rank gave, in rank order; anything that JSON can carry, of any length.

    Raises
    ------
    RendezvousError
        Not all ranks came before the deadline.
    """
    if exchange.size == 1:
        return [mine]
    packed = json.dumps(mine).encode()
    lengths = [int(each) for each in exchange(b"%16d" % len(packed), deadline, no_watch)]
    records = exchange(packed.ljust(max(lengths)), deadline, no_watch)
    return [_shown(json.loads(record)) for record in records]


def _shown(told: Any) -> Any:
    """Return the findings of a rank, with their texts as they may be shown."""
    if isinstance(told, str):
        return plain(told, _TEXT_LENGTH)
    if isinstance(told, list):
        return [_shown(each) for each in told]
    if isinstance(told, dict):
        return {plain(name, _TEXT_LENGTH): _shown(each) for name, each in told.items()}
    return told
