"""What a fault leaves behind on a rank: the error, what later operations say, and what is still open."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
from report import facts_of

from gloompi import Context

__all__ = ["Remains", "later", "outcome_of", "within"]


def outcome_of(operation: Callable[[], object]) -> dict[str, Any]:
    """When an operation began and ended, by the clock that all processes share, and how it failed if it did."""
    began = time.monotonic()
    try:
        operation()
        facts: dict[str, Any] = {"error": ""}
    except Exception as exc:
        facts = facts_of(exc)
    return {**facts, "began": began, "ended": time.monotonic()}


def later(ctx: Context) -> list[dict[str, Any]]:
    """What becomes of operations of all kinds on a Context that is broken."""
    x, peer = np.full(3, 1.0 + ctx.rank), (ctx.rank + 1) % ctx.size
    operations: list[Callable[[], object]] = [
        ctx.barrier,
        lambda: ctx.allreduce(x),
        lambda: ctx.iallreduce(x),
        lambda: ctx.send(x, peer),
        lambda: ctx.recv(np.empty(3), peer),
        lambda: ctx.allgather_object("x"),
    ]
    return [outcome_of(operation) for operation in operations]


def within(name: str, frame: Any) -> bool:
    """Whether a signal handler that got `frame` has interrupted a function of this name."""
    while frame is not None:
        if frame.f_code.co_name == name:
            return True
        frame = frame.f_back
    return False


class Remains:
    """Open files, threads and child processes of this process, now and later."""

    def __init__(self) -> None:
        self._before = self._now()

    def new(self) -> dict[str, list[str]]:
        """What there is now and was not when this was made; more of the same kind count."""
        gc.collect()
        found = {}
        for kind, things in self._now().items():
            left = list(things)
            for thing in self._before[kind]:
                if thing in left:
                    left.remove(thing)
            found[kind] = left[: max(0, len(things) - len(self._before[kind]))]
        return found

    @staticmethod
    def _now() -> dict[str, list[str]]:
        files = []
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the directory's own
                files.append(os.readlink(f"/proc/self/fd/{fd}"))
        return {
            "files": sorted(files),
            "threads": sorted(os.listdir("/proc/self/task")),
            "children": sorted(str(child.pid) for child in psutil.Process().children()),
        }
