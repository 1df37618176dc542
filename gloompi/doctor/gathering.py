"""Facts of all ranks on all ranks, over the exchange that the rendezvous uses too."""

from __future__ import annotations

import json
from typing import Any

from ..deadline import Deadline
from ..rendezvous.exchange import Exchange, no_watch

__all__ = ["gather"]


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
    return [json.loads(record) for record in records]
