"""`python -m gloompi script.py`: what the program sees, and how the job ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import Job, reports

# What a program can see of how it was started, as a rank's report.
SEEN = """
import json, os, sys
def seen():
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv, "path": sys.path, "name": __name__, "file": globals().get("__file__"),
        "package": __package__ or "", "spec": getattr(__spec__, "name", None) if "__spec__" in globals() else None,
        "main": main.__dict__ is globals(),
    }
"""
SAY = """
def say(**facts):
    os.write(1, (json.dumps({"rank": MPI.COMM_WORLD.rank, **facts}) + chr(10)).encode())
"""
POINT = """
class Point:
    def __init__(self, x):
        self.x = x
def exchanged():
    points = MPI.COMM_WORLD.allgather(Point(10 * MPI.COMM_WORLD.rank))
    return [point.x for point in points if type(point) is Point]
"""
PROGRAM = f"""{SEEN}
try:
    from mpi4py import MPI
except ImportError:
    MPI = None
{SAY}
{POINT}
if "alone" in sys.argv:
    print(json.dumps(seen()))
else:
    # What the other ranks read is the launcher's business: MPICH's leaves them waiting, and Open MPI's all of them.
    given = sys.stdin.read() if MPI.COMM_WORLD.rank == 0 and "OMPI_COMM_WORLD_RANK" not in os.environ else ""
    say(seen=seen(), points=exchanged(), module=type(MPI.COMM_WORLD).__module__, given=given)
"""


def run(n: int, *arguments: str, timeout: float = 40.0) -> subprocess.CompletedProcess[str]:
    return Job(n, "-m", "gloompi", *arguments).finish(timeout)


def script(folder: Path, text: str, name: str = "program.py") -> str:
    """Write a program that has the ranks' number in `rank`."""
    path = folder / name
    path.write_text(f"import json, os, sys, time\nfrom mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\n{SAY}\n{text}\n")
    return str(path)


def alone(*arguments: str) -> dict[str, object]:
    """What the program sees when Python itself runs it."""
    done = subprocess.run(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
    )
    seen: dict[str, object] = json.loads(done.stdout)
    return seen


def require(done: subprocess.CompletedProcess[str], n: int, expected: dict[str, object]) -> None:
    assert done.returncode == 0, done.stderr
    for report in reports(n, done.stdout):
        assert report["points"] == [10 * rank for rank in range(n)]
        assert report["module"] == "gloompi.MPI"
        assert report["given"] == ""
        assert report["seen"] == expected


# -- what the program sees --------------------------------------------------------------------------------------------------


def test_script_sees_what_python_shows(mpi_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    arguments = ("sub/program.py", "--flag", "a b", "-m", "-n", "3")
    expected = alone(*arguments, "alone")
    expected["argv"] = list(arguments)
    require(run(3, *arguments), 3, expected)


def test_module_of_package_sees_what_python_shows(mpi_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "beside.py").write_text("from mpi4py import MPI\nworld = MPI.COMM_WORLD\n")
    (package / "__main__.py").write_text(f"from .beside import world\n{PROGRAM}")
    monkeypatch.chdir(tmp_path)
    arguments = ("-m", "pack", "--flag")
    expected = alone(*arguments, "alone")
    expected["argv"] = [str(package / "__main__.py"), "--flag"]
    require(run(2, *arguments), 2, expected)


def test_code_sees_what_python_shows(mpi_jobs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("-c", PROGRAM, "--flag", "x")
    expected = alone(*arguments, "alone")
    expected["argv"] = ["-c", "--flag", "x"]
    require(run(2, *arguments), 2, expected)


def test_every_way_to_import_is_replaced(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
import importlib, pickle
import mpi4py, mpi4py.MPI, mpi4py.MPI as renamed, gloompi.MPI
from mpi4py.MPI import COMM_WORLD
modules = [mpi4py.MPI, renamed, MPI, gloompi.MPI, importlib.import_module("mpi4py.MPI"), sys.modules["mpi4py.MPI"]]
assert all(module is MPI for module in modules)
assert COMM_WORLD is MPI.COMM_WORLD
assert pickle.loads(pickle.dumps(MPI.SUM)) == MPI.SUM
from mpi4py.util import pkl5
world = pkl5.Intracomm(COMM_WORLD)
assert world.bcast({"from": rank}, root=1) == {"from": 1}
say(fine=True)
"""
    done = run(2, script(tmp_path, text))
    assert done.returncode == 0, done.stderr
    assert all(report["fine"] for report in reports(2, done.stdout))


def test_initialized_by_hand(mpi_jobs: None, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"""
import json, os, sys
import mpi4py
mpi4py.rc.initialize = False
mpi4py.rc.finalize = False
from mpi4py import MPI
{SAY}
MPI.Init_thread(MPI.THREAD_MULTIPLE)
assert MPI.Is_initialized()
say(sum=MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank + 1))
MPI.Finalize()
assert MPI.Is_finalized()
""")
    done = run(2, str(path))
    assert done.returncode == 0, done.stderr
    assert [report["sum"] for report in reports(2, done.stdout)] == [3, 3]


# -- a normal end -----------------------------------------------------------------------------------------------------------


def test_exit_functions_still_communicate(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
import atexit
mine = [rank + 1]
atexit.register(lambda: say(sum=MPI.COMM_WORLD.allreduce(mine[0])))
MPI.COMM_WORLD.Dup()  # never freed
request = MPI.COMM_WORLD.isend("unreceived", dest=1 - rank)
sys.exit()
"""
    done = run(2, script(tmp_path, text))
    assert done.returncode == 0, done.stderr
    assert [report["sum"] for report in reports(2, done.stdout)] == [3, 3]
    assert done.stderr == ""


@pytest.mark.parametrize("way", ["runner", "import"])
def test_a_master_may_end_its_workers_at_the_very_end(mpi_jobs: None, tmp_path: Path, way: str) -> None:
    """As with mpi4py, which finalizes MPI after the interpreter: in exit functions, finalizers and `__del__`."""
    text = """
import atexit, weakref
atexit.register(lambda: rank == 0 and tell("exit function of before"))
from mpi4py import MPI
world = MPI.COMM_WORLD
rank = world.rank

def tell(how):
    for worker in range(1, world.size):
        world.send(how, worker)

class Pool:
    def __init__(self, how):
        self.how, self.comm = how, world.Dup()  # never freed
    def __del__(self):
        tell(self.how)
        self.comm.Free()

sys.excepthook = lambda *_: MPI.COMM_WORLD.Abort(1)  # keeps all globals alive

if rank:
    for how in ("finalizer", "exit function", "exit function of before", "pool in a cycle", "pool"):
        assert world.recv(source=0) in (how, "pool", "pool in a cycle")
    os.write(1, b"told 5 times\\n")
    sys.exit(0)
pool, cycle = Pool("pool"), Pool("pool in a cycle")
cycle.itself = cycle
atexit.register(tell, "exit function")
weakref.finalize(pool, tell, "finalizer")
"""
    path = tmp_path / "program.py"
    text = "import os, sys\n" + text
    # Without the runner, a worker's end is seen by those who still need it as with it.
    path.write_text(text if way == "runner" else text.replace("from mpi4py import MPI", "from gloompi import MPI"))
    done = run(3, str(path)) if way == "runner" else Job(3, str(path)).finish(40)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("told 5 times\n") == 2
    assert done.stderr == ""


def test_a_thread_in_a_receive_does_not_keep_the_end(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
import threading
if rank == 0:
    threading.Thread(target=MPI.COMM_WORLD.recv, daemon=True).start()
else:
    MPI.COMM_SELF.Barrier()
time.sleep(0.3)
"""
    began = time.monotonic()
    done = run(2, script(tmp_path, text))
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20


def test_pytest_with_warnings_as_errors(mpi_jobs: None, tmp_path: Path) -> None:
    """Communicators that nobody frees; and objects that communicate when pytest ends."""
    path = tmp_path / "test_program.py"
    path.write_text("""
import atexit, gc, os
import pytest
from mpi4py import MPI
world = MPI.COMM_WORLD

if world.rank == 1:
    atexit.register(lambda: os.write(1, world.recv(source=0).encode()))
else:
    atexit.register(lambda: world.send("over", 1))

@pytest.mark.mpi
def test_split_not_freed():
    def split():
        return world.Split(0, 0).allreduce(1)
    assert split() == world.size
    gc.collect()

@pytest.mark.mpi
def test_dup_not_freed():
    dup = world.Dup()
    assert dup.bcast(3) == 3
    del dup
    gc.collect()
""")
    done = run(2, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-c", os.devnull, "--with-mpi", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 passed") == 2
    assert done.stdout.count("over") == 1
    assert "Exception ignored" not in done.stderr


def test_finalize_then_exit_code(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
world = MPI.COMM_WORLD
world.Barrier()
MPI.Finalize()
try:
    world.Barrier()
except Exception as exc:
    say(finalized=MPI.Is_finalized(), error=type(exc).__name__)
sys.exit(3)
"""
    done = run(2, script(tmp_path, text))
    assert done.returncode == 3, done.stderr
    assert "MPI" not in done.stderr  # no complaint about calls after MPI_Finalize
    found = [report for report in reports(2, done.stdout) if report]
    assert found  # the launcher may have ended one rank as soon as the other had gone
    for report in found:
        assert (report["finalized"], report["error"]) == (True, "ContextClosedError")


def test_probing_goes_on_when_another_rank_has_ended(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
world = MPI.COMM_WORLD
world.Barrier()
if rank:
    begun, found = time.monotonic(), set()
    while time.monotonic() - begun < 0.5:  # meanwhile rank 0 has come to its end
        found |= {world.iprobe(), world.Iprobe(0), world.improbe()}
    say(found=sorted(map(str, found)))
"""
    done = run(3, script(tmp_path, text))
    assert done.returncode == 0, done.stderr
    assert [report["found"] for report in reports(3, done.stdout)[1:]] == [["False", "None"]] * 2


# -- an end with an error ---------------------------------------------------------------------------------------------------


def timed(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    begun = time.monotonic()
    done = run(n, *arguments)
    assert time.monotonic() - begun < 20
    return done


def test_exception_ends_whatever_the_others_do(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
def culprit():
    raise KeyError("what is missing")
MPI.COMM_WORLD.Barrier()
if rank == 1:
    MPI.COMM_WORLD.recv(source=4)  # so that rank 4 is at its end
    culprit()
elif rank == 0:
    MPI.COMM_WORLD.Recv(bytearray(1), source=1)
elif rank == 2:
    time.sleep(600)
elif rank == 3:
    while True:
        pass
else:
    MPI.COMM_WORLD.send("at its end", dest=1)
"""
    done = timed(5, script(tmp_path, text))
    assert done.returncode not in (0, None)
    assert done.stderr.count("\nKeyError: 'what is missing'\n") == 1
    assert done.stderr.count('raise KeyError("what is missing")') == 1


def test_exception_is_told_to_those_who_wait(mpi_jobs: None, tmp_path: Path) -> None:
    text = """
import signal
if rank == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise ValueError("bad value")
try:
    MPI.COMM_WORLD.allreduce(rank)
except BaseException as exc:
    say(error=type(exc).__name__, lost=exc.rank, reason=exc.reason)
    raise
"""
    # Without the runner nobody calls Abort, so that each rank has the time to say what it was told: from when rank 1 told
    # it, in the last but one thing that it does, to when the launcher sees that it has ended.
    path = Path(script(tmp_path, text))
    late = "import atexit, time\natexit.register(time.sleep, 1.0)\nfrom gloompi import MPI"
    path.write_text(path.read_text().replace("from mpi4py import MPI", late))
    done = Job(3, str(path)).finish(40)
    assert done.returncode not in (0, None)
    found = reports(3, done.stdout)
    assert "\nValueError: bad value\n" in done.stderr
    for rank in (0, 2):
        if found[rank]:  # the launcher may have ended it as soon as rank 1 had gone
            assert found[rank] == {
                "rank": rank, "error": "PeerLostError", "lost": 1, "reason": "it aborted: ValueError: bad value"
            }  # fmt: skip
    assert found[0] or found[2]


@pytest.mark.parametrize(
    ("ending", "code", "text"),
    [
        ("sys.exit(3)", 3, ""),
        ('sys.exit("went wrong")', 1, "went wrong"),
        ("MPI.COMM_WORLD.Abort(7)", 7, ""),  # MPICH loses its own word on it in one of ten runs, mpi4py's programs' too
    ],
)
def test_exit_code_of_one_rank_is_the_jobs(mpi_jobs: None, tmp_path: Path, ending: str, code: int, text: str) -> None:
    done = timed(3, script(tmp_path, f"if rank == 1:\n    {ending}\nMPI.COMM_WORLD.barrier()\n"))
    assert done.returncode == code, done.stderr
    assert text in done.stderr


def test_end_before_the_others_is_an_error_for_those_who_need_it(mpi_jobs: None, tmp_path: Path) -> None:
    done = timed(2, script(tmp_path, "if rank == 1:\n    sys.exit(0)\nMPI.COMM_WORLD.recv(source=1)\n"))
    assert done.returncode not in (0, None)
    assert "PeerLostError: lost rank 1" in done.stderr


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_signal_ends_the_job(mpi_jobs: None, tmp_path: Path, number: str) -> None:
    text = f"import signal\nif rank == 1:\n    os.kill(os.getpid(), signal.{number})\nMPI.COMM_WORLD.barrier()\n"
    done = timed(2, script(tmp_path, text))
    assert done.returncode not in (0, None)
    if number == "SIGINT":
        assert done.stderr.count("\nKeyboardInterrupt") == 1


def test_exception_with_output_closed_is_the_one_reported(mpi_jobs: None, tmp_path: Path) -> None:
    text = 'if rank == 1:\n    sys.stdout.close()\n    raise KeyError("lost")\nMPI.COMM_WORLD.barrier()\n'
    done = timed(2, script(tmp_path, text))
    assert done.returncode not in (0, None)
    assert done.stderr.count("\nKeyError: 'lost'\n") == 1
    assert "ValueError" not in done.stderr


# -- programs that cannot be run --------------------------------------------------------------------------------------------


def test_program_that_cannot_be_compiled(mpi_jobs: None, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = = 1\n")
    done = timed(2, str(path))
    assert done.returncode == 1
    assert "SyntaxError: invalid syntax" in done.stderr
    assert "broken.py" in done.stderr


def test_program_that_is_missing(mpi_jobs: None, tmp_path: Path) -> None:
    done = timed(2, str(tmp_path / "missing.py"))
    assert done.returncode not in (0, None)
    assert f"python -m gloompi: cannot open '{tmp_path / 'missing.py'}': no such file" in done.stderr


USAGE = """usage: python -m gloompi COMMAND ...
       python -m gloompi script.py ARGUMENTS | -m MODULE ARGUMENTS | -c CODE ARGUMENTS

  doctor   examine the hosts and connections of a job:  mpiexec -n 8 python -m gloompi doctor
  bench    measure operations and the rendezvous:       mpiexec -n 2 python -m gloompi bench
  trace    merge what GLOOMPI_TRACE=FOLDER has written: python -m gloompi trace FOLDER

python -m gloompi COMMAND --help says more.

  script.py, -m, -c   run a program written for mpi4py over gloompi's sockets:
                      mpiexec -n 4 python -m gloompi script.py
"""


@pytest.mark.parametrize("arguments", [(), ("-m",), ("-c",), ("no-command",), ("--help",), ("-h",)])
def test_usage_without_a_program(arguments: tuple[str, ...]) -> None:
    asked = arguments in (("--help",), ("-h",))
    done = subprocess.run(
        [sys.executable, "-m", "gloompi", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (0 if asked else 2)
    assert (done.stdout if asked else done.stderr) == USAGE
    assert (done.stderr if asked else done.stdout) == ""


# -- without the runner -----------------------------------------------------------------------------------------------------


def test_module_without_runner(mpi_jobs: None, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"""
import json, os, sys
from gloompi import MPI
import mpi4py.MPI
{SAY}
{POINT}
assert mpi4py.MPI is not MPI
assert MPI.COMM_WORLD.size == mpi4py.MPI.COMM_WORLD.size
say(points=exchanged())
""")
    done = Job(3, str(path)).finish(40)
    assert done.returncode == 0, done.stderr
    assert [report["points"] for report in reports(3, done.stdout)] == [[0, 10, 20]] * 3
    assert done.stderr == ""


def test_exit_code_without_runner(mpi_jobs: None, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("""
import sys
from gloompi import MPI
if MPI.COMM_WORLD.rank == 1:
    sys.exit(3)
MPI.COMM_WORLD.barrier()
""")
    begun = time.monotonic()
    done = Job(3, str(path)).finish(40)
    assert time.monotonic() - begun < 20
    assert done.returncode not in (0, None)


def test_one_process_without_launcher(mpi_jobs: None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI", "PMIX"))}
    path = script(tmp_path, "say(size=MPI.COMM_WORLD.size, sum=MPI.COMM_WORLD.allreduce(5))")
    done = subprocess.run(
        [sys.executable, "-m", "gloompi", path], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert reports(1, done.stdout) == [{"rank": 0, "size": 1, "sum": 5}]
