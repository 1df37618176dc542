"""System calls that fail although the connection is there: an error at that call, on all ranks, and never a lost message."""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from handlers import Failing
from test_lifecycle import in_subprocess

from gloompi import Context, Device, OperationTimeoutError, PeerLostError, SystemCallError
from gloompi.engine.engine import Engine
from gloompi.testing import run_ranks
from gloompi.transport.abort import abort_frame
from gloompi.transport.endpoint import Peer
from gloompi.transport.failures import GONE, SHORTAGE, explain, extent, name
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header, unpack_header

pytestmark = pytest.mark.usefixtures("nothing_leaks")

MARKER = bytes(range(100, 132))
PEERS = [Peer(rank, "node7", 4000 + rank, "unix", f"@gloompi-{rank}") for rank in range(2)]
OWN = (errno.EFAULT, errno.EMSGSIZE, errno.EINVAL, errno.EBADF, errno.EIO, errno.EPERM)


# -- texts ----------------------------------------------------------------------------------------------------------------


def test_no_error_is_of_two_kinds() -> None:
    assert not GONE & SHORTAGE
    assert not (GONE | SHORTAGE) & set(OWN)
    assert not (GONE | SHORTAGE) & {errno.EAGAIN, errno.EINTR}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            errno.EMSGSIZE,
            "EMSGSIZE (Message too long): nothing that a connection does by itself; see the log of this host's",
        ),
        (errno.EBADF, "EBADF (Bad file descriptor): the program has closed or replaced this descriptor, which is gloompi's"),
        (
            errno.EPERM,
            "EPERM (Operation not permitted): a policy of this host forbids it (seccomp, SELinux, a firewall); see",
        ),
        (0, "error 0 (Success): nothing that a connection does by itself"),
    ],
)
def test_explanation_has_number_cause_and_next_step(code: int, text: str) -> None:
    assert explain("sending", OSError(code, os.strerror(code))).startswith(f"sending failed with {text}")


def test_names_of_errors_that_have_none() -> None:
    assert name(OSError("no number")) == "error 0 (Success)"


def test_extent_names_memory_of_the_user_s_and_counts_the_rest() -> None:
    x = [np.zeros(10 + number, "u1") for number in range(5)]
    at = [f"{array.nbytes} bytes at {array.ctypes.data:#x}-{array.ctypes.data + array.nbytes:#x}" for array in x]
    header = bytes(64)
    assert extent((header,)) == "64 bytes"
    assert extent((header, memoryview(header)[10:], memoryview(b""))) == "118 bytes"
    assert extent((header, x[0].data)) == at[0]
    assert extent((x[0].data, header, x[1].data)) == ", ".join(at[:2])
    assert extent([array.data for array in x]) == f"{', '.join(at[:3])} and 2 more pieces"


# -- memory that is not there ---------------------------------------------------------------------------------------------

_TRUNCATED = """
import json, os, sys, tempfile, threading, time
import numpy as np
import gloompi
from gloompi.testing import run_ranks

def case(side, nbytes, kept, transport, single_copy):
    over = threading.Event()

    def body(ctx):
        calls = [lambda: ctx.send(x, 1), lambda: ctx.send(np.ones(4), 1, tag=1)]
        if ctx.rank:
            calls = [lambda: ctx.recv(x, 0), lambda: ctx.recv(np.ones(4), 0, tag=1)]
        with tempfile.TemporaryFile() as file:
            file.truncate(nbytes)
            x = np.memmap(file, np.uint8, "r+", shape=(nbytes,))
            if ctx.rank == side:
                os.ftruncate(file.fileno(), kept)
            found = []
            for call in calls:
                began = time.monotonic()
                try:
                    call()
                    found.append(["", "", 0])
                except gloompi.GloompiError as exc:
                    found.append([type(exc).__name__, str(exc), time.monotonic() - began])
        over.wait(10) if ctx.rank != 1 - side else over.set()
        return found

    return run_ranks(2, body, timeout=10, device=gloompi.Device(transport=transport, single_copy=single_copy))

for arguments in json.loads(sys.argv[1]):
    print(json.dumps(case(*arguments)))
"""


@pytest.mark.parametrize(
    ("side", "nbytes", "kept", "transport", "single_copy", "peer"),
    [
        (0, 64, 0, "unix", True, "told"),
        (0, 65536, 0, "unix", True, "told"),
        (0, 65536, 0, "tcp", True, "told or cut off"),
        (0, 4_000_000, 0, "unix", True, "told"),
        (0, 4_000_000, 0, "unix", False, "told"),
        (0, 4_000_000, 0, "tcp", True, "told or cut off"),
        (0, 200_000, 100_000, "unix", True, "cut off"),
        (0, 9_000_000, 5_000_000, "tcp", True, "cut off"),
        (0, 9_000_000, 5_000_000, "unix", False, "cut off"),
        (0, 20_000_000, 1_000_000, "unix", True, "cut off"),  # less than the first slice that is read
        (1, 9_000_000, 5_000_000, "unix", False, "sends"),
        (1, 9_000_000, 5_000_000, "tcp", True, "sends"),
        (1, 20_000_000, 5_000_000, "unix", True, "told"),
    ],
)
def test_array_whose_file_was_truncated(
    side: int, nbytes: int, kept: int, transport: str, single_copy: bool, peer: str
) -> None:
    """In a process of its own: memory that is not there ends a process that touches it itself."""
    (line,) = in_subprocess(
        _TRUNCATED.replace("sys.argv[1]", repr(json.dumps([[side, nbytes, kept, transport, single_copy]])))
    )
    ranks = json.loads(line)
    doing, verb = ("send", "sending") if side == 0 else ("recv", "receiving")
    for kind, text, seconds in ranks[side]:
        assert kind == "SystemCallError"
        assert text.startswith(f"a system call of rank {side} failed in {doing}: {verb} ")
        assert " bytes at 0x" in text
        assert f"to rank {1 - side} (" in text or f"from rank {1 - side} (" in text
        assert (
            "failed with EFAULT (Bad address): the file behind a mapped array was truncated or the memory unmapped; " in text
        )
        assert seconds < 2
    assert ranks[side][0][1] == ranks[side][1][1]
    for kind, text, seconds in ranks[1 - side]:
        if peer == "sends" and not kind:
            continue  # it had handed over all of it by then
        assert seconds < 2
        told = ("SystemCallError", f"{ranks[side][0][1]} (reported by rank {side}; this rank was in ")
        cut_off = ("PeerLostError", f"lost rank {side} (")
        found = [way for way in (told, cut_off) if kind == way[0] and text.startswith(way[1])]
        assert found, (kind, text)
        assert peer in ("told or cut off", "sends") or found == [told if peer == "told" else cut_off]


# -- a rank whose socket fails --------------------------------------------------------------------------------------------


@contextmanager
def rank_0_of_2(checked: bool = False) -> Iterator[tuple[Context, Failing, socket.socket]]:
    """Its Context, its socket, and the other end of that."""
    near, far = socket.socketpair()
    far.setblocking(False)
    sock = Failing(near)
    peers = [replace(peer, checked=checked) for peer in PEERS]
    ctx = Context(Engine(0, peers, [None, sock], marker=MARKER), 10.0)
    try:
        yield ctx, sock, far
    finally:
        with suppress(SystemCallError, PeerLostError):
            ctx.close()
        far.close()
        sock.close()


def kinds(far: socket.socket) -> list[Kind]:
    """What has come."""
    data, found = b"", []
    with suppress(BlockingIOError):
        while piece := far.recv(1 << 20):
            data += piece
    while data:
        _, kind, _, _, nbytes, _ = unpack_header(data, 0)
        found.append(Kind(kind))
        data = data[HEADER_NBYTES + (nbytes if kind in (Kind.MESSAGE, Kind.ABORT) else 0) :]
    return found


CALLS: dict[str, Any] = {
    "send": lambda ctx: ctx.send(np.ones(3), 1),
    "isend": lambda ctx: ctx.isend(np.ones(3), 1),
    "large send": lambda ctx: ctx.send(np.ones(100_000), 1),
    "send_object": lambda ctx: ctx.send_object("x", 1),
    "barrier": lambda ctx: ctx.barrier(),
    "allreduce": lambda ctx: ctx.allreduce(np.ones(3)),
    "iallreduce": lambda ctx: ctx.iallreduce(np.ones(3)),
    "broadcast": lambda ctx: ctx.broadcast(np.ones(3)),
    "close": lambda ctx: ctx.close(),
    "close of one of two": lambda ctx: ctx.dup().close(),
}


@pytest.mark.parametrize("code", OWN, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
def test_call_that_meets_the_failure_raises_it_and_so_do_all_later_ones(call: str, code: int) -> None:
    with rank_0_of_2() as (ctx, sock, far):
        sock.sending = [code]
        with pytest.raises(SystemCallError) as caught:
            CALLS[call](ctx)
        error = caught.value
        assert (error.errno, error.rank, error.reported_by) == (code, 0, None)
        assert isinstance(error.__cause__, OSError)
        assert errno.errorcode[code] in str(error)
        with pytest.raises(SystemCallError) as again:
            ctx.barrier()
        assert again.value is error
        assert ctx.closed
        assert kinds(far) == [Kind.ABORT]
        if not call.startswith("close"):
            with pytest.raises(OperationTimeoutError):  # the connection is there, and rank 1 would have to answer
                ctx.shrink(timeout=0.0)


def test_send_that_another_call_completes() -> None:
    """The message was asked for while this rank was in another call: that one raises, and so does the wait for the send."""
    with rank_0_of_2() as (ctx, sock, far):
        x = np.ones(100_000)
        request = ctx.isend(x, 1)
        _, kind, channel, tag, nbytes, fingerprint = unpack_header(far.recv(HEADER_NBYTES), 0)
        assert (kind, nbytes) == (Kind.ANNOUNCE, x.nbytes)
        sock.sending = [errno.EFAULT]
        far.sendall(pack_header(Kind.CLEAR, channel, tag, 0, fingerprint))
        with pytest.raises(SystemCallError, match=f"sending {x.nbytes} bytes at {x.ctypes.data:#x}-"):
            ctx.recv(np.ones(1), 1, timeout=5)
        with pytest.raises(SystemCallError, match="EFAULT"):
            request.wait()


@pytest.mark.parametrize("code", OWN, ids=errno.errorcode.get)
def test_receive_that_fails(code: int) -> None:
    with rank_0_of_2() as (ctx, sock, far):
        sock.receiving = [errno.EAGAIN, code]
        far.sendall(bytes(64))
        with pytest.raises(SystemCallError, match=errno.errorcode[code]) as caught:
            ctx.recv(np.ones(3), 1)
        assert str(caught.value).startswith(
            "a system call of rank 0 failed in recv: receiving from rank 1 (node7, pid 4001, "
        )
        assert kinds(far) == [Kind.ABORT]


def test_failure_while_the_peers_are_told_hangs_up() -> None:
    with rank_0_of_2() as (ctx, sock, far):
        sock.sending = [errno.EIO] * 5
        with pytest.raises(SystemCallError):
            ctx.send(np.ones(3), 1)
        assert far.recv(1) == b""


def test_descriptor_that_the_program_has_closed() -> None:
    near, far = socket.socketpair()
    ctx = Context(Engine(0, PEERS, [None, near], marker=MARKER), 10.0)
    near.setblocking(False)
    os.close(near.fileno())
    with pytest.raises(SystemCallError, match=r"EBADF .*the program has closed or replaced this descriptor"):
        ctx.send(np.ones(3), 1)
    assert far.recv(1) == b""
    ctx.close()
    far.close()


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_all_ranks_raise_at_once_where_one_has_failed(transport: str) -> None:
    def body(ctx: Context) -> tuple[str, float]:
        if ctx.rank == 1:
            pair = ctx._engine._links[2]
            pair.sock = sock = Failing(pair.sock)  # type: ignore[attr-defined]
            sock.sending = [errno.EIO]
        began = time.monotonic()
        with pytest.raises(SystemCallError) as caught:
            ctx.alltoall(np.ones((4, 3)))
        return str(caught.value).partition(" (reported")[0], time.monotonic() - began

    found = run_ranks(4, body, device=Device(transport=transport))
    assert len({text for text, _ in found}) == 1
    assert max(seconds for _, seconds in found) < 2


def test_peers_are_told_what_has_failed() -> None:
    error = SystemCallError(0, "send", errno.EFAULT, "sending failed")
    header, payload = abort_frame(error, 0)
    assert json.loads(bytes(payload)) == [
        "SystemCallError",
        {"rank": 0, "operation": "send", "errno": errno.EFAULT, "reason": "sending failed"},
        0,
    ]
    assert len(header) == HEADER_NBYTES


# -- no memory in the kernel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", SHORTAGE, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["send", "send_object", "broadcast", "close", "close of one of two"])
def test_call_goes_on_when_there_is_memory_again(call: str, code: int) -> None:
    with rank_0_of_2() as (ctx, sock, far):
        sock.sending = [code] * 3
        CALLS[call](ctx)
        assert sock.sending == []
        assert Kind.ABORT not in kinds(far)


@pytest.mark.parametrize("code", SHORTAGE, ids=errno.errorcode.get)
def test_receive_goes_on_when_there_is_memory_again(code: int) -> None:
    def body(ctx: Context) -> float:
        link = ctx._engine._links[1 - ctx.rank]
        link.sock = sock = Failing(link.sock)  # type: ignore[attr-defined]
        sock.sending, sock.receiving = [0, code, code], [code, errno.EAGAIN, code, code]
        return float(sum(ctx.allreduce(np.ones(3) + ctx.rank)[0] for _ in range(5)))

    assert run_ranks(2, body) == [15.0, 15.0]


def test_send_that_waits_for_room_while_its_connection_is_held() -> None:
    with rank_0_of_2() as (ctx, sock, far):
        far.sendall(pack_header(Kind.CREDIT, 0, 0, 1))
        sock.receiving, sock.sending = [errno.ENOMEM], [errno.EAGAIN] * 5000  # for longer than it tries before it sleeps
        assert ctx.iprobe(1) is None  # holds it
        assert ctx._engine._poller.held
        ctx.send(np.ones(3), 1, timeout=5)
        assert kinds(far) == [Kind.MESSAGE]


def test_budget_ends_with_the_shortage_in_the_text_and_without_trying_all_the_time() -> None:
    with rank_0_of_2() as (ctx, sock, _):
        sock.sending = list(itertools.repeat(errno.ENOBUFS, 100_000))
        used = time.process_time()
        with pytest.raises(OperationTimeoutError) as caught:
            ctx.send(np.ones(3), 1, timeout=0.5)
        used = time.process_time() - used
        assert str(caught.value) == (
            "send timed out after 0.5 s: sending 24 bytes to rank 1 (node7, pid 4001, unix @gloompi-1), which may have "
            "stopped or not posted a receive for it; see its log; the kernel had no memory for the connection to rank 1 "
            "(node7, pid 4001, unix @gloompi-1): ENOBUFS (No buffer space available); see free -m, the limits of the "
            "control group, and dmesg"
        )
        # Every 5 ms, and every millisecond of the half second in which the peers are told.
        assert sock.calls < 0.5 / 5e-3 + 0.5 / 1e-3 + 50
        assert used < 0.6


def test_budget_of_a_receive_ends_with_the_shortage_in_the_text() -> None:
    with rank_0_of_2() as (ctx, sock, far):
        sock.receiving = list(itertools.repeat(errno.ENOMEM, 100_000))
        far.sendall(bytes(64))
        with pytest.raises(
            OperationTimeoutError, match=r"the kernel had no memory for .*: ENOMEM \(Cannot allocate memory\);"
        ):
            ctx.recv(np.ones(3), 1, timeout=0.3)
        assert len(sock.receiving) > 100_000 - 1000


def test_close_says_that_the_kernel_has_had_no_memory() -> None:
    with rank_0_of_2() as (ctx, sock, _):
        sock.sending = list(itertools.repeat(errno.ENOBUFS, 100_000))
        with pytest.raises(OperationTimeoutError) as caught:
            ctx.close(timeout=0.2)
        assert str(caught.value).startswith(
            "close timed out after 0.2 s: messages to rank 1 (node7, pid 4001, unix @gloompi-1) were never received there; "
            "the kernel had no memory for the connection to rank 1"
        )
        assert sock.calls < 1000


@pytest.mark.parametrize("code", [errno.EFAULT, errno.ENOBUFS])
def test_checked_connection(code: int) -> None:
    with rank_0_of_2(checked=True) as (ctx, sock, far):
        sock.sending = [code]
        if code == errno.ENOBUFS:
            ctx.send(np.ones(3), 1)
            assert kinds(far) == [Kind.MESSAGE]
        else:
            with pytest.raises(SystemCallError, match=r"sending 24 bytes at 0x"):
                ctx.send(np.ones(3), 1)
            assert kinds(far) == [Kind.ABORT]
