"""`await request`: beside other tasks, on several Contexts, cancelled, too late, and when something breaks."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from effort import assert_proportional, counted
from traffic import KINDS, begin, nothing_waits, values

from gloompi import (
    ANY_SOURCE,
    Context,
    ContextClosedError,
    Device,
    GloompiError,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    Request,
    Status,
)
from gloompi.deadline import Deadline
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks

EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 3 * EAGER + 3
MIDDLE = 5 * EAGER // 2  # doubles, of which halves do not go without asking, either
WAIT = 30.0
PROMPT = 2.0  # seconds

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
pytestmark = pytest.mark.usefixtures("nothing_leaks")

Main = Callable[[Context], Coroutine[Any, Any, Any]]


def run_async(n: int, main: Main, *, transport: str = "auto", timeout: float = 10.0) -> list[Any]:
    """Run ``main(ctx)`` on `n` ranks, each with an event loop of its own."""
    return run_ranks(n, lambda ctx: asyncio.run(main(ctx)), timeout=timeout, device=Device(transport=transport))


async def within(awaitable: Awaitable[Any], seconds: float = 5.0) -> Any:
    return await asyncio.wait_for(awaitable, seconds)


async def turns(count: int = 5) -> None:
    """Let the other tasks of the loop run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def rest() -> None:
    """Let the loop come to rest: whatever looks at a request a little later has done so."""
    await asyncio.sleep(0.15)


async def event(flag: threading.Event) -> None:
    """Wait for another thread's flag; the loop goes on."""
    deadline = Deadline(WAIT)
    while not flag.is_set():
        assert not deadline.expired()
        await asyncio.sleep(0.001)


async def result_of(request: Request) -> Any:
    return await request


# -- results ------------------------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_every_operation_can_be_awaited(n: int, transport: str) -> None:
    async def main(ctx: Context) -> None:
        for salt, count in enumerate((0, 7, MIDDLE)):
            for request, check in begin(ctx, salt, count):
                check(await request)
                assert request.done
                check(await request)  # again, at once
                check(request.wait())
        assert nothing_waits(ctx)

    run_async(n, main, transport=transport)


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_gathering_many_on_several_contexts(n: int, transport: str) -> None:
    exchanges = local_exchanges(n)

    async def main(ctx: Context) -> None:
        # Connecting is a blocking call; all ranks are in it.
        with Context._from_exchange(exchanges[ctx.rank], None, 10.0, Deadline(WAIT)) as other, ctx.dup() as child:
            contexts = [ctx, other, child][:: 1 if ctx.rank % 2 else -1]
            started = [each for salt in range(2) for on in contexts for each in begin(on, salt, MIDDLE if salt else 10)]
            assert len(started) == 6 * KINDS
            results = await asyncio.gather(*(request for request, _ in started))
            for (_, check), result in zip(started, results, strict=True):
                check(result)

    run_async(n, main, transport=transport)


@transports
def test_a_task_for_each_request(transport: str) -> None:
    """Each in a coroutine of its own, which waits for several in turn."""

    async def main(ctx: Context) -> None:
        other = 1 - ctx.rank

        async def talk(tag: int) -> None:
            for salt in range(5):
                count = (3, MIDDLE)[(tag + salt) % 2]
                out = np.empty(count)
                receive = ctx.irecv(out, other, tag=tag)
                await ctx.isend(values(ctx.rank, salt, count), other, tag=tag)
                assert await receive == Status(other, tag, 8 * count)
                np.testing.assert_array_equal(out, values(other, salt, count))

        await asyncio.gather(*(talk(tag) for tag in range(20)))

    run_async(2, main, transport=transport)


def test_other_tasks_run_meanwhile() -> None:
    ticks: list[int] = []
    ticked = threading.Event()

    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            await event(ticked)
            await ctx.isend(np.ones(3), 0)
            return

        async def tick() -> None:
            for number in range(100):
                ticks.append(number)
                await asyncio.sleep(0)
            ticked.set()

        task = asyncio.create_task(tick())
        out = np.empty(3)
        assert await ctx.irecv(out, 1) == Status(1, 0, 24)
        assert ticks == list(range(100))  # all of them before the message was sent
        await task

    run_async(2, main)


@transports
def test_blocking_calls_of_another_coroutine(transport: str) -> None:
    """They move, and complete, what is awaited; whoever awaits it is told."""

    async def main(ctx: Context) -> None:
        other = 1 - ctx.rank
        out = np.empty(LARGE)
        awaiting = [
            asyncio.create_task(result_of(request))
            for request in (ctx.irecv(out, other, tag=1), ctx.iallreduce(np.ones(LARGE)), ctx.ibarrier())
        ]
        await turns()
        for number in range(5):
            assert ctx.allreduce(np.array([number])).tolist() == [2 * number]
        ctx.send(values(ctx.rank, 1, LARGE), other, tag=1)
        ctx.barrier()
        status, total, nothing = await within(asyncio.gather(*awaiting))
        assert (status, nothing) == (Status(other, 1, 8 * LARGE), None)
        assert (total == 2).all()
        np.testing.assert_array_equal(out, values(other, 1, LARGE))

    run_async(2, main, transport=transport)


def test_a_blocking_call_that_completes_what_is_awaited_leaves_nothing_to_be_read() -> None:
    """No connection will become readable any more: the word must come in another way."""
    go = threading.Event()

    async def main(ctx: Context) -> None:
        if ctx.rank == 0:
            task = asyncio.create_task(result_of(ctx.irecv(np.empty(1), 1, tag=1)))
            await rest()
            go.set()
            ctx.recv(np.empty(1), 1, tag=2)  # what is awaited has come before
            assert await within(task) == Status(1, 1, 8)
        else:
            await event(go)
            ctx.send(np.ones(1), 0, tag=1)
            ctx.send(np.ones(1), 0, tag=2)

    run_async(2, main)


def test_messages_to_oneself_complete_what_is_awaited() -> None:
    async def main(ctx: Context) -> None:
        receive = asyncio.create_task(result_of(ctx.irecv(np.empty(1), 0)))
        send = asyncio.create_task(result_of(ctx.issend(np.ones(1), 0, tag=5)))
        await rest()
        ctx.send(np.ones(1), 0)
        ctx.recv(np.empty(1), 0, tag=5)
        assert await within(asyncio.gather(receive, send)) == [Status(0, 0, 8), None]

    run_async(1, main)


def test_what_a_blocking_call_leaves_to_be_sent_is_sent() -> None:
    """The clearance of a large message comes inside a blocking call that ends at once: the loop has to send the rest."""
    announced, cleared = threading.Event(), threading.Event()
    count = 1 << 21

    async def main(ctx: Context) -> None:
        if ctx.rank == 0:
            reply = asyncio.create_task(result_of(ctx.irecv(np.empty(1), 1, tag=9)))
            await rest()
            ctx.isend(values(0, 1, count), 1)  # awaited by nobody
            announced.set()
            assert cleared.wait(WAIT)
            ctx.recv(np.empty(1), 1, tag=1)
            assert await within(reply) == Status(1, 9, 8)
        else:
            assert announced.wait(WAIT)
            ctx.probe(0)
            out = np.empty(count)
            receive = ctx.irecv(out, 0)
            ctx.send(np.ones(1), 0, tag=1)
            cleared.set()
            receive.wait()
            np.testing.assert_array_equal(out, values(0, 1, count))
            ctx.send(np.ones(1), 0, tag=9)

    run_async(2, main)


def test_one_request_awaited_by_several() -> None:
    async def main(ctx: Context) -> None:
        request = ctx.irecv_object(1 - ctx.rank)
        tasks = [asyncio.create_task(result_of(request)) for _ in range(3)]
        await turns()
        await ctx.isend_object("text", 1 - ctx.rank)
        assert await within(asyncio.gather(*tasks, request)) == ["text"] * 4

    run_async(2, main)


def test_one_of_several_that_await_a_request_gives_up() -> None:
    go = threading.Event()

    async def main(ctx: Context) -> None:
        if ctx.rank == 0:
            request = ctx.irecv(np.empty(1), 1)
            tasks = [asyncio.create_task(result_of(request)) for _ in range(3)]
            await rest()
            tasks[0].cancel()
            await turns()
            go.set()
            ctx.recv(np.empty(1), 1, tag=1)
            assert await within(asyncio.gather(*tasks[1:])) == [Status(1, 0, 8)] * 2
        else:
            await event(go)
            ctx.send(np.ones(1), 0)
            ctx.send(np.ones(1), 0, tag=1)

    run_async(2, main)


def test_taking_back_a_receive_that_is_awaited() -> None:
    async def main(ctx: Context) -> None:
        request = ctx.irecv(np.empty(1), 0)
        task = asyncio.create_task(result_of(request))
        await rest()
        assert request.cancel()
        assert await within(task) is None

    run_async(1, main)


@transports
def test_a_second_event_loop_later(transport: str) -> None:
    """On the same Context; the first may leave operations under way."""

    def body(ctx: Context) -> None:
        other = 1 - ctx.rank
        left: list[Request] = []

        async def first() -> None:
            left.append(ctx.irecv_object(other, tag=1))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(left[0], 0.05)
            assert (await ctx.iallreduce(np.ones(3))).tolist() == [2] * 3

        async def second() -> None:
            await ctx.isend_object("text", other, tag=1)
            assert await left[0] == "text"
            assert (await ctx.iallreduce(np.ones(3))).tolist() == [2] * 3

        asyncio.run(first())
        ctx.barrier()
        asyncio.run(second())
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body, timeout=10, device=Device(transport=transport))


def test_no_thread_is_started() -> None:
    level = threading.Barrier(2)

    async def main(ctx: Context) -> None:
        before = threading.active_count()
        task = asyncio.create_task(result_of(ctx.irecv(np.empty(1), 1 - ctx.rank)))
        await turns()
        level.wait(WAIT)
        assert threading.active_count() == before
        await ctx.iallreduce(np.ones(LARGE))
        await ctx.isend(np.ones(1), 1 - ctx.rank)
        await task
        assert threading.active_count() == before
        level.wait(WAIT)

    run_async(2, main)


@transports
def test_waiting_takes_no_processor_time(transport: str) -> None:
    waited = 2.0

    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            await asyncio.sleep(waited)
            await ctx.isend(np.ones(LARGE), 0)
            await ctx.ibarrier()
            return
        began, used = time.monotonic(), time.thread_time()
        await asyncio.gather(ctx.irecv(np.empty(LARGE), 1), ctx.ibarrier())
        used, took = time.thread_time() - used, time.monotonic() - began
        assert took > 0.9 * waited
        assert used < 0.02 * took

    # The garbage of all tests before this one is nobody's waiting.
    gc.collect()
    gc.disable()
    try:
        run_async(2, main, transport=transport)
    finally:
        gc.enable()


# -- giving up ----------------------------------------------------------------------------------------------------------


@transports
def test_a_cancelled_coroutine_leaves_the_operation_under_way(transport: str) -> None:
    async def main(ctx: Context) -> None:
        other = 1 - ctx.rank
        out = np.full(LARGE, -1.0)
        request = ctx.irecv(out, other)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(request, 0.02)
            assert not request.done
            assert not ctx.closed
        task = asyncio.create_task(result_of(request))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not request.done
        await ctx.ibarrier()
        await ctx.isend(values(ctx.rank, 1, LARGE), other)
        waits: Callable[[], Any] = (lambda: within(request)) if ctx.rank else (lambda: _at_once(request.wait()))
        assert await waits() == Status(other, 0, 8 * LARGE)
        np.testing.assert_array_equal(out, values(other, 1, LARGE))

    run_async(2, main, transport=transport)


async def _at_once(result: Any) -> Any:
    return result


def test_collectives_go_on_after_a_coroutine_has_given_up() -> None:
    async def main(ctx: Context) -> None:
        request = None
        if ctx.rank:
            request = ctx.iallreduce(np.full(LARGE, float(ctx.rank)))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(request, 0.02)
            ctx.send(np.empty(0), 0)
        else:
            for peer in (1, 2):
                await ctx.irecv(np.empty(0), peer)
            request = ctx.iallreduce(np.zeros(LARGE))
        assert ((await within(request)) == 3).all()

    run_async(3, main)


# -- too late, and what breaks --------------------------------------------------------------------------------------------


def test_the_timeout_of_the_context() -> None:
    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            with pytest.raises(OperationTimeoutError):
                await ctx.irecv(np.empty(1), 0, tag=1)
            return
        ctx.timeout = 0.2
        began = time.monotonic()
        outcomes = await asyncio.gather(
            ctx.irecv(np.empty(3), 1), ctx.irecv(np.empty(4), ANY_SOURCE), ctx.ibarrier(), return_exceptions=True
        )
        assert 0.19 < time.monotonic() - began < PROMPT
        assert [type(each) for each in outcomes] == [OperationTimeoutError] * 3
        assert len({str(each) for each in outcomes}) == 1
        assert str(outcomes[0]) == (
            f"recv timed out after 0.2 s: got 0 of 24 bytes from {ctx.peers[1]}, which may have stopped or not sent it; "
            "see its log"
        )
        with pytest.raises(OperationTimeoutError):
            await ctx.ibarrier()

    run_async(2, main)


def test_a_timeout_counts_from_the_await() -> None:
    async def main(ctx: Context) -> None:
        ctx.timeout = 0.3
        request = ctx.irecv(np.empty(1), 0)
        await asyncio.sleep(0.2)
        task = asyncio.create_task(result_of(request))
        await asyncio.sleep(0.2)
        ctx.send(np.ones(1), 0)
        assert await task == Status(0, 0, 8)

    run_async(1, main)


@transports
def test_a_peer_that_is_lost(transport: str) -> None:
    level = threading.Barrier(3)

    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            level.wait(WAIT)
            for link in ctx._engine._links:  # as when its process ends
                if link.rank != 1:
                    link.sock.shutdown(2)  # type: ignore[attr-defined]
            with pytest.raises(GloompiError):
                ctx.recv(np.empty(1), 0)
            return
        tasks = [asyncio.create_task(result_of(each)) for each in (ctx.irecv(np.empty(1), 1), ctx.ibarrier())]
        await turns()
        level.wait(WAIT)
        began = time.monotonic()
        for outcome in await within(asyncio.gather(*tasks, return_exceptions=True)):
            assert isinstance(outcome, PeerLostError)
            assert outcome.rank == 1
        assert time.monotonic() - began < PROMPT
        assert ctx.closed

    run_async(3, main, transport=transport)


@pytest.mark.parametrize("source", [1, ANY_SOURCE])
def test_a_peer_that_closes(source: int) -> None:
    level = threading.Barrier(2)

    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            level.wait(WAIT)
            return
        task = asyncio.create_task(result_of(ctx.irecv(np.empty(1), source)))
        await turns()
        level.wait(WAIT)
        with pytest.raises(PeerLostError, match=r"(?m)in recv: it closed its Context while this rank still needed it$"):
            await within(task)

    run_async(2, main)


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_abort(in_a_thread: bool) -> None:
    level = threading.Barrier(2)

    async def main(ctx: Context) -> None:
        requests = [ctx.irecv(np.empty(1), 1 - ctx.rank), ctx.irecv_object(ANY_SOURCE), ctx.irecv(np.empty(1), ctx.rank)]
        tasks = [asyncio.create_task(result_of(each)) for each in requests]
        await turns()
        level.wait(WAIT)
        thread = threading.Thread(target=ctx.abort, args=("enough",))
        if ctx.rank == 0:
            thread.start() if in_a_thread else ctx.abort("enough")
        for outcome in await within(asyncio.gather(*tasks, return_exceptions=True)):
            assert isinstance(outcome, PeerLostError if ctx.rank else ContextClosedError)
            assert "aborted: enough" in str(outcome)
        if thread.ident is not None:
            thread.join(WAIT)

    run_async(2, main)


@pytest.mark.parametrize("late", [False, True])
def test_a_mismatch(late: bool) -> None:
    """Both are roots: neither sends anything, and asking is all that brings it out."""
    ready = threading.Event()

    async def main(ctx: Context) -> None:
        if late and ctx.rank == 1:
            await event(ready)
        task = asyncio.create_task(result_of(ctx.igather(np.ones(3), root=ctx.rank)))
        await turns()
        if late and ctx.rank == 0:
            await asyncio.sleep(0.2)
            ready.set()
        began = time.monotonic()
        with pytest.raises(MismatchError) as caught:
            await within(task)
        assert time.monotonic() - began < PROMPT
        assert "called gather(<f8, count 3, root 0)" in str(caught.value)
        assert "called gather(<f8, count 3, root 1)" in str(caught.value)

    run_async(2, main)


@pytest.mark.parametrize("n", [1, 2])
def test_closing_the_context_while_it_is_awaited(n: int) -> None:
    level = threading.Barrier(n)

    async def main(ctx: Context) -> None:
        tasks = [asyncio.create_task(result_of(ctx.irecv(np.empty(1), ctx.rank, tag=tag))) for tag in range(3)]
        await turns()
        level.wait(WAIT)
        ctx.close()
        for outcome in await within(asyncio.gather(*tasks, return_exceptions=True)):
            assert isinstance(outcome, ContextClosedError)
            assert str(outcome) == "this Context is closed"

    run_async(n, main)


@pytest.mark.parametrize("n", [1, 2])
def test_closing_one_of_several_contexts_while_it_is_awaited(n: int) -> None:
    """The others, on the same connections, go on."""

    async def main(ctx: Context) -> None:
        child = ctx.dup()
        others = asyncio.create_task(result_of(ctx.irecv(np.empty(1), ctx.rank)))
        tasks = [asyncio.create_task(result_of(child.irecv(np.empty(1), ctx.rank, tag=tag))) for tag in range(3)]
        await rest()
        child.close()
        for outcome in await within(asyncio.gather(*tasks, return_exceptions=True)):
            assert isinstance(outcome, ContextClosedError)
            assert str(outcome) == "recv was under way when this Context was closed: wait for requests before close()"
        await ctx.isend(np.ones(1), ctx.rank)
        assert await within(others) == Status(ctx.rank, 0, 8)
        assert (await ctx.iallreduce(np.ones(1))).tolist() == [n]

    run_async(n, main)


def test_awaiting_in_a_closed_or_broken_context() -> None:
    async def main(ctx: Context) -> None:
        done, waiting = ctx.ibarrier(), ctx.irecv(np.empty(1), 0)
        await done
        ctx.close()
        assert await done is None
        for _ in range(2):
            with pytest.raises(ContextClosedError, match=r"^this Context is closed$"):
                await waiting
        assert not waiting.done

    run_async(1, main)


def test_the_connections_are_not_watched_when_nothing_is_awaited() -> None:
    """Else what comes for later would keep the loop busy for ever."""

    async def main(ctx: Context) -> None:
        other = 1 - ctx.rank
        await ctx.iallreduce(np.ones(3))
        loop = asyncio.get_running_loop()
        assert not loop.remove_reader(ctx._engine.prepare_sleep())
        await asyncio.gather(ctx.isend(np.ones(1), other), ctx.irecv(np.empty(1), other))
        assert not loop.remove_reader(ctx._engine.prepare_sleep())
        waiting = ctx.irecv(np.empty(1), other)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting, 0.01)
        assert not loop.remove_reader(ctx._engine.prepare_sleep())
        assert ctx._engine.watches == []
        await ctx.ibarrier()
        await asyncio.gather(ctx.isend(np.ones(1), other), waiting)

    run_async(2, main)


def test_open_files_stay_what_they_were() -> None:
    def body(ctx: Context) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(20):
            asyncio.run(main(ctx, number))
        assert len(os.listdir("/proc/self/fd")) == before

    async def main(ctx: Context, number: int) -> None:
        receive = ctx.irecv_object(0)
        await ctx.isend_object(number, 0)
        assert await receive == number
        assert (await ctx.iallreduce(np.ones(1))).tolist() == [1]

    run_ranks(1, body)


def test_a_message_to_oneself_can_still_come_when_all_others_have_gone() -> None:
    gone = threading.Event()

    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.close()
            gone.set()
            return
        task = asyncio.create_task(result_of(ctx.irecv(np.empty(1), 0)))
        await event(gone)
        await rest()
        await ctx.isend(np.ones(1), 0)
        assert await within(task) == Status(0, 0, 8)

    run_async(2, main)


# -- however many are awaited -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
def test_however_many_are_awaited(backwards: bool) -> None:
    """Each in a coroutine of its own; they end one by one, at events of their own."""

    async def main(ctx: Context) -> None:
        found = {}
        for count in (40, 400):
            outs = np.zeros((count, 1))
            with counted() as steps:
                requests = [ctx.irecv(outs[number], 0, tag=number) for number in range(count)]
                tasks = [asyncio.create_task(result_of(request)) for request in requests]
                await turns()
                for number in reversed(range(count)) if backwards else range(count):
                    await ctx.isend(np.full(1, float(number)), 0, tag=number)
                    await asyncio.sleep(0)
                await asyncio.gather(*tasks)
            assert outs[:, 0].tolist() == list(range(count))
            found[count] = steps.number
        assert_proportional(40, found[40], 400, found[400])

    run_async(1, main, timeout=60)


def test_one_event_for_many() -> None:
    """Whatever comes, the engine is entered once for all that are awaited."""
    entered: list[str] = []

    async def main(ctx: Context) -> None:
        if ctx.rank == 1:
            await event(waiting)
            await ctx.isend(np.ones(1), 0, tag=50)
            return
        requests = [ctx.irecv(np.empty(1), 1, tag=tag) for tag in range(100)]
        tasks = [asyncio.create_task(result_of(request)) for request in requests]
        await rest()
        exclusively = ctx._engine.exclusively
        ctx._engine.exclusively = lambda *arguments: entered.append(arguments[1]) or exclusively(*arguments)  # type: ignore[func-returns-value, method-assign]
        waiting.set()
        await tasks[50]
        assert entered == ["await"]
        del ctx._engine.exclusively  # type: ignore[method-assign]
        assert sum(request.cancel() for request in requests) == 99
        await asyncio.gather(*tasks)

    waiting = threading.Event()
    run_async(2, main)
