"""A signal handler that raises anywhere: no wrong data at the peer, and the Context stays usable or says why not."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from gloompi import Context, PeerLostError
from gloompi.engine.engine import Engine
from gloompi.transport.endpoint import Peer

PEERS = [Peer(0, "here", 1, "unix", "a"), Peer(1, "here", 2, "unix", "b")]
COUNT = 1 << 21


class Interrupted(Exception):
    """What the handler raises."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise in the body when it has used that much processor time."""

    def handler(*_: object) -> None:
        raise Interrupted

    # Not SIGALRM, which pytest-timeout lives on. Again after a while: what is raised in a destructor is lost.
    before = signal.signal(signal.SIGPROF, handler)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.3)
    try:
        yield
    except Interrupted:
        pass
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def receive_until_lost(sock: socket.socket, says: int) -> None:
    """The peer, in a process of its own: says what it made of what came."""
    sock.setblocking(False)
    ctx = Context(Engine(1, PEERS, [sock, None]), 10.0)
    wanted = np.arange(COUNT)
    try:
        while True:
            x = np.zeros(COUNT, int)
            ctx.recv(x, 0)
            if not np.array_equal(x, wanted):
                os.write(says, b"wrong data")
                return
    except PeerLostError as exc:
        os.write(says, str(exc).encode())


@pytest.mark.parametrize("trial", range(8))
def test_an_interrupted_send_is_never_taken_for_data(trial: int) -> None:
    mine, theirs = socket.socketpair()
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mine.close()
            receive_until_lost(theirs, says)
        finally:
            os._exit(0)
    theirs.close()
    os.close(says)
    mine.setblocking(False)
    ctx = Context(Engine(0, PEERS, [None, mine]), 10.0)
    x = np.arange(COUNT)
    try:
        with interrupted_after(0.02 + 0.003 * trial), ctx:
            while True:
                ctx.send(x, 1)
        assert ctx.closed
        with os.fdopen(hears, "rb") as heard:
            said = heard.read().decode()
        assert "Interrupted" in said or "short of a message" in said or "connection closed by peer" in said, said
    finally:
        os.waitpid(child, 0)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """What the collector of cycles calls swallows exceptions, and they would be missing where they are wanted."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_an_interrupt_never_leaves_the_turn_taken() -> None:
    for trial in range(150):
        ctx = Context(Engine(0, PEERS[:1], [None]), 5.0)
        with interrupted_after(0.0005 + 1e-6 * trial):
            while True:
                ctx.allreduce(np.ones(2))
        ctx.abort("done")  # whatever state it is in
        assert ctx.closed
