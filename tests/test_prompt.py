"""Small messages that a blocking call waits for are taken where they come; what else comes loses nothing by that."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from typing import Any

import numpy as np
import pytest
from handlers import Handler
from launch import run_job
from traffic import assert_same, nothing_waits, values

from gloompi import (
    ANY_SOURCE,
    ANY_TAG,
    Context,
    ContextClosedError,
    Device,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    Status,
    wait_all,
)
from gloompi.deadline import Deadline
from gloompi.engine import polling
from gloompi.engine.engine import Engine
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.messages import CREDIT_NBYTES, EAGER_NBYTES
from gloompi.engine.polling import Poller
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks
from gloompi.transport import pair as module
from gloompi.transport.endpoint import Peer
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header
from gloompi.transport.link import Loopback
from gloompi.transport.pair import EXPECTED_NBYTES, STAGING_NBYTES, Pair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PEER = Peer(3, "node7", 4121, "unix", "@gloompi-ab")
MARK = bytes(range(32))
SMALL = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 30 * SMALL + 3
HELD_NBYTES = 65_536  # a socket takes so much at once, and a header
WAIT = 30.0
PATIENCE = 0.05  # ranks that share a process have none of their own accord

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
patiences = pytest.mark.parametrize("patience", [0.0, PATIENCE])


# -- one pair -----------------------------------------------------------------------------------------------------------


class Waits:
    """Patience whose pauses are a list of things to happen; when there are no more, its time is over."""

    now = 1.0
    prompt = 1.0

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)
        self.pauses = 0
        if not steps:
            self.prompt = 0.0

    def pause(self, tried: float) -> None:
        assert 0 <= tried < self.prompt
        self.pauses += 1
        if self._steps:
            self._steps.pop(0)()
        else:
            Waits.now += 2 * self.prompt

    def alone(self) -> bool:
        raise AssertionError("not a pair's business")


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def ends(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pair, socket.socket]]:
    """A pair, whose time is that of `Waits`, and the socket of its peer."""
    monkeypatch.setattr(module, "monotonic", lambda: Waits.now)
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(10)
    pair = Pair(near, PEER, handler, 0, memoryview(bytearray(STAGING_NBYTES)))
    yield pair, far
    pair.close()
    far.close()


def header(tag: int, nbytes: int, kind: Kind = Kind.MESSAGE, mark: bytes = MARK) -> bytes:
    return pack_header(kind, 5, tag, nbytes, mark)


def pattern(nbytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def message(tag: int, nbytes: int, seed: int = 0) -> bytes:
    return header(tag, nbytes) + pattern(nbytes, seed)


def take_all(pair: Pair) -> None:
    while pair.receive():
        pass


@pytest.mark.parametrize("nbytes", [0, 1, 8, 4096, HELD_NBYTES])
def test_the_expected_frame_is_there(ends: tuple[Pair, socket.socket], handler: Handler, nbytes: int) -> None:
    pair, far = ends
    waits = Waits()
    for seed in range(3):
        far.sendall(message(7, nbytes, seed))
        payload = pair.expect(header(7, nbytes), nbytes, waits)
        assert payload is not None
        assert bytes(payload) == pattern(nbytes, seed)
    assert waits.pauses == 0
    assert handler.frames == []
    assert pair.receive() is False


@pytest.mark.parametrize("cuts", [(1,), (63,), (64,), (65,), (1, 63, 64, 65, 163), (10, 100), tuple(range(1, 164))])
def test_the_expected_frame_comes_in_pieces(
    ends: tuple[Pair, socket.socket], handler: Handler, cuts: tuple[int, ...]
) -> None:
    pair, far = ends
    stream = message(7, 100)
    pieces = [stream[start:stop] for start, stop in itertools.pairwise((0, *cuts, len(stream)))]
    waits = Waits(*[lambda piece=piece: far.sendall(piece) for piece in pieces])  # type: ignore[misc]
    payload = pair.expect(header(7, 100), 100, waits)
    assert payload is not None
    assert bytes(payload) == pattern(100)
    assert waits.pauses == len(pieces)
    assert handler.frames == []


def test_the_longest_payload_that_is_tried(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    """In pieces: it is more than a socket holds by default."""
    pair, far = ends
    for seed in range(3):
        stream = message(7, EXPECTED_NBYTES, seed)
        pieces = [stream[start : start + HELD_NBYTES] for start in range(0, len(stream), HELD_NBYTES)]
        waits = Waits(*[lambda piece=piece: far.sendall(piece) for piece in pieces])  # type: ignore[misc]
        payload = pair.expect(header(7, EXPECTED_NBYTES), EXPECTED_NBYTES, waits)
        assert payload is not None
        assert bytes(payload) == pattern(EXPECTED_NBYTES, seed)
        assert waits.pauses == len(pieces)
    assert handler.frames == []
    assert pair.receive() is False


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 65, 163])
def test_what_came_when_patience_ends_is_kept(ends: tuple[Pair, socket.socket], handler: Handler, cut: int) -> None:
    pair, far = ends
    stream = message(7, 100)
    far.sendall(stream[:cut])
    assert pair.expect(header(7, 100), 100, Waits()) is None
    assert handler.frames == ([(Kind.MESSAGE, 7)] if cut >= HEADER_NBYTES else [])
    # Now something is under way, and nothing is expected before that is over.
    far.sendall(stream[cut:] + message(8, 100, 1))
    if cut:
        assert pair.expect(header(7, 100), 100, Waits()) is None
        assert handler.frames == ([(Kind.MESSAGE, 7)] if cut >= HEADER_NBYTES else [])
        take_all(pair)
        assert handler.frames == [(Kind.MESSAGE, 7), (Kind.MESSAGE, 8)]
        assert handler.received() == [pattern(100), pattern(100, 1)]
    else:
        payload = pair.expect(header(7, 100), 100, Waits())
        assert payload is not None
        assert bytes(payload) == pattern(100)


def test_nothing_comes(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, _ = ends
    for steps in range(4):
        waits = Waits(*[lambda: None] * steps)
        assert pair.expect(header(7, 8), 8, waits) is None
        assert waits.pauses == (steps + 1 if steps else 0)
    assert handler.frames == []
    assert handler.losses == []


OTHERS = {
    "another tag": message(8, 100, 1),
    "another kind": header(7, 0, Kind.CLEAR),
    "another mark": header(7, 100, mark=bytes(32)) + pattern(100, 1),
    "another channel": pack_header(Kind.MESSAGE, 4, 7, 100, MARK) + pattern(100, 1),
    "a shorter one": message(7, 99, 1),
    "a longer one": message(7, 101, 1),
    "a much longer one": message(7, EXPECTED_NBYTES + 40_000, 1),
    "an empty one": message(7, 0, 1),
    "data": header(7, 100, Kind.DATA) + pattern(100, 1),
    "several": header(1, 0, Kind.CLEAR) + header(2, 0, Kind.CREDIT) + message(3, 5, 1),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("step", [7, 64, 1_000_000])
def test_another_frame_comes_first(ends: tuple[Pair, socket.socket], handler: Handler, other: str, step: int) -> None:
    pair, far = ends
    stream = OTHERS[other] + message(7, 100, 2) + message(9, 0)
    sender = threading.Thread(
        target=lambda: [far.sendall(stream[start : start + step]) for start in range(0, len(stream), step)]
    )
    sender.start()
    assert pair.expect(header(7, 100), 100, Waits(*[os.sched_yield] * 100_000)) is None
    deadline = Deadline(WAIT)
    while (Kind.MESSAGE, 9) not in handler.frames:
        take_all(pair)
        assert not deadline.expired()
    sender.join()
    assert handler.received()[-2:] == [pattern(100, 2), b""]
    assert handler.frames[-2:] == [(Kind.MESSAGE, 7), (Kind.MESSAGE, 9)]
    if other in ("another tag", "a shorter one", "a longer one", "a much longer one", "another mark", "data"):
        nbytes = len(OTHERS[other]) - HEADER_NBYTES
        assert handler.received()[0] == pattern(nbytes, 1)
    assert len(handler.frames) == {"several": 5}.get(other, 3)


def test_what_follows_the_expected_frame_stays(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    far.sendall(message(7, 100) + message(8, 50, 1) + header(9, 0, Kind.CLEAR) + message(7, 100, 2))
    payload = pair.expect(header(7, 100), 100, Waits())
    assert payload is not None
    assert bytes(payload) == pattern(100)
    assert handler.frames == []
    assert pair.expect(header(7, 100), 100, Waits()) is None
    take_all(pair)
    assert handler.frames == [(Kind.MESSAGE, 8), (Kind.CLEAR, 9), (Kind.MESSAGE, 7)]
    assert handler.received() == [pattern(50, 1), pattern(100, 2)]


def test_a_large_payload_is_not_tried(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    stream = message(7, EXPECTED_NBYTES + 1)
    far.sendall(stream[:HELD_NBYTES])
    waits = Waits()
    assert pair.expect(stream[:HEADER_NBYTES], EXPECTED_NBYTES + 1, waits) is None
    assert waits.pauses == 0
    assert handler.frames == []
    take_all(pair)
    for start in range(HELD_NBYTES, len(stream), HELD_NBYTES):
        far.sendall(stream[start : start + HELD_NBYTES])
        take_all(pair)
    assert handler.received() == [stream[HEADER_NBYTES:]]


def test_nothing_is_tried_while_a_payload_is_under_way(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    stream = message(1, 100_000) + message(7, 8, 1)
    far.sendall(stream[:70_000])
    take_all(pair)
    assert pair.expect(header(7, 8), 8, Waits()) is None
    far.sendall(stream[70_000:])
    assert pair.expect(header(7, 8), 8, Waits()) is None
    assert pair.receive() is True  # the rest of the first
    payload = pair.expect(header(7, 8), 8, Waits())
    assert payload is not None
    assert bytes(payload) == pattern(8, 1)
    assert handler.received() == [pattern(100_000)]


ENDINGS = [
    (0, "connection closed by peer"),
    (10, "connection closed by peer, 10 bytes into a header"),
    (63, "connection closed by peer, 63 bytes into a header"),
    (64, "connection closed by peer, 100 bytes short of a message"),
    (163, "connection closed by peer, 1 bytes short of a message"),
]


@pytest.mark.parametrize("there", [True, False], ids=["there", "comes"])
@pytest.mark.parametrize(("cut", "reason"), ENDINGS, ids=[str(cut) for cut, _ in ENDINGS])
def test_end_of_stream_instead(
    ends: tuple[Pair, socket.socket], handler: Handler, cut: int, reason: str, there: bool
) -> None:
    """Told as when nothing is expected."""
    pair, far = ends
    far.sendall(message(7, 100)[:cut])
    if there:
        far.close()
    assert pair.expect(header(7, 100), 100, Waits(far.close)) is None
    while not handler.losses:
        assert pair.receive() is True
    assert handler.losses == [(reason, None)]
    assert pair.sock is None
    assert pair.expect(header(7, 100), 100, Waits()) is None


def test_end_of_stream_behind_the_expected_frame(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    far.sendall(message(7, 100))
    far.close()
    payload = pair.expect(header(7, 100), 100, Waits())
    assert payload is not None
    assert bytes(payload) == pattern(100)
    assert handler.losses == []
    assert pair.expect(header(7, 100), 100, Waits()) is None
    assert handler.losses == [("connection closed by peer", None)]


@pytest.mark.parametrize(
    ("cut", "reason"),
    [(0, ""), (10, ", 10 bytes into a header"), (64, ", 100 bytes short of a message")],
    ids=["idle", "in the header", "in the payload"],
)
def test_reset_instead(ends: tuple[Pair, socket.socket], handler: Handler, cut: int, reason: str) -> None:
    pair, far = ends
    far.sendall(message(7, 100)[:cut])
    pair.write(header(1, 0, Kind.CLEAR))  # unread input at its end resets the connection
    assert pair.expect(header(7, 100), 100, Waits(far.close)) is None
    while not handler.losses:
        assert pair.receive() is True
    ((told, cause),) = handler.losses
    assert told == f"Connection reset by peer{reason}"
    assert isinstance(cause, ConnectionResetError)


def test_another_version_instead(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    far.sendall(b"\x01" + message(7, 100)[1:])
    assert pair.expect(header(7, 100), 100, Waits()) is None
    assert handler.losses == [("it speaks frame version 1, this rank version 4", None)]


def test_the_way_to_oneself_has_nothing_to_wait_for(handler: Handler) -> None:
    link = Loopback(Peer(0, "node7", 1, "self", ""), handler, 0)
    waits = Waits()
    assert link.expect(header(7, 8), 8, waits) is None
    assert waits.pauses == 0


def test_all_are_looked_at_after_64_messages_and_after_half_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks, poll = [1.0], [0], Poller.poll

    def counted(poller: Poller, timeout: float | None) -> bool:
        looks[0] += 1
        return poll(poller, timeout)

    def looked() -> int:
        assert poller.alone() is True
        return looks[0]

    monkeypatch.setattr(polling, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Poller, "poll", counted)
    poller = Poller(False, False, lambda: None)
    assert looked() == 1
    clock[0] += 501e-6
    assert looked() == 2
    assert [looked() for _ in range(131)] == [2] * 64 + [3] * 65 + [4] * 2
    poller.close()
    clock[0] += 1
    assert poller.alone() is False
    assert looks[0] == 4


def test_not_alone_while_something_waits_to_be_sent(ends: tuple[Pair, socket.socket]) -> None:
    pair, _ = ends
    poller = Poller(False, False, lambda: None)
    poller.add(pair)
    assert poller.alone() is True
    poller.watch(pair, True)
    assert poller.alone() is False
    poller.watch(pair, False)
    assert poller.alone() is True
    poller.remove(pair)
    poller.close()


# -- whole Contexts -----------------------------------------------------------------------------------------------------


class Prompt:
    """Counts what was tried, and what was taken at once."""

    def __init__(self) -> None:
        self.tried = self.taken = 0


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> Prompt:
    monkeypatch.setattr(polling, "_ALONE_SECONDS", inf)  # or every call after a pause would look at all connections first
    counts, expect = Prompt(), Pair.expect

    def counting(pair: Pair, wanted: bytes, nbytes: int, waits: Any) -> memoryview | None:
        counts.tried += 1
        payload = expect(pair, wanted, nbytes, waits)
        counts.taken += payload is not None
        return payload

    monkeypatch.setattr(Pair, "expect", counting)
    return counts


def connected(n: int = 2, transport: str = "unix") -> list[Context]:
    """The Contexts of `n` ranks, for this thread to use: only what does not wait for another one makes sense."""
    with ThreadPoolExecutor(n) as pool:
        return list(
            pool.map(
                lambda exchange: Context._from_exchange(exchange, Device(transport=transport), 10.0, Deadline(10.0)),
                local_exchanges(n),
            )
        )


@contextmanager
def together(n: int = 2, transport: str = "unix") -> Iterator[list[Context]]:
    contexts = connected(n, transport)
    try:
        yield contexts
    finally:
        for ctx in contexts:
            ctx.abort("done")


def patient(ctx: Context, patience: float) -> None:
    ctx._engine._poller.patience = ctx._engine._poller.prompt = patience


@transports
@pytest.mark.parametrize("count", [0, 1, 7, HELD_NBYTES // 8])
def test_a_message_that_is_there_is_taken_at_once(prompt: Prompt, count: int, transport: str) -> None:
    with together(transport=transport) as (sender, receiver):
        patient(receiver, WAIT)
        for salt in range(5):
            sender.send(values(0, salt, count), 1, tag=3)
            out = np.full(count, -1.0)
            assert receiver.recv(out, 0, tag=3) == Status(0, 3, 8 * count)
            assert_same(out, values(0, salt, count))
        assert prompt.taken == 5
        assert nothing_waits(receiver)


@transports
def test_the_longest_message_that_goes_without_asking_is_taken_as_it_comes(prompt: Prompt, transport: str) -> None:
    """From a thread: it may be more than a socket holds."""
    with together(transport=transport) as (sender, receiver):
        patient(receiver, WAIT)
        out = np.empty(SMALL)
        for salt in range(3):  # for which there is credit
            thread = threading.Thread(target=sender.send, args=(values(0, salt, SMALL), 1), kwargs={"tag": 3})
            thread.start()
            assert receiver.recv(out, 0, tag=3) == Status(0, 3, 8 * SMALL)
            thread.join()
            assert_same(out, values(0, salt, SMALL))
        assert prompt.taken == 3
        assert nothing_waits(receiver)


def test_into_any_memory(prompt: Prompt) -> None:
    dtypes = ("?", "i1", ">f4", "g", "G", "S5", "M8[ns]", [("a", "u1"), ("b", "<f8")])
    with together() as (sender, receiver):
        for dtype in dtypes:
            raw = np.random.default_rng(1).integers(0, 2, 100 * np.dtype(dtype).itemsize, "u1")
            sender.send(raw.view(dtype), 1)
            out = np.zeros((10, 20), dtype)[:, ::2]
            assert receiver.recv(out, 0).nbytes == raw.size
            assert out.tobytes() == raw.tobytes()
        assert prompt.taken == len(dtypes)


def test_what_is_too_large_is_not_tried(prompt: Prompt) -> None:
    with together() as (sender, receiver):
        request = sender.isend(values(0, 0, SMALL + 1), 1)
        out = np.empty(SMALL + 1)
        receiver.recv(out, 0)
        request.wait()
        assert_same(out, values(0, 0, SMALL + 1))
        assert prompt.taken == 0


@patiences
@pytest.mark.parametrize("before", [1, 2, 70, 300])
def test_messages_of_other_tags_come_first(prompt: Prompt, before: int, patience: float) -> None:
    with together() as (sender, receiver):
        patient(receiver, patience)
        child, other = sender.dup(), receiver.dup()
        for tag in range(before):
            (child if tag % 3 == 2 else sender).send(values(0, tag, 5 + tag % 3), 1, tag=tag)
        sender.send(values(0, 0, 7), 1, tag=1000)
        out = np.empty(7)
        assert receiver.recv(out, 0, tag=1000) == Status(0, 1000, 56)
        assert_same(out, values(0, 0, 7))
        for tag in reversed(range(before)):
            out = np.empty(5 + tag % 3)
            assert (other if tag % 3 == 2 else receiver).recv(out, 0, tag=tag).nbytes == out.nbytes
            assert_same(out, values(0, tag, 5 + tag % 3))
        assert nothing_waits(receiver)
        assert nothing_waits(other)


@patiences
@pytest.mark.parametrize("wanted", [(0, 3), (ANY_SOURCE, 3), (0, ANY_TAG), (ANY_SOURCE, ANY_TAG)])
def test_a_receive_that_was_posted_before_is_served_before(prompt: Prompt, wanted: tuple[int, int], patience: float) -> None:
    with together() as (sender, receiver):
        patient(receiver, patience)
        outs = np.full((3, 7), -1.0)
        posted = [receiver.irecv(out, wanted[0], tag=wanted[1]) for out in outs[:2]]
        for salt in range(3):
            sender.send(values(0, salt, 7), 1, tag=3)
        assert receiver.recv(outs[2], 0, tag=3) == Status(0, 3, 56)
        assert [request.wait() for request in posted] == [Status(0, 3, 56)] * 2
        assert_same(outs, np.array([values(0, salt, 7) for salt in range(3)]))
        assert prompt.tried == 0


def test_a_posted_receive_of_something_else_is_served(prompt: Prompt) -> None:
    with together() as (sender, receiver):
        outs = np.full((2, 7), -1.0)
        posted = receiver.irecv(outs[0], 0, tag=4)
        sender.send(values(0, 0, 7), 1, tag=4)
        sender.send(values(0, 1, 7), 1, tag=3)
        receiver.recv(outs[1], 0, tag=3)
        posted.wait()
        assert_same(outs, np.array([values(0, salt, 7) for salt in range(2)]))


def test_a_large_message_under_way_stays_before_a_small_one(prompt: Prompt) -> None:
    """The receive of the large one is matched, so nothing is posted any more when the small one is waited for."""

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for salt in range(20):
                requests = [ctx.isend(values(0, salt, LARGE), 1, tag=3), ctx.isend(values(0, salt, 5), 1, tag=3)]
                wait_all(requests)
            ctx.barrier()  # or looking for what does not come any more is an error
            return
        patient(ctx, PATIENCE)
        for salt in range(20):
            outs = np.empty(LARGE), np.empty(5)
            large = ctx.irecv(outs[0], 0, tag=3)
            ctx.iprobe(0, tag=99)
            ctx.recv(outs[1], 0, tag=3)
            large.wait()
            assert_same(outs[0], values(0, salt, LARGE))
            assert_same(outs[1], values(0, salt, 5))
        ctx.barrier()

    for transport in ("unix", "tcp"):
        run_ranks(2, body, device=Device(transport=transport))


def test_a_message_that_a_probe_has_taken_stays_taken(prompt: Prompt) -> None:
    with together() as (sender, receiver):
        for salt in range(3):
            sender.send(values(0, salt, 7), 1, tag=3)
        first = receiver.mprobe(0, tag=3)
        out = np.empty(7)
        assert receiver.probe(0, tag=3) == Status(0, 3, 56)
        receiver.recv(out, 0, tag=3)
        assert_same(out, values(0, 1, 7))
        receiver.recv(out, 0, tag=3)
        assert_same(out, values(0, 2, 7))
        first.recv(out)
        assert_same(out, values(0, 0, 7))


def test_a_synchronous_message_and_one_without_credit(prompt: Prompt) -> None:
    """Both are announced where a whole message is expected."""
    with together() as (sender, receiver):
        out = np.empty(SMALL)
        request = sender.issend(values(0, 0, 7), 1, tag=3)
        received = receiver.irecv(out, 0, tag=3)
        while sum((received.test(), request.test())) < 2:
            pass
        assert_same(out[:7], values(0, 0, 7))
        count = CREDIT_NBYTES // EAGER_NBYTES + 3
        requests = [sender.isend(values(0, salt, SMALL), 1, tag=salt % 2) for salt in range(count)]
        assert not requests[-1].test()

        def sending() -> None:
            wait_all(requests)

        thread = threading.Thread(target=sending)
        thread.start()
        for tag in (1, 0):
            for salt in range(tag, count, 2):
                assert receiver.recv(out, 0, tag=tag).nbytes == 8 * SMALL
                assert_same(out, values(0, salt, SMALL))
        thread.join()


@patiences
def test_a_shorter_and_a_longer_message(prompt: Prompt, patience: float) -> None:
    with together() as (sender, receiver):
        patient(receiver, patience)
        out = np.full(9, -1.0)
        for count in (0, 7, 8, 9):
            sender.send(values(0, count, count), 1)
            assert receiver.recv(out, 0) == Status(0, 0, 8 * count)
            assert_same(out[:count], values(0, count, count))
            assert (out[count:] == -1).all()
        sender.send(values(0, 0, 10), 1)
        with pytest.raises(MismatchError) as caught:
            receiver.recv(out, 0)
        assert str(caught.value) == (
            "ranks disagree on the message from rank 0 to rank 1 with tag 0: rank 1 called recv(<f8, count 9) of at most 72 "
            "bytes, rank 0 called send(<f8, count 10) of 80 bytes; a receive needs the dtype that was sent and room for all "
            "of it; recv_array takes any array, recv_object any object"
        )
        assert prompt.taken == 1


@patiences
@pytest.mark.parametrize("n", [2, 3, 4])
def test_messages_before_a_collective_on_the_same_pair(prompt: Prompt, n: int, patience: float) -> None:
    def body(ctx: Context) -> None:
        patient(ctx, patience)
        after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        for salt in range(30):
            for tag in range(salt % 4):
                ctx.send(values(ctx.rank, salt, 3 + tag), after, tag=tag)
            assert ctx.allreduce(np.full(2, 1 << ctx.rank)).tolist() == [(1 << n) - 1] * 2
            ctx.barrier()
            for tag in reversed(range(salt % 4)):
                out = np.empty(3 + tag)
                assert ctx.recv(out, before, tag=tag) == Status(before, tag, out.nbytes)
                assert_same(out, values(before, salt, 3 + tag))

    run_ranks(n, body)
    assert prompt.tried


def test_a_collective_before_a_message_on_the_same_pair(prompt: Prompt) -> None:
    with together() as (one, other):
        began = one.iallreduce(np.array([3.0]))
        one.send(values(0, 0, 7), 1)
        out = np.empty(7)
        other.recv(out, 0)
        assert_same(out, values(0, 0, 7))
        assert other.allreduce(np.array([4.0])).tolist() == [7]
        assert began.wait().tolist() == [7]


@patiences
@pytest.mark.parametrize("call", ["recv", "barrier", "allreduce", "broadcast"])
def test_an_abort_instead(prompt: Prompt, call: str, patience: float) -> None:
    with together() as (one, other):
        patient(other, patience)
        one.abort("enough")
        calls: dict[str, Callable[[], object]] = {
            "recv": lambda: other.recv(np.empty(1), 0),
            "barrier": other.barrier,
            "allreduce": lambda: other.allreduce(np.ones(1)),
            "broadcast": lambda: other.broadcast(np.ones(1)),
        }
        with pytest.raises(PeerLostError) as caught:
            calls[call]()
        who = str(other.peers[0])
        assert (
            str(caught.value) == f"lost {who} between operations: it aborted: enough (reported by rank 0)"
        )  # its own words
        with pytest.raises(PeerLostError, match="it aborted: enough"):
            other.barrier()
        assert prompt.tried == 1


@patiences
def test_a_peer_that_is_gone_instead(prompt: Prompt, patience: float) -> None:
    with together() as (one, other):
        patient(other, patience)
        one.send(values(0, 1, 7), 1)
        sock = one._engine._links[1].sock  # type: ignore[attr-defined]
        sock.shutdown(socket.SHUT_RDWR)  # as when its process ends
        out = np.empty(7)
        assert other.recv(out, 0) == Status(0, 0, 56)
        assert_same(out, values(0, 1, 7))
        with pytest.raises(PeerLostError) as caught:
            other.recv(out, 0)
        assert str(caught.value) == (
            f"lost {other.peers[0]} in recv: connection closed by peer; its process has ended or its link is down, see its "
            "log"
        )


@patiences
def test_a_peer_that_has_closed(prompt: Prompt, patience: float) -> None:
    with together() as (one, other):
        patient(other, patience)
        one.send(values(0, 1, 7), 1)
        one.close()
        out = np.empty(7)
        assert other.recv(out, 0) == Status(0, 0, 56)
        with pytest.raises(PeerLostError, match="in recv: it closed its Context while this rank still needed it"):
            other.recv(out, 0)


@patiences
@pytest.mark.parametrize("timeout", [0.0, 0.1])
def test_nothing_comes_in_time(prompt: Prompt, timeout: float, patience: float) -> None:
    with together() as (_, other):
        patient(other, patience)
        with pytest.raises(OperationTimeoutError) as caught:
            other.recv(np.empty(1), 0, timeout=timeout)
        assert str(caught.value) == (
            f"recv timed out after {timeout:.1f} s: got 0 of 8 bytes from {other.peers[0]}, which may have stopped or not "
            "sent it; see its log"
        )


def _mismatching(ctx: Context) -> list[Callable[[bool], object]]:
    return [
        lambda odd: ctx.allreduce(np.ones(3 + odd)),
        lambda odd: ctx.allreduce(np.ones(3, "f8" if odd else "i8")),
        lambda odd: ctx.allreduce(np.ones(3), op="max" if odd else "sum"),
        lambda odd: ctx.barrier() if odd else ctx.allreduce(np.ones(1)),
        lambda odd: ctx.broadcast(np.ones(3), root=int(odd)),
        lambda odd: ctx.reduce(np.ones(3), root=int(odd)),
        lambda odd: ctx.broadcast(np.ones(3 + odd)),
        lambda odd: ctx.reduce(np.ones(3)) if odd else ctx.broadcast(np.ones(3)),
    ]


@patiences
@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("n", [2, 3, 4])
def test_small_collectives_that_disagree(prompt: Prompt, n: int, number: int, patience: float) -> None:
    def body(ctx: Context) -> None:
        patient(ctx, patience)
        call = _mismatching(ctx)[number]
        with pytest.raises(MismatchError):  # noqa: PT012
            call(ctx.rank == n - 1)
            for _ in range(10):  # whose part of the call is to send may learn of it later
                ctx.barrier()
        with pytest.raises(MismatchError):
            ctx.barrier()

    run_ranks(n, body, timeout=20)


def test_a_disagreement_says_who_and_what(prompt: Prompt) -> None:
    with together() as (one, other):
        one.iallreduce(np.ones(3))
        with pytest.raises(MismatchError) as caught:
            other.allreduce(np.ones(4))
        assert str(caught.value) == (
            "ranks disagree on allreduce #1: rank 1 called allreduce(sum, <f8, count 4, algorithm recursive_doubling), rank "
            "0 called allreduce(sum, <f8, count 3, algorithm recursive_doubling); every rank must make the same calls in "
            "the same order"
        )
        assert prompt.taken == 0


def check_small(ctx: Context, turns: int, delay: Callable[[], object]) -> None:
    """Small collectives one after the other, their results compared, with something done between."""
    n, me = ctx.size, ctx.rank
    for turn in range(turns):
        count = (1, 0, 2, 100, 2000)[turn % 5]
        x = np.arange(count) + 1000 * me + turn
        total = sum(np.arange(count) + 1000 * rank + turn for rank in range(n))
        delay()
        ctx.barrier()
        assert_same(ctx.allreduce(x), total)
        delay()
        y = x.copy()
        ctx.broadcast(y, root=turn % n)
        assert_same(y, np.arange(count) + 1000 * (turn % n) + turn)
        delay()
        assert_same(ctx.reduce(x, root=turn % n), total if me == turn % n else None)
        assert_same(ctx.reduce(x, root=turn % n, op=lambda a, b: a), np.arange(count) + turn if me == turn % n else None)
        assert_same(ctx.allreduce(x, op=lambda a, b: b), np.arange(count) + 1000 * (n - 1) + turn)
        assert_same(ctx.allreduce(x, out=x), total)


@transports
@patiences
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_small_collectives_with_ranks_that_are_late(prompt: Prompt, n: int, patience: float, transport: str) -> None:
    def body(ctx: Context) -> None:
        patient(ctx, patience / 50)
        own = random.Random(ctx.rank)

        def delay() -> None:
            for _ in range(own.choice((0, 0, 1, 50))):
                os.sched_yield()

        check_small(ctx, 15, delay)

    run_ranks(n, body, device=Device(transport=transport))
    assert prompt.tried or n == 1


@pytest.mark.parametrize("n", [2, 4])
def test_between_processes(mpi_jobs: None, n: int) -> None:
    for found in run_job(n, "prompt_small.py", timeout=60):
        assert found["wrong"] == []
        assert found["taken"] > 0


# -- others are not forgotten -------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("direction", ["send", "recv"])
def test_a_large_message_moves_on_while_small_ones_are_exchanged(prompt: Prompt, direction: str, transport: str) -> None:
    """Two ranks in a long row of prompt calls; a third that has its large message to get or to give meanwhile."""

    def body(ctx: Context) -> None:
        patient(ctx, PATIENCE)
        x, out = values(ctx.rank, 1, LARGE), np.full(LARGE, -1.0)
        if ctx.rank == 2:
            if direction == "send":
                ctx.recv(out, 0)
                assert_same(out, values(0, 1, LARGE))
            else:
                ctx.send(x, 0)
            return
        if ctx.rank == 1:
            flag = np.ones(1)
            while flag[0]:
                ctx.recv(flag, 0)
                ctx.send(flag, 0)
            return
        request = ctx.isend(x, 2) if direction == "send" else ctx.irecv(out, 2)
        if direction == "recv":
            while ctx._conversation.messages.matcher.posted():
                ctx.iprobe(1)  # it is matched: small messages are waited for at once again
        for _ in range(200_000):
            if request.done:
                break
            ctx.send(np.ones(1), 1)
            ctx.recv(np.empty(1), 1)
        assert request.done
        ctx.send(np.zeros(1), 1)
        ctx.recv(np.empty(1), 1)
        if direction == "recv":
            assert_same(out, values(2, 1, LARGE))

    run_ranks(3, body, device=Device(transport=transport))
    assert prompt.taken


def test_no_more_than_64_in_a_row_without_a_look_at_the_others(prompt: Prompt) -> None:
    with together(3) as (one, other, third):
        sent = one.isend(values(0, 0, SMALL + 1), 2)
        out = np.empty(SMALL + 1)
        received = third.irecv(out, 0)
        while not received.test():  # its answer is on the way, and rank 0 has not looked
            if not third._engine._links[0].readable:
                one.iprobe(1)
        small = np.empty(1)
        for turn in range(66):
            other.send(np.array([float(turn)]), 0)
            one.recv(small, 1)
            assert small[0] == turn
            if turn < 63:
                assert not sent.done
        assert sent.done
        assert prompt.taken >= 64


def test_an_abort_from_another_thread_ends_a_row_of_small_messages(prompt: Prompt) -> None:
    busy = threading.Event()

    def body(ctx: Context) -> None:
        patient(ctx, PATIENCE)
        peer, out = 1 - ctx.rank, np.empty(1)
        killer = threading.Thread(target=lambda: (busy.wait(WAIT), ctx.abort("enough")))
        if ctx.rank == 0:
            killer.start()
        with pytest.raises(ContextClosedError if ctx.rank == 0 else PeerLostError, match="aborted: enough"):  # noqa: PT012
            for turn in itertools.count():
                if turn == 1000:
                    busy.set()
                ctx.send(np.ones(1), peer)
                ctx.recv(out, peer)
        if ctx.rank == 0:
            killer.join()

    run_ranks(2, body)


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.fixture
def wire() -> Iterator[tuple[Context, socket.socket]]:
    """Rank 0, and the socket of a rank 1 that says what a test wants."""
    near, far = socket.socketpair()
    near.setblocking(False)
    peers = [Peer(0, "here", os.getpid(), "unix", "a"), Peer(1, "here", os.getpid(), "unix", "b")]
    ctx = Context(Engine(0, peers, [None, near]), 10.0)
    yield ctx, far
    ctx.abort("done")
    far.close()


@pytest.mark.parametrize("cut", [0, 10, 64, 70])
def test_an_interrupt_while_a_message_is_awaited(
    wire: tuple[Context, socket.socket], cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had come is lost, so nothing may be received any more."""
    ctx, far = wire
    mark = fingerprint("send", np.dtype("f8"), 1)
    far.sendall((pack_header(Kind.MESSAGE, ctx._conversation.messages.id, 0, 8, mark) + bytes(8))[:cut])

    def interrupt(left: float) -> None:
        raise Interrupted("by a signal")

    monkeypatch.setattr(ctx._engine._poller, "pause", interrupt)
    with pytest.raises(Interrupted):
        ctx.recv(np.empty(1), 1)
    assert ctx.closed
    with pytest.raises(ContextClosedError, match="this Context was aborted: Interrupted: by a signal"):
        ctx.recv(np.empty(1), 1)


@transports
def test_credit_is_given_back_for_what_is_taken_at_once(prompt: Prompt, transport: str) -> None:
    count = 100_000
    assert count * (HEADER_NBYTES + 8) > 6 * CREDIT_NBYTES
    with together(transport=transport) as (sender, receiver):
        patient(receiver, WAIT)
        x, out = np.empty(1), np.empty(1)
        for number in range(count):
            x[0] = number
            sender.send(x, 1)
            receiver.recv(out, 0)
            assert out[0] == number
            if not number % 1000:
                sender.iprobe(1)  # a call that looks for what has come
        assert prompt.taken > 0.95 * count
        sender.send(np.empty(0), 1, tag=9)
        receiver.recv(np.empty(0), 0, tag=9)
        receiver.send(np.empty(0), 0, tag=9)
        sender.recv(np.empty(0), 1, tag=9)
        assert CREDIT_NBYTES // 2 <= sender._engine._links[1].credit == receiver._engine._links[0].granted <= CREDIT_NBYTES


def test_credit_in_both_directions_and_in_collectives(prompt: Prompt) -> None:
    def body(ctx: Context) -> None:
        patient(ctx, PATIENCE)
        x = np.full(1000, 1.0)
        for _ in range(1000):  # 8 MB each way
            assert ctx.allreduce(x)[-1] == 2
        link = ctx._engine._links[1 - ctx.rank]
        assert CREDIT_NBYTES // 2 <= link.granted <= CREDIT_NBYTES
        assert link.credit > 0

    run_ranks(2, body)
    assert prompt.taken
