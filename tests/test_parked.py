"""Messages that nobody has received yet, and the others: they get through, and as fast as without them."""

from __future__ import annotations

import gc
import random
import socket
import weakref
from collections.abc import Iterator
from time import monotonic

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.engine import messages
from gloompi.engine.engine import Engine
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.messages import CREDIT_NBYTES, EAGER_NBYTES
from gloompi.testing import run_ranks
from gloompi.transport.endpoint import Peer
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header
from gloompi.transport.pair import Pair

WAIT = 20.0

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])

# What is kept of all peers before it counts against their credit: as it is, and so that it counts at once.
budgets = pytest.mark.parametrize("budget", [messages.EARLY_NBYTES, 0])


def exchange(ctx: Context, nbytes: int, rounds: int) -> None:
    """Both send, and then receive."""
    peer = 1 - ctx.rank
    x, out = np.empty(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    for number in range(rounds):
        x[:] = number % 251
        ctx.send(x, peer)
        ctx.recv(out, peer)
        assert (out == number % 251).all()


@transports
@budgets
@pytest.mark.parametrize(
    ("parked", "nbytes"), [((180_000,) * 3, 8), ((110_000,) * 3, 250_000), ((48_000,) * 12, 8), ((256_000,) * 4, 8)]
)
@pytest.mark.parametrize("where", ["dup", "tag"])
def test_both_send_before_they_receive(
    parked: tuple[int, ...], nbytes: int, where: str, budget: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one credit's worth goes through beside what is parked."""
    monkeypatch.setattr(messages, "EARLY_NBYTES", budget)
    if budget == 0 and sum(parked) + 2 * nbytes > CREDIT_NBYTES:
        pytest.skip("nothing can be sent without asking, so one of the two has to receive first")

    def body(ctx: Context) -> None:
        with ctx.dup() as other:
            on, peer = (other if where == "dup" else ctx), 1 - ctx.rank
            sent = [on.isend(np.full(size, tag, np.uint8), peer, tag=tag) for tag, size in enumerate(parked, 1)]
            exchange(ctx, nbytes, 3 * CREDIT_NBYTES // (nbytes + HEADER_NBYTES) // (1 if nbytes > 1000 else 10))
            for tag, size in enumerate(parked, 1):
                out = np.zeros(size, np.uint8)
                on.recv(out, peer, tag=tag)
                assert (out == tag).all()
            for request in sent:
                request.wait()

    run_ranks(2, body, timeout=WAIT, device=Device(transport=transport))


@transports
@pytest.mark.parametrize("seed", range(6))
def test_random_parking(seed: int, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are parked and taken at random, in both directions; blocking exchanges of up to the eager size go on.

    With a random budget: a receive of one of two that exchange is posted before the other sends, so that the rule holds
    whatever is parked.
    """
    shared = random.Random(seed)
    monkeypatch.setattr(messages, "EARLY_NBYTES", shared.choice([0, CREDIT_NBYTES, messages.EARLY_NBYTES]))
    plan = []
    for _ in range(120):
        kind = shared.choice(["park", "park", "take", "exchange", "exchange", "exchange"])
        size = shared.choice([0, 1, 8, 1000, 60_000, 200_000, EAGER_NBYTES, EAGER_NBYTES + 1])
        plan.append((kind, size, shared.random()))

    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        parked: list[tuple[int, int]] = []
        sent = []
        with ctx.dup() as other:
            for tag, (kind, size, where) in enumerate(plan):
                if kind == "park":
                    sent.append(other.isend(np.full(size, tag % 251, np.uint8), peer, tag=tag))
                    parked.append((tag, size))
                elif kind == "take" and parked:
                    take(other, *parked.pop(int(where * len(parked))))
                elif kind == "exchange":
                    out = np.empty(size, np.uint8)
                    request = ctx.irecv(out, peer, tag=tag)
                    ctx.send(np.full(size, tag % 251, np.uint8), peer, tag=tag)
                    request.wait()
                    assert (out == tag % 251).all()
            for tag, size in parked:
                take(other, tag, size)
            for request in sent:
                request.wait()
            assert ctx.allreduce(np.ones(1))[0] == 2
            assert ctx._engine.messages._kept == 0
            link = ctx._engine._links[peer]
            assert link.kept == 0
            assert not ctx._conversation.messages.pushed
            assert not other._conversation.messages.pushed

    def take(ctx: Context, tag: int, size: int) -> None:
        out = np.empty(size, np.uint8)
        ctx.recv(out, 1 - ctx.rank, tag=tag)
        assert (out == tag % 251).all()

    run_ranks(2, body, timeout=WAIT, device=Device(transport=transport))


def test_what_is_parked_costs_no_round_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside 1 MiB and more that is parked, no message is announced."""
    kinds: list[int] = []
    write = Pair.write

    def noting(pair: Pair, header: bytes, payload: memoryview | None = None) -> bool:
        kinds.append(header[1])
        return write(pair, header, payload)

    def body(ctx: Context) -> None:
        with ctx.dup() as other:
            if ctx.rank == 0:
                sent = [other.isend(np.zeros(250_000, np.uint8), 1, tag=tag) for tag in range(8)]
            ctx.barrier()
            if ctx.rank == 0:
                ctx.iprobe()  # what has been given back since is here
            ctx.barrier()
            kinds.clear()
            for _ in range(500):  # four times the credit, but never much at a time
                if ctx.rank == 0:
                    ctx.send(np.ones(1000), 1)
                    ctx.recv(np.empty(0), 1)
                else:
                    ctx.recv(np.empty(1000), 0)
                    ctx.send(np.empty(0), 0)
            ctx.barrier()
            assert Kind.ANNOUNCE not in kinds
            if ctx.rank == 0:
                for request in sent:
                    assert request.done  # the receiver keeps them
            else:
                for tag in range(8):
                    other.recv(np.empty(250_000, np.uint8), 0, tag=tag)

    monkeypatch.setattr(Pair, "write", noting)
    run_ranks(2, body, timeout=WAIT)


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it the sender keeps its messages, and they come when they are asked for."""
    monkeypatch.setattr(messages, "EARLY_NBYTES", 3 * CREDIT_NBYTES)
    size, count = 100_000, 100

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            sent = [ctx.isend(np.full(size, tag, np.uint8), 1, tag=tag) for tag in range(count)]
            ctx.barrier()
            assert not all(request.done for request in sent)
            for request in sent:
                request.wait()
        else:
            ctx.barrier()
            until = monotonic() + WAIT
            while ctx._engine.messages._kept < 3 * CREDIT_NBYTES and monotonic() < until:
                ctx.iprobe(0, tag=count)  # more is pushed as credit is given
            kept = ctx._engine.messages._kept
            assert 2 * CREDIT_NBYTES < kept < 4 * CREDIT_NBYTES + size + 1024 * count
            for tag in reversed(range(count)):
                out = np.empty(size, np.uint8)
                ctx.recv(out, 0, tag=tag)
                assert (out == tag).all()
            assert ctx._engine.messages._kept == 0

    run_ranks(2, body, timeout=WAIT)


@pytest.mark.parametrize("matched", ["before", "after", "probed"])
def test_a_message_that_is_pushed_finds_the_receive_that_asks_for_it(matched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its receive was there when it was announced, comes later, or a matched probe has taken it."""
    monkeypatch.setattr(messages, "EARLY_NBYTES", 0)
    kinds: list[int] = []
    write = Pair.write

    def noting(pair: Pair, header: bytes, payload: memoryview | None = None) -> bool:
        kinds.append(header[1])
        return write(pair, header, payload)

    monkeypatch.setattr(Pair, "write", noting)

    def body(ctx: Context) -> None:
        full = 4
        if ctx.rank == 0:
            sent = [ctx.isend(np.full(EAGER_NBYTES - HEADER_NBYTES, tag, np.uint8), 1, tag=tag) for tag in range(full)]
            late = [ctx.isend(np.full(size, 100 + size, np.uint8), 1, tag=7) for size in (8, 9, 10)]
            assert not late[0].done
            ctx.recv(np.empty(0), 1, tag=1)
            for request in (*sent, *late):
                request.wait()
            ctx.recv(np.empty(0), 1, tag=2)
            assert not ctx._conversation.messages.pushed
            return
        outs = [np.empty(size, np.uint8) for size in (8, 9, 10)]
        ctx.probe(0, tag=7)
        requests = [ctx.irecv(out, 0, tag=7) for out in outs] if matched == "before" else []
        found = [ctx.mprobe(0, tag=7) for _ in outs] if matched == "probed" else []
        ctx.send(np.empty(0), 0, tag=1)
        for tag in range(full):
            ctx.recv(np.empty(EAGER_NBYTES, np.uint8), 0, tag=tag)
        if matched == "after":
            for _ in range(50):
                ctx.iprobe(0, tag=8)
            for out in outs:
                ctx.recv(out, 0, tag=7)
        for message, out in reversed(list(zip(found, outs, strict=False))):
            message.recv(out)
        for request in requests:
            request.wait()
        for out in outs:
            assert (out == 100 + len(out)).all()
        ctx.send(np.empty(0), 0, tag=2)

    run_ranks(2, body, timeout=WAIT)
    if matched == "after":
        assert Kind.PUSHED in kinds


# -- what is announced for lack of credit ---------------------------------------------------------------------------------


@pytest.fixture
def ranks() -> Iterator[tuple[Context, socket.socket]]:
    """Rank 0 of two, and the other end of its connection to rank 1."""
    peers = [Peer(0, "node0", 100, "unix", "a"), Peer(1, "node1", 101, "unix", "b")]
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    ctx = Context(Engine(0, peers, [None, mine]), 10.0)
    with theirs:
        yield ctx, theirs
    ctx.abort("over")


def begun(ctx: Context, count: int) -> list[weakref.ref[object]]:
    """Begin to send arrays that nobody else keeps."""
    arrays = [np.full(8, number, np.uint8) for number in range(count)]
    for array in arrays:
        ctx.isend(array, 1, tag=7)
    return [weakref.ref(array) for array in arrays]


@pytest.mark.parametrize("way", ["asked for", "taken", "pushed"])
def test_what_has_been_sent_is_not_kept_for_its_lack_of_credit(way: str, ranks: tuple[Context, socket.socket]) -> None:
    ctx, theirs = ranks
    link = ctx._engine._links[1]
    link.credit = 0
    refs = begun(ctx, 5)
    assert len(link.starved) == 5
    if way == "pushed":
        theirs.sendall(pack_header(Kind.CREDIT, 0, 0, 5 * (8 + HEADER_NBYTES)))
    else:
        kind = Kind.CLEAR if way == "asked for" else Kind.TAKEN
        theirs.sendall(pack_header(kind, 0, 7, 0, fingerprint("send", np.dtype("u1"), 8)) * 5)
    assert ctx.iprobe(1) is None
    assert not link.starved
    gc.collect()
    assert not any(ref() is not None for ref in refs)


def test_what_was_never_sent_is_not_kept_when_its_context_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To oneself: to others it has been asked for, or else the Context breaks."""
    monkeypatch.setattr(messages, "EARLY_NBYTES", 0)

    def body(ctx: Context) -> None:
        with ctx.dup() as other:
            for _ in range(6):
                other.isend(np.zeros(EAGER_NBYTES - HEADER_NBYTES, np.uint8), 0)
            assert len(ctx._engine._links[0].starved) == 2
        assert not ctx._engine._links[0].starved
        assert ctx._engine.messages._kept == 0

    run_ranks(1, body, timeout=WAIT)


@pytest.mark.parametrize("parked", [1, 9])
def test_room_that_others_make_is_for_all(
    parked: int, ranks: tuple[Context, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept of this rank itself is received: then its peer has credit again, if it had little left."""
    monkeypatch.setattr(messages, "EARLY_NBYTES", 700_000)
    ctx, theirs = ranks
    size = 60_000
    for tag in range(2):
        ctx.isend(np.zeros(200_000, np.uint8), 0, tag=tag)
    mark = fingerprint("send", np.dtype("u1"), size)
    for _ in range(parked):
        theirs.sendall(pack_header(Kind.MESSAGE, 0, 7, size, mark) + bytes(size))
        ctx.iprobe(1, tag=8)
    for _ in range(50):
        ctx.iprobe(1, tag=8)
    link = ctx._engine._links[1]
    assert link.granted == CREDIT_NBYTES - parked * (size + HEADER_NBYTES)
    out = np.empty(200_000, np.uint8)
    for tag in range(2):
        ctx.recv(out, 0, tag=tag)
    theirs.setblocking(False)
    if parked == 1:
        assert link.granted == CREDIT_NBYTES - size - HEADER_NBYTES  # enough for what one sends before one receives
        with pytest.raises(BlockingIOError):
            theirs.recv(HEADER_NBYTES)
    else:
        assert link.granted == CREDIT_NBYTES
        assert theirs.recv(1000) == pack_header(Kind.CREDIT, 0, 0, parked * (size + HEADER_NBYTES))
