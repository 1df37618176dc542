"""Encrypted pairs, on a wire in the hands of the test."""

from __future__ import annotations

import errno
import itertools
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from encrypted import encrypt
from handlers import Completion, Failing, Handler

from gloompi.deadline import Deadline
from gloompi.transport.abort import linger
from gloompi.transport.endpoint import Peer
from gloompi.transport.failures import SHORTAGE
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header
from gloompi.transport.pair import EXPECTED_NBYTES, STAGING_NBYTES, Pair
from gloompi.transport.tls import RECORD_NBYTES, SEAL_NBYTES, TlsPair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PEER = Peer(3, "node7", 4121, "tls", "10.0.0.4:40112")
MARK = bytes(range(32))
RECORD_OVERHEAD = 22


class Waits:
    """Patience whose pauses are a list of things to happen; when there are no more, its time is over."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.prompt = 1e9 if steps else 0.0
        self._steps = list(steps)

    def pause(self, tried: float) -> None:
        if self._steps:
            self._steps.pop(0)()
        if not self._steps:
            self.prompt = -1.0

    def alone(self) -> bool:
        raise AssertionError("not a pair's business")


class Line:
    """Two pairs and a wire between them, on which nothing moves unless `carry` is called."""

    def __init__(self, window: int = 1 << 30, buffer: int = 0) -> None:
        self.sockets = []
        ends = []
        for _ in range(2):
            near, far = socket.socketpair()
            if buffer:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
                far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            far.setblocking(False)
            ends.append(near)
            self.sockets.append(far)
        streams = encrypt(*ends)
        self.handlers = [Handler(window) for _ in range(2)]
        self.pairs = [
            TlsPair(stream, PEER, handler, 0, memoryview(bytearray(STAGING_NBYTES)))
            for stream, handler in zip(streams, self.handlers, strict=True)
        ]
        self.seen = [b"", b""]

    def take(self, origin: int) -> bytes:
        """What a pair has sent."""
        taken = bytearray()
        while True:
            self.pairs[origin].flush()
            try:
                piece = self.sockets[origin].recv(1 << 20)
            except BlockingIOError:
                return bytes(taken)
            if not piece:
                return bytes(taken)
            taken += piece
            self.seen[origin] += piece

    def give(self, target: int, stream: bytes, step: int = 1 << 16) -> None:
        """Let a pair have bytes, in slices, each of which it receives before the next comes."""
        for start in range(0, len(stream), step):
            piece = stream[start : start + step]
            while piece:
                with suppress(BlockingIOError):
                    piece = piece[self.sockets[target].send(piece) :]
                while self.pairs[target].receive():
                    pass

    def carry(self, origin: int, step: int = 1 << 16) -> None:
        self.give(1 - origin, self.take(origin), step)

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


def write(pair: Pair, tag: int, payload: bytes = b"", kind: Kind = Kind.MESSAGE) -> bool:
    return pair.write(header(tag, len(payload), kind), memoryview(payload) if payload else None)


LENGTHS = [0, 1, 64, 200, RECORD_NBYTES - HEADER_NBYTES, RECORD_NBYTES - HEADER_NBYTES + 1, RECORD_NBYTES, 40_001]

# -- both ways ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1 << 30, 100], ids=["whole", "window of 100"])
@pytest.mark.parametrize("step", [1, 3, 21, 22, 23, 100, RECORD_NBYTES, RECORD_NBYTES + RECORD_OVERHEAD, 1 << 16])
def test_frames_may_come_in_slices_of_any_length(step: int, window: int) -> None:
    line = Line(window)
    for way in range(2):
        for number, nbytes in enumerate(LENGTHS):
            assert write(line.pairs[way], number, pattern(nbytes, number))
            assert write(line.pairs[way], number, kind=Kind.CLEAR)
    for way in range(2):
        line.carry(way, step)
    for handler in line.handlers:
        wanted = [[(Kind.MESSAGE, number), (Kind.CLEAR, number)] for number in range(len(LENGTHS))]
        assert handler.frames == list(itertools.chain.from_iterable(wanted))
        assert handler.received() == [pattern(nbytes, number) for number, nbytes in enumerate(LENGTHS)]
        assert handler.losses == []
    line.close()


@pytest.mark.parametrize("buffer", [0, 4096], ids=["default buffers", "tiny buffers"])
@pytest.mark.parametrize("nbytes", [SEAL_NBYTES - 1, SEAL_NBYTES, SEAL_NBYTES + 1, 700_001, 5_000_000])
def test_large_messages_in_both_directions(nbytes: int, buffer: int) -> None:
    near, far = socket.socketpair()
    if buffer:
        for sock in (near, far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    handlers = [Handler(), Handler()]
    staging = memoryview(bytearray(STAGING_NBYTES))  # as in an engine: the pairs share it
    pairs = [TlsPair(end, PEER, handler, 0, staging) for end, handler in zip(encrypt(near, far), handlers, strict=True)]
    told: list[Completion] = []
    for tag in range(3):
        for pair in pairs:
            if not write(pair, tag, pattern(nbytes, tag), Kind.DATA):
                pair.when_taken(Completion(told))
            write(pair, tag, b"small")
    while any([pairs[0].flush(), pairs[1].flush(), pairs[0].receive(), pairs[1].receive()]):
        pass
    for handler in handlers:
        wanted = [[pattern(nbytes, tag), b"small"] for tag in range(3)]
        assert handler.received() == list(itertools.chain.from_iterable(wanted))
        assert handler.watched == [True, False]
    assert len(told) == 6
    assert not any(pair.sending for pair in pairs)
    for pair in pairs:
        pair.close()


def test_pieces_share_records(line: Line) -> None:
    """A header and its payload leave as one record, so that a small message costs one system call on either side."""
    for tag, nbytes in enumerate(LENGTHS):
        write(line.pairs[0], tag, pattern(nbytes))
        total = HEADER_NBYTES + nbytes
        assert len(line.take(0)) == total + RECORD_OVERHEAD * -(-total // RECORD_NBYTES)


def test_nothing_that_is_sent_can_be_read_on_the_wire(line: Line) -> None:
    words = b"what only the ranks may know, "
    for way in range(2):
        write(line.pairs[way], 7, words * 5000)
        write(line.pairs[way], 8, words)
        line.carry(way)
        assert line.handlers[1 - way].received() == [words * 5000, words]
    for seen in line.seen:
        assert len(seen) > 150_000
        assert words[:8] not in seen
        assert MARK[:8] not in seen


# -- system calls that fail although the peer is there -------------------------------------------------------------------


@pytest.fixture
def failing(line: Line) -> Failing:
    """The socket of the first pair."""
    pair = line.pairs[0]
    assert pair.sock is not None
    pair.sock = sock = Failing(pair.sock)
    return sock


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_follows_a_record_that_could_not_be_sent(line: Line, failing: Failing, number: int) -> None:
    pair, handler = line.pairs[0], line.handlers[0]
    failing.most, failing.sending = 100, [0] * number + [errno.EIO]
    with pytest.raises(OSError, match="Input/output error"):
        pair.write(header(1, 200), memoryview(pattern(200)))
    ((reason, _),) = handler.failures
    left = 200 + HEADER_NBYTES + RECORD_OVERHEAD - 100 * number
    assert reason.startswith(f"sending {left} bytes to rank 3 (node7, pid 4121, tls 10.0.0.4:40112) failed with EIO (")
    assert pair.cut_short
    failing.most = 1000
    assert pair.write(header(2, 3), memoryview(b"abc")) is True
    line.carry(0)
    assert line.handlers[1].frames == []


@pytest.mark.parametrize("code", SHORTAGE, ids=errno.errorcode.get)
@pytest.mark.parametrize("nbytes", [10, 200_000, 2_000_000])
def test_records_are_kept_until_the_kernel_has_memory(line: Line, failing: Failing, nbytes: int, code: int) -> None:
    pair, handler = line.pairs[0], line.handlers[0]
    payload, completion = pattern(nbytes), Completion()
    failing.sending = [code, code, 0, code]
    assert pair.write(header(1, nbytes), memoryview(payload)) is False
    pair.when_taken(completion)
    assert (handler.held, bool(pair.shortage)) == (1, True)
    assert pair.flush() is False
    assert (handler.held, completion.told) == (2, [])
    while not completion.told:
        line.carry(0)
    assert pair.shortage == ""
    line.carry(0)
    assert line.handlers[1].received() == [payload]
    assert handler.failures == []


def test_records_are_read_when_the_kernel_has_memory(line: Line, failing: Failing) -> None:
    write(line.pairs[1], 1, b"abc")
    failing.receiving = [errno.ENOMEM, errno.ENOBUFS]
    line.sockets[0].send(line.take(1))
    assert line.pairs[0].receive() is False
    assert line.pairs[0].receive() is False
    assert line.handlers[0].held == 2
    assert line.pairs[0].receive() is True
    assert line.handlers[0].received() == [b"abc"]


def test_receive_that_fails_for_a_reason_of_its_own(line: Line, failing: Failing) -> None:
    failing.receiving = [errno.EBADF]
    with pytest.raises(OSError, match="Bad file descriptor"):
        line.pairs[0].receive()
    ((reason, _),) = line.handlers[0].failures
    assert reason.startswith("receiving from rank 3 (node7, pid 4121, tls 10.0.0.4:40112) failed with EBADF (")
    assert line.handlers[0].losses == []


def test_what_tls_cannot_seal_is_a_loss(line: Line) -> None:
    """Its reading side may never say anything: nobody else has noticed."""
    pair = line.pairs[0]
    pair.end()
    assert write(pair, 1, b"abc")
    ((reason, cause),) = line.handlers[0].losses
    assert reason == f"TLS cannot seal what is to be sent ({cause.reason})"  # type: ignore[union-attr]
    assert isinstance(cause, ssl.SSLError)


# -- what counts as sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [1, 3000, 60_000, SEAL_NBYTES + 77, 2_000_000])
def test_sent_is_what_the_kernel_has(nbytes: int) -> None:
    line = Line(buffer=4096)
    pair, handler = line.pairs[0], line.handlers[0]
    while write(pair, 0, kind=Kind.CLEAR):  # until nothing fits any more
        pass
    clears = 1 + len(line.take(0)) // (HEADER_NBYTES + RECORD_OVERHEAD)
    while write(pair, 0, kind=Kind.CLEAR):
        pass
    assert handler.watched == [True, False, True]
    payload = bytearray(pattern(nbytes))
    completion = Completion()
    assert pair.write(header(1, nbytes), memoryview(payload)) is False
    pair.when_taken(completion)
    taken = b""
    while pair.sending:
        assert completion.told == []
        pair.flush()
        if not completion.told and pair.sending:
            taken += line.sockets[0].recv(1 << 20)
    assert completion.told == [completion]
    payload[:] = bytes(nbytes)  # it may be changed from now on
    assert handler.watched == [True, False, True, False]
    line.give(1, line.seen[0] + taken + line.take(0))
    assert line.handlers[1].received() == [pattern(nbytes)]
    assert line.handlers[1].frames.count((Kind.CLEAR, 0)) > clears - 1
    line.close()


@pytest.mark.parametrize("nbytes", [1, 60_000, 3_000_000])
def test_a_payload_may_be_changed_when_write_says_so(line: Line, nbytes: int) -> None:
    payload, completion = bytearray(pattern(nbytes)), Completion()
    if not line.pairs[0].write(header(1, nbytes), memoryview(payload)):
        line.pairs[0].when_taken(completion)
        while not completion.told:
            line.carry(0)
    payload[:] = bytes(nbytes)
    line.carry(0)
    assert line.handlers[1].received() == [pattern(nbytes)]


def test_what_is_dropped_is_owed() -> None:
    line = Line(buffer=4096)
    for payload in (pattern(50_000), pattern(500_000)):  # all of it sealed; and most of it not
        pair = line.pairs[0]
        assert not write(pair, 1, payload)
        completion = Completion()
        pair.when_taken(completion)
        assert pair.sending
        pair.close()
        assert pair.owes
        assert not pair.sending
        assert completion.told == []
        line.close()
        line = Line(buffer=4096)
    line.close()


# -- what is expected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 1, 8, *LENGTHS[4:], 65_536])
def test_the_expected_frame_is_there(line: Line, nbytes: int) -> None:
    for seed in range(3):
        write(line.pairs[0], 7, pattern(nbytes, seed))
        line.sockets[1].sendall(line.take(0))
        payload = line.pairs[1].expect(header(7, nbytes), nbytes, Waits())
        assert payload is not None
        assert bytes(payload) == pattern(nbytes, seed)
    assert line.handlers[1].frames == []


@pytest.mark.parametrize("nbytes", [100, RECORD_NBYTES, EXPECTED_NBYTES])
@pytest.mark.parametrize("step", [1, 22, 86, 5000, 60_000])
def test_the_expected_frame_comes_in_slices(line: Line, nbytes: int, step: int) -> None:
    if nbytes > 1000 * step:
        step = nbytes // 1000
    write(line.pairs[0], 7, pattern(nbytes))
    stream = line.take(0)
    steps = [
        lambda start=start: line.sockets[1].sendall(stream[start : start + step]) for start in range(0, len(stream), step)
    ]
    payload = line.pairs[1].expect(header(7, nbytes), nbytes, Waits(*steps, lambda: None))  # type: ignore[arg-type]
    assert payload is not None
    assert bytes(payload) == pattern(nbytes)
    assert line.handlers[1].frames == []


def test_the_frame_behind_the_expected_one_stays_in_the_kernel(line: Line) -> None:
    """Where epoll sees it."""
    write(line.pairs[0], 7, pattern(100))
    write(line.pairs[0], 8, pattern(100, 1))
    line.sockets[1].sendall(line.take(0))
    payload = line.pairs[1].expect(header(7, 100), 100, Waits())
    assert payload is not None
    assert bytes(payload) == pattern(100)
    payload = line.pairs[1].expect(header(8, 100), 100, Waits())
    assert payload is not None
    assert bytes(payload) == pattern(100, 1)


@pytest.mark.parametrize("cut", [0, 1, 50, 86 + 100 - 1])
def test_what_came_when_patience_ends_is_kept(line: Line, cut: int) -> None:
    write(line.pairs[0], 7, pattern(100))
    stream = line.take(0)
    line.sockets[1].sendall(stream[:cut])
    assert line.pairs[1].expect(header(7, 100), 100, Waits()) is None
    line.give(1, stream[cut:])
    assert line.handlers[1].received() == [pattern(100)]


def test_expected_behind_half_a_record(line: Line) -> None:
    """More is read then than the frame, and none of it may wait for the next bytes from the kernel."""
    for tag in range(3):
        write(line.pairs[0], tag, pattern(100, tag))
    stream = line.take(0)
    line.give(1, stream[:50])
    line.sockets[1].sendall(stream[50:])
    assert line.pairs[1].expect(header(0, 100), 100, Waits()) is None
    while line.pairs[1].receive():
        pass
    assert line.handlers[1].received() == [pattern(100, tag) for tag in range(3)]


@pytest.mark.parametrize("expected", [100, 200, 300, 1000])
def test_expected_in_a_record_with_others(expected: int) -> None:
    """What waits behind a full buffer is sealed together."""
    line = Line(buffer=4096)
    clears = 0
    while write(line.pairs[0], 0, kind=Kind.CLEAR):
        clears += 1
    for tag in range(1, 4):
        write(line.pairs[0], tag, pattern(100, tag))
    line.give(1, line.take(0)[: clears * (HEADER_NBYTES + RECORD_OVERHEAD)], 86)
    line.handlers[1].frames.clear()
    rest = line.seen[0][clears * (HEADER_NBYTES + RECORD_OVERHEAD) :] + line.take(0)
    first, rest = rest[: HEADER_NBYTES + RECORD_OVERHEAD], rest[HEADER_NBYTES + RECORD_OVERHEAD :]
    line.give(1, first)
    line.sockets[1].sendall(rest)
    assert line.pairs[1].expect(header(1, expected), expected, Waits()) is None
    while line.pairs[1].receive():
        pass
    assert [tag for kind, tag in line.handlers[1].frames if kind == Kind.MESSAGE] == [1, 2, 3]
    assert line.handlers[1].received() == [pattern(100, tag) for tag in range(1, 4)]
    line.close()


@pytest.mark.parametrize("others", [1, 2, 5])
@pytest.mark.parametrize("kind", [Kind.CLEAR, Kind.MESSAGE])
def test_another_frame_comes_first(line: Line, others: int, kind: Kind) -> None:
    for tag in range(others):
        write(line.pairs[0], tag, b"" if kind == Kind.CLEAR else pattern(3000, tag), kind)
    write(line.pairs[0], 7, pattern(100))
    line.sockets[1].sendall(line.take(0))
    assert line.pairs[1].expect(header(7, 100), 100, Waits()) is None
    while line.pairs[1].receive():
        pass
    assert [tag for _, tag in line.handlers[1].frames] == [*range(others), 7]
    assert line.handlers[1].received()[-1] == pattern(100)


@pytest.mark.parametrize("expecting", [True, False])
def test_nothing_follows_when_the_handler_closes_the_pair(line: Line, expecting: bool) -> None:
    for tag in range(3):
        write(line.pairs[0], tag, pattern(10, tag))
    line.handlers[1].close_at_frame = 2
    line.sockets[1].sendall(line.take(0))
    if expecting:
        assert line.pairs[1].expect(header(9, 10), 10, Waits()) is None
    while line.pairs[1].receive():
        pass
    assert [tag for _, tag in line.handlers[1].frames] == [0, 1]
    assert line.handlers[1].losses == []


# -- the end of the stream ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expecting", [True, False])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (0, "connection closed by peer"),
        (50, "connection closed by peer"),
        (100_000, "connection closed by peer, 1760 bytes short of a message"),
        (200_000, "connection closed by peer"),
    ],
)
def test_end_of_stream(line: Line, cut: int, reason: str, told: bool, expecting: bool) -> None:
    write(line.pairs[0], 7, pattern(100_000))
    stream = line.take(0)
    if told:
        line.pairs[0].end()
        word = line.take(0)
        assert len(word) == 24  # a record of two bytes
        stream = stream + word if cut > len(stream) else stream[:cut]
    else:
        stream = stream[:cut]
    far = line.sockets[1]
    far.sendall(stream)
    far.close()
    if expecting:
        assert line.pairs[1].expect(header(8, 8), 8, Waits()) is None
    while line.pairs[1].receive():
        pass
    assert line.handlers[1].losses == [(reason, None)]


def test_linger_ends_the_stream_in_tls_too(line: Line) -> None:
    pair = line.pairs[0]
    write(pair, 7, b"the last words", Kind.ABORT)
    line.sockets[0].shutdown(socket.SHUT_WR)  # the peer has ended: nothing is waited for
    assert linger([pair], Deadline(10.0)) == []
    stream = line.take(0)
    assert len(stream) == HEADER_NBYTES + 14 + RECORD_OVERHEAD + 24
    line.give(1, stream)
    assert line.handlers[1].received() == [b"the last words"]
    assert line.handlers[1].losses == [("connection closed by peer", None)]


def test_end_in_the_middle_of_a_record_says_nothing() -> None:
    line = Line(buffer=4096)
    assert not write(line.pairs[0], 1, pattern(50_000))
    sent = len(line.sockets[0].recv(1 << 20, socket.MSG_PEEK))
    line.pairs[0].end()
    assert len(line.sockets[0].recv(1 << 20, socket.MSG_PEEK)) == sent
    line.close()
    line.pairs[0].end()


def test_reset(line: Line) -> None:
    write(line.pairs[1], 1, b"unread")
    line.sockets[1].close()
    assert line.pairs[1].receive() is True
    ((reason, cause),) = line.handlers[1].losses
    assert reason == "Connection reset by peer"
    assert isinstance(cause, ConnectionResetError)


def test_last_words_are_heard_although_writing_fails(line: Line) -> None:
    write(line.pairs[0], 1, b"out of memory", Kind.ABORT)
    far = line.sockets[1]
    far.sendall(line.take(0))
    far.close()
    assert write(line.pairs[1], 1, b"abc") is True
    assert line.pairs[1].owes
    assert line.handlers[1].losses == []
    while line.pairs[1].receive():
        pass
    assert line.handlers[1].received() == [b"out of memory"]
    ((reason, cause),) = line.handlers[1].losses
    assert reason == "connection closed by peer"
    assert isinstance(cause, BrokenPipeError)


def test_closed_pair_does_nothing(line: Line) -> None:
    pair = line.pairs[0]
    pair.close()
    pair.close()
    assert write(pair, 1, b"abc") is True
    assert pair.flush() is False
    assert pair.receive() is False
    assert pair.expect(header(1), 0, Waits()) is None
    assert pair.sending is False


# -- what was altered ---------------------------------------------------------------------------------------------------

ALTERED = "a record came that was changed or forged (DECRYPTION_FAILED_OR_BAD_RECORD_MAC)"


@pytest.mark.parametrize("expecting", [True, False])
@pytest.mark.parametrize("position", [5, 50, -1])
def test_a_changed_byte(line: Line, position: int, expecting: bool) -> None:
    write(line.pairs[0], 7, pattern(100))
    stream = bytearray(line.take(0))
    stream[position] ^= 1
    line.sockets[1].sendall(stream)
    if expecting:
        assert line.pairs[1].expect(header(7, 100), 100, Waits()) is None
    else:
        assert line.pairs[1].receive() is True
    ((reason, cause),) = line.handlers[1].losses
    assert reason == ALTERED
    assert isinstance(cause, ssl.SSLError)
    assert line.handlers[1].frames == []
    assert line.pairs[1].likely == "something between the two ranks alters what they send"
    line.carry(1)  # the alert
    ((reason, cause),) = line.handlers[0].losses
    assert reason == "it got a record that was changed or forged (SSLV3_ALERT_BAD_RECORD_MAC)"
    assert isinstance(cause, ssl.SSLError)


def test_records_that_change_places_are_noticed(line: Line) -> None:
    write(line.pairs[0], 1, pattern(100))
    first = line.take(0)
    write(line.pairs[0], 2, pattern(100))
    line.give(1, line.take(0) + first)
    assert [reason for reason, _ in line.handlers[1].losses] == [ALTERED]
    assert line.handlers[1].frames == []


def test_a_record_that_comes_twice_is_noticed(line: Line) -> None:
    write(line.pairs[0], 1, pattern(100))
    line.give(1, line.take(0) * 2)
    assert line.handlers[1].received() == [pattern(100)]
    assert [reason for reason, _ in line.handlers[1].losses] == [ALTERED]


@pytest.mark.parametrize("seed", range(8))
def test_garbage_is_no_record(line: Line, seed: int) -> None:
    line.give(1, pattern(1000, seed))
    assert len(line.handlers[1].losses) == 1
    assert line.handlers[1].losses[0][0].startswith(("a record came", "it got a record"))
    assert line.handlers[1].frames == []
