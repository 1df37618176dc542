"""barrier: nobody leaves before the last has come."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.testing import run_ranks


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_nobody_leaves_before_the_last_has_come(n: int, transport: str) -> None:
    rounds = 3 * n
    events: list[list[str]] = [[] for _ in range(rounds)]
    others_came = [threading.Semaphore(0) for _ in range(rounds)]

    def body(ctx: Context) -> None:
        for number in range(rounds):
            last = number % n  # every rank in turn comes after all others
            if ctx.rank == last:
                for _ in range(n - 1):
                    assert others_came[number].acquire(timeout=30)
            events[number].append("came")
            if ctx.rank != last:
                others_came[number].release()
            if number % 2:
                ctx.barrier()
            else:
                ctx.ibarrier().wait()
            events[number].append("left")

    run_ranks(n, body, device=Device(transport=transport))
    assert events == [["came"] * n + ["left"] * n] * rounds


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_barrier_does_not_disturb_what_is_under_way(n: int) -> None:
    def body(ctx: Context) -> None:
        out = np.zeros(100_003)
        incoming = ctx.irecv(out, (ctx.rank - 1) % n)
        outgoing = ctx.isend(np.full(100_003, float(ctx.rank)), (ctx.rank + 1) % n)
        total = ctx.iallreduce(np.ones(10))
        ctx.barrier()
        ctx.barrier()
        outgoing.wait()
        incoming.wait()
        np.testing.assert_array_equal(out, np.full(100_003, float((ctx.rank - 1) % n)))
        assert total.wait().tolist() == [n] * 10

    run_ranks(n, body)


def test_a_barrier_has_a_timeout_of_its_own() -> None:
    def body(ctx: Context) -> None:
        ctx.barrier(timeout=float("inf"))
        ctx.barrier(timeout=20)
        assert ctx.barrier() is None
        with pytest.raises(ValueError, match=r"^timeout must be seconds >= 0 or None, not nan$"):
            ctx.barrier(timeout=float("nan"))
        ctx.barrier()

    run_ranks(2, body)
