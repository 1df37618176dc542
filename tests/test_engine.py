"""What the engine does beside moving messages: noticing that nothing will come, telling why, letting go."""

from __future__ import annotations

import gc
import os
import socket
import time
import weakref

import numpy as np
import pytest

from gloompi import ANY_SOURCE, Context, ContextClosedError, MismatchError, OperationTimeoutError, PeerLostError, Request
from gloompi.engine.engine import Engine
from gloompi.engine.operation import CHUNK_NBYTES
from gloompi.testing import run_ranks
from gloompi.transport.endpoint import Peer

PROMPT = 2.0  # seconds
LARGE = 8 << 20


def _send_for_ever(ctx: Context, dest: int) -> None:
    while True:
        ctx.send(np.ones(1), dest)


def _test_until_done(request: Request) -> None:
    while not request.test():
        pass


def test_a_message_cut_off_by_a_peer_that_closes_is_an_error() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            began = time.monotonic()
            with pytest.raises(PeerLostError) as caught:
                ctx.send(np.zeros(8 * LARGE, "u1"), 1)
            assert caught.value.rank == 1
            assert time.monotonic() - began < PROMPT
        elif ctx.rank == 1:
            ctx.irecv(np.empty(8 * LARGE, "u1"), 0)  # clears it
            ctx.close()
        else:
            with pytest.raises(PeerLostError):
                ctx.recv(np.empty(1), 0)

    run_ranks(3, body, timeout=20)


def test_sending_to_a_peer_that_has_closed_raises() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(PeerLostError, match="closed its Context") as caught:
                _send_for_ever(ctx, 1)
            assert caught.value.rank == 1

    run_ranks(2, body, timeout=10)


def test_a_message_to_oneself_of_another_dtype_raises_at_once() -> None:
    def body(ctx: Context) -> None:
        ctx.irecv(np.empty(3), 0)
        with pytest.raises(MismatchError):
            ctx.send(np.ones(3, "f4"), 0)

    run_ranks(1, body)


@pytest.mark.parametrize("timeout", [1e7, 1e12, float("inf")])
def test_a_budget_of_months(timeout: float) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.recv(np.empty(1), 1, timeout=timeout)
        else:
            time.sleep(0.2)  # late enough for rank 0 to sleep in the kernel
            ctx.send(np.ones(1), 0)

    run_ranks(2, body, timeout=10)


def test_items_larger_than_a_piece_of_scratch() -> None:
    length = CHUNK_NBYTES // 8 + 5
    record = np.dtype([("values", "f8", length)])

    def total(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = np.empty_like(a)
        out["values"] = a["values"] + b["values"]
        return out

    def body(ctx: Context) -> None:
        x = np.zeros(3, record)
        x["values"] = ctx.rank + np.arange(length)
        found = ctx.allreduce(x, op=total, algorithm="direct")
        assert (found["values"] == 1 + 2 * np.arange(length)).all()
        ctx.allreduce(x, out=x, op=total, algorithm="direct")  # this is where a piece is needed
        assert (x["values"] == 1 + 2 * np.arange(length)).all()

    run_ranks(2, body, timeout=10)


def test_items_of_no_bytes() -> None:
    def body(ctx: Context) -> None:
        assert ctx.allreduce(np.zeros(3, "V0"), op=lambda a, b: a).shape == (3,)

    run_ranks(2, body, timeout=10)


def test_aborting_without_a_reason() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.abort("")
            assert ctx.closed
            with pytest.raises(ContextClosedError):
                ctx.barrier()
        else:
            with pytest.raises(PeerLostError, match="it aborted"):
                ctx.barrier()

    run_ranks(2, body, timeout=10)


def test_closing_says_what_it_could_not_send() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.recv(np.empty(0), 1)
            ctx.isend(np.zeros(8 * LARGE, "u1"), 1)
            with pytest.raises(OperationTimeoutError, match=r"close timed out after 0\.3 s: messages to rank 1 "):
                ctx.close(timeout=0.3)
        else:
            ctx.irecv(np.empty(8 * LARGE, "u1"), 0)  # clears it, and then does not take it
            ctx.send(np.empty(0), 0)
            while ctx.peers and not closed:
                time.sleep(0.01)

    closed: list[bool] = []

    def outer(ctx: Context) -> None:
        body(ctx)
        closed.append(True)

    run_ranks(2, outer, timeout=10)


def test_testing_notices_a_disagreement() -> None:
    def body(ctx: Context) -> None:
        request = ctx.igather(np.ones(3), root=ctx.rank)
        began = time.monotonic()
        with pytest.raises(MismatchError):
            _test_until_done(request)
        assert time.monotonic() - began < PROMPT

    run_ranks(2, body, timeout=10)


def test_testing_notices_that_nobody_is_left() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            request = ctx.irecv(np.empty(1), ANY_SOURCE)
            began = time.monotonic()
            with pytest.raises(PeerLostError, match="closed its Context"):
                _test_until_done(request)
            assert time.monotonic() - began < PROMPT

    run_ranks(3, body, timeout=10)


def test_a_result_is_not_kept_by_the_context() -> None:
    def body(ctx: Context) -> None:
        result = ctx.allreduce(np.ones(1000))
        gone = weakref.ref(result)
        del result
        gc.collect()
        assert gone() is None

    run_ranks(2, body)


def test_a_long_reason_in_any_script_arrives() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.abort("\N{FIRE}" * 5000)
        else:
            with pytest.raises(PeerLostError, match="it aborted: \N{FIRE}"):
                ctx.barrier()

    run_ranks(2, body, timeout=10)


def test_a_deadline_counts_while_bytes_move(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    peers = [Peer(0, "here", os.getpid(), "self", ""), Peer(1, "here", os.getpid(), "unix", "@far")]
    engine = Engine(0, peers, [None, near])
    with far, Context(engine, 30.0) as ctx:
        monkeypatch.setattr(engine, "_move", lambda: True)  # as while large messages of other ranks are being read
        with pytest.raises(OperationTimeoutError) as caught:
            ctx.recv(np.zeros(1), 1, timeout=0.05)
    assert (caught.value.operation, caught.value.timeout) == ("recv", 0.05)
