"""Lifecycle (cases 38 to 40): how Contexts end, who may use them, and what they are made from."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from launch import Job, reports, run_job
from shim import build, unavailable
from test_lifecycle import connected, in_subprocess, operations, transports

from gloompi import Context, ContextClosedError, Device, OperationTimeoutError, PeerLostError
from gloompi.deadline import Deadline
from gloompi.rendezvous.local import local_exchanges
from gloompi.rendezvous.mesh import Mesh, connect
from gloompi.testing import run_ranks
from gloompi.transport.endpoint import Peer

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PROMPT = 2.0  # seconds
# The launcher takes its time to notice that its ranks have ended.
LAUNCHER = 2.0


@transports
@pytest.mark.parametrize("n", [1, 2, 3])
def test_case_38_closing_twice_and_use_after_close(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        assert not ctx.closed
        assert repr(ctx) == f"<gloompi.Context rank {ctx.rank} of {n}>"
        ctx.barrier()
        for _ in range(2):
            assert ctx.close() is None
            assert ctx.closed
        assert repr(ctx) == f"<gloompi.Context rank {ctx.rank} of {n} closed>"
        for operation in operations(ctx):
            with pytest.raises(ContextClosedError) as caught:
                operation()
            assert str(caught.value) == "this Context is closed"
        ctx.abort("no more than a formality")
        ctx.close()
        with pytest.raises(ContextClosedError, match=r"^this Context is closed$"):
            ctx.barrier()
        assert (ctx.rank, ctx.size, len(ctx.peers)) == (ctx.rank, n, n)

    run_ranks(n, body, device=Device(transport=transport))


@transports
def test_case_38_a_context_that_is_collected_without_close_warns_and_frees_its_sockets(transport: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    first, second, third = connected(3, transport)
    after = len(os.listdir("/proc/self/fd"))
    request = second.irecv(np.empty(1), 0)
    with pytest.warns(ResourceWarning, match="^<gloompi.Context rank 0 of 3> was not closed$"):  # noqa: PT031
        del first
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) < after
    with pytest.raises(PeerLostError, match=r"^lost rank 0 .* in recv: connection closed by peer"):
        request.wait()
    with pytest.raises(PeerLostError, match=r"^lost rank 0 "):
        third.recv(np.empty(1), 1)
    second.close()
    third.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_case_39_many_threads_take_turns() -> None:
    def body(ctx: Context) -> None:
        def messages(tag: int) -> None:
            out = np.empty(100)
            for number in range(20):
                request = ctx.isend(np.full(100, 1000.0 * tag + number), 1 - ctx.rank, tag=tag)
                # Without a blocking receive: its thread would keep the turn until the peer's thread of this tag sends.
                incoming = ctx.irecv(out, 1 - ctx.rank, tag=tag)
                while not incoming.test():
                    pass
                request.wait()
                assert (out == 1000.0 * tag + number).all()

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(messages, tag) for tag in range(4)]:
                future.result(50)

    run_ranks(2, body)


def test_case_39_a_second_thread_that_waits_too_long_is_told_which_one_is_in_the_way() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.allreduce(np.ones(3), op=add)
            ctx.barrier()
            return
        inside, go = threading.Event(), threading.Event()

        def blocking(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            if len(a) > 1:  # not when it is tried
                inside.set()
                assert go.wait(30)
            return a + b

        blocking.__name__ = "add"
        holder = threading.Thread(target=lambda: ctx.allreduce(np.ones(3), op=blocking), name="holder")
        holder.start()
        assert inside.wait(30)
        for call, name in (
            (lambda: ctx.send(np.ones(1), 1, timeout=0.1), "send"),
            (lambda: ctx.barrier(timeout=0.1), "barrier"),
            (lambda: ctx.close(timeout=0.1), "close"),
        ):
            start = time.monotonic()
            with pytest.raises(OperationTimeoutError) as caught:
                call()
            assert 0.1 <= time.monotonic() - start + 0.01 < 1.1
            assert str(caught.value) == (
                f"{name} timed out after 0.1 s: thread 'holder' is in allreduce #1 on the same Context, which serves one "
                "at a time"
            )
        go.set()
        holder.join(30)
        assert not ctx.closed  # the Context is none the worse for it
        ctx.barrier()

    def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    run_ranks(2, body)


@pytest.mark.parametrize("mpi", ["running", "finalized"])
def test_case_39_fork_and_exit_without_close(mpi_jobs: None, mpi: str) -> None:
    done = Job(3, "leaving.py", mpi).finish(60)
    over = time.time()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for found in reports(3, done.stdout):
        assert found["total"] == 3
        assert found["child"] == 7
        assert over - found["leaves"] < PROMPT + LAUNCHER
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_case_39_exit_after_finalize_calls_no_mpi(mpi_jobs: None, tmp_path: Path) -> None:
    """Neither does working, nor the goodbye of the Context, which nobody has closed, when the interpreter ends."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    done = Job(3, "exit_counted.py", build(tmp_path)).finish(60)
    over = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    for found in reports(3, done.stdout):
        assert (found["total"], found["closed"]) == (3, True)
        assert found["finalized"] > 0
        # mpi4py itself asks at its exit whether MPI has been finalized.
        assert found["end"] - found["finalized"] <= 2
        assert over - found["leaves"] < PROMPT + LAUNCHER


def test_case_39_interpreter_exit_with_an_operation_under_way() -> None:
    """The process is gone within 2 s, and its peer is told as soon."""
    lines = in_subprocess("""
import os, socket, sys, time, warnings
import numpy as np
from gloompi import Context, PeerLostError
from gloompi.engine.engine import Engine
from gloompi.transport.endpoint import Peer

warnings.simplefilter("ignore", ResourceWarning)
peers = [Peer(rank, "here", os.getpid(), "unix", "a") for rank in range(2)]
ends = socket.socketpair()
child = os.fork()
me = 0 if child else 1
ends[1 - me].close()
ends[me].setblocking(False)
ctx = Context(Engine(me, peers, [None, ends[0]] if child else [ends[1], None]), 10.0)
ctx.barrier()
if not child:
    request = ctx.iallreduce(np.ones(10**6))
    sys.exit(0)
began = time.monotonic()
try:
    ctx.recv(np.empty(1), 1)
except PeerLostError as exc:
    print(exc.rank)
print(os.waitpid(child, 0)[1], time.monotonic() - began < 2)
""")
    assert lines == ["1", "0 True"]


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_case_39_exit_without_close_is_a_goodbye(transport: str, tmp_path: Path) -> None:
    """Rank 2 ends after the barrier, without a close: that is no loss for ranks that need nothing of it any more."""
    lines = in_subprocess(f"""
import os, time, warnings
import numpy as np
from gloompi import Context, Device, FileStore, PeerLostError

warnings.simplefilter("ignore", ResourceWarning)
rank = 1 if not os.fork() else 2 if not os.fork() else 0
ctx = Context.from_store(FileStore("{tmp_path}/store"), rank, 3, timeout=10, device=Device(transport="{transport}"))
x = np.full(1000, rank)
ctx.barrier()
if rank == 2:
    ctx.isend(x, 0)
elif rank == 1:
    time.sleep(0.5)
    ctx.send(x, 0)
else:
    ctx.recv(x, 1)
    print(x[0])
    ctx.recv(x, 2)
    print(x[0])
    for _ in range(2):
        assert os.wait()[1] == 0
    try:
        ctx.barrier()
    except PeerLostError as exc:
        print("it closed its Context while this rank still needed it" in str(exc))
""")
    assert lines == ["1", "2", "True"]


def test_case_39_exit_by_an_exception_is_a_loss(tmp_path: Path) -> None:
    lines = in_subprocess(f"""
import os
import numpy as np
from gloompi import Context, FileStore, PeerLostError

rank = 0 if os.fork() else 1
ctx = Context.from_store(FileStore("{tmp_path}/store"), rank, 2, timeout=10)
ctx.barrier()
if rank:
    os.close(2)
    raise ValueError("nobody catches it")
try:
    ctx.recv(np.empty(1), 1)
except PeerLostError as exc:
    print("connection closed by peer; its process has ended" in str(exc))
print(os.wait()[1] >> 8)
""")
    assert lines == ["True", "1"]


def test_case_39_exit_while_a_thread_is_in_an_operation(tmp_path: Path) -> None:
    """It is waited for half a second at most."""
    lines = in_subprocess(f"""
import os, threading, time, warnings
import numpy as np
from gloompi import Context, FileStore, PeerLostError

warnings.simplefilter("ignore", ResourceWarning)
rank = 0 if os.fork() else 1
ctx = Context.from_store(FileStore("{tmp_path}/store"), rank, 2, timeout=60)
ctx.barrier()
if rank:
    threading.Thread(target=ctx.recv, args=(np.empty(1), 0), daemon=True).start()
    time.sleep(0.2)
else:
    began = time.monotonic()
    try:
        ctx.recv(np.empty(1), 1)
    except PeerLostError as exc:
        print(exc.rank)
    print(os.wait()[1], time.monotonic() - began < 2)
""")
    assert lines == ["1", "0 True"]


def test_case_39_exit_without_close_warns() -> None:
    program = """
import os, socket
from gloompi import Context
from gloompi.engine.engine import Engine
from gloompi.transport.endpoint import Peer

near, far = socket.socketpair()
near.setblocking(False)
peers = [Peer(0, "here", os.getpid(), "self", ""), Peer(1, "here", os.getpid(), "unix", "a")]
ctx = Context(Engine(0, peers, [None, near]), 10.0)
"""
    command = [sys.executable, "-W", "default", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "ResourceWarning: a Context of rank 0 of 2 was not closed before the interpreter ended" in done.stderr


@pytest.mark.usefixtures("mpi_jobs")
def test_case_40_bad_communicators_are_refused_alike() -> None:
    first, second = run_job(2, "bad_communicators.py")
    assert first["refused"] == second["refused"]
    assert first["total"] == second["total"] == 2
    refused = first["refused"]
    assert {name: error for name, (error, _) in refused.items()} == {
        "before Init": "RendezvousError",
        "int": "TypeError",
        "falsy": "TypeError",
        "str": "TypeError",
        "group": "TypeError",
        "class": "TypeError",
        "null": "TypeError",
        "freed": "TypeError",
        "inter": "TypeError",
        "broken": "RendezvousError",
        "finalized": "RendezvousError",
    }
    text = {name: text for name, (_, text) in refused.items()}
    between = "call from_mpi between MPI.Init() and MPI.Finalize()"
    assert text["before Init"] == f"rendezvous failed: MPI is not initialised; {between}"
    assert text["finalized"] == f"rendezvous failed: MPI has been finalized; {between}"
    assert text["int"] == "comm must be an mpi4py communicator, not int"
    assert text["falsy"] == "comm must be an mpi4py communicator, not Falsy"
    assert text["null"] == text["freed"] == "comm is COMM_NULL or was freed"
    assert text["inter"] == "comm is an inter-communicator; merge it first: comm.Merge()"
    assert "MPI could not duplicate the communicator" in text["broken"]


def test_case_40_size_one_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    (exchange,) = local_exchanges(1)
    assert connect(exchange, None, Deadline(1.0)) == Mesh([Peer(0, socket.gethostname(), os.getpid(), "self", "")], [None])


def test_case_40_size_one_works_without_sockets(mpi_jobs: None) -> None:
    program = """
import os, socket
import numpy as np
from mpi4py import MPI
from operations import run_all
from gloompi import Context

def sockets():
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    found = [os.readlink(path) for path in paths if os.path.lexists(path)]  # but the directory's own
    return sorted(each for each in found if each.startswith("socket:"))

def refuse(*arguments, **options):
    raise AssertionError("a socket is opened")

before = sockets()
socket.socket.__init__ = refuse
for comm in (MPI.COMM_SELF, MPI.COMM_WORLD):
    with Context.from_mpi(comm) as ctx:
        assert ctx.size == 1
        assert len(run_all(ctx)) > 30
        assert sockets() == before
print("worked")
"""
    here = Path(__file__).parent.parent
    path = os.pathsep.join([str(here.parent), str(here), str(here / "jobs")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "worked\n"), done.stderr
