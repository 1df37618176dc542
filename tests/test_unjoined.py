"""Frames for Contexts that this rank has not made yet: they wait, in their order, and no peer has many of them wait."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Callable
from functools import partial
from time import monotonic

import numpy as np
import pytest

from gloompi import Context, Device, MismatchError, PeerLostError
from gloompi.engine import messages
from gloompi.engine.channel import REMEMBERED
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.messages import CREDIT_NBYTES, EAGER_NBYTES, MOST_NBYTES
from gloompi.testing import run_ranks
from gloompi.transport.frames import Kind, pack_header

pytestmark = pytest.mark.usefixtures("nothing_leaks")

WAIT = 20.0
LARGE = EAGER_NBYTES + 1000
CALL = fingerprint("allreduce", np.dtype("f8"), 12, reduction="sum", algorithm="ring")


def waiting(ctx: Context) -> int:
    return sum(map(len, ctx._engine.messages._unjoined._frames.values()))


def until(ctx: Context, condition: Callable[[], bool]) -> None:
    """Move what comes, until a condition holds."""
    end = monotonic() + WAIT
    while not condition():
        assert monotonic() < end
        ctx.iprobe(ctx.rank, tag=2**30)


@pytest.mark.parametrize("single_copy", [False, True])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("credit", ["enough", "little"])
def test_a_peer_uses_a_context_before_this_rank_has_it(
    credit: str, transport: str, single_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small and large messages, those that are pushed once there is credit, and a collective; nothing overtakes."""
    if credit == "little":
        monkeypatch.setattr(messages, "EARLY_NBYTES", 0)
    sizes = [0, 1, LARGE, 7, EAGER_NBYTES, 100, LARGE, EAGER_NBYTES - 64, *[EAGER_NBYTES - 64] * 4, 8, 9, LARGE, 3]

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            with ctx.dup() as early:
                sent = [early.isend(np.full(size, n % 251, np.uint8), 0, tag=n % 2) for n, size in enumerate(sizes)]
                total = early.iallreduce(np.ones(LARGE))
                ctx.send(np.ones(1), 0, tag=9)
                for request in (*sent, total):
                    request.wait()
                ctx.barrier()
            return
        ctx.recv(np.empty(1), 1, tag=9)
        assert waiting(ctx) >= len(sizes)
        assert len(ctx._engine.messages._channels) == 2
        with ctx.dup() as late:
            assert waiting(ctx) == 0
            for tag in (1, 0):
                for n in range(tag, len(sizes), 2):
                    out = np.empty(sizes[n], np.uint8)
                    status = late.recv(out, 1, tag=tag)
                    assert status.nbytes == sizes[n]
                    assert (out == n % 251).all()
            assert (late.allreduce(np.ones(LARGE)) == 2).all()
            ctx.barrier()
        links = ctx._engine.messages._links
        assert [link.kept for link in links] == [0, 0]
        assert ctx._engine.messages._kept == 0

    run_ranks(2, body, timeout=WAIT, device=Device(transport=transport, single_copy=single_copy))


def test_a_peer_leaves_a_context_before_this_rank_has_it() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            with ctx.dup() as early:
                early.send(np.ones(3), 0)
            ctx.send(np.ones(1), 0, tag=9)
            ctx.barrier()
            return
        ctx.recv(np.empty(1), 1, tag=9)
        late = ctx.dup()
        out = np.zeros(3)
        late.recv(out, 1)
        assert (out == 1).all()
        with pytest.raises(PeerLostError, match="it closed its Context while this rank still needed it"):
            late.recv(out, 1)

    with pytest.raises(Exception, match="rank 1 of 2 failed"):
        run_ranks(2, body, timeout=WAIT)


def test_ranks_that_disagree_in_a_context_that_one_has_later() -> None:
    found: dict[int, str] = {}

    def body(ctx: Context) -> None:
        new = ctx.dup() if ctx.rank == 1 else None
        if ctx.rank == 0:
            until(ctx, lambda: waiting(ctx) > 0)
            new = ctx.dup()
        assert new is not None
        call = new.barrier if ctx.rank == 1 else partial(new.allreduce, np.ones(3))
        with pytest.raises(MismatchError) as caught:
            call()
        found[ctx.rank] = str(caught.value)

    run_ranks(2, body, timeout=WAIT)
    assert all("barrier" in text and "allreduce" in text for text in found.values()), found


# -- peers that send more than ranks do -------------------------------------------------------------------------------------


FLOODS: dict[str, Callable[[int], bytes]] = {
    "channels": lambda n: pack_header(Kind.WAITING, 3 + 2 * n, 1 << 16, 0, CALL),
    "messages on channels": lambda n: pack_header(Kind.MESSAGE, 2 + 2 * n, 7, 0, CALL),
    "announcements on channels": lambda n: pack_header(Kind.ANNOUNCE, 2 + 2 * n, 7, 1 << 40, CALL),
    "goodbyes on channels": lambda n: pack_header(Kind.LEAVE, 2 + 2 * n, 0, 0),
    "frames on a channel": lambda n: pack_header(Kind.ANNOUNCE, 2, n, 1 << 40, CALL),
    "early fingerprints": lambda n: pack_header(Kind.WAITING, 1, (n + 1) << 16, 0, CALL),
    "leave to send": lambda n: pack_header(Kind.CLEAR, 1, (n + 1) << 16, 0, CALL),
    "leave to send again": lambda n: pack_header(Kind.CLEAR, 1, 1 << 16 | n & 0xFFFF, 0, CALL),
    "announcements": lambda n: pack_header(Kind.ANNOUNCE, 0, n, 1 << 40, CALL),
    "announcements of calls": lambda n: pack_header(Kind.ANNOUNCE, 1, (n + 1) << 16, 1 << 40, CALL),
    "refusals": lambda n: pack_header(Kind.REFUSED, 0, n, 0),
}
HARMLESS = ("early fingerprints", "refusals")


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_headers(name: str, ranks: tuple[Context, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sixteenth of the limits: rank 1 is lost, or nothing is kept; what is kept takes no more than is counted."""
    for limit in ("MOST_NBYTES", "EARLY_NBYTES"):
        monkeypatch.setattr(messages, limit, getattr(messages, limit) // 16)
    ctx, theirs = ranks
    bound = MOST_NBYTES // 16
    count = 2 * bound // 512
    error = ""
    ctx.iprobe(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, count, 500):
            theirs.sendall(b"".join(map(FLOODS[name], range(start, start + 500))))
            try:
                ctx.iprobe(0)
            except PeerLostError as exc:
                error = str(exc)
                break
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - before < bound + CREDIT_NBYTES
    if name in HARMLESS:
        assert error == ""
        assert most - before < REMEMBERED * 1024
    elif name == "messages on channels":
        assert "it was given leave for 0" in error or f"and {bound} are the limit" in error
    else:
        assert f"and {bound} are the limit" in error
    assert len(ctx._engine.messages._channels) in (0, 2)  # none was made


@pytest.mark.parametrize("channel", [0, 2])
@pytest.mark.parametrize("nbytes", [EAGER_NBYTES + 1, 1 << 40, (1 << 64) - 1])
def test_a_pushed_message_is_no_larger_than_the_credit(
    channel: int, nbytes: int, ranks: tuple[Context, socket.socket]
) -> None:
    """Whatever was announced."""
    ctx, theirs = ranks
    theirs.sendall(pack_header(Kind.ANNOUNCE, channel, 7, nbytes, CALL) + pack_header(Kind.PUSHED, channel, 1, nbytes, CALL))
    with pytest.raises(PeerLostError) as caught:
        until(ctx, lambda: False)
    assert f"it sent {nbytes} bytes without asking; {EAGER_NBYTES} are the limit" in str(caught.value)


def test_what_is_pushed_before_the_context_is_made(ranks: tuple[Context, socket.socket]) -> None:
    """It is received where it was announced, and its sender gets the answer that it expects; half of one comes later."""
    ctx, theirs = ranks
    number = ctx._engine.descendant(ctx._conversation, "dup", 1)
    mark = fingerprint("send", np.dtype("u1"), 8)
    announced = pack_header(Kind.ANNOUNCE, number, 7, 8, mark)
    theirs.sendall(announced + announced + pack_header(Kind.MESSAGE, number, 7, 8, mark) + b"third..." + announced)
    theirs.sendall(pack_header(Kind.PUSHED, number, 2, 8, mark) + b"second..")
    theirs.sendall(pack_header(Kind.PUSHED, number, 1, 8, mark) + b"firs")
    until(ctx, lambda: waiting(ctx) == 4 and ctx._engine._links[1].receiving is not None)
    other = ctx.dup()
    assert waiting(ctx) == 0
    found = []
    for _ in range(3):
        if not found:
            theirs.sendall(b"t...")
        out = np.empty(8, np.uint8)
        other.recv(out, 1, tag=7)
        found.append(out.tobytes())
    assert found == [b"first...", b"second..", b"third..."]
    clear = pack_header(Kind.CLEAR, number, 7, 0, mark)
    assert theirs.recv(4096) == clear + clear
    last = other.irecv(np.empty(8, np.uint8), 1, tag=7)
    assert theirs.recv(4096) == clear  # the last is asked for
    theirs.sendall(pack_header(Kind.DATA, number, 7, 8, mark) + bytes(8))
    last.wait()
    assert ctx._engine.messages._kept == 0
    other.abort("over")


@pytest.mark.parametrize("said", [0, 1, 2, 3, -1])
def test_what_was_pushed_and_not_announced(said: int, ranks: tuple[Context, socket.socket]) -> None:
    """Not at all, or for another Context or channel."""
    ctx, theirs = ranks
    number = ctx._engine.descendant(ctx._conversation, "dup", 1)
    announced = b"".join(pack_header(Kind.ANNOUNCE, number + other, 7, 8, CALL) for other in (2, 1))
    theirs.sendall(announced + pack_header(Kind.PUSHED, number, said, 8, CALL) + bytes(8))
    with pytest.raises(PeerLostError, match="it sent 8 bytes that were not announced"):
        until(ctx, lambda: False)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.TAKEN, Kind.REFUSED])
def test_an_answer_in_a_context_that_this_rank_has_not_made(kind: Kind, ranks: tuple[Context, socket.socket]) -> None:
    ctx, theirs = ranks
    theirs.sendall(pack_header(kind, 2, 7, 0))
    with pytest.raises(PeerLostError, match=f"it sent a frame of kind {int(kind)} with 0 bytes"):
        until(ctx, lambda: False)
