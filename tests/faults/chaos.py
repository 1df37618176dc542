"""Random operations with one random fault each: nothing hangs, nothing is wrong, everybody learns the right reason.

    python -m tests.faults.chaos --seed N --runs 1000

Each run forks 2 to 6 ranks, which find each other over a FileStore and talk over TCP or AF_UNIX; where the machine lets
networks be made, some runs have a host for each rank.  A run that goes wrong is printed with its seed, and
``--seed SEED --runs 1`` repeats it, with the same ``--draws``.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import gc
import importlib.util
import json
import os
import random
import secrets
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from gloompi import Context, Device, FileStore, GloompiError

from ..handlers import Failing
from .side_traffic import DRAWS, NAMES, Side
from .traffic_mix import Operation, draw, perform

if TYPE_CHECKING:
    from hosts import Hosts

__all__ = ["main"]

# Budget of an operation, unless it is given; and of a run beyond it, before it counts as hanging.
_TIMEOUT, _GRACE = 2.0, 20.0
# What survivors may take to learn of a fault that closes a connection.
_PROMPT = 2.0
_MOST_RANKS = 6
# Connections of strangers in a flood.
_STRANGERS = 300
_GREETINGS = (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"gloompi\x01")

# A stream lasts so long; and where it goes to a rank that is gone, so long that whoever only sends must learn of that.
_STREAM_SECONDS, _VAIN_SECONDS, _VAIN_SHARE = 0.05, 2 * _PROMPT, 0.3

# What is drawn beside ordinary operations, and faults of the system calls.
_CALLS = "calls"
_ALL_DRAWS = (_CALLS, *DRAWS)
_DRAWS = _ALL_DRAWS

# All survivors must raise this; None: nothing goes wrong.
_ERRORS: dict[str, set[str] | None] = {
    "kill": {"PeerLostError"},
    "exception": {"PeerLostError"},
    "reset": {"PeerLostError"},
    "mismatch": {"MismatchError"},
    "stop": {"OperationTimeoutError"},
    "link down": {"PeerLostError", "OperationTimeoutError"},
    "late": None,
    "flood": None,
    "slow link": None,
    "EFAULT": {"SystemCallError", "PeerLostError"},
    "ENOBUFS": None,
    "ENOMEM": None,
}
_FAILING_CALLS = ("EFAULT", "ENOBUFS", "ENOMEM")
# Not all ranks have to be in these: a call that is left out comes out at the next that all make, if they get there.
_LOOSE = ("messages", "ring", *NAMES)
_OPTIONS = [{}, {}, {"checksum": True}, {"tls": importlib.util.find_spec("cryptography") is not None}]
_AT_ONCE = ("kill", "exception", "reset", "mismatch", "EFAULT")
# After these, all that are left go on without those that are gone.
_SHRINKING = ("kill", "exception", "reset", "mismatch", "EFAULT")


class Plan(NamedTuple):
    """What happens in a run.

    Attributes
    ----------
    seed, size : int
    transport : str
    options : dict
        Others of the device.
    operations : list of Operation
    fault : str
    victim, at : int
        The rank that it strikes, before this operation.
    timeout : float
        Budget of an operation.
    vain : bool
        All others only send, to the victim, in this operation.
    """

    seed: int
    size: int
    transport: str
    options: dict[str, bool]
    operations: list[Operation]
    fault: str
    victim: int
    at: int
    timeout: float
    vain: bool = False


def plan(seed: int, links: bool, draws: Sequence[str], timeout: float) -> Plan:
    """Draw a run."""
    source = random.Random(seed)
    size = source.randint(2, _MOST_RANKS)
    faults = [fault for fault in _ERRORS if links or not fault.endswith(("link", "down"))]
    if _CALLS not in draws:
        faults = [fault for fault in faults if fault not in _FAILING_CALLS]
    fault = source.choice(faults)
    transport = "tcp" if "link" in fault else source.choice(["tcp", "unix"])
    more = [name for kind in draws for name in DRAWS.get(kind, ())]
    operations = draw(source, size, source.randint(5, 25), more)
    options = source.choice(_OPTIONS)
    victim, at = source.randrange(size), source.randrange(len(operations) - 2)
    run = Plan(seed, size, transport, options, operations, fault, victim, at, timeout)
    if "senders" in draws and fault in ("kill", "exception", "reset") and source.random() < _VAIN_SHARE:
        operations[run.at] = operations[run.at]._replace(name="stream", root=run.victim)
        return run._replace(vain=True)
    return run


# -- a rank ---------------------------------------------------------------------------------------------------------------


def _strike(ctx: Context, run: Plan, tell: Callable[..., None]) -> None:
    tell(struck=time.monotonic())
    if run.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif run.fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif run.fault == "exception":
        raise ValueError("chaos")
    elif run.fault == "reset":
        sock = ctx._engine._links[(ctx.rank + 1) % ctx.size].sock  # type: ignore[attr-defined]
        with suppress(OSError):  # AF_UNIX has no such option
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    elif run.fault == "mismatch":
        ctx.allreduce(bytearray(3), op="bxor")
    elif run.fault == "late":
        time.sleep(0.3 * run.timeout)
    elif "link" in run.fault:
        time.sleep(0.2)  # until the link is as the parent has been asked to make it
    elif run.fault in _FAILING_CALLS:
        _fail_calls(ctx, run)


def _fail_calls(ctx: Context, run: Plan) -> None:
    """Have system calls of this rank fail: the next that sends, or some on each connection."""
    code, source = getattr(errno, run.fault), random.Random(run.seed)
    codes = [code]
    for link in ctx._engine._links:
        if getattr(link, "sock", None) is None:  # this rank itself, or one that is through and has closed
            continue
        link.sock = sock = Failing(link.sock)  # type: ignore[attr-defined]
        if run.fault == "EFAULT":
            sock.sending = codes  # whichever is the first
        else:
            sock.sending, sock.receiving = (
                [source.choice([0, code]) for _ in range(source.randint(1, 6))] for _ in range(2)
            )


def _rank(run: Plan, rank: int, folder: str, out: int) -> None:
    """What a child does until it exits; it tells what has become of it a line each."""

    def tell(**facts: Any) -> None:
        os.write(out, (json.dumps(facts) + "\n").encode())

    before = _held()
    done = 0
    ctx = None
    try:
        store = FileStore(folder)
        device = Device("eth0" if "link" in run.fault else None, transport=run.transport, **run.options)
        ctx = Context.from_store(store, rank, run.size, device=device, timeout=run.timeout, connect_timeout=15.0)
        tell(connected=True)
        with ExitStack() as stack:
            stack.enter_context(ctx)
            side = Side(ctx, stack) if any(operation.name in NAMES for operation in run.operations) else None
            try:
                for operation in run.operations:
                    if operation.index == run.at and rank == run.victim:
                        _strike(ctx, run, tell)
                    if side is not None and operation.name in NAMES:
                        vain = run.vain and operation.index == run.at
                        side.perform(operation, _VAIN_SECONDS if vain else _STREAM_SECONDS)
                    else:
                        perform(ctx, operation)
                    done += 1
                if side is not None:
                    side.finish()
            except GloompiError as exc:
                tell(**_raised(exc, ctx))
                if run.fault in _SHRINKING:
                    tell(left=_shrunk(ctx))
    except Exception as exc:
        tell(**_raised(exc, ctx))
    del ctx
    gc.collect()
    tell(done=done, leaked=[now - then for now, then in zip(_held(), before, strict=True)])


def _raised(exc: Exception, ctx: Context | None) -> dict[str, Any]:
    facts = {"error": type(exc).__name__, "text": str(exc), "lost": getattr(exc, "rank", None), "when": time.monotonic()}
    if ctx is not None:
        try:
            ctx.barrier()
        except GloompiError as again:
            facts["again"] = str(again)
    return facts


def _shrunk(ctx: Context) -> list[int] | str:
    """Go on with those that are left; who they are, by their old ranks, or why not."""
    try:
        with ctx.shrink() as left:
            return list(left.allgather_object(ctx.rank))
    except GloompiError as exc:
        return f"{type(exc).__name__}: {exc}"


def _held() -> tuple[int, int, int]:
    """Descriptors, threads, children."""
    me = psutil.Process()
    return me.num_fds(), me.num_threads(), len(me.children())


# -- a run ----------------------------------------------------------------------------------------------------------------


class _Child(NamedTuple):
    pid: int
    pipe: int


def _fork(run: Plan, rank: int, folder: str, hosts: Hosts | None) -> _Child:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        os.set_blocking(read, False)
        return _Child(pid, read)
    try:
        os.close(read)
        faulthandler.register(signal.SIGUSR1)
        if hosts is not None and "link" in run.fault:
            hosts.nodes[rank].join()
        _rank(run, rank, folder, write)
    except BaseException as exc:  # a fault of this program: the parent prints it
        os.write(write, (json.dumps({"error": "chaos itself", "text": repr(exc)}) + "\n").encode())
    finally:
        os._exit(0)


def _flood(children: list[_Child]) -> None:
    """Connect to whatever the ranks listen on, and say all kinds of things."""
    source, opened = random.Random(len(children)), []
    until = time.monotonic() + 3.0
    while len(opened) < _STRANGERS and time.monotonic() < until:
        for child in children:
            with suppress(psutil.Error, OSError):
                for each in psutil.Process(child.pid).net_connections("tcp"):
                    if each.status == psutil.CONN_LISTEN:
                        sock = socket.create_connection(each.laddr, timeout=1.0)
                        opened.append(sock)
                        sock.send(source.choice([*_GREETINGS, source.randbytes(64)]))
    for sock in opened:
        sock.close()


def _run(run: Plan, hosts: Hosts | None) -> list[str]:
    """Do a run; return what was wrong."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        children = [_fork(run, rank, folder, hosts) for rank in range(run.size)]
        for child in children:
            stack.callback(os.close, child.pipe)
        if run.fault == "flood" and run.transport == "tcp":
            flood = threading.Thread(target=_flood, args=(children,))
            flood.start()
            stack.callback(flood.join)
        facts, hanging = _watch(run, children, hosts)
        for child in children:
            if child.pid in hanging:
                os.kill(child.pid, signal.SIGUSR1)  # where it is, on stderr
                time.sleep(0.2)
                os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
    wrong = [f"rank {rank} hangs" for rank, child in enumerate(children) if child.pid in hanging]
    return wrong or _judge(run, facts)


def _watch(run: Plan, children: list[_Child], hosts: Hosts | None) -> tuple[list[dict[str, Any]], set[int]]:
    """Read what the ranks tell, until all have ended or too much time has passed."""
    facts: list[dict[str, Any]] = [{} for _ in children]
    texts = [b""] * len(children)
    rank_of = {child.pipe: rank for rank, child in enumerate(children)}
    deadline = time.monotonic() + 15.0 + run.timeout + _GRACE
    go_on = None
    waiting = select.poll()
    for child in children:
        waiting.register(child.pipe, select.POLLIN)
    try:
        while rank_of and time.monotonic() < deadline:
            for pipe, _ in waiting.poll(50):
                rank = rank_of[pipe]
                data = os.read(pipe, 65536)
                if not data:
                    waiting.unregister(pipe)
                    del rank_of[pipe]
                texts[rank] += data
                *lines, texts[rank] = texts[rank].split(b"\n")
                for line in lines:
                    news = json.loads(line)
                    facts[rank] |= news
                    if "struck" in news:
                        # The others may get there a little later.
                        go_on = time.monotonic() + run.timeout + 3.0
                        deadline = max(deadline, go_on + _GRACE)
                        if hosts is not None and "link" in run.fault:
                            _spoil(hosts, run)
            if run.fault == "stop" and go_on is not None and time.monotonic() > go_on:
                go_on = None
                os.kill(children[run.victim].pid, signal.SIGCONT)
    finally:
        if hosts is not None and "link" in run.fault:
            _mend(hosts, run)
    return facts, {children[rank].pid for rank in rank_of.values()}


def _spoil(hosts: Hosts, run: Plan) -> None:
    node = hosts.nodes[run.victim]
    if run.fault == "link down":
        node.sh("ip link set eth0 down")
    else:
        node.sh("tc qdisc add dev eth0 root tbf rate 200mbit burst 64kb latency 200ms")


def _mend(hosts: Hosts, run: Plan) -> None:
    with suppress(AssertionError):  # it was not spoiled
        hosts.nodes[run.victim].sh("ip link set eth0 up; tc qdisc del dev eth0 root")


def _judge(run: Plan, facts: list[dict[str, Any]]) -> list[str]:
    wrong = []
    expected = _ERRORS[run.fault]
    if run.fault == "mismatch" and run.operations[run.at].name in _LOOSE:
        expected = {"OperationTimeoutError", "MismatchError"}
    total = len(run.operations)
    struck = facts[run.victim].get("struck")
    for rank, found in enumerate(facts):
        error, done = found.get("error"), found.get("done")
        who = f"rank {rank}"
        if rank == run.victim and run.fault == "kill":
            if error is not None or done is not None:
                wrong.append(f"{who} was not killed: {found}")
            continue
        if done is None:
            wrong.append(f"{who} has told nothing of its end: {found}")
            continue
        if any(leaked > 0 for leaked in found["leaked"]):
            wrong.append(f"{who} has leaked descriptors, threads or children: {found['leaked']}")
        wrong += _judge_left(run, rank, facts)
        if error is None:
            if done != total:
                wrong.append(f"{who} has stopped after {done} of {total} without an error")
            continue
        if rank == run.victim and run.fault in ("exception", "stop"):
            if run.fault == "exception" and error != "ValueError":
                wrong.append(f"{who} raised {error}: {found['text']}")
            continue
        if expected is None or error not in expected:
            wrong.append(f"{who} raised {error} after {done}: {found['text']}")
            continue
        if run.fault == "EFAULT" and (error == "SystemCallError") and "EFAULT (Bad address)" not in found["text"]:
            wrong.append(f"{who} does not know why: {found['text']}")
        if run.fault in ("kill", "exception", "EFAULT") and found["lost"] != run.victim:
            wrong.append(f"{who} blames rank {found['lost']}: {found['text']}")
        if run.fault == "exception" and "ValueError: chaos" not in found["text"]:
            wrong.append(f"{who} does not know why: {found['text']}")
        if found.get("again") != found["text"]:
            wrong.append(f"{who} raised later {found.get('again')!r}, first {found['text']!r}")
        prompt = run.fault in _AT_ONCE and error != "OperationTimeoutError"
        if prompt and struck is not None and found["when"] - struck > _PROMPT:
            wrong.append(f"{who} has learned of it after {found['when'] - struck:.1f} s")
    if expected is not None and all(found.get("error") is None for found in facts) and run.at < total - 2:
        wrong.append("nobody has noticed anything")
    return wrong


def _judge_left(run: Plan, rank: int, facts: list[dict[str, Any]]) -> list[str]:
    """Whether those with whom a rank has gone on are the right ones, and say the same."""
    left = facts[rank].get("left")
    if left is None:
        return []
    if isinstance(left, str):
        # Two ranks of which each has lost the other, though both are alive, cannot both go on with the rest.
        outside = run.fault in ("reset", "EFAULT") and left.startswith("ContextClosedError")
        return [] if outside else [f"rank {rank} could not go on: {left}"]
    wrong = [
        f"rank {rank} goes on with {left}, rank {other} with {facts[other].get('left')}"
        for other in left
        if facts[other].get("left") != left
    ]
    if run.fault in ("kill", "exception") and run.victim in left:
        wrong.append(f"rank {rank} goes on with {left}, one of which is gone")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Do the runs; return 1 if one of them was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the others follow (default: a fresh one)")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--no-links", action="store_true", help="no runs with a host for each rank")
    parser.add_argument(
        "--timeout",
        type=float,
        default=_TIMEOUT,
        help=f"seconds for each operation (default: {_TIMEOUT}); more on a busy machine",
    )
    parser.add_argument(
        "--draws",
        nargs="*",
        choices=_ALL_DRAWS,
        default=_DRAWS,
        help=f"what is drawn beside the ordinary, of {', '.join(_ALL_DRAWS)} (default: {' '.join(_DRAWS)})",
    )
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
    from hosts import missing, several_hosts

    if importlib.util.find_spec("cryptography") is not None:
        from gloompi.rendezvous import securing  # noqa: F401 - or each rank that encrypts takes its time to load it
    lacking = "not asked for" if options.no_links else missing()
    print(f"seed {seed}, {options.runs} runs{f'; no links are spoiled: {lacking}' if lacking else ''}", flush=True)
    kinds: Counter[str] = Counter()
    failures = 0
    began = time.monotonic()
    with ExitStack() as stack:
        hosts = None if lacking else stack.enter_context(several_hosts(_MOST_RANKS))
        for number in range(seed, seed + options.runs):
            run = plan(number, hosts is not None, options.draws, options.timeout)
            wrong = _run(run, hosts)
            kinds[run.fault] += 1
            if wrong:
                failures += 1
                what = f"{run.fault} at rank {run.victim} of {run.size} before {run.operations[run.at]}"
                print(f"seed {run.seed}: {run.transport} {run.options or ''}, {what}", *wrong, sep="\n  ", flush=True)
    survived = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{options.runs} runs in {time.monotonic() - began:.0f} s, {failures} of them wrong; faults: {survived}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
