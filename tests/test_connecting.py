"""Dialing and accepting on real sockets: among ranks, and with strangers at the door."""

from __future__ import annotations

import dataclasses
import logging
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from time import monotonic

import pytest

from gloompi.deadline import Deadline
from gloompi.errors import RendezvousError
from gloompi.rendezvous import attempts
from gloompi.rendezvous import connecting as module
from gloompi.rendezvous.connecting import Connecting
from gloompi.transport.device import Device
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES, Session, accept, dial
from gloompi.transport.route import Route, routes

pytestmark = pytest.mark.usefixtures("nothing_leaks")

DEVICES = {"tcp": Device(host="127.0.0.1", transport="tcp"), "unix": Device(transport="unix")}
ADVICE = "a firewall, a wrong interface (GLOOMPI_SOCKET_IFNAME) or a rank that died"


class Ranks:
    """Listening sockets of some ranks "node0", "node1", ... with pid 100, 101, ... in this process."""

    def __init__(self, size: int, transport: str) -> None:
        self.size = size
        self.listeners = [DEVICES[transport].listen(1024) for _ in range(size)]
        self.endpoints = [
            dataclasses.replace(each.endpoint, host=f"node{rank}", pid=100 + rank)
            for rank, each in enumerate(self.listeners)
        ]
        self.session = Session([bytes([rank + 1]) * 32 for rank in range(size)])
        self.opened: list[socket.socket] = []
        self.pool = ThreadPoolExecutor(size)

    def close(self) -> None:
        self.pool.shutdown()
        for listeners in self.listeners:
            listeners.close()
        for sock in self.opened:
            sock.close()

    def ways(self, rank: int) -> list[list[Route]]:
        mine = self.endpoints[rank]
        return [routes(mine, theirs) if peer != rank else [] for peer, theirs in enumerate(self.endpoints)]

    def connect(
        self, rank: int, timeout: float = 30.0, ways: list[list[Route]] | None = None
    ) -> tuple[list[Route | None], list[socket.socket | None]]:
        connecting = Connecting(rank, self.endpoints, ways or self.ways(rank), self.listeners[rank].sockets, self.session)
        try:
            connecting.run(Deadline(timeout))
            sockets, taken = connecting.hand_over()
        finally:
            connecting.close()
        self.opened += [sock for sock in sockets if sock is not None]
        return taken, sockets

    def begin(self, rank: int, timeout: float = 30.0) -> Future[tuple[list[Route | None], list[socket.socket | None]]]:
        """`connect` in a thread."""
        return self.pool.submit(self.connect, rank, timeout)

    def call(self, rank: int) -> socket.socket:
        """A stranger's connection to a rank."""
        listener = self.listeners[rank].sockets[0]
        sock = socket.socket(listener.family)
        sock.settimeout(20)
        self.opened.append(sock)
        sock.connect(listener.getsockname())
        return sock


@pytest.fixture(params=["tcp", "unix"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_ranks() -> Iterator[Callable[[int, str], Ranks]]:
    made: list[Ranks] = []

    def make(size: int, transport: str) -> Ranks:
        made.append(Ranks(size, transport))
        return made[-1]

    yield make
    for ranks in made:
        ranks.close()


@pytest.fixture
def two(make_ranks: Callable[[int, str], Ranks], transport: str) -> Ranks:
    return make_ranks(2, transport)


def talk(one: socket.socket | None, other: socket.socket | None) -> None:
    """Both are ends of one connection, and nothing has been sent on it yet."""
    assert one is not None
    assert other is not None
    for here, there in ((one, other), (other, one)):
        assert not here.getblocking()
        here.settimeout(20)
        here.send(b"hello")
        there.settimeout(20)
        assert there.recv(100) == b"hello"
        here.setblocking(False)
        there.setblocking(False)


def dropped(sock: socket.socket) -> bool:
    """Wait for the other side to close the connection without a byte."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:  # it had not read all there was
        return True


def knock(ranks: Ranks, dialer: int, acceptor: int, session: Session | None = None) -> socket.socket | None:
    """Dial by hand; None if the connection was dropped."""
    sock = ranks.call(acceptor)
    flights = dial(session or ranks.session, dialer, acceptor)
    outgoing, wanted = next(flights)
    with suppress(StopIteration):
        while True:
            sock.sendall(outgoing)
            received = exactly(sock, wanted)
            if received is None:
                return None
            outgoing, wanted = flights.send(received)
    return sock


def exactly(sock: socket.socket, nbytes: int) -> bytes | None:
    """Read; None if the connection ends before."""
    data = b""
    while len(data) < nbytes:
        try:
            piece = sock.recv(nbytes - len(data))
        except ConnectionError:
            return None
        if not piece:
            return None
        data += piece
    return data


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about strangers: never more than once a second."""
    records = [record for record in caplog.records if record.name == "gloompi" and record.levelno >= logging.WARNING]
    times = [record.created for record in records]
    assert all(later - earlier > 0.99 for earlier, later in pairwise(times))
    return [record.getMessage() for record in records]


# -- among ranks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5, 9])
def test_everybody_is_connected_to_everybody(
    make_ranks: Callable[[int, str], Ranks], transport: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = make_ranks(size, transport)
    results = [each.result() for each in [ranks.begin(rank) for rank in range(size)]]
    for rank, (taken, sockets) in enumerate(results):
        assert sockets[rank] is None
        assert taken[rank] is None
        for peer in range(rank):
            talk(sockets[peer], results[peer][1][rank])
            route = taken[peer]
            assert route is not None
            assert route == ranks.ways(rank)[peer][0]
            there = results[peer][0][rank]
            assert there is not None
            assert there.transport == transport
    assert warnings(caplog) == []


def test_acceptor_names_the_address_that_dialed(make_ranks: Callable[[int, str], Ranks]) -> None:
    ranks = make_ranks(2, "tcp")
    accepting, dialing = ranks.begin(0), ranks.begin(1)
    (_, there), _ = accepting.result()
    dialer = dialing.result()[1][0]
    assert there is not None
    assert dialer is not None
    host, port = dialer.getsockname()
    assert there.text == f"{host}:{port}"


def test_a_refused_way_leads_to_the_next(two: Ranks) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        refusing = Route("tcp", socket.AF_INET, nobody.getsockname(), "nobody", "")
        (good,) = two.ways(1)[0]
        accepting = two.begin(0)
        taken, sockets = two.connect(1, ways=[[refusing, good], []])
    assert taken == [good, None]
    talk(accepting.result()[1][1], sockets[0])


@pytest.fixture
def black_hole() -> Iterator[Route]:
    """An address that never answers a SYN: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = []
        try:
            for _ in range(4):
                sock = socket.socket()
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect_ex(address)
            yield Route("tcp", socket.AF_INET, address, f"127.0.0.1:{address[1]}", "")
        finally:
            for sock in waiting:
                sock.close()


@pytest.mark.parametrize("transport", ["tcp"])
def test_a_silent_way_leads_to_the_next(two: Ranks, black_hole: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_ROUTE_SECONDS", 0.1)
    (good,) = two.ways(1)[0]
    accepting = two.begin(0)
    taken, sockets = two.connect(1, ways=[[black_hole, good], []])
    assert taken == [good, None]
    talk(accepting.result()[1][1], sockets[0])


def hang_up(ranks: Ranks, sock: socket.socket) -> None:
    """Close at once."""


def echo(ranks: Ranks, sock: socket.socket) -> None:
    """Send the hello back as answer."""
    hello = exactly(sock, HELLO_NBYTES)
    assert hello is not None
    sock.sendall(hello)
    assert dropped(sock)


def jabber(ranks: Ranks, sock: socket.socket) -> None:
    """Answer nonsense."""
    exactly(sock, HELLO_NBYTES)
    sock.sendall(bytes(ANSWER_NBYTES))
    assert dropped(sock)


def no_welcome(ranks: Ranks, sock: socket.socket) -> None:
    """Go away when the dialer has proved who it is."""
    flights = accept(ranks.session, 0)
    next(flights)
    hello = exactly(sock, HELLO_NBYTES)
    assert hello is not None
    answer, _ = flights.send(hello)
    sock.sendall(answer)
    assert exactly(sock, PROOF_NBYTES) is not None


def false_welcome(ranks: Ranks, sock: socket.socket) -> None:
    """Know the answer and not the welcome."""
    no_welcome(ranks, sock)
    sock.sendall(bytes(PROOF_NBYTES))
    assert dropped(sock)


@pytest.mark.parametrize("behaviour", [hang_up, echo, jabber, no_welcome, false_welcome], ids=lambda each: each.__name__)
def test_dialer_tries_again_after_a_false_acceptor(two: Ranks, behaviour: Callable[[Ranks, socket.socket], None]) -> None:
    listener = two.listeners[0].sockets[0]
    listener.settimeout(20)
    dialing = two.begin(1)
    for _ in range(3):
        with listener.accept()[0] as sock:
            sock.settimeout(20)
            behaviour(two, sock)
    listener.setblocking(False)
    _, sockets = two.connect(0)
    talk(sockets[1], dialing.result()[1][0])


# -- ranks that do not come ---------------------------------------------------------------------------------------------


def failure(ranks: Ranks, rank: int, timeout: float, ways: list[list[Route]] | None = None) -> str:
    start = monotonic()
    with pytest.raises(RendezvousError) as caught:
        ranks.connect(rank, timeout, ways)
    assert timeout <= monotonic() - start < timeout + 2
    return str(caught.value)


def test_rank_that_never_comes(two: Ranks) -> None:
    assert failure(two, 0, 0.2) == (
        "rendezvous failed: after 0.2 s 1 of 1 peers are missing: rank 1 (node1, pid 101) did not connect; " + ADVICE
    )


def test_ranks_that_never_come_are_not_all_listed(make_ranks: Callable[[int, str], Ranks]) -> None:
    assert failure(make_ranks(6, "unix"), 0, 0.1) == (
        "rendezvous failed: after 0.1 s 5 of 5 peers are missing: rank 1 (node1, pid 101) did not connect; "
        "rank 2 (node2, pid 102) did not connect; rank 3 (node3, pid 103) did not connect and 2 more; " + ADVICE
    )


def test_rank_that_has_stopped_listening(two: Ranks) -> None:
    (way,) = two.ways(1)[0]
    two.listeners[0].close()
    assert failure(two, 1, 0.2) == (
        "rendezvous failed: after 0.2 s 1 of 1 peers are missing: could not connect to rank 0 (node0, pid 100) at "
        f"{way.text}: ECONNREFUSED; {ADVICE}"
    )


def test_rank_that_accepts_nobody(two: Ranks) -> None:
    told = failure(two, 1, 0.2)
    assert "1 of 1 peers are missing: could not connect to rank 0 (node0, pid 100) at " in told


@pytest.mark.parametrize("transport", ["tcp"])
def test_black_hole(two: Ranks, black_hole: Route) -> None:
    told = failure(two, 1, 0.2, [[black_hole], []])
    assert "1 of 1 peers are missing: could not connect to rank 0 (node0, pid 100) at " in told


@pytest.mark.parametrize("transport", ["tcp"])
def test_black_hole_is_named(two: Ranks, black_hole: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_ROUTE_SECONDS", 0.05)
    told = failure(two, 1, 1.2, [[black_hole], []])
    assert f"could not connect to rank 0 (node0, pid 100) at {black_hole.text}: no answer within 0.1 s; " in told


def test_one_of_several_is_missing(make_ranks: Callable[[int, str], Ranks], transport: str) -> None:
    """Those that did connect are let go."""
    ranks = make_ranks(3, transport)
    (way,) = ranks.ways(2)[1]
    ranks.listeners[1].close()
    begun = [ranks.begin(rank, 0.5) for rank in (0, 2)]
    told = [str(each.exception()) for each in begun]
    assert told == [
        "rendezvous failed: after 0.5 s 1 of 2 peers are missing: rank 1 (node1, pid 101) did not connect; " + ADVICE,
        "rendezvous failed: after 0.5 s 1 of 2 peers are missing: could not connect to rank 1 (node1, pid 101) at "
        f"{way.text}: ECONNREFUSED; {ADVICE}",
    ]


# -- strangers ----------------------------------------------------------------------------------------------------------

TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))
HTTP = b"GET / HTTP/1.1\r\nHost: node0\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"


def finish(ranks: Ranks, accepting: Future[tuple[list[Route | None], list[socket.socket | None]]]) -> None:
    """Let rank 1 come: it gets its connection."""
    _, sockets = ranks.connect(1)
    talk(accepting.result()[1][1], sockets[0])


def test_connect_and_close_500_times(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    for _ in range(500):
        two.call(0).close()
    finish(two, accepting)
    told = warnings(caplog)
    assert told[0] == (
        "refused 1 connection(s) of strangers so far; the last: it closed the connection during the handshake"
    )


@pytest.mark.parametrize(
    ("garbage", "shown"),
    [
        (HTTP, "not gloompi: it starts with b'GET / HT'"),
        (TLS, r"not gloompi: it starts with b'\x16\x03\x01\x02\x00\x01\x00\x01'"),
        (random.Random(17).randbytes(100_000), "not gloompi: it starts with "),
    ],
    ids=["HTTP", "TLS", "random"],
)
def test_garbage(two: Ranks, garbage: bytes, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    for _ in range(20):
        sock = two.call(0)
        with suppress(ConnectionError):
            sock.sendall(garbage)
        assert dropped(sock)
    finish(two, accepting)
    assert warnings(caplog)[0].startswith(f"refused 1 connection(s) of strangers so far; the last: {shown}")


def test_silent_strangers_hold_nobody_up(two: Ranks) -> None:
    silent = [two.call(0) for _ in range(50)]
    start = monotonic()
    finish(two, two.begin(0))
    assert monotonic() - start < module._HANDSHAKE_SECONDS
    assert all(map(dropped, silent))


def test_silent_stranger_is_dropped_in_time(
    two: Ranks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert module._HANDSHAKE_SECONDS <= 5
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.1)
    accepting = two.begin(0)
    assert dropped(two.call(0))
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 5.0)  # rank 1's own connection
    finish(two, accepting)
    assert len(warnings(caplog)) == 1


def test_a_byte_now_and_then_gains_no_time(two: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.2)
    accepting = two.begin(0)
    sock, never = two.call(0), threading.Event()
    sent = 0
    with suppress(ConnectionError):
        for byte in two.session.hello(1, 0):
            sock.sendall(bytes([byte]))
            sent += 1
            never.wait(0.02)
    assert 0 < sent < HELLO_NBYTES  # in 1.3 s
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 5.0)
    finish(two, accepting)


def test_a_hello_in_single_bytes_is_understood(two: Ranks) -> None:
    accepting = two.begin(0)
    sock, flights = two.call(0), dial(two.session, 1, 0)
    outgoing, wanted = next(flights)
    with suppress(StopIteration):
        while True:
            for byte in outgoing:
                sock.sendall(bytes([byte]))
            outgoing, wanted = flights.send(exactly(sock, wanted) or b"")
    sock.setblocking(False)
    talk(accepting.result()[1][1], sock)


def test_when_there_are_many_the_oldest_goes(
    two: Ranks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MAX_UNKNOWN", 8)
    accepting = two.begin(0)
    silent = [two.call(0) for _ in range(20)]
    assert all(map(dropped, silent[:12]))
    for sock in silent[12:]:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    finish(two, accepting)
    assert warnings(caplog)[0] == "refused 1 connection(s) of strangers so far; the last: too many connections at once"


ANOTHER = Session([bytes(32)] * 2)


@pytest.mark.parametrize(
    ("dialer", "meant", "session", "shown"),
    [
        (1, 0, ANOTHER, "it belongs to another session"),
        (0, 0, None, "rank 0 does not dial rank 0 in a session of 2"),
        (2, 0, None, "rank 2 does not dial rank 0 in a session of 2"),
        (1, 1, None, "it is meant for rank 1, this is rank 0"),
    ],
    ids=["another session", "own rank", "beyond size", "another rank"],
)
def test_wrong_hello(
    two: Ranks, dialer: int, meant: int, session: Session | None, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = two.begin(0)
    sock = two.call(0)
    sock.sendall((session or two.session).hello(dialer, meant))
    assert dropped(sock)
    finish(two, accepting)
    assert warnings(caplog) == [f"refused 1 connection(s) of strangers so far; the last: {shown}"]


def test_other_version(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    sock, hello = two.call(0), bytearray(two.session.hello(1, 0))
    hello[7] = 99
    sock.sendall(hello)
    assert dropped(sock)
    finish(two, accepting)
    assert warnings(caplog) == [
        "refused 1 connection(s) of strangers so far; the last: handshake version 99, this is version 1"
    ]


def test_wrong_proof(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    sock = two.call(0)
    sock.sendall(two.session.hello(1, 0))  # overheard; the key is not known
    assert exactly(sock, ANSWER_NBYTES) is not None
    sock.sendall(bytes(PROOF_NBYTES))
    assert dropped(sock)
    finish(two, accepting)
    assert warnings(caplog) == [
        "refused 1 connection(s) of strangers so far; the last: wrong HMAC in its proof: it does not hold the session key"
    ]


def test_stale_rank_of_a_previous_session(two: Ranks) -> None:
    accepting = two.begin(0)
    assert knock(two, 1, 0, ANOTHER) is None
    finish(two, accepting)


def test_replayed_flights_are_refused(make_ranks: Callable[[int, str], Ranks], transport: str) -> None:
    ranks = make_ranks(3, transport)
    accepting = ranks.begin(0)
    sock, flights = ranks.call(0), dial(ranks.session, 1, 0)
    hello, wanted = next(flights)
    sock.sendall(hello)
    proof, wanted = flights.send(exactly(sock, wanted) or b"")
    sock.close()  # before the proof: rank 1 is not connected, the replay below would be the first
    again = ranks.call(0)
    again.sendall(hello)
    assert exactly(again, ANSWER_NBYTES) is not None
    again.sendall(proof)
    assert dropped(again)
    first, second = knock(ranks, 1, 0), knock(ranks, 2, 0)
    assert first is not None
    assert second is not None
    _, sockets = accepting.result()
    first.setblocking(False)
    talk(sockets[1], first)


def test_of_two_that_are_one_rank_the_first_lives(
    make_ranks: Callable[[int, str], Ranks], transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = make_ranks(3, transport)
    accepting = ranks.begin(0)
    first, second, other = knock(ranks, 1, 0), knock(ranks, 1, 0), knock(ranks, 2, 0)
    assert first is not None
    assert second is None
    assert other is not None
    _, sockets = accepting.result()
    first.setblocking(False)
    other.setblocking(False)
    talk(sockets[1], first)
    talk(sockets[2], other)
    assert warnings(caplog) == ["refused 1 connection(s) of strangers so far; the last: rank 1 is connected already"]


def test_all_kinds_of_strangers_together(
    make_ranks: Callable[[int, str], Ranks], transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    ranks = make_ranks(4, transport)
    begun = [ranks.begin(rank) for rank in range(3)]  # the last is missing: all of them stay at the door
    for number in range(60):
        sock = ranks.call(number % 3)
        with suppress(ConnectionError):
            if number % 5 == 0:
                sock.close()
            elif number % 5 == 1:
                sock.sendall(HTTP)
            elif number % 5 == 2:
                sock.sendall(ANOTHER.hello(1, 0))
            elif number % 5 == 3:
                sock.sendall(HTTP[:1])
    results = [ranks.connect(3), *(each.result() for each in begun)]
    results = results[1:] + results[:1]
    for rank in range(4):
        for peer in range(rank):
            talk(results[rank][1][peer], results[peer][1][rank])
    # Three ranks in one process: each has a line a second of its own.
    assert 3 <= len([record for record in caplog.records if "strangers" in record.getMessage()]) <= 30


def test_key_is_in_no_log(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    accepting = two.begin(0)
    assert knock(two, 1, 0, ANOTHER) is None
    finish(two, accepting)
    key = two.session._key
    assert caplog.text
    assert key.hex() not in caplog.text
    assert repr(key)[2:-1] not in caplog.text


SCARCE = """
import resource, sys
from gloompi.deadline import Deadline
from gloompi.rendezvous.connecting import Connecting
from gloompi.transport.device import Device
from gloompi.transport.endpoint import Endpoint
from gloompi.transport.handshake import Session

listeners = Device(host="127.0.0.1", transport="tcp").listen(1024)
print(listeners.endpoint.addresses[0].port, flush=True)
nobody = Endpoint("node1", 101, 1, bytes(16), b"", ())
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
connecting = Connecting(0, [listeners.endpoint, nobody], [[], []], listeners.sockets, Session([bytes(32)] * 2))
connecting.run(Deadline(20))
sockets, _ = connecting.hand_over()
connecting.close()
listeners.close()
sockets[1].setblocking(True)
sockets[1].sendall(b"hello")
sockets[1].close()
"""


def test_strangers_do_not_use_up_the_descriptors() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SCARCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    opened = []
    try:
        assert child.stdout is not None
        assert child.stdin is not None
        port = int(child.stdout.readline())
        for _ in range(101):
            opened.append(socket.create_connection(("127.0.0.1", port), 20))
        child.stdin.write("go\n")
        child.stdin.flush()
        rank = opened[-1]
        flights = dial(ANOTHER, 1, 0)
        outgoing, wanted = next(flights)
        with suppress(StopIteration):
            while True:
                rank.sendall(outgoing)
                outgoing, wanted = flights.send(exactly(rank, wanted) or b"")
        assert exactly(rank, 5) == b"hello"
        out, err = child.communicate(timeout=20)
        assert (out, child.returncode) == ("", 0)
        assert err.startswith(
            "refused 1 connection(s) of strangers so far; the last: its descriptor is needed for the ranks\n"
        )
    finally:
        child.kill()
        child.communicate()
        for sock in opened:
            sock.close()


def test_nothing_is_left_open_after_a_failure(two: Ranks) -> None:
    """Strangers in the midst of their handshakes included."""
    before = len(os.listdir("/proc/self/fd"))
    silent = [two.call(0) for _ in range(5)]
    failure(two, 0, 0.2)
    assert all(map(dropped, silent))
    for sock in silent:
        sock.close()
    assert len(os.listdir("/proc/self/fd")) == before
