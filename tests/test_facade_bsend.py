"""Buffered sends: the room that the program's buffer gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from effort import assert_linear
from mpi4py import MPI as mpi

from gloompi.facade import bsend

pytestmark = pytest.mark.usefixtures("room")

MESSAGE = np.arange(100, dtype="u1")
PLACES = 1000


class Sending:
    """A request of which the test says when it is done."""

    done = False

    def test(self) -> bool:
        return self.done


def begin(request: Any) -> None:
    bsend.send(MESSAGE, lambda copy: request)


@pytest.fixture
def room() -> Iterator[None]:
    """A buffer for `PLACES` messages."""
    bsend.attach(bytearray(PLACES * (len(MESSAGE) + mpi.BSEND_OVERHEAD)))
    yield
    for place in bsend._pending:
        if place.request is not None:
            place.request.done = True  # type: ignore[misc]
    bsend._collect()
    bsend.detach()


def test_places_are_given_back_in_order() -> None:
    requests = [Sending() for _ in range(PLACES)]
    for request in requests:
        begin(request)
    with pytest.raises(mpi.Exception) as caught:
        begin(Sending())
    assert caught.value.Get_error_class() == mpi.ERR_BUFFER
    requests[0].done = requests[1].done = requests[3].done = True  # the last of them stands behind one that is not done
    for _ in range(2):
        begin(Sending())
    with pytest.raises(mpi.Exception) as caught:
        begin(Sending())
    assert f"with {PLACES * (100 + mpi.BSEND_OVERHEAD)} under way" in str(caught.value.__cause__)
    requests[2].done = True
    for _ in range(2):  # places for two
        begin(Sending())
    with pytest.raises(mpi.Exception):
        begin(Sending())


def test_however_many_are_under_way() -> None:
    def prepare(count: int) -> Callable[[], object]:
        requests = [Sending() for _ in range(count)]

        def send_all() -> None:
            for request in requests:
                begin(request)
            for request in requests:
                request.done = True
            bsend._collect()
            assert not bsend._pending

        return send_all

    assert_linear(prepare)


# -- threads: what another one does is done here at the moment at which it may do it ---------------------------------------


class Overtaken(Sending):
    """While it is tested and found done, another thread takes back all places that are free."""

    overtaken = False

    def test(self) -> bool:
        if self.done and not self.overtaken:
            self.overtaken = True
            bsend._collect()
        return self.done


def test_two_threads_that_take_back_the_same_places() -> None:
    requests = [Overtaken(), Overtaken(), Sending()]
    for request in requests:
        begin(request)
    requests[0].done = requests[1].done = True
    bsend._collect()
    assert [place.request for place in bsend._pending] == requests[2:]


def test_a_place_is_taken_before_the_message_is_sent() -> None:
    for _ in range(PLACES - 1):
        begin(Sending())

    def sent_by_another(copy: Any) -> Any:
        with pytest.raises(mpi.Exception) as caught:
            begin(Sending())
        assert caught.value.Get_error_class() == mpi.ERR_BUFFER
        return Sending()

    bsend.send(MESSAGE, sent_by_another)


def test_a_send_that_fails_gives_its_place_back() -> None:
    def fail(copy: Any) -> Any:
        raise ConnectionResetError

    for _ in range(2 * PLACES):
        with pytest.raises(ConnectionResetError):
            bsend.send(MESSAGE, fail)
    begin(Sending())


def test_flush_keeps_what_another_thread_sends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Sending(), Sending()
    begin(first)

    def wait_all(requests: list[Any]) -> None:
        begin(second)
        for request in requests:
            request.done = True

    monkeypatch.setattr(bsend, "wait_all", wait_all)
    bsend.flush()
    monkeypatch.undo()
    assert [place.request for place in bsend._pending] == [second]
