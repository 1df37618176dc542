"""Checked pairs on a wire in the hands of the test, and Contexts whose connections are checked."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_interface
from itertools import chain, cycle
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from encrypted import proxy
from hypothesis import given, settings
from hypothesis import strategies as st
from launch import run_job
from traffic import KINDS, begin

from gloompi import Context, Device, FileStore, PeerLostError
from gloompi.deadline import Deadline
from gloompi.rendezvous import mesh as mesh_module
from gloompi.rendezvous.exchange import Exchange
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks
from gloompi.transport import interfaces
from gloompi.transport.checked import CheckedPair, DamagedHeader, payload_check, seal
from gloompi.transport.endpoint import Endpoint, Peer
from gloompi.transport.frames import HEADER_NBYTES, VERSION, Kind, pack_header
from gloompi.transport.interfaces import Interface
from gloompi.transport.pair import EXPECTED_NBYTES, SLICE_NBYTES, STAGING_NBYTES, Pair
from gloompi.transport.route import Route, routes
from gloompi.transport.tls import TlsPair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PEER = Peer(3, "node7", 4121, "tcp", "10.0.0.4:40112", checked=True)
MARK = bytes(range(32))
PROMPT = 2.0  # seconds
WITH_PAYLOAD = (Kind.MESSAGE, Kind.DATA, Kind.OFFER, Kind.ABORT)

# -- what is on the wire ------------------------------------------------------------------------------------------------

LITERAL = (
    b"\x04\x01\x13\xb4\xc2\x41\x24\x35" b"\x02\x00\x00\x00\x00\x00\x00\x00" b"\x07\x00\x00\x00\x00\x00\x00\x00"
    b"\x03\x00\x00\x00\x00\x00\x00\x00" + bytes(32)
)  # fmt: skip


def test_seal_writes_the_pinned_bytes() -> None:
    assert seal(pack_header(Kind.MESSAGE, 2, 7, 3), memoryview(b"abc")) == LITERAL
    assert seal(pack_header(Kind.MESSAGE, 2, 7, 3) + b"abc") == LITERAL + b"abc"
    assert seal(pack_header(Kind.MESSAGE, 2, 7, 3) + b"a", memoryview(b"bc")) == LITERAL + b"a"
    assert payload_check(memoryview(LITERAL)) == 0x352441C2
    assert payload_check(memoryview(bytes(5) + LITERAL), 5) == 0x352441C2


def test_seal_changes_nothing_but_the_checks() -> None:
    header = pack_header(Kind.CREDIT, 2**63, -(2**40), 2**64 - 1, MARK)
    for sealed in (seal(header), seal(header, memoryview(b""))):
        assert (sealed[:2], sealed[4:]) == (header[:2], header[4:])  # the CRC-32 of nothing is 0
        assert payload_check(memoryview(sealed)) == 0


@pytest.mark.parametrize("bits", [1, 2])
def test_every_flipped_bit_of_a_header_is_found(bits: int) -> None:
    refused = 0
    for first in range(8 * HEADER_NBYTES):
        for second in range(first + 1, 8 * HEADER_NBYTES) if bits == 2 else (first,):
            altered = flipped(LITERAL, *{first, second})
            with suppress(DamagedHeader):
                payload_check(memoryview(altered))
                pytest.fail(f"bits {first} and {second} were not missed")
            refused += 1
    assert refused == (512 if bits == 1 else 512 * 511 // 2)


@pytest.mark.parametrize("header", [bytes(64), b"\xff" * 64])
def test_what_no_rank_has_sent_is_no_header(header: bytes) -> None:
    with pytest.raises(DamagedHeader, match=r"^its header has CRC-16 [0-9a-f]{4}, not [0-9a-f]{4}$"):
        payload_check(memoryview(header))


def flipped(stream: bytes, *bits: int) -> bytes:
    altered = bytearray(stream)
    for bit in bits:
        altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


# -- pairs --------------------------------------------------------------------------------------------------------------


class Payload:
    """A sink that refuses what is not its own, and leaves nothing of it where it has come, as one that reduces."""

    def __init__(self, nbytes: int, window: int, finished: Callable[[bytes], None]) -> None:
        self.data = bytearray(nbytes)
        self.position = 0
        self._place = bytearray(min(window, nbytes))
        self._finished = finished

    def feed(self, data: memoryview) -> None:
        assert 0 < len(data) <= len(self.data) - self.position
        self.data[self.position : self.position + len(data)] = data
        self.position += len(data)

    def window(self) -> memoryview:
        assert self.position < len(self.data)
        return memoryview(self._place)[: len(self.data) - self.position]

    def advance(self, nbytes: int) -> None:
        self.data[self.position : self.position + nbytes] = self._place[:nbytes]
        self.position += nbytes
        self._place[:] = bytes(len(self._place))

    def finish(self) -> None:
        assert self.position == len(self.data)
        self._finished(bytes(self.data))


class Handler:
    """Writes down what it is told."""

    rank = 5

    def __init__(self, window: int = 1 << 30) -> None:
        self.frames: list[tuple[int, int]] = []
        self.payloads: list[Payload] = []
        self.delivered: list[tuple[int, bytes]] = []
        self.losses: list[tuple[str, OSError | None]] = []
        self.damages: list[str] = []
        self.watched: list[bool] = []
        self.close_at_frame = -1
        self._window = window

    def frame(self, pair: Any, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Payload | None:
        assert fingerprint == MARK
        self.frames.append((kind, tag))
        if len(self.frames) == self.close_at_frame:
            pair.close()
            return None
        if kind not in WITH_PAYLOAD:
            self.delivered.append((tag, b""))
            return None
        self.payloads.append(Payload(nbytes, self._window, lambda data: self.delivered.append((tag, data))))
        return self.payloads[-1]

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        self.losses.append((reason, cause))
        pair.close()

    def damaged(self, pair: Pair, reason: str) -> None:
        self.damages.append(reason)
        pair.close()

    def watch(self, pair: Pair, writing: bool) -> None:
        self.watched.append(writing)


class Completion:
    def __init__(self, told: list[Completion] | None = None) -> None:
        self.told = [] if told is None else told

    def complete(self) -> None:
        self.told.append(self)


class Waits:
    """No patience at all."""

    prompt = 0.0

    def pause(self, tried: float) -> None:
        raise AssertionError("nothing to wait for")

    def alone(self) -> bool:
        raise AssertionError("not a pair's business")


class Line:
    """A pair that sends, a pair that receives, and a wire between them, on which nothing moves by itself."""

    def __init__(self, window: int = 1 << 30, buffer: int = 0) -> None:
        self.handlers = [Handler(window), Handler(window)]
        self.pairs, self.sockets = [], []
        staging = memoryview(bytearray(STAGING_NBYTES))  # as in an engine: the pairs share it
        for handler in self.handlers:
            near, far = socket.socketpair()
            if buffer:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            near.setblocking(False)
            far.setblocking(False)
            self.pairs.append(CheckedPair(near, PEER, handler, 0, staging))
            self.sockets.append(far)
        self.sender, self.receiver = self.pairs
        self.handler = self.handlers[1]

    def take(self, pair: int = 0) -> bytes:
        """What a pair has sent."""
        taken = bytearray()
        while True:
            moved = self.pairs[pair].flush()
            piece = b""
            with suppress(BlockingIOError):
                piece = self.sockets[pair].recv(1 << 20)
            taken += piece
            if not piece and not moved:
                return bytes(taken)

    def give(self, stream: bytes, step: int = 1 << 20) -> None:
        """Let the receiver have bytes in slices, each of which it takes before the next comes."""
        for start in range(0, len(stream), step):
            piece = stream[start : start + step]
            while piece and self.receiver.sock is not None:
                with suppress(BlockingIOError):
                    piece = piece[self.sockets[1].send(piece) :]
                self.receive()

    def receive(self) -> None:
        while self.receiver.receive():
            pass

    def close(self) -> None:
        for each in (*self.pairs, *self.sockets):
            each.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def header(tag: int, nbytes: int = 0, kind: Kind = Kind.MESSAGE) -> bytes:
    return pack_header(kind, 5, tag, nbytes, MARK)


def pattern(nbytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def frame(tag: int, payload: bytes = b"", kind: Kind = Kind.MESSAGE) -> bytes:
    """A whole frame as it is on the wire."""
    return seal(header(tag, len(payload), kind) + payload)


def write(pair: Pair, tag: int, payload: bytes = b"", kind: Kind = Kind.MESSAGE) -> bool:
    return pair.write(header(tag, len(payload), kind), memoryview(payload) if payload else None)


LENGTHS = [0, 1, 64, 200, 32 * 1024 - HEADER_NBYTES, 32 * 1024 - HEADER_NBYTES + 1, 40_001]


@pytest.mark.parametrize("window", [1 << 30, 100], ids=["whole", "window of 100"])
@pytest.mark.parametrize("step", [1, 3, 63, 64, 65, 100, 1 << 15, 1 << 20])
def test_frames_may_come_in_slices_of_any_length(step: int, window: int) -> None:
    line = Line(window)
    for number, nbytes in enumerate(LENGTHS):
        assert write(line.sender, number, pattern(nbytes, number))
        assert write(line.sender, number, kind=Kind.CLEAR)
    line.give(line.take(), step)
    wanted = [[(number, pattern(nbytes, number)), (number, b"")] for number, nbytes in enumerate(LENGTHS)]
    assert line.handler.delivered == list(chain.from_iterable(wanted))
    assert (line.handler.losses, line.handler.damages) == ([], [])
    line.close()


def test_what_is_sent_is_sealed(line: Line) -> None:
    line.sender.write(header(1, 3), memoryview(b"abc"))
    line.sender.write(header(2, 3, Kind.OFFER) + b"abc")
    line.sender.write(header(3, 2**40, Kind.ANNOUNCE))
    stream = frame(1, b"abc") + frame(2, b"abc", Kind.OFFER) + seal(header(3, 2**40, Kind.ANNOUNCE))
    assert line.take() == stream
    line.give(stream)
    assert line.handler.delivered == [(1, b"abc"), (2, b"abc"), (3, b"")]


@pytest.mark.parametrize("buffer", [0, 4096], ids=["default buffers", "tiny buffers"])
@pytest.mark.parametrize("nbytes", [100_000, SLICE_NBYTES - HEADER_NBYTES, 2 * SLICE_NBYTES + 5])
def test_large_messages_behind_each_other(nbytes: int, buffer: int) -> None:
    line = Line(buffer=buffer)
    told: list[Completion] = []
    waiting = 0
    for tag in range(3):
        if not write(line.sender, tag, pattern(nbytes, tag), Kind.DATA):
            line.sender.when_taken(Completion(told))
            waiting += 1
        write(line.sender, tag, b"small")
    line.give(line.take())
    wanted = [[(tag, pattern(nbytes, tag)), (tag, b"small")] for tag in range(3)]
    assert line.handler.delivered == list(chain.from_iterable(wanted))
    assert len(told) == waiting
    assert not line.sender.sending
    line.close()


def test_an_array_that_is_changed_while_it_is_sent_is_damage() -> None:
    """Its checksum is that of the array when it was handed over; a program that changes it before the end breaks a rule."""
    line = Line(buffer=4096)
    payload = bytearray(pattern(100_000))
    assert not line.sender.write(header(1, len(payload), Kind.DATA), memoryview(payload))
    payload[-1] ^= 1
    line.give(line.take())
    assert [kind for kind, _ in line.handler.frames] == [Kind.DATA]
    assert line.handler.delivered == []
    assert len(line.handler.damages) == 1
    line.close()


def test_nothing_follows_when_the_handler_closes_the_pair(line: Line) -> None:
    line.handler.close_at_frame = 2
    line.give(frame(1, b"a") + frame(2, kind=Kind.GOODBYE) + frame(3, b"c"))
    assert line.handler.delivered == [(1, b"a")]
    assert line.handler.losses == []
    assert line.receiver.receive() is False


def test_other_version(line: Line) -> None:
    line.give(frame(1, b"a") + seal(bytes([VERSION + 1]) + header(2)[1:]))
    assert line.handler.losses == [(f"it speaks frame version {VERSION + 1}, this rank version {VERSION}", None)]


# -- what is expected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 1, 8, 40_000, EXPECTED_NBYTES])
def test_the_expected_frame_is_there(line: Line, nbytes: int) -> None:
    line.sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    for seed in range(3):
        line.sockets[1].sendall(frame(7, pattern(nbytes, seed)))
        payload = line.receiver.expect(header(7, nbytes), nbytes, Waits())
        assert payload is not None
        assert bytes(payload) == pattern(nbytes, seed)
    assert line.handler.frames == []


@pytest.mark.parametrize("other", [header(8, 100), header(7, 100, Kind.DATA), header(7, 99), header(7)], ids=range(4))
def test_another_frame_than_the_expected_one(line: Line, other: bytes) -> None:
    payload = pattern(int.from_bytes(other[24:32], "little"))
    line.sockets[1].sendall(seal(other + payload) + frame(9, b"next"))
    assert line.receiver.expect(header(7, 100), 100, Waits()) is None
    line.receive()
    assert [data for _, data in line.handler.delivered] == [payload, b"next"]


@pytest.mark.parametrize("cut", [0, 1, 50, 64, 163])
def test_what_came_when_patience_ends_is_kept(line: Line, cut: int) -> None:
    stream = frame(7, pattern(100))
    line.sockets[1].sendall(stream[:cut])
    assert line.receiver.expect(header(7, 100), 100, Waits()) is None
    line.give(stream[cut:])
    assert line.handler.delivered == [(7, pattern(100))]


# -- damage -------------------------------------------------------------------------------------------------------------

HINT = (
    "memory or a link on the way has altered it, or its program has changed an array that was still being sent; see the "
    "error counters of both hosts (edac-util, ethtool -S)"
)


def test_damaged_payload_text(line: Line) -> None:
    line.give(frame(1, b"a") + frame(2, b"abc", Kind.DATA)[:-1] + b"b")
    assert line.handler.damages == [
        "frame 2 from rank 3 to rank 5 (DATA, channel 5, tag 2) is damaged: its payload of 3 bytes has CRC-32 42237154, not "
        f"352441c2; {HINT}"
    ]


def test_damaged_header_text(line: Line) -> None:
    stream = frame(1, b"a") + frame(2, b"abc")
    line.give(flipped(stream, 8 * 65 + 8 * 24))
    (found, wanted) = re.findall(r"[0-9a-f]{4}(?=, not|; mem)", line.handler.damages[0])
    assert line.handler.damages == [
        f"frame 2 from rank 3 to rank 5 is damaged: its header has CRC-16 {found}, not {wanted}; {HINT}"
    ]
    assert bytes.fromhex(wanted)[::-1] == stream[67:69]


def damaged_frame(handler: Handler) -> int:
    """The number of the frame that was found to be damaged."""
    (text,) = handler.damages
    assert handler.losses == []
    match = re.match(
        r"frame (\d+) from rank 3 to rank 5( \(\w+, channel 5, tag -?\d+\))? is damaged: its "
        r"(header has CRC-16 [0-9a-f]{4}, not [0-9a-f]{4}|payload of \d+ bytes has CRC-32 [0-9a-f]{8}, not [0-9a-f]{8}); ",
        text,
    )
    assert match is not None, text
    return int(match[1])


@pytest.mark.parametrize("step", [1, 70, 1 << 20], ids=["bytes", "slices of 70", "at once"])
def test_every_flipped_bit_of_two_frames_is_found(step: int) -> None:
    payloads = [pattern(33), pattern(50, 1)]
    stream = frame(1, payloads[0]) + frame(2, payloads[1], Kind.DATA)
    first = HEADER_NBYTES + 33
    for bit in range(0, 8 * len(stream), 3 if step == 1 else 1):
        line = Line()
        line.give(flipped(stream, bit) + frame(3, b"next"), step)
        number = 1 if bit < 8 * first else 2
        assert damaged_frame(line.handler) == number
        assert line.handler.delivered == [(1, payloads[0])][: number - 1]
        place = bit // 8 - (number - 1) * first
        assert len(line.handler.frames) == (number - 1 if place < HEADER_NBYTES else number)  # headers are not believed
        if step > len(stream) and place >= HEADER_NBYTES:
            assert line.handler.payloads[-1].position == 0  # of what was there as a whole, the sink has seen nothing
        line.close()


def test_every_flipped_bit_of_two_expected_frames_is_found() -> None:
    payloads = [pattern(33), pattern(50, 1)]
    stream = frame(1, payloads[0]) + frame(2, payloads[1])
    first = HEADER_NBYTES + 33
    for bit in range(8 * len(stream)):
        line = Line()
        line.sockets[1].sendall(flipped(stream, bit))
        for number, payload in enumerate(payloads, 1):
            came = line.receiver.expect(header(number, len(payload)), len(payload), Waits())
            if number == (1 if bit < 8 * first else 2):
                assert came is None
                line.receive()
                assert damaged_frame(line.handler) == number
                assert line.handler.delivered == []
                break
            assert came is not None
            assert bytes(came) == payload
        line.close()


@pytest.mark.parametrize("window", [1 << 30, 1000], ids=["whole", "window of 1000"])
@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_of_later_frames_are_found(seed: int, window: int) -> None:
    generator = random.Random(seed)
    frames = [(tag, generator.randbytes(generator.choice([0, 8, 500, 30_000, 100_000]))) for tag in range(100)]
    stream = b"".join(frame(tag, payload) for tag, payload in frames)
    bit = generator.randrange(8 * len(stream) // 2, 8 * len(stream))
    line = Line(window)
    line.give(flipped(stream, bit), generator.randrange(1000, 100_000))
    ends = np.cumsum([HEADER_NBYTES + len(payload) for _, payload in frames])
    number = int(np.searchsorted(ends, bit // 8, "right")) + 1
    assert damaged_frame(line.handler) == number
    assert line.handler.delivered == frames[: number - 1]
    line.close()


def test_a_damaged_pair_can_still_tell_why(line: Line) -> None:
    """Only what comes is damaged, and the handler has not closed it yet when it hears of that."""
    told = []

    def tell(pair: Pair, reason: str) -> None:
        told.append(reason)
        pair.write(header(9, 3, Kind.ABORT), memoryview(b"why"))
        pair.close()

    line.handler.damaged = tell  # type: ignore[method-assign]
    line.give(flipped(frame(1), 100))
    assert len(told) == 1
    assert line.take(1) == frame(9, b"why", Kind.ABORT)


# -- generated ----------------------------------------------------------------------------------------------------------

FRAMES = st.lists(
    st.tuples(
        st.sampled_from([*WITH_PAYLOAD, Kind.CLEAR, Kind.CREDIT]),
        st.integers(-(2**63), 2**63 - 1),
        st.one_of(st.binary(max_size=70), st.integers(0, 70_000).map(pattern)),
        st.booleans(),
    ),
    max_size=12,
)
STEPS = st.lists(st.one_of(st.integers(1, 70), st.integers(1, 80_000)), min_size=1, max_size=8)
EXPECTING = st.lists(st.booleans(), min_size=1, max_size=5)


def play(
    line: Line, sent: list[tuple[Kind, int, bytes, bool]], steps: list[int], expecting: list[bool], bit: int | None
) -> list[int]:
    """Send frames through, in slices, some of them expected; return where each of them ends on the wire."""
    stream, ends = bytearray(), []
    for kind, tag, payload, inside in sent:
        data = payload if kind in WITH_PAYLOAD else b""
        if inside:
            line.sender.write(header(tag, len(data), kind) + data)
        else:
            line.sender.write(header(tag, len(data), kind), memoryview(data))
        stream += line.take()
        ends.append(len(stream))
    if bit is not None:
        stream = bytearray(flipped(bytes(stream), bit % (8 * len(stream))))
    lengths, wishes = cycle(steps), cycle(expecting)
    while stream and line.receiver.sock is not None:
        step = next(lengths)
        line.sockets[1].sendall(stream[:step])
        del stream[:step]
        handler = line.handler
        if next(wishes) and len(handler.delivered) < len(sent):
            kind, tag, payload, _ = sent[len(handler.delivered)]
            data = payload if kind in WITH_PAYLOAD else b""
            came = line.receiver.expect(header(tag, len(data), kind), len(data), Waits())
            if came is not None:
                handler.delivered.append((tag, bytes(came)))
        line.receive()
    return ends


def contents(sent: list[tuple[Kind, int, bytes, bool]]) -> list[tuple[int, bytes]]:
    return [(tag, payload if kind in WITH_PAYLOAD else b"") for kind, tag, payload, _ in sent]


@settings(max_examples=300, deadline=None)
@given(sent=FRAMES, steps=STEPS, expecting=EXPECTING)
def test_generated_frames_arrive_as_they_were(sent: Any, steps: list[int], expecting: list[bool]) -> None:
    line = Line(window=20_000)
    try:
        play(line, sent, steps, expecting, None)
        assert line.handler.delivered == contents(sent)
        assert (line.handler.damages, line.handler.losses) == ([], [])
    finally:
        line.close()


@settings(max_examples=300, deadline=None)
@given(sent=FRAMES.filter(len), steps=STEPS, expecting=EXPECTING, bit=st.integers(0, 2**32))
def test_generated_damage_is_found(sent: Any, steps: list[int], expecting: list[bool], bit: int) -> None:
    line = Line(window=20_000)
    try:
        ends = play(line, sent, steps, expecting, bit)
        number = int(np.searchsorted(ends, bit % (8 * ends[-1]) // 8, "right")) + 1
        assert damaged_frame(line.handler) == number
        assert line.handler.delivered == contents(sent)[: number - 1]
    finally:
        line.close()


# -- the end of the stream ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "connection closed by peer"),
        (frame(1, b"abc"), "connection closed by peer"),
        (frame(1)[:10], "connection closed by peer, 10 bytes into a header"),
        (frame(1) + frame(2)[:63], "connection closed by peer, 63 bytes into a header"),
        (frame(1, bytes(100))[:-30], "connection closed by peer, 30 bytes short of a message"),
        (frame(1, bytes(100))[:-100], "connection closed by peer, 100 bytes short of a message"),
        (frame(1, bytes(100_000))[:-1], "connection closed by peer, 1 bytes short of a message"),
    ],
    ids=[
        "at once",
        "between frames",
        "in a header",
        "in the second header",
        "in a payload",
        "before a payload",
        "at its end",
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_end_of_stream(line: Line, stream: bytes, reason: str, step: int) -> None:
    if len(stream) > 1000:
        step *= 1000
    line.give(stream, step)
    line.sockets[1].close()
    assert line.receiver.receive() is True
    assert line.handler.losses == [(reason, None)]
    assert line.handler.damages == []
    assert line.receiver.receive() is False


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "Connection reset by peer"),
        (frame(1, bytes(100))[:-30], "Connection reset by peer, 30 bytes short of a message"),
        (frame(1)[:10], "Connection reset by peer, 10 bytes into a header"),
    ],
    ids=["idle", "in a payload", "in a header"],
)
def test_reset(line: Line, stream: bytes, reason: str) -> None:
    line.give(stream)
    write(line.receiver, 1, b"unread")
    line.sockets[1].close()
    assert line.receiver.receive() is True
    ((told, cause),) = line.handler.losses
    assert told == reason
    assert isinstance(cause, ConnectionResetError)
    assert line.handler.delivered == []


def test_closed_pair_does_nothing(line: Line) -> None:
    pair = line.sender
    pair.close()
    pair.close()
    assert write(pair, 1, b"abc") is True
    assert pair.flush() is False
    assert pair.receive() is False
    assert pair.expect(header(1), 0, Waits()) is None
    assert pair.sending is False


# -- Contexts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "interfaces", lambda: [Interface("lo", True, (ip_interface("127.0.0.1/8"),))])


def meet(devices: list[Device | None], run: Callable[[Context], Any], timeout: float = 20.0) -> list[Any]:
    """A Context in a thread per device; what each rank's function returned."""

    def rank(exchange: Exchange, device: Device | None) -> Any:
        threading.current_thread().name = f"rank {exchange.rank}"
        with Context._from_exchange(exchange, device, timeout, Deadline(timeout)) as ctx:
            return run(ctx)

    with ThreadPoolExecutor(len(devices)) as pool:
        return list(pool.map(rank, local_exchanges(len(devices)), devices))


def ways(ctx: Context) -> list[type]:
    """What this rank's connections are, in rank order without its own."""
    return [type(link) for link in ctx._engine._links if link.rank != ctx.rank]


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_pairs_are_checked(size: int, transport: str) -> None:
    def run(ctx: Context) -> None:
        assert ways(ctx) == [CheckedPair] * (size - 1)
        assert [peer.checked for peer in ctx.peers] == [rank != ctx.rank for rank in range(size)]
        assert not any(link.readable for link in ctx._engine._links)
        np.testing.assert_array_equal(ctx.allreduce(np.arange(3.0) + ctx.rank), sum(np.arange(3.0) + r for r in range(size)))

    meet([Device(transport=transport, checksum=True)] * size, run)


@pytest.mark.parametrize("count", [1, 300_000])
def test_a_pair_is_checked_if_one_side_wants_it(count: int) -> None:
    def run(ctx: Context) -> tuple[list[type], list[bool], list[bool]]:
        x = np.arange(count) + ctx.rank
        for _ in range(3):
            np.testing.assert_array_equal(ctx.allreduce(x), 3 * np.arange(count) + 3)
            np.testing.assert_array_equal(ctx.allgather(x), [np.arange(count) + rank for rank in range(3)])
        readable = [link.readable for link in ctx._engine._links]
        return ways(ctx), [peer.checked for peer in ctx.peers], readable

    found = meet([Device(single_copy=True), Device(checksum=True), None], run)
    assert [each[0] for each in found] == [[CheckedPair, Pair], [CheckedPair, CheckedPair], [Pair, CheckedPair]]
    assert [each[1] for each in found] == [[False, True, False], [True, False, True], [False, True, False]]
    for rank in (0, 1, 2):
        assert [readable for peer, readable in enumerate(found[rank][2]) if 1 in (peer, rank)] == [False] * (
            1 + 2 * (rank == 1)
        )


def test_tls_takes_its_place(only_loopback: None) -> None:
    """And what TLS leaves alone is checked."""
    pytest.importorskip("cryptography", reason="pip install 'gloompi[tls]'")
    tcp = Device(transport="tcp", tls=True, checksum=True)
    assert meet([tcp] * 2, lambda ctx: (ways(ctx), ctx.peers[1 - ctx.rank].checked)) == [([TlsPair], False)] * 2
    local = Device(tls=True, checksum=True)
    assert meet([local] * 2, lambda ctx: (ways(ctx), ctx.peers[1 - ctx.rank].checked)) == [([CheckedPair], True)] * 2


def test_the_variable_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Device().checksum is False
    monkeypatch.setenv("GLOOMPI_CHECKSUM", "1")
    assert Device().checksum is True
    assert Device(checksum=False).checksum is False
    assert repr(Device(transport="tcp")).endswith("transport='tcp', checksum=True)")
    assert meet([None, None], ways) == [[CheckedPair]] * 2
    monkeypatch.setenv("GLOOMPI_CHECKSUM", "yes")
    with pytest.raises(ValueError, match=r"^GLOOMPI_CHECKSUM must be 0 or 1, not 'yes'$"):
        Device()


def test_nobody_else_loads_it() -> None:
    code = (
        "import sys; from gloompi.testing import run_ranks; run_ranks(2, lambda ctx: ctx.barrier()); "
        "print('gloompi.transport.checked' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("count", [0, 1, 1000, 40_000])
def test_every_operation(count: int, transport: str) -> None:
    def run(ctx: Context) -> None:
        for each in (ctx, ctx.dup()):
            started = begin(each, 1, count)
            assert len(started) == KINDS
            for request, check in started:
                check(request.wait())
            if each is not ctx:
                each.close()

    run_ranks(3, run, device=Device(transport=transport, checksum=True))


def test_split() -> None:
    def run(ctx: Context) -> None:
        part = ctx.split(ctx.rank % 2)
        assert part is not None
        with part:
            assert ctx.allreduce(np.float64(10.0**ctx.rank)) == 1111
            assert part.allreduce(np.float64(10.0**ctx.rank)) == (101, 1010)[ctx.rank % 2]

    run_ranks(4, run, device=Device(checksum=True))


def results(ctx: Context, nbytes: int) -> bytes:
    """All bytes that some operations give."""
    count = nbytes // 4 if nbytes % 4 == 0 else nbytes
    generator = np.random.default_rng(7 + ctx.rank)
    x = generator.standard_normal(count).astype("f4") if nbytes % 4 == 0 else generator.integers(0, 255, count, "u1")
    after, before = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    came = np.empty_like(x)
    ctx.sendrecv(x, after, came, before)
    reduced = ctx.reduce(x, root=1)
    rows = np.array([x + rank for rank in range(ctx.size)]).astype(x.dtype)
    found = [
        *(ctx.allreduce(x, algorithm=algorithm) for algorithm in ("auto", "ring", "recursive_doubling")),
        *(ctx.allgather(x), ctx.alltoall(rows), ctx.reduce_scatter(rows), ctx.scan(x), ctx.broadcast(x.copy(), root=2)),
        *(came, x if reduced is None else reduced),
    ]
    return b"".join(np.ascontiguousarray(each).tobytes() for each in found)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("nbytes", [0, 1, 70_000, 5 << 20])
def test_results_are_the_same_with_and_without(nbytes: int, transport: str) -> None:
    # Without either, large arrays between ranks of a host are reduced in another order.
    devices = [Device(transport=transport, single_copy=False, checksum=checksum) for checksum in (False, True)]
    plain, checked = (run_ranks(3, lambda ctx: results(ctx, nbytes), device=device) for device in devices)
    assert [one == other for one, other in zip(plain, checked, strict=True)] == [True] * 3
    assert all(len(each) >= 10 * nbytes for each in checked)


def test_over_a_store(tmp_path: Path) -> None:
    def rank(number: int) -> object:
        device = Device(checksum=number == 2)
        with FileStore(tmp_path / "store") as store:
            with Context.from_store(store, number, 3, secret="s" * 32, device=device, connect_timeout=20.0) as ctx:
                return float(ctx.allreduce(np.float64(10.0**ctx.rank))), [peer.checked for peer in ctx.peers]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(rank, range(3)))
    assert found == [(111.0, [False, False, True]), (111.0, [False, False, True]), (111.0, [True, True, False])]


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_over_mpi_and_the_environment(transport: str) -> None:
    found = run_job(3, "checked.py", env={"GLOOMPI_CHECKSUM": "1", "GLOOMPI_TRANSPORT": transport})
    for rank, each in enumerate(found):
        for way in ("from_mpi", "from_env"):
            assert each[way]["totals"] == [6.0 * count * (count - 1) / 2 for count in (1, 1000, 300_000)]
            assert each[way]["checked"] == [peer != rank for peer in range(3)]


# -- damage in a Context ------------------------------------------------------------------------------------------------


class Tampering:
    """Flips one bit of what goes from rank 1 to rank 0, that many bytes after it was armed."""

    def __init__(self, after: int) -> None:
        self.armed = threading.Event()
        self._left = after

    def __call__(self, forth: bool, passed: int, data: bytes) -> bytes:
        if not forth or not self.armed.is_set() or self._left < 0:
            return data
        left, self._left = self._left, self._left - len(data)
        return flipped(data, 8 * left + 2) if left < len(data) else data


@pytest.fixture
def detour(only_loopback: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Tampering], None]]:
    """Call it to have rank 1, a thread of `meet`, dial rank 0 through somebody who tampers."""
    there: list[Any] = []
    tampering: list[Tampering] = []

    def lead(mine: Endpoint, theirs: Endpoint) -> list[Route]:
        found = routes(mine, theirs)
        if threading.current_thread().name == "rank 1" and not there:  # the first that it asks the way to is rank 0
            there.append(found[0].address)
            return [found[0]._replace(address=address)]
        return found

    with proxy(lambda: there[0], lambda forth, passed, data: tampering[0](forth, passed, data)) as address:
        monkeypatch.setattr(mesh_module, "routes", lead)
        yield tampering.append


LARGE = 5 << 20


def _arm(ctx: Context, tampering: Tampering) -> None:
    """When rank 0 has all that rank 1 has sent so far."""
    token = np.zeros(1)
    if ctx.rank == 1:
        ctx.send(token, 0)
        ctx.recv(token, 0)
        tampering.armed.set()
    elif ctx.rank == 0:
        ctx.recv(token, 1)
        ctx.send(token, 1)


def _once_more(ctx: Context, call: Callable[[], object]) -> None:
    """A rank whose own part of the call is sound may end it before it hears of the damage; it does not get any further."""
    call()
    ctx.barrier()


def _of_the_teller(error: PeerLostError) -> str:
    """The text without what this rank was in: where the word of another reaches it, is chance."""
    return re.sub(r"; this rank was in \w+ #\d+\)$", ")", str(error))


@pytest.mark.parametrize(
    ("nbytes", "after", "frame"),
    [
        (8, 20, r" is damaged: its header"),
        (8, 66, r" \(MESSAGE, channel 1, tag 131\d+\) is damaged: its payload of 8 bytes"),
        (70_000, 60_000, r" \(MESSAGE, channel 1, tag 131\d+\) is damaged: its payload of 70000 bytes"),
        (LARGE, 3 << 20, rf" \(DATA, channel 1, tag 131\d+\) is damaged: its payload of {LARGE} bytes"),
    ],
    ids=["header", "8 B", "70,000 B", "5 MiB"],
)
def test_a_flipped_bit_is_an_error_on_all_ranks(
    detour: Callable[[Tampering], None], nbytes: int, after: int, frame: str
) -> None:
    tampering = Tampering(after)
    detour(tampering)

    def run(ctx: Context) -> list[str]:
        rows = np.full((3, nbytes // 4), ctx.rank, "f4")
        np.testing.assert_array_equal(ctx.alltoall(rows)[:, 0], range(3))
        _arm(ctx, tampering)
        began = monotonic()
        texts = []
        for _ in range(2):
            with pytest.raises(PeerLostError) as caught:
                _once_more(ctx, lambda: ctx.alltoall(rows))
            assert monotonic() - began < PROMPT
            assert caught.value.rank == 1
            texts.append(_of_the_teller(caught.value))
        return texts

    found = meet([Device(transport="tcp", checksum=True)] * 3, run)
    first = found[0][0]
    lost = r"lost rank 1 \(.*, pid \d+, tcp 127\.0\.0\.1:\d+\) in alltoall #2: frame \d+ from rank 1 to rank 0"
    assert re.match(f"{lost}{frame} has CRC-", first), first
    assert first.endswith(HINT)
    assert found == [[first] * 2] + [[f"{first} (reported by rank 0)"] * 2] * 2


def test_a_flipped_bit_of_what_is_reduced_as_it_comes(detour: Callable[[Tampering], None]) -> None:
    tampering = Tampering(1 << 20)
    detour(tampering)

    def run(ctx: Context) -> list[str]:
        x = np.arange(LARGE, dtype="i4") + ctx.rank
        ctx.allreduce(x, algorithm="recursive_doubling")
        _arm(ctx, tampering)
        began = monotonic()
        out = np.empty_like(x)
        texts = []
        for _ in range(2):
            with pytest.raises(PeerLostError) as caught:
                _once_more(ctx, lambda: ctx.allreduce(x, out=out, algorithm="recursive_doubling"))
            assert monotonic() - began < 2 * PROMPT
            texts.append(_of_the_teller(caught.value))
        return texts

    found = meet([Device(transport="tcp", checksum=True)] * 2, run)
    first = found[0][0]
    assert "in allreduce #2: frame " in first
    assert " from rank 1 to rank 0 (DATA, channel 1, tag " in first
    assert found == [[first] * 2, [f"{first} (reported by rank 0)"] * 2]


def test_without_checksums_the_same_flip_is_a_wrong_result(detour: Callable[[Tampering], None]) -> None:
    """So the tests above do alter what is sent."""
    tampering = Tampering(66)
    detour(tampering)

    def run(ctx: Context) -> bool:
        rows = np.full((3, 2), ctx.rank, "f4")
        ctx.alltoall(rows)
        _arm(ctx, tampering)
        return ctx.alltoall(rows)[:, 0].tolist() == [0, 1, 2]

    assert meet([Device(transport="tcp")] * 3, run) == [False, True, True]
