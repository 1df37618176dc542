"""Somebody else on this host: commands that run as another user, for tests that attack."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

__all__ = ["OTHER", "as_other", "other_python", "public", "run_as_other"]

OTHER = 65534
_BECOME = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]


def as_other(*command: object) -> list[str]:
    """A command as another user runs it; skips the test where this user cannot become another one."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to become another user")
    return [*_BECOME, *map(str, command)]


@cache
def other_python() -> str:
    """A Python that the other user can start, with the standard library at least; skips the test if there is none."""
    found = [path for path in ("/usr/bin/python3", "/usr/local/bin/python3", shutil.which("python3")) if path]
    for path in found:
        if subprocess.run(as_other(path, "-IS", "-c", ""), capture_output=True, check=False, cwd="/").returncode == 0:
            return path
    pytest.skip("no Python that another user can start")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder of this user's in which everybody can make files: sticky, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="gloompi-public-") as name:
        folder = Path(name)
        folder.chmod(0o1777)
        yield folder


def run_as_other(*command: object) -> str:
    """What a command of another user prints; it must succeed."""
    done = subprocess.run(as_other(*command), capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout
