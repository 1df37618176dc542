"""A man in the middle who changes what the ranks tell each other, and then their connections, with TLS on.

He lets each rank have a record of the other that names his own address and his own certificate, carries the handshake from
one to the other, and ends TLS on both sides.  Three things keep him out, each by itself; where all three are taken away he
reads everything, so that it is his attack that is tried here.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_interface
from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device, RendezvousError
from gloompi.deadline import Deadline
from gloompi.rendezvous import mesh
from gloompi.rendezvous.exchange import Exchange
from gloompi.rendezvous.local import LocalExchange, _Board
from gloompi.rendezvous.record import Record
from gloompi.rendezvous.securing import Securing
from gloompi.rendezvous.signing import SIGNATURE_NBYTES, Signed
from gloompi.transport.certificate import make_certificate
from gloompi.transport.endpoint import Address, Endpoint, Nearness
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES, Session
from gloompi.transport.tls import Encrypted

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SECRET = b"what only the ranks have, 128 bit"
WORDS = b"what only the ranks may know, "
DEVICE = Device(host="127.0.0.1", transport="tcp", tls=True)


class Middle:
    """Sits between rank 0, who listens, and rank 1, who dials.

    Attributes
    ----------
    heard : bytes
        What he has read of what the ranks have sent each other.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self._as_rank = [make_certificate(), make_certificate()]
        self._records: list[Record] = []
        self._known = threading.Event()
        self._over = threading.Event()
        self.heard = b""
        self._thread = threading.Thread(target=self._attack)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(20)
        self._listener.close()
        for certificate in self._as_rank:
            certificate.close()

    def between(self, exchange: Exchange) -> Exchange:
        return _Altered(exchange, self._alter)

    def _alter(self, rank: int, records: list[bytes]) -> list[bytes]:
        """The records as `rank` gets them: signatures stay as they were, he cannot make them."""
        if not self._known.is_set():
            self._records = [Record.unpack(each[SIGNATURE_NBYTES:]) for each in records]
            self._known.set()
        other = 1 - rank
        record = Record.unpack(records[other][SIGNATURE_NBYTES:])
        here = Address(ip_interface("127.0.0.1/8"), self._listener.getsockname()[1], Nearness.LOOPBACK, 1)
        forged = dataclasses.replace(record.endpoint, addresses=(here,), digest=self._as_rank[other].digest)
        changed = list(records)
        changed[other] = records[other][:SIGNATURE_NBYTES] + record._replace(endpoint=forged).pack()
        return changed

    def _attack(self) -> None:
        while not self._over.is_set():
            try:
                one, _ = self._listener.accept()
            except TimeoutError:
                continue
            with suppress(OSError, RendezvousError), one, socket.create_connection(self._door()) as zero:
                self._relay(one, zero)

    def _door(self) -> tuple[str, int]:
        self._known.wait(20)
        (address,) = self._records[0].endpoint.addresses
        return str(address.ip.ip), address.port

    def _relay(self, one: socket.socket, zero: socket.socket) -> None:
        for sock in (one, zero):
            sock.settimeout(5)
        for source, target, nbytes in (
            (one, zero, HELLO_NBYTES),
            (zero, one, ANSWER_NBYTES),
            (one, zero, PROOF_NBYTES),
            (zero, one, PROOF_NBYTES),
        ):
            flight = source.recv(nbytes, socket.MSG_WAITALL)
            if len(flight) < nbytes:
                return
            target.sendall(flight)
        endpoints = [record.endpoint for record in self._records]
        with ThreadPoolExecutor(2) as pool:
            made = pool.map(self._end, (0, 1), (endpoints, endpoints), ([None, one], [zero, None]))
        to_one, to_zero = made
        while not self._over.is_set():
            self._carry(to_one, to_zero)
            self._carry(to_zero, to_one)

    def _end(self, rank: int, endpoints: list[Endpoint], sockets: list[socket.socket | None]) -> Encrypted:
        """TLS with the other rank, as `rank`."""
        for sock in sockets:
            if sock is not None:
                sock.setblocking(False)
        securing = Securing(rank, endpoints, sockets, self._as_rank[rank])
        try:
            securing.run(Deadline(5.0))
        finally:
            securing.close()
        return securing.streams[1 - rank]

    def _carry(self, source: Encrypted, target: Encrypted) -> None:
        source.sock.settimeout(0.01)
        with suppress(TimeoutError):
            data = source.sock.recv(65536)
            if not data:
                raise ConnectionError
            source.incoming.write(data)
        with suppress(OSError):  # nothing whole has come
            while plain := source.tls.read(65536):
                self.heard += plain
                target.tls.write(plain)
        target.sock.settimeout(5)
        target.sock.sendall(target.outgoing.read())


class _Altered:
    def __init__(self, exchange: Exchange, alter: Callable[[int, list[bytes]], list[bytes]]) -> None:
        self.rank, self.size, self._exchange, self._alter = exchange.rank, exchange.size, exchange, alter
        self._first = True

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        records = self._exchange(record, deadline, watch)
        first, self._first = self._first, False
        return self._alter(self.rank, records) if first else records


@pytest.fixture
def middle() -> Iterator[Middle]:
    made = Middle()
    try:
        yield made
    finally:
        made.close()


def meet(middle: Middle, timeout: float) -> list[object]:
    """What two ranks with a secret and TLS tell each other, or why they do not."""
    board = _Board(2)

    def rank(number: int) -> object:
        exchange = Signed(middle.between(LocalExchange(number, board)), SECRET)
        try:
            with Context._from_exchange(exchange, DEVICE, 20.0, Deadline(timeout), SECRET) as ctx:
                assert ctx.peers[1 - number].transport == "tls"
                ctx.send(np.frombuffer(WORDS, "u1"), 1 - number)
                out = np.empty(len(WORDS), "u1")
                ctx.recv(out, 1 - number)
                return out.tobytes()
        except RendezvousError as exc:
            return exc

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, range(2)))


# Each takes one thing away that keeps him out.


def believe_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signatures of the records are not looked at."""
    monkeypatch.setattr(Signed, "_verified", lambda each, rank, signed: signed[SIGNATURE_NBYTES:])


def key_of_random_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is made of what is random in the records, and not of the rest."""

    def session(records: Sequence[bytes], *others: Any) -> Session:
        return Session([Record.unpack(each).entropy for each in records], *others)

    monkeypatch.setattr(mesh, "Session", session)


def handshake_without_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake does not say with which certificates the connection is going to be encrypted."""
    made = Session.__init__
    monkeypatch.setattr(Session, "__init__", lambda each, records, secret, digests: made(each, records, secret))


def test_in_the_records(middle: Middle) -> None:
    for rank, error in enumerate(meet(middle, 20.0)):
        assert isinstance(error, RendezvousError)
        assert error.rank == 1 - rank
        assert error.reason.startswith("its record is not signed with this rank's secret")
    assert middle.heard == b""


@pytest.mark.parametrize(
    ("without", "refused"),
    [
        ([believe_anything], "it belongs to another session"),
        ([believe_anything, handshake_without_certificates], "it belongs to another session"),
        ([believe_anything, key_of_random_bytes], "wrong HMAC in its answer: it does not hold the session key"),
    ],
    ids=["without signatures", "without signatures and certificates", "without signatures and records in the key"],
)
def test_in_the_connections(
    middle: Middle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    without: list[Callable[[pytest.MonkeyPatch], None]],
    refused: str,
) -> None:
    for take_away in without:
        take_away(monkeypatch)
    results = meet(middle, 3.0)
    assert all(isinstance(error, RendezvousError) for error in results), results
    assert middle.heard == b""
    assert refused in caplog.text + " ".join(map(str, results))


def test_he_gets_in_where_nothing_keeps_him_out(middle: Middle, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tests above are some."""
    for take_away in (believe_anything, key_of_random_bytes, handshake_without_certificates):
        take_away(monkeypatch)
    assert meet(middle, 20.0) == [WORDS, WORDS]
    assert WORDS in middle.heard
