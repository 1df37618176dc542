"""Dialing and accepting on real sockets: among ranks, and with strangers at the door."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

import pytest
from faults.strangers import ANOTHER, Ranks, dropped, exactly, knock, let_in, talk, warnings

from gloompi.errors import RendezvousError
from gloompi.rendezvous import attempts, hangups
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES, Transport, accept, dial
from gloompi.transport.route import Route

pytestmark = pytest.mark.usefixtures("nothing_leaks")

ADVICE = "a firewall, a wrong interface (GLOOMPI_SOCKET_IFNAME) or a rank that died"


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
    flights = accept(ranks.session, 0, ranks.way)
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


@pytest.mark.parametrize("transport", ["tcp"])
def test_rank_that_has_stopped_listening(two: Ranks) -> None:
    (way,) = two.ways(1)[0]
    two.listeners[0].close()
    assert failure(two, 1, 0.2) == (
        "rendezvous failed: after 0.2 s 1 of 1 peers are missing: could not connect to rank 0 (node0, pid 100) at "
        f"{way.text}: ECONNREFUSED; {ADVICE}"
    )


@pytest.mark.parametrize("transport", ["unix"])
def test_rank_that_has_stopped_listening_on_this_host(two: Ranks) -> None:
    """No firewall can be the reason, and it never comes back: there is nothing to wait for."""
    (way,) = two.ways(1)[0]
    two.listeners[0].close()
    start = monotonic()
    with pytest.raises(RendezvousError) as caught:
        two.connect(1, 30.0)
    assert monotonic() - start < 2
    assert str(caught.value) == (
        f"rendezvous failed at rank 0 (node0, pid 100): it stopped listening at {way.text} before all ranks were connected; "
        "it has probably died"
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


@pytest.mark.parametrize("transport", ["tcp"])
def test_one_of_several_is_missing(
    make_ranks: Callable[[int, str], Ranks], transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that did connect are let go."""
    # Without a mesh around it, the one whose time is up first hangs up, and the other is not to say that.
    monkeypatch.setattr(hangups, "_PARTING_SECONDS", 30.0)
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


def test_a_hello_in_single_bytes_is_understood(two: Ranks) -> None:
    accepting = two.begin(0)
    sock, flights = two.call(0), dial(two.session, 1, 0, two.way)
    outgoing, wanted = next(flights)
    with suppress(StopIteration):
        while True:
            for byte in outgoing:
                sock.sendall(bytes([byte]))
            outgoing, wanted = flights.send(exactly(sock, wanted) or b"")
    sock.setblocking(False)
    talk(accepting.result()[1][1], sock)


def test_key_is_in_no_log(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    accepting = two.begin(0)
    assert knock(two, 1, 0, ANOTHER) is None
    let_in(two, accepting)
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
        flights = dial(ANOTHER, 1, 0, Transport.TCP)
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
