"""The store that one process serves: frames, strangers at its port, which port, and the end."""

from __future__ import annotations

import errno
import gc
import os
import random
import socket
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import ip_interface
from time import monotonic

import pytest
from servers import HOST, free_port

from gloompi import HashStore, RendezvousError, TCPStore
from gloompi.stores import server, serving, tcp
from gloompi.stores.bounded import BoundedSocket
from gloompi.stores.greeting import NONCE_NBYTES, line
from gloompi.stores.serving import ANSWER, answer, listen, pack, unpack
from gloompi.transport.interfaces import Interface

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SECRET = b"sixteen bytes at least"

# -- frames -------------------------------------------------------------------------------------------------------------

FRAMES: list[tuple[list[bytes | None], bytes]] = [
    ([], b"\x00\x00\x00\x00"),
    ([b""], b"\x04\x00\x00\x00" b"\x00\x00\x00\x00"),
    ([None], b"\x04\x00\x00\x00" b"\xff\xff\xff\xff"),
    ([b"read", b"k"], b"\x0d\x00\x00\x00" b"\x04\x00\x00\x00read" b"\x01\x00\x00\x00k"),
    ([b"ok", None, b"", b"\0"], b"\x13\x00\x00\x00" b"\x02\x00\x00\x00ok" b"\xff\xff\xff\xff" b"\x00\x00\x00\x00"
     b"\x01\x00\x00\x00\x00"),
    ([b"x" * 256], b"\x04\x01\x00\x00" b"\x00\x01\x00\x00" + b"x" * 256),
]  # fmt: skip


@pytest.mark.parametrize(("strings", "packed"), FRAMES)
def test_frames(strings: list[bytes | None], packed: bytes) -> None:
    assert pack(strings) == packed
    assert unpack(packed[4:]) == strings


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (b"\x00", "a length is cut off"),
        (b"\x00\x00\x00\x00\x01\x00\x00", "a length is cut off"),
        (b"\x01\x00\x00\x00", "a string of 1 bytes does not fit"),
        (b"\x04\x00\x00\x00abc", "a string of 4 bytes does not fit"),
        (b"\xff\xff\xff\x7f", "a string of 2147483647 bytes does not fit"),
        (b"\xfe\xff\xff\xff", "a string of -2 bytes does not fit"),
        (b"\x00\x00\x00\x80", "a string of -2147483648 bytes does not fit"),
    ],
)
def test_bytes_that_are_no_frame(packed: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        unpack(packed)


def test_greeting() -> None:
    assert line(29500, b"") == b"gloompi store 2 29500 open\n"
    assert line(1, b"secret") == b"gloompi store 2     1 hmac\n"


def test_answers() -> None:
    store = HashStore()
    assert answer(store, [b"write", b"a", b"1", "ä".encode(), b"2"]) == [b"ok"]
    assert answer(store, [b"read", b"a", b"b", "ä".encode()]) == [b"ok", b"1", None, b"2"]
    assert answer(store, [b"read"]) == [b"ok"]
    assert answer(store, [b"swap", b"a", b"2", b"3"]) == [b"ok", b""]
    assert answer(store, [b"swap", b"a", b"1", b"3"]) == [b"ok", b"1"]
    assert answer(store, [b"swap", b"b", None, b"4"]) == [b"ok", b"1"]
    assert answer(store, [b"add", b"a", b"-5"]) == [b"ok", b"-2"]
    assert answer(store, [b"append", b"b", b"5"]) == [b"ok"]
    assert answer(store, [b"remove", b"a", b"c"]) == [b"ok"]
    assert store._items == {"b": b"45", "ä": b"2"}
    store.set("b", b"text")
    assert answer(store, [b"add", b"b", b"1"]) == [b"the key 'b' holds b'text', which is no number"]


@pytest.mark.parametrize(
    "request_",
    [
        [],
        [None],
        [b"stop"],
        [b"READ", b"key"],
        [b"read", None],
        [b"read", b"\xff"],
        [b"write", b"key"],
        [b"write", None, b"value"],
        [b"swap", b"key", b"old"],
        [b"swap", b"key", b"old", None],
        [b"add", b"key"],
        [b"append", b"key", None],
        [b"remove", b"\xc3"],
    ],
)
def test_what_is_no_request(request_: list[bytes | None]) -> None:
    store = HashStore()
    with pytest.raises(ValueError, match=r"."):
        answer(store, request_)
    assert store._items == {}


def test_mutilated_frames_are_refused_or_answered() -> None:
    chance = random.Random(20)
    requests: list[list[bytes | None]] = [
        [b"read", b"a", b"b"],
        [b"write", b"a", b"1", b"b", b"2"],
        [b"swap", b"a", None, b"3"],
        [b"swap", b"a", b"1", b"3"],
        [b"add", b"a", b"7"],
        [b"append", b"b", b"5"],
        [b"remove", b"a"],
    ]
    refused = 0
    for _ in range(20_000):
        packed = bytearray(pack(chance.choice(requests))[4:])
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(packed) + 1)
            match chance.randrange(4):
                case 0:
                    packed[at : at + 1] = chance.randbytes(1)
                case 1:
                    packed[at:at] = chance.randbytes(chance.randrange(6))
                case 2:
                    del packed[at : at + chance.randrange(6)]
                case 3:
                    packed[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0\0\0\0", b"\x01\0\0\0"])
        try:
            assert isinstance(pack(answer(HashStore(), unpack(bytes(packed)))), bytes)
        except ValueError:  # the only exception that ends a connection without a trace
            refused += 1
    assert 5000 < refused < 20_000


# -- strangers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def served(port: int) -> Iterator[TCPStore]:
    with TCPStore(HOST, port, serve=True, timeout=5.0) as store:
        yield store


def connected(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=20.0)


def rest(sock: socket.socket) -> bytes:
    """What is received until the other side hangs up."""
    received = b""
    try:
        while piece := sock.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "says",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
        b"gloompi store 3 29500 open\n" + bytes(50),
        bytes(22),
        b"\xff" * 100_000,
    ],
)
def test_stranger_that_does_not_greet_is_dropped(served: TCPStore, port: int, says: bytes) -> None:
    with connected(port) as stranger, TCPStore(HOST, port) as client:
        stranger.sendall(says)
        assert rest(stranger) == b""
        assert client.add("counter", 1) == 1


@pytest.mark.parametrize("says", [b"", b"g", b"gloompi store 1"])
def test_silent_stranger_is_dropped(served: TCPStore, port: int, says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_GREETING_SECONDS", 0.2)
    with connected(port) as stranger, TCPStore(HOST, port) as client:
        stranger.sendall(says)
        assert client.add("counter", 1) == 1
        assert rest(stranger) == b""
        assert client.add("counter", 1) == 2


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f" + bytes(100),
        b"\x01\x00\x00\x01" + bytes(100),  # one byte more than is allowed
        b"\x04\x00\x00\x00" b"\x01\x00\x00\x00",
        b"\x08\x00\x00\x00" b"\x04\x00\x00\x00stop",
        b"\x0d\x00\x00\x00" b"\x04\x00\x00\x00read" b"\x01\x00\x00\x00\xff",
    ],
)  # fmt: skip
def test_client_that_sends_no_request_is_dropped(served: TCPStore, port: int, frame: bytes) -> None:
    with connected(port) as stranger, TCPStore(HOST, port) as client:
        stranger.sendall(line(port, b"") + frame)
        assert rest(stranger) == line(port, b"")
        assert client.add("counter", 1) == 1


@pytest.mark.parametrize("frame", [b"", b"\x0d\x00", b"\x0d\x00\x00\x00", b"\x0d\x00\x00\x00\x04\x00\x00\x00re"])
def test_client_that_hangs_up_in_the_middle(served: TCPStore, port: int, frame: bytes) -> None:
    with TCPStore(HOST, port) as client:
        with connected(port) as stranger:
            stranger.sendall(line(port, b"") + frame)
            assert client.add("counter", 1) == 1
        assert client.add("counter", 1) == 2


def test_many_strangers(served: TCPStore, port: int) -> None:
    strangers = [connected(port) for _ in range(100)]
    try:
        with TCPStore(HOST, port) as client:
            for sock in strangers:
                sock.sendall(b"x")
                assert client.add("counter", 1) > 0
        assert served.get("counter", 0.0) == b"100"
    finally:
        for sock in strangers:
            sock.close()


def test_client_that_does_not_read_its_answers(port: int) -> None:
    value = bytes(4 * 1024 * 1024)
    with TCPStore(HOST, port, serve=True, timeout=0.3) as served:
        served.set("key", value)
        with connected(port) as stranger, TCPStore(HOST, port) as client:
            stranger.sendall(line(port, b"") + pack([b"read", *[b"key"] * 8]) * 4)
            assert client.get("key", 5.0) == value
            client.close()
            served.close()
    gc.collect()  # what was left open says so now


# -- which port ---------------------------------------------------------------------------------------------------------


def test_next_port_if_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_CONNECT_SECONDS", 0.3)
    with socket.create_server((HOST, 0)) as silent, TCPStore(HOST, free_port(), serve=True) as another:
        ports = [silent.getsockname()[1], another._ports[0], free_port()]
        with TCPStore(HOST, ports, serve=True) as served, TCPStore(HOST, ports) as client:
            client.set("key", b"value")
            assert served.get("key", 0.0) == b"value"
            assert another.peek(["key"]) == [None]
            assert repr(client) == f"TCPStore('127.0.0.1', [{ports[0]}, {ports[1]}, {ports[2]}])"
            client.close()


def test_all_ports_are_taken() -> None:
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as two:
        ports = [one.getsockname()[1], two.getsockname()[1]]
        with pytest.raises(OSError, match="cannot serve") as caught:
            TCPStore(HOST, ports, serve=True)
    assert str(caught.value).startswith(
        f"[Errno 98] cannot serve a store on port {ports[0]}, {ports[1]} of 127.0.0.1: [Errno 98] Address already in use"
    )


@pytest.mark.parametrize("port", [0, -1, 65536, [], [29500, 0]])
def test_bad_port(port: int | Sequence[int]) -> None:
    with pytest.raises(ValueError, match=r"^port must be one or several of 1-65535, not "):
        TCPStore(HOST, port)


def test_same_port_again(port: int) -> None:
    for n in range(5):
        with TCPStore(HOST, port, serve=True, clients=1) as served, TCPStore(HOST, port) as client:
            assert client.peek(["key"]) == [None]
            client.set("key", b"%d" % n)
            assert served.get("key", 0.0) == b"%d" % n
            client.close()


def test_listening_ends_with_the_last_expected_client(port: int) -> None:
    with TCPStore(HOST, port, serve=True, clients=2, secret=SECRET):
        with connected(port) as stranger, TCPStore(HOST, port, secret=SECRET) as one:
            stranger.sendall(b"no client\n" * 10)
            assert rest(stranger) == b""  # and is not counted
            with TCPStore(HOST, port, secret=SECRET) as two:
                assert (one.add("counter", 1), two.add("counter", 1)) == (1, 2)
                with pytest.raises(ConnectionRefusedError):
                    connected(port)


# -- which addresses ----------------------------------------------------------------------------------------------------


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name stands for these addresses; this host has two of its own."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    here = [ip_interface("127.0.0.5/8"), ip_interface("127.0.0.6/8")]
    monkeypatch.setattr(serving, "select", lambda pattern: [(Interface("eth0", True, tuple(here)), each) for each in here])


@pytest.mark.parametrize(
    ("host", "addresses", "served"),
    [
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"], ["127.0.0.1"]),
        ("127.0.0.5", ["127.0.0.5"], ["127.0.0.5"]),
        ("node7", ["127.0.1.1"], ["127.0.0.5", "127.0.0.6", "127.0.1.1"]),  # as Debian's /etc/hosts has it
        ("node7", ["198.51.100.7"], ["127.0.0.5", "127.0.0.6"]),  # NAT
        ("198.51.100.7", ["198.51.100.7"], ["127.0.0.5", "127.0.0.6"]),
    ],
)
def test_addresses_that_a_name_stands_for(
    host: str, addresses: list[str], served: list[str], monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    named(monkeypatch, *addresses)
    sockets = listen(host, [port])
    try:
        assert sorted(sock.getsockname()[0] for sock in sockets) == served
        assert {sock.getsockname()[1] for sock in sockets} == {port}
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("error", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_localhost_on_a_host_without_ipv6(monkeypatch: pytest.MonkeyPatch, port: int, error: int) -> None:
    """/etc/hosts has ::1 in most containers, whether there is IPv6 or not."""
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int, backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(error, os.strerror(error))
        return create(address, family=family, backlog=backlog)

    both = [
        (family, socket.SOCK_STREAM, 6, "", (address, 0))
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, HOST))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
    monkeypatch.setattr(socket, "create_server", without_ipv6)
    (sock,) = listen("localhost", [port])
    with sock:
        assert sock.getsockname() == (HOST, port)


# -- the end ------------------------------------------------------------------------------------------------------------


def test_close_waits_for_the_clients(port: int) -> None:
    served = TCPStore(HOST, port, serve=True)
    client = TCPStore(HOST, port)
    closing = threading.Thread(target=served.close)
    closing.start()
    for n in range(100):
        assert client.add("counter", 1) == n + 1
    assert closing.is_alive()
    client.close()
    closing.join(20.0)
    assert not closing.is_alive()
    served.close()


def test_close_does_not_wait_for_ever(port: int, caplog: pytest.LogCaptureFixture) -> None:
    served = TCPStore(HOST, port, serve=True, timeout=0.3)
    with TCPStore(HOST, port) as client:
        client.set("key", b"value")
        began = monotonic()
        served.close()
        assert monotonic() - began < 5.0
        with pytest.raises(RendezvousError) as caught:
            client.get("key", 1.0)
        assert str(caught.value).startswith(f"rendezvous failed: TCPStore('127.0.0.1', {port}) cannot be used: ")
        with pytest.raises(RendezvousError, match=r"was closed$"):
            client.get("key", 1.0)
    assert caplog.text == ""


def test_answer_that_is_late_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_ANSWER_SECONDS", 0.3)
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(line(port, b"") + pack([ANSWER]))
                assert done.wait(20.0)
                connection.sendall(pack([ANSWER, b"late"]))

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        with TCPStore(HOST, port) as client:
            with pytest.raises(RendezvousError, match="timed out"):
                client.peek(["key"])
            done.set()
            thread.join()
            with pytest.raises(RendezvousError, match=r"was closed$"):
                client.peek(["key"])


def test_value_that_is_too_long_says_so(served: TCPStore, port: int) -> None:
    with TCPStore(HOST, port) as client:
        client.set("long", bytes(16_000_000))
        assert len(client.get("long", 5.0)) == 16_000_000
        with pytest.raises(ValueError, match="bytes"):
            client.set("longer", bytes(17_000_000))
        assert client.peek(["longer"]) == [None]


# -- who counts, and who is interrupted ---------------------------------------------------------------------------------


def test_client_that_has_gone_does_not_take_a_place(port: int) -> None:
    with TCPStore(HOST, port, serve=True, clients=2, secret=SECRET):
        member = partial(TCPStore, HOST, port, secret=SECRET)
        member(rank=1).close()
        with member(rank=1) as first, member(rank=1) as again:
            assert (first.peek(["key"]), again.peek(["key"])) == ([None], [None])
            with connected(port) as stranger:
                stranger.sendall(line(port, SECRET) + bytes(NONCE_NBYTES))  # and nothing more
                with member(rank=2) as other:
                    assert other.peek(["key"]) == [None]
                    with pytest.raises(ConnectionRefusedError):
                        connected(port)


def test_interrupted_request_ends_the_connection(served: TCPStore, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its answer would be taken for that to the next request."""

    def interrupted(sock: BoundedSocket, nbytes: int) -> bytes:
        raise KeyboardInterrupt

    with TCPStore(HOST, port) as client:
        monkeypatch.setattr(BoundedSocket, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.peek(["key"])
        monkeypatch.undo()
        with pytest.raises(RendezvousError, match=r"was closed$"):
            client.peek(["key"])


def test_interrupted_close_ends_the_thread(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: threading.Event, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    server = TCPStore(HOST, port, serve=True)
    with TCPStore(HOST, port):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Event, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                server.close()
        with pytest.raises(ConnectionRefusedError):
            connected(port)


def test_failure_does_not_wait_for_clients(port: int) -> None:
    began = monotonic()
    with TCPStore(HOST, port, serve=True, timeout=20.0) as server, TCPStore(HOST, port):
        server.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert monotonic() - began < 10.0


def test_client_that_is_connected_to_itself_has_found_nobody(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    connect = socket.create_connection
    # What chance does once in some thousand times where the port is one that the kernel gives to clients.
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: connect(address, timeout, address))
    with pytest.raises(RendezvousError, match=r"Connection refused after 0\.0 s"):
        TCPStore(HOST, port, timeout=0.0)
