"""Pairs on a socket pair, with a handler that writes down what it is told."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from handlers import Completion, Failing, Handler

from gloompi.transport.endpoint import Peer
from gloompi.transport.failures import GONE, SHORTAGE
from gloompi.transport.frames import HEADER_NBYTES, NO_FINGERPRINT, VERSION, Kind, pack_header
from gloompi.transport.link import Loopback
from gloompi.transport.pair import SLICE_NBYTES, STAGING_NBYTES, Pair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PEER = Peer(3, "node7", 4121, "unix", "@gloompi-ab")
MARK = bytes(range(32))


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def ends(handler: Handler) -> Iterator[tuple[Pair, socket.socket]]:
    """A pair, and the socket of its peer."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(10)
    pair = Pair(near, PEER, handler, 0, memoryview(bytearray(STAGING_NBYTES)))
    yield pair, far
    pair.close()
    far.close()


def take_all(pair: Pair) -> None:
    while pair.receive():
        pass


def frame(kind: Kind, tag: int, payload: bytes = b"") -> bytes:
    return pack_header(kind, 5, tag, len(payload), MARK) + payload


def pattern(nbytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(nbytes)


# -- receiving ----------------------------------------------------------------------------------------------------------


def test_receive_reports_the_fields_of_a_literal_header(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    far.sendall(
        b"\x04\x01\x00\x00\x00\x00\x00\x00" b"\x02\x00\x00\x00\x00\x00\x00\x00" b"\x07\x00\x00\x00\x00\x00\x00\x00"
        b"\x03\x00\x00\x00\x00\x00\x00\x00" + bytes(32) + b"abc"
    )  # fmt: skip
    assert pair.receive() is True
    assert pair.receive() is False
    assert handler.headers == [(Kind.MESSAGE, 2, 7, 3, NO_FINGERPRINT)]
    assert handler.received() == [b"abc"]


@pytest.mark.parametrize("step", [1, 3, 63, 64, 65, 100, 10_000])
def test_frames_may_come_in_pieces_of_any_length(ends: tuple[Pair, socket.socket], handler: Handler, step: int) -> None:
    pair, far = ends
    payloads = [pattern(nbytes, nbytes) for nbytes in (0, 1, 64, 200, 0, 37)]
    stream = b"".join(
        frame(Kind.MESSAGE, number, payload) + frame(Kind.CLEAR, number) for number, payload in enumerate(payloads)
    )
    for start in range(0, len(stream), step):
        far.sendall(stream[start : start + step])
        take_all(pair)
    expected = []
    for number, payload in enumerate(payloads):
        expected.append((Kind.MESSAGE, 5, number, len(payload), MARK))
        expected.append((Kind.CLEAR, 5, number, 0, MARK))
    assert handler.headers == expected
    assert handler.received() == payloads
    assert handler.losses == []


def test_many_frames_in_one_read(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    payloads = [pattern(number, number) for number in range(100)]
    far.sendall(b"".join(frame(Kind.MESSAGE, number, payload) for number, payload in enumerate(payloads)))
    assert pair.receive() is True
    assert handler.received() == payloads
    assert pair.receive() is False


@pytest.mark.parametrize("nbytes", [STAGING_NBYTES - HEADER_NBYTES + offset for offset in (-1, 0, 1)] + [300_000])
def test_payload_across_reads(ends: tuple[Pair, socket.socket], handler: Handler, nbytes: int) -> None:
    pair, far = ends
    payload = pattern(nbytes)
    stream = frame(Kind.DATA, 1, payload) + frame(Kind.MESSAGE, 2, b"next")
    for start in range(0, len(stream), 50_000):
        far.sendall(stream[start : start + 50_000])
        take_all(pair)
    assert handler.received() == [payload, b"next"]


def test_kinds_without_payload_carry_a_number(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    far.sendall(pack_header(Kind.ANNOUNCE, 5, 1, 2**40) + pack_header(Kind.CREDIT, 5, 0, 2**63) + frame(Kind.GOODBYE, 0))
    take_all(pair)
    assert [(kind, nbytes) for kind, _, _, nbytes, _ in handler.headers] == [
        (Kind.ANNOUNCE, 2**40),
        (Kind.CREDIT, 2**63),
        (Kind.GOODBYE, 0),
    ]


def test_pairs_share_their_staging() -> None:
    staging = memoryview(bytearray(STAGING_NBYTES))
    ends = []
    for number in range(2):
        near, far = socket.socketpair()
        near.setblocking(False)
        handler = Handler()
        ends.append((Pair(near, PEER, handler, 0, staging), far, handler, frame(Kind.MESSAGE, number, pattern(90, number))))
    for position in range(HEADER_NBYTES + 90):
        for pair, far, _, stream in ends:
            far.sendall(stream[position : position + 1])
            take_all(pair)
    for number, (pair, far, handler, _) in enumerate(ends):
        assert handler.headers == [(Kind.MESSAGE, 5, number, 90, MARK)]
        assert handler.received() == [pattern(90, number)]
        pair.close()
        far.close()


def test_nothing_follows_when_the_handler_closes_the_pair(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    handler.close_at_frame = 2
    far.sendall(frame(Kind.MESSAGE, 1, b"a") + frame(Kind.GOODBYE, 2) + frame(Kind.MESSAGE, 3, b"c"))
    take_all(pair)
    assert [tag for _, _, tag, _, _ in handler.headers] == [1, 2]
    assert handler.losses == []
    assert pair.receive() is False


# -- the end of the stream ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "connection closed by peer"),
        (frame(Kind.MESSAGE, 1, b"abc"), "connection closed by peer"),
        (frame(Kind.MESSAGE, 1)[:10], "connection closed by peer, 10 bytes into a header"),
        (frame(Kind.CLEAR, 1) + frame(Kind.CLEAR, 2)[:63], "connection closed by peer, 63 bytes into a header"),
        (frame(Kind.DATA, 1, bytes(100))[:-30], "connection closed by peer, 30 bytes short of a message"),
        (frame(Kind.DATA, 1, bytes(100))[:-100], "connection closed by peer, 100 bytes short of a message"),
    ],
    ids=["at once", "between frames", "in a header", "in the second header", "in a payload", "before a payload"],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_end_of_stream(ends: tuple[Pair, socket.socket], handler: Handler, stream: bytes, reason: str, step: int) -> None:
    pair, far = ends
    for start in range(0, len(stream), step):
        far.sendall(stream[start : start + step])
        take_all(pair)
    far.close()
    assert pair.receive() is True
    assert handler.losses == [(reason, None)]
    assert pair.receive() is False


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "Connection reset by peer"),
        (frame(Kind.DATA, 1, bytes(100))[:-30], "Connection reset by peer, 30 bytes short of a message"),
        (frame(Kind.DATA, 1)[:10], "Connection reset by peer, 10 bytes into a header"),
    ],
    ids=["idle", "in a payload", "in a header"],
)
def test_reset(ends: tuple[Pair, socket.socket], handler: Handler, stream: bytes, reason: str) -> None:
    pair, far = ends
    far.sendall(stream)
    take_all(pair)
    pair.write(frame(Kind.CLEAR, 1))
    far.close()  # with unread input: that resets the connection
    assert pair.receive() is True
    ((told, cause),) = handler.losses
    assert told == reason
    assert isinstance(cause, ConnectionResetError)


@pytest.mark.parametrize("version", [0, 1, 255])
def test_other_version(ends: tuple[Pair, socket.socket], handler: Handler, version: int) -> None:
    pair, far = ends
    far.sendall(frame(Kind.CLEAR, 1) + bytes([version]) + frame(Kind.MESSAGE, 2, b"abc")[1:] + frame(Kind.CLEAR, 3))
    take_all(pair)
    assert [tag for _, _, tag, _, _ in handler.headers] == [1]
    assert handler.losses == [(f"it speaks frame version {version}, this rank version 4", None)]


def test_generated_headers_raise_nothing(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    """100,000 headers of random fields; what they mean is the handler's business."""
    pair, far = ends
    seen = []

    def note(pair: Any, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> None:
        seen.append((kind, channel, tag, nbytes))

    handler.frame = note  # type: ignore[method-assign]
    generator = random.Random(23)
    for _ in range(200):
        stream = bytearray(generator.randbytes(500 * HEADER_NBYTES))
        stream[::HEADER_NBYTES] = bytes([VERSION]) * 500
        far.sendall(stream)
        take_all(pair)
    assert len(seen) == 100_000
    assert handler.losses == []
    assert len({nbytes for _, _, _, nbytes in seen}) > 99_000


# -- writing ------------------------------------------------------------------------------------------------------------


def received(far: socket.socket, nbytes: int) -> bytes:
    data = bytearray()
    while len(data) < nbytes:
        piece = far.recv(nbytes - len(data))
        assert piece
        data += piece
    return bytes(data)


def test_write_hands_over_what_fits_at_once(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    assert pair.write(pack_header(Kind.CLEAR, 5, 1, 0, MARK)) is True
    assert pair.write(pack_header(Kind.MESSAGE, 5, 2, 0, MARK), memoryview(b"")) is True
    assert pair.write(pack_header(Kind.MESSAGE, 5, 3, 4, MARK), memoryview(b"abcd")) is True
    stream = frame(Kind.CLEAR, 1) + frame(Kind.MESSAGE, 2) + frame(Kind.MESSAGE, 3, b"abcd")
    assert received(far, len(stream)) == stream
    assert pair.sending is False
    assert handler.watched == []
    assert pair.flush() is False


@pytest.fixture
def narrow(ends: tuple[Pair, socket.socket]) -> tuple[Pair, socket.socket]:
    """A pair whose kernel takes a few KiB at a time."""
    pair, far = ends
    assert pair.sock is not None
    pair.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return pair, far


def drain(pair: Pair, far: socket.socket, nbytes: int, check: Callable[[], object] = lambda: None) -> bytes:
    """Read and flush in turn until `nbytes` have come out."""
    data = bytearray()
    far.setblocking(False)
    while len(data) < nbytes:
        moved = pair.flush()
        check()
        try:
            data += far.recv(1 << 20)
        except BlockingIOError:
            assert moved, f"nothing moves after {len(data)} of {nbytes} bytes"
    return bytes(data)


@pytest.mark.parametrize("nbytes", [100_000, SLICE_NBYTES - HEADER_NBYTES, SLICE_NBYTES, 2 * SLICE_NBYTES + 5])
def test_full_socket_buffer_then_flush(narrow: tuple[Pair, socket.socket], handler: Handler, nbytes: int) -> None:
    pair, far = narrow
    payload, completion = pattern(nbytes), Completion()
    assert pair.write(pack_header(Kind.DATA, 5, 1, nbytes, MARK), memoryview(payload)) is False
    pair.when_taken(completion)
    assert pair.sending
    assert handler.watched == [True]

    def told_when_all_is_taken() -> None:
        assert completion.told == ([] if pair.sending else [completion])

    stream = frame(Kind.DATA, 1, payload)
    assert drain(pair, far, len(stream), told_when_all_is_taken) == stream
    assert completion.told == [completion]
    assert handler.watched == [True, False]
    assert pair.flush() is False


def test_writes_behind_a_full_buffer_keep_their_order(narrow: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = narrow
    told: list[Completion] = []
    stream, completions = b"", []
    for number in range(60):
        payload = pattern((50_000, 0, 7, 3000)[number % 4], number)
        header = pack_header(Kind.MESSAGE, 5, number, len(payload), MARK)
        waits = not pair.write(header, memoryview(payload))
        assert waits
        completions.append(Completion(told))
        pair.when_taken(completions[-1])
        assert pair.write(pack_header(Kind.CREDIT, 5, number, 9, MARK)) is False
        stream += header + payload + pack_header(Kind.CREDIT, 5, number, 9, MARK)
    assert drain(pair, far, len(stream)) == stream
    assert told == completions
    assert handler.watched == [True, False]


def test_a_header_may_be_cut(narrow: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = narrow
    count = 0
    while pair.write(pack_header(Kind.CREDIT, 5, count, 1, MARK)):
        count += 1
    completion = Completion()
    assert pair.write(pack_header(Kind.MESSAGE, 5, 0, 0, MARK), memoryview(b"")) is False
    pair.when_taken(completion)
    stream = b"".join(pack_header(Kind.CREDIT, 5, number, 1, MARK) for number in range(count + 1))
    stream += pack_header(Kind.MESSAGE, 5, 0, 0, MARK)
    assert drain(pair, far, len(stream)) == stream
    assert completion.told == [completion]


def test_both_ends_speak_the_same(handler: Handler) -> None:
    staging = memoryview(bytearray(STAGING_NBYTES))
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    other = Handler()
    one, two = Pair(near, PEER, handler, 0, staging), Pair(far, PEER, other, 0, staging)
    payloads = [pattern(nbytes, nbytes) for nbytes in (0, 5, 700_000, 64)]
    for number, payload in enumerate(payloads):
        for pair in (one, two):
            pair.write(pack_header(Kind.DATA, number, number, len(payload), MARK), memoryview(payload))
    while one.flush() | two.flush() | one.receive() | two.receive():
        pass
    assert handler.received() == other.received() == payloads
    one.close()
    two.close()


# -- a peer that is gone ------------------------------------------------------------------------------------------------


def test_peers_last_words_are_heard_although_writing_fails(ends: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = ends
    far.sendall(frame(Kind.ABORT, 0, b"out of memory"))
    far.close()
    assert pair.write(pack_header(Kind.DATA, 5, 1, 3, MARK), memoryview(b"abc")) is True
    assert handler.losses == []
    assert pair.write(pack_header(Kind.DATA, 5, 2, 3, MARK), memoryview(b"abc")) is True
    take_all(pair)
    assert handler.received() == [b"out of memory"]
    ((reason, cause),) = handler.losses
    assert reason == "connection closed by peer"
    assert isinstance(cause, BrokenPipeError)


def test_peer_is_gone_while_a_flush_is_due(narrow: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, far = narrow
    completion = Completion()
    pair.write(pack_header(Kind.DATA, 5, 1, 100_000, MARK), memoryview(bytes(100_000)))
    pair.when_taken(completion)
    far.close()
    assert pair.flush() is True
    assert handler.losses == []
    assert pair.sending is False
    assert handler.watched == [True, False]
    assert pair.receive() is True
    assert len(handler.losses) == 1
    assert completion.told == []


def test_closed_pair_does_nothing(narrow: tuple[Pair, socket.socket], handler: Handler) -> None:
    pair, _ = narrow
    pair.write(pack_header(Kind.DATA, 5, 1, 100_000, MARK), memoryview(bytes(100_000)))
    pair.close()
    pair.close()
    assert pair.sending is False
    assert pair.flush() is False
    assert pair.receive() is False
    assert pair.write(pack_header(Kind.CLEAR, 5, 1, 0)) is True
    assert handler.losses == []


# -- system calls that fail although the peer is there -------------------------------------------------------------------


@pytest.fixture
def failing(ends: tuple[Pair, socket.socket]) -> tuple[Pair, Failing, socket.socket]:
    """A pair, its socket, and that of its peer."""
    pair, far = ends
    assert pair.sock is not None
    pair.sock = sock = Failing(pair.sock)
    return pair, sock, far


OWN = (errno.EFAULT, errno.EMSGSIZE, errno.EINVAL, errno.EBADF, errno.EIO, errno.EPERM, errno.ENOTSOCK)
ABORT = frame(Kind.ABORT, 0, b"sorry")


def test_send_that_fails_for_a_reason_of_its_own_says_what_was_sent_and_why(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler
) -> None:
    pair, sock, _ = failing
    x = np.ones(1000)
    start = x.ctypes.data
    sock.sending = [errno.EFAULT]
    with pytest.raises(OSError, match="Bad address"):
        pair.write(pack_header(Kind.MESSAGE, 5, 1, 8000, MARK), x.view("u1").data)
    ((reason, cause),) = handler.failures
    assert reason == (
        f"sending 8000 bytes at {start:#x}-{start + 8000:#x} to rank 3 (node7, pid 4121, unix @gloompi-ab) failed with "
        f"EFAULT (Bad address): the file behind a mapped array was truncated or the memory unmapped; keep arrays mapped, "
        f"and their files as long as they are, until the operation is done"
    )
    assert cause.errno == errno.EFAULT


@pytest.mark.parametrize("code", OWN, ids=errno.errorcode.get)
@pytest.mark.parametrize("behind", [False, True], ids=["at once", "behind others"])
def test_peer_can_be_told_where_no_frame_has_begun(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler, code: int, behind: bool
) -> None:
    pair, sock, far = failing
    payload = memoryview(pattern(100))
    if behind:
        sock.sending = [errno.EAGAIN]
        assert pair.write(pack_header(Kind.CLEAR, 5, 1, 0, MARK)) is False
        assert pair.write(pack_header(Kind.MESSAGE, 5, 2, 100, MARK), payload) is False
        pair.when_taken(Completion())
        sock.sending = [code]
        with pytest.raises(OSError):  # noqa: PT011 - the one that it was told
            pair.flush()
        assert handler.watched == [True, False]
    else:
        sock.sending = [code]
        with pytest.raises(OSError):  # noqa: PT011
            pair.write(pack_header(Kind.MESSAGE, 5, 2, 100, MARK), payload)
    assert not pair.sending
    assert not pair.cut_short
    assert pair.write(ABORT) is True
    assert received(far, len(ABORT)) == ABORT
    assert [cause.errno for _, cause in handler.failures] == [code]


@pytest.mark.parametrize("taken", [1, HEADER_NBYTES - 1, HEADER_NBYTES, HEADER_NBYTES + 10])
def test_nothing_follows_half_a_frame(failing: tuple[Pair, Failing, socket.socket], handler: Handler, taken: int) -> None:
    pair, sock, far = failing
    sock.most, sock.sending = taken, [0, errno.EFAULT]
    assert pair.write(pack_header(Kind.MESSAGE, 5, 2, 100, MARK), memoryview(pattern(100))) is False
    with pytest.raises(OSError, match="Bad address"):
        pair.flush()
    sock.most = 1000
    assert pair.cut_short
    assert pair.write(ABORT) is True
    pair.close()
    assert received(far, taken) == frame(Kind.MESSAGE, 2, pattern(100))[:taken]
    assert far.recv(1) == b""


def test_nothing_follows_where_the_peer_could_not_be_told(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler
) -> None:
    pair, sock, _ = failing
    sock.sending = [errno.EBADF, errno.EBADF]
    with pytest.raises(OSError, match="Bad file descriptor"):
        pair.write(ABORT)
    assert pair.write(ABORT) is True
    assert pair.write(ABORT) is True
    assert (sock.calls, len(handler.failures), pair.cut_short) == (2, 2, True)


@pytest.mark.parametrize("code", SHORTAGE, ids=errno.errorcode.get)
def test_send_without_memory_in_the_kernel_is_tried_again(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler, code: int
) -> None:
    pair, sock, far = failing
    payload, completion = pattern(100), Completion()
    sock.sending = [code, code]
    assert pair.write(pack_header(Kind.MESSAGE, 5, 2, 100, MARK), memoryview(payload)) is False
    pair.when_taken(completion)
    assert (handler.held, handler.watched) == (1, [True])
    assert pair.flush() is False
    assert handler.held == 2
    assert pair.shortage == (
        f"the kernel had no memory for the connection to rank 3 (node7, pid 4121, unix @gloompi-ab): "
        f"{errno.errorcode[code]} ({os.strerror(code)})"
    )
    assert completion.told == []
    assert pair.flush() is True
    assert (pair.shortage, pair.sending, completion.told) == ("", False, [completion])
    stream = frame(Kind.MESSAGE, 2, payload)
    assert received(far, len(stream)) == stream
    assert handler.failures == []


@pytest.mark.parametrize("code", sorted(GONE), ids=errno.errorcode.get)
@pytest.mark.parametrize("flush", [False, True], ids=["write", "flush"])
def test_what_says_that_the_connection_is_gone_is_left_to_the_reading_side(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler, code: int, flush: bool
) -> None:
    pair, sock, far = failing
    far.sendall(ABORT)
    sock.sending = [errno.EAGAIN, code] if flush else [code]
    pair.write(pack_header(Kind.MESSAGE, 5, 2, 0, MARK))
    if flush:
        assert pair.flush() is True
    assert (handler.failures, handler.losses, pair.sending) == ([], [], False)
    assert pair.receive() is True
    assert handler.received() == [b"sorry"]
    sock.receiving = [code]
    assert pair.receive() is True
    ((reason, cause),) = handler.losses
    assert (reason, cause and cause.errno) == (os.strerror(code), code)


@pytest.mark.parametrize("code", OWN, ids=errno.errorcode.get)
def test_receive_that_fails_for_a_reason_of_its_own(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler, code: int
) -> None:
    pair, sock, far = failing
    far.sendall(frame(Kind.DATA, 1, bytes(100))[:-30])
    take_all(pair)
    window = handler.payloads[0].window()
    start = np.frombuffer(window, "u1").ctypes.data
    sock.receiving = [code]
    with pytest.raises(OSError):  # noqa: PT011
        pair.receive()
    ((reason, cause),) = handler.failures
    assert reason.startswith(
        f"receiving 30 bytes at {start:#x}-{start + 30:#x} from rank 3 (node7, pid 4121, unix @gloompi-ab) failed with "
        f"{errno.errorcode[code]} ({os.strerror(code)}): "
    )
    assert (cause.errno, handler.losses) == (code, [])
    assert pair.write(ABORT) is True
    assert received(far, len(ABORT)) == ABORT


@pytest.mark.parametrize("code", SHORTAGE, ids=errno.errorcode.get)
def test_receive_without_memory_in_the_kernel_is_tried_again(
    failing: tuple[Pair, Failing, socket.socket], handler: Handler, code: int
) -> None:
    pair, sock, far = failing
    far.sendall(frame(Kind.MESSAGE, 1, b"abc"))
    sock.receiving = [code]
    assert pair.receive() is False
    assert (handler.held, bool(pair.shortage)) == (1, True)
    assert pair.receive() is True
    assert handler.received() == [b"abc"]
    assert (handler.failures, handler.losses) == ([], [])


# -- the way to oneself -------------------------------------------------------------------------------------------------


def test_loopback_delivers_at_once(handler: Handler) -> None:
    link = Loopback(Peer(0, "node7", 1, "self", ""), handler, 0)
    assert link.rank == 0
    assert link.write(pack_header(Kind.MESSAGE, 1, 2, 3, MARK), memoryview(b"abc")) is True
    assert link.write(pack_header(Kind.MESSAGE, 1, 3, 0, MARK), memoryview(b"")) is True
    assert link.write(pack_header(Kind.CREDIT, 1, 0, 3)) is True
    assert handler.headers == [
        (Kind.MESSAGE, 1, 2, 3, MARK),
        (Kind.MESSAGE, 1, 3, 0, MARK),
        (Kind.CREDIT, 1, 0, 3, NO_FINGERPRINT),
    ]
    assert handler.received() == [b"abc", b""]
