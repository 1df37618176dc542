"""Reductions of objects: one operand after the other, of which few are in memory, whatever their lengths."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from operations import forms

from gloompi import Context, Device
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
NAMES = ("reduce_object", "allreduce_object", "scan_object", "exscan_object")

# Items of rank r's array of doubles: what goes with the lengths, around the ring, along the chain, and mixtures of them.
LENGTHS: dict[str, Callable[[int], int]] = {
    "none": lambda rank: 0,
    "short": lambda rank: 3 + rank,
    "at the limit of short": lambda rank: 70 + 10 * rank,
    "together": lambda rank: 500 + rank,
    "long": lambda rank: EAGER_NBYTES // 4 + rank,
    "one is long": lambda rank: EAGER_NBYTES if rank == 1 else rank,
    "all but one are long": lambda rank: 1 if rank == 1 else EAGER_NBYTES // 4,
}


def values(rank: int, count: int) -> np.ndarray:
    return np.arange(count) * 0.5 + 1000 * rank


def wanted(name: str, rank: int, n: int) -> int:
    """From how many ranks the result of a rank is made."""
    return {"reduce_object": 0 if rank else n, "allreduce_object": n, "scan_object": rank + 1, "exscan_object": rank}[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("n", SIZES)
def test_operands_come_in_rank_order_and_are_nobody_elses(n: int, transport: str, name: str) -> None:
    """The operator changes all that it is given, and what it has returned before."""

    def join(a: list[Any], b: list[Any]) -> list[Any]:
        joined = [*a[:-1], *b[:-1], a[-1]]
        joined[-1].append(len(b))
        for each in b[:-1]:
            each[2] = each[1].copy()
            each[1][...] = -1.0
        b.clear()
        return joined

    def body(ctx: Context) -> None:
        for length in LENGTHS.values():
            sent = values(ctx.rank, length(ctx.rank))
            mine = [[ctx.rank, sent, sent], []]
            for form in forms(ctx, name):
                found = form(mine, op=join)
                ranks = wanted(name, ctx.rank, n)
                if not ranks:
                    assert found is None
                    continue
                assert [each[0] for each in found[:-1]] == list(range(ranks))
                for rank, first, second in found[:-1]:
                    np.testing.assert_array_equal(second, values(rank, length(rank)))
                    assert first is second if rank == 0 else (first == -1).all()
                assert found[-1] == [2] * (ranks - 1)
            np.testing.assert_array_equal(sent, values(ctx.rank, length(ctx.rank)))
        assert ctx.allgather_object(ctx.rank) == list(range(n))

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("name", NAMES)
def test_few_operands_are_in_memory(name: str) -> None:
    """Of 8 ranks no more than of 2: this rank's own, what has been reduced, the next one, and what is made of them."""
    n, nbytes = 8, 4 * 1024 * 1024
    most = n + 3 if name == "reduce_object" else 4 * n  # all ranks together; only the root of a reduce has more than its own
    level = threading.Barrier(n)

    def body(ctx: Context) -> None:
        x = np.full(nbytes // 8, 1.0)
        ctx.barrier()
        level.wait(30)
        if ctx.rank == 0:
            gc.collect()
            tracemalloc.start()
        level.wait(30)
        total = getattr(ctx, name)(x)
        level.wait(30)
        ranks = wanted(name, ctx.rank, n)
        assert total is None if not ranks else (total == ranks).all()

    try:
        run_ranks(n, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (most + 1) * nbytes


def test_what_fails_with_one_operand_fails_in_that_result_alone() -> None:
    """Others get theirs, also those that the operands have to pass."""

    def body(ctx: Context) -> None:
        def picky(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if ctx.rank == 1 and b[0] == 2:
                raise ArithmeticError("no such sum")
            return a + b

        for length in LENGTHS.values():
            x = np.full(1 + length(0), float(ctx.rank))
            for form in forms(ctx, "allreduce_object"):
                if ctx.rank == 1:
                    with pytest.raises(ArithmeticError, match=r"^no such sum$"):
                        form(x, op=picky)
                else:
                    assert (form(x, op=picky) == 6).all()
            assert not ctx.closed

    run_ranks(4, body)


def test_results_are_the_same_to_the_bit() -> None:
    """Sums of these numbers depend on their order."""

    def body(ctx: Context) -> list[bytes]:
        found = []
        for count in (3, 300, 100_000):
            generator = np.random.default_rng(ctx.rank)
            x = generator.standard_normal(count) * 10.0 ** generator.integers(-20, 20, count)
            found.append(ctx.allreduce_object(x).tobytes())
            every = ctx.allgather_object(x)
            total = every[0]
            for each in every[1:]:
                total = total + each
            assert found[-1] == total.tobytes()
        return found

    first, *others = run_ranks(5, body)
    assert others == [first] * 4
