"""What reads bytes of strangers and of peers, each as a function of the bytes: for `fuzz.py` and for hypothesis.

What comes over the connections of the mesh; what else comes is in `store_targets.py`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_interface
from typing import Any

import numpy as np

from gloompi.engine.fingerprint import NO_FACTS, fingerprint
from gloompi.engine.matching import Arrival, Probe
from gloompi.engine.messages import CREDIT_NBYTES, EAGER_NBYTES, Messages
from gloompi.engine.operation import ANY_SOURCE, ANY_TAG, OpenReceive, Receive
from gloompi.errors import (
    AuthenticationError,
    ContextClosedError,
    GloompiError,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    RendezvousError,
    SystemCallError,
)
from gloompi.rendezvous.hangups import heard
from gloompi.rendezvous.record import Blame, Record, pack_verdict
from gloompi.transport.abort import MAX_ABORT_NBYTES, Abort, abort_frame
from gloompi.transport.endpoint import Address, Endpoint, Nearness, Peer
from gloompi.transport.frames import HEADER_NBYTES, VERSION, Kind, pack_header, unpack_header
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES, Session, Transport, accept, dial
from gloompi.transport.link import Link, Loopback
from gloompi.transport.memory import OFFER_NBYTES
from gloompi.transport.pair import STAGING_NBYTES, Pair
from gloompi.transport.route import routes

from .store_targets import STORE_TARGETS
from .target import Target

__all__ = ["TARGETS"]

SESSION = Session([bytes([rank + 1]) * 32 for rank in range(4)])
PEERS = [Peer(0, "node0", 100, "self", ""), Peer(1, "node1", 101, "tcp", "10.0.0.4:40112")]


# -- the handshake --------------------------------------------------------------------------------------------------------


def _accept(data: bytes) -> None:
    """A hello, and what is wrong with the proof: only who has the key gets in."""
    hello, wrong = data[:HELLO_NBYTES].ljust(HELLO_NBYTES, b"\0"), data[HELLO_NBYTES:][:PROOF_NBYTES]
    flights = accept(SESSION, 0, Transport.TCP)
    assert next(flights) == (b"", HELLO_NBYTES)
    try:
        answer, wanted = flights.send(hello)
    except AuthenticationError:
        return
    assert (len(answer), wanted) == (ANSWER_NBYTES, PROOF_NBYTES)
    assert hello[:24] == SESSION.hello(1, 0, Transport.TCP)[:24]
    try:
        flights.send(_wronged(SESSION.macs(hello, answer[:32])[1], wrong))
    except AuthenticationError:
        assert any(wrong)
    except StopIteration as stop:
        assert not any(wrong)
        dialer, welcome = stop.value
        assert dialer in (1, 2, 3)
        assert len(welcome) == PROOF_NBYTES


def _dial(data: bytes) -> None:
    """What is wrong with the answer, and what with the welcome."""
    wrong, further = data[:ANSWER_NBYTES], data[ANSWER_NBYTES:][:PROOF_NBYTES]
    flights = dial(SESSION, 1, 0, Transport.TCP)
    hello, wanted = next(flights)
    assert wanted == ANSWER_NBYTES
    nonce = bytes(range(32))
    answer = nonce + SESSION.macs(hello, nonce)[0]
    told = _wronged(answer, wrong)
    try:
        _, wanted = flights.send(told)
    except AuthenticationError:
        assert any(wrong)
        return
    assert not any(wrong)
    assert wanted == PROOF_NBYTES
    try:
        flights.send(_wronged(SESSION.welcome(hello, answer), further))
    except AuthenticationError:
        assert any(further)
    except StopIteration:
        assert not any(further)


def _wronged(right: bytes, wrong: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(right, wrong.ljust(len(right), b"\0"), strict=True))


# -- frames ---------------------------------------------------------------------------------------------------------------


class Stream:
    """The socket of a pair: gives away what it is made of, so many bytes at a time, and takes everything."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step, self.position = data, step, 0

    def fileno(self) -> int:
        return -1

    def recv_into(self, into: memoryview) -> int:
        piece = self.data[self.position : self.position + min(self.step, len(into))]
        into[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def send(self, data: memoryview) -> int:
        return len(data)

    def sendmsg(self, pieces: tuple[memoryview, ...]) -> int:
        return sum(map(len, pieces))

    def close(self) -> None:
        self.step = 0


class Payload:
    """A sink that refuses what is not its own."""

    def __init__(self, nbytes: int) -> None:
        self.data, self.position, self.finished = bytearray(nbytes), 0, False

    def feed(self, data: memoryview) -> None:
        assert 0 < len(data) <= len(self.data) - self.position
        self.data[self.position : self.position + len(data)] = data
        self.position += len(data)

    def window(self) -> memoryview:
        assert self.position < len(self.data)
        return memoryview(self.data)[self.position :]

    def advance(self, nbytes: int) -> None:
        self.position += nbytes

    def finish(self) -> None:
        assert not self.finished
        assert self.position == len(self.data)
        self.finished = True


class Recorder:
    """A pair's handler that notes frames, and takes payloads up to `EAGER_NBYTES`."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.payloads: list[Payload] = []
        self.lost_for = ""

    def frame(self, pair: Link, kind: int, channel: int, tag: int, nbytes: int, mark: bytes) -> Payload | None:
        self.seen.append((kind, channel, tag, nbytes, mark))
        if kind not in (Kind.MESSAGE, Kind.DATA) or nbytes > EAGER_NBYTES:
            return None
        self.payloads.append(Payload(nbytes))
        return self.payloads[-1]

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        assert not self.lost_for
        self.lost_for = reason
        pair.close()

    def watch(self, pair: Pair, writing: bool) -> None:
        raise AssertionError("the socket takes everything")


_staging = memoryview(bytearray(STAGING_NBYTES))


def _read(data: bytes, handler: Any) -> tuple[Pair, Stream]:
    stream = Stream(data[1:], 1 + 4 * data[0] if data else 1)
    return Pair(stream, PEERS[1], handler, CREDIT_NBYTES, _staging), stream  # type: ignore[arg-type]


def _frames(data: bytes) -> None:
    """How long the pieces are, and a stream of frames: what the pair makes of it is what a plain loop does."""
    recorder = Recorder()
    pair, stream = _read(data, recorder)
    while not recorder.lost_for:
        assert pair.receive()
    expected, payloads, position, end = [], [], 0, len(stream.data)
    while end - position >= HEADER_NBYTES:
        version, *fields = unpack_header(stream.data, position)
        if version != VERSION:
            assert recorder.lost_for == f"it speaks frame version {version}, this rank version {VERSION}"
            break
        position += HEADER_NBYTES
        expected.append(tuple(fields))
        kind, nbytes = fields[0], fields[3]
        if kind in (Kind.MESSAGE, Kind.DATA) and nbytes <= EAGER_NBYTES:
            payloads.append(stream.data[position : position + nbytes])
            position += nbytes
    assert recorder.seen == expected
    assert [bytes(each.data[: each.position]) for each in recorder.payloads] == payloads
    assert all(each.finished for each in recorder.payloads[:-1])


_SMALL = fingerprint("send", np.dtype("f8"), 12)
_CALL = fingerprint("allreduce", np.dtype("f8"), 12, reduction="sum", algorithm="ring")
_OBJECT = fingerprint("send", np.dtype(object), 96)
_LARGE_NBYTES = EAGER_NBYTES + 8
_buffer = memoryview(bytearray(2 * _LARGE_NBYTES))


class Rank:
    """A rank's messages, with receives and sends under way on its two channels, and one peer."""

    prompt = 0.0

    def __init__(self, data: bytes) -> None:
        self.errors: list[GloompiError] = []
        self.reasons: list[str] = []
        pair, self.stream = _read(data, self)
        self.pair = pair
        self.messages = messages = Messages(0, [Loopback(PEERS[0], self, 0), pair], self._fail, self._lose, self)
        self.frame = messages.frame
        self.channels = mine, calls = messages.join(0, (0, 1))
        messages.receive(Receive(mine, 1, 7, _buffer[:1000], 1000, _SMALL))
        messages.receive(Receive(mine, ANY_SOURCE, ANY_TAG, _buffer[:96], 96, _SMALL))
        messages.send(mine, 1, 8, _buffer[:_LARGE_NBYTES], _SMALL)
        calls.begin(_CALL)
        messages.receive(Receive(calls, 1, 1 << 16, _buffer[:96], 96, _CALL))
        messages.receive(Receive(calls, 1, 1 << 16 | 1, _buffer[:_LARGE_NBYTES], _LARGE_NBYTES, _CALL))
        messages.send(calls, 1, 1 << 16, _buffer[:_LARGE_NBYTES], _CALL)

    def alone(self) -> bool:
        return False

    def pause(self, tried: float) -> None:
        raise AssertionError("nothing is waited for")

    def _fail(self, error: GloompiError) -> None:
        self.errors.append(error)
        self.pair.close()

    def _lose(self, link: Link, reason: str) -> None:
        self.reasons.append(reason)
        self.pair.close()

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        self._lose(pair, reason)

    def watch(self, pair: Pair, writing: bool) -> None:
        raise AssertionError("the socket takes everything")


def _messages(data: bytes) -> None:
    """How long the pieces are, and a stream of frames, for a rank in the midst of its work: it goes on, or has an error."""
    rank = Rank(data)
    looks = 0
    while not rank.errors and not rank.reasons:
        assert rank.pair.receive()
        if rank.messages._unjoined.knows(2):
            looks += 1
            if looks == 2:  # a Context that the peer has used before this rank has made it
                rank.messages.join(2, (0, 1))
    assert all(len(str(error)) < 4000 and error.facts() for error in rank.errors)
    assert all(rank.reasons)


class Room(OpenReceive):
    """A receive that takes any length, where memory is short: an object's length is the peer's choice, and no cap's."""

    __slots__ = ()

    def admits(self, nbytes: int) -> bool:
        if nbytes > EAGER_NBYTES:
            raise MemoryError(f"{nbytes} bytes")
        return super().admits(nbytes)


def _objects(data: bytes) -> None:
    """As `_messages`, for a rank that takes messages of any length: posted, late, probed, and in a collective."""
    rank = Rank(data)
    mine, calls = rank.channels
    posted = [
        Room(mine, 1, 21, None, 0, _OBJECT),
        Room(mine, 1, ANY_TAG, None, 0, _OBJECT),
        Room(calls, 1, 1 << 16 | 2, None, 0, _CALL),
    ]
    probes = [mine.matcher.probe(Probe(mine, ANY_SOURCE, 22, takes=True)) for _ in range(2)]
    found: list[Arrival] = []
    for receive in posted:
        rank.messages.receive(receive)
    while not rank.errors and not rank.reasons:
        assert rank.pair.receive()
        for probe in [each for each in probes if each.done]:
            probes.remove(probe)
            assert probe.arrival is not None
            found.append(probe.arrival)
        if len(mine.held) == 2 and not rank.errors:  # the second first
            rank.messages.settle(Room(mine, 1, 22, None, 0, _OBJECT), found[1])
    assert all(len(str(error)) < 4000 and error.facts() for error in rank.errors)
    assert all(rank.reasons)
    assert all(each.position <= each.nbytes <= EAGER_NBYTES for each in posted)


def _object_seeds() -> list[bytes]:
    small, third = bytes(range(96)), 1 << 16 | 2
    probed = _frame(Kind.ANNOUNCE, 0, 22, mark=_OBJECT, nbytes=300)
    frames = [
        _frame(Kind.MESSAGE, 0, 21, small, _OBJECT),
        _frame(Kind.ANNOUNCE, 0, 21, mark=_OBJECT, nbytes=500) + _frame(Kind.DATA, 0, 21, bytes(500), _OBJECT),
        _frame(Kind.ANNOUNCE, 0, 33, mark=_OBJECT, nbytes=1 << 50),
        probed + probed + _frame(Kind.DATA, 0, 22, bytes(300), _OBJECT) * 2,
        probed + probed + _frame(Kind.PUSHED, 0, 2, bytes(300), _OBJECT) + _frame(Kind.PUSHED, 0, 1, bytes(300), _OBJECT),
        _frame(Kind.MESSAGE, 1, third, small, _CALL),
        _frame(Kind.ANNOUNCE, 1, third, mark=_CALL, nbytes=500) + _frame(Kind.DATA, 1, third, bytes(500), _CALL),
        _frame(Kind.OFFER, 0, 21, bytes(OFFER_NBYTES), _OBJECT),
    ]
    return [
        bytes([step]) + each for each in (*frames, b"".join(frames[:2] + frames[3:4] + frames[5:7])) for step in (50, 255)
    ]


# -- records and aborts -----------------------------------------------------------------------------------------------------


_ENDPOINT = Endpoint(
    "node0",
    100,
    4,
    bytes(range(16)),
    bytes(16 * [7]),
    (
        Address(ip_interface("10.0.0.4/24"), 40112, Nearness.ORDINARY, 2),
        Address(ip_interface("fe80::1/64"), 40113, Nearness.LINK_LOCAL, 2),
        Address(ip_interface("127.0.0.1/8"), 40114, Nearness.LOOPBACK, 1),
    ),
)


def _record(data: bytes) -> None:
    """The record of a rank: an endpoint that can be packed, shown and routed to, or ValueError."""
    with suppress(ValueError):
        _check_endpoint(Record.unpack(data).endpoint)


def _endpoint(data: bytes) -> None:
    """An endpoint alone, of any length."""
    with suppress(ValueError):
        _check_endpoint(Endpoint.unpack(data))


def _check_endpoint(endpoint: Endpoint) -> None:
    assert Endpoint.unpack(endpoint.pack()).addresses == endpoint.addresses
    assert repr(endpoint)
    for way in routes(_ENDPOINT, endpoint):
        assert way.text


def _abort(data: bytes) -> None:
    """Why a peer's Context is broken: an error that can be shown and passed on, whatever the peer says."""
    rank = Rank(b"\0")
    payload = data[:MAX_ABORT_NBYTES]
    sink = Abort(1, len(payload), rank.messages._told)
    sink.feed(memoryview(payload)[: len(payload) // 2])
    if len(payload) > len(payload) // 2:
        window = sink.window()
        rest = payload[len(payload) // 2 :]
        window[: len(rest)] = rest
        sink.advance(len(rest))
    sink.finish()
    (error,) = rank.errors
    assert str(error)
    header, passed_on = abort_frame(error, 0)
    assert len(passed_on) <= MAX_ABORT_NBYTES
    assert len(header) == HEADER_NBYTES


class _Ended:
    """A connection of the rendezvous that its peer has ended, with what it said before."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, nbytes: int, flags: int) -> bytes:
        return self.data[:nbytes]


def _words(data: bytes) -> None:
    """The last words of a peer that leaves the rendezvous: an error that can be shown and passed on, or none."""
    error = heard(1, _Ended(data))  # type: ignore[arg-type]
    if error is not None:
        assert pack_verdict(str(error), Blame.WAITED)
        _, passed_on = abort_frame(error, 0)
        assert len(passed_on) <= MAX_ABORT_NBYTES


def _abort_seeds() -> list[bytes]:
    errors: list[GloompiError] = [
        PeerLostError(1, "node1", 101, "tcp 10.0.0.4:1", "recv", "it aborted: boom"),
        OperationTimeoutError("allreduce #1", 1.5, "got 0 of 8 bytes"),
        MismatchError("barrier #2", 1, "barrier()", 0, "split()"),
        RendezvousError("no way", 1, "node1", 101),
        ContextClosedError("closed"),
        SystemCallError(1, "send", 14, "sending 8 bytes failed"),
        GloompiError("why"),
    ]
    made = [bytes(abort_frame(error, 1)[1]) for error in errors]
    return [*made, json.dumps(["PeerLostError", {}, 1]).encode(), b"[" * 200]


def _frame(kind: Kind, channel: int, tag: int, payload: bytes = b"", mark: bytes = NO_FACTS, nbytes: int = -1) -> bytes:
    return pack_header(kind, channel, tag, len(payload) if nbytes < 0 else nbytes, mark) + payload


def _frame_seeds() -> list[bytes]:
    small, first = bytes(range(96)), 1 << 16
    told = _abort_seeds()[0]
    frames = [
        _frame(Kind.MESSAGE, 0, 7, small, _SMALL),
        _frame(Kind.MESSAGE, 0, 9, small[:40], _SMALL),
        _frame(Kind.MESSAGE, 1, first, small, _CALL),
        _frame(Kind.MESSAGE, 1, 2 << 16, small, _CALL),
        _frame(Kind.ANNOUNCE, 0, 7, mark=_SMALL, nbytes=1000) + _frame(Kind.DATA, 0, 7, bytes(1000), _SMALL),
        _frame(Kind.ANNOUNCE, 0, 11, mark=_SMALL, nbytes=1 << 40),
        _frame(Kind.MESSAGE, 0, 7, small, _OBJECT),
        _frame(Kind.MESSAGE, 1, first, small, _OBJECT),
        _frame(Kind.OFFER, 0, 7, bytes(OFFER_NBYTES), _SMALL),
        _frame(Kind.CLEAR, 0, 8, mark=_SMALL),
        _frame(Kind.TAKEN, 0, 8, mark=_SMALL),
        _frame(Kind.CLEAR, 1, first, mark=_CALL),
        _frame(Kind.DATA, 1, first | 1, mark=_CALL, nbytes=_LARGE_NBYTES) + bytes(200),
        _frame(Kind.WAITING, 1, first, mark=_CALL),
        _frame(Kind.CREDIT, 0, 0, nbytes=5000),
        _frame(Kind.LEAVE, 2, 0),
        _frame(Kind.MESSAGE, 2, 7, small, _SMALL) + _frame(Kind.ANNOUNCE, 2, 7, mark=_SMALL, nbytes=96),
        _frame(Kind.ANNOUNCE, 2, 7, mark=_SMALL, nbytes=96) + _frame(Kind.PUSHED, 2, 1, small, _SMALL),
        _frame(Kind.ANNOUNCE, 0, 7, mark=_SMALL, nbytes=96) + _frame(Kind.PUSHED, 0, 1, small, _SMALL),
        _frame(Kind.ANNOUNCE, 0, 11, mark=_SMALL, nbytes=96) * 3 + _frame(Kind.PUSHED, 0, 2, small, _SMALL),
        _frame(Kind.OFFER, 3, first, bytes(OFFER_NBYTES), _CALL),
        _frame(Kind.WAITING, 3, first, mark=_CALL) + _frame(Kind.CLEAR, 3, first, mark=_CALL),
        _frame(Kind.GOODBYE, 0, 0),
        _frame(Kind.ABORT, 0, 0, told),
    ]
    together = b"".join((frames[0], frames[2], frames[4], frames[7], frames[9], frames[11], frames[12], frames[13]))
    return [bytes([step]) + each for each in (*frames, together) for step in (50, 255)]


def _record_seeds() -> list[bytes]:
    nobody = Endpoint("node0", 100, 1, bytes(16), b"", ())
    return [
        Record(_ENDPOINT, bytes(32)).pack(),
        Record(nobody, bytes(32), "no free port").pack(),
    ]


TARGETS = {
    "accept": Target(_accept, [SESSION.hello(rank, 0, Transport.TCP) + bytes(PROOF_NBYTES) for rank in (1, 3)]),
    "dial": Target(_dial, [bytes(ANSWER_NBYTES + PROOF_NBYTES)]),
    "frames": Target(_frames, _frame_seeds()),
    "messages": Target(_messages, _frame_seeds()),
    "objects": Target(_objects, _object_seeds()),
    "record": Target(_record, _record_seeds()),
    "endpoint": Target(_endpoint, [_ENDPOINT.pack(), _ENDPOINT.pack()[:60]]),
    "abort": Target(_abort, _abort_seeds()),
    "words": Target(_words, [_frame(Kind.ABORT, 0, 0, each) for each in _abort_seeds()]),
    **STORE_TARGETS,
}
