"""What reads bytes before there are connections, or beside them: stores, the store that a rank serves, and certificates."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec
from select import EPOLLIN

from gloompi.deadline import Deadline
from gloompi.errors import RendezvousError
from gloompi.rendezvous.exchange import no_watch
from gloompi.rendezvous.record import RECORD_NBYTES, Record
from gloompi.rendezvous.securing import _Connection, _Failure
from gloompi.rendezvous.signing import sign, signing_key
from gloompi.rendezvous.store import exchange_through
from gloompi.stores.bounded import BoundedSocket
from gloompi.stores.greeting import NONCE_NBYTES, PROOF_NBYTES, greet, line
from gloompi.stores.server import Server
from gloompi.stores.serving import ANSWER, LENGTH, MAX_NBYTES, ServedStore, answer, pack, unpack
from gloompi.stores.store import Store
from gloompi.stores.tcp import TCPStore
from gloompi.transport.certificate import make_certificate
from gloompi.transport.endpoint import Endpoint

from .target import Target

__all__ = ["STORE_TARGETS"]

_SECRET = b"the ranks know it"
_BETWEEN = b"\x1e"
_KINDS = ("hello", "offer", "ack", "trace", "gone", "record", "mine")


class Looks(Deadline):
    """A deadline that expires after so many looks, and lets nobody sleep."""

    def __init__(self, count: int) -> None:
        super().__init__(1.0)
        self.count = count

    def expired(self) -> bool:
        self.count -= 1
        return self.count < 0

    def before(self, seconds: float) -> Deadline:
        return Deadline(0.0)


class Overwritten(Store):
    """A store that holds what this rank has written, and where it has not, what somebody else has.

    What others have written is, for each kind of key, one value; NONCE, SESSION and SIGNED in it stand for this rank's
    nonce, the session on offer, and the signature of a rank that has the secret.
    """

    def __init__(self, values: Sequence[bytes], rank: int, size: int) -> None:
        self.mine: dict[str, bytes] = {}
        self.values = dict(zip(_KINDS, values, strict=False))
        self.rank, self.size = rank, size

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._value(key) for key in keys]

    def _value(self, key: str) -> bytes | None:
        key = key.removeprefix("gloompi/")
        kind, _, rest = key.partition("/")
        if kind not in _KINDS:
            kind = "gone" if rest == "gone" else "record"
        if key in self.mine:
            return self.values.get("mine") or self.mine[key] if key == f"hello/{self.rank}" else self.mine[key]
        value = self.values.get(kind, b"").replace(b"NONCE", self._fact(f"hello/{self.rank}", "nonce"))
        value = value.replace(b"SESSION", self._fact("offer/1", "session"))
        if kind == "record" and value.startswith(b"SIGNED"):
            value = value[6:]
            session, number, rank = key.split("/")
            before = sha256(f"gloompi meeting\0 {session}".encode()).digest()
            value = sign(signing_key(_SECRET), self.size, int(number), int(rank), before, value) + value
        return value or None

    def _fact(self, key: str, name: str) -> bytes:
        return str(json.loads(self.mine.get(key, b"{}")).get(name, "")).encode()

    def _write(self, items: Mapping[str, bytes]) -> None:
        self.mine.update((key.removeprefix("gloompi/"), value) for key, value in items.items())

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        self._write({key: new})
        return True

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.mine.pop(key.removeprefix("gloompi/"), None)


def _store(data: bytes) -> None:
    """Which rank of how many, and what others have written: the ranks meet, or there is an error that can be shown."""
    rank, size = data[0] & 1 if data else 0, 2 + (data[0] >> 1 & 1 if data else 0)
    store = Overwritten(data[1:].split(_BETWEEN), rank, size)
    try:
        with exchange_through(store, rank, size, _SECRET, Looks(8)) as exchange:
            for packed in exchange(bytes(RECORD_NBYTES), Looks(3), no_watch):
                with suppress(ValueError):
                    Record.unpack(packed)
    except RendezvousError as exc:
        text = str(exc).encode()
        assert 0 < len(text) < 8000


def _store_seeds() -> list[bytes]:
    nobody = Endpoint("node0", 100, 1, bytes(16), b"", ())
    record = b"SIGNED" + Record(nobody, bytes(32), "no free port").pack()
    follows = [
        json.dumps({"nonce": "12", "size": 2, "host": "node0", "pid": 1}).encode(),
        json.dumps({"nonce": "NONCE", "session": "34", "size": 2}).encode(),
        b"34",
        b"34 2",
    ]
    leads = [follows[0], b"", b"SESSION", b""]
    failed = [follows[0], json.dumps({"nonce": "NONCE", "failed": "no ranks"}).encode()]
    other = [*leads, b"", b"", json.dumps({"nonce": "56", "host": "node1", "pid": 7}).encode()]
    deep = [b'{"nonce": ' + b"[" * 900 + b"]" * 900 + b', "size": [[2]]}', b"", b"SESSION"]
    half = [b'{"nonce": "\\ud800", "size": 3}', b'{"nonce": "NONCE", "session": "\\ud800", "size": 2}']
    told = [b"", b'{"nonce": "NONCE", "failed": "\\ud800"}']
    return [
        b"\x01" + _BETWEEN.join([*follows, b"", record]),
        b"\x00" + _BETWEEN.join([*leads, b"", record]),
        b"\x00" + _BETWEEN.join([*leads, b"rank 1 gave up", b""]),
        b"\x01" + _BETWEEN.join([*follows, b"rank 0 gave up", b""]),
        b"\x01" + _BETWEEN.join(failed),
        b"\x00" + _BETWEEN.join([b"", b"", b"", b"78 300"]),
        *(bytes([rank]) + _BETWEEN.join(each) for rank in (0, 1, 2) for each in (other, deep, half, told)),
    ]


# -- the store that a rank serves ---------------------------------------------------------------------------------------


def _requests(data: bytes) -> None:
    """Frames of a client that has greeted: answered, or it is dropped."""
    store, position = ServedStore(), 0
    with suppress(ValueError):
        while len(data) - position >= LENGTH.size:
            (nbytes,) = LENGTH.unpack_from(data, position)
            position += LENGTH.size
            if not 0 < nbytes <= min(MAX_NBYTES, len(data) - position):
                return
            request = unpack(data[position : position + nbytes])
            assert unpack(pack(request)[LENGTH.size :]) == request
            position += nbytes
            assert unpack(pack(answer(store, request))[LENGTH.size :])


_REQUESTS: list[list[bytes | None]] = [
    [b"write", b"a", b"1", b"b", b"22"],
    [b"read", b"a", b"c"],
    [b"swap", b"a", b"1", b"3"],
    [b"swap", b"c", None, b"3"],
    [b"add", b"a", b"5"],
    [b"append", b"b", b"x"],
    [b"remove", b"a", b"b"],
]


class _Line:
    """A socket that gives away what it is made of, and takes everything."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def gettimeout(self) -> None:
        pass

    def settimeout(self, timeout: float | None) -> None:
        pass

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, nbytes: int) -> bytes:
        bytearray(nbytes)  # as a socket does, before it knows how much there is
        piece, self.data = self.data[:nbytes], self.data[nbytes:]
        return piece

    def close(self) -> None:
        self.data = b""


def _answers(data: bytes) -> None:
    """Frames of what serves the store: the answers to some requests, or an error."""
    store = TCPStore.__new__(TCPStore)
    vars(store).update(_host="node0", _ports=[7000], _server=None, _sock=BoundedSocket(_Line(data)), _lock=threading.Lock())
    with suppress(RendezvousError):
        with suppress(ValueError):  # an answer that is the text of an error
            assert len(store._read(["a", "b"])) == 2
        with suppress(ValueError):
            assert isinstance(store._swap("a", None, b"1"), bool)
        with suppress(ValueError):
            assert isinstance(store._add("a", 1), int)
        with suppress(ValueError):
            store._append("a", b"1")


class _Wire(_Line):
    """A connection that the server has accepted."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self.step = step
        self.told = b""
        self.open = True

    def fileno(self) -> int:
        return 1000 if self.open else -1

    def recv(self, nbytes: int) -> bytes:
        return super().recv(min(nbytes, self.step))

    def send(self, data: bytes) -> int:
        self.told += data
        return len(data)

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 7

    def close(self) -> None:
        self.open = False


class _Nothing:
    """An epoll that watches nothing."""

    def register(self, fd: int, mask: int) -> None:
        pass

    modify = register

    def unregister(self, fd: int) -> None:
        pass


def _served(data: bytes) -> None:
    """Whether there is a secret, how long the pieces are, and what a stranger says from the first byte on.

    LINE and SECRET stand for the lines with and without one.
    """
    secret = _SECRET if data and data[0] & 1 else b""
    says = data[1:].replace(b"LINE", line(7000, b"")).replace(b"SECRET", line(7000, _SECRET))
    store, wire = ServedStore(), _Wire(says, 1 + (data[0] >> 1 if data else 0))
    server = Server(store, [], 7000, 1, secret)
    try:
        server._epoll.close()
        vars(server).update(_epoll=_Nothing(), _told=float("inf"))
        server._meet(wire)
        (client,) = server._clients.values()
        while wire.open:
            assert client.mask == EPOLLIN
            server._attend(client, EPOLLIN)
            assert len(client.received) <= max(MAX_NBYTES, len(says))
            while server._quick or server._slow:  # a slice may be over before it has begun, on a busy machine
                server._serve(server._quick)
                server._serve(server._slow)
        if secret:
            assert not store._items
            assert len(wire.told) <= len(line(7000, b"")) + NONCE_NBYTES
        assert not server._clients
        assert not server._strangers
        assert not server._places
    finally:
        server._waker = os.close(server._waker) or -1


def _greetings(data: bytes) -> None:
    """What answers a client on the store's port: with a secret, nothing that can be made up does."""
    secret = _SECRET if data and data[0] & 1 else b""
    answers = data[1:].replace(b"LINE", line(7000, secret)).replace(b"OTHER", line(7000, b"" if secret else _SECRET))
    try:
        greet(BoundedSocket(_Line(answers)), 7000, secret)
    except OSError:
        return
    assert not secret
    assert answers.startswith(line(7000, b""))


# -- certificates ---------------------------------------------------------------------------------------------------------


# This rank's and the peer's; they keep a descriptor each.
_MINE, _THEIRS = (make_certificate() if find_spec("cryptography") else None for _ in range(2))


def _certificate(data: bytes) -> None:
    """How long the pieces are, and what a peer sends before and in the TLS handshake; CERT stands for its certificate."""
    assert _MINE is not None
    assert _THEIRS is not None
    who = Endpoint("node1", 101, 1, bytes(16), b"", (), digest=_THEIRS.digest)
    step = 1 + 4 * data[0] if data else 1
    stream = data[1:].replace(b"CERT", LENGTH.pack(len(_THEIRS.der)) + _THEIRS.der)
    with socket.socket() as sock:
        connection = _Connection(sock, 1, who, _MINE, serves=len(data) % 2 == 0)
        try:
            for start in range(0, len(stream), step):
                connection.take(stream[start : start + step])
        except _Failure as exc:
            reason = exc.reason.encode()
            assert reason
        assert not connection.done  # without the key nobody gets in
        assert len(connection._received) <= 4 + 4096 + step


def _certificate_seeds() -> list[bytes]:
    hello = b"\x16\x03\x01\x00\x2e\x01\x00\x00\x2a\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00"
    return [
        bytes([step]) + each
        for step in (20, 255)
        for each in (b"CERT", b"CERT" + hello, b"CERT" + hello[:-1], LENGTH.pack(4096), LENGTH.pack(300) + bytes(300))
    ]


_ALL = b"".join(map(pack, _REQUESTS))
STORE_TARGETS = {
    "served": Target(
        _served,
        [
            *(bytes([step]) + b"LINE" + pack([b"join", b"1"]) + _ALL for step in (0, 8, 254)),
            b"\xfeLINE" + LENGTH.pack(MAX_NBYTES) + bytes(100),
            *(bytes([step]) + b"SECRET" + bytes(NONCE_NBYTES + PROOF_NBYTES) + _ALL for step in (1, 9, 255)),
            b"\xffLINE" + _ALL,
            b"\xfeSECRET" + _ALL,
        ],
    ),
    "greeting": Target(
        _greetings,
        [b"\0LINE", b"\1LINE" + bytes(NONCE_NBYTES + PROOF_NBYTES), b"\1OTHER", b"\0OTHER", b"\1LINE" + bytes(NONCE_NBYTES)],
    ),
    "store": Target(_store, _store_seeds()),
    "requests": Target(_requests, [pack(each) for each in _REQUESTS] + [b"".join(map(pack, _REQUESTS))]),
    "answers": Target(
        _answers,
        [
            pack([ANSWER, b"1", None]) + pack([ANSWER, b"1"]) + pack([ANSWER, b"7"]) + pack([ANSWER]),
            pack([b"the key holds no number"]) * 4,
            LENGTH.pack(-1),
            LENGTH.pack((1 << 31) - 1) + bytes(40),
        ],
    ),
}
if find_spec("cryptography"):
    STORE_TARGETS["certificate"] = Target(_certificate, _certificate_seeds())
