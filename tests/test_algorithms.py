"""The algorithms without sockets: results, steps and bytes against what their docstrings say, in any order of events."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import pytest

from gloompi.collectives import allgather, allreduce, barrier, broadcast, gather, reduce, scatter
from gloompi.reduction import Reduction, resolve

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
        assert len(send.data) == len(receive.data)
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

    def receive(self, source: int, step: int, out: np.ndarray | None = None) -> Operation:
        def deliver(data: np.ndarray) -> None:
            if out is not None:
                out[:] = data

        return self._post(source, step, Operation(out, deliver))

    def receive_reduce(self, source: int, step: int, mine: np.ndarray, out: np.ndarray, op: Reduction) -> Operation:
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
@pytest.mark.parametrize("algorithm", ["recursive_doubling", "halving_doubling"])
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
    assert max(world.waits) == world.time == 2 * power + (0 if n == places else 2)
    for rank in range(n):
        if joins(n, rank):
            assert world.sent[rank] == nbytes
        else:
            assert world.sent[rank] == 2 * nbytes * (places - 1) // places + nbytes * is_joined(n, rank)


@pytest.mark.parametrize("n", SIZES)
def test_ring_steps_and_bytes(n: int) -> None:
    world, _ = run_allreduce(n, EVEN, "ring")
    assert world.sent == [2 * 8 * EVEN * (n - 1) // n] * n
    assert world.waits == [2 * (n - 1)] * n
    assert world.time == 2 * (n - 1)


def test_allreduce_picks_by_what_all_ranks_agree_on() -> None:
    for n in range(2, 10):
        assert allreduce.pick(n, 0, ADD) == allreduce.pick(n, 8, JOIN) == "recursive_doubling"
        assert allreduce.pick(n, 2**30, JOIN) == "halving_doubling"
        assert allreduce.pick(n, 2**30, ADD) == ("halving_doubling" if n in (2, 4, 8) else "ring")


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
    assert [broadcast.pick(n, 8) for n in range(1, 10)] == ["binomial"] * 9
    assert [broadcast.pick(n, 2**30) for n in range(1, 6)] == ["binomial"] * 2 + ["scatter_allgather"] * 3


# -- allgather, gather, scatter, barrier --------------------------------------------------------------------------------


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
            assert world.waits == [steps] * n
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
