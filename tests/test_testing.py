"""run_ranks: what tests of this project and of its users stand on."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from test_errors import SPEECHLESS

from gloompi import Context, Device, OperationTimeoutError, PeerLostError
from gloompi.testing import RankError, run_ranks

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_results_come_in_rank_order(n: int) -> None:
    def body(ctx: Context) -> tuple[int, int, str]:
        if ctx.rank + 1 < n:  # rank n - 1 is the first to return, rank 0 the last
            ctx.recv(np.empty(0), ctx.rank + 1)
        if ctx.rank:
            ctx.send(np.empty(0), ctx.rank - 1)
        return ctx.rank, ctx.size, threading.current_thread().name

    assert run_ranks(n, body) == [(rank, n, f"rank {rank}") for rank in range(n)]


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_ranks_are_connected_by_real_sockets(transport: str) -> None:
    def body(ctx: Context) -> list[tuple[int, str, int]]:
        assert ctx.timeout == 12.5
        return [(peer.rank, peer.transport, peer.pid) for peer in ctx.peers]

    results = run_ranks(3, body, timeout=12.5, device=Device(transport=transport))
    for rank, peers in enumerate(results):
        assert peers == [(other, "self" if other == rank else transport, os.getpid()) for other in range(3)]


def test_contexts_are_closed_at_the_end() -> None:
    kept = run_ranks(3, lambda ctx: ctx)
    assert [ctx.closed for ctx in kept] == [True] * 3


def test_a_failure_names_the_rank_and_keeps_its_cause() -> None:
    def body(ctx: Context) -> None:
        ctx.barrier()
        if ctx.rank == 2:
            raise KeyError("lost")

    with pytest.raises(RankError) as caught:
        run_ranks(3, body)
    assert str(caught.value) == "rank 2 of 3 failed: KeyError: 'lost'"
    assert (caught.value.rank, caught.value.size) == (2, 3)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.__traceback__ is not None  # it shows where


def test_a_failure_without_a_text_is_told_all_the_same() -> None:
    exc = SPEECHLESS["raises"][0]

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            raise exc
        with pytest.raises(
            PeerLostError, match=r"it aborted: Speechless \(its text cannot be made\) \(reported by rank 1\)"
        ):
            ctx.barrier()

    with pytest.raises(RankError) as caught:
        run_ranks(2, body)
    assert str(caught.value) == "rank 1 of 2 failed: Speechless (its text cannot be made)"
    assert caught.value.__cause__ is exc


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_the_root_cause_comes_before_what_follows_from_it(guilty: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == guilty:
            raise ZeroDivisionError("here it began")
        ctx.recv(np.empty(1), (ctx.rank + 1) % 3)

    for _ in range(5):
        with pytest.raises(RankError, match=f"^rank {guilty} of 3 failed: ZeroDivisionError: here it began$"):
            run_ranks(3, body)


def test_a_timeout_is_the_cause_of_the_errors_it_brings() -> None:
    def body(ctx: Context) -> None:
        ctx.recv(np.empty(1), 0, timeout=0.2 if ctx.rank == 1 else None)

    with pytest.raises(
        RankError, match=r"^rank 1 of 3 failed: OperationTimeoutError: recv timed out after 0.2 s: "
    ) as caught:
        run_ranks(3, body)
    assert isinstance(caught.value.__cause__, OperationTimeoutError)


def test_the_others_are_told_why() -> None:
    texts: list[str] = []

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            raise ValueError("no data")
        with pytest.raises(PeerLostError) as caught:
            ctx.barrier()
        texts.append(str(caught.value))

    with pytest.raises(RankError, match=r"^rank 0 of 3 failed: ValueError: no data$"):
        run_ranks(3, body)
    assert len(texts) == 2
    assert all("it aborted: ValueError: no data" in text for text in texts)


def test_any_exception_counts() -> None:
    def body(ctx: Context) -> None:
        raise SystemExit(3)

    with pytest.raises(RankError, match=r"^rank \d of 2 failed: SystemExit: 3$"):
        run_ranks(2, body)


def test_a_failed_rendezvous_is_a_failure_of_a_rank() -> None:
    with pytest.raises(RankError, match="nosuch0") as caught:
        run_ranks(2, lambda ctx: None, device=Device("=nosuch0", transport="tcp"), timeout=5)
    assert caught.value.__cause__ is not None


def test_a_thread_that_stays_busy_is_a_timeout() -> None:
    go = threading.Event()
    busy: list[threading.Thread] = []

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            busy.append(threading.current_thread())
            assert go.wait(30)

    start = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match=r"^rank 1 of 2 still busy after 1 s$"):
            run_ranks(2, body, timeout=0.5)
        assert 0.9 < time.monotonic() - start < 3
    finally:
        go.set()
        for thread in busy:
            thread.join(30)
