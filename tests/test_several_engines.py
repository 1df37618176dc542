"""Contexts with connections of their own in one thread: a wait on one moves what was begun on the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import numpy as np
import pytest

from gloompi import Context, Device, OperationTimeoutError, PeerLostError, wait_all, wait_any
from gloompi.deadline import Deadline
from gloompi.engine import connections
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks

WAIT = 20.0
LARGE = 100_000  # doubles: has to be asked for

devices = pytest.mark.parametrize(
    "device",
    [{"transport": "unix"}, {"transport": "unix", "single_copy": False}, {"transport": "tcp"}],
    ids=["offered", "unix", "tcp"],
)


def with_another(n: int, body: Callable[[Context, Context], object], **device: object) -> None:
    """Run a function on ranks that have two Contexts each, connected apart."""
    exchanges = local_exchanges(n)

    def both(first: Context) -> None:
        connecting = Context._from_exchange(exchanges[first.rank], Device(**device), WAIT, Deadline(WAIT))  # type: ignore[arg-type]
        with connecting as second:
            body(first, second)

    run_ranks(n, both, timeout=WAIT, device=Device(**device))  # type: ignore[arg-type]


@devices
@pytest.mark.parametrize("wait", ["recv", "request", "probe", "barrier"])
def test_a_large_message_goes_on_while_another_context_is_waited_on(device: dict[str, object], wait: str) -> None:
    def body(a: Context, b: Context) -> None:
        if a.rank == 0:
            request = a.isend(np.arange(float(LARGE)), 1)
            if wait == "recv":
                b.recv(np.empty(1), 1)
            elif wait == "request":
                b.irecv(np.empty(1), 1).wait()
            elif wait == "probe":
                b.probe(1)
            else:
                b.barrier()
            request.wait()
        else:
            out = np.empty(LARGE)
            a.recv(out, 0)
            assert (out == np.arange(LARGE)).all()
            if wait == "barrier":
                b.barrier()
            else:
                b.send(np.ones(1), 0)

    with_another(2, body, **device)


@devices
@pytest.mark.parametrize("beside", ["a thread polls already", "a thread has used it", "wait_all", "wait_any"])
def test_it_goes_on_whatever_other_threads_do_and_however_it_is_waited(device: dict[str, object], beside: str) -> None:
    def body(a: Context, b: Context) -> None:
        if a.rank == 1:
            sleep(0.2)  # by now the other one has asked, and sleeps for as long as its budget lasts
            out = np.empty(LARGE)
            a.recv(out, 0)
            assert (out == np.arange(LARGE)).all()
            for tag in (1, 2, 3):
                b.send(np.ones(1), 0, tag=tag)
            a.send(np.ones(1), 0)
            b.recv(np.empty(1), 0)
            return
        with ThreadPoolExecutor(1) as pool:
            if beside == "a thread polls already":
                listening = pool.submit(lambda: b.recv(np.empty(1), 1, tag=2))
                while not b._engine.sleepers.calls:
                    sleep(1e-3)
            request = a.isend(np.arange(float(LARGE)), 1)
            if beside == "a thread has used it":
                pool.submit(lambda: a.iprobe(1, tag=99)).result(WAIT)
            if beside == "wait_all":
                c = [Context._from_exchange(each, None, WAIT, Deadline(WAIT)) for each in local_exchanges(1)]
                waited = [b.irecv(np.empty(1), 1, tag=1), c[0].isend(np.ones(1), 0)]
                wait_all(waited)
                c[0].recv(np.empty(1), 0)
                c[0].close()
            elif beside == "wait_any":
                c = [Context._from_exchange(each, None, WAIT, Deadline(WAIT)) for each in local_exchanges(1)]
                never = c[0].irecv(np.empty(1), 0)
                assert wait_any([b.irecv(np.empty(1), 1, tag=1), never])[0] == 0
                never.cancel()
                c[0].close()
            else:
                b.recv(np.empty(1), 1, tag=1)
            request.wait()
            if beside == "a thread polls already":
                listening.result(WAIT)
            else:
                b.recv(np.empty(1), 1, tag=2)
            b.recv(np.empty(1), 1, tag=3)
        a.recv(np.empty(1), 1)
        b.send(np.ones(1), 1)

    with_another(2, body, **device)


@pytest.mark.parametrize("trouble", ["it breaks", "a thread is in it"])
def test_a_wait_is_not_disturbed_by_what_happens_to_the_other(trouble: str) -> None:
    def body(a: Context, b: Context) -> None:
        engine = a._engine
        prepare = engine.prepare_sleep

        def meanwhile() -> int:
            if trouble == "it breaks":
                threading.Thread(target=a.abort, args=("enough",)).start()
                while engine.turn._asked is None:
                    sleep(1e-3)
                return prepare()
            raise OperationTimeoutError("wait", 0.0, "a thread is in recv")

        a.irecv(np.empty(1), 1, tag=5)
        b.barrier()
        if a.rank == 0:
            engine.prepare_sleep = meanwhile  # type: ignore[method-assign]
            b.recv(np.empty(1), 1)
            engine.prepare_sleep = prepare  # type: ignore[method-assign]
        else:
            sleep(0.1)
            b.send(np.ones(1), 0)
        b.barrier()
        a.close() if a.closed else a.abort("that is all")

    with_another(2, body)


@devices
def test_a_collective_of_one_goes_on_while_the_other_is_waited_on(device: dict[str, object]) -> None:
    def body(a: Context, b: Context) -> None:
        request = a.iallreduce(np.full(LARGE, a.rank + 1.0))
        if a.rank == 0:
            b.recv(np.empty(1), 2)
        else:
            assert request.wait()[-1] == 6
            if a.rank == 2:
                b.send(np.ones(1), 0)
        assert request.wait()[0] == 6

    with_another(3, body, **device)


def test_an_error_of_the_other_is_kept_for_its_own_next_call() -> None:
    def body(a: Context, b: Context) -> None:
        if a.rank == 1:
            b.barrier()
            a.abort("enough of a")
            b.send(np.ones(1), 0)
            return
        request = a.irecv(np.empty(LARGE), 1)
        b.barrier()
        b.recv(np.empty(1), 1)
        with pytest.raises(PeerLostError, match="it aborted: enough of a"):
            request.wait()
        b.send(np.ones(1), 0)
        b.recv(np.empty(1), 0)

    with_another(2, body)


def test_a_wait_with_a_budget_ends_in_time_although_another_context_has_something_to_do() -> None:
    def body(a: Context, b: Context) -> None:
        if a.rank == 0:
            request = a.irecv(np.empty(1), 1)
            began = monotonic()
            with pytest.raises(TimeoutError):
                b.recv(np.empty(1), 1, timeout=0.3)
            assert 0.3 <= monotonic() - began < 2
            request.wait()
        else:
            with pytest.raises(TimeoutError, match="reported by rank 0"):
                b.recv(np.empty(1), 0)
            a.send(np.ones(1), 0)

    with_another(2, body)


def test_another_thread_may_make_a_context_while_the_engines_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changing:
        """As a set to which something is added while it is iterated over, once."""

        def __init__(self) -> None:
            self.looks = 0

        def __iter__(self) -> Iterator[object]:
            self.looks += 1
            yield "first"
            if self.looks == 1:
                raise RuntimeError("Set changed size during iteration")
            yield "second"

    monkeypatch.setattr(connections, "alive", Changing())
    assert connections.all_alive() == ["first", "second"]
