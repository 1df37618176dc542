"""The algorithms without sockets: results, steps and bytes against what their docstrings say, in any order of events.

At the end all of them once more over sockets, with every operator and dtype.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.collectives import (
    allgather,
    allreduce,
    alltoall,
    barrier,
    broadcast,
    gather,
    reduce,
    reduce_scatter,
    scan,
    scatter,
)
from gloompi.collectives.partition import prime_factors
from gloompi.reduction import OPERATORS, Reduction, resolve
from gloompi.testing import run_ranks

SIZES = range(1, 10)
EVEN = 2520  # divisible by every size
COUNTS = (0, 1, 5, 72, 1001)


class Operation:
    """A send or a receive of one rank."""

    def __init__(self, data: np.ndarray | None, deliver: Callable[[np.ndarray], None] | None = None) -> None:
        self.data = np.empty(0, "u1") if data is None else data
        self.deliver = deliver
        self.done = False
        self.time = 0
        self.open = False  # takes any length


class World:
    """Ranks in one thread whose messages travel in a random order.

    Parameters
    ----------
    size : int
    seed : int
        Of the order of events.
    eager : bool
        A message is what its sender's memory holds when it is sent; otherwise what it holds on arrival, and the send is not
        done before.

    Attributes
    ----------
    sent, received, messages, waits : list of int
        For each rank: bytes sent, bytes received, messages received, how often it waited for something.
    time : int
        When the last rank was done, if a rank sends one message per unit of time, which is how long it travels.
    """

    def __init__(self, size: int, seed: int, eager: bool) -> None:
        self.size, self.eager = size, eager
        self.random = random.Random(seed)
        self.sent, self.received, self.messages, self.waits = ([0] * size for _ in range(4))
        self.clock, self.port = [0] * size, [0] * size
        self.sends: dict[tuple[int, int, int], Operation] = {}
        self.receives: dict[tuple[int, int, int], Operation] = {}
        self.used: set[tuple[int, int, int]] = set()

    def run(self, algorithm: Callable[[FakeCall], Generator[Any, None, Any]]) -> World:
        calls = [algorithm(FakeCall(rank, self)) for rank in range(self.size)]
        awaited: dict[int, Sequence[Operation]] = dict.fromkeys(range(self.size), ())
        while awaited:
            events: list[Any] = list(self.sends.keys() & self.receives.keys())
            events += [rank for rank, operations in awaited.items() if all(each.done for each in operations)]
            assert events, f"ranks {sorted(awaited)} wait for ever"
            event = self.random.choice(sorted(events, key=str))
            if isinstance(event, tuple):
                self._deliver(event)
                continue
            self.clock[event] = max([self.clock[event], *(each.time for each in awaited[event])])
            try:
                wanted = next(calls[event])
            except StopIteration:
                del awaited[event]
                continue
            awaited[event] = (wanted,) if isinstance(wanted, Operation) else tuple(wanted)
            self.waits[event] += bool(awaited[event])
        assert not self.sends, "sent and never received"
        assert not self.receives, "posted and never sent"
        self.time = max(self.clock)
        return self

    def _deliver(self, key: tuple[int, int, int]) -> None:
        send, receive = self.sends.pop(key), self.receives.pop(key)
        source, dest, _ = key
        assert send.data.dtype == receive.data.dtype
        assert receive.open or len(send.data) == len(receive.data)
        assert receive.deliver is not None
        receive.deliver(send.data.copy())
        self.sent[source] += send.data.nbytes
        self.received[dest] += send.data.nbytes
        self.messages[dest] += 1
        receive.time = send.time
        send.done = receive.done = True


class FakeCall:
    """What an algorithm sees of a `World`."""

    number = 1

    def __init__(self, rank: int, world: World) -> None:
        self.rank, self.size, self._world = rank, world.size, world

    def send(self, dest: int, step: int, data: np.ndarray | None = None) -> Operation:
        world, key = self._world, (self.rank, dest, step)
        assert dest in range(self.size)
        assert dest != self.rank
        assert 0 <= step < 2**16
        assert key not in world.used, "two messages of one step"
        world.used.add(key)
        operation = world.sends[key] = Operation(data)
        world.port[self.rank] = operation.time = max(world.port[self.rank], world.clock[self.rank]) + 1
        if world.eager:
            operation.data = operation.data.copy()
            operation.done = True
        return operation

    def receive(self, source: int, step: int, out: np.ndarray | None = None, now: bool = False) -> Operation:
        def deliver(data: np.ndarray) -> None:
            if out is not None:
                out[:] = data

        return self._post(source, step, Operation(out, deliver))

    def receive_piece(self, source: int, step: int, out: np.ndarray, now: bool = False, room: bool = False) -> Operation:
        def deliver(data: np.ndarray) -> None:
            assert len(data) == len(out) or (room and len(data) < len(out))
            out[: len(data)] = data
            operation.nbytes = data.nbytes

        operation = Operation(out, deliver)
        operation.open = room
        return self._post(source, step, operation)

    def exchange(
        self, dest: int, source: int, step: int, data: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> tuple[Operation, Operation]:
        return self.send(dest, step, data), self.receive(source, step, out)

    def exchange_all(
        self,
        step: int,
        given: Sequence[tuple[int, np.ndarray]],
        wanted: Sequence[tuple[int, np.ndarray]],
        pieces: bool = False,
        room: bool = False,
    ) -> list[Operation]:
        came = [self.receive_piece(source, step, out, room=room) for source, out in wanted]
        return [*came, *[self.send(dest, step, data) for dest, data in given]]

    def receive_any(self, source: int, step: int) -> Operation:
        def deliver(data: np.ndarray) -> None:
            operation.data = data

        operation = Operation(None, deliver)
        operation.open = True
        return self._post(source, step, operation)

    def receive_reduce(
        self, source: int, step: int, mine: np.ndarray, out: np.ndarray, op: Reduction, now: bool = False
    ) -> Operation:
        def deliver(data: np.ndarray) -> None:
            for start in range(0, len(data), 7):  # piece by piece
                piece = slice(start, start + 7)
                if source < self.rank:
                    op.apply(data[piece], mine[piece], out[piece])
                else:
                    op.apply(mine[piece], data[piece], out[piece])

        assert len(mine) == len(out)
        return self._post(source, step, Operation(out, deliver))

    def _post(self, source: int, step: int, operation: Operation) -> Operation:
        assert source in range(self.size)
        assert source != self.rank
        assert (source, self.rank, step) not in self._world.receives, "two receives of one step"
        self._world.receives[source, self.rank, step] = operation
        return operation


def orders() -> list[tuple[int, bool]]:
    return [(seed, eager) for seed in range(2) for eager in (False, True)]


def values(rank: int, count: int) -> np.ndarray:
    return (7 * np.arange(count) + 3 * rank) % 5 + 100.0 * rank


def texts(rank: int, count: int) -> np.ndarray:
    """Their sum is in rank order, or not."""
    x = np.empty(count, object)
    x[:] = [f"{rank}" for _ in range(count)]
    return x


ADD = resolve("sum")
JOIN = resolve(lambda a, b: a + b)


def ceil_log2(n: int) -> int:
    return (n - 1).bit_length()


def floor_log2(n: int) -> int:
    return n.bit_length() - 1


def joins(n: int, rank: int) -> bool:
    """Whether a rank leaves its work to its neighbour, because n is no power of two."""
    return rank % 2 == 0 and rank < 2 * (n - (1 << floor_log2(n)))


def is_joined(n: int, rank: int) -> bool:
    return rank > 0 and joins(n, rank - 1)


# -- allreduce ----------------------------------------------------------------------------------------------------------


def run_allreduce(
    n: int, count: int, algorithm: str, op: Reduction = ADD, seed: int = 0, eager: bool = False, in_place: bool = False
) -> tuple[World, list[np.ndarray]]:
    make = texts if op is JOIN else values
    inputs = [make(rank, count) for rank in range(n)]
    outs = inputs if in_place else [np.empty_like(x) for x in inputs]
    world = World(n, seed, eager).run(
        lambda call: allreduce.allreduce(call, inputs[call.rank], outs[call.rank], op, algorithm)  # type: ignore[arg-type]
    )
    if not in_place:
        for rank, x in enumerate(inputs):
            np.testing.assert_array_equal(x, make(rank, count))
    return world, outs


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", allreduce.ALGORITHMS)
def test_allreduce_gives_every_rank_the_result(algorithm: str, n: int) -> None:
    for count in COUNTS:
        wanted = sum(values(rank, count) for rank in range(n))
        for seed, eager in orders():
            for in_place in (False, True):
                _, outs = run_allreduce(n, count, algorithm, ADD, seed, eager, in_place)
                for out in outs:
                    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", ["recursive_doubling", "halving_doubling", "bcube", "direct"])
def test_allreduce_keeps_the_order_of_operands(algorithm: str, n: int) -> None:
    for count in (0, 1, 5, 20):
        for seed, eager in orders():
            for in_place in (False, True):
                _, outs = run_allreduce(n, count, algorithm, JOIN, seed, eager, in_place)
                assert all(out.tolist() == ["012345678"[:n]] * count for out in outs)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", allreduce.ALGORITHMS)
def test_allreduce_is_bit_identical_on_all_ranks(algorithm: str, n: int) -> None:
    for seed, eager in orders():
        inputs = [np.random.default_rng(rank).normal(size=101) for rank in range(n)]
        World(n, seed, eager).run(
            lambda call: allreduce.allreduce(call, inputs[call.rank], inputs[call.rank], ADD, algorithm)  # noqa: B023
        )
        assert len({x.tobytes() for x in inputs}) == 1


@pytest.mark.parametrize("n", SIZES)
def test_recursive_doubling_steps_and_bytes(n: int) -> None:
    world, _ = run_allreduce(n, EVEN, "recursive_doubling")
    nbytes, power = 8 * EVEN, floor_log2(n)
    more = 0 if n == 1 << power else 2
    assert max(world.waits) == world.time == power + more
    for rank in range(n):
        sends = 1 if joins(n, rank) else power + is_joined(n, rank)
        assert world.sent[rank] == sends * nbytes


@pytest.mark.parametrize("n", SIZES)
def test_halving_doubling_steps_and_bytes(n: int) -> None:
    world, _ = run_allreduce(n, EVEN, "halving_doubling")
    nbytes, power = 8 * EVEN, floor_log2(n)
    places = 1 << power
    assert world.time == 2 * power + (0 if n == places else 2)
    assert max(world.waits) == world.time + (n > 1)  # the last is for what it has sent
    for rank in range(n):
        if joins(n, rank):
            assert world.sent[rank] == nbytes
        else:
            assert world.sent[rank] == 2 * nbytes * (places - 1) // places + nbytes * is_joined(n, rank)


@pytest.mark.parametrize("n", SIZES)
def test_ring_steps_and_bytes(n: int) -> None:
    world, _ = run_allreduce(n, EVEN, "ring")
    assert world.sent == [2 * 8 * EVEN * (n - 1) // n] * n
    assert world.time == 2 * (n - 1)
    assert world.waits == [world.time + (n > 1)] * n  # the last is for what it has sent


@pytest.mark.parametrize("n", SIZES)
def test_bcube_steps_and_bytes(n: int) -> None:
    world, _ = run_allreduce(n, EVEN, "bcube")
    messages = 2 * sum(factor - 1 for factor in prime_factors(n))
    assert world.sent == world.received == [2 * 8 * EVEN * (n - 1) // n] * n
    assert world.messages == [messages] * n
    assert world.time == messages


@pytest.mark.parametrize("n", SIZES)
def test_direct_allreduce_messages_and_bytes(n: int) -> None:
    world, _ = run_allreduce(n, EVEN, "direct")
    assert world.sent == world.received == [2 * 8 * EVEN * (n - 1) // n] * n
    assert world.messages == [2 * (n - 1)] * n


def test_prime_factors() -> None:
    assert [prime_factors(n) for n in (1, 2, 3, 4, 6, 7, 9, 12, 30)] == [
        [],
        [2],
        [3],
        [2, 2],
        [2, 3],
        [7],
        [3, 3],
        [2, 2, 3],
        [2, 3, 5],
    ]
    for n in range(1, 200):
        factors = prime_factors(n)
        assert prod(factors) == n
        assert factors == sorted(factors)
        assert all(factor % divisor for factor in factors for divisor in range(2, factor))


def test_allreduce_picks_by_what_all_ranks_agree_on() -> None:
    for n in range(2, 10):
        assert allreduce.pick(n, 0, ADD, False) == allreduce.pick(n, 8, JOIN, True) == "recursive_doubling"
        assert allreduce.pick(n, 2**30, ADD, True) == allreduce.pick(n, 2**30, JOIN, True) == "direct"
        assert allreduce.pick(n, 2**30, JOIN, False) == "halving_doubling"
        assert allreduce.pick(n, 2**30, ADD, False) == ("halving_doubling" if n in (2, 4, 8) else "ring")


# -- reduce -------------------------------------------------------------------------------------------------------------


def run_reduce(
    n: int,
    count: int,
    root: int,
    algorithm: str,
    op: Reduction = ADD,
    seed: int = 0,
    eager: bool = False,
    in_place: bool = False,
) -> tuple[World, np.ndarray]:
    make = texts if op is JOIN else values
    inputs = [make(rank, count) for rank in range(n)]
    total = inputs[root] if in_place else np.empty_like(inputs[root])
    world = World(n, seed, eager).run(
        lambda call: reduce.reduce(  # type: ignore[arg-type]
            call, inputs[call.rank], total if call.rank == root else None, root, op, algorithm
        )
    )
    for rank, x in enumerate(inputs):
        if not (in_place and rank == root):
            np.testing.assert_array_equal(x, make(rank, count))
    return world, total


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", reduce.ALGORITHMS)
def test_reduce_gives_every_root_the_result_in_rank_order(algorithm: str, n: int) -> None:
    for root in range(n):
        for count in COUNTS if root in (0, n - 1) else (5,):
            wanted = sum(values(rank, count) for rank in range(n))
            for seed, eager in orders():
                in_place = bool(seed % 2)
                np.testing.assert_array_equal(run_reduce(n, count, root, algorithm, ADD, seed, eager, in_place)[1], wanted)
                if count <= 72:
                    total = run_reduce(n, count, root, algorithm, JOIN, seed, eager, in_place)[1]
                    assert total.tolist() == ["012345678"[:n]] * count


@pytest.mark.parametrize("n", SIZES)
def test_binomial_reduce_steps_and_bytes(n: int) -> None:
    nbytes = 8 * EVEN
    for root in range(n):
        world, _ = run_reduce(n, EVEN, root, "binomial")
        assert max(world.waits) == ceil_log2(n)
        assert world.sent == [0 if rank == root else nbytes for rank in range(n)]
        # Operands that may not be swapped meet at rank 0, one step from another root.
        world, _ = run_reduce(n, 72, root, "binomial", JOIN)
        assert max(world.waits) <= ceil_log2(n) + (root > 0)
        assert sum(world.sent) == (n - 1 + (root > 0)) * 72 * 8


@pytest.mark.parametrize("n", SIZES)
def test_halving_reduce_steps_and_bytes(n: int) -> None:
    nbytes, power = 8 * EVEN, floor_log2(n)
    places = 1 << power
    for root in range(n):
        world, _ = run_reduce(n, EVEN, root, "halving_doubling")
        assert max(world.waits) <= power + 1 + (n != places)
        for rank in range(n):
            if joins(n, rank):
                assert world.sent[rank] == nbytes
            else:  # the parts given away, and the one kept to the root
                assert world.sent[rank] == (nbytes if rank != root else nbytes * (places - 1) // places)
        if n == places:
            assert world.received[root] == 2 * nbytes * (n - 1) // n


# -- broadcast ----------------------------------------------------------------------------------------------------------


def run_broadcast(n: int, count: int, root: int, algorithm: str, seed: int = 0, eager: bool = False) -> World:
    x = [values(rank, count) for rank in range(n)]
    world = World(n, seed, eager).run(lambda call: broadcast.broadcast(call, x[call.rank], root, algorithm))  # type: ignore[arg-type]
    for each in x:
        np.testing.assert_array_equal(each, values(root, count))
    return world


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", broadcast.ALGORITHMS)
def test_broadcast_gives_every_rank_the_roots_array(algorithm: str, n: int) -> None:
    for root in range(n):
        for count in COUNTS:
            for seed, eager in orders():
                run_broadcast(n, count, root, algorithm, seed, eager)


@pytest.mark.parametrize("n", SIZES)
def test_binomial_broadcast_steps_and_bytes(n: int) -> None:
    nbytes = 8 * EVEN
    for root in range(n):
        world = run_broadcast(n, EVEN, root, "binomial")
        assert world.time == ceil_log2(n)
        assert world.received == [0 if rank == root else nbytes for rank in range(n)]
        assert max(world.sent) == world.sent[root] == ceil_log2(n) * nbytes


@pytest.mark.parametrize("n", SIZES)
def test_scatter_allgather_broadcast_steps_and_bytes(n: int) -> None:
    nbytes = 8 * EVEN
    for root in range(n):
        world = run_broadcast(n, EVEN, root, "scatter_allgather")
        last = (root - 1) % n
        for rank in range(n):
            if rank == root:
                assert (world.sent[rank], world.received[rank]) == (2 * nbytes * (n - 1) // n, 0)
                assert world.waits[rank] == (n if n > 1 else 0)
            else:
                assert (world.received[rank], world.messages[rank]) == (nbytes, n)
                assert world.sent[rank] == (0 if rank == last else nbytes * (n - 1) // n)


def test_broadcast_picks_by_what_all_ranks_agree_on() -> None:
    assert [broadcast.pick(n, 8, n % 2 == 0) for n in range(1, 10)] == ["binomial"] * 9
    assert [broadcast.pick(n, 2**30, False) for n in range(1, 6)] == ["binomial"] * 2 + ["scatter_allgather"] * 3
    assert broadcast.pick(4, 2**30, True) == "direct"


# -- allgather, gather, scatter -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", allgather.ALGORITHMS)
def test_allgather_gives_every_rank_all_rows_and_steps_and_bytes(algorithm: str, n: int) -> None:
    for count in COUNTS:
        for seed, eager in orders():
            x = [values(rank, count) for rank in range(n)]
            outs = np.full((n, n * count), -1.0)
            world = World(n, seed, eager).run(
                lambda call: allgather.allgather(call, x[call.rank], outs[call.rank], algorithm)  # noqa: B023
            )
            for out in outs:
                np.testing.assert_array_equal(out, np.concatenate(x))
            steps = ceil_log2(n) if algorithm == "bruck" else n - 1
            assert world.sent == world.received == [(n - 1) * 8 * count] * n
            assert world.waits == [min(steps, 1) if algorithm == "direct" else steps] * n
            assert world.time == steps


@pytest.mark.parametrize("n", SIZES)
def test_gather_gives_the_root_all_rows_and_steps_and_bytes(n: int) -> None:
    for root in range(n):
        for count in COUNTS:
            for seed, eager in orders():
                x = [values(rank, count) for rank in range(n)]
                out = np.full(n * count, -1.0)
                world = World(n, seed, eager).run(
                    lambda call: gather.gather(call, x[call.rank], out if call.rank == root else None, root)  # noqa: B023
                )
                np.testing.assert_array_equal(out, np.concatenate(x))
                assert world.sent == [0 if rank == root else 8 * count for rank in range(n)]
                assert world.received[root] == (n - 1) * 8 * count
                assert world.waits == [1 if n > 1 else 0] * n


@pytest.mark.parametrize("n", SIZES)
def test_scatter_gives_every_rank_its_row_and_steps_and_bytes(n: int) -> None:
    for root in range(n):
        for count in COUNTS:
            for seed, eager in orders():
                x = np.concatenate([values(rank, count) for rank in range(n)])
                outs = np.full((n, count), -1.0)
                world = World(n, seed, eager).run(
                    lambda call: scatter.scatter(call, x if call.rank == root else None, outs[call.rank], root)  # noqa: B023
                )
                np.testing.assert_array_equal(outs, x.reshape(n, count))
                assert world.sent == [(n - 1) * 8 * count if rank == root else 0 for rank in range(n)]
                assert world.waits == [1 if n > 1 else 0] * n


# -- reduce_scatter -----------------------------------------------------------------------------------------------------


def shares(n: int, count: int) -> list[list[int]]:
    """Ways to share `count` elements: as equally as can be, all to one, nothing to some, growing."""
    ways = [[count * (rank + 1) // n - count * rank // n for rank in range(n)]]
    for rank in {0, n // 2, n - 1}:
        ways.append([count if other == rank else 0 for other in range(n)])
    odd = [rank for rank in range(n) if rank % 2] or [0]
    some = [0] * n
    for number, rank in enumerate(odd):
        some[rank] = count // len(odd) + (number < count % len(odd))
    growing = [min(rank, count // n) for rank in range(n)]
    growing[-1] += count - sum(growing)
    return [*ways, some, growing]


def slices(counts: Sequence[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise(accumulate(counts, initial=0))]


def run_reduce_scatter(
    n: int, counts: Sequence[int], algorithm: str, op: Reduction = ADD, seed: int = 0, eager: bool = False
) -> tuple[World, list[np.ndarray]]:
    make, parts = texts if op is JOIN else values, slices(counts)
    inputs = [make(rank, sum(counts)) for rank in range(n)]
    outs = [np.empty(count, inputs[0].dtype) for count in counts]
    world = World(n, seed, eager).run(
        lambda call: reduce_scatter.reduce_scatter(call, inputs[call.rank], outs[call.rank], parts, op, algorithm)  # type: ignore[arg-type]
    )
    for rank, x in enumerate(inputs):
        np.testing.assert_array_equal(x, make(rank, sum(counts)))
    return world, outs


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", reduce_scatter.ALGORITHMS)
def test_reduce_scatter_gives_every_rank_its_share(algorithm: str, n: int) -> None:
    for count in (0, 1, 5, 72, 501):
        wanted = sum(values(rank, count) for rank in range(n))
        for counts in shares(n, count):
            assert sum(counts) == count
            for seed, eager in orders():
                _, outs = run_reduce_scatter(n, counts, algorithm, ADD, seed, eager)
                for out, part in zip(outs, slices(counts), strict=True):
                    np.testing.assert_array_equal(out, wanted[part])  # type: ignore[index]


@pytest.mark.parametrize("n", SIZES)
def test_reduce_scatter_keeps_the_order_of_operands(n: int) -> None:
    for count in (0, 1, 5, 20):
        for counts in shares(n, count):
            for seed, eager in orders():
                _, outs = run_reduce_scatter(n, counts, "recursive_halving", JOIN, seed, eager)
                assert [out.tolist() for out in outs] == [["012345678"[:n]] * share for share in counts]


@pytest.mark.parametrize("n", SIZES)
def test_recursive_halving_steps_and_bytes(n: int) -> None:
    world, _ = run_reduce_scatter(n, [EVEN // n] * n, "recursive_halving")
    nbytes, power = 8 * EVEN, floor_log2(n)
    places = 1 << power
    assert max(world.waits) == power + (0 if n == places else 2)
    if n == places:
        assert world.time == power
        assert world.sent == [nbytes * (n - 1) // n] * n
    for rank in range(n):
        if joins(n, rank):
            assert world.sent[rank] == nbytes
            assert world.received[rank] == nbytes // n
        else:
            assert world.sent[rank] <= nbytes


@pytest.mark.parametrize("n", SIZES)
def test_pairwise_reduce_scatter_steps_and_bytes(n: int) -> None:
    world, _ = run_reduce_scatter(n, [EVEN // n] * n, "pairwise")
    assert world.sent == world.received == [8 * EVEN * (n - 1) // n] * n
    assert world.messages == [n - 1] * n
    assert world.time == n - 1


def test_reduce_scatter_picks_by_what_all_ranks_agree_on() -> None:
    assert reduce_scatter.pick(3, 64 * 1024, ADD) == "recursive_halving"
    assert reduce_scatter.pick(3, 64 * 1024 + 1, ADD) == reduce_scatter.pick(2, 8, ADD) == "pairwise"
    assert reduce_scatter.pick(3, 2**30, JOIN) == reduce_scatter.pick(2, 8, JOIN) == "recursive_halving"


# -- scan ---------------------------------------------------------------------------------------------------------------


def run_scan(
    n: int,
    count: int,
    algorithm: str,
    op: Reduction = ADD,
    seed: int = 0,
    eager: bool = False,
    in_place: bool = False,
    exclusive: bool = False,
) -> tuple[World, list[np.ndarray]]:
    make = texts if op is JOIN else values
    inputs = [make(rank, count) for rank in range(n)]
    outs = inputs if in_place else [np.empty_like(x) for x in inputs]
    befores = [np.empty_like(x) if exclusive and rank else None for rank, x in enumerate(inputs)]
    world = World(n, seed, eager).run(
        lambda call: scan.scan(call, inputs[call.rank], outs[call.rank], befores[call.rank], op, algorithm)  # type: ignore[arg-type]
    )
    if not in_place:
        for rank, x in enumerate(inputs):
            np.testing.assert_array_equal(x, make(rank, count))
    return world, [before for before in befores if before is not None] if exclusive else outs


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", scan.ALGORITHMS)
def test_scan_gives_every_rank_its_result_in_rank_order(algorithm: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_SEGMENT_NBYTES", 64)
    monkeypatch.setattr(scan, "_MOST_SEGMENTS", 20)
    for count in COUNTS:
        wanted = np.cumsum([values(rank, count) for rank in range(n)], axis=0)
        for seed, eager in orders():
            for in_place in (False, True):
                _, outs = run_scan(n, count, algorithm, ADD, seed, eager, in_place)
                np.testing.assert_array_equal(outs, wanted)
            _, befores = run_scan(n, count, algorithm, ADD, seed, eager, exclusive=True)
            assert len(befores) == n - 1
            for rank, before in enumerate(befores):
                np.testing.assert_array_equal(before, wanted[rank])
            if count <= 72:
                _, outs = run_scan(n, count, algorithm, JOIN, seed, eager, bool(seed))
                assert [out.tolist() for out in outs] == [["012345678"[: rank + 1]] * count for rank in range(n)]
                _, befores = run_scan(n, count, algorithm, JOIN, seed, eager, exclusive=True)
                assert [each.tolist() for each in befores] == [["012345678"[:rank]] * count for rank in range(1, n)]


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_recursive_doubling_scan_steps_and_bytes(n: int, exclusive: bool) -> None:
    world, _ = run_scan(n, EVEN, "recursive_doubling", exclusive=exclusive)
    assert world.time == ceil_log2(n)
    assert world.sent == [8 * EVEN * ceil_log2(n - rank) for rank in range(n)]


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("segments", [1, 6])
@pytest.mark.parametrize("n", SIZES)
def test_chain_steps_and_bytes(n: int, segments: int, exclusive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_SEGMENT_NBYTES", 8 * EVEN // segments)
    world, _ = run_scan(n, EVEN, "chain", exclusive=exclusive)
    assert world.messages == [segments if rank else 0 for rank in range(n)]
    assert world.sent == [8 * EVEN if rank < n - 1 else 0 for rank in range(n)]
    assert world.time == (n - 1 + segments - 1 if n > 1 else 0)


def test_scan_picks_by_what_all_ranks_agree_on() -> None:
    assert [scan.pick(nbytes) for nbytes in (0, 2**18, 2**18 + 1)] == ["recursive_doubling"] * 2 + ["chain"]


# -- alltoall, and the collectives on pieces of bytes ---------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("algorithm", alltoall.ALGORITHMS)
def test_alltoall_gives_row_s_of_rank_r_to_row_r_of_rank_s_and_steps_and_bytes(algorithm: str, n: int) -> None:
    for count in (0, 1, 5, 72):
        for seed, eager in orders():
            x = [values(rank, n * count) for rank in range(n)]
            outs = np.full((n, n * count), -1.0)
            world = World(n, seed, eager).run(
                lambda call: alltoall.alltoall(call, x[call.rank], outs[call.rank], algorithm)  # noqa: B023
            )
            wanted = np.array(x).reshape(n, n, count).transpose(1, 0, 2)
            np.testing.assert_array_equal(outs.reshape(n, n, count), wanted)
            for rank in range(n):
                np.testing.assert_array_equal(x[rank], values(rank, n * count))
            if algorithm == "bruck":
                assert world.messages == world.waits == [ceil_log2(n)] * n
                assert world.sent == [8 * count * sum(row.bit_count() for row in range(n))] * n
                assert world.time == ceil_log2(n)
            elif count:
                assert world.messages == [n - 1] * n
                assert world.sent == [8 * count * (n - 1)] * n
                assert world.waits == [1 if n > 1 else 0] * n
                assert world.time == n - 1


def test_alltoall_picks_by_what_all_ranks_agree_on() -> None:
    assert [alltoall.pick(n, 256) for n in (1, 7, 8, 9)] == ["pairwise", "pairwise", "bruck", "bruck"]
    assert [alltoall.pick(n, 257) for n in (1, 7, 8, 9)] == ["pairwise"] * 4


def piece(rank: int, dest: int) -> np.ndarray:
    """Bytes of a length that both ranks decide; none for some."""
    return ((np.arange((3 * rank + 5 * dest) % 11) + 16 * rank + dest) % 256).astype("u1")


def places(pieces: list[np.ndarray], given: bool) -> list[np.ndarray]:
    """Where pieces go: given arrays, or none, for new ones."""
    return [np.full(len(each), 255, "u1") for each in pieces] if given else []


def same_pieces(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert [each.tolist() for each in found] == [each.tolist() for each in wanted]
    assert all(each.flags.writeable for each in found)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_pieces_reach_their_places(n: int, given: bool) -> None:
    mine = [piece(rank, 0) for rank in range(n)]
    for seed, eager in orders():
        outs = [places(mine, given) for _ in range(n)]
        world = World(n, seed, eager).run(
            lambda call: allgather.allgatherv(call, mine[call.rank], outs[call.rank])  # noqa: B023
        )
        for out in outs:
            same_pieces(out, mine)
        assert world.messages == world.waits == [n - 1] * n

        pieces = [[piece(rank, dest) for dest in range(n)] for rank in range(n)]
        come = [[piece(rank, dest) for rank in range(n)] for dest in range(n)]
        outs = [places(come[rank], given) for rank in range(n)]
        world = World(n, seed, eager).run(
            lambda call: alltoall.alltoallv(call, pieces[call.rank], outs[call.rank])  # noqa: B023
        )
        for rank, out in enumerate(outs):
            same_pieces(out, come[rank])
        assert world.messages == [n - 1] * n
        assert world.waits == [1 if n > 1 else 0] * n

        for root in range(n):
            outs = [places(mine, given and rank == root) for rank in range(n)]
            world = World(n, seed, eager).run(
                lambda call: gather.gatherv(call, mine[call.rank], outs[call.rank], root)  # noqa: B023
            )
            same_pieces(outs[root], mine)
            assert world.messages == [n - 1 if rank == root else 0 for rank in range(n)]

            outs = [places([each], given) for each in mine]
            world = World(n, seed, eager).run(
                lambda call: scatter.scatterv(call, mine if call.rank == root else None, outs[call.rank], root)  # noqa: B023
            )
            same_pieces([out for (out,) in outs], mine)
            assert world.messages == [0 if rank == root else 1 for rank in range(n)]

            boxes = [[piece(root, 1)] if rank == root else [] for rank in range(n)]
            world = World(n, seed, eager).run(lambda call: broadcast.broadcastv(call, boxes[call.rank], root))  # noqa: B023
            same_pieces([box for (box,) in boxes], [piece(root, 1)] * n)
            assert world.messages == [0 if rank == root else 1 for rank in range(n)]
            assert world.time <= ceil_log2(n)


# -- barrier ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_barrier_steps(n: int) -> None:
    for seed, eager in orders():
        world = World(n, seed, eager).run(barrier.barrier)  # type: ignore[arg-type]
        assert world.waits == world.messages == [ceil_log2(n)] * n
        assert world.time == ceil_log2(n)
        assert world.sent == [0] * n


@pytest.mark.parametrize("n", range(2, 10))
def test_nobody_leaves_a_barrier_that_somebody_has_not_entered(n: int) -> None:
    for absent in range(n):
        left: list[int] = []

        def enter(call: Any) -> Generator[Any, None, None]:
            if call.rank == absent:  # noqa: B023
                yield Operation(None)  # never comes
            yield from barrier.barrier(call)
            left.append(call.rank)  # noqa: B023

        with pytest.raises(AssertionError, match="wait for ever"):
            World(n, absent, True).run(enter)
        assert left == []


# -- over sockets -------------------------------------------------------------------------------------------------------

LONG = 10_007  # more than 64 KiB of float64, and nothing divides it
REDUCING: list[tuple[str, str]] = [
    *(("allreduce", algorithm) for algorithm in ("auto", *allreduce.ALGORITHMS)),
    *(("reduce", algorithm) for algorithm in ("auto", *reduce.ALGORITHMS)),
    *(("reduce_scatter", algorithm) for algorithm in ("auto", *reduce_scatter.ALGORITHMS)),
    *(("scan", algorithm) for algorithm in ("auto", *scan.ALGORITHMS)),
    *(("exscan", algorithm) for algorithm in ("auto", *scan.ALGORITHMS)),
]
REORDERING = {("allreduce", "ring"), ("reduce_scatter", "pairwise")}
DTYPES = ("?", "b", "B", "h", "H", "i", "I", "l", "L", "e", "f", "d", "g", "F", "D", "G", ">i4", ">f8")

Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def small(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    """Whole numbers whose sums every dtype holds, so that no order of summing makes a difference."""
    return ((7 * np.arange(count) + 3 * rank) % 3).astype(dtype)


def combined(op: Combine, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The reductions of the first 1, 2, ... inputs, each of the inputs' dtype."""
    return list(accumulate(inputs, lambda a, b: np.asarray(op(a, b)).astype(a.dtype)))


def check(ctx: Context, call: tuple[str, str], inputs: list[np.ndarray], prefixes: list[np.ndarray], op: Any) -> None:
    """Compare the result of one reducing call, with a new array, with `out` and in place, with the reductions so far."""
    (name, algorithm), n = call, ctx.size
    x = inputs[ctx.rank].copy()
    count = len(x)
    options: dict[str, Any] = {"op": op, "algorithm": algorithm}
    wanted: np.ndarray | None = prefixes[-1]
    if name == "scan":
        wanted = prefixes[ctx.rank]
    elif name == "exscan":
        wanted = prefixes[ctx.rank - 1] if ctx.rank else None
    elif name == "reduce":
        options["root"] = n - 1
        wanted = wanted if ctx.rank == n - 1 else None
    elif name == "reduce_scatter":
        counts = shares(n, count)[0]
        options["counts"] = counts
        wanted = prefixes[-1][slices(counts)[ctx.rank]]
    operation = getattr(ctx, name)
    result = operation(x, **options)
    np.testing.assert_array_equal(x, inputs[ctx.rank])
    assert (result is None) == (wanted is None)
    out = np.full_like(x if wanted is None else wanted, 1)
    given = operation(x, out, **options)
    np.testing.assert_array_equal(x, inputs[ctx.rank])
    if wanted is None:
        assert given is None
        np.testing.assert_array_equal(out, np.full_like(x, 1))
    else:
        assert result.dtype == x.dtype
        assert given is out
        np.testing.assert_array_equal(result, wanted, f"{name}, {algorithm}, {x.dtype}, {count}")
        np.testing.assert_array_equal(out, wanted)
    place = x[slices(options["counts"])[ctx.rank]] if name == "reduce_scatter" else x
    operation(x, out=place, **options)
    np.testing.assert_array_equal(place, inputs[ctx.rank] if wanted is None else wanted)


@pytest.mark.parametrize("n", SIZES)
def test_every_algorithm_over_sockets(n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (0, 1, n - 1, n + 1, 1000, LONG):
            inputs = [small(rank, count) for rank in range(n)]
            for call in REDUCING:
                check(ctx, call, inputs, combined(np.add, inputs), "sum")

    run_ranks(n, body, device=Device(transport="tcp" if n in (3, 6) else "unix"))


@pytest.mark.parametrize("n", SIZES)
def test_every_algorithm_over_sockets_keeps_operands_in_rank_order(n: int) -> None:
    def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Decimal digits one after the other, with how many there are beside them."""
        (a_length, a_digits), (b_length, b_digits) = np.divmod(a, 10**10), np.divmod(b, 10**10)
        return (a_length + b_length) * 10**10 + a_digits * 10**b_length + b_digits

    def body(ctx: Context) -> None:
        for count in (1, n + 1, LONG):
            inputs = [10**10 + (rank + np.arange(count)) % 10 for rank in range(n)]
            prefixes = combined(join, inputs)
            for call in REDUCING:
                if call not in REORDERING:
                    check(ctx, call, inputs, prefixes, join)

    run_ranks(n, body)


def refused(op: str, dtype: np.dtype[Any]) -> bool:
    """Whether an operator has no meaning for a dtype."""
    return (dtype.kind == "c" and op in ("min", "max")) or (dtype.kind in "fc" and op in ("band", "bor", "bxor"))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_every_operator_and_dtype_with_algorithms_by_turns(n: int) -> None:
    def body(ctx: Context) -> None:
        turn = 0
        for dtype in map(np.dtype, DTYPES):
            inputs = [small(rank, 11, dtype) for rank in range(n)]
            for op, ufunc in OPERATORS.items():
                if refused(op, dtype):
                    for name in ("reduce", "reduce_scatter", "scan", "exscan"):
                        with pytest.raises(TypeError, match=f"^op '{op}' "):
                            getattr(ctx, name)(inputs[ctx.rank][: 2 * n], op=op)
                    continue
                prefixes = combined(ufunc, inputs)
                for _ in range(3):
                    check(ctx, REDUCING[turn % len(REDUCING)], inputs, prefixes, op)
                    turn += 1

    run_ranks(n, body)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_dtype_with_every_algorithm_on_long_arrays(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in map(np.dtype, DTYPES):
            inputs = [small(rank, 2 + 70_000 // dtype.itemsize, dtype) for rank in range(n)]
            prefixes = combined(np.add, inputs)
            for call in REDUCING:
                check(ctx, call, inputs, prefixes, "sum")

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_bfloat16_with_every_algorithm_and_operator(n: int) -> None:
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)

    def body(ctx: Context) -> None:
        for count in (0, 11, 40_003):
            inputs = [small(rank, count, bfloat16) for rank in range(n)]
            for op in ("sum", "max") if count > 11 else ("sum", "prod", "min", "max", "land", "lor", "lxor"):
                prefixes = combined(OPERATORS[op], inputs)
                for call in REDUCING:
                    check(ctx, call, inputs, prefixes, op)
            for op in ("band", "bor", "bxor"):
                with pytest.raises(TypeError, match=f"^op '{op}' cannot reduce bfloat16: "):
                    ctx.scan(inputs[ctx.rank], op=op)

    run_ranks(n, body)


@pytest.mark.parametrize("n", SIZES)
def test_every_algorithm_that_moves_over_sockets(n: int) -> None:
    def body(ctx: Context) -> None:
        for count in (0, 1, n - 1, n + 1, 1000, LONG):
            rows = np.array([values(rank, count) for rank in range(n)])
            for algorithm in ("auto", *broadcast.ALGORITHMS):
                for root in {0, n - 1}:
                    np.testing.assert_array_equal(
                        ctx.broadcast(rows[ctx.rank].copy(), root=root, algorithm=algorithm), rows[root]
                    )
            for algorithm in ("auto", *allgather.ALGORITHMS):
                np.testing.assert_array_equal(ctx.allgather(rows[ctx.rank], algorithm=algorithm), rows)
            for algorithm in ("auto", *alltoall.ALGORITHMS):
                mine = rows + 1000.0 * ctx.rank
                wanted = [rows[ctx.rank] + 1000.0 * rank for rank in range(n)]
                np.testing.assert_array_equal(ctx.alltoall(mine, algorithm=algorithm), wanted)
                assert ctx.alltoall(mine, out=mine, algorithm=algorithm) is mine
                np.testing.assert_array_equal(mine, wanted)

    run_ranks(n, body)
