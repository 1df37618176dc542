"""probe, iprobe, mprobe, improbe, and the Message that a matched probe gives."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from effort import assert_linear
from traffic import assert_same, nothing_waits, values

from gloompi import (
    ANY_SOURCE,
    ANY_TAG,
    Context,
    Device,
    Message,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    Status,
    wait_all,
)
from gloompi.engine.engine import Engine
from gloompi.engine.fingerprint import fingerprint
from gloompi.engine.matching import Probe
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks
from gloompi.transport.endpoint import Peer
from gloompi.transport.frames import Kind, pack_header

EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 3 * EAGER + 3
COUNTS = (0, 1, 1000, EAGER, EAGER + 1, LARGE)
WAIT = 30.0
PROMPT = 2.0  # seconds

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])
wanted_kinds = pytest.mark.parametrize("wanted", [(0, 7), (ANY_SOURCE, 7), (0, ANY_TAG), (ANY_SOURCE, ANY_TAG)])


def until(look: Callable[[], Any]) -> Any:
    """What an immediate probe finds at last."""
    while (found := look()) is None:
        pass
    return found


# -- what they find -----------------------------------------------------------------------------------------------------


@transports
@wanted_kinds
def test_all_probes_find_a_message_and_leave_or_take_it(wanted: tuple[int, int], transport: str) -> None:
    source, tag = wanted

    def body(ctx: Context) -> None:
        for count in COUNTS:
            if ctx.rank == 0:
                wait_all([ctx.isend(values(0, salt, count), 1, tag=7) for salt in range(3)])
            else:
                status = Status(0, 7, 8 * count)
                out = np.full(count, -1.0)
                assert ctx.probe(source, tag=tag) == status
                assert ctx.probe(source, tag=tag) == ctx.iprobe(source, tag=tag) == status
                assert ctx.recv(out, source, tag=tag) == status
                assert_same(out, values(0, 0, count))
                message = ctx.mprobe(source, tag=tag)
                assert (message.source, message.tag, message.nbytes) == status
                other = until(lambda: ctx.improbe(source, tag=tag))
                assert (other.source, other.tag, other.nbytes) == status
                assert nothing_waits(ctx)
                assert message.recv(out) == status
                assert_same(out, values(0, 1, count))
                assert other.irecv(out).wait() == status
                assert_same(out, values(0, 2, count))
            ctx.barrier()

    run_ranks(2, body, device=Device(transport=transport))


def test_immediate_probes_find_nothing() -> None:
    def body(ctx: Context) -> None:
        for source in (0, ANY_SOURCE):
            for tag in (7, ANY_TAG):
                assert ctx.iprobe(source, tag=tag) is None
                assert ctx.improbe(source, tag=tag) is None
        ctx.send(np.ones(1), 0, tag=7)
        assert ctx.iprobe(0, tag=8) is None
        assert ctx.improbe(ANY_SOURCE, tag=8) is None
        assert ctx.iprobe() == Status(0, 7, 8)  # everything, by default
        assert ctx.improbe() is not None
        assert ctx.iprobe() is None

    run_ranks(1, body)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("count", COUNTS)
def test_messages_to_oneself(count: int, n: int) -> None:
    def body(ctx: Context) -> None:
        me = ctx.rank
        requests = [ctx.isend(values(me, salt, count), me, tag=salt) for salt in range(3)]
        out = np.full(count, -1.0)
        assert ctx.probe(me) == ctx.iprobe(tag=0) == Status(me, 0, 8 * count)
        message = ctx.mprobe(ANY_SOURCE, tag=1)
        later = ctx.improbe(me, tag=2)
        assert later is not None
        later.recv(out)
        assert_same(out, values(me, 2, count))
        assert message.recv(out) == Status(me, 1, 8 * count)
        assert_same(out, values(me, 1, count))
        ctx.recv(out, me)
        assert_same(out, values(me, 0, count))
        wait_all(requests)

    run_ranks(n, body)


@transports
@pytest.mark.parametrize("count", [3, LARGE])
def test_wildcards_follow_the_order_of_arrival(count: int, transport: str) -> None:
    """Rank 2 begins when all of rank 1's messages have come."""

    def send_all(ctx: Context) -> None:
        ctx.recv(np.empty(0), 0, tag=99)
        requests = [ctx.isend(values(ctx.rank, tag, count), 0, tag=tag) for tag in (5, 4, 5)]
        ctx.send(np.empty(0), 0, tag=98)
        wait_all(requests)

    def body(ctx: Context) -> None:
        if ctx.rank:
            send_all(ctx)
            return
        for peer in (1, 2):
            ctx.send(np.empty(0), peer, tag=99)
            ctx.recv(np.empty(0), peer, tag=98)
        assert ctx.probe() == Status(1, 5, 8 * count)
        assert ctx.probe(tag=4) == Status(1, 4, 8 * count)
        assert ctx.probe(2) == Status(2, 5, 8 * count)
        assert ctx.probe(2, tag=4) == Status(2, 4, 8 * count)
        wanted = ((2, 4), (ANY_SOURCE, 4), (ANY_SOURCE, ANY_TAG), (2, ANY_TAG))
        taken = [ctx.mprobe(source, tag=tag) for source, tag in wanted]
        assert [(each.source, each.tag) for each in taken] == [(2, 4), (1, 4), (1, 5), (2, 5)]
        out = np.empty(count)
        for each in taken:
            each.recv(out)
            assert_same(out, values(each.source, each.tag, count))
        assert [ctx.recv(out, ANY_SOURCE, tag=ANY_TAG)[:2] for _ in range(2)] == [(1, 5), (2, 5)]

    run_ranks(3, body, device=Device(transport=transport))


@transports
@wanted_kinds
def test_probes_wait_for_a_message(wanted: tuple[int, int], transport: str) -> None:
    source, tag = wanted
    contexts: dict[int, Context] = {}
    level = threading.Barrier(2)

    def body(ctx: Context) -> None:
        contexts[ctx.rank] = ctx
        for count in (0, 5, LARGE):
            for salt, matched in enumerate((False, True)):
                level.wait(WAIT)
                if ctx.rank == 0:
                    while not contexts[1]._engine.turn.occupied:
                        pass
                    ctx.send(values(0, salt, count), 1, tag=7)
                else:
                    out = np.full(count, -1.0)
                    if matched:
                        status = ctx.mprobe(source, tag=tag).recv(out)
                    else:
                        assert ctx.probe(source, tag=tag) == Status(0, 7, 8 * count)
                        status = ctx.recv(out, 0, tag=7)
                    assert status == Status(0, 7, 8 * count)
                    assert_same(out, values(0, salt, count))

    run_ranks(2, body, device=Device(transport=transport))


def test_a_probe_passes_over_what_it_does_not_want() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank:
            for tag in range(20):
                ctx.send(np.array([tag]), 0, tag=tag)
            ctx.send(np.empty(0), 0, tag=20 + ctx.rank)
        else:
            assert ctx.probe(2, tag=22) == Status(2, 22, 0)
            assert ctx.mprobe(1, tag=21).nbytes == 0
            out = np.empty(1, int)
            for source in (1, 2):
                for tag in reversed(range(20)):
                    ctx.recv(out, source, tag=tag)
                    assert out[0] == tag

    run_ranks(3, body)


# -- what has been matched ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, LARGE])
def test_a_posted_receive_goes_before_a_probe(count: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.recv(np.empty(0), 1)
            requests = [ctx.isend(values(0, salt, count), 1, tag=7) for salt in range(2)]
            wait_all(requests)
        else:
            out = np.full(count, -1.0)
            request = ctx.irecv(out, ANY_SOURCE, tag=ANY_TAG)
            ctx.send(np.empty(0), 0)
            message = ctx.mprobe(0, tag=7)  # the second: the receive has the first
            assert nothing_waits(ctx)
            assert request.wait() == Status(0, 7, 8 * count)
            assert_same(out, values(0, 0, count))
            message.recv(out)
            assert_same(out, values(0, 1, count))

    run_ranks(2, body)


def test_a_message_that_was_taken_is_out_of_every_receives_reach() -> None:
    def body(ctx: Context) -> None:
        ctx.send(np.array([1.0]), 0, tag=7)
        message = ctx.mprobe(0)
        out, other = np.zeros(1), np.zeros(1)
        request = ctx.irecv(out, ANY_SOURCE, tag=ANY_TAG)
        assert not request.test()
        assert nothing_waits(ctx)
        ctx.send(np.array([2.0]), 0, tag=7)
        request.wait()
        message.recv(other)
        assert (out[0], other[0]) == (2, 1)

    run_ranks(1, body)


@transports
@pytest.mark.parametrize("other", [LARGE, LARGE - 1, 5])
def test_matched_messages_are_received_in_any_order(other: int, transport: str) -> None:
    """Several of one source and tag, as long as each other or not: the Message says which one it is."""
    counts = (LARGE, other, LARGE, other)

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            wait_all([ctx.isend(values(0, salt, count), 1, tag=7) for salt, count in enumerate(counts)])
        else:
            messages = [ctx.mprobe(0, tag=7) for _ in counts]
            assert [each.nbytes for each in messages] == [8 * count for count in counts]
            for salt in (2, 3, 0, 1):
                out = np.full(counts[salt], -1.0)
                assert messages[salt].recv(out) == Status(0, 7, 8 * counts[salt])
                assert_same(out, values(0, salt, counts[salt]))

    run_ranks(2, body, device=Device(transport=transport), timeout=10)


def test_a_matched_message_and_a_later_receive_of_the_same_tag() -> None:
    """The receive is matched with the second message while the first waits for whoever holds it."""

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            wait_all([ctx.isend(values(0, salt, LARGE), 1, tag=7) for salt in range(2)])
        else:
            first, second = np.zeros(LARGE), np.zeros(LARGE)
            message = ctx.mprobe(0, tag=7)
            ctx.recv(second, 0, tag=7)
            assert_same(second, values(0, 1, LARGE))
            message.recv(first)
            assert_same(first, values(0, 0, LARGE))

    run_ranks(2, body, timeout=10)


# -- the Message --------------------------------------------------------------------------------------------------------


def test_message_of_an_object() -> None:
    def body(ctx: Context) -> None:
        for salt, count in enumerate((5, LARGE)):
            sent = {"x": values(0, salt, count), "salt": salt}
            if ctx.rank == 0:
                wait_all([ctx.isend_object(sent, 1, tag=tag) for tag in range(3)])
            else:
                messages = [ctx.mprobe(0, tag=tag) for tag in (2, 1, 0)]
                assert messages[0].nbytes > 8 * count
                assert_same(messages[0].recv_object(), sent)
                requests = [message.irecv_object() for message in messages[1:]]
                for found in wait_all(requests):
                    assert_same(found, sent)

    run_ranks(2, body)


def test_a_message_is_received_once() -> None:
    def body(ctx: Context) -> None:
        ctx.send(np.ones(3), 0, tag=7)
        message = ctx.mprobe()
        assert isinstance(message, Message)
        assert repr(message) == "<Message from rank 0, tag 7, 24 bytes>"
        for refused, error in ((np.ones(3, object), TypeError), ("text", TypeError)):
            with pytest.raises(error):
                message.recv(refused)
        read_only = np.ones(3)
        read_only.flags.writeable = False
        with pytest.raises((TypeError, ValueError), match="read-only"):
            message.irecv(read_only)
        out = np.zeros(5)
        assert message.recv(out) == Status(0, 7, 24)  # what was refused has not cost the message
        assert out.tolist() == [1, 1, 1, 0, 0]
        assert repr(message) == "<Message from rank 0, tag 7, 24 bytes, received>"
        assert (message.source, message.tag, message.nbytes) == (0, 7, 24)
        for call in (
            lambda: message.recv(out),
            lambda: message.irecv(out),
            message.recv_object,
            message.irecv_object,
        ):
            with pytest.raises(ValueError) as caught:  # noqa: PT011  # the text is compared
                call()
            assert str(caught.value) == "<Message from rank 0, tag 7, 24 bytes, received> has been received already"
        assert not ctx.closed

    run_ranks(1, body)


@pytest.mark.parametrize(
    ("receive", "here"),
    [
        (lambda message: message.recv(np.empty(2)), "recv(<f8, count 2) of at most 16 bytes"),
        (lambda message: message.recv(np.empty(3, "f4")), "recv(<f4, count 3) of at most 12 bytes"),
        (lambda message: message.irecv(np.empty(2)).wait(), "recv(<f8, count 2) of at most 16 bytes"),
        (lambda message: message.recv_object(), "recv_object"),
    ],
)
def test_a_message_that_does_not_fit_is_a_mismatch(receive: Callable[[Message], Any], here: str) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.send(np.ones(3), 1, tag=7)
            with pytest.raises(MismatchError) as caught:
                ctx.recv(np.empty(1), 1)
            assert caught.value.reported_by == 1
        else:
            message = ctx.mprobe(0)
            with pytest.raises(MismatchError) as caught:
                receive(message)
            assert str(caught.value) == (
                f"ranks disagree on the message from rank 0 to rank 1 with tag 7: rank 1 called {here}, rank 0 called "
                "send(<f8, count 3) of 24 bytes; a receive needs the dtype that was sent and room for all of it; recv_array "
                "takes any array, recv_object any object"
            )

    run_ranks(2, body)


@transports
def test_credit_comes_back_for_matched_messages(transport: str) -> None:
    def body(ctx: Context) -> None:
        for _ in range(60):
            if ctx.rank == 0:
                assert ctx.isend(np.zeros(60_000, "u1"), 1).done
                ctx.recv(np.empty(0), 1)
            else:
                ctx.mprobe(0).recv(np.empty(60_000, "u1"))
                ctx.send(np.empty(0), 0)

    run_ranks(2, body, device=Device(transport=transport))


# -- a message whose payload is still arriving --------------------------------------------------------------------------


PEERS = [Peer(0, "here", 1, "unix", "a"), Peer(1, "here", 2, "unix", "b")]


@pytest.mark.parametrize("by", ["mprobe", "improbe", "probe"])
def test_a_message_whose_payload_is_still_arriving(by: str) -> None:
    """The peer is a bare socket, which sends the header and a part of the payload first."""
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    x = values(0, 1, 1000)
    header = pack_header(Kind.MESSAGE, 0, 7, x.nbytes, fingerprint("send", x.dtype, x.size))
    ctx = Context(Engine(1, PEERS, [mine, None]), 10.0)
    with theirs:
        theirs.sendall(header[:30])
        assert ctx.iprobe() is None
        theirs.sendall(header[30:] + x.tobytes()[:3001])
        out = np.full(1000, -1.0)
        if by == "mprobe":
            request = ctx.mprobe(0, tag=7).irecv(out)
        elif by == "improbe":
            message = ctx.improbe()
            assert message is not None
            assert message.nbytes == 8000
            request = message.irecv(out)
        else:
            assert ctx.probe() == ctx.iprobe() == Status(0, 7, 8000)
            request = ctx.irecv(out, 0, tag=7)
        assert not request.test()
        theirs.sendall(x.tobytes()[3001:])
        assert request.wait() == Status(0, 7, 8000)
        assert_same(out, x)
        theirs.sendall(pack_header(Kind.GOODBYE, 0, 0, 0))
        ctx.close()


# -- what the frames behind a message that is taken say of it ------------------------------------------------------------


@pytest.mark.parametrize("by", ["mprobe", "improbe"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_message_is_taken_and_pushed_in_one_batch(by: str, count: int) -> None:
    """The peer is a bare socket; all that it says is there before anything is read."""
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    ctx = Context(Engine(1, PEERS, [mine, None]), 10.0)
    mark = fingerprint("send", np.dtype("u1"), 8)
    with theirs:
        said = b"".join(pack_header(Kind.ANNOUNCE, 0, 7, 8, mark) for _ in range(count))
        for number in range(count):
            said += pack_header(Kind.PUSHED, 0, number + 1, 8, mark) + bytes([number] * 8)
        theirs.sendall(said)
        look = ctx.mprobe if by == "mprobe" else partial(until, ctx.improbe)
        messages = [look() for _ in range(count)]
        for number in reversed(range(count)):
            out = np.full(8, 99, "u1")
            assert messages[number].recv(out) == Status(0, 7, 8)
            assert (out == number).all()
        assert ctx._engine.messages._kept == 0
        theirs.sendall(pack_header(Kind.GOODBYE, 0, 0, 0))
        ctx.close()


def test_a_receive_that_is_posted_before_the_call_of_a_matched_probe_goes_on() -> None:
    """In another thread, with the next message of the tag: it is asked for behind the one that the probe has taken."""
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    ctx = Context(Engine(1, PEERS, [mine, None]), 10.0)
    marks = [fingerprint("send", np.dtype("u1"), count) for count in (8, 4)]
    channel = ctx._conversation.messages
    with theirs:
        found = channel.matcher.probe(Probe(channel, 0, 7, takes=True))
        theirs.sendall(pack_header(Kind.ANNOUNCE, 0, 7, 8, marks[0]) + pack_header(Kind.ANNOUNCE, 0, 7, 4, marks[1]))
        assert ctx.iprobe(0, tag=8) is None
        assert found.done
        request = ctx.irecv(np.empty(4, "u1"), 0, tag=7)
        assert theirs.recv(1000) == b"".join(pack_header(Kind.CLEAR, 0, 7, 0, mark) for mark in marks)
        theirs.sendall(pack_header(Kind.DATA, 0, 7, 8, marks[0]) + bytes(8))
        theirs.sendall(pack_header(Kind.DATA, 0, 7, 4, marks[1]) + bytes(4))
        assert request.wait() == Status(0, 7, 4)
        theirs.sendall(pack_header(Kind.GOODBYE, 0, 0, 0))
        ctx.close()


# -- too late, and peers that are gone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("matched", "name"), [(False, "probe"), (True, "mprobe")])
@pytest.mark.parametrize("source", [1, ANY_SOURCE])
def test_timeout(source: int, matched: bool, name: str) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            began = time.monotonic()
            with pytest.raises(OperationTimeoutError) as caught:
                (ctx.mprobe if matched else ctx.probe)(source, tag=7, timeout=0.2)
            assert 0.19 < time.monotonic() - began < PROMPT
            who = "any rank" if source < 0 else ctx.peers[1]
            assert str(caught.value) == (
                f"{name} timed out after 0.2 s: no message from {who}, which may have stopped or not sent it; see its log"
            )
            with pytest.raises(OperationTimeoutError):
                ctx.iprobe()
        else:
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.empty(1), 0)

    run_ranks(2, body)


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("source", [1, ANY_SOURCE])
@pytest.mark.parametrize("before", [True, False])
def test_a_peer_that_closes_is_not_waited_for(before: bool, source: int, matched: bool) -> None:
    """Any rank is waited for as long as there is one left."""
    contexts: dict[int, Context] = {}
    level, over = threading.Barrier(3), threading.Event()

    def body(ctx: Context) -> None:
        contexts[ctx.rank] = ctx
        level.wait(WAIT)
        if ctx.rank == 0:
            if before:
                level.wait(WAIT)
                ctx.iprobe()  # takes the word of it
            try:
                with pytest.raises(
                    PeerLostError, match=r"(?m)probe: it closed its Context while this rank still needed it$"
                ):
                    (ctx.mprobe if matched else ctx.probe)(source)
            finally:
                over.set()
            return
        if not before:
            while not (contexts[0]._engine.turn.occupied or over.is_set()):
                pass
        if ctx.rank == 1 or source == ANY_SOURCE:
            ctx.close()
        if before:
            level.wait(WAIT)
        assert over.wait(WAIT)

    run_ranks(3, body, timeout=5)


def test_what_a_peer_sent_before_it_closed_is_found() -> None:
    gone = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.send(values(1, 1, 5), 0, tag=7)
            ctx.send(values(1, 2, 5), 0, tag=7)
            ctx.close()
            gone.set()
        else:
            assert gone.wait(WAIT)
            out = np.empty(5)
            assert ctx.probe(1) == ctx.iprobe(1) == Status(1, 7, 40)
            assert ctx.mprobe(1).recv(out) == Status(1, 7, 40)
            assert_same(out, values(1, 1, 5))
            ctx.recv(out, ANY_SOURCE, tag=ANY_TAG)
            assert_same(out, values(1, 2, 5))

    run_ranks(2, body)


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("immediate", [False, True])
def test_a_peer_that_aborts(immediate: bool, matched: bool) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            look = (ctx.improbe if matched else ctx.iprobe) if immediate else (ctx.mprobe if matched else ctx.probe)
            with pytest.raises(PeerLostError, match=r"(?m): it aborted: enough \(reported by rank 1\)$"):
                until(lambda: look(ANY_SOURCE))
        else:
            ctx.abort("enough")

    run_ranks(2, body)


@transports
@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("immediate", [False, True])
def test_a_peer_that_is_lost(immediate: bool, matched: bool, transport: str) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            look = (ctx.improbe if matched else ctx.iprobe) if immediate else (ctx.mprobe if matched else ctx.probe)
            began = time.monotonic()
            with pytest.raises(PeerLostError, match="connection closed by peer") as caught:
                until(lambda: look(ANY_SOURCE))
            assert caught.value.rank == 1
            assert time.monotonic() - began < PROMPT
        else:
            sock = ctx._engine._links[0].sock  # type: ignore[attr-defined]
            sock.shutdown(socket.SHUT_RDWR)  # as when its process ends
            with pytest.raises(PeerLostError):
                ctx.recv(np.empty(1), 0)

    run_ranks(2, body, device=Device(transport=transport))


def test_a_message_held_when_its_sender_breaks() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            message = ctx.mprobe(1)
            ctx.send(np.empty(0), 1)
            with pytest.raises(PeerLostError, match="it aborted: enough"):
                ctx.recv(np.empty(1), 1, tag=9)
            with pytest.raises(PeerLostError, match="it aborted: enough"):
                message.recv(np.empty(LARGE))
        else:
            ctx.isend(np.ones(LARGE), 0)
            ctx.recv(np.empty(0), 0)
            ctx.abort("enough")

    run_ranks(2, body)


@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize("spread", [False, True])
def test_however_many_messages_are_probed_before_the_last_is_received(spread: bool, synchronous: bool) -> None:
    """Sent without asking or announced, each with a tag of its own or all with one, received backwards."""

    def body(ctx: Context) -> None:
        def prepare(count: int) -> Callable[[], object]:
            begin = ctx.issend if synchronous else ctx.isend
            sent = [begin(np.full(1, float(number)), 0, tag=number if spread else 0) for number in range(count)]

            def receive_them() -> None:
                messages = [ctx.mprobe(0, tag=number if spread else 0) for number in range(count)]
                out = np.empty(1)
                for number in reversed(range(count)):
                    messages.pop().recv(out)
                    assert out[0] == number
                wait_all(sent)
                assert nothing_waits(ctx)

            return receive_them

        assert_linear(prepare)

    run_ranks(1, body)
