"""Messages that nobody has received yet, and the others: they get through, and as fast as without them."""

from __future__ import annotations

import gc
import random
import socket
import weakref
from itertools import permutations
from time import monotonic

import numpy as np
import pytest

from gloompi import Context, Device
from gloompi.engine import messages
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.messages import CREDIT_NBYTES, EAGER_NBYTES
from gloompi.testing import run_ranks
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header, unpack_header
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


def nothing_left(ctx: Context) -> bool:
    """Whether nothing is kept about any message, at its sender or its receiver."""
    channel = ctx._conversation.messages
    sent = (channel.waiting, channel.unanswered)
    return not any((*sent, channel.announced, channel.awaiting, channel.held, channel.unasked))


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
            assert nothing_left(ctx)
            assert nothing_left(other)

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
            assert not ctx._conversation.messages.unanswered
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


@pytest.mark.parametrize("answers", ["before", "after"])
@pytest.mark.parametrize("large", [0, 1, 3])
def test_what_lacked_credit_is_pushed_past_what_waits_for_its_receive(
    large: int, answers: str, ranks: tuple[Context, socket.socket]
) -> None:
    """By number; its answer means nothing, and those of the large ones of the same tag before and behind it stay theirs."""
    ctx, theirs = ranks
    link = ctx._engine._links[1]
    ctx.isend(np.zeros(0, np.uint8), 1, tag=6)
    theirs.recv(HEADER_NBYTES)
    link.credit = 0
    size = EAGER_NBYTES + 1
    sizes = [size] * large + [8, 9, size]
    requests = [ctx.isend(np.full(nbytes, number, np.uint8), 1, tag=7) for number, nbytes in enumerate(sizes)]
    announced = [unpack_header(header(theirs), 0) for _ in sizes]
    assert [(each[1], each[4]) for each in announced] == [(Kind.ANNOUNCE, nbytes) for nbytes in sizes]
    credit = pack_header(Kind.CREDIT, 0, 0, 9 + HEADER_NBYTES)  # for the second of two alone
    link.credit -= 1
    clears = pack_header(Kind.CLEAR, 0, 7, 0, fingerprint("send", np.dtype("u1"), 8)) * len(sizes)
    theirs.sendall(pack_header(Kind.CREDIT, 0, 0, 9 + HEADER_NBYTES) + clears if answers == "after" else clears + credit)
    assert ctx.iprobe(1) is None
    seen = []
    for _ in sizes:
        _, kind, _, tag, nbytes, _ = unpack_header(header(theirs), 0)
        seen.append((kind, tag, nbytes))
        while nbytes:
            ctx.iprobe(1)
            nbytes -= len(theirs.recv(nbytes))
    if answers == "before":
        assert seen == [(Kind.DATA, 7, nbytes) for nbytes in sizes]
    else:
        assert seen == [(Kind.PUSHED, large + 1, 8), *[(Kind.DATA, 7, nbytes) for nbytes in sizes if nbytes != 8]]
    assert all(request.done for request in requests)
    assert not link.starved
    assert nothing_left(ctx)


def header(theirs: socket.socket) -> bytes:
    return theirs.recv(HEADER_NBYTES, socket.MSG_WAITALL)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("way", ["recv", "posted", "mprobe"])
def test_what_is_pushed_goes_where_it_was_announced(
    way: str, order: tuple[int, ...], ranks: tuple[Context, socket.socket]
) -> None:
    """Whichever it is of three announced of one tag, and whatever has been asked for; the answers keep their order."""
    ctx, theirs = ranks
    marks = [fingerprint("send", np.dtype("u1"), size) for size in (8, 9, 10)]
    outs = [np.full(size, 99, np.uint8) for size in (8, 9, 10)]
    pushed = order[0]
    theirs.sendall(b"".join(pack_header(Kind.ANNOUNCE, 0, 7, len(out), mark) for out, mark in zip(outs, marks, strict=True)))
    push = pack_header(Kind.PUSHED, 0, pushed + 1, len(outs[pushed]), marks[pushed]) + bytes([pushed]) * len(outs[pushed])
    requests = []
    if way == "posted":
        requests = [ctx.irecv(out, 1, tag=7) for out in outs]
        theirs.sendall(push)
    elif way == "recv":
        theirs.sendall(push)
        requests = [ctx.irecv(out, 1, tag=7) for out in outs]
    else:
        found = [ctx.mprobe(1, tag=7) for _ in outs]
        theirs.sendall(push)
        while not ctx._engine.messages._kept > 3 * 1024:
            ctx.iprobe(1, tag=8)
        requests = [found[number].irecv(outs[number]) for number in order]
    for request in requests:
        request.test()
    for mark in marks:
        assert header(theirs) == pack_header(Kind.CLEAR, 0, 7, 0, mark)
    for number in sorted(order[1:]):
        theirs.sendall(pack_header(Kind.DATA, 0, 7, len(outs[number]), marks[number]) + bytes([number]) * len(outs[number]))
    for request in requests:
        request.wait()
    for number, out in enumerate(outs):
        assert (out == number).all()
    assert nothing_left(ctx)
    assert ctx._engine.messages._kept == 0


@pytest.mark.parametrize("single_copy", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_one_tag_for_all(seed: int, single_copy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offered, announced, pushed and plain messages of few tags, received by receives and matched probes in any order."""
    shared = random.Random(seed)
    monkeypatch.setattr(messages, "EARLY_NBYTES", shared.choice([0, CREDIT_NBYTES, 3 * CREDIT_NBYTES]))
    sizes = [shared.choice([0, 8, 60_000, 200_000, EAGER_NBYTES, EAGER_NBYTES + 1, 600_000]) for _ in range(80)]
    tags = [shared.randrange(2) for _ in sizes]

    def body(ctx: Context) -> None:
        mine, peer = random.Random(seed + ctx.rank), 1 - ctx.rank
        sent, under_way, held = [], [], []
        expected = {tag: [number for number, its in enumerate(tags) if its == tag] for tag in (0, 1)}
        for number, (size, tag) in enumerate(zip(sizes, tags, strict=True)):
            sent.append(ctx.isend(np.full(size, number, np.uint8), peer, tag=tag))
        while held or any(expected.values()):
            if held and mine.random() < 0.4:
                number, message = held.pop(mine.randrange(len(held)))
                out = np.full(sizes[number], 255, np.uint8)
                under_way.append((number, out, message.irecv(out)))
                continue
            tag = mine.choice([tag for tag in (0, 1) if expected[tag]] or [None])
            if tag is None:
                continue
            number = expected[tag].pop(0)
            if mine.random() < 0.5:
                held.append((number, ctx.mprobe(peer, tag=tag)))
                assert held[-1][1].nbytes == sizes[number]
            else:
                out = np.full(sizes[number], 255, np.uint8)
                under_way.append((number, out, ctx.irecv(out, peer, tag=tag)))
            if mine.random() < 0.2:
                under_way[-1][2].wait() if under_way else None
        for number, out, request in under_way:
            request.wait()
            assert (out == number).all()
        for request in sent:
            request.wait()
        while ctx._engine.messages.reading:
            ctx.iprobe(peer, tag=9)  # an answer may be behind what has been read
        ctx.barrier()
        assert nothing_left(ctx)
        assert ctx._engine.messages._kept == 0

    run_ranks(2, body, timeout=WAIT, device=Device(single_copy=single_copy))
