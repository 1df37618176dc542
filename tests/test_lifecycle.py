"""How a Context ends: closed, aborted, dropped, forked, interrupted; and who learns what of it."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gloompi import (
    ANY_SOURCE,
    Context,
    ContextClosedError,
    Device,
    GloompiError,
    OperationTimeoutError,
    PeerLostError,
    Request,
)
from gloompi.deadline import Deadline
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import RankError, run_ranks

EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 3 * EAGER + 3
PROMPT = 2.0  # seconds

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
pytestmark = pytest.mark.usefixtures("nothing_leaks")


def connected(n: int, transport: str = "unix", timeout: float = 30.0) -> list[Context]:
    """The Contexts of `n` ranks, for this thread to use: only non-blocking calls make sense on more than one of them."""
    with ThreadPoolExecutor(n) as pool:
        return list(
            pool.map(
                lambda exchange: Context._from_exchange(exchange, Device(transport=transport), timeout, Deadline(timeout)),
                local_exchanges(n),
            )
        )


def wait_until_busy(ctx: Context) -> None:
    """Return when another thread is in an operation of this Context."""
    while not ctx._engine.turn.occupied:
        os.sched_yield()


def finish(requests: list[Request]) -> list[Any]:
    """The results of requests that need each other."""
    while not all(request.done for request in requests):
        for request in requests:
            request.test()
    return [request.wait() for request in requests]


def in_subprocess(code: str) -> list[str]:
    """Run a program that may use this module; return the lines that it printed."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.splitlines()


def operations(ctx: Context) -> list[Any]:
    x = np.ones(3)
    return [
        lambda: ctx.barrier(),
        lambda: ctx.ibarrier(),
        lambda: ctx.broadcast(x),
        lambda: ctx.reduce(x),
        lambda: ctx.allreduce(x),
        lambda: ctx.iallreduce(x),
        lambda: ctx.allgather(x),
        lambda: ctx.gather(x),
        lambda: ctx.scatter(np.ones((ctx.size, 3)), x),
        lambda: ctx.send(x, ctx.rank),
        lambda: ctx.isend(x, 0),
        lambda: ctx.recv(x, ctx.rank),
        lambda: ctx.irecv(x, 0),
        lambda: ctx.sendrecv(x, ctx.rank, np.ones(3), ctx.rank),
    ]


# -- closing ------------------------------------------------------------------------------------------------------------


def test_misuse_of_a_closed_context_is_still_misuse() -> None:
    def body(ctx: Context) -> None:
        ctx.close()
        with pytest.raises(ValueError, match=r"^root must be in range"):
            ctx.broadcast(np.ones(3), root=1)

    run_ranks(1, body)


def test_the_with_statement_closes() -> None:
    def body(ctx: Context) -> None:
        with ctx as same:
            assert same is ctx
            ctx.barrier()
        assert ctx.closed

    run_ranks(2, body)


@transports
def test_closing_delivers_what_was_sent(transport: str) -> None:
    gone, received = threading.Event(), threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for tag, count in enumerate((1, 0, EAGER, LARGE, 20 * LARGE, 7)):
                ctx.isend(np.arange(count) + tag, 1, tag=tag)  # not waited for
            ctx.isend(np.arange(5), 2)
            ctx.close()
            gone.set()
        elif ctx.rank == 1:
            for tag, count in reversed(list(enumerate((1, 0, EAGER, LARGE, 20 * LARGE, 7)))):
                out = np.empty(count, int)
                assert ctx.recv(out, 0, tag=tag).nbytes == 8 * count
                np.testing.assert_array_equal(out, np.arange(count) + tag)
            assert received.wait(30)
            with pytest.raises(PeerLostError):
                ctx.recv(np.empty(1), 0)
        else:
            assert gone.wait(30)  # rank 0 does not wait for a short message to be received
            out = np.empty(5, int)
            ctx.recv(out, ANY_SOURCE)
            assert out.tolist() == [0, 1, 2, 3, 4]
            received.set()

    run_ranks(3, body, device=Device(transport=transport))


def test_closing_waits_no_longer_than_its_timeout() -> None:
    closed = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.isend(np.ones(LARGE), 1)
            start = time.monotonic()
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.close(timeout=0.2)
            assert 0.15 < time.monotonic() - start < 1.2
            assert str(caught.value) == (
                f"close timed out after 0.2 s: messages to {ctx.peers[1]} were never received there"
            )
            assert ctx.closed
            ctx.close()
            closed.set()
        else:
            assert closed.wait(30)
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.recv(np.ones(LARGE), 0)
            assert caught.value.reported_by == 0

    run_ranks(2, body)


def test_closing_while_a_large_message_waits_for_oneself() -> None:
    def body(ctx: Context) -> None:
        ctx.isend(np.ones(LARGE), ctx.rank)
        start = time.monotonic()
        ctx.close(timeout=5)  # nobody else can receive it any more
        assert time.monotonic() - start < PROMPT

    run_ranks(1, body)


@transports
@pytest.mark.parametrize("waits", [False, True])
def test_a_peer_that_closed_while_it_was_needed(waits: bool, transport: str) -> None:
    closed = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            if waits:
                ctx.recv(np.empty(1), 1)
            ctx.close()
            closed.set()
            return
        if waits:  # rank 1 may be waiting when it comes
            ctx.send(np.empty(1), 0)
        else:
            assert closed.wait(30)
        start = time.monotonic()
        with pytest.raises(PeerLostError) as caught:
            ctx.recv(np.empty(1), 0)
        assert time.monotonic() - start < PROMPT
        error, peer = caught.value, ctx.peers[0]
        assert str(error) == f"lost {peer} in recv: it closed its Context while this rank still needed it".replace(
            str(peer), f"rank 0 ({peer.host}, pid {os.getpid()}, {transport} {peer.address})"
        )
        assert (error.rank, error.host, error.pid) == (0, peer.host, os.getpid())
        assert (error.operation, error.reported_by) == ("recv", None)
        assert ctx.closed
        for operation in operations(ctx):
            with pytest.raises(PeerLostError) as again:
                operation()
            assert str(again.value) == str(error)

    run_ranks(2, body, device=Device(transport=transport))


def test_a_peer_that_closed_is_missed_by_sends_and_collectives_too() -> None:
    closed = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.close()
            closed.set()
            return
        assert closed.wait(30)
        start = time.monotonic()
        with pytest.raises(PeerLostError, match="it closed its Context while this rank still needed it"):  # noqa: PT012
            if ctx.rank == 1:
                while True:  # the first may go out before the goodbye is read
                    ctx.send(np.ones(LARGE if ctx.size else 1), 0)
            ctx.allreduce(np.ones(3))
        assert time.monotonic() - start < PROMPT

    run_ranks(4, body)


def test_ranks_may_close_at_different_times() -> None:
    def body(ctx: Context) -> None:
        # Rank 3 leaves first, then 2, then 1; those left go on with each other.
        for last in range(ctx.size - 1, 0, -1):
            if ctx.rank == last:
                ctx.send(np.array([last]), 0)
                ctx.close()
                return
            if ctx.rank == 0:
                ctx.recv(out := np.empty(1, int), last)
                assert out == last
                for other in range(1, last):
                    ctx.send(np.array([last]), other)
            elif ctx.rank < last:
                ctx.recv(out := np.empty(1, int), 0)
                assert out == last

    run_ranks(4, body)


# -- aborting -----------------------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", [2, 3, 5])
def test_an_exception_in_a_with_block_tells_the_others_why(n: int, transport: str) -> None:
    texts: dict[int, str] = {}

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            with ctx:
                raise RuntimeError("the data were bad")
        start = time.monotonic()
        with pytest.raises(PeerLostError) as caught:  # noqa: PT012
            ctx.barrier()
            ctx.recv(np.empty(1), 1)
        assert time.monotonic() - start < PROMPT
        assert (caught.value.rank, caught.value.pid) == (1, os.getpid())
        texts[ctx.rank] = str(caught.value)
        with pytest.raises(PeerLostError):
            ctx.barrier()

    with pytest.raises(RankError, match=f"^rank 1 of {n} failed: RuntimeError: the data were bad$"):
        run_ranks(n, body, device=Device(transport=transport))
    assert len(texts) == n - 1
    for text in texts.values():
        assert text.startswith("lost rank 1 (")
        assert ") between operations: it aborted: RuntimeError: the data were bad (reported by rank " in text


def test_aborting_from_the_thread_that_uses_the_context() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.barrier()
            ctx.abort("enough")
            assert ctx.closed
            for operation in operations(ctx):
                with pytest.raises(ContextClosedError, match=r"(?m)^this Context was aborted: enough$"):
                    operation()
            ctx.abort("again")
            ctx.close()
            with pytest.raises(ContextClosedError, match=r"(?m)^this Context was aborted: enough$"):
                ctx.barrier()
        else:
            with pytest.raises(PeerLostError, match="it aborted: enough"):  # noqa: PT012
                ctx.barrier()
                ctx.allreduce(np.ones(LARGE))

    run_ranks(3, body)


@transports
def test_aborting_from_another_thread_while_a_receive_is_blocked(transport: str) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:

            def abort() -> None:
                wait_until_busy(ctx)
                ctx.abort("the user pressed a button")

            thread = threading.Thread(target=abort)
            thread.start()
            with pytest.raises(ContextClosedError, match=r"(?m)^this Context was aborted: the user pressed a button$"):
                ctx.recv(np.empty(1), 1)
            thread.join(30)
            assert not thread.is_alive()
        else:
            with pytest.raises(PeerLostError, match="in recv: it aborted: the user pressed a button"):
                ctx.recv(np.empty(1), 0)

    start = time.monotonic()
    run_ranks(3, body, device=Device(transport=transport))
    assert time.monotonic() - start < PROMPT


def test_aborting_from_another_thread_while_the_context_is_not_used() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(ctx.abort, "from outside").result(30)
            assert ctx.closed
        else:
            with pytest.raises(PeerLostError, match="it aborted: from outside"):
                ctx.recv(np.empty(1), 0)

    run_ranks(2, body)


def test_aborting_while_the_last_operation_is_about_to_end() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            with pytest.raises(PeerLostError, match="it aborted: just in time"):  # noqa: PT012
                ctx.allreduce(np.ones(3), op=add)
                ctx.recv(np.empty(1), 0)
            return
        aborter = threading.Thread(target=ctx.abort, args=("just in time",))

        def start_aborting(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if len(a) == 1:  # it is tried
                return a
            aborter.start()
            aborter.join(0.2)  # so that it waits for this operation, which does not wait any more itself
            return a + b

        start_aborting.__name__ = "add"
        with suppress(ContextClosedError):
            ctx.allreduce(np.ones(3), op=start_aborting)
        aborter.join(30)
        assert ctx.closed

    def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    run_ranks(2, body, timeout=5)


def test_a_long_reason_is_cut() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.abort("very " * 10_000)
        else:
            with pytest.raises(PeerLostError, match="it aborted: very very ") as caught:
                ctx.recv(np.empty(1), 0)
            assert len(str(caught.value)) < 9000

    run_ranks(2, body)


# -- copying ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_handles_cannot_be_copied(copied: Callable[[Any], Any]) -> None:
    """The copy would end what the original stands for when it is collected."""

    def body(ctx: Context) -> None:
        request = ctx.irecv(np.empty(1), ctx.rank)
        with pytest.raises(TypeError, match=r"^a Context cannot be copied or pickled: .*; ctx\.dup\(\) makes another"):
            copied(ctx)
        with pytest.raises(TypeError, match=r"^a Request cannot be copied or pickled: .*; send its result$"):
            copied(request)
        ctx.send(np.ones(1), ctx.rank)
        request.wait()
        ctx.send(np.ones(1), ctx.rank)
        message = ctx.mprobe(ctx.rank)
        with pytest.raises(TypeError, match=r"^a Message cannot be copied or pickled: .*; send what it holds$"):
            copied(message)
        message.recv(np.empty(1))
        gc.collect()
        assert ctx.allreduce(np.ones(1)).tolist() == [2]

    run_ranks(2, body)


# -- dropping -----------------------------------------------------------------------------------------------------------


def test_the_sockets_are_freed_where_the_warning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    first, second = connected(2)
    unraised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraised.append(str(args.exc_value)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del first
        gc.collect()
    assert unraised == ["<gloompi.Context rank 0 of 2> was not closed"]
    with pytest.raises(PeerLostError):
        second.recv(np.empty(1), 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_sockets_are_freed_where_all_contexts_of_a_rank_are_collected_at_once() -> None:
    before = len(os.listdir("/proc/self/fd"))
    first, second = connected(2)
    program: dict[str, Any] = {"ctx": first, "twins": [first.dup(), first.dup()]}
    program["itself"] = program
    with second.dup(), second.dup(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del first, program
        gc.collect()
        texts = [str(warning.message) for warning in caught]
        assert texts.count("<gloompi.Context rank 0 of 2> was not closed") == 3
        with pytest.raises(PeerLostError):
            second.recv(np.empty(1), 0)
    assert len(os.listdir("/proc/self/fd")) == before


@transports
def test_a_context_that_is_collected_as_part_of_a_cycle_warns(monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    """The collector may close its sockets before it comes to the Context."""
    before = len(os.listdir("/proc/self/fd"))
    first, second = connected(2, transport)
    program: dict[str, Any] = {"ctx": first}
    program["itself"] = program
    unraised: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraised.append(repr(args.exc_value)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del first, program
        gc.collect()
    assert unraised == []
    assert {warning.category for warning in caught} == {ResourceWarning}
    texts = [str(warning.message) for warning in caught]
    own = [text for text in texts if not text.startswith("unclosed <socket.socket ")]  # which Python says of those sockets
    assert own == ["<gloompi.Context rank 0 of 2> was not closed"]
    with pytest.raises(PeerLostError, match=r"^lost rank 0 .* in recv: connection closed by peer"):
        second.recv(np.empty(1), 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_context_is_collected_without_a_word() -> None:
    contexts = connected(3)
    contexts[0].close()
    contexts[1].abort("done")
    with pytest.raises(PeerLostError):
        contexts[2].recv(np.empty(1), 1)
    del contexts
    gc.collect()


# -- threads ------------------------------------------------------------------------------------------------------------


def test_two_contexts_in_one_thread() -> None:
    contexts = connected(2)
    others = connected(2)
    for count in (3, LARGE):
        requests = [
            each[rank].iallreduce(np.full(count, scale * (rank + 1)))
            for each, scale in ((contexts, 1), (others, 10))
            for rank in range(2)
        ]
        assert [result[-1] for result in finish(requests)] == [3, 3, 30, 30]
    contexts[0].close()
    contexts[1].close()
    finish([ctx.ibarrier() for ctx in others])  # these have nothing to do with it
    for ctx in others:
        ctx.close()


def test_a_second_thread_waits_for_its_turn() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.recv(np.empty(1), 0, tag=2)  # rank 0's second thread can be in time only ...
            ctx.send(np.array([1.0]), 0, tag=1)
            ctx.recv(np.empty(1), 0, tag=3)
            return
        started = threading.Event()

        def second() -> None:
            wait_until_busy(ctx)
            started.set()
            ctx.send(np.array([3.0]), 1, tag=3)  # ... when the first has its message

        thread = threading.Thread(target=second)
        thread.start()
        ctx.send(np.array([2.0]), 1, tag=2)
        ctx.recv(np.empty(1), 1, tag=1)
        while not started.is_set():  # the second thread has not seen that one busy: give it another
            ctx.sendrecv(np.empty(1), 0, np.empty(1), 0)
        thread.join(30)
        assert not thread.is_alive()

    run_ranks(2, body)


def test_an_operator_that_uses_its_own_context_is_refused() -> None:
    def body(ctx: Context) -> None:
        def nested(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if len(a) > 1:  # not when it is tried
                ctx.barrier()
            return a + b

        ctx.allreduce(np.ones(3), op=nested)

    with pytest.raises(RankError) as caught:
        run_ranks(2, body)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert str(caught.value.__cause__) == (
        "barrier was called from within allreduce #1 on the same Context, by a signal handler or an op"
    )


# -- processes ----------------------------------------------------------------------------------------------------------


def test_a_signal_handler_may_abort() -> None:
    lines = in_subprocess("""
import os, signal, threading
import numpy as np
from gloompi import ContextClosedError, PeerLostError
from test_lifecycle import connected, wait_until_busy

first, second = connected(2)
signal.signal(signal.SIGTERM, lambda *_: first.abort("told to go"))
texts = []

def peer():
    wait_until_busy(first)
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        second.recv(np.empty(1), 0)
    except PeerLostError as exc:
        texts.append(str(exc))

thread = threading.Thread(target=peer)
thread.start()
try:
    first.recv(np.empty(1), 1)
except ContextClosedError as exc:
    print(exc)
thread.join(20)
print(*texts)
""")
    assert lines[0] == "this Context was aborted: told to go"
    assert lines[1].startswith("lost rank 0 (")
    assert ") in recv: it aborted: told to go" in lines[1]


def test_a_program_that_forgets_to_close_ends() -> None:
    start = time.monotonic()
    lines = in_subprocess("""
import warnings
warnings.simplefilter("ignore", ResourceWarning)
from test_lifecycle import connected
contexts = connected(3)
requests = [ctx.ibarrier() for ctx in contexts[:2]]
print("over")
""")
    assert lines == ["over"]
    assert time.monotonic() - start < 20


# -- leaks --------------------------------------------------------------------------------------------------------------


@transports
def test_nothing_is_left_behind(transport: str) -> None:
    def fails(ctx: Context) -> None:
        ctx.iallreduce(np.ones(LARGE))
        if ctx.rank == 2:
            raise RuntimeError("on purpose")
        ctx.recv(np.empty(1), 2)

    def works(ctx: Context) -> None:
        ctx.allreduce(np.ones(LARGE))

    def times_out(ctx: Context) -> None:
        with pytest.raises(GloompiError):
            ctx.recv(np.empty(1), 0, timeout=0.05)

    for n in (1, 3, 8):
        run_ranks(n, works, device=Device(transport=transport))
        run_ranks(n, times_out, device=Device(transport=transport))
        if n > 2:
            with pytest.raises(RankError, match="on purpose"):
                run_ranks(n, fails, device=Device(transport=transport))
