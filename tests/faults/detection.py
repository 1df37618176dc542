"""How long it takes until every surviving rank knows: gloompi beside torch's gloo.

    python -m tests.faults.detection --runs 100 --peer-runs 20

4 ranks, processes on this host, or where links are cut on a host of their own each.  The time is from the fault to the error
of each survivor; where ranks are idle, from their next call; where one is stopped, from the end of the timeout of 2 s.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from gloompi import Context, Device, FileStore
from gloompi.rendezvous import mesh

if TYPE_CHECKING:
    from hosts import Host, Hosts

__all__ = ["main"]

_RANKS = 4
_TIMEOUT = 2.0
# Float64 elements of the allreduces.
_SMALL, _LARGE = 1000, 8 * 1024 * 1024
# How long ranks may take to start, and how long a survivor that has been told nothing is waited for.
_START_SECONDS, _GIVE_UP = 120.0, 8.0
# The same where it is keepalive that notices, 30 s after a link was cut; so many runs wait for that side by side.
_CUT_TIMEOUT, _CUT_GIVE_UP, _CUT_TOGETHER = 100.0, 60.0, 20
# From when the others are in a call that a rank is killed in.
_WITHIN_SECONDS = 0.03


class Candidate(Protocol):
    """A connected rank."""

    def operate(self, count: int) -> None:
        """Allreduce so many elements."""

    def leave(self) -> None:
        """What an exception makes a program do."""

    def reset(self) -> None:
        """Reset a connection to one other rank."""


class Gloompi:
    def __init__(self, rank: int, folder: str, transport: str, on_host: bool) -> None:
        device = Device("eth0" if on_host else None, transport=transport)
        timeout = _CUT_TIMEOUT if on_host else _TIMEOUT
        self._ctx = Context.from_store(FileStore(folder), rank, _RANKS, device=device, timeout=timeout)

    def operate(self, count: int) -> None:
        self._ctx.allreduce(np.ones(count))

    def leave(self) -> None:
        self._ctx.abort("ValueError: left by an exception")

    def reset(self) -> None:
        sock = self._ctx._engine._links[(self._ctx.rank + 1) % _RANKS].sock  # type: ignore[attr-defined]
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(sock.detach())


class Gloo:
    def __init__(self, rank: int, folder: str, transport: str, on_host: bool) -> None:
        import torch
        import torch.distributed as dist

        self._torch, self._dist = torch, dist
        store = dist.FileStore(f"{folder}/store", _RANKS)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=_RANKS, timeout=timedelta(seconds=_TIMEOUT))

    def operate(self, count: int) -> None:
        self._dist.all_reduce(self._torch.ones(count, dtype=self._torch.float64))

    def leave(self) -> None:
        self._dist.destroy_process_group()

    def reset(self) -> None:
        raise NotImplementedError


# -- what happens to a rank ----------------------------------------------------------------------------------------------


def _die(_: Candidate) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_within(rank: Candidate) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process as SIGKILL does
    signal.setitimer(signal.ITIMER_REAL, _WITHIN_SECONDS)
    rank.operate(_LARGE)


def _stop(_: Candidate) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise(rank: Candidate) -> None:
    rank.leave()
    time.sleep(_GIVE_UP)


def _reset(rank: Candidate) -> None:
    rank.reset()
    time.sleep(_GIVE_UP)


def _differ(rank: Candidate) -> None:
    rank.operate(_SMALL + 500)


def _stay(_: Candidate) -> None:
    time.sleep(_CUT_GIVE_UP)


class Case(NamedTuple):
    """A fault.

    Attributes
    ----------
    strike : callable
        What its victims do.
    victims : tuple of int
    after : float
        Seconds from the last common call until then.
    late : float
        Seconds from the note of the time until it strikes.
    idle : float
        Seconds that the others do nothing before their next call; if there are any, the time counts from that.
    count : int
        Elements of that call.
    overtime : bool
        The time counts from when the timeout of the call is over.
    cut : str
        How a victim's host is cut off, a shell command.
    peer : bool
        gloo can be made to meet it.
    """

    strike: Callable[[Candidate], None]
    victims: tuple[int, ...] = (2,)
    after: float = 0.02
    late: float = 0.0
    idle: float = 0.0
    count: int = _SMALL
    overtime: bool = False
    cut: str = ""
    peer: bool = True


# By their numbers, too: as the tests in this folder have them.
_CASES = {
    "2 killed while connecting": Case(_die, peer=False),
    "3 killed, the others just call": Case(_die),
    "3 killed, the others wait": Case(_die, after=0.2),
    "3 killed in an allreduce of 64 MiB": Case(_die_within, late=_WITHIN_SECONDS, count=_LARGE),
    "4 killed while all are idle": Case(_die, idle=0.3),
    "6 stopped": Case(_stop, overtime=True),
    "8 exception": Case(_raise),
    "9 two killed at once": Case(_die, victims=(1, 2)),
    "10 link down": Case(_stay, cut="ip link set eth0 down", peer=False),
    "11 all packets dropped": Case(
        _stay,
        cut="nft 'table inet cut { chain input { type filter hook input priority 0; iifname eth0 drop; };"
        " chain output { type filter hook output priority 0; oifname eth0 drop; }; }'",
        peer=False,
    ),
    "12 connection reset": Case(_reset, peer=False),
    "33 mismatch": Case(_differ),
}
_CONNECTING = "2 killed while connecting"


# -- a rank ---------------------------------------------------------------------------------------------------------------


def _rank(connect: Callable[..., Candidate], rank: int, folder: str, transport: str, name: str, out: int) -> None:
    def tell(**facts: Any) -> None:
        os.write(out, (json.dumps(facts) + "\n").encode())

    case = _CASES[name]
    began = 0.0
    try:
        if name == _CONNECTING and rank in case.victims:
            finish = mesh.Connecting._finish

            def finish_and_die(*arguments: Any) -> None:
                finish(*arguments)
                tell(when=time.monotonic())
                os.kill(os.getpid(), signal.SIGKILL)

            mesh.Connecting._finish = finish_and_die  # type: ignore[method-assign]
        candidate = connect(rank, folder, transport, bool(case.cut))
        for _ in range(5):
            candidate.operate(_SMALL)
        if rank in case.victims:
            time.sleep(case.after)
            tell(when=time.monotonic() + case.late)
            case.strike(candidate)
        time.sleep(case.idle)
        for _ in range(3):
            began = time.monotonic()
            candidate.operate(case.count)
    except Exception as exc:
        tell(when=time.monotonic(), began=began, error=type(exc).__name__)
        return
    tell(when=None, error="no error")


class Run:
    """The ranks of one run: they start at once.

    Attributes
    ----------
    struck : float or None
        When the fault has struck, by `time.monotonic`.
    over : bool
        All survivors have ended.
    """

    def __init__(self, connect: Callable[..., Candidate], transport: str, name: str, hosts: Hosts | None = None) -> None:
        self._case = _CASES[name]
        self._folder = tempfile.TemporaryDirectory()
        self._pids: list[int] = []
        self._pipes: list[int] = []
        self._texts = [b""] * _RANKS
        self._told: list[list[dict[str, Any]]] = [[] for _ in range(_RANKS)]
        self.struck: float | None = None
        for rank in range(_RANKS):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(read)
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                    if hosts is not None:
                        hosts.nodes[rank].join()
                    _rank(connect, rank, self._folder.name, transport, name, write)
                finally:
                    os._exit(0)
            os.close(write)
            os.set_blocking(read, False)
            self._pids.append(pid)
            self._pipes.append(read)

    @property
    def over(self) -> bool:
        return all("error" in self._end(rank) for rank in self._survivors())

    def _survivors(self) -> list[int]:
        return [rank for rank in range(_RANKS) if rank not in self._case.victims]

    def _end(self, rank: int) -> dict[str, Any]:
        return (self._told[rank] or [{}])[-1]

    def look(self) -> None:
        """Read what the ranks have told."""
        for rank, read in enumerate(self._pipes):
            try:
                self._texts[rank] += os.read(read, 65536)
            except BlockingIOError:
                continue
            self._told[rank] = [json.loads(line) for line in self._texts[rank].splitlines()]
        told = [self._told[victim] for victim in self._case.victims]
        if self.struck is None and all(told):
            self.struck = max(each[0]["when"] for each in told)

    def end(self) -> list[float | None]:
        """Kill all ranks; return the seconds until each survivor had its error, None where there was none."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for read in self._pipes:
            os.close(read)
        self._folder.cleanup()
        assert self.struck is not None, f"a victim has not struck, the ranks have told {self._told}"
        return [self._seconds(self._end(rank)) for rank in self._survivors()]

    def _seconds(self, end: dict[str, Any]) -> float | None:
        assert self.struck is not None
        if end.get("when") is None:
            return None
        if self._case.overtime:
            return float(end["when"] - end["began"] - _TIMEOUT)
        return float(end["when"] - (end["began"] if self._case.idle else self.struck))


def _watch(runs: list[Run], done: Callable[[Run], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not all(done(run) for run in runs) and time.monotonic() < until:
        time.sleep(0.005)
        for run in runs:
            run.look()


def _once(connect: Callable[..., Candidate], transport: str, name: str) -> list[float | None]:
    run = Run(connect, transport, name)
    _watch([run], lambda run: run.over or run.struck is not None, _START_SECONDS)
    _watch([run], lambda run: run.over, _GIVE_UP)
    return run.end()


def _cut(transport: str, name: str, runs: int) -> Iterable[float | None]:
    """The same for a cut, many at once: it is mostly a wait."""
    from hosts import several_hosts

    for first in range(0, runs, _CUT_TOGETHER):
        with several_hosts(_RANKS) as hosts:
            together = [Run(Gloompi, transport, name, hosts) for _ in range(min(_CUT_TOGETHER, runs - first))]
            _watch(together, lambda run: run.struck is not None, _START_SECONDS)
            time.sleep(1.0)  # the last of them have to wait, too
            victim: Host = hosts.nodes[_CASES[name].victims[0]]
            victim.sh(_CASES[name].cut)
            when = time.monotonic()
            _watch(together, lambda run: run.over, _CUT_GIVE_UP)
            for run in together:
                run.struck = when
                yield from run.end()


def main(arguments: list[str] | None = None) -> int:
    """Stage each case a number of times, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.detection", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--peer-runs", type=int, default=20, help="of torch's gloo, which is slow to start")
    parser.add_argument("--cases", default=",".join(case.split()[0] for case in _CASES), help="their numbers")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch, which has threads when this forks
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
    from hosts import missing

    print(
        f"{_RANKS} ranks, {options.runs} runs of each ({options.peer_runs} of torch's gloo); ms until a survivor has its "
        "error: median, worst"
    )
    for name in (name for name in _CASES if name.split()[0] in options.cases.split(",")):
        if _CASES[name].cut:
            if lacking := missing():
                print(f"{name:36} not measured: {lacking}")
            else:
                _print(name, "gloompi, TCP", _cut("tcp", name, options.runs))
            continue
        for transport, label in (("unix", "gloompi, AF_UNIX"), ("tcp", "gloompi, TCP")):
            _print(name, label, (each for _ in range(options.runs) for each in _once(Gloompi, transport, name)))
        if _CASES[name].peer and importlib.util.find_spec("torch") is not None:
            _print(name, "torch's gloo", (each for _ in range(options.peer_runs) for each in _once(Gloo, "tcp", name)))
    return 0


def _print(name: str, label: str, seconds: Iterable[float | None]) -> None:
    found = list(seconds)
    known = [1e3 * each for each in found if each is not None]
    never = len(found) - len(known)
    times = f"{median(known):9.1f} {max(known):9.1f}" if known else f"{'-':>9} {'-':>9}"
    print(f"{name:36} {label:18} {times}" + (f"   {never} of {len(found)} without an error" if never else ""), flush=True)


if __name__ == "__main__":
    sys.exit(main())
