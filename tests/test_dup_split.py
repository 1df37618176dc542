"""dup and split: Contexts that share connections, kept apart in what they say and in how they end."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from traffic import KINDS, assert_same, begin, nothing_waits, values

from gloompi import (
    ANY_SOURCE,
    ANY_TAG,
    Context,
    ContextClosedError,
    Device,
    GloompiError,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    Status,
    wait_any,
)
from gloompi.engine import polling
from gloompi.engine.conversation import descendant
from gloompi.testing import RankError, run_ranks

LARGE = 100_003
EAGER = 8_000  # doubles that are sent without asking
WAIT = 30.0

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
pytestmark = pytest.mark.usefixtures("nothing_leaks")


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


def state(ctx: Context) -> tuple[int, int]:
    """Channels and conversations that the engine of a Context knows."""
    return len(ctx._engine.messages._channels), len(ctx._engine._conversations)


def settle(ctx: Context) -> None:
    """Return when what every other rank has said before it called this has been taken."""
    ctx.alltoall(np.zeros(ctx.size), algorithm="pairwise")


def wait_until_busy(ctx: Context) -> None:
    """Return when another thread is in an operation on this Context's connections."""
    while not ctx._engine.turn.occupied:
        os.sched_yield()


def child_of(ctx: Context, color: int | None, key: int = 0) -> Context:
    child = ctx.split(color, key)
    assert child is not None
    return child


# -- numbers ------------------------------------------------------------------------------------------------------------


def test_numbers_of_what_is_made_differently_differ() -> None:
    origins: list[tuple[int | str | tuple[int, ...], ...]] = [(kind, n) for kind in ("dup", "group") for n in range(99)]
    origins += [("split", n, color) for n in range(20) for color in range(-20, 20)]
    origins += [("group", members, tag, n) for members in ((0, 1), (1, 0), (0, 1, 2)) for tag in range(50) for n in (1, 2)]
    origins += [("group", (0, 1), 2052441290, 1), ("group", (0, 1), 1536558932, 1), ("group", (0,), 11)]
    found = {descendant(key, parent, *origin) for key in (b"", b"k" * 32) for parent in (0, 2**63) for origin in origins}
    assert len(found) == 4 * len(set(origins))
    assert all(number % 2 == 0 and 0 < number < 2**64 for number in found)
    assert descendant(b"key", 6, "dup", 7) == descendant(b"key", 6, "dup", 7)


def test_numbers_are_those_of_one_session() -> None:
    """What a program chooses, tags and colors, cannot bring two of them together: that takes the key."""

    def body(ctx: Context) -> int:
        with ctx.dup() as child:
            return child._conversation.number

    first, second = run_ranks(2, body), run_ranks(2, body)
    assert first[0] == first[1] != second[0] == second[1]


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed here"])
def test_two_contexts_of_one_number_are_an_error(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """Also on a rank that has only one of them, which would wait for the others."""
    monkeypatch.setattr("gloompi.engine.connections.descendant", lambda *origin: 42 << 32)

    def overlap(ctx: Context) -> None:
        low = ctx.split(0 if ctx.rank < 2 else None)
        if low is not None and closed and ctx.rank == 1:  # it is not over as long as 0 has not closed it
            low.close()
        high = ctx.split(0 if ctx.rank > 0 else None)
        (high or ctx).barrier()

    def body(ctx: Context) -> str:
        with pytest.raises(GloompiError) as caught:
            overlap(ctx)
        assert ctx.closed
        return str(caught.value)

    texts = run_ranks(3, body)
    assert texts[1].startswith("the new Context of 2 ranks has the number of another one, 0000002a00000000, so that each ")
    assert {text.partition(" (reported by rank 1")[0] for text in texts} == {texts[1]}


# -- who belongs to it --------------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_dup_has_the_same_ranks(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        with ctx.dup() as child, child.dup() as grandchild:
            for each in (child, grandchild):
                assert type(each) is Context
                assert (each.rank, each.size, each.timeout, each.peers) == (ctx.rank, n, ctx.timeout, ctx.peers)
                assert repr(each) == f"<gloompi.Context rank {ctx.rank} of {n}>"
                assert each.allgather(np.array(ctx.rank)).tolist() == list(range(n))
        assert child.closed
        assert grandchild.closed
        assert repr(child) == f"<gloompi.Context rank {ctx.rank} of {n} closed>"
        assert not ctx.closed

    run_ranks(n, body, device=Device(transport=transport))


COLORS: list[tuple[str, Callable[[int], int | None]]] = [
    ("one", lambda rank: 0),
    ("parity", lambda rank: rank % 2),
    ("each", lambda rank: -rank),
    ("extreme", lambda rank: -(2**63) if rank % 2 else 2**63 - 1),
    ("without the first", lambda rank: None if rank == 0 else 7),
    ("without the last two", lambda rank: (rank % 2) - 1 if rank < 2 else None),
    ("none", lambda rank: None),
]
KEYS: list[Callable[[int], int]] = [
    lambda rank: 0,
    lambda rank: -rank,
    lambda rank: rank * 3 % 5 - 2,
    lambda rank: rank // 2,
    lambda rank: 2**63 - 1 if rank % 3 == 0 else -(2**63) + rank,
]


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_split_groups_by_color_and_orders_by_key(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for name, color in COLORS:
            for key in KEYS:
                child = ctx.split(color(ctx.rank), key(ctx.rank))
                if color(ctx.rank) is None:
                    assert child is None, name
                    continue
                members = [rank for rank in range(n) if color(rank) == color(ctx.rank)]
                members.sort(key=lambda rank: (key(rank), rank))
                assert child is not None, name
                with child:
                    assert (child.rank, child.size) == (members.index(ctx.rank), len(members)), name
                    peers = tuple(replace(ctx.peers[rank], rank=number) for number, rank in enumerate(members))
                    assert child.peers == peers, name
                    assert child.timeout == ctx.timeout
                    assert child.allgather(np.array(ctx.rank)).tolist() == members, name

    run_ranks(n, body, device=Device(transport=transport))


def test_keys_default_to_the_old_order_and_colors_may_be_numpy_integers() -> None:
    def body(ctx: Context) -> None:
        with child_of(ctx, np.int32(ctx.rank // 2)) as child:  # type: ignore[arg-type]
            assert child.rank == ctx.rank % 2

    run_ranks(4, body)


@pytest.mark.parametrize("n", [4, 5])
def test_ranks_are_those_of_the_child_everywhere(n: int) -> None:
    """Reversed, so that no rank but the middle one is what it was."""

    def body(ctx: Context) -> None:
        with child_of(ctx, 0, -ctx.rank) as child:
            me = child.rank
            assert me == n - 1 - ctx.rank
            for root in range(n):
                assert child.broadcast(np.array([float(ctx.rank)]), root=root).tolist() == [n - 1 - root]
                assert (child.reduce(np.ones(1), root=root) is None) == (me != root)
                assert (child.gather_object(me, root=root) or list(range(n))) == list(range(n))
                assert child.scatter_object([f"for {rank}" for rank in range(n)], root=root) == f"for {me}"
            # Text does not commute: the order is that of the new ranks.
            assert child.allreduce_object(str(me)) == "".join(map(str, range(n)))
            assert child.scan_object(str(ctx.rank)) == "".join(str(n - 1 - rank) for rank in range(me + 1))
            for shift in range(n):
                request = child.isend(np.array([me]), (me + shift) % n, tag=me)
                out = np.empty(1, int)
                source, tag, nbytes = child.recv(out, ANY_SOURCE, tag=ANY_TAG)
                assert (source, tag, nbytes) == (out[0], out[0], 8)
                request.wait()
                child.barrier()
            if me == 0:
                child.send(np.arange(3), n - 1, tag=5)
            elif me == n - 1:
                wanted = Status(0, 5, 24)
                assert child.probe(0, tag=5) == child.probe() == child.iprobe(tag=5) == wanted
                message = child.mprobe()
                assert (message.source, message.tag, message.nbytes) == wanted
                assert message.recv(np.empty(3, int)) == wanted
            for call in (
                lambda: child.send(np.ones(1), n),
                lambda: child.recv(np.ones(1), -2),
                lambda: child.probe(n),
                lambda: child.broadcast(np.ones(1), root=n),
            ):
                with pytest.raises(ValueError, match=rf"must be in range\({n}\), not "):
                    call()

    run_ranks(n, body)


def test_ranks_of_a_smaller_child_are_checked_against_its_size() -> None:
    def body(ctx: Context) -> None:
        with child_of(ctx, ctx.rank // 2) as child:
            with pytest.raises(ValueError, match=r"^dest must be in range\(2\), not 2$"):
                child.send(np.ones(1), 2)
            with pytest.raises(ValueError, match=r"^root must be in range\(2\), not 3$"):
                child.gather(np.ones(1), root=3)
            assert child.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(4, body)


@pytest.mark.parametrize(
    ("color", "key", "error", "text"),
    [
        (2**63, 0, ValueError, rf"^color must fit 64 bits, not {2**63}$"),
        (0, -(2**63) - 1, ValueError, rf"^key must fit 64 bits, not {-(2**63) - 1}$"),
        (1.5, 0, TypeError, "integer"),
        ("red", 0, TypeError, "integer"),
        (0, None, TypeError, "integer"),
    ],
)
def test_misuse_of_split_is_refused_before_anything_is_sent(color: Any, key: Any, error: type[Exception], text: str) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(error, match=text):
                ctx.split(color, key)
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body)


# -- apart from each other ----------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_everything_at_once_on_a_whole_family(n: int, transport: str) -> None:
    """The same operations with the same tags, begun in different orders and waited for in yet others."""

    def body(ctx: Context) -> None:
        dup = ctx.dup()
        half = child_of(ctx, ctx.rank % 2, -ctx.rank)
        quarter = child_of(half, half.rank % 2)
        family = [ctx, dup, half, quarter, half.dup(), quarter.dup(), child_of(dup, 0, -ctx.rank)]
        before = state(ctx)
        own = random.Random(ctx.rank)  # the Contexts' order is each rank's own: nothing may depend on it
        started = []
        for salt, count in enumerate((3, 1000, 40_000)):
            for number, each in own.sample(list(enumerate(family)), len(family)):
                started += begin(each, 10 * number + salt, count)
        assert len(started) == 3 * KINDS * len(family)
        own.shuffle(started)
        for request, check in started:
            check(request.wait())
        assert state(ctx) == before
        for each in family:
            assert nothing_waits(each)
        for each in own.sample(family[1:], len(family) - 1):
            each.close()
        settle(ctx)
        assert state(ctx) == (2, 1)

    run_ranks(n, body, device=Device(transport=transport))


@transports
def test_wildcards_never_cross(transport: str) -> None:
    def body(ctx: Context) -> None:
        family = [ctx, ctx.dup(), child_of(ctx, 0), child_of(ctx, 0, -ctx.rank)]
        other = [1 - ctx.rank] * 3 + [1 - family[3].rank]
        outs = np.full((4, 2, LARGE), -1.0)
        if ctx.rank == 0:
            # Posted first, and in the order in which the messages do not come.
            requests = [
                each.irecv(outs[number, 0], ANY_SOURCE, tag=ANY_TAG) for number, each in reversed(list(enumerate(family)))
            ]
            ctx.barrier()
            for request, number in zip(requests, (3, 2, 1, 0), strict=True):
                assert request.wait() == Status(other[number], 4, 8 * (number + 1))
            ctx.barrier()  # now the messages are here first, large ones announced
            for number, each in reversed(list(enumerate(family))):
                assert each.probe() == Status(other[number], 4, 8 * (LARGE - number))
                assert each.recv(outs[number, 1], ANY_SOURCE, tag=ANY_TAG) == Status(other[number], 4, 8 * (LARGE - number))
                assert nothing_waits(each)
            for number in range(4):
                assert_same(outs[number, 0, : number + 1], values(1, number, number + 1))
                assert_same(outs[number, 1, : LARGE - number], values(1, number, LARGE - number))
        else:
            ctx.barrier()
            for number, each in enumerate(family):
                each.send(values(1, number, number + 1), other[number], tag=4)
            requests = [
                each.isend(values(1, number, LARGE - number), other[number], tag=4) for number, each in enumerate(family)
            ]
            ctx.barrier()
            for request in requests:
                request.wait()
        for each in family[1:]:
            each.close()

    run_ranks(2, body, device=Device(transport=transport))


def test_disjoint_groups_work_at_their_own_pace() -> None:
    """One group does a thousand operations while the other does none."""
    finished = threading.Event()

    def body(ctx: Context) -> None:
        with child_of(ctx, ctx.rank // 2) as child:
            if ctx.rank < 2:
                for number in range(1000):
                    assert child.allreduce(np.array([ctx.rank + number])).tolist() == [1 + 2 * number]
                finished.set()
            else:
                assert finished.wait(WAIT)
                assert child.allreduce(np.array([ctx.rank])).tolist() == [5]
            ctx.barrier()

    run_ranks(4, body)


# -- closing ------------------------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_closing_in_any_order_on_different_ranks(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        family = [ctx, ctx.dup(), child_of(ctx, 0, -ctx.rank), child_of(ctx, ctx.rank % 2), ctx.dup()]
        family.append(family[4].dup())
        for each in family:
            each.barrier()
        for closing in random.Random(ctx.rank).sample(family, len(family)):
            assert not closing.closed
            closing.close()
            assert closing.closed
            closing.close()

    run_ranks(n, body, device=Device(transport=transport))


@transports
def test_children_live_on_when_the_parent_is_closed(transport: str) -> None:
    level = threading.Barrier(4)

    def body(ctx: Context) -> None:
        child, pair = ctx.dup(), child_of(ctx, ctx.rank // 2)
        counts = []
        for _ in range(2):
            level.wait(WAIT)
            if ctx.rank == 0:  # counting opens a file
                counts.append(files())
            level.wait(WAIT)
            ctx.close()
        assert ctx.rank or counts[0] == counts[1]
        assert (ctx.closed, child.closed, pair.closed) == (True, False, False)
        with pytest.raises(ContextClosedError, match=r"^this Context is closed$"):
            ctx.barrier()
        for each in (child, pair):
            for request, check in begin(each, 3, LARGE):
                check(request.wait())
        with child.dup() as grandchild, child_of(pair, 0, -pair.rank) as turned:
            assert grandchild.allreduce(np.ones(1)).tolist() == [4]
            assert turned.allgather_object(ctx.rank) == [ctx.rank | 1, ctx.rank & ~1]
        child.close()
        assert pair.allreduce(np.ones(1)).tolist() == [2]
        pair.close()

    run_ranks(4, body, device=Device(transport=transport))


def test_the_connections_are_closed_with_the_last_context() -> None:
    stop = threading.Barrier(2)

    def body(ctx: Context) -> None:
        child, engine = ctx.dup(), ctx._engine
        ctx.close()
        assert not engine.closed
        child.barrier()
        child.close()
        assert engine.closed
        stop.wait(WAIT)
        for each in (ctx, child):
            with pytest.raises(ContextClosedError, match=r"^this Context is closed$"):
                each.barrier()

    run_ranks(2, body)


def test_a_closed_child_refuses_everything() -> None:
    def body(ctx: Context) -> None:
        child = ctx.dup()
        x, done = np.ones(1), child.ibarrier()
        done.wait()
        held = child.isend(x, ctx.rank, tag=1)
        message = child.mprobe(ctx.rank)
        waiting = [child.irecv(x, ctx.rank, tag=2), child.irecv_object(ANY_SOURCE, tag=3)]
        ctx.barrier()
        child.close()
        child.close()
        for call in (
            child.barrier,
            child.ibarrier,
            lambda: child.allreduce(x),
            lambda: child.iallreduce(x),
            lambda: child.send(x, ctx.rank),
            lambda: child.ssend(x, ctx.rank),
            lambda: child.isend(x, ctx.rank),
            lambda: child.recv(x, ctx.rank),
            lambda: child.irecv(x, ctx.rank),
            lambda: child.sendrecv(x, 0, np.ones(1), 0),
            lambda: child.send_object(1, 0),
            lambda: child.recv_object(0),
            lambda: child.allgather_object(1),
            child.probe,
            child.iprobe,
            child.mprobe,
            child.improbe,
            lambda: message.recv(x),
            child.dup,
            lambda: child.split(0),
        ):
            with pytest.raises(ContextClosedError) as caught:
                call()
            assert str(caught.value) == "this Context is closed"

        async def await_one() -> None:
            await waiting[0]

        for call in (*(request.wait for request in waiting), lambda: wait_any(waiting), lambda: asyncio.run(await_one())):
            with pytest.raises(ContextClosedError) as caught:
                call()
            assert re.fullmatch(
                r"recv(_object)? was under way when this Context was closed: wait for requests before close\(\)",
                str(caught.value),
            )
        assert held.done
        assert done.wait() is None
        assert all(request.done and request.test() and not request.cancel() for request in waiting)
        with pytest.raises(ValueError, match=r"^root must be"):  # misuse is still misuse
            child.broadcast(x, root=2)
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body)


@transports
def test_closing_a_child_delivers_what_was_sent(transport: str) -> None:
    left = threading.Event()

    def body(ctx: Context) -> None:
        child = ctx.dup()
        if ctx.rank == 0:
            for tag, count in enumerate((1, 0, EAGER, LARGE, 2_000_003)):
                child.isend(values(0, tag, count), 1, tag=tag)  # not waited for
            child.close()
            left.set()
        else:
            for tag, count in reversed(list(enumerate((1, 0, EAGER, LARGE, 2_000_003)))):
                out = np.empty(count)
                assert child.recv(out, 0, tag=tag) == Status(0, tag, 8 * count)
                assert_same(out, values(0, tag, count))
            assert left.wait(WAIT)
            child.close()
        settle(ctx)
        assert state(ctx) == (2, 1)

    run_ranks(2, body, device=Device(transport=transport))


def test_closing_a_child_waits_for_a_message_that_a_matched_probe_holds() -> None:
    probed = threading.Event()

    def body(ctx: Context) -> None:
        child = ctx.dup()
        if ctx.rank == 0:
            child.isend(values(0, 1, LARGE), 1)
            assert probed.wait(WAIT)
        else:
            message = child.mprobe(0)
            probed.set()
            out = np.empty(LARGE)
            message.recv(out)
            assert_same(out, values(0, 1, LARGE))
        child.close()
        ctx.barrier()

    run_ranks(2, body)


def test_closing_a_child_waits_no_longer_than_its_timeout() -> None:
    over = threading.Event()

    def body(ctx: Context) -> None:
        child = ctx.dup()
        if ctx.rank == 0:
            child.isend(np.ones(LARGE), 1)
            with pytest.raises(OperationTimeoutError) as caught:
                child.close(timeout=0.2)
            assert str(caught.value) == (
                f"close timed out after 0.2 s: messages to {ctx.peers[1]} were never received there"
            )
            over.set()
        else:
            assert over.wait(WAIT)
        with pytest.raises(OperationTimeoutError):  # the first error breaks all
            ctx.barrier()
        assert (ctx.closed, child.closed) == (True, True)

    run_ranks(2, body)


@transports
def test_messages_never_received_give_their_credit_back(transport: str) -> None:
    """Far more bytes than a rank may send without asking; a synchronous send sees that they have come."""
    rounds, each, nbytes = 40, 50, 2000

    def body(ctx: Context) -> None:
        for _ in range(rounds):
            child = ctx.dup()
            if ctx.rank == 0:
                for tag in range(each):
                    assert child.isend(np.zeros(nbytes, "u1"), 1, tag=tag).done
                child.ssend(np.empty(0), 1, tag=each)
            else:
                child.recv(np.empty(0), 0, tag=each)
            child.close()
        assert rounds * each * nbytes > 3 * (1 << 20)
        # A short message is still sent at once, without a receive.
        if ctx.rank == 0:
            ctx.barrier()
            assert ctx.isend(np.zeros(nbytes, "u1"), 1, tag=1).done
            ctx.barrier()
        else:
            ctx.barrier()
            ctx.barrier()
            ctx.recv(np.empty(nbytes, "u1"), 0, tag=1)
        assert state(ctx) == (2, 1)

    run_ranks(2, body, device=Device(transport=transport))


@transports
def test_messages_that_come_after_the_receiver_has_closed_give_their_credit_back(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender cannot know before it has looked at what has come."""
    monkeypatch.setattr(polling, "_ALONE_SECONDS", inf)
    closed = threading.Barrier(2)

    def body(ctx: Context) -> None:
        for _ in range(40):
            child = ctx.dup()
            closed.wait(WAIT)
            if ctx.rank == 1:
                child.close()
            closed.wait(WAIT)
            if ctx.rank == 0:
                for _ in range(2):
                    assert child.isend(np.zeros(60_000, "u1"), 1).done
                child.close()
            settle(ctx)
        assert state(ctx) == (2, 1)

    run_ranks(2, body, device=Device(transport=transport))


def test_a_message_that_a_matched_probe_holds_gives_its_credit_back_when_its_context_is_closed() -> None:
    def body(ctx: Context) -> None:
        for _ in range(40):
            child = ctx.dup()
            if ctx.rank == 0:
                assert child.isend(np.zeros(60_000, "u1"), 1).done
                ctx.barrier()
            else:
                ctx.barrier()
                assert child.mprobe(0).nbytes == 60_000
            child.close()
            ctx.barrier()

    run_ranks(2, body)


def test_large_messages_to_oneself_do_not_keep_a_child_open() -> None:
    def body(ctx: Context) -> None:
        with ctx.dup() as child:
            waiting = child.isend(np.ones(LARGE), 0)
            assert not waiting.done
        assert state(ctx) == (2, 1)

    run_ranks(1, body)


# -- peers that still need a closed child ---------------------------------------------------------------------------------

NEEDS: list[tuple[str, Callable[[Context], Any]]] = [
    ("recv", lambda child: child.recv(np.empty(1), 1)),
    ("recv", lambda child: child.recv(np.empty(1), ANY_SOURCE)),
    ("recv_object", lambda child: child.recv_object(1)),
    ("send", lambda child: child.send(np.ones(LARGE), 1)),
    ("ssend", lambda child: child.ssend(np.ones(1), 1)),
    ("sendrecv", lambda child: child.sendrecv(np.ones(LARGE), 1, np.empty(1), 1)),
    ("probe", lambda child: child.probe(1)),
    ("probe", lambda child: child.probe(ANY_SOURCE)),
    ("mprobe", lambda child: child.mprobe(1, tag=3)),
    ("barrier", lambda child: child.barrier()),
    ("allreduce", lambda child: child.allreduce(np.ones(LARGE))),
    ("gather", lambda child: child.gather(np.ones(1))),
    ("split", lambda child: child.split(0)),
]


@pytest.mark.parametrize("posted", [True, False], ids=["while it waits", "before it begins"])
@pytest.mark.parametrize(("name", "needs"), NEEDS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(NEEDS)])
def test_needing_a_peer_that_has_closed_its_child_is_an_error(
    name: str, needs: Callable[[Context], Any], posted: bool
) -> None:
    """Rank 2 has no part in the child, and keeps all connections open."""
    start, left, over = threading.Barrier(3), threading.Event(), threading.Event()
    contexts: dict[int, Context] = {}

    def body(ctx: Context) -> None:
        child = ctx.split(0 if ctx.rank < 2 else None)
        contexts[ctx.rank] = ctx
        start.wait(WAIT)
        if ctx.rank == 0:
            assert child is not None
            if not posted:
                assert left.wait(WAIT)
                ctx.iprobe()  # takes rank 1's word
            try:
                with pytest.raises(PeerLostError) as caught:
                    needs(child)
            finally:
                over.set()
            assert caught.value.rank == 1
            assert (caught.value.operation or "").partition(" ")[0] == name
            assert str(caught.value) == (
                f"lost {str(ctx.peers[1]).replace(')', '')}) in {caught.value.operation}: "
                "it closed its Context while this rank still needed it"
            )
            assert (ctx.closed, child.closed) == (True, True)  # an error in one breaks all
            with pytest.raises(PeerLostError):
                ctx.barrier()
        elif ctx.rank == 1:
            assert child is not None
            if posted:
                wait_until_busy(contexts[0])
            child.close()
            left.set()
            with pytest.raises(PeerLostError) as caught:
                ctx.recv(np.empty(1), 0)  # from the one that breaks
            assert caught.value.reported_by == 0
        else:
            assert over.wait(WAIT)
            with pytest.raises(PeerLostError) as caught:
                ctx.barrier()
            assert (caught.value.rank, caught.value.reported_by) == (1, 0)

    run_ranks(3, body, timeout=5)


def test_the_error_names_a_rank_that_had_part_in_the_child() -> None:
    """A message from any rank of a child of ranks 0 and 2 cannot come any more; rank 1 has nothing to do with it."""

    def body(ctx: Context) -> None:
        child = ctx.split(None if ctx.rank == 1 else 0)
        if ctx.rank == 2:
            assert child is not None
            with pytest.raises(PeerLostError, match="closed its Context") as caught:
                child.recv(np.empty(1), ANY_SOURCE)
            assert caught.value.rank == 0
        else:
            if child is not None:
                child.close()
            with pytest.raises(PeerLostError) as caught:
                ctx.recv(np.empty(1), 2)
            assert caught.value.reported_by == 2

    run_ranks(3, body, timeout=10)


def test_a_rank_that_leaves_altogether_is_not_missed_by_a_child_without_it() -> None:
    left = threading.Event()

    def body(ctx: Context) -> None:
        child = ctx.split(None if ctx.rank == 2 else 0)
        ctx.close()  # on rank 2 the last one
        if child is None:
            left.set()
            return
        with child:
            assert left.wait(WAIT)
            if child.rank == 0:
                # Waiting for a while makes a rank look whether anybody is left.
                with pytest.raises(OperationTimeoutError):
                    child.recv(np.empty(1), ANY_SOURCE, timeout=0.3)
            else:
                with pytest.raises(OperationTimeoutError):
                    child.probe()

    run_ranks(3, body, timeout=10)


def test_a_child_works_on_when_a_rank_without_part_in_it_is_gone() -> None:
    left = threading.Event()

    def body(ctx: Context) -> None:
        child = ctx.split(None if ctx.rank == 1 else 0, -ctx.rank)
        ctx.close()
        if child is None:
            left.set()
            return
        with child:
            assert left.wait(WAIT)
            for salt in range(3):
                for request, check in begin(child, salt, 1000):
                    check(request.wait())

    run_ranks(3, body, timeout=10)


def test_closing_a_child_with_collectives_under_way_never_looks_like_corruption() -> None:
    """It is a mistake, and may lose a peer; but the text must not blame memory or versions."""
    stop = threading.Barrier(2)
    for count in (10, 1000, LARGE, 10 * LARGE):
        errors: list[GloompiError] = []

        def body(ctx: Context, count: int = count, errors: list[GloompiError] = errors) -> None:
            child = ctx.dup()
            ctx.barrier()
            child.iallreduce(np.ones(count))
            stop.wait(WAIT)
            try:
                child.close()
            except GloompiError as exc:
                errors.append(exc)
            stop.wait(WAIT)
            try:
                ctx.barrier()
            except GloompiError as exc:
                errors.append(exc)
            else:
                assert state(ctx) == (2, 1)

        run_ranks(2, body, timeout=10)
        for error in errors:
            assert isinstance(error, PeerLostError)
            assert "it closed its Context while this rank still needed it" in str(error)


# -- errors reach all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["parent", "child", "split"])
def test_an_error_in_one_breaks_all(who: str) -> None:
    start = threading.Barrier(4)

    def body(ctx: Context) -> None:
        family = {"parent": ctx, "child": ctx.dup(), "split": child_of(ctx, ctx.rank // 2)}
        for each in family.values():
            each.barrier()
        start.wait(WAIT)
        if who != "split" or ctx.rank < 2:
            with pytest.raises(MismatchError) as caught:
                family[who].allreduce(np.ones(3 + ctx.rank))
        else:
            with pytest.raises(MismatchError) as caught:
                ctx.recv(np.empty(1), 0)
        text = str(caught.value)
        for each in family.values():
            assert each.closed
            for call in (each.barrier, lambda each=each: each.isend(np.ones(1), 0), each.dup, each.iprobe):
                with pytest.raises(MismatchError) as again:
                    call()
                assert str(again.value) == text
            each.close()  # safe

    run_ranks(4, body, timeout=20)


@pytest.mark.parametrize("who", ["parent", "child"])
def test_abort_breaks_all(who: str) -> None:
    start = threading.Barrier(3)

    def body(ctx: Context) -> None:
        family = {"parent": ctx, "child": ctx.dup(), "split": child_of(ctx, ctx.rank // 2)}
        start.wait(WAIT)
        if ctx.rank == 0:
            family[who].abort("enough")
            for each in family.values():
                with pytest.raises(ContextClosedError, match=r"(?m)^this Context was aborted: enough$"):
                    each.barrier()
        else:
            with pytest.raises(PeerLostError) as caught:
                family["split" if ctx.rank == 1 else "parent"].barrier()
            assert caught.value.rank == 0
            assert str(caught.value).endswith(": it aborted: enough (reported by rank 0)")
        assert all(each.closed for each in family.values())

    run_ranks(3, body, timeout=20)


def test_leaving_a_with_block_by_an_exception_tells_the_peers() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(KeyError), ctx.dup():
                raise KeyError("no such table")
        else:
            child = ctx.dup()
            with pytest.raises(PeerLostError, match=r"it aborted: KeyError: 'no such table'"):
                child.barrier()
        assert ctx.closed

    run_ranks(2, body)


@pytest.mark.parametrize("code", [None, 0, False])
def test_leaving_a_with_block_by_a_clean_exit_closes(code: object) -> None:
    def body(ctx: Context) -> None:
        child = ctx.dup()
        with pytest.raises(SystemExit), child:
            raise SystemExit(code)
        assert child.closed
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body)


@pytest.mark.parametrize("code", [1, True, "no such table", "", 0.0])
def test_leaving_a_with_block_by_another_exit_tells_the_peers(code: object) -> None:
    text = "it aborted: SystemExit" + (f": {code}" if str(code) else "")

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(SystemExit), ctx.dup():
                raise SystemExit(code)
        else:
            child = ctx.dup()
            with pytest.raises(PeerLostError, match=rf"{re.escape(text)} \(reported"):
                child.barrier()
        assert ctx.closed

    run_ranks(2, body)


def test_aborting_a_closed_child_leaves_the_others_alone() -> None:
    def close_and_raise(child: Context) -> None:
        with child:
            child.close()
            raise KeyError

    def body(ctx: Context) -> None:
        child = ctx.dup()
        with pytest.raises(KeyError):
            close_and_raise(child)
        child.abort("no more than a formality")
        assert not ctx.closed
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body)


def test_with_blocks_in_each_other() -> None:
    def body(ctx: Context) -> None:
        with ctx, ctx.dup() as child:
            with child_of(child, ctx.rank % 2) as half:
                assert half.allreduce(np.ones(1)).tolist() == [2 - ctx.rank % 2]
            assert (half.closed, child.closed) == (True, False)
            assert child.allreduce(np.ones(1)).tolist() == [3]
        assert ctx.closed

    run_ranks(3, body)


def test_a_dropped_child_warns_and_the_parent_goes_on() -> None:
    def body(ctx: Context) -> None:
        child: Context | None = ctx.dup()
        ctx.barrier()
        with warnings.catch_warnings(record=True) as caught:
            if ctx.rank == 0:
                warnings.simplefilter("always")
                del child
                gc.collect()
                assert [(each.category, str(each.message)) for each in caught] == [
                    (ResourceWarning, "<gloompi.Context rank 0 of 2> was not closed")
                ]
        if ctx.rank:
            assert child is not None
            child.close()
        ctx.barrier()
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body)


class Owner:
    """Closes its Context when it is collected; in a cycle, so that the collector does it."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.itself = ctx, self

    def __del__(self) -> None:
        self.ctx.close()


def test_a_child_that_is_closed_inside_a_call_ends_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the garbage collector runs a __del__: there it may not wait, nor can it say anything to anybody."""
    unraised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraised.append(repr(args.exc_value)))

    def body(ctx: Context) -> None:
        child, busy = ctx.dup(), ctx.dup()
        if ctx.rank == 0:
            Owner(child)
        received = np.zeros(1)
        request = busy.irecv(received, 1 - ctx.rank)
        inside: list[bool] = []

        def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if ctx.rank == 0 and ctx._engine.turn.mine() and not inside:
                gc.collect()
                busy.close()
                inside.append(busy.closed)
            return np.asarray(a + b)

        before = state(ctx)
        assert ctx.allreduce(np.full(3, ctx.rank), op=add).tolist() == [1, 1, 1]
        assert inside == [False] * (ctx.rank == 0)  # not yet: a receive is under way
        if ctx.rank == 1:
            ctx.barrier()  # rank 0 is closed by what it receives: it sends first
        busy.send(np.array([ctx.rank + 5.0]), 1 - ctx.rank)
        if ctx.rank == 0:
            ctx.barrier()
        request.wait()
        assert received == [6 - ctx.rank]
        if ctx.rank == 1:
            child.close()
            busy.close()
        settle(ctx)
        settle(ctx)
        assert busy.closed
        assert state(ctx) == (before[0] - 4, before[1] - 2)

    gc.collect()
    gc.disable()
    try:
        run_ranks(2, body)
    finally:
        gc.enable()
    assert unraised == []


def test_what_came_for_a_dropped_child_does_not_stall_the_parent() -> None:
    """catch_warnings is not for threads: the main one does the dropping."""
    children: list[Context] = []

    def body(ctx: Context) -> None:
        for _ in range(40):
            child = ctx.dup()
            if ctx.rank == 0:
                assert child.isend(np.zeros(60_000, "u1"), 1).done
                child.close()
                ctx.barrier()
            else:
                ctx.barrier()
                child._engine.drop(child._conversation)
                children.append(child)
            settle(ctx)
        assert state(ctx) == (2, 1)

    try:
        run_ranks(2, body, timeout=10)
    finally:
        for child in children:
            child.close()


# -- ranks that disagree ------------------------------------------------------------------------------------------------


def _disagree(one: Callable[[Context], Any], other: Callable[[Context], Any], n: int = 2) -> dict[int, str]:
    """Rank 0 does `one`, the others `other`; all get a MismatchError, whose texts are returned."""
    texts: dict[int, str] = {}

    def do(ctx: Context) -> None:
        made = (one if ctx.rank == 0 else other)(ctx)  # kept: a child that is dropped warns
        ctx.recv(np.empty(1), (ctx.rank + 1) % n, tag=9)  # dup alone sends nothing
        assert made

    def body(ctx: Context) -> None:
        with pytest.raises(MismatchError) as caught:
            do(ctx)
        texts[ctx.rank] = str(caught.value)

    run_ranks(n, body, timeout=10)
    return texts


@pytest.mark.parametrize("n", [2, 3])
def test_dup_and_barrier_are_a_mismatch(n: int) -> None:
    texts = _disagree(Context.dup, Context.barrier, n)
    assert len(texts) == n
    for text in texts.values():
        assert "rank 0 called dup()" in text
        assert " called barrier(); every rank must make the same calls in the same order" in text


def test_dup_and_barrier_text() -> None:
    texts = _disagree(Context.dup, Context.barrier)
    own = next(text for text in texts.values() if "reported" not in text)
    assert own == (
        "ranks disagree on dup #1: rank 0 called dup(), rank 1 called barrier(); every rank must make the same calls in the "
        "same order"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda ctx: ctx.dup(), lambda ctx: ctx.split(0)),
        (lambda ctx: ctx.split(0), lambda ctx: ctx.barrier()),
        (lambda ctx: ctx.split(None), lambda ctx: ctx.allgather(np.ones(3, "i8"))),
        (lambda ctx: [ctx.dup(), ctx.dup(), ctx.barrier()], lambda ctx: [ctx.dup(), ctx.barrier()]),
        (lambda ctx: [ctx.split(0), ctx.split(0), ctx.barrier()], lambda ctx: [ctx.split(0), ctx.barrier()]),
        (lambda ctx: [ctx.split(0), ctx.barrier()], lambda ctx: [ctx.split(0), ctx.dup(), ctx.barrier()]),
    ],
)
def test_ranks_that_disagree_on_dup_and_split(one: Callable[[Context], Any], other: Callable[[Context], Any]) -> None:
    for first, second in ((one, other), (other, one)):
        texts = _disagree(first, second)
        assert len(texts) == 2
        assert any("dup()" in text or "split()" in text for text in texts.values())


# -- a thousand of them -------------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("kind", ["dup", "split", "split in two"])
def test_a_thousand_cycles_open_no_file_and_keep_nothing(kind: str, transport: str) -> None:
    """Counted in the middle and at the end: what a Context remembers of past calls is bounded, and full by then."""
    counts: list[tuple[int, int, int]] = []
    level = threading.Barrier(3)

    def body(ctx: Context) -> None:
        for number in range(2200):
            color = ctx.rank % 2 if kind == "split in two" else 0
            with ctx.dup() if kind == "dup" else child_of(ctx, color, -ctx.rank) as child:
                if number % 10 == 0:
                    child.isend(np.ones(1), (child.rank + 1) % child.size, tag=number)  # never received
                    assert child.allreduce(np.ones(1)).tolist() == [child.size]
            if number in (0, 1199, 2199):
                settle(ctx)
                assert state(ctx) == (2, 1)
                if level.wait(WAIT) == 0:
                    gc.collect()
                    counts.append((files(), len(gc.get_objects()), sys.getallocatedblocks()))
                level.wait(WAIT)

    run_ranks(3, body, device=Device(transport=transport))
    (first, _, _), (middle, objects, blocks), (last, objects_later, blocks_later) = counts
    assert first == middle == last
    assert objects_later - objects < 100
    assert blocks_later - blocks < 1000  # a thousand times one Channel would be ten thousand


@transports
def test_frames_of_a_slower_peer_for_a_closed_child(transport: str) -> None:
    """Rank 0 is done with its children, and rank 1 gets all that was for them, before it has begun one."""
    rounds, count, ahead = 50, 500, threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for salt in range(rounds):
                with ctx.dup() as child:
                    child.send(values(0, salt, count), 1, tag=3)
                    child.isend(values(0, salt, count), 1, tag=4)  # rank 1 does not receive it
                    child.send_object({"salt": salt}, 1)
                    child.broadcast(values(0, salt, count))
                    assert child.reduce(values(0, salt, count), root=1) is None
                    child.gather_object(salt, root=1)
            ahead.set()
        else:
            assert ahead.wait(WAIT)
            for salt in range(rounds):
                with ctx.dup() as child:
                    out = np.empty(count)
                    assert_same(child.broadcast(out), values(0, salt, count))
                    assert child.probe(tag=0) == child.iprobe(0, tag=0)
                    assert child.recv_object(0) == {"salt": salt}
                    assert child.recv(out, ANY_SOURCE, tag=ANY_TAG) == Status(0, 3, 8 * count)
                    assert_same(child.reduce(np.ones(count), root=1), values(0, salt, count) + 1)
                    assert child.gather_object(-salt, root=1) == [salt, -salt]
        settle(ctx)
        assert state(ctx) == (2, 1)

    run_ranks(2, body, device=Device(transport=transport))


def test_a_child_that_a_peer_has_left_before_it_began_here() -> None:
    """The word of leaving comes for a Context that this rank does not have yet."""
    left = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for _ in range(20):
                ctx.dup().close()
            left.set()
        else:
            assert left.wait(WAIT)
            ctx.iprobe()  # takes what has come
            for _ in range(20):
                ctx.dup().close()
        settle(ctx)
        assert state(ctx) == (2, 1)

    run_ranks(2, body)


def test_an_unclosed_child_is_closed_by_nobody() -> None:
    """The parent's close is not the child's: the peer still waits for it, and gets its word."""

    def body(ctx: Context) -> None:
        child = ctx.dup()
        if ctx.rank == 0:
            ctx.close()
            child.send(np.ones(1), 1)
            child.close()
        else:
            child.recv(np.empty(1), 0)
            with pytest.raises(PeerLostError, match="closed its Context"):
                child.recv(np.empty(1), 0)

    run_ranks(2, body)


def test_a_failure_in_a_child_is_named_as_the_ranks_own() -> None:
    def body(ctx: Context) -> None:
        with child_of(ctx, ctx.rank // 2) as child:
            child.allreduce(np.ones(2 + (ctx.rank == 3)))

    with pytest.raises(RankError) as caught:
        run_ranks(4, body, timeout=10)
    assert caught.value.rank in (2, 3)
    # Ranks in texts are those of the Context that was connected first.
    assert "rank 2 called allreduce(sum, <f8, count 2, " in str(caught.value)
    assert "rank 3 called allreduce(sum, <f8, count 3, " in str(caught.value)
