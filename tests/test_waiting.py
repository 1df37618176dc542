"""wait_all, wait_any, wait_some, cancel, and many operations under way at once."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from effort import assert_linear
from traffic import KINDS, Started, assert_same, begin, nothing_waits, values

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
    wait_any,
    wait_some,
)
from gloompi.deadline import Deadline
from gloompi.engine.call import Call
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.operation import Steps
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks

LARGE = 100_003
WAIT = 30.0
PROMPT = 2.0  # seconds

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
Waits = Callable[..., Any]
every_wait = pytest.mark.parametrize("waits", [wait_all, wait_any, wait_some])


def on_two_contexts(
    n: int, body: Callable[[Context, Context], None], transport: str = "unix", timeout: float = 10.0
) -> None:
    """Run `body` on `n` ranks that have two Contexts without a common connection; in the second the ranks are reversed."""
    exchanges = local_exchanges(n)

    def outer(ctx: Context) -> None:
        device = Device(transport=transport)
        with Context._from_exchange(exchanges[n - 1 - ctx.rank], device, timeout, Deadline(WAIT)) as other:
            body(ctx, other)

    run_ranks(n, outer, timeout=timeout, device=Device(transport=transport))


def both_ways(n: int, body: Callable[[Context, Context], None]) -> None:
    """Run `body` with a Context and its dup, then with two that share nothing."""

    def outer(ctx: Context) -> None:
        with ctx.dup() as child:
            body(ctx, child)

    run_ranks(n, outer, timeout=10)
    on_two_contexts(n, body)


# -- many at once -------------------------------------------------------------------------------------------------------


def _take(started: list[Started], count: int, order: random.Random) -> list[Started]:
    """Remove some, at random."""
    taken = order.sample(started, min(count, len(started)))
    for each in taken:
        started.remove(each)
    return taken


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_fifty_and_more_outstanding_completed_in_another_order_than_posted(n: int, transport: str) -> None:
    """Collectives and messages of all kinds, on a Context and two others on its connections, while blocking ones go on."""

    def body(ctx: Context) -> None:
        child, turned = ctx.dup(), ctx.split(0, -ctx.rank)
        assert turned is not None
        started: list[Started] = []
        for salt, each, count in ((1, ctx, 1000), (2, child, 40_000), (3, turned, 3)):
            started += begin(each, salt, count)
        assert len(started) == 3 * KINDS > 50
        own = random.Random(1000 * n + ctx.rank)  # in an order of each rank's own
        number = 0
        while started:
            number += 1
            for request, check in _take(started, 5, own):
                check(request.wait())
            if number % 4 == 0:  # the same on all ranks: they overlap with what is under way
                assert child.allreduce(np.array([number])).tolist() == [number * n]
                x = np.empty(LARGE)
                after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
                assert ctx.sendrecv(values(ctx.rank, number, LARGE), after, x, before).nbytes == x.nbytes
                assert_same(x, values(before, number, LARGE))
                started += begin(turned, 10 + number, 100) if number == 8 else []
        assert all(nothing_waits(each) for each in (ctx, child, turned))
        child.close()
        turned.close()

    run_ranks(n, body, device=Device(transport=transport))


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_everything_waited_for_together(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        with ctx.dup() as child:
            started = begin(ctx, 1, 1000) + begin(child, 2, LARGE)
            requests = [request for request, _ in started][::-1]
            results = wait_all(requests)
            for (_, check), result in zip(started, reversed(results), strict=True):
                check(result)
            # As they come, with wait_any and wait_some in turn.
            started = begin(ctx, 3, LARGE) + begin(child, 4, 7)
            random.Random(ctx.rank).shuffle(started)
            while started:
                left = [request for request, _ in started]
                found = [wait_any(left)] if len(left) % 2 else wait_some(left)
                assert found
                for index, result in found:
                    started[index][1](result)
                done = {index for index, _ in found}
                started = [each for index, each in enumerate(started) if index not in done]

    run_ranks(n, body, device=Device(transport=transport))


# -- two Contexts -------------------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", [1, 2, 3])
def test_several_contexts_in_different_order_on_different_ranks(n: int, transport: str) -> None:
    """Waiting for one Context at a time would be a deadlock: large messages need both ends at work."""

    def body(one: Context, other: Context) -> None:
        assert one._engine is not other._engine
        for salt in range(3):
            contexts = [one, other] if one.rank % 2 else [other, one]
            started = [started for each in contexts for started in begin(each, salt, LARGE)]
            requests = [request for request, _ in started]
            if salt == 0:
                results = wait_all(requests)
            else:
                results = [None] * len(requests)
                left = list(range(len(requests)))
                while left:
                    found = [wait_any([requests[i] for i in left])] if salt == 1 else wait_some([requests[i] for i in left])
                    for index, result in found:
                        results[left[index]] = result
                    left = [i for number, i in enumerate(left) if number not in {index for index, _ in found}]
            for (_, check), result in zip(started, results, strict=True):
                check(result)

    on_two_contexts(n, body, transport)


def test_synchronous_sends_on_two_contexts_crosswise() -> None:
    """Each rank's first request waits for the other's second."""

    def body(one: Context, other: Context) -> None:
        first, second = (one, other) if one.rank == 0 else (other, one)
        outs = np.zeros((2, LARGE))
        requests = [
            first.issend(values(first.rank, 1, LARGE), 1 - first.rank),
            first.irecv(outs[0], 1 - first.rank),
            second.issend(values(second.rank, 1, LARGE), 1 - second.rank),
            second.irecv(outs[1], 1 - second.rank),
        ]
        status = wait_all(requests)
        assert status == [None, Status(1 - first.rank, 0, 8 * LARGE), None, Status(1 - second.rank, 0, 8 * LARGE)]
        for each, out in zip((first, second), outs, strict=True):
            assert_same(out, values(1 - each.rank, 1, LARGE))

    on_two_contexts(2, body)


# -- which are done -----------------------------------------------------------------------------------------------------


def test_results_are_in_the_order_of_the_requests() -> None:
    def body(one: Context, other: Context) -> None:
        outs = np.zeros((3, 1))
        requests = [one.irecv(outs[0], 0, tag=1), other.irecv(outs[1], 0, tag=2), one.irecv_object(0, tag=3)]
        one.send_object("last", 0, tag=3)
        other.send(np.array([2.0]), 0, tag=2)
        assert wait_some(requests) == [(1, Status(0, 2, 8)), (2, "last")]
        assert wait_any(requests) == (1, Status(0, 2, 8))
        assert wait_any(requests[::-1]) == (0, "last")
        assert wait_any(requests[:1] + requests[2:]) == (1, "last")
        one.send(np.array([1.0]), 0, tag=1)
        assert wait_all(requests) == [Status(0, 1, 8), Status(0, 2, 8), "last"]
        assert wait_all(requests, timeout=0) == [Status(0, 1, 8), Status(0, 2, 8), "last"]  # and again
        assert wait_all(iter(requests[1:])) == [Status(0, 2, 8), "last"]  # any iterable
        assert wait_any(iter(requests)) == (0, Status(0, 1, 8))
        assert wait_some(request for request in requests[:1]) == [(0, Status(0, 1, 8))]
        assert outs[:, 0].tolist() == [1, 2, 0]

    both_ways(1, body)


def test_wait_any_returns_when_one_is_done_and_leaves_the_others() -> None:
    go = threading.Event()

    def body(one: Context, other: Context) -> None:
        go.clear()
        if one.rank == 0:
            waiting = other.irecv(np.empty(LARGE), 1 - other.rank)
            out = np.empty(1)
            requests = [waiting, one.irecv(out, 1, tag=5)]
            assert wait_any(requests) == (1, Status(1, 5, 8))
            assert not waiting.done
            go.set()
            assert wait_some([waiting]) == [(0, Status(1 - other.rank, 0, 8 * LARGE))]
        else:
            one.send(np.ones(1), 0, tag=5)
            assert go.wait(WAIT)
            other.send(np.ones(LARGE), 1 - other.rank)

    both_ways(2, body)


def test_no_requests() -> None:
    assert wait_all([]) == []
    assert wait_all([], timeout=0) == []
    for waits in (wait_any, wait_some):
        with pytest.raises(ValueError, match=r"^wait_any needs at least one request$"):
            waits([])


@every_wait
@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_without_meaning(waits: Waits, timeout: float) -> None:
    def body(ctx: Context) -> None:
        with pytest.raises(ValueError, match=r"^timeout must be seconds >= 0 or None, not "):
            waits([ctx.irecv(np.empty(1), 0)], timeout)
        assert not ctx.closed

    run_ranks(1, body)


# -- too late -----------------------------------------------------------------------------------------------------------


@every_wait
def test_timeout_on_one_context(waits: Waits) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank:
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.empty(1), 0)
            return
        requests = [ctx.irecv(np.empty(3), 1), ctx.issend(np.ones(4), 1, tag=2)]
        began = time.monotonic()
        with pytest.raises(OperationTimeoutError) as caught:
            waits(requests, timeout=0.2)
        assert 0.19 < time.monotonic() - began < PROMPT
        what = f"got 0 of 24 bytes from {ctx.peers[1]}, which may have stopped or not sent it; see its log"
        if waits is wait_all:
            assert str(caught.value) == f"recv timed out after 0.2 s: {what}"
        else:
            assert str(caught.value) == (
                f"wait for any of 2 requests timed out after 0.2 s: {what}; "
                f"sending 32 bytes to {ctx.peers[1]}, which may have stopped or not posted a receive for it; see its log"
            )
        assert ctx.closed
        with pytest.raises(OperationTimeoutError):
            requests[1].wait()

    run_ranks(2, body)


@every_wait
def test_timeout_on_several_contexts(waits: Waits) -> None:
    def body(one: Context, other: Context) -> None:
        requests = [one.irecv(np.empty(3), 0), other.irecv(np.empty(1), 0)]
        began = time.monotonic()
        with pytest.raises(OperationTimeoutError) as caught:
            waits(requests, timeout=0.2)
        assert 0.19 < time.monotonic() - began < PROMPT
        assert str(caught.value) == (
            f"recv timed out after 0.2 s: got 0 of 24 bytes from {one.peers[0]}, which is this process and has not "
            "sent it; send with isend before"
        )
        assert (one.closed, other.closed) == (True, False)

    on_two_contexts(1, body)


def test_the_default_timeout_is_the_largest_of_the_contexts() -> None:
    def body(one: Context, other: Context) -> None:
        one.timeout, other.timeout = 0.05, 0.3
        began = time.monotonic()
        with pytest.raises(OperationTimeoutError, match=r" timed out after 0\.3 s: "):
            wait_any([one.irecv(np.empty(3), 0), other.irecv(np.empty(1), 0)])
        assert 0.29 < time.monotonic() - began < PROMPT

    on_two_contexts(1, body)


def test_wait_all_names_the_whole_budget() -> None:
    """The first request is done after half of it."""

    def body(ctx: Context) -> None:
        if ctx.rank:
            request = ctx.irecv(np.empty(1), 0, tag=9)
            with pytest.raises(OperationTimeoutError):
                request.wait(0.15 + 20)
            return
        timer = threading.Timer(0.15, lambda: None)
        timer.start()
        first = ctx.irecv(np.empty(1), 0, tag=1)
        ctx.isend(np.ones(1), 0, tag=1)
        timer.join()
        with pytest.raises(OperationTimeoutError) as caught:
            wait_all([first, ctx.irecv(np.empty(1), 1, tag=2)], timeout=0.3)
        assert str(caught.value).startswith("recv timed out after 0.3 s: ")

    run_ranks(2, body)


# -- errors -------------------------------------------------------------------------------------------------------------


@every_wait
def test_a_peer_that_closes(waits: Waits) -> None:
    def body(one: Context, other: Context) -> None:
        if one.rank == 0:
            requests = [one.irecv(np.empty(1), 1), other.irecv(np.empty(1), other.rank, tag=1)]
            began = time.monotonic()
            with pytest.raises(PeerLostError, match=r"(?m)it closed its Context while this rank still needed it$"):
                waits(requests)
            assert time.monotonic() - began < PROMPT
            assert one.closed
        else:
            one.close()

    on_two_contexts(2, body)


@every_wait
def test_a_mismatch_is_found_while_waiting(waits: Waits) -> None:
    level = threading.Barrier(2)

    def body(one: Context, other: Context) -> None:
        requests = [other.irecv(np.empty(1), 1 - other.rank, tag=1), one.igather(np.ones(3), root=one.rank)]
        with pytest.raises(MismatchError, match="ranks disagree on gather #"):
            waits(requests)
        level.wait(WAIT)  # nobody closes the other one before

    both_ways(2, body) if waits is not wait_all else on_two_contexts(2, body)


@every_wait
def test_requests_of_closed_contexts(waits: Waits) -> None:
    def body(one: Context, other: Context) -> None:
        requests = [one.irecv(np.empty(1), 0, tag=1), other.irecv(np.empty(1), 0, tag=1)]
        other.close()
        text = (
            r"^(this Context is closed|recv was under way when this Context was closed: wait for requests before close\(\))$"
        )
        with pytest.raises(ContextClosedError, match=text):
            waits(requests[::-1], timeout=5)
        done = one.ibarrier()
        done.wait()
        if waits is wait_any:
            assert waits([done, requests[1]]) == (0, None)  # nothing to wait for
        assert not one.closed

    both_ways(1, body)


# -- cancel -------------------------------------------------------------------------------------------------------------


def test_a_receive_that_nothing_has_matched_is_taken_back() -> None:
    def body(ctx: Context) -> None:
        outs = np.full((4, 3), -1.0)
        requests = [
            ctx.irecv(outs[0], 0, tag=1),
            ctx.irecv(outs[1], ANY_SOURCE, tag=1),
            ctx.irecv(outs[2], 0, tag=ANY_TAG),
            ctx.irecv_object(ANY_SOURCE, tag=ANY_TAG),
            ctx.irecv(outs[3], 0, tag=1),
        ]
        for request in requests[:4]:
            assert request.cancel()
            assert request.done
            assert request.test()
            assert request.wait() is None
            assert request.wait(timeout=0) is None
            assert not request.cancel()  # done is done
            assert repr(request).endswith(", done>")
        assert wait_all(requests[:4]) == [None] * 4
        assert wait_any(requests[3:]) == (0, None)
        ctx.send(values(0, 1, 3), 0, tag=1)  # goes to the last
        assert requests[4].wait() == Status(0, 1, 24)
        assert_same(outs[3], values(0, 1, 3))
        assert (outs[:3] == -1).all()
        assert nothing_waits(ctx)

    run_ranks(1, body)


@transports
@pytest.mark.parametrize("count", [1, LARGE])
def test_a_receive_that_a_message_has_matched_goes_on(count: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.recv(np.empty(0), 1, tag=2)
            ctx.send(values(0, 1, count), 1, tag=1)
        else:
            out = np.full(count, -1.0)
            request = ctx.irecv(out, 0, tag=1)
            ctx.send(np.empty(0), 0, tag=2)
            while not request.done:
                if not ctx._conversation.messages.matcher.posted():  # matched, and perhaps not all here
                    assert not request.cancel()
                request.test()
            assert not request.cancel()
            assert request.wait() == Status(0, 1, 8 * count)
            assert_same(out, values(0, 1, count))

    run_ranks(2, body, device=Device(transport=transport))


def test_nothing_but_receives_can_be_taken_back() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            requests: list[Request] = [
                ctx.isend(np.ones(1), 1),
                ctx.isend(np.ones(LARGE), 1, tag=1),
                ctx.issend(np.ones(1), 1, tag=2),
                ctx.ibarrier(),
                ctx.iallreduce(np.ones(LARGE)),
                ctx.igather(np.ones(1)),
                ctx.ibroadcast_object(root=1),
            ]
            assert [request.cancel() for request in requests] == [False] * 7
            ctx.send(np.empty(0), 1, tag=9)
        else:
            ctx.recv(np.empty(0), 0, tag=9)
            out = np.empty(LARGE)
            requests = [
                *(ctx.irecv(out, 0, tag=tag) for tag in (0, 1, 2)),
                ctx.ibarrier(),
                ctx.iallreduce(np.ones(LARGE)),
                ctx.igather(np.ones(1)),
                ctx.ibroadcast_object("text", root=1),
            ]
        assert wait_all(requests)[4].tolist() == [2] * LARGE

    run_ranks(2, body)


def test_cancelling_in_a_context_that_is_closed_or_broken() -> None:
    def body(ctx: Context) -> None:
        child = ctx.dup()
        request = child.irecv(np.empty(1), 0)
        child.close()
        assert not request.cancel()  # that has ended it
        request = ctx.irecv(np.empty(1), 0)
        ctx.abort("enough")
        with pytest.raises(ContextClosedError, match=r"(?m)^this Context was aborted: enough$"):
            request.cancel()

    run_ranks(1, body)


def test_a_cancelled_receive_of_one_of_several_peers_lets_them_close() -> None:
    """Nothing outstanding needs the peer any more."""
    gone = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            requests = [ctx.irecv(np.empty(1), 1), ctx.irecv(np.empty(1), ANY_SOURCE)]
            assert [request.cancel() for request in requests] == [True, True]
            ctx.send(np.empty(0), 1)
            assert gone.wait(WAIT)
            assert nothing_waits(ctx)
            ctx.send(np.ones(1), 2)
            ctx.recv(np.empty(1), 2)
        elif ctx.rank == 1:
            ctx.recv(np.empty(0), 0)
            ctx.close()
            gone.set()
        else:
            ctx.recv(np.empty(1), 0)
            ctx.send(np.ones(1), 0)

    run_ranks(3, body)


# -- asking ---------------------------------------------------------------------------------------------------------------


async def _of(request: Request) -> None:
    await request


@pytest.mark.parametrize("way", ["wait", "wait_any", "several Contexts", "await"])
def test_who_goes_on_is_asked_for_again(way: str) -> None:
    """What a collective waits for first comes after it was asked for; whom it waits for then has called something else."""
    began: list[Request] = []
    exchanges = local_exchanges(1)

    def collective(ctx: Context, name: str, steps: Callable[[Call], Steps]) -> Request:
        mark = fingerprint(name, np.dtype("u1"), 0)
        return ctx._start(Call(ctx._engine, ctx._conversation, name, mark, steps, lambda: None))

    def both(call: Call) -> Steps:
        yield call.receive(1, 0)
        yield call.receive(2, 1)

    def first(call: Call) -> Steps:
        yield call.send(0, 0)

    def nothing(call: Call) -> Steps:
        yield from ()

    def wait_for(ctx: Context) -> None:
        request = collective(ctx, "barrier", both)
        began.append(request)
        if way == "wait":
            request.wait()
        elif way == "wait_any":
            wait_any([ctx.irecv(np.empty(1), 1), request])
        elif way == "await":
            asyncio.run(_of(request))
        else:
            with Context._from_exchange(exchanges[0], None, 10.0, Deadline(WAIT)) as alone:
                wait_any([alone.irecv(np.empty(1), 0), request])

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(MismatchError, match=r"ranks disagree on (barrier|gather) #1"):
                wait_for(ctx)
            return
        if ctx.rank == 1:
            while not (began and began[0]._task.asked):
                time.sleep(0.001)
        collective(ctx, "barrier", first) if ctx.rank == 1 else collective(ctx, "gather", nothing)
        with pytest.raises(MismatchError):
            ctx.recv(np.empty(1), 0)

    run_ranks(3, body, timeout=5)


# -- many -------------------------------------------------------------------------------------------------------------------


def test_nothing_is_left_with_requests_that_were_waited_for() -> None:
    waited_for: list[Request] = []

    def body(one: Context, other: Context) -> None:
        if one.rank == 1:
            while not (waited_for and len(waited_for[0]._task.ended) > 1):
                time.sleep(0.001)
            waited_for.clear()
            one.send(np.ones(1), 0, tag=3)
            with pytest.raises((OperationTimeoutError, PeerLostError)):
                one.recv(np.empty(1), 0)
            return
        contexts = (one, other, one)
        requests = [each.irecv(np.empty(1), 1 - each.rank, tag=tag) for tag, each in enumerate(contexts, 1)]
        before = [request._task.ended for request in requests]
        waited_for.append(requests[0])
        assert wait_any(requests)[0] == 2
        assert [request._task.ended for request in requests] == [*before[:2], ()]
        with pytest.raises(OperationTimeoutError):
            wait_any(requests[:2], timeout=0.05)
        assert [request._task.ended for request in requests] == [*before[:2], ()]

    both_ways(2, body)


@every_wait
@pytest.mark.parametrize("backwards", [False, True])
def test_however_many_requests(waits: Waits, backwards: bool) -> None:
    def body(one: Context, other: Context) -> None:
        def prepare(count: int) -> Callable[[], object]:
            requests = [ctx.irecv(np.empty(1), 0, tag=tag) for tag in range(count) for ctx in (one, other)]
            left = requests[::-1] if backwards else list(requests)
            for tag in range(count):
                for ctx in (one, other):
                    ctx.send(np.ones(1), 0, tag=tag)

            def wait() -> None:
                while left:
                    found = waits(left)
                    assert found
                    if waits is wait_any:
                        left.pop(found[0])
                    else:
                        left.clear()

            return wait

        assert_linear(prepare)

    both_ways(1, body)
