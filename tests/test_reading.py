"""Large messages between ranks of one host are read in their sender's memory, or come over the socket: nobody can tell."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import logging
import os
import random
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from typing import Any

import numpy as np
import psutil
import pytest
from effort import assert_linear
from launch import run_job
from traffic import assert_same, begin, nothing_waits, values

import gloompi.context
from gloompi import (
    ANY_SOURCE,
    ANY_TAG,
    Context,
    ContextClosedError,
    Device,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    Request,
    Status,
    wait_all,
)
from gloompi.collectives.allreduce import ALGORITHMS
from gloompi.deadline import Deadline
from gloompi.engine.channel import Channel
from gloompi.engine.engine import Engine
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.engine.operation import Receive
from gloompi.engine.reading import SLICE_NBYTES, Reading
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import RankError, run_ranks
from gloompi.transport.endpoint import Peer
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header, unpack_header
from gloompi.transport.memory import Offer, Owner, Reader

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SMALL = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 3 * SMALL + 3
MIDDLE = 5 * SMALL // 2  # doubles, of which halves are read, too
SLICES = 9 * 1024 * 1024 // 8  # doubles, of which three slices are made
ODD = 6 * EAGER_NBYTES // 4 + 3  # of 4 bytes, of which fifths are read, too
BARE = EAGER_NBYTES // 4 + 3  # of 4 bytes, of which only the whole is read
SIZES = (2, 3, 4, 5)
HUGE = 2**31 + 7
WAIT = 30.0

Read = Callable[[Reader, int, Offer, int, memoryview], None]


class Reads:
    """Notes what is read, and does before each read what a test wants.

    Attributes
    ----------
    lengths : list of int
        Of the reads that have succeeded.
    before : callable
        Called with the name of the thread, ``"rank 1"`` under `run_ranks`, and the number of the read, from 1.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._number = itertools.count(1)
        self.lengths: list[int] = []
        self.before: Callable[[str, int], object] = lambda name, number: None

    @property
    def nbytes(self) -> int:
        return sum(self.lengths)

    def __call__(self, reader: Reader, pid: int, offer: Offer, position: int, into: memoryview) -> None:
        self.before(threading.current_thread().name, next(self._number))
        self._read(reader, pid, offer, position, into)
        self.lengths.append(len(into))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """For tests of what is read; elsewhere than on Linux, and where it is forbidden, they have no subject."""
    owner, data = Owner(), np.ones(8, "u1")
    try:
        Reader().read(os.getpid(), Offer.unpack(owner.offer(data.data)), 0, memoryview(bytearray(8)))
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EPERM):
            pytest.skip(f"process_vm_readv is forbidden here: {exc}")
    noted = Reads(Reader.read)
    monkeypatch.setattr(Reader, "read", lambda *arguments: noted(*arguments))
    return noted


def forbidden(*names: str, since: int = 1) -> Callable[[str, int], None]:
    """For `Reads.before`: what a kernel does that lets none, or only some ranks, read, from the start or after a while."""

    def before(name: str, number: int) -> None:
        if number >= since and (not names or name in names):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    return before


def readable(ctx: Context) -> list[bool]:
    return [link.readable for link in ctx._engine._links]


def connected(n: int = 2, timeout: float = 10.0) -> list[Context]:
    """The Contexts of `n` ranks, for this thread to use: only non-blocking calls make sense on more than one of them."""
    with ThreadPoolExecutor(n) as pool:
        return list(
            pool.map(
                lambda exchange: Context._from_exchange(exchange, Device(transport="unix"), timeout, Deadline(timeout)),
                local_exchanges(n),
            )
        )


@contextmanager
def both() -> Iterator[tuple[Context, Context]]:
    """Two ranks in this thread; one of them, at least, is expected to break."""
    one, other = connected()
    try:
        yield one, other
    finally:
        for ctx in (one, other):
            ctx.abort("done")


def until(look: Callable[[], Any]) -> Any:
    deadline = Deadline(WAIT)
    while not (found := look()):
        assert not deadline.expired()
    return found


def _all_done(requests: Sequence[Request]) -> bool:
    """Test all of them, whatever the first ones say."""
    return sum(request.test() for request in requests) == len(requests)


def numbers(rank: int, count: int = ODD, salt: int = 0) -> np.ndarray:
    return (np.arange(count) % 1009 + 10_000 * rank + 100_000 * salt).astype("i4")


# -- messages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [SMALL, SMALL + 1, LARGE, 3 * 2**17, SLICES, SLICES + 1])
@pytest.mark.parametrize("source", [0, ANY_SOURCE])
@pytest.mark.parametrize("early", [False, True])
def test_messages_are_read_where_they_are(reads: Reads, early: bool, source: int, count: int) -> None:
    def body(ctx: Context) -> None:
        for tag in (4, ANY_TAG):
            if ctx.rank == 0:
                if not early:
                    ctx.barrier()
                request = ctx.isend(values(0, 1, count), 1, tag=4)
                if early:
                    ctx.barrier()
                request.wait()
                ctx.send(values(0, 2, count), 1, tag=4)
            else:
                outs = np.full((2, count), -1.0)
                if early:
                    ctx.barrier()
                first = ctx.irecv(outs[0], source, tag=tag)
                if not early:
                    ctx.barrier()
                assert first.wait() == Status(0, 4, 8 * count)
                assert ctx.recv(outs[1], source, tag=tag) == Status(0, 4, 8 * count)
                assert_same(outs, np.array([values(0, 1, count), values(0, 2, count)]))
        assert nothing_waits(ctx)

    run_ranks(2, body)
    assert reads.nbytes == (4 * 8 * count if count > SMALL else 0)
    assert max(reads.lengths, default=0) <= SLICE_NBYTES
    assert len(reads.lengths) == (4 * -(-8 * count // SLICE_NBYTES) if count > SMALL else 0)


def test_tcp_reads_nothing(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        assert not any(readable(ctx))
        out = np.empty(LARGE)
        ctx.sendrecv(values(ctx.rank, 0, LARGE), 1 - ctx.rank, out, 1 - ctx.rank)
        assert_same(out, values(1 - ctx.rank, 0, LARGE))

    run_ranks(2, body, device=Device(transport="tcp"))
    assert reads.nbytes == 0


def test_messages_to_oneself_are_copied(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        out = np.empty(SLICES)
        assert ctx.sendrecv(values(ctx.rank, 1, SLICES), ctx.rank, out, ctx.rank).nbytes == 8 * SLICES
        assert_same(out, values(ctx.rank, 1, SLICES))
        request = ctx.isend(values(ctx.rank, 2, SLICES), ctx.rank)
        ctx.recv(out, ctx.rank)
        request.wait()
        assert_same(out, values(ctx.rank, 2, SLICES))

    run_ranks(2, body)
    assert reads.nbytes == 0


def test_both_directions_at_once(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        out = np.empty(SLICES)
        for salt in range(3):
            assert ctx.sendrecv(values(ctx.rank, salt, SLICES), peer, out, peer) == Status(peer, 0, 8 * SLICES)
            assert_same(out, values(peer, salt, SLICES))

    run_ranks(2, body)
    assert reads.nbytes == 6 * 8 * SLICES


COUNTS = (3, LARGE, 0, MIDDLE, 1, SMALL, SMALL + 1, 2, LARGE, 5)
"""Doubles of messages of which some go at once, and some wait where they are."""


def _in_order(ctx: Context, wanted: tuple[int, int], waits: str) -> None:
    """Rank 0 sends `COUNTS` with two tags; rank 1 takes all of one tag, then all of the other."""
    if ctx.rank > 1:
        ctx.barrier()
        return
    if ctx.rank == 0:
        requests = [ctx.isend(values(tag, salt, count), 1, tag=tag) for salt, count in enumerate(COUNTS) for tag in (1, 2)]
        ctx.barrier()
        wait_all(requests)
        return
    ctx.barrier()
    for tag in (2, 1):
        source, either = wanted[0], tag if wanted[1] != ANY_TAG or tag == 2 else ANY_TAG
        outs = [np.full(count, -1.0) for count in COUNTS]
        statuses = [Status(0, tag, 8 * count) for count in COUNTS]
        if waits == "recv":
            assert [ctx.recv(out, source, tag=either) for out in outs] == statuses
        else:
            requests = [ctx.irecv(out, source, tag=either) for out in outs]
            if waits == "test":
                until(lambda requests=requests: _all_done(requests))  # type: ignore[misc]
            assert [request.wait() for request in reversed(requests)] == statuses[::-1]
        for salt, (out, count) in enumerate(zip(outs, COUNTS, strict=True)):
            assert_same(out, values(tag, salt, count))


@pytest.mark.parametrize("waits", ["recv", "irecv", "test"])
@pytest.mark.parametrize("wanted", [(0, 0), (ANY_SOURCE, 0), (0, ANY_TAG), (ANY_SOURCE, ANY_TAG)])
def test_small_and_large_messages_of_one_source_and_tag_keep_their_order(
    reads: Reads, wanted: tuple[int, int], waits: str
) -> None:
    run_ranks(2, lambda ctx: _in_order(ctx, wanted, waits))
    assert reads.nbytes == 2 * 8 * sum(count for count in COUNTS if count > SMALL)


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("posted", [False, True])
def test_offered_and_announced_messages_of_one_tag_keep_their_order(reads: Reads, posted: bool, matched: bool) -> None:
    """A synchronous send of a small message asks for leave; large ones before and behind it are read."""
    counts = [LARGE, 3, LARGE + 1, 4, 5, LARGE + 2]

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            if posted:
                ctx.barrier()
            requests = [ctx.issend(values(0, count, count), 1, tag=3) for count in counts]
            if not posted:
                ctx.barrier()
            wait_all(requests)
            return
        outs = [np.full(count, -1.0) for count in counts]
        if not posted:
            ctx.barrier()
        if matched and not posted:
            messages = [ctx.mprobe(0, tag=3) for _ in counts]
            order = [4, 1, 0, 5, 3, 2]
            requests = [messages[index].irecv(outs[index]) for index in order]
        else:
            order = list(range(6))
            requests = [ctx.irecv(out, 0, tag=ANY_TAG if matched else 3) for out in outs]
        if posted:
            ctx.barrier()
        for index, request in zip(order, requests, strict=True):
            assert request.wait() == Status(0, 3, 8 * counts[index])
        for out, count in zip(outs, counts, strict=True):
            assert_same(out, values(0, count, count))

    run_ranks(2, body)
    assert reads.nbytes == 8 * sum(count for count in counts if count > SMALL)


def test_messages_without_credit_stay_behind_offered_ones(reads: Reads) -> None:
    """After a large one, so many small ones that the last have to be announced."""
    count = 1500

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            requests = [ctx.isend(values(0, 0, LARGE), 1)]
            requests += [ctx.isend(np.full(128, float(number)), 1) for number in range(count)]
            requests += [ctx.isend(values(0, 1, LARGE), 1), ctx.isend(np.full(128, -5.0), 1)]
            ctx.barrier()
            wait_all(requests)
            return
        ctx.barrier()
        outs = np.full((count, 128), -1.0)
        large = np.full((2, LARGE), -1.0)
        last = np.full(128, -1.0)
        wait_all([ctx.irecv(out, 0) for out in (large[0], *outs, large[1], last)])
        assert_same(large, np.array([values(0, 0, LARGE), values(0, 1, LARGE)]))
        assert (outs == np.arange(count)[:, np.newaxis]).all()
        assert (last == -5).all()

    run_ranks(2, body)
    assert reads.nbytes == 2 * 8 * LARGE


@pytest.mark.parametrize("order", [(2, 0, 1), (2, 1, 0), (0, 2, 1)])
def test_matched_probes_receive_out_of_order(reads: Reads, order: tuple[int, ...]) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            wait_all([ctx.isend(values(0, salt, LARGE + salt), 1, tag=tag) for salt in range(3) for tag in (7, 8)])
            return
        messages = {tag: [ctx.mprobe(0, tag=tag) for _ in range(3)] for tag in (8, 7)}
        assert [message.nbytes for message in messages[7]] == [8 * (LARGE + salt) for salt in range(3)]
        for salt, tag in itertools.product(order, (7, 8)):
            out = np.full(LARGE + 2, -1.0)
            assert messages[tag][salt].recv(out) == Status(0, tag, 8 * (LARGE + salt))
            assert_same(out[: LARGE + salt], values(0, salt, LARGE + salt))
            assert (out[LARGE + salt :] == -1).all()

    run_ranks(2, body)
    assert reads.nbytes == 2 * 8 * (3 * LARGE + 3)


def test_a_shorter_message_fills_the_beginning(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.send(values(0, 1, LARGE), 1)
            ctx.send(values(0, 2, LARGE), 1)
        else:
            out = np.full(2 * LARGE, -1.0)
            assert ctx.recv(out, 0).nbytes == 8 * LARGE
            assert_same(out[:LARGE], values(0, 1, LARGE))
            assert (out[LARGE:] == -1).all()
            grid = np.full((2, 2 * LARGE), -1.0)[:, ::2]  # not contiguous
            assert ctx.recv(grid, 0).nbytes == 8 * LARGE
            assert_same(grid[0], values(0, 2, LARGE))
            assert (grid[1] == -1).all()

    run_ranks(2, body)
    assert reads.nbytes == 2 * 8 * LARGE


def test_a_message_that_does_not_fit_is_not_read(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        out = np.full(LARGE - 1, -1.0)
        with pytest.raises(MismatchError) as caught:  # noqa: PT012
            if ctx.rank == 0:
                ctx.send(np.ones(LARGE), 1, tag=7)
            else:
                ctx.recv(out, 0, tag=7)
        assert str(caught.value) == (
            f"ranks disagree on the message from rank 0 to rank 1 with tag 7: rank 1 called recv(<f8, count {LARGE - 1}) of "
            f"at most {8 * (LARGE - 1)} bytes, rank 0 called send(<f8, count {LARGE}) of {8 * LARGE} bytes; a receive "
            "needs the dtype that was sent and room for all of it; recv_array takes any array, recv_object any object"
        ) + ("" if ctx.rank else " (reported by rank 1)")
        assert (out == -1).all()

    run_ranks(2, body)
    assert reads.nbytes == 0


def test_objects_with_large_arrays(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        mine = {"rank": ctx.rank, "x": values(ctx.rank, 0, SLICES)}
        for found in ctx.allgather_object(mine):
            assert_same(found["x"], values(found["rank"], 0, SLICES))
        ctx.isend_object(mine, (ctx.rank + 1) % 3)
        assert_same(ctx.recv_object(ANY_SOURCE)["x"], values((ctx.rank - 1) % 3, 0, SLICES))

    run_ranks(3, body)
    assert reads.nbytes > 9 * 8 * SLICES


def test_more_than_two_gibibytes(reads: Reads) -> None:
    if psutil.virtual_memory().available < 3 * HUGE:
        pytest.skip(f"needs {3 * HUGE / 1e9:.0f} GB of free memory")
    marks = [0, 1, 2**31 - 1, 2**31, HUGE // 2, HUGE - 1]

    def body(ctx: Context) -> None:
        x = np.zeros(HUGE, np.uint8)
        if ctx.rank == 0:
            x[marks] = range(1, len(marks) + 1)
            ctx.send(x, 1)
        else:
            assert ctx.recv(x, 0).nbytes == HUGE
            assert x[marks].tolist() == list(range(1, len(marks) + 1))
            assert np.count_nonzero(x) == len(marks)

    run_ranks(2, body)
    assert reads.nbytes == HUGE


# -- collectives --------------------------------------------------------------------------------------------------------


def check_collectives(ctx: Context, count: int) -> None:
    """Compare every collective with what NumPy says of the same numbers."""
    n, me = ctx.size, ctx.rank
    x = numbers(me, count)
    every = np.array([numbers(rank, count) for rank in range(n)])
    rows = np.array([numbers(me, count, salt) for salt in range(n)])
    for_me = np.array([numbers(rank, count, me) for rank in range(n)])
    pieces = [numbers(rank, count + 7 * rank) for rank in range(n)]
    total = every.sum(0, dtype="i4")
    for root in range(n):
        y = x.copy()
        assert ctx.broadcast(y, root=root) is y
        assert_same(y, every[root])
        assert_same(ctx.reduce(x, root=root), total if me == root else None)
        assert_same(ctx.gather(x, root=root), every if me == root else None)
        out = np.empty_like(x)
        ctx.scatter(rows if me == root else None, out, root=root)
        assert_same(out, numbers(root, count, me))
    for algorithm in ALGORITHMS:
        assert_same(ctx.allreduce(x, algorithm=algorithm), total)
        y = x.copy()
        assert ctx.allreduce(y, out=y, op="max", algorithm=algorithm) is y
        assert_same(y, every.max(0))
    assert_same(ctx.reduce_scatter(rows)[0], for_me.sum(0, dtype="i4"))
    assert_same(ctx.scan(x), every[: me + 1].sum(0, dtype="i4"))
    before = ctx.exscan(x)
    if me:
        assert_same(before, every[:me].sum(0, dtype="i4"))
    assert_same(ctx.allgather(x), every)
    assert_same(ctx.alltoall(rows), for_me)
    assert_same(ctx.gatherv(pieces[me], root=n - 1), pieces if me == n - 1 else None)
    assert_same(ctx.allgatherv(pieces[me]), pieces)
    assert_same(ctx.scatterv(pieces if me == 0 else None, root=0), pieces[me])
    assert_same(ctx.alltoallv([pieces[me][: count - rank] for rank in range(n)]), [other[: count - me] for other in pieces])


@pytest.mark.parametrize("n", SIZES)
def test_collectives_against_numpy(reads: Reads, n: int) -> None:
    run_ranks(n, lambda ctx: check_collectives(ctx, ODD))
    assert reads.nbytes > 20 * 4 * ODD


@pytest.mark.parametrize("n", [2, 3])
def test_all_operations_under_way_together(reads: Reads, n: int) -> None:
    def body(ctx: Context) -> None:
        started = [each for salt in range(2) for each in begin(ctx, salt, 4 * SMALL + 1)]
        random.Random(ctx.rank).shuffle(started)
        for request, check in started:
            check(request.wait())
        assert nothing_waits(ctx)

    run_ranks(n, body)
    assert reads.nbytes


@pytest.mark.parametrize("n", [2, 3])
def test_reductions_of_several_slices(reads: Reads, n: int) -> None:
    def body(ctx: Context) -> None:
        total = sum(values(rank, 0, SLICES) for rank in range(n))
        x = values(ctx.rank, 0, SLICES)
        assert_same(ctx.allreduce(x), total)
        assert_same(ctx.reduce(x), total if ctx.rank == 0 else None)
        ctx.allreduce(x, out=x)
        assert_same(x, total)

    run_ranks(n, body)
    assert reads.nbytes


RECORD = np.dtype([("a", "u1"), ("b", "<f4"), ("c", "S6")])  # 11 bytes


def records(rank: int, count: int) -> np.ndarray:
    found = np.zeros(count, RECORD)
    found["a"] = np.arange(count) % 251
    found["b"] = (np.arange(count) * 7 + 31 * rank) % 1013
    found["c"] = f"rank {rank}".encode()
    return found


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(a["b"] >= b["b"], a, b)


@pytest.mark.parametrize("n", [2, 3])
def test_records_of_odd_length(reads: Reads, n: int) -> None:
    count = 500_009

    def body(ctx: Context) -> None:
        every = [records(rank, count) for rank in range(n)]
        x = every[ctx.rank].copy()
        assert ctx.broadcast(x, root=1).tobytes() == every[1].tobytes()
        found = ctx.allgather(every[ctx.rank])
        assert [piece.tobytes() for piece in found] == [piece.tobytes() for piece in every]
        largest = every[0]
        for other in every[1:]:
            largest = larger(largest, other)
        assert ctx.allreduce(every[ctx.rank], op=larger).tobytes() == largest.tobytes()
        after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        assert ctx.sendrecv(every[ctx.rank], after, x, before).nbytes == 11 * count
        assert x.tobytes() == every[before].tobytes()

    run_ranks(n, body)
    assert reads.nbytes


def test_arrays_that_are_not_contiguous_or_read_only(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        x = np.zeros((1000, 400))
        x[:, ::2] = values(ctx.rank, 0, 200_000).reshape(1000, 200)
        x.flags.writeable = False
        grid = np.full((1000, 400), -1.0)
        ctx.sendrecv(x[:, ::2], peer, grid[:, 1::2], peer)
        assert_same(grid[:, 1::2], values(peer, 0, 200_000).reshape(1000, 200))
        assert (grid[:, ::2] == -1).all()
        total = x[:, ::2] + grid[:, 1::2]
        assert_same(ctx.allreduce(x[:, ::2]), total)
        ctx.allreduce(x[:, ::2], out=grid[:, ::2])
        assert_same(grid[:, ::2], total)
        ctx.allreduce(np.broadcast_to(np.ones(1), 300_000), out=grid.reshape(-1)[:300_000])
        assert (grid.reshape(-1)[:300_000] == 2).all()

    run_ranks(2, body)
    assert reads.nbytes


# -- where nothing can be read ------------------------------------------------------------------------------------------


def _everything(ctx: Context) -> None:
    check_collectives(ctx, BARE)
    check_collectives(ctx, ODD)
    after, before = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    out = np.empty(SLICES)
    assert ctx.sendrecv(values(ctx.rank, 0, SLICES), after, out, before) == Status(before, 0, 8 * SLICES)
    assert_same(out, values(before, 0, SLICES))
    for request, check in begin(ctx, 1, MIDDLE):
        check(request.wait())
    assert nothing_waits(ctx)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("since", [1, 2, 30])
def test_everything_works_where_reading_is_forbidden_from_then_on(reads: Reads, since: int, n: int) -> None:
    reads.before = forbidden(since=since)

    def body(ctx: Context) -> list[bool]:
        _everything(ctx)
        return readable(ctx)

    found = run_ranks(n, body)
    # Whoever was refused does not offer any more, so its peer may not have tried.
    assert not any(found[rank][other] and found[other][rank] for rank in range(n) for other in range(n))
    assert len(reads.lengths) == since - 1


@pytest.mark.parametrize("victim", [0, 1, 3])
def test_everything_works_where_one_rank_may_not_read(reads: Reads, victim: int) -> None:
    reads.before = forbidden(f"rank {victim}")

    def body(ctx: Context) -> list[bool]:
        _everything(ctx)
        return readable(ctx)

    found = run_ranks(4, body)
    assert found == [[rank not in (victim, other) for other in range(4)] for rank in range(4)]
    assert reads.nbytes


@pytest.mark.parametrize("blind", [{0}, {1}, {0, 1}, {0, 2}])
def test_everything_works_where_some_ranks_offer_and_read_nothing(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, blind: set[int]
) -> None:
    class Blind(Engine):
        def __init__(self, rank: int, *arguments: Any, **options: Any) -> None:
            super().__init__(rank, *arguments, **options)
            for link in self._links:
                link.readable &= rank not in blind

    monkeypatch.setattr(gloompi.context, "Engine", Blind)
    n = max(blind) + 2

    def body(ctx: Context) -> list[bool]:
        _in_order(ctx, (0, 0), "irecv")
        _everything(ctx)
        return readable(ctx)

    for rank, found in enumerate(run_ranks(n, body)):
        # To the others a blind rank looks like one that has nothing to offer, and it asks for what they offer.
        assert found == [rank not in blind and other != rank for other in range(n)]


@pytest.mark.parametrize("waits", ["recv", "irecv", "test"])
@pytest.mark.parametrize("since", [1, 2, 3, 5])
def test_order_holds_when_reading_is_forbidden_with_offers_queued(reads: Reads, since: int, waits: str) -> None:
    reads.before = forbidden(since=since)
    run_ranks(2, lambda ctx: _in_order(ctx, (0, 0), waits))
    assert len(reads.lengths) == since - 1


@pytest.mark.parametrize("since", [1, 2, 3])
@pytest.mark.parametrize("length", ["equal", "growing", "shrinking"])
def test_offers_of_one_peer_that_are_refused_together(reads: Reads, since: int, length: str) -> None:
    reads.before = forbidden(since=since)
    tags = [1, 1, 2, 2, 1, 3, 1]
    counts = [LARGE + {"equal": 0, "growing": salt, "shrinking": -salt}[length] for salt in range(len(tags))]
    with both() as (sender, receiver):
        sent = [
            sender.isend(values(0, salt, count), 1, tag=tag)
            for salt, (tag, count) in enumerate(zip(tags, counts, strict=True))
        ]
        until(lambda: receiver.iprobe(0, tag=3))
        outs = [np.full(count, -1.0) for count in counts]
        received = [receiver.irecv(out, 0, tag=tag) for out, tag in zip(outs, tags, strict=True)]
        until(lambda: _all_done(received + sent))
        for salt, out in enumerate(outs):
            assert_same(out, values(0, salt, counts[salt]))
        assert readable(receiver) == [False, False]


def test_offers_of_several_peers_when_one_is_refused(reads: Reads) -> None:
    """What another peer has offered goes on being read."""

    def before(name: str, number: int) -> None:
        if number == 2:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    reads.before = before

    def body(ctx: Context) -> list[bool]:
        if ctx.rank:
            requests = [ctx.isend(values(ctx.rank, salt, LARGE), 0, tag=salt) for salt in range(4)]
            ctx.barrier()
            wait_all(requests)
            return []
        ctx.barrier()
        outs = np.full((4, 3, LARGE), -1.0)
        wait_all([ctx.irecv(outs[salt, rank - 1], rank, tag=salt) for salt in range(4) for rank in (1, 2, 3)])
        for salt, rank in itertools.product(range(4), (1, 2, 3)):
            assert_same(outs[salt, rank - 1], values(rank, salt, LARGE))
        return readable(ctx)

    assert run_ranks(4, body)[0] == [False, True, False, True]
    assert len(reads.lengths) == 8


def test_a_refusal_is_noted_once(reads: Reads, caplog: pytest.LogCaptureFixture) -> None:
    reads.before = forbidden()

    def body(ctx: Context) -> str:
        out = np.empty(LARGE)
        for salt in range(5):
            if ctx.rank == 0:
                ctx.send(values(0, salt, LARGE), 1)
            else:
                ctx.recv(out, 0)
        return str(ctx.peers[0])

    with caplog.at_level(logging.DEBUG, "gloompi"):
        peer = run_ranks(2, body)[1]
    assert [record.getMessage() for record in caplog.records if "read" in record.getMessage()] == [
        f"memory of {peer} cannot be read, sockets are used instead: Operation not permitted"
    ]


@pytest.mark.parametrize("way", ["read", "refused"])
def test_between_processes(mpi_jobs: None, reads: Reads, way: str) -> None:
    """In processes of their own; and where the kernel really forbids it."""
    ranks = run_job(4, "memory_exchange.py", way, timeout=100)
    for rank, found in enumerate(ranks):
        assert found["wrong"] == []
        if way == "read":
            assert found["read"] > 10 * 4 * ODD
            assert found["readable"] == [other != rank for other in range(4)]
            assert found["log"] == []
        else:
            assert found["read"] == 0
            for other in range(4):  # whoever was refused does not offer any more, so its peer may not have tried
                assert not (found["readable"][other] and ranks[other]["readable"][rank])
            assert len(found["log"]) == 3 - sum(found["readable"])  # one for each peer
            for line in found["log"]:
                assert line.endswith(" cannot be read, sockets are used instead: Operation not permitted"), line


# -- what is on the wire ------------------------------------------------------------------------------------------------


@pytest.fixture
def wire() -> Iterator[tuple[Context, socket.socket]]:
    """Rank 0, and the socket of a rank 1 that says what a test wants."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(10)
    pid = os.getpid()
    peers = [Peer(0, "here", pid, "unix", "a", readable=True), Peer(1, "here", pid, "unix", "b", readable=True)]
    ctx = Context(Engine(0, peers, [None, near]), 10.0)
    yield ctx, far
    ctx.abort("done")
    far.close()


def taken(far: socket.socket) -> tuple[Kind, int, int]:
    """Kind, tag and nbytes of the next frame."""
    header = b""
    while len(header) < HEADER_NBYTES:
        header += far.recv(HEADER_NBYTES - len(header))
    _, kind, _, tag, nbytes, _ = unpack_header(header, 0)
    return Kind(kind), tag, nbytes


def _frame(ctx: Context, kind: Kind, tag: int, payload: bytes = b"", nbytes: int | None = None, count: int = LARGE) -> bytes:
    mark = fingerprint("send", np.dtype("f8"), count)
    return pack_header(kind, ctx._conversation.messages.id, tag, len(payload) if nbytes is None else nbytes, mark) + payload


@pytest.mark.parametrize("step", [1, 63, 64, 65, 119, 1000])
def test_an_offer_in_pieces(reads: Reads, wire: tuple[Context, socket.socket], step: int) -> None:
    ctx, far = wire
    owner, x, out = Owner(), values(1, 0, LARGE), np.full(LARGE, -1.0)
    request = ctx.irecv(out, 1, tag=5)
    stream = _frame(ctx, Kind.OFFER, 5, owner.offer(x.view("u1").data))
    for start in range(0, len(stream), step):
        assert not request.done
        far.sendall(stream[start : start + step])
        ctx.iprobe()
    assert request.wait() == Status(1, 5, 8 * LARGE)
    assert_same(out, x)
    assert taken(far) == (Kind.TAKEN, 5, 0)


def test_an_offer_that_cannot_be_proved_is_asked_for(reads: Reads, wire: tuple[Context, socket.socket]) -> None:
    ctx, far = wire
    owner, x, out = Owner(), values(1, 0, LARGE), np.full(LARGE, -1.0)
    offer = owner.offer(x.view("u1").data)
    owner.revoke()
    far.sendall(_frame(ctx, Kind.OFFER, 5, offer))
    request = ctx.irecv(out, 1, tag=5)
    assert not request.test()
    assert taken(far) == (Kind.CLEAR, 5, 0)
    assert readable(ctx) == [False, False]
    other = ctx.isend(x, 1, tag=6)
    assert taken(far) == (Kind.ANNOUNCE, 6, 8 * LARGE)
    sender = threading.Thread(target=far.sendall, args=(_frame(ctx, Kind.DATA, 5, x.tobytes()),))
    sender.start()
    assert request.wait() == Status(1, 5, 8 * LARGE)
    sender.join()
    assert_same(out, x)
    assert not other.done


def test_an_offer_of_a_process_that_is_gone_is_asked_for(wire: tuple[Context, socket.socket]) -> None:
    ctx, far = wire
    request = ctx.irecv(np.empty(LARGE), 1, tag=5)
    far.sendall(_frame(ctx, Kind.OFFER, 5, Offer(8 * LARGE, 0x1000, 0x2000, bytes(32)).pack()))
    assert not request.test()
    assert taken(far) == (Kind.CLEAR, 5, 0)


@pytest.mark.parametrize(
    ("kind", "payload", "what"),
    [
        (Kind.TAKEN, b"", "word that it has read what was not offered"),
        (Kind.OFFER, bytes(55), "a frame of kind 10 with 55 bytes"),
        (Kind.OFFER, bytes(57), "a frame of kind 10 with 57 bytes"),
        (Kind.OFFER, b"", "a frame of kind 10 with 0 bytes"),
    ],
)
def test_frames_that_make_no_sense(wire: tuple[Context, socket.socket], kind: Kind, payload: bytes, what: str) -> None:
    ctx, far = wire
    far.sendall(_frame(ctx, kind, 5, payload))
    with pytest.raises(PeerLostError) as caught:
        ctx.recv(np.empty(LARGE), 1, tag=5)
    assert str(caught.value) == (
        f"lost {ctx.peers[1]} in recv: it sent {what}: the ranks run different versions, or memory is corrupt"
    )


# -- faults: never wrong data -------------------------------------------------------------------------------------------


def _fails(sender: Context, request: Any, fault: str) -> tuple[type[Exception], str]:
    """Have something happen to a sender; return what the receiver must get."""
    told = r"\(reported by rank 0; this rank was in recv\)$"
    if fault == "timeout":
        with pytest.raises(OperationTimeoutError):
            request.wait(0.1)
        return OperationTimeoutError, rf"^send timed out after 0\.1 s: sending \d+ bytes to rank 1 .*{told}"
    if fault == "close":
        with pytest.raises(OperationTimeoutError):
            sender.close(timeout=0.1)
        return OperationTimeoutError, rf"^close timed out after 0\.1 s: .* were never received there {told}"
    if fault == "abort":
        sender.abort("enough")
        return PeerLostError, r"^lost rank 0 \(.*: it aborted: enough \(reported by rank 0\)$"
    with pytest.raises(ZeroDivisionError), sender:
        raise ZeroDivisionError("by zero")
    return PeerLostError, r"^lost rank 0 \(.*: it aborted: ZeroDivisionError: by zero \(reported by rank 0\)$"


faults = pytest.mark.parametrize("fault", ["timeout", "close", "abort", "raise"])


@faults
@pytest.mark.parametrize("count", [SMALL + 1, SLICES])
@pytest.mark.parametrize("held", [False, True])
def test_a_sender_that_fails_after_its_offer(reads: Reads, held: bool, count: int, fault: str) -> None:
    with both() as (sender, receiver):
        x, out = values(0, 0, count), np.full(count, -2.0)
        request = sender.isend(x, 1)
        until(lambda: receiver.iprobe(0))
        message = receiver.mprobe(0) if held else None
        error, text = _fails(sender, request, fault)
        x[:] = -1  # the memory is the user's again
        with pytest.raises(error, match="(?m)" + text):
            receiver.recv(out, 0) if message is None else message.recv(out)
        with pytest.raises(error, match="(?m)" + text):
            receiver.barrier()
    assert reads.nbytes == 0


@faults
@pytest.mark.parametrize("number", [2, 3])
def test_a_sender_that_fails_while_it_is_read(reads: Reads, number: int, fault: str) -> None:
    with both() as (sender, receiver):
        x, out = values(0, 0, SLICES), np.full(SLICES, -2.0)
        request = sender.isend(x, 1)
        expected: list[tuple[type[Exception], str]] = []

        def before(name: str, read: int) -> None:
            if read == number:
                expected.append(_fails(sender, request, fault))
                x[:] = -1

        reads.before = before
        with pytest.raises((OperationTimeoutError, PeerLostError)) as caught:
            receiver.recv(out, 0)
        ((error, text),) = expected
        assert type(caught.value) is error
        assert caught.match("(?m)" + text)
    assert len(reads.lengths) == number - 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_peer_that_fails_while_a_reduction_reads(reads: Reads, number: int) -> None:
    with both() as (one, other):
        x, y = values(0, 0, SLICES), values(1, 0, SLICES)
        other.iallreduce(y)

        def before(name: str, read: int) -> None:
            if read == number:
                other.abort("enough")
                y[:] = -1

        reads.before = before
        with pytest.raises(PeerLostError, match=r"lost rank 1 .*: it aborted: enough"):
            one.allreduce(x)


@pytest.mark.parametrize("code", [errno.EFAULT, errno.EPERM])
def test_memory_that_cannot_be_read_to_its_end(reads: Reads, code: int) -> None:
    """The receive has used what was read already, so the message cannot come in another way."""

    def before(name: str, number: int) -> None:
        if number == 2:
            raise OSError(code, os.strerror(code))

    reads.before = before
    with both() as (sender, receiver):
        request = sender.isend(values(0, 0, SLICES), 1)
        with pytest.raises(PeerLostError) as caught:
            receiver.recv(np.empty(SLICES), 0)
        assert str(caught.value) == (
            f"lost {receiver.peers[0]} in recv: {SLICE_NBYTES} bytes of a message of {8 * SLICES} could be read in its "
            f"memory, then: {os.strerror(code)}; its program has unmapped or truncated what it is sending "
            f"(GLOOMPI_SINGLE_COPY=0 sends it over the socket instead)"
        )
        told = r"\(reported by rank 1; this rank was in send\)"
        with pytest.raises(PeerLostError, match=rf"(?m)could be read in its memory, then: .* {told}$"):
            request.wait()


@pytest.mark.parametrize("numbers", [{1}, {2}, {1, 2, 4, 5}])
def test_read_without_memory_in_the_kernel_is_tried_again(reads: Reads, numbers: set[int]) -> None:
    def before(name: str, number: int) -> None:
        if number in numbers:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    reads.before = before
    with both() as (sender, receiver):
        request = sender.isend(values(0, 0, SLICES), 1)
        out = np.empty(SLICES)
        receiver.recv(out, 0)
        request.wait()
    np.testing.assert_array_equal(out, values(0, 0, SLICES))
    assert reads.nbytes == out.nbytes


def test_budget_of_a_read_ends_with_the_shortage_in_the_text(reads: Reads) -> None:
    tries = []

    def before(name: str, number: int) -> None:
        tries.append(number)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    reads.before = before
    with both() as (sender, receiver):
        sender.isend(values(0, 0, SLICES), 1)
        with pytest.raises(OperationTimeoutError) as caught:
            receiver.recv(np.empty(SLICES), 0, timeout=0.3)
    shortage = (
        f"the kernel had no memory for reading that of {receiver.peers[0]}: ENOMEM (Cannot allocate memory); see free -m"
    )
    assert shortage in str(caught.value)
    assert len(tries) < 200


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("call", ["recv", "wait", "test", "iprobe", "close"])
def test_an_interrupt_during_a_read(reads: Reads, call: str, number: int) -> None:
    def before(name: str, read: int) -> None:
        if read == number:
            raise Interrupted("by a signal")

    reads.before = before
    with both() as (sender, receiver):
        out = np.full(SLICES, -2.0)
        request = sender.isend(values(0, 0, SLICES), 1)
        calls: dict[str, Callable[[], object]] = {"recv": lambda: receiver.recv(out, 0)}
        if call == "close":
            receiver.isend(np.ones(LARGE), 0)  # which nobody takes: this close waits
        if call != "recv":
            received = receiver.irecv(out, 0)
            calls["wait"] = received.wait
            calls["test"] = lambda: until(received.test)
            calls["iprobe"] = lambda: until(lambda: receiver.iprobe(0, tag=9))
            calls["close"] = receiver.close
        with pytest.raises(Interrupted):
            calls[call]()
        assert receiver.closed
        with pytest.raises(PeerLostError, match="it aborted: Interrupted: by a signal"):
            request.wait()
        with pytest.raises(ContextClosedError, match="this Context was aborted: Interrupted: by a signal"):
            receiver.recv(out, 0)


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise in the body when it has used that much processor time, and again after a while."""

    def handler(*_: object) -> None:
        raise Interrupted("by a signal")

    before = signal.signal(signal.SIGPROF, handler)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.3)
    try:
        yield
    except Interrupted:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("trial", range(8))
def test_a_signal_anywhere_in_a_reader_of_another_process(reads: Reads, trial: int) -> None:
    near, far = socket.socketpair()
    hears, says = os.pipe()

    def peers(child: int) -> list[Peer]:
        return [Peer(0, "here", parent, "unix", "a", readable=True), Peer(1, "here", child, "unix", "b", readable=True)]

    parent, child = os.getpid(), os.fork()
    mine, other = (near, far) if child else (far, near)
    other.close()
    mine.setblocking(False)
    x = values(1, 0, SLICES)
    if not child:
        try:
            ctx = Context(Engine(1, peers(os.getpid()), [mine, None]), 10.0)
            try:
                while True:
                    ctx.send(x, 0)
            except PeerLostError as exc:
                os.write(says, str(exc).encode())
        finally:
            os._exit(0)
    os.close(says)
    try:
        ctx = Context(Engine(0, peers(child), [None, mine]), 10.0)
        with interrupted_after(0.02 + 0.003 * trial), ctx:
            while True:
                out = np.full(SLICES, -1.0)
                ctx.recv(out, 1)
                assert np.array_equal(out, x)
        assert ctx.closed
        with os.fdopen(hears, "rb") as heard:
            said = heard.read().decode()
        assert "Interrupted: by a signal" in said or "connection closed by peer" in said, said
    finally:
        os.waitpid(child, 0)
    assert reads.nbytes


@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, ProcessLookupError, ValueError])
def test_an_operator_that_raises_is_no_failed_read(reads: Reads, error: type[Exception], call: int) -> None:
    """Errors of the operating system's are the operator's own, too."""
    seen = itertools.count(1)

    def op(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if len(a) > 1 and next(seen) == call:  # not when it is tried
            raise error(errno.ESTALE, "table.bin")
        return a + b

    with both() as (one, other):
        began = other.iallreduce(values(1, 0, SLICES), op=op)
        with pytest.raises(error, match=r"table\.bin"):
            one.allreduce(values(0, 0, SLICES), op=op)
        with pytest.raises(PeerLostError, match=rf"lost rank 0 .*: it aborted: {error.__name__}: .*table\.bin"):
            began.wait()


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("noticed", [False, True])
def test_a_receiver_that_leaves_an_offer(reads: Reads, noticed: bool, how: str) -> None:
    with both() as (sender, receiver):
        request = sender.isend(np.ones(LARGE), 1)
        if noticed:
            until(lambda: receiver.iprobe(0))
        receiver.close() if how == "close" else receiver.abort("enough")
        with pytest.raises(PeerLostError) as caught:
            request.wait()
        who = str(sender.peers[1])
        assert (
            str(caught.value)
            == {
                "close": f"lost {who} in send: it closed its Context while this rank still needed it",
                "abort": f"lost {who} between operations: it aborted: enough (reported by rank 1)",  # its own words
            }[how]
        )
    assert reads.nbytes == 0


def test_closing_waits_for_what_was_offered(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.isend(values(0, 0, SLICES), 1)
            ctx.isend(values(0, 1, SLICES), 1)
            ctx.close()
        else:
            out = np.empty(SLICES)
            for salt in range(2):
                ctx.recv(out, 0)
                assert_same(out, values(0, salt, SLICES))

    run_ranks(2, body)
    assert reads.nbytes == 2 * 8 * SLICES


@pytest.mark.parametrize("early", [False, True])
def test_a_context_that_is_dropped_takes_its_offers_back(reads: Reads, early: bool) -> None:
    """The connections go on with another Context, and so does the proof."""
    with both() as (sender, receiver):
        x, out = values(0, 0, SLICES), np.full(SLICES, -2.0)
        child, other = sender.dup(), receiver.dup()
        child.isend(x, 1)
        until(lambda: other.iprobe(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del child
            gc.collect()
        sender.send(np.ones(1), 1)  # says that the other one is gone
        x[:] = -1
        if early:
            receiver.recv(np.empty(1), 0)
        with pytest.raises(PeerLostError, match="it closed its Context while this rank still needed it"):
            other.recv(out, 0, timeout=5.0)


def test_what_nobody_wants_any_more_is_not_read(reads: Reads) -> None:
    with both() as (sender, receiver):
        child, other = sender.dup(), receiver.dup()
        sent = child.isend(values(0, 0, SLICES), 1)
        until(lambda: other.iprobe(0))
        receiver._engine._poller.stale = inf
        request = other.irecv(np.empty(SLICES), 0)
        other.close()
        sent.wait()
        with pytest.raises(ContextClosedError):
            request.wait()
        child.close()
    assert reads.nbytes == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_context_that_is_dropped_while_it_is_read(reads: Reads, number: int) -> None:
    with both() as (sender, receiver):
        x, out = values(0, 0, SLICES), np.full(SLICES, -2.0)
        family = [sender.dup()]
        other = receiver.dup()
        family[0].isend(x, 1)

        def before(name: str, read: int) -> None:
            if read == number:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    family.clear()
                    gc.collect()
                sender.send(np.ones(1), 1)
                x[:] = -1

        reads.before = before
        try:
            other.recv(out, 0, timeout=5.0)
        except PeerLostError:
            pass
        else:
            assert_same(out, values(0, 0, SLICES))


@pytest.mark.parametrize("victim", ["sender", "receiver"])
@pytest.mark.parametrize("stage", ["offered", "reading"])
def test_a_rank_that_is_killed(survivors: None, reads: Reads, stage: str, victim: str) -> None:
    ranks = run_job(3, "memory_kill.py", victim, stage, survivors=True)
    dead = 0 if victim == "sender" else 1
    for rank, found in enumerate(ranks):
        if rank == dead:
            assert "error" not in found
        else:
            assert found["error"] == "PeerLostError", found
            assert found["lost"] == dead
    if victim == "sender":
        assert ranks[1]["complete"] is False


def test_forked_children_disturb_no_reads(mpi_jobs: None) -> None:
    for found in run_job(3, "memory_fork.py"):
        assert found["children"] == [0, 0]
        assert found["wrong"] == []


# -- ways to wait -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_awaiting_messages_of_several_slices(reads: Reads, n: int) -> None:
    async def main(ctx: Context) -> None:
        after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        outs = np.full((2, SLICES), -1.0)
        received = [ctx.irecv(out, before, tag=tag) for tag, out in enumerate(outs)]
        sent = [ctx.isend(values(ctx.rank, tag, SLICES), after, tag=tag) for tag in range(2)]
        total = ctx.iallreduce(values(ctx.rank, 3, SLICES))
        assert await asyncio.wait_for(asyncio.gather(*received), WAIT) == [Status(before, tag, 8 * SLICES) for tag in (0, 1)]
        assert_same(outs, np.array([values(before, tag, SLICES) for tag in range(2)]))
        assert_same(await total, sum(values(rank, 3, SLICES) for rank in range(n)))
        await asyncio.wait_for(asyncio.gather(*sent), WAIT)
        await ctx.ibarrier()

    run_ranks(n, lambda ctx: asyncio.run(main(ctx)))
    assert reads.nbytes >= 2 * n * 8 * SLICES


def test_a_loop_goes_on_while_a_message_is_read(reads: Reads) -> None:
    """Slice by slice: the loop has its turns between."""
    counted: list[int] = []

    async def main(ctx: Context) -> None:
        if ctx.rank == 0:
            await ctx.isend(np.ones(8 * SLICES), 1)
            return
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.ensure_future(count())
        await ctx.irecv(np.empty(8 * SLICES), 0)
        counter.cancel()
        counted.append(turns)

    run_ranks(2, lambda ctx: asyncio.run(main(ctx)))
    assert counted[0] > 2


@pytest.mark.parametrize("n", [2, 3])
def test_testing_alone_moves_everything(reads: Reads, n: int) -> None:
    def body(ctx: Context) -> None:
        after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        outs = np.full((2, SLICES), -1.0)
        requests = [ctx.irecv(out, before, tag=tag) for tag, out in enumerate(outs)]
        requests += [ctx.isend(values(ctx.rank, tag, SLICES), after, tag=tag) for tag in range(2)]
        total = ctx.iallreduce(values(ctx.rank, 3, SLICES))
        until(lambda: _all_done([*requests, total]))
        assert_same(outs, np.array([values(before, tag, SLICES) for tag in range(2)]))
        assert_same(total.wait(), sum(values(rank, 3, SLICES) for rank in range(n)))

    run_ranks(n, body)
    assert reads.nbytes


def test_other_peers_have_their_turns_while_a_message_is_read(reads: Reads) -> None:
    """A small message that comes after a large one has begun to be read does not wait for its end."""
    done: list[int] = []

    def before(name: str, number: int) -> None:
        if number == 2 and name == "rank 0":
            small.set()
            assert came.wait(WAIT)

    small, came = threading.Event(), threading.Event()
    reads.before = before

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.send(np.ones(8 * SLICES), 0)
        elif ctx.rank == 2:
            assert small.wait(WAIT)
            ctx.send(np.ones(1), 0)
            came.set()
        else:
            large = ctx.irecv(np.empty(8 * SLICES), 1)
            ctx.recv(np.empty(1), 2)
            done.append(len(reads.lengths))
            assert not large.done
            large.wait()

    run_ranks(3, body)
    assert done[0] < len(reads.lengths) == 18


def test_two_contexts_and_their_children(reads: Reads) -> None:
    exchanges = local_exchanges(3)

    def body(ctx: Context) -> None:
        with Context._from_exchange(exchanges[ctx.rank], None, WAIT, Deadline(WAIT)) as other, ctx.dup() as dup:
            half = ctx.split(ctx.rank % 2, -ctx.rank)
            assert half is not None
            family = [ctx, dup, half, other]
            started = [begin(one, salt, MIDDLE + salt) for salt, one in enumerate(family)]
            # A call moves what is under way on its own connections, not on the other Context's.
            for several in (started[0] + started[1] + started[2], started[3]):
                random.Random(ctx.rank).shuffle(several)
                for request, check in several:
                    check(request.wait())
            for one in family:
                assert nothing_waits(one)
                check_collectives(one, BARE)
            half.close()

    run_ranks(3, body)
    assert reads.nbytes


def test_a_failure_of_one_rank_reaches_all_that_read(reads: Reads) -> None:
    def body(ctx: Context) -> None:
        for number in range(100):
            if ctx.rank == 2 and number == 5:
                raise ValueError("no data")
            ctx.allreduce(values(ctx.rank, number, 2 * MIDDLE))

    with pytest.raises(RankError, match=r"^rank 2 of 4 failed: ValueError: no data$"):
        run_ranks(4, body)


@pytest.mark.parametrize("same", [False, True])
def test_however_much_waits_to_be_read(same: bool) -> None:
    """What was announced waits behind what is read of the same sender and Context, and behind nothing else."""

    class Peer:
        readable = True

    def prepare(count: int) -> Callable[[], object]:
        link: Any = Peer()
        busy, other = Channel(0, False), Channel(2, False)
        asked = []
        reading = Reading(lambda channel, wanted: asked.append(wanted), lambda link, reason: None)
        receives = [Receive(busy, 1, tag, None, 0, bytes(32)) for tag in range(count)]
        for receive in receives:
            reading.add(link, busy, receive, Offer(1, 0, 0, bytes(32)))

        def come() -> None:
            for receive in receives:
                reading.add(link, busy if same else other, receive, None)
            assert asked == ([] if same else receives)

        return come

    assert_linear(prepare)
