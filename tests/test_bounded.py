"""The deadline of a rendezvous, and how much is taken, whatever the store's server does."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
from faults.strangers import exactly, little_memory
from servers import HOST

from gloompi import Context, FileStore, HashStore, RendezvousError, Store
from gloompi.deadline import Deadline
from gloompi.stores import bounded
from gloompi.stores.bounded import MAX_NBYTES, BoundedSocket, budget, connect, request, within
from gloompi.stores.greeting import line
from gloompi.stores.serving import LENGTH, pack
from gloompi.stores.url import open_store

pytestmark = pytest.mark.usefixtures("nothing_leaks")

CLIENTS = {"redis": "redis", "etcd": "etcd3gw", "zookeeper": "kazoo", "tcp": "socket"}
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
# What a ZooKeeper says to a new session: version, milliseconds, its number and password; it may be written to.
SESSION = struct.pack(">iiiqi16s?", 37, 0, 2**31 - 1, 7, 16, bytes(16), False)
HUGE = 2**31 - 1

Talk = Callable[[socket.socket, int], None]


@contextmanager
def server(talk: Talk) -> Iterator[int]:
    """The port of a server that says what `talk` does to each client, to as many at a time as come."""
    threads: list[threading.Thread] = []
    opened: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            talk(connection, port)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                opened.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            thread.join()
            for connection in opened:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for each in threads:
                each.join()


def drip(connection: socket.socket, says: bytes) -> None:
    """A byte each twentieth of a second, without end; nothing, until the client hangs up."""
    while says or connection.recv(65536):
        for byte in says:
            connection.sendall(bytes([byte]))
            sleep(0.05)


def after(request_: Callable[[socket.socket], object], says: bytes, dripped: bytes = b"x") -> Talk:
    """Read something, say something, and drip."""

    def talk(connection: socket.socket, port: int) -> None:
        request_(connection)
        connection.sendall(says)
        drip(connection, dripped)

    return talk


def flood(says: bytes, flooded: bytes = b"x" * 65536) -> Talk:
    def talk(connection: socket.socket, port: int) -> None:
        connection.recv(65536)
        connection.sendall(says)
        while True:
            connection.sendall(flooded)

    return talk


def tcp(says: bytes, dripped: bytes | None = b"x") -> Talk:
    """A TCPStore's server that answers its first request as it should, and says something in answer to the next."""

    def talk(connection: socket.socket, port: int) -> None:
        exactly(connection, len(line(port, b"")))
        connection.sendall(line(port, b""))
        exactly(connection, *LENGTH.unpack(exactly(connection, LENGTH.size)))
        connection.sendall(pack([b"ok"]))
        connection.recv(65536)
        connection.sendall(says)
        if dripped is not None:
            drip(connection, dripped)
        while True:
            connection.sendall(bytes(65536))

    return talk


def twice(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(SESSION)
    connection.recv(65536)


def once(connection: socket.socket) -> None:
    connection.recv(65536)


SLOW: dict[str, tuple[str, Talk]] = {
    "redis, an answer": ("redis", after(once, b"$100000\r\n")),
    "redis, many answers": ("redis", after(once, b"*1000000\r\n", b"$-1\r\n")),
    "redis, nothing": ("redis", after(once, b"", b"")),
    "etcd, headers": ("etcd", after(once, HTTP, b"A: b\r\n")),
    "etcd, a body": ("etcd", after(once, HTTP + b"Content-Length: 100000\r\n\r\n", b" ")),
    "etcd, chunks": ("etcd", after(once, HTTP + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")),
    "zookeeper, a session": ("zookeeper", after(once, struct.pack(">i", 100_000))),
    "zookeeper, an answer": ("zookeeper", after(twice, struct.pack(">i", 100_000))),
    "zookeeper, silence": ("zookeeper", after(twice, b"", b"")),
    "tcp, a greeting": ("tcp", after(once, b"", b"gloompi store")),
    "tcp, an answer": ("tcp", tcp(struct.pack("<i", 100_000))),
}


def rendezvous(url: str, seconds: float) -> None:
    """As from_env has it, with rank 1 of 2."""
    deadline = Deadline(seconds)
    with within(deadline), open_store(url, rank=1, timeout=seconds) as store:
        Context.from_store(store, 1, 2, connect_timeout=deadline.remaining())


@pytest.mark.parametrize("what", SLOW)
def test_server_that_drips(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr("gloompi.stores.zookeeper._PARTING_SECONDS", 0.5)
    scheme, talk = SLOW[what]
    pytest.importorskip(CLIENTS[scheme])
    with server(talk) as port:
        began = monotonic()
        with pytest.raises(RendezvousError, match=str(port)):
            rendezvous(f"{scheme}://{HOST}:{port}", 0.6)
        assert monotonic() - began < 4.0  # with what is left to do at the deadline, and kazoo's goodbye


LARGE: dict[str, tuple[str, Talk]] = {
    "redis": ("redis", flood(b"$%d\r\n" % HUGE)),
    "redis, many answers": ("redis", flood(b"*%d\r\n" % HUGE, b"$1000\r\n" + bytes(1000) + b"\r\n")),
    "redis, a line": ("redis", flood(b"+")),
    "etcd": ("etcd", flood(HTTP + b"Content-Length: %d\r\n\r\n" % HUGE)),
    "etcd, a chunk": ("etcd", flood(HTTP + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n")),
    "etcd, no length": ("etcd", flood(HTTP + b"Connection: close\r\n\r\n")),
    "etcd, a line": ("etcd", flood(b"HTTP/1.1 200 ")),
    "zookeeper, a session": ("zookeeper", flood(struct.pack(">i", HUGE))),
    "tcp": ("tcp", tcp(struct.pack("<i", HUGE), None)),
    "tcp, nothing": ("tcp", tcp(struct.pack("<i", MAX_NBYTES + 1))),
}


@pytest.mark.parametrize("what", LARGE)
def test_server_that_says_too_much(what: str) -> None:
    """2 GiB are announced, or never end: it is an error long before the deadline, at the cap, in little memory."""
    scheme, talk = LARGE[what]
    pytest.importorskip(CLIENTS[scheme])
    with server(talk) as port:
        began = monotonic()
        with little_memory(6 * MAX_NBYTES), pytest.raises(RendezvousError, match=str(port)):
            rendezvous(f"{scheme}://{HOST}:{port}", 60.0)
        assert monotonic() - began < 30.0


PACKED = gzip.compress(b" " * 2**26, 6)


def packed(connection: socket.socket, port: int) -> None:
    connection.recv(65536)
    connection.sendall(HTTP + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED) + PACKED)


def elsewhere(connection: socket.socket, port: int) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % port)


@pytest.mark.parametrize("talk", [packed, elsewhere])
def test_etcd_that_packs_or_redirects(talk: Talk) -> None:
    pytest.importorskip("etcd3gw")
    with server(talk) as port, little_memory():
        with pytest.raises(RendezvousError, match="it redirects, or packs its answer"):
            rendezvous(f"etcd://{HOST}:{port}", 60.0)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"[]", b"null", b'{"responses": []}', b'{"responses": [[], 7]}', b'{"responses": null}']
)
def test_etcd_whose_answer_makes_no_sense(body: bytes) -> None:
    pytest.importorskip("etcd3gw")

    def talk(connection: socket.socket, port: int) -> None:
        for each in (b'{"etcdserver": "3.5.0"}', body):
            connection.recv(65536)
            connection.sendall(HTTP + b"Content-Length: %d\r\n\r\n" % len(each) + each)
        while connection.recv(65536):  # what is unread would reset the connection
            pass

    with server(talk) as port, open_store(f"etcd://{HOST}:{port}") as store:
        with pytest.raises(RendezvousError, match="what answers is not etcd"):
            store.peek(["a", "b"])


@pytest.mark.parametrize(
    "says", [b"*" + b"1\r\n*" * 5000, b"*0\r\n", b"*2\r\n*0\r\n*0\r\n", b":1\r\n", b"$x\r\n", b"*1\r\n$1\r\na\r\n"]
)
def test_redis_whose_answer_makes_no_sense(says: bytes) -> None:
    pytest.importorskip("redis")

    def talk(connection: socket.socket, port: int) -> None:
        while asked := connection.recv(65536):
            connection.sendall(says if b"MGET" in asked else b"+OK\r\n" * asked.count(b"*"))

    with server(talk) as port, open_store(f"redis://{HOST}:{port}/0?protocol=2") as store:
        with pytest.raises(RendezvousError, match=r"what answers is not Redis|cannot be used"):
            store.peek(["a", "b"])


# -- folders ------------------------------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, endless])
def test_folder_with_something_else_than_a_value(make: Callable[[Path], None], tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.set("gloompi/hello/0", b"value")
    (key,) = (each for each in (tmp_path / "store").iterdir() if each.is_dir())
    (value,) = key.glob("value-*")
    value.unlink()
    make(value)
    began = monotonic()
    with little_memory(), pytest.raises(PermissionError, match=value.name):
        Context.from_store(store, 0, 2, connect_timeout=60.0)
    assert monotonic() - began < 10.0


def test_folder_whose_key_never_settles(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.set("gloompi/hello/1", b"value")
    (now,) = (tmp_path / "store").glob("*/now-*")
    now.unlink()
    began = monotonic()
    with pytest.raises(RendezvousError, match=r"had no current value for \d s"):
        Context.from_store(store, 0, 2, connect_timeout=0.5)
    assert monotonic() - began < 8.0


# -- the deadline -------------------------------------------------------------------------------------------------------


def test_budget_is_the_earliest_of_those_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_GRACE_SECONDS", 1.0)
    assert budget(None).remaining() is None
    with within(Deadline(None)):
        assert budget(None).remaining() is None
        with within(Deadline(20.0)):
            assert 20.0 < (budget(None).remaining() or 0.0) <= 21.0
            assert 1.0 < (budget(2.0).remaining() or 0.0) <= 2.0
            with within(Deadline(50.0)), request(40.0) as deadline:
                assert 20.0 < (deadline.remaining() or 0.0) <= 21.0
    assert budget(None).remaining() is None


def test_each_thread_has_its_own_deadline() -> None:
    seen: list[float | None] = []
    with within(Deadline(1.0)):
        thread = threading.Thread(target=lambda: seen.append(budget(None).remaining()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_thread_that_waits_for_another_ones_answer(tmp_path: Path) -> None:
    """Two threads share a TCPStore whose server is silent: the deadline of the second counts from its own call."""
    with server(tcp(b"", b"")) as port, open_store(f"tcp://{HOST}:{port}", rank=1) as store:
        errors: list[Exception] = []

        def wait() -> None:
            try:
                store.get("key", 4.0)
            except RendezvousError as exc:
                errors.append(exc)

        first = threading.Thread(target=wait)
        first.start()
        sleep(0.3)
        began = monotonic()
        with pytest.raises(RendezvousError, match="another thread of this process waits"):
            store.get("key", 0.0)
        assert monotonic() - began < 3.5
        first.join()
        assert len(errors) == 1


@pytest.mark.parametrize("way", ["send", "receive", "read"])
def test_bounded_socket_keeps_to_the_request(way: str) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        sock = BoundedSocket(mine)
        sock.settimeout(None)
        ways = {
            "send": lambda: sock.sendall(bytes(64 * 1024**2)),
            "receive": lambda: sock.receive(1),
            "read": lambda: file.read(1),
        }
        file = sock.makefile()
        began = monotonic()
        with request(0.2), pytest.raises(TimeoutError):
            ways[way]()
        assert 0.2 <= monotonic() - began < 5.0
        with request(5.0, 3):
            theirs.sendall(b"1234")
            assert sock.receive(3) == b"123"
            with pytest.raises(ConnectionError, match="an answer of more than 3 bytes"):
                sock.receive(1)


def test_a_file_outlives_its_socket() -> None:
    """As an HTTP answer does that ends with the connection."""
    mine, theirs = socket.socketpair()
    with theirs:
        sock = BoundedSocket(mine)
        file = sock.makefile()
        sock.close()
        theirs.sendall(b"rest")
        assert file.read(4) == b"rest"
        file.close()
        assert theirs.recv(1) == b""


def test_every_address_of_a_name_is_tried_within_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(timeout)
        sleep(min(timeout, 0.3))
        raise TimeoutError("timed out")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 7)) for n in range(100)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: found)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    with request(1.0), pytest.raises(TimeoutError):
        connect("node7", 7, 0.3)
    assert 3 <= len(tried) <= 5
    assert max(tried) <= 0.3


def test_a_store_of_ones_own_is_asked_as_before() -> None:
    class Slow(HashStore):
        def _read(self, keys: Sequence[str]) -> list[bytes | None]:
            sleep(0.01)
            return super()._read(keys)

    store: Store = Slow()
    with pytest.raises(RendezvousError, match="rank 1 of 2 has not shown up"):
        Context.from_store(store, 0, 2, connect_timeout=0.2)
