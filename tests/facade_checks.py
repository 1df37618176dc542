"""Jobs of checks of gloompi.MPI (see jobs/checking.py), and what has become of each check."""

from __future__ import annotations

import functools
import importlib
import json
from typing import Any

from launch import Job


def names(module: str) -> list[str]:
    """The checks of a module of tests/jobs/checks."""
    return [check.__name__ for check in importlib.import_module(f"checks.{module}").CHECKS]


@functools.cache
def errors(module: str, n: int) -> dict[str, dict[int, str | None]]:
    """What went wrong in each check on each of `n` ranks: None if nothing did."""
    checks = names(module)
    found: dict[str, dict[int, str | None]] = {name: {} for name in checks}
    first = 0
    while first < len(checks):
        done = Job(n, "checking.py", module, first).finish(100)
        ended = dict.fromkeys(range(n), first - 1)
        for line in done.stdout.splitlines():
            if line.startswith('{"rank"'):
                said: dict[str, Any] = json.loads(line)
                ended[said["rank"]] = said["ended"]
                found[checks[said["ended"]]][said["rank"]] = said["error"]
        if done.returncode == 0:
            break
        # It has ended in the first check that some rank did not finish: it hung, or died.
        first = min(ended.values()) + 1
        for rank in range(n):
            found[checks[first]].setdefault(rank, f"the job ended, exit code {done.returncode}\n{done.stderr}")
        first += 1
    return found


def require(module: str, check: str, n: int) -> None:
    """Fail if a check has failed."""
    found = errors(module, n)[check]
    assert sorted(found) == list(range(n))
    ranks: dict[str, list[int]] = {}
    for rank, error in sorted(found.items()):
        if error is not None:
            ranks.setdefault(error, []).append(rank)
    assert not ranks, "\n".join(f"on ranks {those}: {error}" for error, those in ranks.items())
