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
    bsend.keep(request, bsend.reserve(MESSAGE).nbytes)


@pytest.fixture
def room() -> Iterator[None]:
    """A buffer for `PLACES` messages."""
    bsend.attach(bytearray(PLACES * (len(MESSAGE) + mpi.BSEND_OVERHEAD)))
    yield
    for request, *_ in bsend._pending:
        request.done = True  # type: ignore[misc]
    bsend.reserve(MESSAGE)
    bsend.detach()


def test_places_are_given_back_in_order() -> None:
    requests = [Sending() for _ in range(PLACES)]
    for request in requests:
        begin(request)
    with pytest.raises(mpi.Exception) as caught:
        bsend.reserve(MESSAGE)
    assert caught.value.Get_error_class() == mpi.ERR_BUFFER
    requests[0].done = requests[1].done = requests[3].done = True  # the last of them stands behind one that is not done
    for _ in range(2):
        begin(Sending())
    with pytest.raises(mpi.Exception) as caught:
        bsend.reserve(MESSAGE)
    assert f"with {PLACES * (100 + mpi.BSEND_OVERHEAD)} under way" in str(caught.value.__cause__)
    requests[2].done = True
    for _ in range(2):  # places for two
        begin(Sending())
    with pytest.raises(mpi.Exception):
        bsend.reserve(MESSAGE)


def test_however_many_are_under_way() -> None:
    def prepare(count: int) -> Callable[[], object]:
        requests = [Sending() for _ in range(count)]

        def send_all() -> None:
            for request in requests:
                begin(request)
            for request in requests:
                request.done = True
            bsend.reserve(MESSAGE)
            assert not bsend._pending

        return send_all

    assert_linear(prepare)
