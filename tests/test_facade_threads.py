"""Handles of gloompi.MPI that several threads use at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI as mpi

import gloompi
from gloompi.facade.buffers import simple
from gloompi.facade.matched import Message, _Found
from gloompi.facade.receiving import receive
from gloompi.facade.requests import REQUEST_NULL, Prequest, Request
from gloompi.facade.three import start
from gloompi.facade.work import Work
from gloompi.request import Request as Handle
from gloompi.testing import run_ranks

TAG = 5


def irecv(ctx: gloompi.Context, out: np.ndarray[Any, Any]) -> Request:
    return start(ctx, receive(ctx, simple(out, readonly=False), 0, TAG))


def recv_init(ctx: gloompi.Context, out: np.ndarray[Any, Any]) -> Request:
    work = Work(ctx, receive(ctx, simple(out, readonly=False), 0, TAG), persistent=True)
    request: Prequest = Prequest._of(work)
    request.Start()
    return request


class Waiter:
    """A thread that waits; `request` is used by others only when its wait has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait: Callable[[], Any]) -> None:
        self.result: Any = None
        begun = threading.Event()

        def run() -> None:
            self.result = wait()

        self.thread = threading.Thread(target=run, daemon=True)
        with monkeypatch.context() as patch:
            for owner, name in (Handle, "_wait"), (gloompi.facade.requests, "wait_for_first"):
                patch.setattr(owner, name, self._announcing(getattr(owner, name), begun))
            self.thread.start()
            assert begun.wait(10)

    def _announcing(self, function: Callable[..., Any], begun: threading.Event) -> Callable[..., Any]:
        def announcing(*args: Any) -> Any:
            if threading.current_thread() is self.thread:
                begun.set()
            return function(*args)

        return announcing

    def end(self) -> Any:
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.result


WAITS = {
    "Wait": lambda request, status: request.Wait(status),
    "Waitall": lambda request, status: Request.Waitall([request], [status]),
    "Waitany": lambda request, status: Request.Waitany([request], status),
    "Waitsome": lambda request, status: Request.Waitsome([request], [status]),
}


@pytest.mark.parametrize("kind", [irecv, recv_init])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_is_no_null_request_while_a_thread_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[..., Any], kind: Callable[..., Request]
) -> None:
    def body(ctx: gloompi.Context) -> None:
        out = np.zeros(3)
        request, status = kind(ctx, out), mpi.Status()
        waiter = Waiter(monkeypatch, lambda: wait(request, status))
        assert request
        assert request != REQUEST_NULL
        assert not request.Test()
        assert not request.Get_status()
        assert not Request.Testall([request])
        assert Request.Testany([request]) == (mpi.UNDEFINED, False)
        assert Request.Testsome([request]) == []
        ctx.send(np.ones(3), 0, tag=TAG)
        waiter.end()
        assert (out == 1).all()
        assert status.Get_tag() == TAG
        assert request.Test()
        assert (request == REQUEST_NULL) is (kind is irecv)

    run_ranks(1, body, timeout=20)


@pytest.mark.parametrize("kind", [irecv, recv_init])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_cancel_ends_the_wait_of_another_thread(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[..., Any], kind: Callable[..., Request]
) -> None:
    def body(ctx: gloompi.Context) -> None:
        request, status = kind(ctx, np.zeros(3)), mpi.Status()
        waiter = Waiter(monkeypatch, lambda: wait(request, status))
        request.Cancel()
        waiter.end()
        assert status.Is_cancelled()

    run_ranks(1, body, timeout=20)


def test_of_two_threads_one_takes_the_object() -> None:
    def body(ctx: gloompi.Context) -> None:
        request = start(ctx, receive(ctx, None, 0, TAG))
        found: list[Any] = []
        waiters = [threading.Thread(target=lambda: found.append(request.wait()), daemon=True) for _ in range(4)]
        for waiter in waiters:
            waiter.start()
        ctx.send_object("it", 0, tag=TAG)
        for waiter in waiters:
            waiter.join(10)
        assert sorted(found, key=str) == [None, None, None, "it"]
        assert request == REQUEST_NULL

    run_ranks(1, body, timeout=20)


@pytest.mark.parametrize("of_any", [Request.waitany, Request.waitsome], ids=["waitany", "waitsome"])
def test_what_another_thread_has_taken_is_not_returned(
    monkeypatch: pytest.MonkeyPatch, of_any: Callable[[list[Request]], Any]
) -> None:
    def body(ctx: gloompi.Context) -> None:
        first, second = (start(ctx, receive(ctx, None, 0, tag)) for tag in (1, 2))
        ctx.send_object("first", 0, tag=1)
        ctx.send_object("second", 0, tag=2)
        for request in first, second:
            while not request.Get_status():
                pass
        end = Request._end

        def late(self: Request) -> Any:
            monkeypatch.setattr(Request, "_end", end)
            assert first.wait() == "first"  # as another thread may, between the look and the taking
            return end(self)

        monkeypatch.setattr(Request, "_end", late)
        assert of_any([first, second]) in ((1, "second"), ([1], ["second"]))

    run_ranks(1, body, timeout=20)


def test_an_interrupted_wait_leaves_the_request() -> None:
    def body(ctx: gloompi.Context) -> None:
        request = start(ctx, receive(ctx, None, 0, TAG))
        handle = request._work and request._work.handle
        assert handle is not None

        with pytest.MonkeyPatch.context() as patch:

            def interrupted(*args: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(Handle, "_wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                request.wait()
        ctx.send_object("it", 0, tag=TAG)
        assert request.wait() == "it"

    run_ranks(1, body, timeout=20)


def test_a_matched_message_is_received_once() -> None:
    def body(ctx: gloompi.Context) -> None:
        ctx.send_object("it", 0, tag=TAG)
        arrival, _ = ctx._run(ctx._plan.probe(0, TAG, takes=True), None)
        message: Message = Message._of(_Found(ctx, arrival))
        other = Message(message)
        assert message.recv() == "it"
        with pytest.raises(mpi.Exception) as caught:
            other.recv()
        assert caught.value.Get_error_class() == mpi.ERR_REQUEST

    run_ranks(1, body, timeout=20)
