"""Asking whether a peer is there, and in the same call: whatever comes from others meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

import numpy as np
import pytest

import gloompi
from gloompi import Context, MismatchError, PeerLostError
from gloompi.testing import RankError, run_ranks

WAIT = 20.0
PROMPT = 3.0  # seconds


def talk(ctx: Context, over: threading.Event) -> None:
    """Send to rank 0 more often than it would ask if only silence counted."""
    number = 0
    while not over.wait(0.01):
        ctx.isend(np.zeros(1), 0, tag=99)
        number += 1


WAITS: dict[str, Callable[[Context], object]] = {
    "recv": lambda ctx: ctx.recv(np.empty(1), 1),
    "large recv": lambda ctx: ctx.recv(np.empty(100_000), 1),
    "request": lambda ctx: ctx.irecv(np.empty(1), 1).wait(),
    "probe": lambda ctx: ctx.probe(1),
    "mprobe": lambda ctx: ctx.mprobe(1),
    "wait_any": lambda ctx: gloompi.wait_any([ctx.irecv(np.empty(1), 1, tag=tag) for tag in range(3)]),
    "await": lambda ctx: asyncio.run(_awaiting(ctx)),
    "recv_object": lambda ctx: ctx.recv_object(1),
}


async def _awaiting(ctx: Context) -> None:
    await ctx.irecv(np.empty(1), 1)


@pytest.mark.parametrize("what", WAITS)
def test_a_peer_that_has_closed_is_noticed_although_another_one_goes_on_sending(what: str) -> None:
    over, seconds = threading.Event(), []

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            return  # and closes
        if ctx.rank == 2:
            talk(ctx, over)
            return
        began = monotonic()
        try:
            with pytest.raises(PeerLostError, match="it closed its Context while this rank still needed it") as caught:
                WAITS[what](ctx)
            assert caught.value.rank == 1
            seconds.append(monotonic() - began)
        finally:
            over.set()

    try:
        run_ranks(3, body, timeout=WAIT)
    except RankError as exc:
        assert exc.rank == 2, exc  # noqa: PT017  # it may learn of it in its last send
    assert seconds
    assert seconds[0] < PROMPT


def test_ranks_in_different_calls_find_out_although_another_one_goes_on_sending() -> None:
    """Two roots of a gather wait for each other, and both hear of the third all the time."""
    over, errors = threading.Event(), {}

    def body(ctx: Context) -> None:
        if ctx.rank == 2:
            talk(ctx, over)
            return
        began = monotonic()
        try:
            ctx.gather(np.zeros(1), root=ctx.rank)
        except MismatchError as exc:
            errors[ctx.rank] = exc, monotonic() - began
        finally:
            over.set()

    try:
        run_ranks(3, body, timeout=WAIT)
    except RankError as exc:
        assert exc.rank == 2, exc  # noqa: PT017  # it may learn of it in its last send
    assert errors.keys() == {0, 1}
    assert max(seconds for _, seconds in errors.values()) < PROMPT
