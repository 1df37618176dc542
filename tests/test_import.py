"""What `import gloompi` costs: the modules that most programs never need, or need later, are not loaded by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gloompi

# Each takes 1 ms to 20 ms; a process with NumPy starts in 100 ms.
LATER = {
    *(
        "argparse",
        "asyncio",
        "hashlib",
        "logging",
        "mpi4py",
        "psutil",
        "resource",
        "socket",
        "ssl",
        "subprocess",
        "urllib.request",
    ),
    *("gloompi.bench", "gloompi.doctor", "gloompi.facade", "gloompi.MPI", "gloompi.rendezvous", "gloompi.testing"),
    *(
        "gloompi.engine.trace",
        "gloompi.launcher",
        "gloompi.stores",
        "gloompi.transport.device",
        "gloompi.transport.interfaces",
    ),
}


def loaded(statement: str) -> set[str]:
    """What of `LATER` a statement loads that NumPy does not."""
    code = (
        f"import sys, numpy; before = set(sys.modules); {statement}; "
        f"print(*({LATER!r} & (sys.modules.keys() - before)), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(gloompi.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import gloompi", "from gloompi import Context, PeerLostError, wait_all"])
def test_an_import_loads_nothing_that_can_wait(statement: str) -> None:
    assert loaded(statement) == set()


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("Device", {"gloompi.transport.device", "gloompi.transport.interfaces", "logging", "socket"}),
        ("HashStore", {"gloompi.stores"}),
    ],
)
def test_a_name_is_loaded_when_it_is_asked_for(name: str, modules: set[str]) -> None:
    assert loaded(f"import gloompi; gloompi.{name}") == modules
    assert loaded(f"from gloompi import {name}") == modules


def test_an_import_of_a_name_that_is_not_there() -> None:
    with pytest.raises(ImportError, match=r"^cannot import name 'MemoryStore' from 'gloompi' "):
        from gloompi import MemoryStore  # noqa: F401
