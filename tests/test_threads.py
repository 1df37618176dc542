"""Several threads on one Context, and on several that share connections: whoever waits lets the others in."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

import gloompi
from gloompi import ANY_SOURCE, ANY_TAG, Context, ContextClosedError, Device, OperationTimeoutError, PeerLostError
from gloompi.engine import turn as module
from gloompi.engine.polling import Poller
from gloompi.engine.sleepers import Sleepers
from gloompi.engine.task import Awaited
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import RankError, run_ranks

WAIT = 30.0

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


class Threads:
    """Threads of one rank; the first failure of any of them is raised at the end."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []

    def start(self, action: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                action()
            except BaseException as exc:
                self.failures.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()


@contextmanager
def threads() -> Iterator[Threads]:
    group = Threads()
    yield group
    group.join()
    if group.failures:
        raise group.failures[0]


def until_asleep(ctx: Context, count: int = 1) -> None:
    """Wait until so many threads sleep in a Context's engine."""
    deadline = monotonic() + WAIT
    while len(ctx._engine.sleepers.calls) < count:
        assert monotonic() < deadline
        sleep(1e-3)


def until_asked(ctx: Context, count: int) -> None:
    """Wait until so many threads sleep, and will do so for as long as their budgets last."""
    until_asleep(ctx, count)
    deadline = monotonic() + WAIT
    while not all(task.asked for task in tuple(ctx._engine.sleepers.calls.values())):  # type: ignore[attr-defined]
        assert monotonic() < deadline
        sleep(1e-3)


@transports
@pytest.mark.parametrize("n", [2, 3])
def test_two_threads_on_two_dups_in_different_orders(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        with ctx.dup() as one, ctx.dup() as other, threads() as group:

            def reduce(on: Context) -> None:
                for number in range(60):
                    assert on.allreduce(np.array([number]))[0] == n * number

            for on in (one, other) if ctx.rank % 2 else (other, one):
                group.start(lambda on=on: reduce(on))  # type: ignore[misc]

    run_ranks(n, body, timeout=WAIT, device=Device(transport=transport))


@transports
def test_two_threads_on_one_context(transport: str) -> None:
    """Each has a tag of its own, and what the one waits for the other may be the one to receive."""

    def body(ctx: Context) -> None:
        def exchange(tag: int) -> None:
            out = np.empty(1 + 20_000 * (tag % 2))
            for number in range(100):
                ctx.send(np.full(len(out), 1000.0 * tag + number), 1 - ctx.rank, tag=tag)
                ctx.recv(out, 1 - ctx.rank, tag=tag)
                assert (out == 1000 * tag + number).all()

        with threads() as group:
            for tag in range(3):
                group.start(lambda tag=tag: exchange(tag))  # type: ignore[misc]

    run_ranks(2, body, timeout=WAIT, device=Device(transport=transport))


def test_a_listener_beside_a_sender() -> None:
    """The listener sleeps in recv; what the other thread does goes on as if it were not there."""

    def body(ctx: Context) -> float:
        heard: list[float] = []

        def listen() -> None:
            out = np.empty(1)
            while True:
                ctx.recv(out, ANY_SOURCE, tag=7)
                if out[0] < 0:
                    return
                heard.append(out[0])

        with threads() as group:
            group.start(listen)
            until_asleep(ctx)
            peer = 1 - ctx.rank
            began = monotonic()
            for number in range(50):
                ctx.send(np.array([float(number)]), peer, tag=7)
                assert ctx.allreduce(np.ones(1))[0] == 2
            seconds = monotonic() - began
            ctx.send(np.array([-1.0]), peer, tag=7)
        assert heard == list(range(50))
        return seconds

    assert max(run_ranks(2, body, timeout=WAIT)) < WAIT / 3


def test_test_and_iprobe_beside_a_sleeper_do_not_wait() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.barrier()
            ctx.send(np.ones(1), 0, tag=1)
            return
        with threads() as group:
            group.start(lambda: ctx.recv(np.empty(1), 1, tag=1))
            until_asleep(ctx)
            request = ctx.irecv(np.empty(1), 1, tag=2)
            began = monotonic()
            assert not request.test()
            assert not ctx.iprobe(1, tag=3)
            assert monotonic() - began < 1
            assert request.cancel()
            ctx.barrier()

    run_ranks(2, body, timeout=WAIT)


@pytest.mark.parametrize("sleepers", [1, 2])
def test_cancel_ends_the_wait_of_another_thread(sleepers: int) -> None:
    """Whether that one polls or sleeps behind one that does."""

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.barrier()
            return
        results: list[Any] = []
        first = ctx.irecv(np.empty(1), 1, tag=1)
        request = ctx.irecv(np.empty(1), 1, tag=2)
        with threads() as group:
            if sleepers == 2:
                group.start(first.wait)
                until_asleep(ctx)
            group.start(lambda: results.append(request.wait()))
            until_asleep(ctx, sleepers)
            assert request.cancel()
            began = monotonic()
            while not results:
                assert monotonic() - began < 5
                sleep(1e-3)
            assert first.cancel()
        assert results == [None]
        ctx.barrier()

    run_ranks(2, body, timeout=WAIT)


def test_the_next_sleeper_polls_when_the_first_has_what_it_waited_for() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            for tag in (1, 2, 3):
                ctx.recv(np.empty(0), 0, tag=9)
                sleep(0.02)
                ctx.send(np.full(1, float(tag)), 0, tag=tag)
            return
        outs = {tag: np.empty(1) for tag in (1, 2, 3)}
        with threads() as group:
            for tag, out in outs.items():
                group.start(lambda tag=tag, out=out: ctx.recv(out, 1, tag=tag))  # type: ignore[misc]
                until_asleep(ctx, tag)
            until_asked(ctx, 3)
            for tag, out in outs.items():
                ctx.send(np.empty(0), 1, tag=9)
                began = monotonic()
                while out[0] != tag:
                    assert monotonic() - began < 5
                    sleep(1e-3)

    run_ranks(2, body, timeout=WAIT)


@pytest.mark.parametrize("how", ["close", "abort", "lost"])
def test_all_threads_learn_of_the_end(how: str) -> None:
    over = threading.Event()

    def body(ctx: Context) -> list[str]:
        if ctx.rank == 1:
            over.wait(WAIT)
            if how == "lost":
                ctx.abort("enough")
            return []
        group = Threads()
        for tag in (1, 2, 3):
            group.start(lambda tag=tag: ctx.recv(np.empty(1), 1, tag=tag))  # type: ignore[misc]
            until_asleep(ctx, tag)
        until_asked(ctx, 3)
        over.set()
        began = monotonic()
        if how == "close":
            ctx.close()
        elif how == "abort":
            ctx.abort("enough")
        group.join()
        assert monotonic() - began < 5
        return [type(exc).__name__ for exc in group.failures]

    expected = "PeerLostError" if how == "lost" else "ContextClosedError"
    try:
        found = run_ranks(2, body, timeout=WAIT)[0]
    except RankError:
        assert how != "close"
    else:
        assert found == [expected] * 3


def test_closing_a_dup_ends_the_calls_of_other_threads_on_it_alone() -> None:
    def body(ctx: Context) -> None:
        with ctx.dup() as kept:
            if ctx.rank == 0:
                group = Threads()
                group.start(lambda: ctx.recv(np.empty(1), 1))
                until_asleep(ctx)
                ctx.close()
                group.join()
                assert [type(exc) for exc in group.failures] == [ContextClosedError]
                assert "recv was under way when this Context was closed" in str(group.failures[0])
            kept.barrier()

    run_ranks(2, body, timeout=WAIT)


def test_a_sleeper_behind_another_keeps_its_own_budget() -> None:
    def body(ctx: Context) -> str:
        if ctx.rank == 1:
            with pytest.raises(OperationTimeoutError, match="reported by rank 0"):
                ctx.recv(np.empty(1), 0)
            return ""
        group = Threads()
        group.start(lambda: ctx.recv(np.empty(1), 1, tag=1))
        until_asleep(ctx)
        began = monotonic()
        with pytest.raises(OperationTimeoutError) as caught:
            ctx.recv(np.empty(1), 1, tag=2, timeout=0.3)
        assert 0.3 <= monotonic() - began < 2
        group.join()
        assert group.failures == [caught.value]
        return str(caught.value)

    text = run_ranks(2, body, timeout=WAIT)[0]
    assert text.startswith("recv timed out after 0.3 s: got 0 of 8 bytes from rank 1")


def test_many_threads_and_messages_of_all_sizes() -> None:
    """Every message arrives once, at its own receive."""

    def body(ctx: Context) -> None:
        peer, count = 1 - ctx.rank, 25

        def send(tag: int) -> None:
            generator = np.random.default_rng(tag)
            for number in range(count):
                ctx.send(
                    np.full(int(generator.choice([0, 1, 100, 40_000, 100_000])) + 1, tag * 1000 + number), peer, tag=tag
                )

        def receive(tag: int) -> None:
            generator = np.random.default_rng(tag)
            for number in range(count):
                out = np.empty(int(generator.choice([0, 1, 100, 40_000, 100_000])) + 1, int)
                status = ctx.recv(out, peer, tag=tag)
                assert status.nbytes == out.nbytes
                assert (out == tag * 1000 + number).all()

        with threads() as group:
            for tag in range(4):
                group.start(lambda tag=tag: send(tag))  # type: ignore[misc]
                group.start(lambda tag=tag: receive(tag))  # type: ignore[misc]

    run_ranks(2, body, timeout=WAIT)


def test_a_wait_for_any_in_one_thread_and_for_each_in_another() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            for tag in range(20):
                ctx.recv(np.empty(0), 0, tag=99)
                ctx.send(np.array([tag]), 0, tag=tag)
            return
        out = np.empty((20, 1), int)
        requests = [ctx.irecv(out[tag], 1, tag=tag) for tag in range(20)]

        def any_of() -> None:
            left = requests[:10]
            while left:
                index, _ = gloompi.wait_any(left)
                left.pop(index)

        with threads() as group:
            group.start(any_of)
            group.start(lambda: [request.wait() for request in requests[10:]])
            for _ in range(20):
                ctx.send(np.empty(0), 1, tag=99)
        assert (out[:, 0] == np.arange(20)).all()

    run_ranks(2, body, timeout=WAIT)


def test_a_probe_beside_a_receive_of_any() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.barrier()
            ctx.send(np.ones(3), 0, tag=4)
            return
        found: list[Any] = []
        with threads() as group:
            group.start(lambda: found.append(ctx.mprobe(1, tag=ANY_TAG)))
            until_asleep(ctx)
            ctx.barrier()
        out = np.empty(3)
        assert found[0].recv(out) == (1, 4, 24)

    run_ranks(2, body, timeout=WAIT)


# -- the parts ------------------------------------------------------------------------------------------------------------


def test_a_thread_that_does_nothing_but_use_the_turn_lets_others_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HAND_OVER_TRIES", 1_000_000)  # on a busy machine a thread takes its time to wake up
    turn = module.Turn(lambda reason: None)
    me, rounds = threading.get_ident(), 300
    had = ahead = 0  # turns of the other one, and of them, those that it has had although this one wanted its own
    over = threading.Event()

    def take_and_give() -> None:
        nonlocal had, ahead
        while not over.is_set():
            turn.take(gloompi.deadline.Deadline(WAIT), "send", lambda: "recv")
            had += 1
            ahead += me in turn.wanting
            turn.give()

    busy = threading.Thread(target=take_and_give)
    busy.start()
    try:
        for _ in range(rounds):
            before = had
            while had == before:  # it is at it
                sleep(1e-4)
            turn.take(gloompi.deadline.Deadline(WAIT), "send", lambda: "recv")
            turn.give()
    finally:
        over.set()
        busy.join(WAIT)
    assert ahead <= rounds  # the one that it had, each time; else it has thousands, until the interpreter stops it


def test_all_that_doze_are_woken_at_once() -> None:
    """Whatever keeps the one that polls, and whoever is next."""
    turn = module.Turn(lambda reason: None)
    poller = Poller(crowded=False, shared=False, woken=lambda: None)
    sleepers = Sleepers(turn, poller, lambda: False)
    woken: list[int] = []

    def doze(number: int) -> None:
        turn.take(gloompi.deadline.Deadline(WAIT), "recv", lambda: "recv")
        sleepers.sleep(Awaited(), WAIT)
        woken.append(number)
        turn.give()

    with threads() as group:
        sleepers._polling = True  # by a thread that does not come back
        dozing = [group.start(lambda number=number: doze(number)) for number in range(3)]  # type: ignore[misc]
        deadline = monotonic() + WAIT
        while len(sleepers.calls) < 3 or len(turn.resting) < 3:
            assert monotonic() < deadline
            sleep(1e-3)
        sleepers.rouse_all()
        for thread in dozing:
            thread.join(WAIT / 10)
        assert sorted(woken) == [0, 1, 2]
    poller.close()


def test_descriptors_are_closed_when_the_thread_that_sleeps_on_them_has_woken() -> None:
    turn = module.Turn(lambda reason: None)
    poller = Poller(crowded=False, shared=False, woken=lambda: None)
    turn.take(gloompi.deadline.Deadline(WAIT), "recv", lambda: "recv")

    def close() -> None:
        turn.take(gloompi.deadline.Deadline(WAIT), "close", lambda: "recv")
        poller.close()
        assert not poller._epoll.closed
        turn.give()

    with threads() as group:
        group.start(close)
        began = monotonic()
        poller.sleep(WAIT, turn)
        assert monotonic() - began < WAIT / 2
        turn.give()
    assert poller._epoll.closed


# -- signals and children -------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What the handler raises."""


@contextmanager
def handled(handler: Callable[[], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def pair_of_contexts() -> tuple[Context, Context]:
    with ThreadPoolExecutor(2) as pool:
        connect = lambda exchange: Context._from_exchange(exchange, None, WAIT, gloompi.deadline.Deadline(WAIT))  # noqa: E731
        first, second = pool.map(connect, local_exchanges(2))
    return first, second


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupt_of_a_thread_that_sleeps_is_told(behind: bool) -> None:
    """Whether it polls for all, or sleeps behind one that does."""
    first, second = pair_of_contexts()
    main = threading.get_ident()

    def interrupt() -> None:
        raise Interrupted("by a signal")

    def kill() -> None:
        until_asleep(first, 2 if behind else 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    group = Threads()
    if behind:
        group.start(lambda: first.recv(np.empty(1), 1, tag=1))
        until_asleep(first)
    group.start(kill)
    with handled(interrupt), pytest.raises(Interrupted):
        first.recv(np.empty(1), 1, tag=2)
    assert first.closed
    with pytest.raises(PeerLostError, match="it aborted: Interrupted: by a signal"):
        second.recv(np.empty(1), 0)
    group.join()
    assert [type(exc) for exc in group.failures] == [ContextClosedError] * behind
    first.close()
    second.close()


@pytest.mark.parametrize("way", ["recv", "any", "irecv", "probe"])
def test_a_message_to_oneself_wakes_the_thread_that_waits_for_it(way: str) -> None:
    """The thread that sends it looks at the connections itself afterwards, and may not take the alarm away."""

    def body(ctx: Context) -> None:
        out = np.zeros(1)

        def listen() -> None:
            if way == "probe":
                ctx.probe(0, tag=5)
            elif way == "irecv":
                ctx.irecv(out, 0, tag=5).wait()
            else:
                ctx.recv(out, ANY_SOURCE if way == "any" else 0, tag=5)

        for _ in range(3):
            with threads() as group:
                began = monotonic()
                listener = group.start(listen)
                until_asked(ctx, 1)
                ctx._engine._poller.stale = 0.0  # so that the sender looks
                ctx.send(np.ones(1), 0, tag=5)
                while listener.is_alive():
                    assert monotonic() - began < WAIT / 2
                    ctx.iprobe(0, tag=9)
                if way == "probe":
                    ctx.recv(out, 0, tag=5)

    run_ranks(1, body, timeout=WAIT)


@pytest.mark.parametrize("what", ["isend", "irecv", "held"])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_a_thread_that_sleeps_moves_what_others_begin(what: str, transport: str) -> None:
    large = np.arange(1_000_000.0)
    full = threading.Event()

    def body(ctx: Context) -> None:
        with ctx.dup() as other:
            if ctx.rank == 1:
                if what == "irecv":
                    ctx.send(large, 0)
                else:
                    out = np.empty(10 if what == "held" else len(large))
                    request = ctx.irecv(out, 0)
                    if what == "isend":
                        pair = ctx._engine._links[0]
                        pair.sock = Sipping(pair.sock)  # type: ignore[attr-defined]
                        while not any(each.nbytes for each in request._task.awaited):  # type: ignore[attr-defined]
                            request.test()  # until it has asked for the message, and has begun to take it perhaps
                        assert full.wait(WAIT)
                    request.wait()
                    assert (out == large[: len(out)]).all()
                other.send(np.ones(1), 0)
                return
            with threads() as group:
                listener = group.start(lambda: other.recv(np.empty(1), 1))
                until_asked(ctx, 1)  # it will not look at anything again before something has come
                if what == "isend":
                    pair = ctx._engine._links[1]
                    pair.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # type: ignore[attr-defined]
                    request = ctx.isend(large, 1)
                    while not ctx._engine._poller.writing:
                        request.test()
                    full.set()
                elif what == "irecv":
                    while not ctx.iprobe(1):
                        sleep(1e-3)
                    request = ctx.irecv(out := np.empty_like(large), 1)
                else:
                    pair = ctx._engine._links[1]
                    pair.sock = Lacking(pair.sock, until=monotonic() + 0.1)  # type: ignore[attr-defined]
                    request = ctx.isend(large[:10], 1)
                listener.join(WAIT / 4)
                assert not listener.is_alive()
                request.wait()
                assert what != "irecv" or (out == large).all()

    run_ranks(2, body, timeout=WAIT, device=Device(transport=transport, single_copy=what == "irecv"))


class Sipping:
    """A socket from which little is read at a time."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv_into(self, window: memoryview, nbytes: int = 0) -> int:
        most = min(len(window), nbytes or len(window), 10_000)
        return int(self._sock.recv_into(window[:most]))


class Lacking:
    """A socket for whose messages the kernel has no memory for a while."""

    def __init__(self, sock: Any, until: float) -> None:
        self._sock, self._until = sock, until

    def __getattr__(self, name: str) -> Any:
        if name in ("send", "sendmsg") and monotonic() < self._until:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return getattr(self._sock, name)


@pytest.mark.parametrize("late", ["waits for the turn", "lets another in"])
def test_closing_ends_the_call_of_a_thread_that_is_awake(late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(ctx: Context) -> None:
        other, engine = ctx.dup(), ctx._engine
        errors: list[Exception] = []
        resting, closed = threading.Event(), threading.Event()

        def listen() -> None:
            with pytest.raises(ContextClosedError) as caught:
                other.recv(np.empty(1), 0, tag=1)
            errors.append(caught.value)

        def let_in() -> None:
            engine.turn.rest()
            resting.set()
            assert closed.wait(WAIT)
            engine.turn.resume()

        def leave(*arguments: Any) -> None:
            del engine.leave  # the next one is another's
            listener = group.start(listen)
            while listener.ident not in engine.turn.wanting:
                sleep(1e-3)
            engine.leave(*arguments)

        with threads() as group:
            if late == "lets another in":
                engine.turn.let_in = let_in  # type: ignore[method-assign]
                move = engine._move
                moved = iter([True])
                engine._move = lambda: next(moved, False) or move()  # type: ignore[method-assign]
                engine.turn.wanting.add(-1)
                group.start(listen)
                assert resting.wait(WAIT)
                engine.turn.wanting.discard(-1)
                other.close()
                closed.set()
            else:
                engine.leave = leave  # type: ignore[method-assign]
                other.close()
        assert len(errors) == 1
        assert not ctx.closed

    run_ranks(1, body, timeout=WAIT / 2)


@pytest.mark.parametrize("algorithm", ["recursive_doubling", "halving_doubling"])
def test_an_error_in_another_threads_operator_is_that_threads(algorithm: str) -> None:
    """In the algorithm, or where what comes is reduced as it comes; who meets it is the thread that polls for all."""
    count = 50_000
    asleep = threading.Event()

    def body(ctx: Context) -> None:
        other = ctx.dup()

        def picky(a: Any, b: Any) -> Any:
            if len(a) > 1 and ctx.rank == 0:
                raise KeyError("in the operator")
            return a + b

        def reduce() -> None:
            until_asked(ctx, 1)
            with pytest.raises(KeyError):
                other.allreduce(np.ones(count), op=picky, algorithm=algorithm)

        if ctx.rank == 1:
            assert asleep.wait(WAIT)
            other.iallreduce(np.ones(count), op=picky, algorithm=algorithm)
            with pytest.raises(PeerLostError, match="it aborted: KeyError"):
                ctx.recv(np.empty(1), 0)
            return
        with threads() as group:
            group.start(reduce)
            group.start(lambda: (until_asked(ctx, 2), asleep.set()))
            with pytest.raises(ContextClosedError, match="this Context was aborted: KeyError"):
                ctx.recv(np.empty(1), 1, tag=1)

    run_ranks(2, body, timeout=WAIT)


def test_an_interrupt_of_a_thread_that_waits_for_the_turn_is_told_when_the_other_is_out_of_its_operator() -> None:
    first, second = pair_of_contexts()
    engine, main = first._engine, threading.get_ident()
    computing, go = threading.Event(), threading.Event()
    meanwhile: list[BaseException | None] = []

    def slow(a: Any, b: Any) -> Any:
        if threading.current_thread() is reducer and (a == 7).any():
            computing.set()
            assert go.wait(WAIT)
        return a + b

    def interrupt() -> None:
        raise Interrupted("by a signal")

    def kill() -> None:
        assert computing.wait(WAIT)
        deadline = monotonic() + WAIT
        while main not in engine.turn.wanting:  # when it has slept for a while it looks at who is left
            assert monotonic() < deadline
            sleep(1e-3)
        signal.pthread_kill(main, signal.SIGUSR1)
        while engine.turn._asked is None and engine.error is None:
            assert monotonic() < deadline
            sleep(1e-3)
        meanwhile.append(engine.error)
        go.set()

    group = Threads()
    reducer = group.start(lambda: (until_asleep(first), first.allreduce(np.full(3, 7.0), op=slow)))
    group.start(lambda: second.allreduce(np.full(3, 7.0), op=slow))
    group.start(kill)
    with handled(interrupt), pytest.raises(Interrupted):
        first.recv(np.empty(1), 1, tag=2)
    group.join()
    assert meanwhile == [None]
    assert first.closed
    with pytest.raises(PeerLostError, match="it aborted: Interrupted: by a signal"):
        second.recv(np.empty(1), 0)
    first.close()
    second.close()


def test_a_signal_handler_may_not_use_a_context_that_its_thread_waits_in() -> None:
    first, second = pair_of_contexts()
    main, said = threading.get_ident(), []

    def use() -> None:
        try:
            first.send(np.ones(1), 1)
        except RuntimeError as exc:
            said.append(str(exc))

    def kill() -> None:
        until_asleep(first)
        signal.pthread_kill(main, signal.SIGUSR1)
        while not said:
            sleep(1e-3)
        second.send(np.ones(1), 0)

    with handled(use), threads() as group:
        group.start(kill)
        first.recv(np.empty(1), 1)
    assert said == ["send was called from within recv on the same Context, by a signal handler or an op"]
    first.close()
    second.close()


def test_a_child_forked_while_a_thread_sleeps_has_nothing_of_it() -> None:
    first, second = pair_of_contexts()
    with threads() as group:
        group.start(lambda: first.recv(np.empty(1), 1))
        until_asleep(first)
        child = os.fork()
        if child == 0:
            try:
                first.barrier(timeout=2)
            except ContextClosedError as exc:
                os._exit(0 if "a child makes its own" in str(exc) else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        second.send(np.ones(1), 0)
    first.close()
    second.close()
