"""Waitany, Testall and the like on many requests: they move what can be moved once, and then look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from effort import assert_linear
from mpi4py import MPI as mpi

from gloompi import Context
from gloompi.deadline import Deadline
from gloompi.facade.buffers import simple
from gloompi.facade.receiving import receive
from gloompi.facade.requests import REQUEST_NULL, Request
from gloompi.facade.three import start
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks

POLLS = ["Testall", "Testany", "Testsome", "testall", "testany", "testsome"]
LOOKS = ["Get_status_all", "Get_status_any", "Get_status_some"]
ENDLESS = "a test that would find nothing for ever"


def receives(ctx: Context, count: int) -> list[Request]:
    """Receives of this rank's own messages, each with a tag of its own."""
    outs = np.zeros((count, 1))
    return [start(ctx, receive(ctx, simple(outs[tag], readonly=False), 0, tag)) for tag in range(count)]


def send(ctx: Context, *tags: int) -> None:
    for tag in tags:
        ctx.send(np.ones(1), 0, tag=tag)


def moves(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the engine is asked to move something."""
    found: list[int] = []
    move = ctx._engine._move
    monkeypatch.setattr(ctx._engine, "_move", lambda: found.append(1) or move())  # type: ignore[func-returns-value]
    return found


@pytest.mark.parametrize("name", [*POLLS, *LOOKS])
def test_they_move_once_for_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(ctx: Context) -> None:
        requests = [REQUEST_NULL, *receives(ctx, 50)]
        poll = getattr(Request, name)
        counted = moves(ctx, monkeypatch)
        poll(requests)
        assert len(counted) == 1
        send(ctx, *range(50))
        counted.clear()
        if name in ("Testany", "testany", "Get_status_any"):
            assert poll(requests)[:2] == (1, True)
        elif name in ("Testsome", "Get_status_some"):
            assert poll(requests) == list(range(1, 51))
        elif name == "testsome":
            assert poll(requests) == (list(range(1, 51)), [None] * 50)
        else:
            assert poll(requests) in (True, (True, [None] * 51))
        assert counted == []  # what is done needs none

    run_ranks(1, body)


@pytest.mark.parametrize("name", [*POLLS, "Get_status_all", "Get_status_some"])
def test_they_move_all_connections(name: str) -> None:
    """Each of two Contexts has a request that is not done, and either is moved."""
    exchanges = local_exchanges(2)

    def body(ctx: Context) -> None:
        with Context._from_exchange(exchanges[ctx.rank], None, 30.0, Deadline(30.0)) as other:
            peer = 1 - ctx.rank
            outs = np.zeros((2, 1))
            contexts = [ctx, other] if ctx.rank else [other, ctx]
            requests = [
                start(each, receive(each, simple(out, readonly=False), peer, 0))
                for each, out in zip(contexts, outs, strict=True)
            ]
            for each in contexts:
                each.isend(np.ones(1), peer)
            poll = getattr(Request, name)
            budget = Deadline(30.0)
            handles = [request._work._handle for request in requests if request._work is not None]
            while not all(handle is not None and handle.done for handle in handles):
                assert not budget.expired(), ENDLESS
                poll(requests)
            Request.Waitall(requests)
            assert outs.tolist() == [[1], [1]]

    run_ranks(2, body)


def test_the_first_of_several_that_are_done() -> None:
    def body(ctx: Context) -> None:
        requests = receives(ctx, 4)
        assert Request.Testany(requests) == (mpi.UNDEFINED, False)
        assert Request.Testsome(requests) == []
        send(ctx, 3, 1)
        assert Request.Get_status_any(requests) == (1, True)
        assert Request.Get_status_some(requests) == [1, 3]
        assert Request.Waitany(requests) == 1
        assert Request.Testany(requests) == (3, True)
        assert Request.Testany(requests) == (mpi.UNDEFINED, False)
        send(ctx, 2, 0)
        assert Request.Waitsome(requests) == [0, 2]
        assert Request.Waitsome(requests) is None
        assert Request.Testany(requests) == (mpi.UNDEFINED, True)
        assert Request.Testall(requests)

    run_ranks(1, body)


@pytest.mark.parametrize("name", ["Waitany", "waitany", *POLLS, *LOOKS, "Waitsome", "Waitall"])
def test_what_is_no_request_is_refused_wherever_it_is(name: str) -> None:
    def body(ctx: Context) -> None:
        requests: list[Any] = receives(ctx, 2)
        for done in (False, True):
            for place in range(3):
                wrong = [*requests[:place], 7, *requests[place:]]
                if done and name.endswith("any"):
                    wrong = wrong[place:]  # behind one that is done, nothing is looked at
                with pytest.raises(TypeError, match=r"^expected a gloompi\.MPI\.Request, not builtins\.int$"):
                    getattr(Request, name)(wrong)
            if not done:
                send(ctx, 0, 1)
        Request.Waitall(requests)

    run_ranks(1, body)


@pytest.mark.parametrize("name", ["Waitany", "Testany", "Waitsome", "Testsome", "Testall", "Get_status_any"])
def test_however_many_there_are(name: str) -> None:
    """The time of one call."""

    def body(ctx: Context) -> None:
        def prepare(count: int) -> Callable[[], object]:
            requests = receives(ctx, count)
            send(ctx, count - 1)

            def call() -> None:
                getattr(Request, name)(requests)
                send(ctx, *range(count - 1))
                Request.Waitall(requests)

            return call

        assert_linear(prepare)

    run_ranks(1, body)


def test_waiting_until_none_is_left() -> None:
    """Of requests that are done, one call looks at one."""

    def body(ctx: Context) -> None:
        def prepare(count: int) -> Callable[[], object]:
            requests = receives(ctx, count)
            send(ctx, *range(count))

            def wait() -> None:
                while requests:
                    assert requests.pop(Request.Waitany(requests))._work is None

            return wait

        assert_linear(prepare)

    run_ranks(1, body)
