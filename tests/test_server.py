"""The store that a rank serves, against strangers: the greeting, and what they can make the rank keep, open or do."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from time import monotonic, sleep

import pytest
from faults.strangers import exactly, little_memory
from servers import HOST, free_port

from gloompi import Context, RendezvousError, TCPStore
from gloompi.stores import server, serving, tcp
from gloompi.stores.bounded import MAX_NBYTES
from gloompi.stores.greeting import NONCE_NBYTES, PROOF_NBYTES, SecretError, line, proof
from gloompi.stores.serving import LENGTH, MAX_STRINGS, ServedStore, pack, unpack

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SECRET, OTHER = b"sixteen bytes at least", b"another one that is as long"
BUSY_SECONDS = 2.0


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=20.0)


def client(port: int) -> socket.socket:
    """A stranger who has greeted a store without a secret."""
    sock = connected(port)
    sock.sendall(line(port, b""))
    assert exactly(sock, len(line(port, b""))) == line(port, b"")
    return sock


def ask(sock: socket.socket, *request: bytes | None) -> list[bytes | None]:
    sock.sendall(pack(request))
    return answered(sock)


def answered(sock: socket.socket) -> list[bytes | None]:
    head = exactly(sock, LENGTH.size)
    assert head is not None
    body = exactly(sock, *LENGTH.unpack(head))
    assert body is not None
    return unpack(body)


def hung_up(sock: socket.socket) -> bool:
    """Nothing more comes but the end."""
    with suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- the greeting -------------------------------------------------------------------------------------------------------


def test_who_has_the_secret_gets_in(port: int) -> None:
    with TCPStore(HOST, port, serve=True, secret=SECRET) as served, TCPStore(HOST, port, secret=SECRET.decode()) as store:
        store.set("key", b"value")
        assert served.get("key", 0.0) == b"value"
        store.close()


def test_secret_of_the_environment(
    port: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path_factory.mktemp("secret") / "secret"
    file.write_bytes(SECRET + b"\n")
    file.chmod(0o600)
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(file))
    with TCPStore(HOST, port, serve=True), TCPStore(HOST, port, secret=SECRET) as store:
        assert store.peek(["key"]) == [None]
        store.close()


@pytest.mark.parametrize(
    ("serves", "asks", "text"),
    [
        (SECRET, None, "it has a secret, this process has none (secret=, GLOOMPI_SECRET_FILE)"),
        (None, SECRET, "this process has a secret, it has none (secret=, GLOOMPI_SECRET_FILE)"),
        (SECRET, OTHER, "it has another secret (secret=, GLOOMPI_SECRET_FILE)"),
    ],
)
def test_who_has_another_secret_is_told(
    serves: bytes | None,
    asks: bytes | None,
    text: str,
    port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "_DIFFERS_SECONDS", 0.3)
    with TCPStore(HOST, port, serve=True, secret=serves) as served:
        with pytest.raises(RendezvousError, match=re.escape(f"cannot be the rank of this job: {text}")) as caught:
            TCPStore(HOST, port, secret=asks, timeout=20.0)
        with pytest.raises(RendezvousError, match=re.escape(text)):
            TCPStore(HOST, port, secret=asks, timeout=0.9)
        told, *more = caplog.messages
        assert len(more) <= 2  # one in a second, of all attempts
        assert re.match(r"who connects to the store from 127\.0\.0\.1 port \d+ (has|does not know)", told)
        assert SECRET.decode() not in str(caught.value)
        assert OTHER.decode() not in str(caught.value)
        assert served._items._items == {}  # type: ignore[attr-defined]


def test_server_that_has_another_secret_is_refused() -> None:
    """It lets everybody in, to be taken for rank 0: the client asks it for nothing."""
    asked: list[bytes] = []

    def serve() -> None:
        said = line(port, SECRET)
        with suppress(OSError):
            while True:
                with listener.accept()[0] as sock:
                    exactly(sock, len(said) + NONCE_NBYTES)
                    sock.sendall(said + bytes(NONCE_NBYTES))
                    exactly(sock, PROOF_NBYTES)
                    sock.sendall(bytes(PROOF_NBYTES))
                    asked.append(sock.recv(1000))

    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RendezvousError, match="it has another secret"):
            TCPStore(HOST, port, secret=SECRET, timeout=0.5)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert set(asked) == {b""}


def test_last_try_that_is_cut_short_does_not_hide_another_secret(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def greet(sock: object, port: int, secret: bytes) -> None:
        tries.append(port)
        if len(tries) > 1:
            sleep(0.6)
            raise TimeoutError("no whole answer within 0.1 s")
        raise SecretError("it has another secret")

    monkeypatch.setattr(tcp, "greet", greet)
    with socket.create_server((HOST, port)), pytest.raises(RendezvousError, match=r"it has another secret after 0\.5 s"):
        TCPStore(HOST, port, secret=SECRET, timeout=0.5)
    assert len(tries) == 2


REQUEST = pack([b"write", b"key", b"value"])


@pytest.mark.parametrize(
    "says",
    [
        lambda said: said + REQUEST * 10,
        lambda said: said + bytes(NONCE_NBYTES) + bytes(PROOF_NBYTES) + REQUEST,
        lambda said: said + bytes(NONCE_NBYTES) + REQUEST * 10,
        lambda said: said.replace(b"hmac", b"open") + REQUEST,
        lambda said: said.replace(b"store 2", b"store 1") + REQUEST,
    ],
)
def test_stranger_without_the_secret_gets_nothing(says: Callable[[bytes], bytes], port: int) -> None:
    with TCPStore(HOST, port, serve=True, secret=SECRET) as served, connected(port) as stranger:
        stranger.sendall(says(line(port, SECRET)))
        told = b""
        with suppress(ConnectionResetError):
            while piece := stranger.recv(65536):
                told += piece
        assert len(told) <= len(line(port, SECRET)) + NONCE_NBYTES  # its nonce, if it has come to that
        assert served._items._items == {}  # type: ignore[attr-defined]


def test_flights_of_others_are_no_proof(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replayed, and reflected: what the server itself says to one connection is said to it on another."""
    computed: list[str] = []

    def counted(secret: bytes, side: str, said: bytes, nonces: bytes) -> bytes:
        computed.append(side)
        return proof(secret, side, said, nonces)

    monkeypatch.setattr(server, "proof", counted)
    said = line(port, SECRET)
    with TCPStore(HOST, port, serve=True, secret=SECRET):
        with connected(port) as sock:
            sock.sendall(said + bytes(NONCE_NBYTES))
            nonce = exactly(sock, len(said) + NONCE_NBYTES)
            assert nonce is not None
            nonces = bytes(NONCE_NBYTES) + nonce[len(said) :]
            mine = proof(SECRET, "client", said, nonces)
            sock.sendall(mine)
            theirs = exactly(sock, PROOF_NBYTES)
            assert theirs == proof(SECRET, "server", said, nonces)
        assert computed == ["client", "server"]
        for flight in (mine, theirs, proof(OTHER, "client", said, nonces), proof(b"", "client", said, nonces)):
            with connected(port) as sock:
                sock.sendall(said + bytes(NONCE_NBYTES))
                exactly(sock, len(said) + NONCE_NBYTES)
                sock.sendall(flight)
                assert hung_up(sock)
    assert computed[2:] == ["client"] * 4  # one for each stranger


def test_proofs_differ_in_side_line_and_nonces() -> None:
    said = line(7, SECRET)
    all_of_them = {
        proof(secret, side, which, nonces)
        for secret in (SECRET, OTHER)
        for side in ("client", "server")
        for which in (said, line(8, SECRET))
        for nonces in (bytes(64), bytes(63) + b"\1")
    }
    assert len(all_of_them) == 16


# -- who ends listening -------------------------------------------------------------------------------------------------


def refused_in_time(port: int) -> bool:
    deadline = monotonic() + 20.0
    while monotonic() < deadline:
        try:
            connected(port).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it stopped at this moment
            pass
    return False


def test_invented_names_do_not_end_listening(port: int, opened: ExitStack) -> None:
    with TCPStore(HOST, port, serve=True, clients=3, timeout=1.0) as served:
        for n in range(20):
            stranger = opened.enter_context(client(port))
            assert ask(stranger, b"join", b"%d" % n) == [b"ok"]
        with TCPStore(HOST, port, rank=1) as store:
            assert store.add("counter", 1) == 1
            served._met()
            assert refused_in_time(port)
            assert store.add("counter", 1) == 2
        opened.close()


def test_listening_ends_when_the_ranks_have_met(port: int) -> None:
    refused: list[bool] = []

    def rank(number: int) -> None:
        with TCPStore(HOST, port, serve=number == 0, clients=1, rank=number or None, timeout=20.0) as store:
            with Context.from_store(store, number, 2, connect_timeout=20.0):
                with suppress(ConnectionRefusedError), connected(port):
                    return
                refused.append(True)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [True, True]


# -- what they make it keep ---------------------------------------------------------------------------------------------


def test_store_does_not_grow_without_limit(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MAX_KEYS", 10)
    monkeypatch.setattr(serving, "_MAX_KEPT", 5000)
    with TCPStore(HOST, port, serve=True, timeout=1.0) as served, TCPStore(HOST, port) as store:
        for full in (
            lambda: store.multi_set({f"key {n}": b"" for n in range(11)}),
            lambda: store.set("long", bytes(5000)),
            lambda: store.set("l" * 5000, b""),
            lambda: store.compare_set("long", None, bytes(5000)),
            lambda: store.append("long", bytes(5000)),
            lambda: served.set("long", bytes(5000)),
        ):
            with pytest.raises(
                RendezvousError, match=r"refused a request: no room: the store has 0 keys of 0 bytes, and takes"
            ):
                full()
        for _ in range(100):  # what is deleted, or replaced, is not counted
            store.multi_set({f"key {n}": bytes(200) for n in range(10)})
            store.delete([f"key {n}" for n in range(5)])
            assert store.compare_set("key 7", bytes(200), bytes(300))
            store.append("key 8", bytes(10))
            assert store.add("key 0", 5) == 5
            store.delete(["key 0", "no key"])
        store.multi_set({f"counter {n}": b"" for n in range(5)})
        with pytest.raises(RendezvousError, match="no room"):
            store.add("another", 1)


def test_value_is_no_longer_than_an_answer(port: int) -> None:
    with TCPStore(HOST, port, serve=True, timeout=1.0) as served, TCPStore(HOST, port) as store:
        served.set("long", bytes(serving._MAX_VALUE))
        assert len(store.get("long")) == serving._MAX_VALUE
        for add in (store, served):
            with pytest.raises(
                RendezvousError, match=r"refused a request: a value of 16777207 bytes; a TCPStore keeps up to"
            ):
                add.append("long", b"x")
        store.close()


def test_cost_of_what_is_kept_is_exact() -> None:
    store = ServedStore()
    for change in (
        lambda: store.multi_set({"a": b"1" * 10, "b": b"2"}),
        lambda: store.set("a", b""),
        lambda: store.append("c", b"abc"),
        lambda: store.compare_set("c", b"abc", b"abcdef"),
        lambda: store.compare_set("c", b"abc", b"no"),
        lambda: store.delete(["a", "x"]),
    ):
        change()
        assert store._nbytes == sum(len(key) + len(value) + serving._KEY_NBYTES for key, value in store._items.items())
    store.delete(["b", "c"])
    assert store._nbytes == 0


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ([b"read", *[b"long"] * 17], [b"refused", b"an answer of 17825866 bytes; a TCPStore gives up to 16777216"]),
        ([b"read", *[b""] * (MAX_STRINGS - 2), b"key"], None),
    ],
)
def test_answer_that_is_too_long(request_: list[bytes], found: list[bytes] | None, port: int) -> None:
    with TCPStore(HOST, port, serve=True, timeout=1.0) as served, client(port) as stranger:
        served.set("long", bytes(1024**2))
        if found is None:
            assert ask(stranger, *request_) == [b"ok", *[None] * (MAX_STRINGS - 1)]
        else:
            assert ask(stranger, *request_) == found


def test_request_of_too_many_strings(port: int) -> None:
    with TCPStore(HOST, port, serve=True, timeout=1.0), client(port) as stranger, TCPStore(HOST, port) as store:
        with pytest.raises(ValueError, match=r"^a request of 65537 keys and values; a TCPStore takes up to 65536$"):
            store.peek(["key"] * MAX_STRINGS)
        stranger.sendall(pack([b"read", *[b""] * MAX_STRINGS]))
        assert hung_up(stranger)
        assert store.peek(["key"]) == [None]


@pytest.mark.parametrize("sent", [0, 1, 15 * 1024**2])
def test_frames_that_never_end(sent: int, port: int, opened: ExitStack) -> None:
    """40 strangers announce 16 MiB each and send most of it: four of them are let send, the others wait."""
    with TCPStore(HOST, port, serve=True, timeout=1.0), TCPStore(HOST, port) as store, little_memory(6 * MAX_NBYTES):
        for _ in range(40):
            stranger = opened.enter_context(client(port))
            stranger.setblocking(False)
            stranger.send(LENGTH.pack(MAX_NBYTES))
            with suppress(BlockingIOError):
                for _ in range(sent // 65536):
                    stranger.send(bytes(65536))
        for n in range(20):
            assert store.add("counter", 1) == n + 1
        opened.close()


def test_answers_that_nobody_reads(port: int, opened: ExitStack) -> None:
    with TCPStore(HOST, port, serve=True, timeout=1.0) as served, TCPStore(HOST, port) as store:
        served.set("long", bytes(15 * 1024**2))
        with little_memory(6 * MAX_NBYTES):
            for _ in range(40):
                stranger = opened.enter_context(client(port))
                stranger.sendall(pack([b"read", b"long"]))
            for n in range(20):
                assert store.add("counter", 1) == n + 1
        opened.close()


@pytest.mark.parametrize("how", ["a frame", "an answer"])
def test_whoever_dawdles_in_a_place_is_dropped_for_others(
    how: str, port: int, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_DAWDLING_SECONDS", 0.3)
    value = bytes(range(256)) * 4096 * 12
    with TCPStore(HOST, port, serve=True, timeout=1.0) as served, TCPStore(HOST, port) as store:
        served.set("long", value)
        dawdlers = [opened.enter_context(client(port)) for _ in range(server._PLACES)]
        for each in dawdlers:
            each.sendall(LENGTH.pack(MAX_NBYTES) + b"x" if how == "a frame" else pack([b"read", b"long"]))
        sleep(1.0)
        assert store.add("counter", 1) == 1  # small requests need no place; and nobody has waited for one yet
        assert len(served._server._clients) == 1 + len(dawdlers)  # type: ignore[union-attr]
        began = monotonic()
        assert store.get("long", 20.0) == value
        store.set("another", value[: 4 * 1024**2])
        assert monotonic() - began < 10.0
        opened.close()


# -- what they make it open ---------------------------------------------------------------------------------------------


def test_strangers_take_no_more_than_their_places(port: int, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_STRANGERS", 10)
    before = descriptors()
    with TCPStore(HOST, port, serve=True, clients=2, timeout=1.0):
        began = monotonic()
        for _ in range(100):
            opened.enter_context(connected(port))
        with TCPStore(HOST, port) as store:  # behind all of them
            assert store.add("counter", 1) == 1
            assert monotonic() - began < 10.0  # some are dropped before their 5 s are over
            assert descriptors() - before < 100 + 10 + 10
        opened.close()


def test_clients_of_no_secret_take_no_more_than_their_places(
    port: int, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SPARE_CLIENTS", 10)
    monkeypatch.setattr(server, "_QUIET_SECONDS", 0.3)
    with TCPStore(HOST, port, serve=True, clients=2, timeout=1.0) as served:
        strangers = [opened.enter_context(client(port)) for _ in range(12)]
        with connected(port) as another:
            another.sendall(line(port, b""))
            assert hung_up(another)  # nobody makes room who has just been heard of
        with TCPStore(HOST, port, timeout=20.0) as store:
            assert store.add("counter", 1) == 1
            assert len(served._server._clients) <= 12  # type: ignore[union-attr]
            assert hung_up(strangers[0])
        opened.close()


def test_clients_of_no_secret_that_ask_for_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_IDLE_SECONDS", 0.3)
    with TCPStore(HOST, port, serve=True, timeout=1.0), client(port) as stranger:
        assert ask(stranger, b"add", b"key", b"1") == [b"ok", b"1"]
        assert hung_up(stranger)


def test_request_that_is_dripped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_TRANSFER_SECONDS", 0.3)
    with TCPStore(HOST, port, serve=True, timeout=1.0), client(port) as stranger:
        began = monotonic()
        with suppress(ConnectionError):
            for byte in pack([b"read", bytes(1000)]):
                stranger.send(bytes([byte]))
                sleep(0.02)
        assert monotonic() - began < 5.0


def test_no_descriptor_is_free(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = [0]
    accept = socket.socket.accept

    def fail(self: socket.socket) -> tuple[socket.socket, object]:
        tries[0] += 1
        if tries[0] <= 3:
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fail)
    with TCPStore(HOST, port, serve=True), TCPStore(HOST, port) as store:
        assert store.add("counter", 1) == 1
        assert 3 < tries[0] < 100  # and it has not been tried all the time
        store.close()


# -- what they make it do -----------------------------------------------------------------------------------------------


BUSY = {
    "many keys": pack([b"read", *[b"%d" % n for n in range(MAX_STRINGS - 1)]]),
    "long values": pack([b"write", b"long", bytes(15 * 1024**2)]),
    "many empty strings": LENGTH.pack(MAX_NBYTES) + bytes(MAX_NBYTES),
    "small ones": pack([b"read", *[b""] * 16000]),
    "appending": pack([b"append", b"long", b"x"]),
}


@pytest.mark.parametrize("what", BUSY)
def test_large_requests_keep_nobody_waiting(what: str, port: int) -> None:
    """Three strangers, or twenty with small ones, send as fast as they can; each round trip of a rank takes a moment."""
    stopping = threading.Event()

    def attack() -> None:
        while not stopping.is_set():
            with suppress(OSError, AssertionError), client(port) as stranger:
                while not stopping.is_set():
                    stranger.sendall(BUSY[what])
                    answered(stranger)

    with TCPStore(HOST, port, serve=True, timeout=1.0) as served, TCPStore(HOST, port) as store:
        served.set("long", bytes(15 * 1024**2))
        threads = [threading.Thread(target=attack) for _ in range(3 if len(BUSY[what]) > 500_000 else 8)]
        for thread in threads:
            thread.start()
        taken = []
        try:
            until = monotonic() + BUSY_SECONDS
            while monotonic() < until:
                began = monotonic()
                store.add("counter", 1)
                taken.append(monotonic() - began)
        finally:
            stopping.set()
            store.close()
            for thread in threads:
                thread.join()

        assert max(taken) < 1.5, sorted(taken)[-5:]  # 8.8 s, when a frame had no limit of strings


def test_who_has_asked_for_much_comes_after_the_others(
    port: int, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little they ask for: what it costs is seen when it is done."""

    def answer(store: ServedStore, request: list[bytes | None]) -> list[bytes | None]:
        if request[0] == b"append":
            sleep(0.02)
        return serving.answer(store, request)

    monkeypatch.setattr(server, "answer", answer)
    with TCPStore(HOST, port, serve=True, clients=100, timeout=1.0), TCPStore(HOST, port) as store:
        strangers = [opened.enter_context(client(port)) for _ in range(60)]
        for stranger in strangers:
            assert ask(stranger, b"append", b"key", b"x") == [b"ok"]
        for stranger in strangers:
            stranger.sendall(pack([b"append", b"key", b"x"]))
        began = monotonic()
        store.add("counter", 1)
        assert monotonic() - began < 0.6  # 1.2 s, in the order in which they came
        store.close()
