"""Requests: the non-blocking form of every operation, overlapping ones, and how they end."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gloompi import (
    Context,
    ContextClosedError,
    Device,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    Request,
    Status,
)
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 12 * EAGER + 3

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


def values(rank: int, count: int) -> np.ndarray:
    return np.arange(count) % 1000 * 3.0 + rank


@transports
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_every_operation_has_a_non_blocking_form(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        me, after, before = ctx.rank, (ctx.rank + 1) % n, (ctx.rank - 1) % n
        for count in (0, 1, 7, LARGE):
            for root in {0, n - 1}:
                every = np.array([values(rank, count) for rank in range(n)])
                x, out, incoming = values(me, count), np.empty(count), np.empty(count)
                whole = np.empty((n, count))
                started: list[tuple[Request, Any]] = [
                    (ctx.ibarrier(), None),
                    (ctx.ibroadcast(shared := values(me, count), root=root), every[root]),
                    (ctx.ireduce(x, root=root), every.sum(0) if me == root else None),
                    (ctx.ireduce(x, np.empty(count), root=root, op="max"), every.max(0, initial=0) if me == root else None),
                    (ctx.iallreduce(x), every.sum(0)),
                    (ctx.iallreduce(x, out, op="min", algorithm="recursive_doubling"), every.min(0)),
                    (ctx.iallgather(x), every),
                    (ctx.iallgather(x, whole, algorithm="ring"), every),
                    (ctx.igather(x, root=root), every if me == root else None),
                    (ctx.iscatter(every if me == root else None, np.empty(count), root=root), every[me]),
                    (ctx.irecv(incoming, before, tag=1), Status(before, 1, 8 * count)),
                    (ctx.isend(x, after, tag=1), None),
                    (ctx.isendrecv(x, before, np.empty(count), after, sendtag=2, recvtag=2), Status(after, 2, 8 * count)),
                ]
                for request, wanted in started:
                    result = request.wait()
                    assert request.done
                    assert request.test()
                    assert request.wait(timeout=0) is result  # waiting again gives the same, at once
                    if isinstance(wanted, np.ndarray):
                        np.testing.assert_array_equal(result, wanted)
                    else:
                        assert result == wanted
                np.testing.assert_array_equal(shared, every[root])
                np.testing.assert_array_equal(out, every.min(0))
                np.testing.assert_array_equal(whole, every)
                np.testing.assert_array_equal(incoming, every[before])

    run_ranks(n, body, device=Device(transport=transport))


@transports
@pytest.mark.parametrize("n", [2, 3, 4])
def test_twenty_operations_under_way_waited_for_in_reverse(n: int, transport: str) -> None:
    counts = [1, LARGE, 0, 1000, 4 * EAGER] * 4

    def body(ctx: Context) -> None:
        me, after, before = ctx.rank, (ctx.rank + 1) % n, (ctx.rank - 1) % n
        requests: list[tuple[Request, Callable[[Any], None]]] = []
        for number, count in enumerate(counts):
            algorithm = ("auto", "recursive_doubling", "halving_doubling", "ring")[number % 4]
            x, incoming = values(me + number, count), np.full(count, -1.0)
            total = sum(values(rank + number, count) for rank in range(n))
            sent = values(before, count) + number

            def check_total(result: Any, total: Any = total) -> None:
                np.testing.assert_array_equal(result, total)

            def check_message(_: Any, incoming: Any = incoming, sent: Any = sent) -> None:
                np.testing.assert_array_equal(incoming, sent)

            requests += [
                (ctx.iallreduce(x, algorithm=algorithm), check_total),
                (ctx.isend(values(me, count) + number, after, tag=number), lambda _: None),
                (ctx.irecv(incoming, before, tag=number), check_message),
            ]
        for request, check in reversed(requests):
            check(request.wait())
        assert all(request.done for request, _ in requests)

    run_ranks(n, body, device=Device(transport=transport))


def test_requests_of_many_kinds_while_blocking_calls_go_on() -> None:
    def body(ctx: Context) -> None:
        x = np.full(LARGE, float(ctx.rank))
        early = [ctx.iallreduce(x), ctx.iallgather(x[:500]), ctx.ibroadcast(x.copy(), root=2)]
        for _ in range(3):
            assert ctx.allreduce(np.ones(5)).tolist() == [3.0] * 5
        total, gathered, copied = [request.wait() for request in early]
        assert (total == 3).all()
        np.testing.assert_array_equal(gathered, np.repeat([[0.0], [1.0], [2.0]], 500, axis=1))
        assert (copied == 2).all()

    run_ranks(3, body)


def test_test_moves_bytes_and_done_does_not() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            request = ctx.irecv(np.empty(LARGE), 1)
            assert not request.done
            assert not request.test()
            ctx.send(np.ones(1), 1)
            while not request.test():
                assert not request.done or request.test()
            assert request.done
            assert request.wait() == Status(1, 0, 8 * LARGE)
        else:
            ctx.recv(np.empty(1), 0)
            ctx.send(np.ones(LARGE), 0)

    run_ranks(2, body)


def test_a_request_says_what_it_is() -> None:
    def body(ctx: Context) -> None:
        ctx.barrier()
        if ctx.rank == 0:
            received, reduced = ctx.irecv(np.empty(1), 1), ctx.iallreduce(np.ones(1))
            assert repr(received) == "<Request recv, under way>"
            assert repr(reduced) == "<Request allreduce #2, under way>"
            ctx.send(np.ones(1), 1)
            received.wait()
            reduced.wait()
            assert repr(received) == "<Request recv, done>"
            assert repr(reduced) == "<Request allreduce #2, done>"
            assert repr(ctx.isend(np.ones(1), 1)) == "<Request send, done>"
        else:
            ctx.recv(np.ones(1), 0)
            ctx.send(np.ones(1), 0)
            ctx.allreduce(np.ones(1))
            ctx.recv(np.ones(1), 0)

    run_ranks(2, body)


def test_waiting_for_a_request_has_a_timeout() -> None:
    def body(ctx: Context) -> str:
        if ctx.rank == 0:
            request = ctx.irecv(np.empty(4), 1, tag=3)
            with pytest.raises(ValueError, match=r"^timeout must be seconds >= 0 or None, not -1$"):
                request.wait(timeout=-1)
            with pytest.raises(OperationTimeoutError) as caught:
                request.wait(timeout=0.1)
            assert (caught.value.operation, caught.value.timeout) == ("recv", 0.1)
        else:
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.recv(np.empty(4), 0)
            assert caught.value.reported_by == 0
        return str(caught.value)

    mine, told = run_ranks(2, body)
    assert told == f"{mine} (reported by rank 0)"
    assert mine.startswith("recv timed out after 0.1 s: got 0 of 32 bytes from rank 1 (")
    assert mine.endswith("), which may have stopped or not sent it; see its log")


def test_requests_after_an_error_raise_it() -> None:
    ready = threading.Barrier(3)

    def body(ctx: Context) -> None:
        done = ctx.iallreduce(np.ones(3))
        done.wait()
        waiting = [ctx.irecv(np.empty(1), (ctx.rank + 1) % 3, tag=1), ctx.iallreduce(np.ones(3)), ctx.ibarrier()]
        ready.wait(30)
        with pytest.raises(MismatchError) as caught:
            ctx.iallreduce(np.ones(3 + (ctx.rank == 1))).wait()
        text = str(caught.value)
        assert ctx.closed
        assert not waiting[0].done
        for use in (waiting[0].wait, waiting[0].test):
            with pytest.raises(MismatchError) as caught:
                use()
            assert str(caught.value) == text
        for call in (lambda: ctx.iallreduce(np.ones(1)), lambda: ctx.isend(np.ones(1), 0), ctx.barrier):
            with pytest.raises(MismatchError) as caught:
                call()
            assert str(caught.value) == text
        # What had been done before stays done.
        assert done.test()
        assert done.wait().tolist() == [3] * 3
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (MismatchError, text)

    run_ranks(3, body)


def test_requests_of_a_closed_context_raise() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            done, waiting = ctx.ibarrier(), ctx.irecv(np.empty(1), 1)
            done.wait()
            ctx.close()
            assert done.test()
            assert done.wait() is None
            assert not waiting.done
            for use in (waiting.wait, waiting.test):
                with pytest.raises(ContextClosedError, match=r"^this Context is closed$"):
                    use()
        else:
            ctx.barrier()
            with pytest.raises(PeerLostError):
                ctx.recv(np.empty(1), 0)

    run_ranks(2, body)


def test_misuse_is_refused_at_the_start() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for call in (
                lambda: ctx.iallreduce(np.ones(3), np.ones(4)),
                lambda: ctx.ibroadcast(np.ones(3), root=2),
                lambda: ctx.ireduce(np.ones(3), op="median"),
                lambda: ctx.isend(np.ones(3), 5),
                lambda: ctx.iscatter(np.ones((3, 3))),
                lambda: ctx.igather(np.ones(3), np.ones(3)),
                lambda: ctx.iallgather(np.ones(3), algorithm="tree"),
            ):
                with pytest.raises(ValueError, match=r"must (be|have) |is needed"):
                    call()
        assert ctx.iallreduce(np.ones(3)).wait().tolist() == [2] * 3

    run_ranks(2, body)
