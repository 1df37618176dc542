"""How long it takes until every surviving rank knows: gloompi beside torch's gloo.

    python -m tests.faults.detection --runs 100 --peer-runs 20

4 ranks, processes on this host; the time is from the fault to the error of each survivor.  `stop` has a timeout of 2 s, and
what is printed is what the survivor's call took beyond.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Any

import numpy as np

from gloompi import Context, Device, FileStore

__all__ = ["main"]

_RANKS, _VICTIM = 4, 2
_TIMEOUT = 2.0
# How long ranks may take to start, and how long a survivor that has been told nothing is waited for.
_START_SECONDS = 120.0
_GIVE_UP = 8.0
_CASES = ("killed in an allreduce", "killed while the others wait", "exception", "mismatch", "stop")

Operate = Callable[[int], Any]


def _gloompi(rank: int, folder: str, transport: str) -> tuple[Operate, Callable[[], None]]:
    device = Device(transport=transport)
    ctx = Context.from_store(FileStore(folder), rank, _RANKS, device=device, timeout=_TIMEOUT)

    def leave() -> None:
        ctx.abort("ValueError: left by an exception")

    return lambda count: ctx.allreduce(np.ones(count)), leave


def _gloo(rank: int, folder: str, transport: str) -> tuple[Operate, Callable[[], None]]:
    import torch
    import torch.distributed as dist

    store = dist.FileStore(f"{folder}/store", _RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=_RANKS, timeout=timedelta(seconds=_TIMEOUT))

    def leave() -> None:
        dist.destroy_process_group()

    return lambda count: dist.all_reduce(torch.ones(count, dtype=torch.float64)), leave


def _rank(connect: Callable[..., Any], rank: int, folder: str, transport: str, case: str, out: int) -> None:
    def tell(**facts: Any) -> None:
        os.write(out, (json.dumps(facts) + "\n").encode())

    operate, leave = connect(rank, folder, transport)
    began = 0.0
    for _ in range(5):
        operate(1000)
    try:
        if rank == _VICTIM:
            # The others have left the last call, or in one of the cases, wait in the next.
            time.sleep(0.2 if case == "killed while the others wait" else 0.02)
            tell(when=time.monotonic())
            if case.startswith("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            elif case == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif case == "exception":
                leave()
                time.sleep(_GIVE_UP)
        for _ in range(3):
            began = time.monotonic()
            operate(1500 if case == "mismatch" and rank == _VICTIM else 1000)
    except Exception as exc:
        tell(when=time.monotonic(), began=began, error=type(exc).__name__)
        return
    tell(when=None, error="no error")


def _once(connect: Callable[..., Any], transport: str, case: str) -> list[float | None]:
    """Seconds until each survivor had its error; None where there was none in time."""
    with tempfile.TemporaryDirectory() as folder:
        pids, pipes = [], []
        for rank in range(_RANKS):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(read)
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                    _rank(connect, rank, folder, transport, case, write)
                finally:
                    os._exit(0)
            os.close(write)
            os.set_blocking(read, False)
            pids.append(pid)
            pipes.append(read)
        told: list[list[dict[str, Any]]] = [[] for _ in pids]
        until = time.monotonic() + _START_SECONDS
        texts = [b""] * _RANKS
        survivors = [rank for rank in range(_RANKS) if rank != _VICTIM]
        while time.monotonic() < until and not all("error" in (told[rank] or [{}])[-1] for rank in survivors):
            time.sleep(0.005)
            for rank, read in enumerate(pipes):
                try:
                    texts[rank] += os.read(read, 65536)
                except BlockingIOError:
                    continue
                told[rank] = [json.loads(line) for line in texts[rank].splitlines()]
            if told[_VICTIM]:
                until = told[_VICTIM][0]["when"] + _GIVE_UP
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for read in pipes:
            os.close(read)
    struck = told[_VICTIM][0]["when"]
    ends = [(told[rank] or [{}])[-1] for rank in survivors]
    if case == "stop":
        return [end["when"] - end["began"] - _TIMEOUT if "began" in end else None for end in ends]
    return [end["when"] - struck if end.get("when") is not None else None for end in ends]


def main(arguments: list[str] | None = None) -> int:
    """Stage each case a number of times, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.detection", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--peer-runs", type=int, default=20, help="of torch's gloo, which is slow to start")
    parser.add_argument("--cases", default=",".join(_CASES))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch, which has threads when this forks
    candidates: dict[str, tuple[Callable[..., Any], str]] = {
        "gloompi, AF_UNIX": (_gloompi, "unix"),
        "gloompi, TCP": (_gloompi, "tcp"),
    }
    if importlib.util.find_spec("torch") is not None:
        candidates["torch's gloo"] = (_gloo, "tcp")
    print(
        f"{_RANKS} ranks, {options.runs} runs of each ({options.peer_runs} of torch's gloo); ms until a survivor has its "
        "error: median, worst"
    )
    for case in options.cases.split(","):
        for name, (connect, transport) in candidates.items():
            runs = options.peer_runs if connect is _gloo else options.runs
            found = [seconds for _ in range(runs) for seconds in _once(connect, transport, case)]
            known = [1e3 * seconds for seconds in found if seconds is not None]
            never = len(found) - len(known)
            times = f"{median(known):9.1f} {max(known):9.1f}" if known else f"{'-':>9} {'-':>9}"
            print(f"{case:30} {name:18} {times}" + (f"   {never} without an error" if never else ""), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
