"""ssend and issend: done when a receive has matched, not before; in order with other sends."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from traffic import assert_same, values

from gloompi import ANY_SOURCE, ANY_TAG, Context, Device, OperationTimeoutError, PeerLostError, Request, Status
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 3 * EAGER + 3
COUNTS = (0, 1, 1000, EAGER, EAGER + 1, LARGE)
WAIT = 30.0

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


def stays_undone(ctx: Context, *requests: Request) -> None:
    """Move all that can be moved, several times over: these requests are not done by it."""
    for _ in range(100):
        assert not any(request.test() for request in requests)
        assert ctx.iprobe(ctx.rank, tag=99) is None


@transports
@pytest.mark.parametrize("count", COUNTS)
def test_issend_is_done_when_it_is_matched(count: int, transport: str) -> None:
    asked = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            request = ctx.issend(values(0, 1, count), 1, tag=3)
            assert repr(request) == "<Request ssend, under way>"
            ctx.send(np.empty(0), 1, tag=4)
            ctx.recv(np.empty(0), 1, tag=5)  # all of it is there
            stays_undone(ctx, request)
            asked.set()
            assert request.wait() is None
        else:
            ctx.recv(np.empty(0), 0, tag=4)
            assert ctx.iprobe(0, tag=3) == Status(0, 3, 8 * count)  # a probe matches nothing
            ctx.send(np.empty(0), 0, tag=5)
            assert asked.wait(WAIT)
            out = np.full(count, -1.0)
            assert ctx.recv(out, 0, tag=3) == Status(0, 3, 8 * count)
            assert_same(out, values(0, 1, count))

    run_ranks(2, body, device=Device(transport=transport))


@transports
@pytest.mark.parametrize("posted", [True, False])
def test_ssend_returns_when_a_receive_is_posted(posted: bool, transport: str) -> None:
    """The receiver does nothing but post and move: it need not wait for the message."""
    sent = threading.Event()

    def body(ctx: Context) -> None:
        for number, count in enumerate(COUNTS):
            if ctx.rank == 0:
                if posted:
                    ctx.barrier()
                ctx.ssend(values(0, number, count), 1)
                ctx.ssend_object({"number": number}, 1, tag=1)
                sent.set()
                ctx.barrier()
            else:
                out = np.full(count, -1.0)
                if posted:
                    requests = [ctx.irecv(out, 0), ctx.irecv_object(ANY_SOURCE, tag=1)]
                    ctx.barrier()
                else:
                    while ctx.iprobe(0) is None:
                        pass
                    requests = [ctx.irecv(out, 0), ctx.irecv_object(ANY_SOURCE, tag=1)]
                while not sent.is_set():
                    requests[1].test()
                    ctx.iprobe(1)
                sent.clear()
                assert requests[0].wait() == Status(0, 0, 8 * count)
                assert requests[1].wait() == {"number": number}
                assert_same(out, values(0, number, count))
                ctx.barrier()

    run_ranks(2, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("count", COUNTS)
def test_issend_to_oneself(count: int, n: int) -> None:
    def body(ctx: Context) -> None:
        me = ctx.rank
        # Message first.
        request = ctx.issend(values(me, 1, count), me, tag=3)
        stays_undone(ctx, request)
        out = np.full(count, -1.0)
        assert ctx.recv(out, me, tag=3) == Status(me, 3, 8 * count)
        assert request.test()
        assert_same(out, values(me, 1, count))
        # Receive first: then a blocking send is no deadlock.
        out = np.full(count, -1.0)
        receive = ctx.irecv(out, ANY_SOURCE, tag=ANY_TAG)
        ctx.ssend(values(me, 2, count), me, tag=4)
        assert receive.test()
        assert receive.wait() == Status(me, 4, 8 * count)
        assert_same(out, values(me, 2, count))
        # Taken by a matched probe, which matches, but does not take the bytes: MPI lets a send be done then or later.
        request = ctx.issend(values(me, 3, count), me, tag=5)
        ctx.mprobe(me).recv(out)
        assert request.test()
        assert_same(out, values(me, 3, count))

    run_ranks(n, body)


def test_ssend_of_an_object_to_oneself() -> None:
    def body(ctx: Context) -> None:
        sent = {"x": values(0, 1, 10)}
        request = ctx.issend_object(sent, 0, tag=7)
        stays_undone(ctx, request)
        sent["x"][:] = -1  # may be changed at once
        assert_same(ctx.recv_object(0, tag=7), {"x": values(0, 1, 10)})
        assert request.test()

    run_ranks(1, body)


@transports
def test_order_with_other_sends(transport: str) -> None:
    """Short, announced and synchronous messages of one tag are received in the order of sending, however they travel."""
    counts = (1, EAGER + 1, 0, 5, LARGE, 1, EAGER, 0, EAGER + 1)

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            requests = []
            for number in range(3 * len(counts)):
                send = (ctx.isend, ctx.issend)[number * 7 % 3 % 2]
                requests.append(send(values(0, number, counts[number % len(counts)]), 1))
            for request in requests:
                request.wait()
        else:
            for number in range(3 * len(counts)):
                out = np.full(2 * LARGE, -1.0)
                count = counts[number % len(counts)]
                source, tag = (0, 0) if number % 4 else (ANY_SOURCE, ANY_TAG)
                assert ctx.recv(out, source, tag=tag) == Status(0, 0, 8 * count)
                assert_same(out[:count], values(0, number, count))

    run_ranks(2, body, device=Device(transport=transport))


def test_a_later_send_overtakes_with_another_tag_only() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            request = ctx.issend(values(0, 1, 5), 1, tag=1)
            ctx.ssend(values(0, 2, 5), 1, tag=2)  # returns though the first is not matched
            assert not request.done
            ctx.send(np.empty(0), 1, tag=3)
            request.wait()
        else:
            out = np.empty(5)
            ctx.recv(out, 0, tag=2)
            assert_same(out, values(0, 2, 5))
            ctx.recv(np.empty(0), 0, tag=3)
            ctx.recv(out, 0, tag=1)
            assert_same(out, values(0, 1, 5))

    run_ranks(2, body)


@transports
@pytest.mark.parametrize("n", [2, 3, 5])
def test_every_rank_sends_to_every_rank(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for count in (0, 7, EAGER + 1):
            requests = [ctx.issend(values(ctx.rank, dest, count), dest, tag=dest) for dest in range(n)]
            for _ in range(n):
                out = np.full(count, -1.0)
                source, tag, nbytes = ctx.recv(out, ANY_SOURCE, tag=ctx.rank)
                assert (tag, nbytes) == (ctx.rank, 8 * count)
                assert_same(out, values(source, ctx.rank, count))
            for request in requests:
                assert request.wait() is None

    run_ranks(n, body, device=Device(transport=transport))


def test_two_ranks_that_ssend_to_each_other_time_out() -> None:
    def body(ctx: Context) -> None:
        other = 1 - ctx.rank
        with pytest.raises(OperationTimeoutError) as caught:
            ctx.ssend(np.ones(3), other, timeout=0.2 if ctx.rank == 0 else 20)
        if ctx.rank == 0:
            assert str(caught.value) == (
                f"ssend timed out after 0.2 s: sending 24 bytes to {ctx.peers[1]}, which may have stopped or not posted a "
                "receive for it; see its log"
            )
        else:
            assert caught.value.reported_by == 0

    run_ranks(2, body)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (
            lambda ctx: ctx.ssend(np.ones(3), ctx.rank, timeout=0.1),
            "ssend timed out after 0.1 s: sending 24 bytes to {}, which is this process and has not posted a receive for "
            "it; receive with irecv before",
        ),
        (
            lambda ctx: ctx.recv(np.ones(3), ctx.rank, timeout=0.1),
            "recv timed out after 0.1 s: got 0 of 24 bytes from {}, which is this process and has not sent it; send with "
            "isend before",
        ),
        (
            lambda ctx: ctx.probe(ctx.rank, timeout=0.1),
            "probe timed out after 0.1 s: no message from {}, which is this process and has not sent it; send with isend "
            "before",
        ),
    ],
    ids=["ssend", "recv", "probe"],
)
def test_a_rank_that_waits_for_itself_times_out(call: Callable[[Context], object], what: str) -> None:
    def body(ctx: Context) -> None:
        with pytest.raises(OperationTimeoutError) as caught:
            call(ctx)
        assert str(caught.value) == what.format(ctx.peers[ctx.rank])

    run_ranks(1, body)


def test_a_peer_that_closes_does_not_match() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(PeerLostError, match=r"(?m)in ssend: it closed its Context while this rank still needed it$"):
                ctx.ssend(np.empty(0), 1)

    run_ranks(2, body)


def test_closing_waits_for_the_match() -> None:
    closing = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            request = ctx.issend(np.ones(1), 1)
            closing.set()
            ctx.close()
            assert request.done
        else:
            assert closing.wait(WAIT)
            ctx.recv(np.empty(1), 0)

    run_ranks(2, body)
