"""Breaking, and what comes of it when something else comes in between: the peers learn, and nothing stays open."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from test_errors import SPEECHLESS, Speechless

from gloompi import Context, ContextClosedError, GloompiError, MismatchError, OperationTimeoutError, PeerLostError
from gloompi.deadline import Deadline
from gloompi.engine.engine import Engine
from gloompi.engine.remnants import Remnants
from gloompi.errors import summary
from gloompi.foreign import plain
from gloompi.testing import run_ranks
from gloompi.transport import options
from gloompi.transport.abort import Abort
from gloompi.transport.endpoint import Peer
from gloompi.transport.frames import HEADER_NBYTES, Kind, unpack_header
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
    gc.collect()
    gc.freeze()  # collecting is a matter of what is new from now on
    try:
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
    finally:
        gc.unfreeze()
    raise AssertionError("no end")


def _lose(ctx: Context) -> None:
    with suppress(PeerLostError):
        ctx.recv(np.zeros(1), 1)


def test_peer_learns_wherever_telling_it_is_interrupted() -> None:
    heard = _at_each_line("_tell", lambda ctx: ctx.recv(np.zeros(1), 1), lambda ctx: None)
    assert len(heard) > 40
    assert all(data.endswith(b"END") or b"PeerLostError" in data for data in heard)


def _leave(ctx: Context) -> None:
    with suppress(ValueError), ctx:
        raise ValueError("boom")


@pytest.mark.parametrize(
    ("within", "attempt"), [("_fail", lambda ctx: ctx.recv(np.zeros(1), 1)), ("_abort", _leave)], ids=["loss", "exception"]
)
@pytest.mark.filterwarnings("ignore:unclosed")  # where it is interrupted just before it closes them
def test_peer_learns_wherever_breaking_is_interrupted(within: str, attempt: Callable[[Context], object]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    heard = _at_each_line(within, attempt, lambda ctx: None)
    assert len(heard) > 200
    assert all(data.endswith(b"END") or b"PeerLostError" in data for data in heard)
    # In the very lines that close it, an eventfd may stay open; everything else is closed.
    left = [fd for fd in set(os.listdir("/proc/self/fd")) - before if os.path.exists(f"/proc/self/fd/{fd}")]
    assert {os.readlink(f"/proc/self/fd/{fd}") for fd in left} <= {"anon_inode:[eventfd]"}
    assert len(left) <= 4
    for fd in left:
        os.close(int(fd))


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


# -- what has no text, and what fails while the peers are told ------------------------------------------------------------


def _aborted(far: socket.socket) -> str:
    """The reason of the abort that has come, which there must be."""
    data = _heard(far)
    _, kind, _, _, nbytes, _ = unpack_header(data, 0)
    assert kind == Kind.ABORT
    errors: list[GloompiError] = []
    sink = Abort(0, nbytes, errors.append)
    sink.feed(memoryview(data)[HEADER_NBYTES : HEADER_NBYTES + nbytes])
    sink.finish()
    return errors[0].reason


def _meet(ctx: Context, exc: BaseException, where: str) -> None:
    """Raise in a with statement, or inside a call."""
    if where == "with":
        with ctx:
            raise exc
    with patched(ctx._engine._poller, "poll", _raising(exc)):
        ctx.iprobe(1)


@pytest.mark.parametrize("where", ["with", "call"])
@pytest.mark.parametrize("name", SPEECHLESS)
def test_peers_are_told_of_an_exception_without_a_text(name: str, where: str) -> None:
    exc, text = SPEECHLESS[name]
    ctx, far = _rank_0_of_3()
    with pytest.raises(type(exc)) as caught:
        _meet(ctx, exc, where)
    assert caught.value is exc
    assert ctx.closed
    assert _aborted(far) == plain(f"it aborted: {text}", 1000)
    with pytest.raises(ContextClosedError) as again:
        ctx.barrier()
    assert str(again.value) == f"this Context was aborted: {text[:1000]}"
    ctx.close()
    far.close()


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(3)], ids=["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("where", ["with", "call"])
def test_peers_are_told_although_a_signal_comes_while_the_text_is_made(raised: BaseException, where: str) -> None:
    ctx, far = _rank_0_of_3()
    exc = Speechless(_raising(raised))
    with pytest.raises(type(raised)) as caught:
        _meet(ctx, exc, where)
    assert caught.value is raised
    assert _aborted(far) == "it aborted: an exception"
    ctx.close()
    far.close()


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("cannot read /data/\udce9", "cannot read /data/\\udce9"),
        ("\udce9" * 1000, "\\udce9" * 166 + "\\udc"),
        ("\0\x1b\n", "\0\x1b\n"),
        ("", ""),
        ("x" * 10_000_000, "x" * 1000),
    ],
    ids=["surrogate", "surrogates", "control characters", "empty", "huge"],
)
def test_reason_of_an_abort_can_be_any_text(reason: str, told: str) -> None:
    ctx, far = _rank_0_of_3()
    ctx.abort(reason)
    assert _aborted(far) == plain(f"it aborted: {told}", 1000)
    with pytest.raises(ContextClosedError) as caught:
        ctx.barrier()
    assert str(caught.value) == f"this Context was aborted: {told}"
    far.close()


@pytest.mark.parametrize("reason", [None, 7, b"enough", ValueError("x"), ["x"]])
def test_reason_of_an_abort_that_is_no_text_is_refused_before_anything(reason: Any) -> None:
    ctx, far = _rank_0_of_3()
    for wanted in (b"", b"END"):
        with pytest.raises(TypeError) as caught:
            ctx.abort(reason)
        assert str(caught.value) == f"reason must be a str, not {type(reason).__name__}"
        assert _heard(far) == wanted
        ctx._engine._fail(GloompiError("over"))
        _heard(far)
        ctx.close()
    far.close()


class Odd(GloompiError):
    """An error of a program's own, of which others can make nothing."""

    def __init__(self, facts: Any = None, reporter: Any = None) -> None:
        self._odd = facts
        self.reported_by = reporter

    def facts(self) -> dict[str, Any]:
        return self._odd() if callable(self._odd) else self._odd  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return "odd"


class Mine(PeerLostError):
    """An error of a program's own, of which others know the base."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GloompiError(7), "7"),  # type: ignore[arg-type]
        (GloompiError("/data/\udce9"), "/data/\\udce9"),
        (GloompiError(object()), "GloompiError (its text cannot be made)"),  # type: ignore[arg-type]
        (Odd(), "Odd: odd"),
        (Odd(lambda: 1 / 0), "Odd: odd"),
        (Odd({"reason": 10**5000}), "Odd: odd"),
        (Odd({"reason": float("nan"), "more": 1}), "Odd: odd"),
        (Odd({"reason": ["x"]}), "Odd: odd"),
        (Odd({"reason": "fine"}, reporter="nobody"), "fine"),
        (Mine(1, "node7", 1, "unix x", None, "gone"), "gone"),
    ],
)
def test_peers_are_told_of_any_error_of_a_program_s_own(error: GloompiError, told: str) -> None:
    ctx, far = _rank_0_of_3()
    with pytest.raises(type(error)) as caught, patched(ctx._engine._poller, "poll", _raising(error)):
        ctx.iprobe(1)
    assert caught.value is error
    assert str(_aborted(far)) == told
    ctx.close()
    far.close()


def _raising(exc: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise exc

    return call


@contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, replacement)
        yield


FAILURES = [ValueError("it fails"), MemoryError(), RecursionError("too deep"), Speechless(_raising(ValueError("no text")))]


@pytest.mark.parametrize("exc", FAILURES, ids=["ValueError", "MemoryError", "RecursionError", "Speechless"])
@pytest.mark.parametrize(
    "what",
    [
        "gloompi.engine.connections.abort_frame",
        "gloompi.engine.connections.tail",
        "gloompi.engine.remnants.Remnants.__init__",
        "gloompi.engine.remnants.Remnants.settle",
        "gloompi.engine.messages.Messages.clear",
        "gloompi.engine.messages.Messages.revoke",
        "gloompi.engine.conversation.Conversation.cut_off",
        "gloompi.engine.polling.Poller.close",
        "json.dumps",
        "logging.Logger.debug",
        "logging.Logger.isEnabledFor",
    ],
)
def test_failure_in_breaking_neither_hides_the_error_nor_keeps_the_peers_waiting(
    what: str, exc: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, far = _rank_0_of_3()
    close = ctx._engine._poller.close
    monkeypatch.setattr(what, _raising(exc))
    with pytest.raises(PeerLostError, match="lost rank 2") as caught:
        ctx.recv(np.zeros(1), 1)
    heard = _heard(far)
    assert heard.endswith(b"END") or b"PeerLostError" in heard
    notes = caught.value.__notes__  # type: ignore[attr-defined]
    assert f"While the peers were told of this: {summary(exc)}" in notes
    monkeypatch.undo()
    if what.endswith("Poller.close"):
        close()
    ctx.close()
    assert _heard(far).endswith(b"END") or heard.endswith(b"END")
    far.close()


def test_log_handler_that_raises_comes_after_the_peers_were_told(caplog: pytest.LogCaptureFixture) -> None:
    ctx, far = _rank_0_of_3()
    heard: list[bytes] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(_heard(far))
            raise ValueError("it fails")

    handler = Handler()
    log = logging.getLogger("gloompi")
    log.addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG, "gloompi"), pytest.raises(PeerLostError) as caught:
            ctx.recv(np.zeros(1), 1)
    finally:
        log.removeHandler(handler)
    (told,) = heard
    assert b"PeerLostError" in told
    assert caught.value.__notes__[-1] == "While the peers were told of this: ValueError: it fails"  # type: ignore[attr-defined]
    ctx.close()
    far.close()


def test_every_watch_is_told_although_one_raises() -> None:
    ctx, far = _rank_0_of_3()
    told: list[int] = []
    ctx._engine.watches += [lambda: told.append(1), _raising(ValueError("it fails")), lambda: told.append(3)]
    with pytest.raises(PeerLostError) as caught:
        ctx.recv(np.zeros(1), 1)
    assert told == [1, 3]
    assert b"PeerLostError" in _heard(far)
    assert "While the peers were told of this: ValueError: it fails" in caught.value.__notes__  # type: ignore[attr-defined]
    ctx.close()
    far.close()


def test_trace_that_cannot_be_written_where_the_warning_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GLOOMPI_TRACE", str(tmp_path / "file" / "folder"))
    ctx, far = _rank_0_of_3()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PeerLostError) as caught:
            ctx.recv(np.zeros(1), 1)
    assert b"PeerLostError" in _heard(far)
    assert any("RuntimeWarning: GLOOMPI_TRACE" in each for each in caught.value.__notes__)  # type: ignore[attr-defined]
    ctx.close()
    far.close()


def _at_depth(left: int, call: Callable[[], object]) -> object:
    """Call where about so many more frames are allowed."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    return call() if sys.getrecursionlimit() - depth <= left else _at_depth(left, call)


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx: ctx.recv(np.zeros(1), 1),
        lambda ctx: ctx.send(np.zeros(1), 1),
        lambda ctx: ctx.barrier(timeout=0.0),
        lambda ctx: ctx.abort("enough"),
    ],
    ids=["recv", "send", "barrier", "abort"],
)
def test_peers_learn_wherever_the_recursion_limit_is_met(call: Callable[[Context], object]) -> None:
    """Either nothing has been sent and nothing is broken, or the peers know; and the limit is what it was."""
    limit = sys.getrecursionlimit()
    outcomes = set()
    for left in range(60):
        ctx, far = _rank_0_of_3()
        with suppress(RecursionError, PeerLostError, OperationTimeoutError):
            _at_depth(left, lambda ctx=ctx: call(ctx))  # type: ignore[misc]
        heard = _heard(far)
        told = heard.endswith(b"END") or b'["' in heard
        outcomes.add((ctx.closed, told))
        assert told == ctx.closed, (left, heard)
        if not ctx.closed:
            assert heard == b"" or heard[1] == Kind.MESSAGE
        ctx.abort("over")
        far.close()
    del ctx
    gc.collect()
    assert (False, False) in outcomes
    assert (True, True) in outcomes
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("name", SPEECHLESS)
def test_operator_that_raises_what_has_no_text(name: str) -> None:
    exc, text = SPEECHLESS[name]

    def reduce(ctx: Context) -> Any:
        def op(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if ctx.rank == 0 and a.size > 1:
                raise exc
            return a + b

        began = time.monotonic()
        try:
            ctx.allreduce(np.ones(3), op=op)
            ctx.barrier()
        except PeerLostError as lost:
            return str(lost), time.monotonic() - began
        except type(exc):
            return "raised", time.monotonic() - began
        return "nothing", 0.0

    raised, (told, seconds) = run_ranks(2, reduce)
    assert raised[0] == "raised"
    assert plain(f"it aborted: {text}", 1000) in told
    assert seconds < 2


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
