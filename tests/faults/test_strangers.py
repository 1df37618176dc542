"""Strangers at the listening port (cases 16 to 25): the rendezvous succeeds, in little memory, with few lines in the log."""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from launch import Job, reports, run_job

from faults.strangers import (
    ANOTHER,
    HTTP,
    TLS,
    Ranks,
    dropped,
    exactly,
    knock,
    let_in,
    little_memory,
    talk,
    warnings,
)
from faults.target import CAP_NBYTES, GENERATED, NOISE_NBYTES, Fuzzed, changed, generated
from faults.targets import TARGETS
from gloompi import Context, GloompiError, PeerLostError
from gloompi.engine import messages
from gloompi.engine.engine import Engine
from gloompi.engine.fingerprint import describe, fingerprint
from gloompi.engine.messages import CREDIT_NBYTES, EAGER_NBYTES
from gloompi.errors import AuthenticationError, RendezvousError
from gloompi.rendezvous import connecting as module
from gloompi.rendezvous.record import Record
from gloompi.stores.bounded import BoundedSocket
from gloompi.stores.serving import pack
from gloompi.stores.tcp import TCPStore
from gloompi.transport.endpoint import WHO_NBYTES, Endpoint, Peer
from gloompi.transport.frames import Kind, pack_header
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES, Session, Transport, dial

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture(params=["tcp", "unix"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_ranks() -> Iterator[Callable[..., Ranks]]:
    made: list[Ranks] = []

    def make(*arguments: Any, **options: Any) -> Ranks:
        made.append(Ranks(*arguments, **options))
        return made[-1]

    yield make
    for ranks in made:
        ranks.close()


@pytest.fixture
def two(make_ranks: Callable[..., Ranks], transport: str) -> Ranks:
    return make_ranks(2, transport)


def test_case_16_connect_and_close_500_times(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    with little_memory():
        for _ in range(500):
            two.call(0).close()
        let_in(two, accepting)
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
def test_case_17_http_tls_and_garbage(two: Ranks, garbage: bytes, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    for _ in range(20):
        sock = two.call(0)
        with suppress(ConnectionError):
            sock.sendall(garbage)
        assert dropped(sock)
    let_in(two, accepting)
    assert warnings(caplog)[0].startswith(f"refused 1 connection(s) of strangers so far; the last: {shown}")


def test_case_18_silent_connections_hold_nobody_up(two: Ranks) -> None:
    silent = [two.call(0) for _ in range(50)]
    start = monotonic()
    let_in(two, two.begin(0))
    assert monotonic() - start < module._HANDSHAKE_SECONDS
    assert all(map(dropped, silent))


def test_case_18_a_silent_connection_is_dropped_in_time(
    two: Ranks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert module._HANDSHAKE_SECONDS <= 5
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.1)
    accepting = two.begin(0)
    assert dropped(two.call(0))
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 5.0)  # rank 1's own connection
    let_in(two, accepting)
    assert len(warnings(caplog)) == 1


def test_case_18_of_many_silent_connections_the_oldest_goes(
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
    let_in(two, accepting)
    assert warnings(caplog)[0] == "refused 1 connection(s) of strangers so far; the last: too many connections at once"


def stay(sock: socket.socket, say: Callable[[], object]) -> float:
    """Seconds until the other side drops a connection, with `say` called once a second."""
    start = monotonic()
    sock.settimeout(1.0)
    while monotonic() - start < 20:
        try:
            say()
            if not sock.recv(1):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return monotonic() - start


def test_case_18_a_silent_connection_and_case_19_one_byte_a_second(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    """They are dropped at the same time: bytes gain no time."""
    accepting = two.begin(0)
    silent, slow = two.call(0), two.call(0)
    hello = iter(two.session.hello(1, 0, two.way))
    with ThreadPoolExecutor(2) as pool:
        stays = [pool.submit(stay, silent, int), pool.submit(stay, slow, lambda: slow.sendall(bytes([next(hello)])))]
    assert all(4.5 < each.result() < 6.5 for each in stays), stays
    let_in(two, accepting)
    assert warnings(caplog)[0] == (
        "refused 1 connection(s) of strangers so far; the last: it did not authenticate within 5 s"
    )


def test_case_19_a_byte_now_and_then_gains_no_time(two: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.2)
    accepting = two.begin(0)
    sock, never = two.call(0), threading.Event()
    sent = 0
    with suppress(ConnectionError):
        for byte in two.session.hello(1, 0, two.way):
            sock.sendall(bytes([byte]))
            sent += 1
            never.wait(0.02)
    assert 0 < sent < HELLO_NBYTES  # in 1.3 s
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 5.0)
    let_in(two, accepting)


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
def test_case_20_wrong_hello(
    two: Ranks, dialer: int, meant: int, session: Session | None, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = two.begin(0)
    sock = two.call(0)
    sock.sendall((session or two.session).hello(dialer, meant, two.way))
    assert dropped(sock)
    let_in(two, accepting)
    assert warnings(caplog) == [f"refused 1 connection(s) of strangers so far; the last: {shown}"]


def test_case_20_wrong_version(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    sock, hello = two.call(0), bytearray(two.session.hello(1, 0, two.way))
    hello[7] = 99
    sock.sendall(hello)
    assert dropped(sock)
    let_in(two, accepting)
    assert warnings(caplog) == [
        "refused 1 connection(s) of strangers so far; the last: handshake version 99, this is version 2"
    ]


def test_case_20_wrong_hmac(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    accepting = two.begin(0)
    sock = two.call(0)
    sock.sendall(two.session.hello(1, 0, two.way))  # overheard; the key is not known
    assert exactly(sock, ANSWER_NBYTES) is not None
    sock.sendall(bytes(PROOF_NBYTES))
    assert dropped(sock)
    let_in(two, accepting)
    assert warnings(caplog) == [
        "refused 1 connection(s) of strangers so far; the last: wrong HMAC in its proof: it does not hold the session key"
    ]


def test_case_21_of_two_that_are_one_rank_the_first_lives(
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


def test_case_22_replayed_flights(make_ranks: Callable[[int, str], Ranks], transport: str) -> None:
    ranks = make_ranks(3, transport)
    accepting = ranks.begin(0)
    sock, flights = ranks.call(0), dial(ranks.session, 1, 0, ranks.way)
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


def test_case_22_reflected_hello(make_ranks: Callable[..., Ranks], transport: str, caplog: pytest.LogCaptureFixture) -> None:
    """What rank 1 sends to rank 0 is carried back to rank 1's own door, and the answer that it gets to rank 0's."""
    ranks = make_ranks(3, transport)
    begun = [ranks.begin(rank) for rank in (0, 1)]
    flights = dial(ranks.session, 1, 0, ranks.way)
    hello, _ = next(flights)
    sock = ranks.call(1)
    sock.sendall(hello)  # rank 1's own
    assert dropped(sock)
    sock = ranks.call(0)
    sock.sendall(hello)
    answer = exactly(sock, ANSWER_NBYTES)
    assert answer is not None
    sock.sendall(answer[-PROOF_NBYTES:])  # rank 0's own HMAC, back to where it came from
    assert dropped(sock)
    taken, sockets = ranks.connect(2)
    assert all(taken[:2])
    for rank, each in enumerate(begun):
        talk(each.result()[1][2], sockets[rank])
    told = [record.getMessage() for record in caplog.records]
    assert any(each.endswith("it is meant for rank 0, this is rank 1") for each in told)
    assert any(each.endswith("wrong HMAC in its proof: it does not hold the session key") for each in told)


def test_cases_16_to_22_together(
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
                sock.sendall(ANOTHER.hello(1, 0, ranks.way))
            elif number % 5 == 3:
                sock.sendall(HTTP[:1])
    results = [ranks.connect(3), *(each.result() for each in begun)]
    results = results[1:] + results[:1]
    for rank in range(4):
        for peer in range(rank):
            talk(results[rank][1][peer], results[peer][1][rank])
    # Three ranks in one process: each has a line a second of its own.
    assert 3 <= len([record for record in caplog.records if "strangers" in record.getMessage()]) <= 30


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["tcp", "unix", "auto"])
def test_cases_16_to_20_at_the_door_of_a_process(transport: str, tmp_path: Path) -> None:
    first, *others = run_job(3, "strangers.py", transport, tmp_path / "crowded")
    assert first["visits"] >= 50  # an AF_UNIX backlog holds 67, and takes no more
    assert first["lines"] <= 2 + first["seconds"]  # one a second, and those that are not about strangers
    for found in (first, *others):
        assert found["total"] == 6
        assert found["seconds"] < 20
        assert found["listening"] == []
        assert found["leaked"] == 0
    assert [found["lines"] for found in others] == [0, 0]


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_cases_16_to_22_5000_connections_during_the_rendezvous_of_8_ranks(transport: str, tmp_path: Path) -> None:
    size, count = 8, 5000
    job = Job(size, "besieged.py", tmp_path, transport)
    flood = None
    try:
        limit = monotonic() + 30
        while len(list(tmp_path.glob("*.json"))) < size - 1 and job.process.poll() is None:
            assert monotonic() < limit
            threading.Event().wait(0.01)
        program = Path(__file__).with_name("flood.py")
        command = [sys.executable, str(program), str(tmp_path), str(count)]
        flood = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        done = job.finish(60)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        out, err = flood.communicate(timeout=10)
        assert (flood.returncode, err) == (0, "")
    finally:
        job.kill()
        if flood is not None:
            flood.kill()
            flood.communicate()
    made = json.loads(out)
    assert sum(made.values()) >= count
    assert {kind[:2] for kind in made} == {"16", "17", "18", "19", "20", "21", "22"}
    assert min(made.values()) > count // 20
    ranks = reports(size, done.stdout)
    took = {}
    for name in ("calm", "besieged"):
        assert [found[name]["total"] for found in ranks] == [size * (size + 1) // 2] * size
        took[name] = max(found[name]["done"] for found in ranks) - ranks[-1][name]["released"]
    print(
        f"{transport}: {sum(made.values())} strangers; {took['calm']:.2f} s without them, {took['besieged']:.2f} s with them"
    )
    assert took["besieged"] <= took["calm"] + 2.0
    for found in ranks:
        assert found["leaked"] == [0, [], 0]
        assert found["grown"] < 32 * 1024 * 1024
        times = found["lines"]
        assert all(later - earlier > 0.99 for earlier, later in pairwise(times))
    assert sum(len(found["lines"]) for found in ranks) > 0


def test_case_23_generated_hellos() -> None:
    """100,000 hellos: random bytes, and good ones with one byte changed in front of the nonce."""
    session = Session([bytes([rank + 1]) * 32 for rank in range(4)])
    generator = random.Random(23)
    good = session.hello(1, 0, Transport.TCP)
    let_in = 0
    for number in range(100_000):
        hello = bytearray(good)
        if number % 2:
            hello[:32] = generator.randbytes(32)
        else:
            position = generator.randrange(32)
            hello[position] ^= generator.randrange(1, 256)
        try:
            rank = session.check_hello(bytes(hello), 0, Transport.TCP)
        except AuthenticationError:
            continue
        assert hello[:24] == good[:24]
        assert rank in (2, 3)
        let_in += 1  # rank 1's hello has become another rank's: the proof decides
    assert let_in < 100_000


# 100,000 for hello and frame headers.
EXAMPLES = {"accept": 300, "dial": 100, "frames": 500, "messages": 100, "objects": 50, "store": 10, "certificate": 2}


@pytest.mark.parametrize("name", TARGETS)
def test_case_23_fuzzed(name: str) -> None:
    """No exception but those that are meant, and no allocation above the cap."""
    target = TARGETS[name]
    fuzzed = Fuzzed(target, traced=8)

    @settings(
        max_examples=EXAMPLES.get(name, 30),
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=NOISE_NBYTES, max_size=NOISE_NBYTES))
    def check(noise: bytes) -> None:
        for data in generated(target, noise):
            fuzzed(data)

    for seed in target.seeds:
        fuzzed(seed)
    check()
    assert fuzzed.count >= GENERATED * EXAMPLES.get(name, 30)
    assert 0 < fuzzed.peak <= CAP_NBYTES


def test_case_23_the_command_that_fuzzes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.fuzz", "--folder", str(tmp_path), "--target", "words"]
    options = {"cwd": Path(__file__).parents[2], "capture_output": True, "text": True, "timeout": 60, "check": False}
    done = subprocess.run([*command, "--with", "hypothesis", "--examples", "200"], **options)
    assert (done.returncode, done.stderr) == (0, "")
    _, _, found, together = done.stdout.splitlines()
    assert re.fullmatch(r"words +200 +- +- +[\d.]+ +\d+ +1024  nothing", found)
    assert re.fullmatch(r"together +200 +[\d.]+  0 target\(s\) with findings", together)
    (tmp_path / "input").write_bytes(TARGETS["words"].seeds[0])
    done = subprocess.run([*command, "--input", str(tmp_path / "input")], **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"words: taken or refused as it should be; \d+ bytes allocated of at most 1048576\n", done.stdout)


def test_case_23_fuzzed_hellos_at_the_door(two: Ranks, caplog: pytest.LogCaptureFixture) -> None:
    """On real connections; then the rank that is meant comes, and gets in."""
    accepting = two.begin(0)
    generator = random.Random(23)
    with little_memory():
        for _ in range(1000):
            hello = changed(two.session.hello(1, 0, two.way), generator.randbytes(4 * generator.randrange(1, 4)))
            sock = two.call(0)
            with suppress(OSError):  # it may be refused, and gone, at any moment
                sock.sendall(hello)
                sock.sendall(bytes(PROOF_NBYTES))
                sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while sock.recv(1000):  # an answer, where nothing but the nonce has changed
                    pass
            sock.close()
        let_in(two, accepting)
    assert warnings(caplog)


def test_case_23_fuzzed_frames_break_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer in the right session whose memory is corrupt: the call raises, the next one raises the same."""
    peers = [Peer(0, "node0", 100, "unix", "a"), Peer(1, "node1", 101, "unix", "b")]
    seeds = TARGETS["messages"].seeds
    generator = random.Random(23)
    for number in range(300):
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        with theirs:
            ctx = Context(Engine(0, peers, [None, mine]), 10.0)
            theirs.sendall(changed(seeds[number % len(seeds)], generator.randbytes(12))[1:])
            theirs.close()
            start = monotonic()
            with pytest.raises(GloompiError) as caught:  # noqa: PT012
                while True:
                    ctx.recv_object(1) if number % 2 else ctx.recv(np.empty(200, np.uint8), 1)
            assert monotonic() - start < 2
            with pytest.raises(type(caught.value)) as again:
                ctx.barrier()
            assert str(again.value) == str(caught.value)


@pytest.mark.parametrize("posted", [True, False])
def test_case_23_a_message_beyond_the_limit_is_never_allocated(posted: bool) -> None:
    """Nobody sends that much without asking, so whoever says so is not believed: not even where any length may come."""
    peers = [Peer(0, "node0", 100, "unix", "a"), Peer(1, "node1", 101, "unix", "b")]
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    with theirs, little_memory():
        ctx = Context(Engine(0, peers, [None, mine]), 10.0)
        request = ctx.irecv_object(1, tag=7) if posted else None
        theirs.sendall(pack_header(Kind.MESSAGE, 0, 7, 1 << 34, fingerprint("send", np.dtype(object), 1)))
        with pytest.raises(PeerLostError) as caught:
            request.wait() if request else ctx.recv_object(1, tag=7)
        assert f"it sent {1 << 34} bytes without asking; {EAGER_NBYTES} are the limit" in str(caught.value)


@pytest.mark.parametrize("received", [0, 3])
def test_case_23_a_peer_that_ignores_its_credit_is_refused(received: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether some of its messages have found their receives or not: it gets no more than it is given."""
    monkeypatch.setattr(messages, "EARLY_NBYTES", 0)  # every message that is not received counts against its credit
    peers = [Peer(0, "node0", 100, "unix", "a"), Peer(1, "node1", 101, "unix", "b")]
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    nbytes = 200_000
    frame = pack_header(Kind.MESSAGE, 0, 7, nbytes, fingerprint("send", np.dtype("u1"), nbytes)) + bytes(nbytes)
    with theirs, little_memory():
        ctx = Context(Engine(0, peers, [None, mine]), 10.0)

        def flood() -> None:
            with suppress(ConnectionError):
                for _ in range(100):
                    theirs.sendall(frame)

        sender = threading.Thread(target=flood)
        sender.start()
        for _ in range(received):
            ctx.recv(np.empty(nbytes, np.uint8), 1, tag=7)
        with pytest.raises(PeerLostError) as caught:
            ctx.recv(np.empty(1), 1, tag=8)
        sender.join(10)
    found = re.fullmatch(
        r"lost rank 1 \(node1, pid 101, unix b\) in recv: it sent 200064 bytes without asking, header included; "
        r"it was given leave for (\d+): the ranks run different versions, or memory is corrupt",
        str(caught.value),
    )
    assert found
    assert int(found[1]) < nbytes + 64
    # With what is kept itself, and what it takes to keep it, all of it is within the credit.
    assert ctx._engine._links[1].kept <= CREDIT_NBYTES + nbytes + 1024


@pytest.mark.parametrize("nbytes", [1 << 50, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("how", ["posted", "late", "probed"])
def test_case_23_a_length_that_no_memory_can_hold(how: str, nbytes: int) -> None:
    """`recv_object` takes any length, so a peer may announce any."""
    peers = [Peer(0, "node0", 100, "unix", "a"), Peer(1, "node1", 101, "unix", "b")]
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    with theirs:
        ctx = Context(Engine(0, peers, [None, mine]), 10.0)
        header = pack_header(Kind.ANNOUNCE, 0, 7, nbytes, fingerprint("send", np.dtype(object), 1))
        request = ctx.irecv_object(1, tag=7) if how == "posted" else None
        theirs.sendall(header)
        if how == "late":
            assert not ctx.iprobe(1, tag=8)
        if how == "probed":  # two: the first is asked for when the second is received
            theirs.sendall(header)
            ctx.mprobe(1, tag=7)
        with pytest.raises(GloompiError) as caught:
            request.wait() if request else ctx.recv_object(1, tag=7)
        assert str(caught.value) == (
            f"no memory for the {nbytes} bytes of a message from rank 1 (node1, pid 101, unix b) to rank 0; send it in "
            "parts, or it was not meant for a receive that takes any length"
        )
        assert isinstance(caught.value.__cause__, MemoryError | OverflowError)
        with pytest.raises(GloompiError) as again:
            ctx.barrier()
        assert str(again.value) == str(caught.value)
        # The peer is told.
        told = b""
        while piece := theirs.recv(4096):
            told += piece
        assert b"no memory for the" in told


def _lost(**changes: Any) -> dict[str, Any]:
    return {"rank": 1, "host": "h", "pid": 1, "address": "a", "operation": "x", "reason": "r", **changes}


# What fuzzing has found, or reading the code that it went through.
FOUND = {
    "a rank that is none": ["PeerLostError", _lost(rank=99), 99],
    "a rank that is text": ["PeerLostError", _lost(rank="a"), "a"],
    "a rank that is a list": ["PeerLostError", _lost(rank=[1]), [1]],
    "a rank that is a fraction": ["PeerLostError", _lost(rank=0.0), 0.0],
    "no rank": ["PeerLostError", _lost(rank=None), None],
    "a timeout that is text": ["OperationTimeoutError", {"operation": "a", "timeout": "x", "reason": "r"}, 1],
    "half a character": ["RendezvousError", {"reason": "\ud800", "rank": 1, "host": "h", "pid": 2}, 1],
}


@pytest.mark.parametrize("what", FOUND)
def test_case_23_an_abort_that_makes_no_sense(what: str) -> None:
    TARGETS["abort"].run(json.dumps(FOUND[what]).encode())


# In a store, for rank 0 and for rank 1 of two: what is under hello, offer, ack and trace.
FOUND_IN_A_STORE = {
    "half a character in a session": [b"", b'{"nonce": "NONCE", "session": "\\ud800", "size": 2}'],
    "half a character in a reason": [b"", b'{"nonce": "NONCE", "failed": "\\ud800"}'],
    "half a character in a host": [b"", b"", b"", b"", b"", b"", b'{"host": "\\ud800"}'],
    "a nonce as deep as it can be read": [b'{"nonce": ' + b"[" * 900 + b"]" * 900 + b"}", b"", b"SESSION"],
    "ranks that were never there": [b"", b"", b"", b"7 9000"],
    "a session of any length": [b"", b"", b"", b"7" * 1800 + b" 9000"],
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", FOUND_IN_A_STORE)
def test_case_23_a_store_that_makes_no_sense(what: str, rank: int) -> None:
    Fuzzed(TARGETS["store"], traced=1)(bytes([rank]) + b"\x1e".join(FOUND_IN_A_STORE[what]))


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (struct.pack("<i", 2**31 - 1), "it has announced an answer of 2147483647 bytes, and may give 16777216"),
        (struct.pack("<i", -1), "its answer is empty"),
        (struct.pack("<ii", 4, 5), "its answer is none: a string of 5 bytes does not fit"),
        (pack([b"ok", b"1"]), "it has given 1 values for 2 keys"),
    ],
    ids=["2 GiB", "negative", "cut off", "too few"],
)
def test_case_23_a_served_store_whose_answer_is_none(answer: bytes, shown: str) -> None:
    theirs, mine = socket.socketpair()
    with theirs, mine:
        store = TCPStore.__new__(TCPStore)
        vars(store).update(_host="node0", _ports=[7000], _server=None, _sock=BoundedSocket(mine), _lock=threading.Lock())
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with little_memory(), pytest.raises(RendezvousError) as caught:
            store.multi_get(["a", "b"])
    assert str(caught.value) == (
        f"rendezvous failed: TCPStore('node0', 7000) cannot be used: {shown}; is the rank that serves it running there, and "
        "is the address right?"
    )


def test_case_23_an_operation_that_nobody_knows() -> None:
    unknown = b"\xc8" + fingerprint("send", np.dtype(object), 1)[1:]
    assert describe(unknown) == "operation 200_object"


def test_case_23_a_record_that_is_cut_short() -> None:
    """A rank that has failed, and claims addresses that are not there."""
    nobody = Endpoint("node0", 100, 1, bytes(16), b"", ())
    packed = bytearray(Record(nobody, bytes(32), "no free port").pack())
    packed[34 + WHO_NBYTES - 1] = 2
    with pytest.raises(ValueError, match=r"^110 bytes are too few for an endpoint of 2 addresses$"):
        Record.unpack(bytes(packed))
    with pytest.raises(ValueError, match=r"^an endpoint has at least 110 bytes, not 60$"):
        Endpoint.unpack(bytes(60))


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["tcp", "unix", "auto"])
def test_case_24_after_setup_nothing_listens(transport: str) -> None:
    for found in run_job(3, "listeners.py", transport):
        assert found["total"] == 3
        assert found["after"] == found["before"]
        for before, during in zip(found["before"], found["during"], strict=True):
            assert set(during) > set(before) or not during  # there is no ss
        assert set(found["during"][0]) > set(found["before"][0])


def test_case_25_a_rank_of_another_session(two: Ranks) -> None:
    accepting = two.begin(0)
    assert knock(two, 1, 0, ANOTHER) is None
    let_in(two, accepting)


def test_case_25_a_stale_rank_of_a_previous_session_on_a_reused_port(
    make_ranks: Callable[..., Ranks], caplog: pytest.LogCaptureFixture
) -> None:
    """Its rank 0 is gone, and rank 1 goes on dialing the port at which another session meets now."""
    old = make_ranks(2, "tcp", session=ANOTHER)
    port = old.endpoints[0].addresses[0].port
    old.listeners[0].close()
    stale = old.begin(1, 3.0)
    new = make_ranks(2, "tcp", port=port)
    assert new.endpoints[0].addresses[0].port == port
    accepting = new.begin(0)
    while not warnings(caplog):  # not before the stale rank has been at the door
        assert not accepting.done()
    let_in(new, accepting)
    assert warnings(caplog)[0] == ("refused 1 connection(s) of strangers so far; the last: it belongs to another session")
    with pytest.raises(RendezvousError) as caught:
        stale.result()
    who = f"rank 0 (node0, pid 100) at 127.0.0.1:{port}"
    assert str(caught.value).startswith(
        f"rendezvous failed: after 3.0 s 1 of 1 peers are missing: could not connect to {who}: "
    )


# -- a flood ------------------------------------------------------------------------------------------------------------


def flood_program(folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the flood")
    program = folder / "flood"
    source = Path(__file__).with_name("flood.c")
    command = [compiler, "-O2", "-pthread", "-o", str(program), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return program


def test_a_flood_is_bounded_in_connections_and_in_hmacs(
    make_ranks: Callable[..., Ranks], transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen threads of C that have overheard a hello; then the rank that is meant comes, and gets in."""
    rate, kept, seconds = 300.0, 64, 1.5
    monkeypatch.setattr(module, "_RATE", rate)
    monkeypatch.setattr(module, "_MAX_UNKNOWN", kept)
    program = flood_program(tmp_path)
    ranks = make_ranks(2, transport)
    taken: list[float] = []
    macs: list[float] = []
    accepted, computed = module.accept, Session.macs

    def accept(*arguments: Any) -> Any:
        taken.append(monotonic())
        return accepted(*arguments)

    def compute(*arguments: Any) -> Any:
        macs.append(monotonic())
        return computed(*arguments)

    monkeypatch.setattr(module, "accept", accept)
    monkeypatch.setattr(Session, "macs", compute)
    hello = ranks.session.hello(1, 0, ranks.way).hex()
    address = ranks.listeners[0].sockets[0].getsockname()
    door = address[1:].decode() if transport == "unix" else str(address[1])
    began = monotonic()
    accepting = ranks.begin(0, 60.0)
    flood = subprocess.run(
        [str(program), "16", str(seconds), transport, door, hello], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(flood.stdout) > 100
    let_in(ranks, accepting)  # behind those that still wait in the queue
    for number, when in enumerate(taken, 1):
        assert number <= 2 + kept + rate * (when - began) + 1
    assert len(taken) > kept  # or nothing was bounded here
    assert len(macs) <= len(taken) + 1  # rank 1 has computed one
