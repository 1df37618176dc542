"""Closing while messages are under way: nobody waits for what will never come, and no array is written to afterwards."""

from __future__ import annotations

import socket
import threading
from math import inf
from time import monotonic

import numpy as np
import pytest

from gloompi import Context, ContextClosedError, Device, GloompiError, PeerLostError
from gloompi.engine.channel import Channel
from gloompi.engine.operation import Receive, ReducingReceive, Scratch
from gloompi.reduction import resolve
from gloompi.testing import run_ranks

WAIT = 20.0
LARGE = 100_000  # doubles

devices = pytest.mark.parametrize(
    "device",
    [{"transport": "unix"}, {"transport": "unix", "single_copy": False}, {"transport": "tcp"}, {"checksum": True}],
    ids=["offered", "unix", "tcp", "checksum"],
)


@devices
@pytest.mark.parametrize("dup", [False, True])
@pytest.mark.parametrize("probe", [None, "probe", "mprobe"])
def test_both_close_with_a_message_that_the_other_has_not_received(
    probe: str | None, device: dict[str, object], dup: bool
) -> None:
    """A message that a matched probe has taken is not received before its Message is."""
    seconds, errors = [], []

    def body(ctx: Context) -> None:
        closing = ctx.dup() if dup else ctx
        closing.isend(np.ones(LARGE), 1 - ctx.rank)
        if probe is not None:
            getattr(closing, probe)()
        began = monotonic()
        try:
            closing.close()
        except GloompiError as exc:
            errors.append(exc)
        seconds.append(monotonic() - began)

    run_ranks(2, body, timeout=WAIT, device=Device(**device))  # type: ignore[arg-type]
    assert max(seconds) < 5
    assert {type(exc) for exc in errors} == {PeerLostError}
    assert "it closed its Context while this rank still needed it" in str(errors[0])


@devices
def test_what_is_received_meanwhile_is_no_reason_to_give_up(device: dict[str, object]) -> None:
    """Rank 0 closes with a message that rank 1 receives later; rank 1's own to it matches a receive posted before."""
    posted = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            out = np.zeros(LARGE)
            request = ctx.irecv(out, 1)
            posted.set()
            request.wait()
            ctx.isend(np.ones(LARGE), 1)
            ctx.close()
        else:
            posted.wait(WAIT)
            ctx.send(np.ones(LARGE), 0)
            ctx.recv(np.empty(LARGE), 0)

    run_ranks(2, body, timeout=WAIT, device=Device(**device))  # type: ignore[arg-type]


@devices
def test_nothing_is_written_to_an_array_after_its_context_was_closed(device: dict[str, object]) -> None:
    count = 4_000_000

    def body(ctx: Context) -> None:
        closing = ctx.dup()
        if ctx.rank == 1:
            request = closing.isend(np.ones(count), 0)
            request.wait()
            closing.close()
            ctx.barrier()
            return
        out = np.zeros(count)
        request = closing.irecv(out, 1)
        while not request.done and not out[0]:
            request.test()
        closing.close()
        out[:] = 0
        if request._task.failure is not None:  # else all of it had come already
            with pytest.raises(ContextClosedError, match="recv was under way when this Context was closed"):
                request.wait()
        ctx.barrier()
        assert not out.any()

    run_ranks(2, body, timeout=WAIT, device=Device(**device))  # type: ignore[arg-type]


@pytest.mark.parametrize("taken", [0, 8, 24, 40])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_dropped_receive_takes_the_rest_and_leaves_its_arrays_alone(taken: int, in_place: bool) -> None:
    channel = Channel(1, collective=True)
    mine, out = np.arange(5.0), np.zeros(5)
    reducing = ReducingReceive(channel, 1, 0, mine, mine if in_place else out, resolve("sum"), False, Scratch(), b"")
    plain = Receive(channel, 1, 0, out.view(np.uint8).data, 40, b"")
    data = memoryview(np.full(5, 7.0).tobytes())
    for receive in (reducing, plain):
        receive.nbytes = 40
        receive.feed(data[:taken])
        receive.drop()
        mine[:], out[:] = 1, 2
        while receive.position < 40:
            window = receive.window()
            assert 0 < len(window) <= 40 - receive.position
            window[:1] = b"x"
            receive.advance(1)
        receive.finish()
        assert receive.done
        assert (mine == 1).all()
        assert (out == 2).all()


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("call", ["send", "isend", "send_object", "broadcast", "gather", "iprobe", "bcast_object"])
@pytest.mark.parametrize("end", ["abort", "killed"])
def test_a_rank_that_only_sends_learns_that_its_peer_is_gone(call: str, transport: str, end: str) -> None:
    gone = threading.Event()

    def body(ctx: Context) -> int:
        if ctx.rank == 1:
            if end == "abort":
                ctx.abort("enough")
            else:
                ctx._engine._links[0].sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # as when it is killed
            gone.set()
            return 0
        assert gone.wait(WAIT)
        calls = {
            "send": lambda: ctx.send(np.ones(1), 1),
            "isend": lambda: ctx.isend(np.ones(1), 1),
            "send_object": lambda: ctx.send_object("alive", 1),
            "broadcast": lambda: ctx.broadcast(np.ones(1)),
            "gather": lambda: ctx.gather(np.ones(1), root=1),
            "iprobe": lambda: ctx.iprobe(1),
            "bcast_object": lambda: ctx.broadcast_object("alive"),
        }
        began, count = monotonic(), 0
        while monotonic() - began < 2:
            try:
                calls[call]()
            except PeerLostError as exc:
                assert exc.rank == 1  # noqa: PT017
                return count
            count += 1
        raise AssertionError(f"{count} calls returned although the peer was gone")

    assert run_ranks(2, body, timeout=WAIT, device=Device(transport=transport))[0] < 100


@pytest.mark.parametrize("call", ["isend", "issend"])
@pytest.mark.parametrize("then", ["wait", "close"])
def test_a_message_that_nobody_will_receive_disturbs_only_who_waits_for_it(call: str, then: str) -> None:
    def body(ctx: Context) -> None:
        child = ctx.dup()
        if ctx.rank == 0:
            request = getattr(child, call)(np.ones(LARGE), 1)
        ctx.barrier()
        if ctx.rank == 1:
            child.close()
        ctx.barrier()
        if ctx.rank == 0:
            ctx.barrier()
            with pytest.raises(PeerLostError, match="it closed its Context while this rank still needed it") as caught:
                {"wait": request.wait, "close": child.close}[then]()
        else:
            with pytest.raises(PeerLostError, match="reported by rank 0") as caught:
                ctx.barrier() or ctx.barrier()
        assert caught.value.rank == 1

    run_ranks(3, body, timeout=WAIT)


def test_a_write_that_failed_is_reported_at_that_call() -> None:
    gone = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx._engine._links[0].sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            gone.set()
            return
        assert gone.wait(WAIT)
        ctx._engine._poller.stale = inf  # it would not look for another reason
        with pytest.raises(PeerLostError):
            ctx.send(np.ones(1), 1)

    run_ranks(2, body, timeout=WAIT, device=Device(transport="unix"))
