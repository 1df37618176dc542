"""The flight recorder: what ctx.history() says of every call, and what an error's traceback ends with."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from launch import run_job

from gloompi import (
    ANY_SOURCE,
    CallRecord,
    Context,
    ContextClosedError,
    Device,
    GloompiError,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
)
from gloompi.engine.conversation import descendant
from gloompi.engine.fingerprint import NO_FACTS, fingerprint
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.engine.recorder import CAPACITY, Entry, child_name, tail, time_of_day
from gloompi.testing import RankError, run_ranks

LARGE = 4 * EAGER_NBYTES

Facts = tuple[int, str, int | None, str | None, int | None, int | None, str]


def facts(record: CallRecord) -> Facts:
    """All but the times."""
    return (record.number, record.name, record.peer, record.dtype, record.count, record.nbytes, record.state)


def last(ctx: Context) -> Facts:
    return facts(ctx.history()[-1])


def names(ctx: Context) -> list[str]:
    return [record.name for record in ctx.history()]


# -- what is kept of each call ----------------------------------------------------------------------------------------------

# Call on a Context of 3 ranks, and of its record: name, root, dtype, count, nbytes.
COLLECTIVES: list[tuple[Callable[[Context], Any], str, int | None, str | None, int | None, int | None]] = [
    (lambda ctx: ctx.barrier(), "barrier", None, None, None, None),
    (lambda ctx: ctx.broadcast(np.ones((2, 3), "f4"), root=2), "broadcast", 2, "<f4", 6, 24),
    (lambda ctx: ctx.reduce(np.ones(5, "i8"), root=1), "reduce", 1, "<i8", 5, 40),
    (lambda ctx: ctx.allreduce(np.ones(7, ">f8"), op="max"), "allreduce", None, ">f8", 7, 56),
    (lambda ctx: ctx.allreduce(np.float32(1)), "allreduce", None, "<f4", 1, 4),
    (lambda ctx: ctx.allreduce(np.ones(0)), "allreduce", None, "<f8", 0, 0),
    (lambda ctx: ctx.reduce_scatter(np.ones((6, 2), "u1")), "reduce_scatter", None, "|u1", 12, 12),
    (lambda ctx: ctx.scan(np.ones(4, "c16")), "scan", None, "<c16", 4, 64),
    (lambda ctx: ctx.exscan(np.ones(4, "?"), op="lor"), "exscan", None, "|b1", 4, 4),
    (lambda ctx: ctx.gather(np.ones(3), root=0), "gather", 0, "<f8", 3, 24),
    (lambda ctx: ctx.scatter(np.ones((3, 4)), np.empty(4), root=2), "scatter", 2, "<f8", 4, 32),
    (lambda ctx: ctx.allgather(np.ones(3, "i2")), "allgather", None, "<i2", 3, 6),
    (lambda ctx: ctx.alltoall(np.ones((3, 2))), "alltoall", None, "<f8", 6, 48),
    (lambda ctx: ctx.gatherv(np.ones((ctx.rank, 2)), root=1), "gatherv", 1, "<f8", None, None),
    (lambda ctx: ctx.allgatherv(np.ones(ctx.rank)), "allgatherv", None, "<f8", None, None),
    (lambda ctx: ctx.alltoallv([np.ones(ctx.rank)] * 3), "alltoallv", None, "<f8", None, None),
    (lambda ctx: ctx.scatterv([np.ones(rank) for rank in range(3)], root=1), "scatterv", 1, None, None, None),
    (lambda ctx: ctx.broadcast_object({"a": 1}, root=1), "broadcast_object", 1, None, None, None),
    (lambda ctx: ctx.gather_object(ctx.rank, root=2), "gather_object", 2, None, None, None),
    (lambda ctx: ctx.scatter_object([1, 2, 3]), "scatter_object", 0, None, None, None),
    (lambda ctx: ctx.allgather_object(ctx.rank), "allgather_object", None, None, None, None),
    (lambda ctx: ctx.alltoall_object([1, 2, 3]), "alltoall_object", None, None, None, None),
    (lambda ctx: ctx.reduce_object(ctx.rank, root=1), "reduce_object", 1, None, None, None),
    (lambda ctx: ctx.allreduce_object(ctx.rank), "allreduce_object", None, None, None, None),
    (lambda ctx: ctx.scan_object(ctx.rank), "scan_object", None, None, None, None),
    (lambda ctx: ctx.exscan_object(ctx.rank), "exscan_object", None, None, None, None),
    (lambda ctx: ctx.split(None), "split", None, None, None, None),
]


def test_collectives() -> None:
    def body(ctx: Context) -> None:
        assert ctx.history() == []
        for number, (call, name, root, dtype, count, nbytes) in enumerate(COLLECTIVES, 1):
            before = time.time()
            call(ctx)
            assert last(ctx) == (number, name, root, dtype, count, nbytes, "done")
            record = ctx.history()[-1]
            assert record.end is not None
            assert before - 0.01 <= record.start <= record.end <= time.time() + 0.01
        assert names(ctx) == [name for _, name, *_ in COLLECTIVES]

    run_ranks(3, body)


def test_non_blocking_collectives_are_under_way_and_then_done() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            sums, barrier = ctx.iallreduce(np.ones(5)), ctx.ibarrier()
            wanted = [(1, "allreduce", None, "<f8", 5, 40), (2, "barrier", None, None, None, None)]
            assert [facts(record) for record in ctx.history()] == [(*each, "under way") for each in wanted]
            assert [record.end for record in ctx.history()] == [None, None]
            ctx.send(np.ones(0), 1)
            barrier.wait()
            sums.wait()
            assert [facts(record) for record in ctx.history()][:2] == [(*each, "done") for each in wanted]
            assert all(record.end is not None and record.end >= record.start for record in ctx.history())
        else:
            ctx.recv(np.ones(0), 0)
            ctx.allreduce(np.ones(5))
            ctx.barrier()
        # In the order of their begin, and each once.
        assert len(ctx.history()) == 3
        assert [record.start for record in ctx.history()] == sorted(record.start for record in ctx.history())

    run_ranks(2, body)


def test_non_blocking_call_that_is_done_at_once() -> None:
    def body(ctx: Context) -> None:
        request = ctx.isend(np.ones(3), 0)
        assert request.done
        assert last(ctx) == (0, "send", 0, "<f8", 3, 24, "done")
        ctx.recv(np.empty(3), 0)

    run_ranks(1, body)


@pytest.mark.parametrize("count", [3, LARGE])
def test_messages(count: int) -> None:
    def body(ctx: Context) -> None:
        other = 1 - ctx.rank
        for synchronous in (False, True):
            if ctx.rank == 0:
                (ctx.ssend if synchronous else ctx.send)(np.ones(count, "f4"), 1, tag=5)
                assert last(ctx) == (0, "ssend" if synchronous else "send", 1, "<f4", count, 4 * count, "done")
            else:
                ctx.recv(np.ones(count + 2, "f4"), 0, tag=5)
                assert last(ctx) == (0, "recv", 0, "<f4", count + 2, 4 * count + 8, "done")
        ctx.sendrecv(np.ones(count, "i2"), other, np.ones(count + 1, "i2"), other)
        assert last(ctx) == (0, "sendrecv", other, "<i2", count + 1, 2 * count + 2, "done")

    run_ranks(2, body)


def test_any_source_before_and_after() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 2:
            ctx.barrier()
            for _ in range(5):
                ctx.send(np.ones(2), 0, tag=3)
            ctx.send_object("text", 0)
            return
        if ctx.rank == 1:
            ctx.barrier()
            return
        request = ctx.irecv(np.empty(2), ANY_SOURCE, tag=3)
        assert last(ctx) == (0, "recv", None, "<f8", 2, 16, "under way")
        ctx.barrier()
        request.wait()
        assert facts(ctx.history()[0]) == (0, "recv", 2, "<f8", 2, 16, "done")
        ctx.recv(np.empty(2), ANY_SOURCE, tag=3)
        assert last(ctx) == (0, "recv", 2, "<f8", 2, 16, "done")
        ctx.probe(tag=3)
        assert last(ctx) == (0, "probe", 2, None, None, None, "done")
        message = ctx.mprobe(tag=3)
        assert last(ctx) == (0, "mprobe", 2, None, None, None, "done")
        message.recv(np.empty(2))
        assert last(ctx) == (0, "recv", 2, "<f8", 2, 16, "done")
        ctx.sendrecv(np.ones(1), 0, np.empty(2), ANY_SOURCE, sendtag=9, recvtag=3)
        assert last(ctx) == (0, "sendrecv", 2, "<f8", 2, 16, "done")
        ctx.recv(np.empty(1), 0, tag=9)
        ctx.irecv(np.empty(2), ANY_SOURCE, tag=3).wait()
        assert last(ctx) == (0, "recv", 2, "<f8", 2, 16, "done")
        assert ctx.recv_object() == "text"
        assert last(ctx) == (0, "recv_object", 2, None, None, None, "done")

    run_ranks(3, body)


def test_objects_as_messages() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.send_object([1], 1)
            assert last(ctx) == (0, "send_object", 1, None, None, None, "done")
            ctx.issend_object([2], 1).wait()
            assert last(ctx) == (0, "ssend_object", 1, None, None, None, "done")
        else:
            ctx.recv_object(0)
            assert last(ctx) == (0, "recv_object", 0, None, None, None, "done")
            ctx.recv_object(0)

    run_ranks(2, body)


def test_probes_that_do_not_wait_leave_no_record() -> None:
    def body(ctx: Context) -> None:
        assert ctx.iprobe() is None
        assert ctx.improbe() is None
        assert ctx.history() == []

    run_ranks(2, body)


@pytest.mark.parametrize(
    ("dtype", "text", "nbytes"),
    [
        (np.dtype("<M8[ns]"), "<M8[ns]", 24),
        (np.dtype([("a", "f4"), ("b", "u1", 8)]), "|V12", 36),
        (np.dtype("<U3"), "<U3", 36),
        (np.dtype("<M8[100ns]"), "<M8[100ns]", 24),
        ("float8_e4m3fn", "float8_e", None),  # cut
    ],
)
def test_other_dtypes(dtype: np.dtype[Any] | str, text: str, nbytes: int | None) -> None:
    if isinstance(dtype, str):
        dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype))

    def body(ctx: Context) -> None:
        ctx.broadcast(np.zeros(3, dtype))
        assert last(ctx) == (1, "broadcast", 0, text, 3, nbytes, "done")

    run_ranks(2, body)


def test_a_call_that_was_refused_leaves_no_record() -> None:
    def body(ctx: Context) -> None:
        with pytest.raises(ValueError, match="root must be"):
            ctx.broadcast(np.ones(1), root=2)
        with pytest.raises(TypeError):
            ctx.allreduce(np.array([None]))
        assert ctx.history() == []

    run_ranks(2, body)


def test_records_are_values() -> None:
    record = CallRecord(17, "allreduce", None, "<f4", 2, 8, 1.0, 2.0, "done")
    assert record == CallRecord(17, "allreduce", None, "<f4", 2, 8, 1.0, 2.0, "done")
    assert pickle.loads(pickle.dumps(record)) == record
    with pytest.raises(AttributeError):
        record.state = "under way"  # type: ignore[misc]


# -- how many are kept, where, and for how long -----------------------------------------------------------------------------


def test_the_last_256_calls() -> None:
    def body(ctx: Context) -> None:
        pending = ctx.irecv(np.empty(1), ctx.rank, tag=1)
        for _ in range(CAPACITY + 10):
            ctx.barrier()
        # What is under way is not pushed out.
        assert facts(ctx.history()[0]) == (0, "recv", ctx.rank, "<f8", 1, 8, "under way")
        assert [record.number for record in ctx.history()[1:]] == list(range(11, CAPACITY + 11))
        ctx.send(np.ones(1), ctx.rank, tag=1)
        pending.wait()
        assert len(ctx.history()) == CAPACITY == 256

    run_ranks(2, body)


def test_children_have_a_history_of_their_own() -> None:
    def body(ctx: Context) -> None:
        twin = ctx.dup()
        assert last(ctx) == (1, "dup", None, None, None, None, "done")
        assert twin.history() == []
        half = ctx.split(ctx.rank // 2, -ctx.rank)
        assert half is not None
        half.reduce(np.ones(1), root=0)
        twin.barrier()
        if ctx.rank == 0:
            half.send(np.ones(1), 0)  # rank 0 of that Context
        elif ctx.rank == 1:
            half.recv(np.ones(1), ANY_SOURCE)
        assert names(ctx) == ["dup", "split"]
        assert names(twin) == ["barrier"]
        assert names(half)[0] == "reduce"
        assert half.history()[0].number == twin.history()[0].number == 1
        if ctx.rank == 0:
            assert last(half) == (0, "send", 0, "<f8", 1, 8, "done")
        elif ctx.rank == 1:
            assert last(half) == (0, "recv", 1, "<f8", 1, 8, "done")
        half.close()
        assert names(half)[0] == "reduce"
        twin.close()
        ctx.barrier()
        assert names(ctx) == ["dup", "split", "barrier"]

    run_ranks(4, body)


def test_history_after_close() -> None:
    def body(ctx: Context) -> None:
        ctx.allreduce(np.ones(2))
        pending = ctx.irecv(np.empty(1), 0, tag=7)
        ctx.close()
        wanted = [(1, "allreduce", None, "<f8", 2, 16, "done"), (0, "recv", 0, "<f8", 1, 8, "ContextClosedError")]
        for _ in range(2):
            assert [facts(record) for record in ctx.history()] == wanted
            with pytest.raises(ContextClosedError):
                pending.wait()
            with pytest.raises(ContextClosedError):
                ctx.barrier()
            with pytest.raises(ContextClosedError):
                ctx.ibarrier()

    run_ranks(2, body)


def test_history_of_a_child_after_close() -> None:
    def body(ctx: Context) -> None:
        twin = ctx.dup()
        pending = twin.irecv(np.empty(1), 0, tag=7)
        twin.close()
        assert last(twin) == (0, "recv", 0, "<f8", 1, 8, "ContextClosedError")
        with pytest.raises(ContextClosedError):
            pending.wait()
        with pytest.raises(ContextClosedError):
            twin.barrier()
        assert len(twin.history()) == 1

    run_ranks(2, body)


def test_history_after_a_failure() -> None:
    together = threading.Barrier(2)

    def body(ctx: Context) -> None:
        ctx.barrier()
        together.wait(30)
        if ctx.rank == 1:
            with pytest.raises(GloompiError):
                ctx.recv(np.empty(1), 0, tag=4)
            return
        pending = ctx.irecv(np.empty(3), 1, tag=7)
        with pytest.raises(OperationTimeoutError):
            ctx.allreduce(np.ones(2), timeout=0.05)
        wanted = [
            (1, "barrier", None, None, None, None, "done"),
            (0, "recv", 1, "<f8", 3, 24, "OperationTimeoutError"),
            (2, "allreduce", None, "<f8", 2, 16, "OperationTimeoutError"),
        ]
        assert [facts(record) for record in ctx.history()] == wanted
        assert all(record.end is not None for record in ctx.history())
        for _ in range(3):  # calls on what is broken push nothing out
            for call in (ctx.barrier, ctx.ibarrier, pending.wait):
                with pytest.raises(OperationTimeoutError):
                    call()
        assert [facts(record) for record in ctx.history()] == wanted

    run_ranks(2, body)


def test_a_result_that_could_not_be_made_is_the_error_of_its_call_alone() -> None:
    def body(ctx: Context) -> None:
        def no(a: int, b: int) -> int:
            raise ArithmeticError("no sum")

        with pytest.raises(ArithmeticError):
            ctx.allreduce_object(1, op=no)
        assert last(ctx) == (1, "allreduce_object", None, None, None, None, "ArithmeticError")
        request = ctx.iallreduce_object(1, op=no)
        with pytest.raises(ArithmeticError):
            request.wait()
        assert last(ctx) == (2, "allreduce_object", None, None, None, None, "ArithmeticError")
        ctx.barrier()
        assert last(ctx)[-1] == "done"

    run_ranks(2, body)


def test_a_collective_that_was_not_begun_has_no_number() -> None:
    def body(ctx: Context) -> None:
        def op(a: Any, b: Any) -> Any:
            if a.size > 1:
                for call in (ctx.barrier, ctx.ibarrier, lambda: ctx.send(np.ones(1), 0)):
                    with pytest.raises(RuntimeError, match="was called from within allreduce #1"):
                        call()
            return a + b

        ctx.allreduce(np.ones(3), op=op)
        assert [(record.number, record.name, record.state) for record in ctx.history()] == [
            (1, "allreduce", "done"),
            (None, "barrier", "RuntimeError"),
            (None, "barrier", "RuntimeError"),
            (0, "send", "RuntimeError"),
        ]
        ctx.barrier()
        assert last(ctx) == (2, "barrier", None, None, None, None, "done")

    run_ranks(2, body)


def test_a_collective_that_a_peer_has_called_otherwise_has_its_number() -> None:
    """The peer was there first, so that the call ends in its begin."""

    def body(ctx: Context) -> None:
        ctx.barrier()
        if ctx.rank == 0:
            pending = ctx.iallreduce(np.ones(3))
            ctx.send(np.ones(1), 1)
            with pytest.raises(MismatchError):
                pending.wait()
        else:
            ctx.recv(np.empty(1), 0)
            with pytest.raises(MismatchError, match="ranks disagree on barrier #2") as caught:
                ctx.barrier()
            assert [timeless(line) for line in lines(caught.value.__notes__)] == [
                "barrier #1: took T",
                "recv (<f8, count 1) with rank 0: took T",
                "barrier #2: under way for T",
            ]
            assert last(ctx) == (2, "barrier", None, None, None, None, "MismatchError")

    run_ranks(2, body)


def test_a_call_in_whose_last_look_the_error_was_found_is_in_it() -> None:
    sent = threading.Event()

    def body(ctx: Context) -> list[str]:
        if ctx.rank == 0:
            ctx.broadcast(np.ones(3), root=0)
            sent.set()
        else:
            assert sent.wait(20)
            ctx._engine._poller.stale = 0.0  # so that it looks
            ctx.broadcast(np.ones(3), root=1)  # which it returns from, as a root
        with pytest.raises(MismatchError) as caught:
            ctx.barrier()
        (text,) = caught.value.__notes__
        return text.splitlines()[1:]

    for lines in run_ranks(2, body):
        assert ["broadcast #1 (" in line for line in lines].count(True) == 1, lines


def test_a_blocking_call_of_another_thread_is_under_way() -> None:
    looked = threading.Event()

    def body(ctx: Context) -> None:
        twin = ctx.dup()
        if ctx.rank == 1:
            assert looked.wait(30)
            ctx.send(np.ones(4), 0)
            twin.close()
            return
        seen: list[list[Facts]] = []

        def look() -> None:
            while not any(record.state == "under way" for record in ctx.history()):
                time.sleep(0)
            seen.extend([facts(record) for record in each.history()] for each in (ctx, twin))
            looked.set()

        thread = threading.Thread(target=look)
        thread.start()
        ctx.recv(np.empty(4), 1)
        thread.join()
        assert seen[0][1:] == [(0, "recv", 1, "<f8", 4, 32, "under way")]
        assert seen[1] == []
        twin.close()

    run_ranks(2, body)


def test_history_while_another_thread_works() -> None:
    def body(ctx: Context) -> None:
        over = threading.Event()
        failures: list[BaseException] = []

        def look() -> None:
            try:
                while not over.is_set():
                    assert len(ctx.history()) <= CAPACITY + 1
            except BaseException as exc:
                failures.append(exc)

        interval = sys.getswitchinterval()
        thread = threading.Thread(target=look)
        sys.setswitchinterval(1e-5)
        try:
            thread.start()
            for _ in range(2000):
                ctx.barrier()
        finally:
            over.set()
            thread.join()
            sys.setswitchinterval(interval)
        assert failures == []

    run_ranks(1, body)


def test_history_in_a_signal_handler_shows_the_call_that_it_interrupts() -> None:
    found: list[Facts] = []

    def handler(*_: object) -> None:
        found.extend(facts(record) for record in contexts[0].history())
        raise InterruptedError("seen")

    def inside(ctx: Context) -> None:
        contexts.append(ctx)
        with pytest.raises(InterruptedError):
            ctx.recv(np.empty(2), 0, timeout=30)

    # The main thread gets the signals: it is the rank.
    contexts: list[Context] = []
    from test_lifecycle import connected

    (ctx,) = connected(1)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        inside(ctx)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ctx.close()
    assert found == [(0, "recv", 0, "<f8", 2, 16, "under way")]
    assert last(ctx) == (0, "recv", 0, "<f8", 2, 16, "InterruptedError")


def test_no_array_is_kept() -> None:
    def body(ctx: Context) -> None:
        kept: list[weakref.ref[Any]] = []

        def ones() -> Any:
            x = np.ones(1000)
            kept.append(weakref.ref(x))
            return x

        def work() -> None:
            ctx.allreduce(ones(), out=ones())
            ctx.broadcast(ones())
            ctx.gatherv(ones())
            ctx.sendrecv(ones(), 1 - ctx.rank, ones(), 1 - ctx.rank)
            requests = [ctx.iallreduce(ones()), ctx.isend(ones(), 1 - ctx.rank), ctx.irecv(ones(), 1 - ctx.rank)]
            for request in requests:
                request.wait()

        work()
        ctx.barrier()
        gc.collect()
        assert len(ctx.history()) == 8
        assert [ref() is None for ref in kept] == [True] * 9

    run_ranks(2, body)


# -- the end of an error's traceback ----------------------------------------------------------------------------------------


def lines(notes: list[str]) -> list[str]:
    """The lines of an error's only note, without the times of day."""
    (text,) = notes
    head, *rest = text.split("\n")
    assert head == "The last calls of this rank:"
    assert all(re.match(r"  \d\d:\d\d:\d\d\.\d{3}  ", line) for line in rest)
    return [line[16:] for line in rest]


def timeless(line: str) -> str:
    return re.sub(r"(took|under way for) [\d.]+ (us|ms|s)", r"\1 T", line)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_an_error_ends_with_the_calls_once_on_every_rank(transport: str) -> None:
    found: dict[int, tuple[GloompiError, list[BaseException]]] = {}
    together = threading.Barrier(3)

    def again(ctx: Context) -> BaseException:
        with pytest.raises(MismatchError) as caught:
            ctx.barrier()
        return caught.value

    def body(ctx: Context) -> None:
        x = np.ones(6, "f4")
        for _ in range(20):
            ctx.allreduce(x)
        if ctx.rank == 0:
            ctx.send(x, 0, tag=1)
            ctx.irecv(np.ones(2), 2)
        ctx.barrier()
        together.wait(30)
        try:
            ctx.reduce(x, root=1, op="sum" if ctx.rank == 2 else "max")
            ctx.barrier()
        except GloompiError as exc:
            found[ctx.rank] = exc, [again(ctx), again(ctx)]

    run_ranks(3, body, device=Device(transport=transport))
    assert sorted(found) == [0, 1, 2]
    for rank, (error, later) in found.items():
        assert isinstance(error, MismatchError)
        assert all(each is error for each in later)
        shown = lines(error.__notes__)
        assert len(shown) == 8
        assert any(re.fullmatch(r"barrier #21: took [\d.]+ (us|ms|s)", line) for line in shown)
        assert sum(line.startswith("reduce #22 (") for line in shown) == 1
        op = "sum" if rank == 2 else "max"
        reduced = next(timeless(line) for line in shown if line.startswith("reduce #22 ("))
        assert reduced.startswith(f"reduce #22 ({op}, <f4, count 6, root 1"), reduced
        assert re.search(r"took T|under way for T", reduced)
        if rank == 0:
            messages = [timeless(line) for line in shown if line.startswith(("send", "recv"))]
            assert messages == [
                "send (<f4, count 6) with rank 0: took T",
                "recv (<f8, count 2) with rank 2: under way for T",
            ]
        printed = "".join(traceback.format_exception(error))
        assert str(error) in printed
        if sys.version_info >= (3, 11):
            assert printed.count("The last calls of this rank:") == 1
            assert printed.rstrip().endswith(error.__notes__[0].split("\n")[-1])


def test_calls_of_a_child_are_named() -> None:
    together = threading.Barrier(2)

    def body(ctx: Context) -> None:
        half = ctx.split(0, -ctx.rank)
        assert half is not None
        half.barrier()
        together.wait(30)
        if ctx.rank == 0:
            with pytest.raises(OperationTimeoutError) as caught:
                half.recv(np.ones(1), 0, timeout=0.05)
            name = child_name(half._conversation.number)
            assert [timeless(line) for line in lines(caught.value.__notes__)] == [
                "split #1: took T",
                f"barrier #1 of Context {name}: took T",
                f"recv of Context {name} (<f8, count 1) with rank 0: under way for T",
            ]
        else:
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.ones(1), 0)

    run_ranks(2, body)


def test_a_context_without_calls_has_errors_without_notes() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.abort("enough")
            with pytest.raises(ContextClosedError) as caught:
                ctx.barrier()
            assert getattr(caught.value, "__notes__", []) == []
        else:
            with pytest.raises(PeerLostError):
                ctx.barrier()

    run_ranks(2, body)


def test_what_was_noted_on_an_error_before_stays() -> None:
    together = threading.Barrier(2)
    kept: list[list[str]] = []

    def body(ctx: Context) -> None:
        def op(a: Any, b: Any) -> Any:
            if len(a) == 1:  # it is tried
                return a
            error = PeerLostError(7, "elsewhere", 1, "tcp", None, "of another Context")
            error.__notes__ = ["mine"]
            raise error

        ctx.barrier()
        together.wait(30)
        with pytest.raises(GloompiError) as caught:
            ctx.allreduce(np.ones(2), op=op)
        with pytest.raises(GloompiError) as again:
            ctx.barrier()
        if again.value is caught.value and caught.value.reported_by is None:  # and not what the other rank has met
            kept.append(caught.value.__notes__)

    run_ranks(2, body)
    assert kept
    for mine, calls in kept:
        assert mine == "mine"
        assert lines([calls])[0].startswith("barrier #1: took")


def lost_in(calls: Callable[[], object]) -> None:
    """The peer's operator raises in one of these calls."""
    with pytest.raises(PeerLostError, match="no sum"):
        calls()


class _Frozen(ArithmeticError):
    """Lets nobody set an attribute."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


@pytest.mark.parametrize("error", [ArithmeticError, _Frozen, KeyboardInterrupt])
def test_an_operator_that_raises_is_in_its_error_and_in_all_later_ones(error: type[BaseException]) -> None:
    def body(ctx: Context) -> None:
        def op(a: Any, b: Any) -> Any:
            if ctx.rank == 0 and a.size > 1:
                raise error("no sum")
            return a + b

        ctx.barrier()
        if ctx.rank == 1:
            lost_in(lambda: (ctx.allreduce(np.ones(3), op=op), ctx.barrier()))
            return
        with pytest.raises(error) as caught:
            ctx.allreduce(np.ones(3), op=op)
        with pytest.raises(ContextClosedError) as later:
            ctx.barrier()
        for each in (caught.value, later.value):
            first, culprit = (timeless(line) for line in lines(each.__notes__))
            assert first == "barrier #1: took T"
            assert re.fullmatch(rf"allreduce #2 \(.*<f8, count 3.*\): took T, {error.__name__}", culprit), culprit
        assert names(ctx) == ["barrier", "allreduce"]  # once
        assert last(ctx) == (2, "allreduce", None, "<f8", 3, 24, error.__name__)

    run_ranks(2, body)


def test_an_operator_that_raises_while_another_call_waits_is_in_that_ones_error() -> None:
    def body(ctx: Context) -> None:
        def op(a: Any, b: Any) -> Any:
            if ctx.rank == 0 and a.size > 1:
                raise ArithmeticError("no sum")
            return a + b

        if ctx.rank == 1:
            ctx.recv(np.empty(1), 0)  # until rank 0 waits for what does not come
            lost_in(lambda: (ctx.allreduce(np.ones(3), op=op), ctx.recv(np.empty(1), 0)))
            return
        request = ctx.iallreduce(np.ones(3), op=op)
        ctx.send(np.ones(1), 1)
        with pytest.raises(ArithmeticError) as caught:
            ctx.recv(np.empty(1), 1)
        assert [timeless(line) for line in lines(caught.value.__notes__)][-1] == (
            "recv (<f8, count 1) with rank 1: under way for T"
        )
        assert any(
            re.search(r"allreduce #1 .*: took T, ArithmeticError$", timeless(x)) for x in lines(caught.value.__notes__)
        )
        with pytest.raises((ArithmeticError, ContextClosedError)):
            request.wait()
        assert sorted(record.state for record in ctx.history()) == ["ArithmeticError", "ArithmeticError", "done"]

    run_ranks(2, body)


def test_an_exception_of_a_signal_handler_ends_with_the_calls() -> None:
    def handler(*_: object) -> None:
        raise InterruptedError("enough")

    from test_lifecycle import connected

    (ctx,) = connected(1)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(InterruptedError) as caught:
            ctx.recv(np.empty(2), 0, timeout=30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ctx.close()
    assert [timeless(line) for line in lines(caught.value.__notes__)] == ["recv (<f8, count 2) with rank 0: under way for T"]


def test_an_error_with_notes_can_be_pickled_and_copied() -> None:
    together = threading.Barrier(2)

    def body(ctx: Context) -> None:
        ctx.barrier()
        together.wait(30)
        if ctx.rank == 0:
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.recv(np.ones(1), 1, timeout=0.05)
            error = caught.value
            assert error.__notes__
            for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
                assert (type(again), str(again), again.facts()) == (OperationTimeoutError, str(error), error.facts())
        else:  # it was told over the wire, and has its own calls at the end
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.recv(np.ones(2, "i2"), 0, tag=9)
            assert caught.value.reported_by == 0
            assert [timeless(line) for line in lines(caught.value.__notes__)] == [
                "barrier #1: took T",
                "recv (<i2, count 2) with rank 0: under way for T",
            ]

    run_ranks(2, body)


def test_an_exception_of_the_program_is_left_alone() -> None:
    def body(ctx: Context) -> None:
        ctx.barrier()
        raise KeyError("mine")

    with pytest.raises(RankError) as caught:
        run_ranks(2, body)
    assert isinstance(caught.value.__cause__, KeyError)
    assert not hasattr(caught.value.__cause__, "__notes__")


def test_survivors_of_a_kill_show_their_calls(survivors: None) -> None:
    ranks = run_job(4, "recorded.py", survivors=True)
    assert "killed" in ranks[2]
    for rank in (0, 1, 3):
        assert ranks[rank]["error"] == "PeerLostError"
        assert ranks[rank]["lost"] == 2
        (note,) = ranks[rank]["notes"]
        shown = [timeless(line) for line in lines([note])]
        assert re.fullmatch(r"allreduce #12 \(sum, <f8, count 3, .*\): under way for T", shown[-1])
        assert len(shown) == 8
        done = [[number, "allreduce", "done"] for number in range(1, 12)]
        assert ranks[rank]["history"] == [*done, [12, "allreduce", "PeerLostError"]]


# -- the texts --------------------------------------------------------------------------------------------------------------

# A day on which no clock is changed, whatever the zone.
NOON = 1_700_000_000.0


def entry(name: str, began: float, lasted: float | None, **more: Any) -> Entry:
    mark = more.pop("mark", NO_FACTS)
    return Entry(name, more.pop("number", 0), more.pop("peer", -1), mark, began, began + lasted if lasted else 0.0, **more)


def test_text_of_each_kind_of_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        began = NOON - time_of_day(0.0)
        child = descendant(b"", 0, "split", 3, 1)
        f4 = np.dtype("f4")
        entries = [
            entry("barrier", began, 8.4e-6, number=1, mark=fingerprint("barrier", np.dtype("u1"), 0)),
            entry("reduce", began + 1.25, 0.0123, number=2, mark=fingerprint("reduce", f4, 10, 3, "max")),
            entry("send", began + 2, 7.5, peer=3, mark=fingerprint("send", f4, 5)),
            entry("dup", began + 3, 1e-5, number=3, mark=fingerprint("dup", np.dtype("u1"), 0), context=child),
            entry("scan", began + 4, 2.0, number=17, mark=fingerprint("scan", f4, 9, -1, "sum"), failure="PeerLostError"),
            entry("recv", began + 5, None, mark=fingerprint("send", np.dtype(object), 0)),
        ]
        assert tail(reversed(entries), began + 6.5) == (
            "The last calls of this rank:\n"
            "  22:13:20.000  barrier #1: took 8 us\n"
            "  22:13:21.250  reduce #2 (max, <f4, count 10, root 3): took 12.3 ms\n"
            "  22:13:22.000  send (<f4, count 5) with rank 3: took 7.500 s\n"
            f"  22:13:23.000  dup #3 of Context {child_name(child)}: took 10 us\n"
            "  22:13:24.000  scan #17 (sum, <f4, count 9): took 2.000 s, PeerLostError\n"
            "  22:13:25.000  recv: under way for 1.500 s"
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_text_of_nothing() -> None:
    assert tail([], 1.0) == ""


# -- the face that looks like mpi4py ----------------------------------------------------------------------------------------


# Bytes of "text".
PICKLED = 19


def test_mpi_facade(mpi_jobs: None) -> None:
    ranks = run_job(2, "recorded_facade.py")
    for rank, found in enumerate(ranks):
        other = 1 - rank
        assert found["history"] == [
            [1, "split", None, None, None, None, "done"],  # how MPI.COMM_WORLD is made
            [2, "barrier", None, None, None, None, "done"],
            [3, "allreduce", None, "<f8", 4, 32, "done"],
            [4, "broadcast", 1, "|u1", 12, 12, "done"],  # what MPI matches by size goes as bytes
            [0, "sendrecv", other, "|u1", 24, 24, "done"],
            [5, "broadcast_object", 0, None, None, None, "done"],
            [0, "send", other, "|u1", 16, 16, "done"],
            [0, "recv", other, "|u1", 16, 16, "done"],
            [0, "send", other, "|u1", PICKLED, PICKLED, "done"],
            [0, "recv", other, None, None, None, "done"],
        ]
