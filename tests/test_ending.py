"""The end of the interpreter: the program's objects may still communicate, and the goodbye comes after them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gloompi
from gloompi.engine.engine import LATE_IMPORTS

PACKAGE = Path(gloompi.__file__).parent

# What is imported when connections are made, by coroutines, which an event loop runs, and for arrays of rare dtypes.
EARLIER = {
    *("gloompi.transport.tls", "gloompi.transport.checked", "gloompi.transport.certificate", "gloompi.engine.trace"),
    *("gloompi.awaiting", "psutil", "cryptography", "ml_dtypes"),
}

# Rank 1 is a child, which ends when it is told to; rank 0 tells it somewhere in its own end, and waits for the child's.
PROGRAM = """
import atexit, os, sys, weakref
how, folder = sys.argv[1:]
box = []
if how == "exit function of before":
    atexit.register(lambda: [pool.shutdown() for pool in box])
import owner
from owner import ctx, child, shutdown

class Pool:
    def shutdown(self):
        shutdown()
    if how == "class of the program":
        __del__ = shutdown

if how == "class of another module":
    del Pool  # nothing of the program's is in a cycle
    pool = owner.Pool()
else:
    pool = Pool()
if how == "exit function of before":
    box.append(pool)
elif how == "exit function":
    atexit.register(pool.shutdown)
elif how == "finalize":
    weakref.finalize(pool, lambda: shutdown())
elif how == "cycle":
    Pool.__del__ = Pool.shutdown
    pool.itself = pool
    del pool
elif how == "hooks of the program":
    import signal, threading
    Pool.__del__ = Pool.shutdown
    signal.signal(signal.SIGUSR1, lambda *_: None)
    sys.excepthook = sys.displayhook = sys.breakpointhook = threading.excepthook = lambda *_: None
elif how == "exit":
    Pool.__del__ = Pool.shutdown
    sys.exit()
elif how == "another module's global":
    owner.pool = owner.Pool()
os.write(1, b"program over\\n")
"""
OWNER = """
import gc, os, sys
from gloompi import Context, FileStore
gc.disable()
child = os.fork()
ctx = Context.from_store(FileStore(sys.argv[2]), 0 if child else 1, 2, timeout=20)
if not child:
    with ctx:
        os._exit(0 if [ctx.recv_object(0) for _ in range(2)] == ["stop", 0] and not ctx.close() else 1)

def shutdown(*_):
    with ctx.dup() as twin:  # which imports something
        pass
    ctx.send_object("stop", 1)
    ctx.send_object(0, 1)
    os.write(1, b"told\\n")
    os.write(1, b"%d\\n" % os.waitpid(child, 0)[1])

class Pool:
    __del__ = shutdown
"""


def run(folder: Path, program: str, *arguments: object, options: tuple[str, ...] = ("-W", "default")) -> tuple[str, str]:
    """What a program in this folder writes, which has to end well."""
    path = folder / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, *options, str(path), *map(str, arguments)],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "how",
    [
        "exit function of before",
        "exit function",
        "finalize",
        "class of the program",
        "class of another module",
        "another module's global",
        "cycle",
        "hooks of the program",
        "exit",
    ],
)
def test_what_lives_to_the_end_may_communicate(tmp_path: Path, how: str) -> None:
    """Nobody has closed the Context, which is said after that."""
    (tmp_path / "owner.py").write_text(OWNER)
    out, err = run(tmp_path, PROGRAM, how, tmp_path / "store")
    assert out == "program over\n" * (how != "exit") + "told\n0\n"
    assert err.count("ResourceWarning: a Context of rank 0 of 2 was not closed before the interpreter ended\n") == 1, err
    assert err.count("ResourceWarning: ") == 1, err
    assert "Exception ignored" not in err


def test_an_error_at_the_end_is_reported_and_the_rest_is_done(tmp_path: Path) -> None:
    (tmp_path / "owner.py").write_text("""
import atexit, fractions, os
from gloompi.ending import at_the_end

def fails():
    os.write(1, b"fails\\n")
    raise KeyError("at the end")

def works():
    import fractions  # loaded
    try:
        import colorsys  # not loaded
    except ImportError:
        os.write(1, b"works\\n")

atexit.register(lambda: at_the_end(works))
atexit.register(lambda: at_the_end(fails))
""")
    out, err = run(
        tmp_path,
        """
import os, owner

class Last:
    def __del__(self):
        os.write(1, b"del\\n")
        raise ValueError("in __del__")

last = Last()
""",
    )
    assert out == "del\nfails\nworks\n"
    assert err.index("ValueError: in __del__") < err.index("KeyError: 'at the end'")
    assert err.count("Exception ignored") == 2


def test_the_end_by_force_is_a_loss(tmp_path: Path) -> None:
    out, _ = run(
        tmp_path,
        f"""
import os
import numpy as np
from gloompi import Context, FileStore, PeerLostError
child = os.fork()
with Context.from_store(FileStore("{tmp_path}/store"), 0 if child else 1, 2, timeout=20) as ctx:
    if not child:
        ctx.recv(np.empty(1), 0)
        os._exit(0)
    ctx.send(np.ones(1), 1)
    try:
        ctx.recv(np.empty(1), 1)
    except PeerLostError as exc:
        print("connection closed by peer; its process has ended" in str(exc))
""",
    )
    assert out == "True\n"


def imported_late(path: Path) -> set[str]:
    """The modules that functions in a file import."""
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parents = module.split(".")[: -node.level] if node.level else []
                base = ".".join([*parents, *filter(None, [node.module])])
                inside = {f"{base}.{alias.name}" for alias in node.names}
                modules = {name for name in inside if (PACKAGE.parent / (name.replace(".", "/") + ".py")).exists()}
                found |= modules or {base}
    return found


def test_what_calls_import_is_loaded_before_the_end() -> None:
    files = [path for layer in ("engine", "plans", "collectives", "operations") for path in (PACKAGE / layer).glob("*.py")]
    names = ("link", "pair", "tls", "checked", "memory", "liveness", "frames")
    files += [PACKAGE / "transport" / f"{name}.py" for name in names]
    files += [PACKAGE / f"{name}.py" for name in ("request", "message", "objects", "arrays", "waiting", "deadline")]
    found = set().union(*(imported_late(path) for path in files))
    assert {name for name in found if name.partition(".")[0] not in EARLIER} - EARLIER == set(LATE_IMPORTS)
