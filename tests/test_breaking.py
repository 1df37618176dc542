"""Breaking, and what comes of it when something else comes in between: the peers learn, and nothing stays open."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest

from gloompi import Context, ContextClosedError, GloompiError, MismatchError, OperationTimeoutError, PeerLostError
from gloompi.deadline import Deadline
from gloompi.engine.engine import Engine
from gloompi.engine.remnants import Remnants
from gloompi.testing import run_ranks
from gloompi.transport import options
from gloompi.transport.endpoint import Peer
from gloompi.transport.liveness import State
from gloompi.transport.options import Keepalive

pytestmark = pytest.mark.usefixtures("nothing_leaks")

MARKER = bytes(range(100, 132))
PEERS = [Peer(rank, "node7", 4000 + rank, "unix", f"@gloompi-{rank}") for rank in range(3)]


class Interrupted(BaseException):
    """What a signal handler raises."""


class Interruption:
    """Raises when a number of lines have run, counted from the begin of a function, in what it calls too."""

    def __init__(self, within: str, line: int) -> None:
        self._within, self._line = within, line
        self._lines = 0
        self.came = False

    def __enter__(self) -> Interruption:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.came or "gloompi" not in frame.f_code.co_filename:
            return None
        around: FrameType | None = frame
        while around is not None:
            if around.f_code.co_name == self._within:
                return self._step
            around = around.f_back
        return None

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not self.came:
            self._lines += 1
            if self._lines == self._line:
                self.came = True
                raise Interrupted
        return self._step


def _rank_0_of_3() -> tuple[Context, socket.socket]:
    """The Context of rank 0, and the other end of its connection to rank 1; rank 2 has gone."""
    near, far = socket.socketpair()
    other, gone = socket.socketpair()
    gone.close()
    near.setblocking(False)
    other.setblocking(False)
    far.setblocking(False)
    return Context(Engine(0, PEERS, [None, near, other], marker=MARKER), 10.0), far


def _heard(far: socket.socket) -> bytes:
    """What has come, with END where the stream has ended."""
    data = b""
    with suppress(BlockingIOError):
        while True:
            piece = far.recv(65536)
            if not piece:
                return data + b"END"
            data += piece
    return data


def _at_each_line(within: str, attempt: Callable[[Context], object], before: Callable[[Context], object]) -> list[bytes]:
    """What the peer has heard when `attempt` was interrupted at each line of `within`, and the Context not closed yet."""
    heard = []
    for line in range(1, 1000):
        ctx, far = _rank_0_of_3()
        try:
            before(ctx)
            with Interruption(within, line) as interruption, suppress(Interrupted, GloompiError):
                attempt(ctx)
            if not interruption.came:
                return heard
            heard.append(_heard(far))
        finally:
            ctx.close()
            far.close()
            gc.collect()
    raise AssertionError("no end")


def _lose(ctx: Context) -> None:
    with suppress(PeerLostError):
        ctx.recv(np.zeros(1), 1)


def test_peer_learns_wherever_telling_it_is_interrupted() -> None:
    heard = _at_each_line("_tell", lambda ctx: ctx.recv(np.zeros(1), 1), lambda ctx: None)
    assert len(heard) > 40
    assert all(data.endswith(b"END") or b"PeerLostError" in data for data in heard)


@pytest.mark.parametrize("within", ["wake", "reach"])
def test_peer_learns_wherever_shrinking_is_interrupted(within: str) -> None:
    heard = _at_each_line(within, lambda ctx: ctx.shrink(timeout=0.0), _lose)
    assert len(heard) > 5
    assert all(data.endswith(b"END") for data in heard)


def test_peer_learns_when_a_signal_handler_raises_an_error_of_gloompi_in_a_system_call() -> None:
    """Half a frame may have been sent: the connection cannot be kept for shrinking."""
    ctx, far = _rank_0_of_3()

    class Cut(socket.socket):
        def sendmsg(self, *arguments: Any) -> int:
            super().send(arguments[0][0][:30])
            raise GloompiError("raised by a signal handler")

    pair = ctx._engine._poller.pairs()[0]
    assert pair.sock is not None
    pair.sock = Cut(fileno=pair.sock.detach())
    pair.sock.setblocking(False)
    with pytest.raises(GloompiError, match="raised by a signal handler"):
        ctx.send(np.ones(3), 1)
    assert _heard(far).endswith(b"END")
    ctx.close()
    far.close()


def test_connections_are_closed_although_a_context_was_collected_in_the_call_that_broke_them() -> None:
    ctx, far = _rank_0_of_3()
    engine = ctx._engine
    engine.drop(engine.join(2, [0, 1, 2]))
    engine.forget(engine.root)
    kept = Context(engine, 10.0, engine.join(4, [0, 1, 2]))
    engine._fail(GloompiError("broken"))
    assert not _heard(far).endswith(b"END")
    kept.close()
    assert _heard(far) == b"END"
    far.close()


def test_fork_while_the_peers_are_told_leaves_the_connections_to_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, far = _rank_0_of_3()
    settle = Remnants.settle

    def settling(remnants: Remnants, deadline: Deadline) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        settle(remnants, deadline)

    monkeypatch.setattr(Remnants, "settle", settling)
    _lose(ctx)
    assert not _heard(far).endswith(b"END")
    ctx.close()
    assert _heard(far) == b"END"
    far.close()


@pytest.mark.parametrize("end", [Context.close, lambda ctx: ctx.abort("enough")], ids=["close", "abort"])
def test_context_that_is_ended_while_the_peers_are_told_is_closed(
    end: Callable[[Context], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, far = _rank_0_of_3()
    settle = Remnants.settle

    def settling(remnants: Remnants, deadline: Deadline) -> None:
        end(ctx)  # as a signal handler does, or another thread
        settle(remnants, deadline)

    monkeypatch.setattr(Remnants, "settle", settling)
    _lose(ctx)
    assert _heard(far).endswith(b"END")
    far.close()


def test_fork_while_the_context_is_shrunk_leaves_nothing_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, far = _rank_0_of_3()
    _lose(ctx)
    listen = Remnants.listen
    statuses = []

    def listening(remnants: Remnants, seconds: float | None) -> None:
        child = os.fork()
        if child == 0:
            os._exit(sum(os.path.exists(f"/proc/self/fd/{pair.fd}") for pair in remnants._pairs.values()))
        statuses.append(os.waitpid(child, 0)[1])
        listen(remnants, seconds)

    monkeypatch.setattr(Remnants, "listen", listening)
    with pytest.raises(OperationTimeoutError):
        ctx.shrink(timeout=0.01)
    assert statuses == [0]
    assert _heard(far).endswith(b"END")
    far.close()


def test_shrink_in_another_thread_waits_until_the_peers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, far = _rank_0_of_3()
    engine, settle, take = ctx._engine, Remnants.settle, ctx._engine.turn.take
    wants = threading.Event()
    failures: list[Exception] = []

    def shrink() -> None:
        try:
            ctx.shrink(timeout=10.0).close()
        except Exception as exc:
            failures.append(exc)

    other = threading.Thread(target=shrink)

    def taking(*arguments: Any) -> None:
        wants.set()
        take(*arguments)

    def settling(remnants: Remnants, deadline: Deadline) -> None:
        monkeypatch.setattr(engine.turn, "take", taking)
        other.start()
        assert wants.wait(10)
        settle(remnants, deadline)
        far.close()

    monkeypatch.setattr(Remnants, "settle", settling)
    _lose(ctx)
    other.join(20)
    assert (failures, other.is_alive()) == ([], False)
    ctx.close()


def test_shrink_does_not_wait_for_a_host_that_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 has been the first to miss it; this rank has only heard of that, and its own connection still looks well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    peers = [Peer(rank, "node7", 4000 + rank, "tcp", f"10.0.0.{rank}:40112") for rank in range(2)]
    ctx = Context(Engine(0, peers, [None, near], marker=MARKER), 10.0)
    monkeypatch.setattr(options, "KEEPALIVE", Keepalive(0, 0, 0))
    ctx._engine._fail(GloompiError("rank 1 has said so"))
    monkeypatch.setattr(State, "of", lambda _: State(retransmits=3, probes=0, unacked=1, sent=0.5, heard=40.0))
    with ctx.shrink(timeout=10.0) as alone:
        assert (alone.rank, alone.size) == (0, 1)
    ctx.close()
    far.close()


def test_shrink_keeps_the_order_of_the_ranks_of_a_split() -> None:
    def shrink(ctx: Context) -> tuple[int, int]:
        backwards = ctx.split(0, key=-ctx.rank)
        assert backwards is not None
        with suppress(MismatchError):
            ctx.barrier()  # so that all have split; a rank may meet the error in here
            backwards.allreduce(np.zeros(3 + (ctx.rank == 0)))
        with backwards.shrink() as same:
            total = same.allgather(np.array([ctx.rank]))
            assert total.ravel().tolist() == [2, 1, 0]
            return backwards.rank, same.rank

    assert run_ranks(3, shrink) == [(2, 2), (1, 1), (0, 0)]


def test_shrink_of_a_closed_context_whose_connections_work_says_so() -> None:
    def shrink(ctx: Context) -> None:
        child = ctx.dup()
        child.close()
        with pytest.raises(ContextClosedError) as caught:
            child.shrink()
        assert str(caught.value) == "this Context is closed"

    run_ranks(2, shrink)


def test_operator_that_uses_its_own_context_when_that_has_broken_gets_the_error() -> None:
    """An algorithm goes on to its next wait, and may compute until then."""

    def reduce(ctx: Context) -> str:
        def nested(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if len(a) > 1:  # not when it is tried
                ctx._engine._fail(GloompiError("broken"))
                ctx.barrier()
            return a + b

        with pytest.raises(GloompiError) as caught:
            ctx.allreduce(np.ones(3), op=nested)
        return caught.value.reason

    assert run_ranks(2, reduce) == ["broken", "broken"]


@pytest.mark.parametrize("end", [Context.close, lambda ctx: ctx.abort("enough")], ids=["close", "abort"])
def test_shrink_ends_when_the_context_is_closed_or_aborted_meanwhile(end: Callable[[Context], None]) -> None:
    ctx, far = _rank_0_of_3()
    _lose(ctx)
    _heard(far)
    far.setblocking(True)
    failures: list[Exception] = []

    def shrink() -> None:
        try:
            ctx.shrink(timeout=30.0)
        except Exception as exc:
            failures.append(exc)

    other = threading.Thread(target=shrink)
    other.start()
    assert far.recv(1)  # it has begun to talk
    end(ctx)
    other.join(10.0)
    assert not other.is_alive()
    assert [str(failure) for failure in failures] == ["this Context was closed or aborted while it was being shrunk"]
    far.setblocking(False)
    assert _heard(far).endswith(b"END")
    far.close()
