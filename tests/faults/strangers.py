"""Ranks that listen, and strangers at their door: what the tests of the mesh and of its enemies share."""

from __future__ import annotations

import dataclasses
import logging
import socket
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise

import pytest

from gloompi.deadline import Deadline
from gloompi.rendezvous.connecting import Connecting
from gloompi.transport.device import Device
from gloompi.transport.handshake import Session, Transport, dial
from gloompi.transport.route import Route, routes

DEVICES = {"tcp": Device(host="127.0.0.1", transport="tcp"), "unix": Device(transport="unix")}

TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))
HTTP = b"GET / HTTP/1.1\r\nHost: node0\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
ANOTHER = Session([bytes(32)] * 2)

Connected = tuple[list[Route | None], list[socket.socket | None]]


class Ranks:
    """Listening sockets of some ranks "node0", "node1", ... with pid 100, 101, ... in this process.

    Parameters
    ----------
    size : int
    transport : str
    session : Session, optional
        Theirs.  Default: the same in all tests.
    port : int
        Rank 0 listens there, if the transport is TCP.
    """

    def __init__(self, size: int, transport: str, session: Session | None = None, port: int = 0) -> None:
        self.size = size
        self.way = Transport.UNIX if transport == "unix" else Transport.TCP
        first = Device(host="127.0.0.1", transport="tcp", port=port) if port else DEVICES[transport]
        self.listeners = [(DEVICES[transport] if rank else first).listen(1024) for rank in range(size)]
        self.endpoints = [
            dataclasses.replace(each.endpoint, host=f"node{rank}", pid=100 + rank)
            for rank, each in enumerate(self.listeners)
        ]
        self.session = session or Session([bytes([rank + 1]) * 32 for rank in range(size)])
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

    def connect(self, rank: int, timeout: float = 30.0, ways: list[list[Route]] | None = None) -> Connected:
        connecting = Connecting(rank, self.endpoints, ways or self.ways(rank), self.listeners[rank].sockets, self.session)
        try:
            connecting.run(Deadline(timeout))
            sockets, taken = connecting.hand_over()
        finally:
            connecting.close()
        self.opened += [sock for sock in sockets if sock is not None]
        return taken, sockets

    def begin(self, rank: int, timeout: float = 30.0) -> Future[Connected]:
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
    flights = dial(session or ranks.session, dialer, acceptor, ranks.way)
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


def let_in(ranks: Ranks, accepting: Future[Connected]) -> None:
    """Let rank 1 come: it gets its connection."""
    _, sockets = ranks.connect(1)
    talk(accepting.result()[1][1], sockets[0])


@contextmanager
def little_memory(nbytes: int = 16 * 1024 * 1024) -> Iterator[None]:
    """What Python allocates meanwhile, in all threads, stays below `nbytes` at every moment."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < nbytes
