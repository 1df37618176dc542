"""Connections that the kernel goes on serving although nobody answers: when they are given up, and when not."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import numpy as np
import pytest
from clock import Clock

from gloompi import Context, Device, PeerLostError, Request
from gloompi.deadline import Deadline
from gloompi.testing import run_ranks
from gloompi.transport import liveness, options
from gloompi.transport.abort import linger
from gloompi.transport.endpoint import Peer
from gloompi.transport.liveness import State, Vigil, unacknowledged
from gloompi.transport.options import KEEPALIVE, Keepalive
from gloompi.transport.pair import STAGING_NBYTES, Pair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PEER = Peer(3, "node7", 4121, "tcp", "10.0.0.4:40112")
IDLE = State(retransmits=0, probes=0, unacked=0, sent=9.0, heard=9.0)


class Line:
    """A pair over TCP, the other end of its socket, and what the kernel is made to say."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            self.far, _ = listener.accept()
        near.setblocking(False)
        self.losses: list[tuple[str, OSError | None]] = []
        self.pair = Pair(near, PEER, self, 0, memoryview(bytearray(STAGING_NBYTES)))  # type: ignore[arg-type]

    def frame(self, *_: Any) -> None:
        raise AssertionError("nothing comes")

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        self.losses.append((reason, cause))
        pair.close()

    def watch(self, pair: Pair, writing: bool) -> None: ...

    def close(self) -> None:
        self.pair.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(liveness, "monotonic", clock)
    return clock


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> dict[str, float]:
    """What the kernel says: when something was heard, and how many probes have been sent since."""
    facts = {"heard": clock.now, "probes": 0}

    def state(_: socket.socket) -> State:
        return State(0, int(facts["probes"]), 0, 0.0, clock.now - facts["heard"])

    monkeypatch.setattr(State, "of", state)
    return facts


# -- what the kernel knows ------------------------------------------------------------------------------------------------


def test_state_of_bytes() -> None:
    packed = (
        bytes([1, 0, 5, 7, 9, 6, 0x77, 0])  # state, ca_state, retransmits, probes, backoff, options, scales, flags
        + struct.pack("=4I", 204_000, 40_000, 1448, 536)  # rto, ato, snd_mss, rcv_mss
        + struct.pack("=5I", 11, 1, 2, 3, 4)  # unacked, sacked, lost, retrans, fackets
        + struct.pack("=4I", 1500, 0, 2500, 30_125)  # last_data_sent, last_ack_sent, last_data_recv, last_ack_recv
    )
    assert State.unpack(packed) == State(retransmits=5, probes=7, unacked=11, sent=1.5, heard=30.125)


def test_state_of_a_connection_whose_peer_answers(line: Line) -> None:
    line.pair.write(b"x" * 100)
    assert line.far.recv(100, socket.MSG_WAITALL) == b"x" * 100
    assert line.pair.sock is not None
    deadline = Deadline(5.0)
    while unacknowledged(line.pair.sock) and not deadline.expired():
        pass
    state = State.of(line.pair.sock)
    assert (state.retransmits, state.probes, state.unacked, state.unanswered) == (0, 0, 0, False)
    assert 0.0 <= state.heard <= 5.0


@pytest.mark.parametrize(
    ("facts", "unanswered"),
    [
        ({}, False),
        ({"probes": 1}, True),  # of a closed window, or keepalive's
        ({"unacked": 3, "sent": 0.1}, True),
        ({"unacked": 3}, False),  # what came in the same tick may be the answer
        ({"unacked": 3, "heard": 0.1}, False),  # the peer has closed its window over them, and says so every time
        ({"unacked": 3, "heard": 0.1, "retransmits": 1}, True),  # there is no route, and nothing is sent
        ({"sent": 0.1}, False),
        ({"retransmits": 1}, False),
    ],
    ids=str,
)
def test_unanswered(facts: dict[str, Any], unanswered: bool) -> None:
    assert IDLE._replace(**facts).unanswered is unanswered


# -- the verdict ----------------------------------------------------------------------------------------------------------


def look_until(vigil: Vigil, line: Line, clock: Clock, end: float) -> list[tuple[float, str]]:
    """Look whenever it is due; return when the pair was found lost, and what is said."""
    found = []
    while vigil.due <= end:
        clock.now = vigil.due
        found += [(clock.now, reason) for _, reason in vigil.look([line.pair])]
    return found


def test_a_silent_peer_is_lost_when_keepalive_would_lose_it(line: Line, clock: Clock, kernel: dict[str, float]) -> None:
    vigil = Vigil()
    assert vigil.due == 1005.0
    kernel["probes"] = 1
    assert look_until(vigil, line, clock, 1029.9) == []
    clock.now = 1030.0
    assert vigil.due == 1030.0
    assert vigil.look([line.pair]) == [(line.pair, "no answer for 30.0 s, 0 bytes unacknowledged")]


def test_silence_without_a_question_is_none(line: Line, clock: Clock, kernel: dict[str, float]) -> None:
    """A window that is closed is probed every 2 minutes; the probe is answered, but not yet when it is looked at."""
    vigil = Vigil()
    assert look_until(vigil, line, clock, 1118.0) == []
    kernel["probes"] = 1
    assert look_until(vigil, line, clock, 1122.0) == []
    kernel["heard"], kernel["probes"] = 1120.0, 0
    assert look_until(vigil, line, clock, 2000.0) == []


def test_a_late_question_gets_the_time_of_all_probes(line: Line, clock: Clock, kernel: dict[str, float]) -> None:
    vigil = Vigil()
    assert look_until(vigil, line, clock, 1118.0) == []
    kernel["probes"] = 1
    ((when, _),) = look_until(vigil, line, clock, 1140.0)
    assert when == 1120.0 + KEEPALIVE.interval * KEEPALIVE.probes


def test_an_answer_between_two_looks_begins_anew(line: Line, clock: Clock, kernel: dict[str, float]) -> None:
    """With probes outstanding at every look, but not the same ones."""
    vigil = Vigil(Keepalive(1, 5, 3))
    kernel["probes"] = 1
    assert look_until(vigil, line, clock, 1012.0) == []
    kernel["heard"] = 1012.0
    ((when, reason),) = look_until(vigil, line, clock, 1031.0)
    assert when == 1030.0  # first seen at 1015, after what was heard
    assert reason.startswith("no answer for 18.0 s, ")


def test_other_connections_are_left_out(line: Line, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def state(_: socket.socket) -> State:
        raise AssertionError("not asked")

    monkeypatch.setattr(State, "of", state)
    one, other = socket.socketpair()
    with one, other:
        pair = Pair(one, PEER, line, 0, memoryview(bytearray(STAGING_NBYTES)))  # type: ignore[arg-type]
        line.pair.close()
        vigil = Vigil()
        assert vigil.look([pair, line.pair]) == []
        assert vigil.due == clock.now + KEEPALIVE.interval


# -- those who look -------------------------------------------------------------------------------------------------------


def all_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection has been unanswered for 31 s, and so it was at the look before."""
    monkeypatch.setattr(options, "KEEPALIVE", Keepalive(0, 0, 3))
    monkeypatch.setattr(State, "of", lambda _: State(0, 1, 0, 0.0, 31.0))


def test_linger_does_not_wait_for_a_silent_peer(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    while line.pair.write(b"x" * 100_000):
        pass  # until the kernel has no more room: the peer reads nothing
    all_silent(monkeypatch)
    assert linger([line.pair], Deadline(60.0)) == []


def test_a_rank_that_waits_gives_a_silent_peer_up(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Barrier(2)

    def program(ctx: Context) -> str:
        ctx.barrier()
        began.wait(10)
        if ctx.rank == 0:
            all_silent(monkeypatch)
            ctx._engine._poller._vigil = Vigil()
            ctx._engine._poller.due = 0.0
        with pytest.raises(PeerLostError) as caught:
            ctx.recv(np.empty(3), 1 - ctx.rank)
        return str(caught.value)

    texts = run_ranks(2, program, device=Device("lo", transport="tcp"))
    lost = (
        r"in recv: no answer for 31\.0 s, \d+ bytes unacknowledged; its process has ended or its link is down, see its log"
    )
    assert re.search(f"{lost}$", texts[0]), texts
    assert re.search(": connection closed by peer; ", texts[1]), texts


def test_an_event_loop_gives_a_silent_peer_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps on what comes, and has to wake up without that."""
    began = threading.Barrier(2)

    async def wait_for(request: Request) -> None:
        await request

    def program(ctx: Context) -> str:
        ctx.barrier()
        ctx._engine._poller.due = monotonic() + 0.3
        ctx._engine._poller._vigil = Vigil(Keepalive(0, 0, 3))
        began.wait(10)
        monkeypatch.setattr(State, "of", lambda _: State(0, 1, 0, 0.0, 31.0))
        with pytest.raises(PeerLostError) as caught:
            asyncio.run(wait_for(ctx.irecv(np.empty(3), 1 - ctx.rank)))
        return str(caught.value)

    texts = run_ranks(2, program, device=Device("lo", transport="tcp"))
    assert any(": no answer for 31.0 s, " in text for text in texts), texts


def test_waits_shorter_than_the_interval_ask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(_: socket.socket) -> State:
        raise AssertionError("asked")

    monkeypatch.setattr(State, "of", state)
    monkeypatch.setattr(options, "KEEPALIVE", Keepalive(15, 3600, 3))

    def program(ctx: Context) -> None:
        for _ in range(300):
            ctx.allreduce(np.ones(1))

    run_ranks(2, program, device=Device("lo", transport="tcp"))
