"""Traces: what GLOOMPI_TRACE=FOLDER has each rank write, and what ``python -m gloompi trace FOLDER`` makes of it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import Job, run_job
from other_user import OTHER, as_other, run_as_other
from test_lifecycle import in_subprocess

from gloompi import Context, ContextClosedError, GloompiError, OperationTimeoutError, Peer
from gloompi.engine.recorder import child_name
from gloompi.engine.trace import Lanes, Trace
from gloompi.testing import run_ranks
from gloompi.trace.command import main
from gloompi.trace.files import Member, read_traces
from gloompi.trace.lateness import absences, aligned, arrivals, latecomers

Event = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Contexts that are made now write their traces; it does not exist yet."""
    folder = tmp_path / "a" / "traces"
    monkeypatch.setenv("GLOOMPI_TRACE", str(folder))
    return folder


def events(path: Path, ended: bool = True) -> list[Event]:
    """What a file holds: one array, with an event a line, and its end once its Context has ended."""
    text = path.read_text()
    assert text.endswith("}\n]\n" if ended else "}")
    first, *lines = text.removesuffix("\n]\n").splitlines()
    assert first == "["
    assert all(line.endswith("},") for line in lines[:-1])
    found = [json.loads(line.removesuffix(",")) for line in lines]
    assert found == json.loads(text if ended else text + "]")
    return found


def calls(path: Path, ended: bool = True) -> list[Event]:
    return [event for event in events(path, ended) if event["ph"] == "X"]


def files(folder: Path, size: int, contexts: int = 1) -> list[list[Path]]:
    """The files of each Context, by rank."""
    assert len(list(folder.iterdir())) == size * contexts
    groups = sorted({path.name.rpartition("-")[0] for path in folder.iterdir()})
    found = [[folder / f"{group}-rank{rank}.json" for rank in range(size)] for group in groups]
    assert sorted(itertools.chain(*found)) == sorted(folder.iterdir())
    assert all(re.fullmatch(r"gloompi-[0-9a-f]{16}-\d+", group) for group in groups)
    return found


def no_overlaps(found: Sequence[Event]) -> None:
    """Perfetto drops complete events that overlap with others of their thread."""
    threads: dict[tuple[int, int], list[Event]] = {}
    for event in found:
        threads.setdefault((event["pid"], event["tid"]), []).append(event)
    for each in threads.values():
        ordered = sorted(each, key=lambda event: (event["ts"], event["dur"]))
        for before, after in itertools.pairwise(ordered):
            assert before["ts"] + before["dur"] <= after["ts"]


# -- what is written --------------------------------------------------------------------------------------------------------


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_ranks(2, lambda ctx: ctx.barrier())
    monkeypatch.setenv("GLOOMPI_TRACE", "")
    run_ranks(2, lambda ctx: ctx.barrier())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_file_for_each_rank(folder: Path, n: int) -> None:
    def body(ctx: Context) -> Any:
        ctx.allreduce(np.ones(5, "f4"))
        ctx.gather_object("x", root=n - 1)
        ctx.send(np.ones(2), ctx.rank, tag=7)
        ctx.recv(np.empty(3), ctx.rank, tag=7)
        return ctx.peers[ctx.rank], ctx.history()

    found = run_ranks(n, body)
    for rank, path in enumerate(files(folder, n)[0]):
        peer, history = found[rank]
        notes = [event for event in events(path) if event["ph"] == "M"]
        who = f"rank {rank} of {n} ({peer.host}, pid {os.getpid()})"
        facts = {"rank": rank, "size": n, "host": peer.host, "pid": os.getpid(), "host_id": peer.host_id.hex()}
        assert [(note["name"], note["pid"], note["tid"], note["args"]) for note in notes] == [
            ("process_name", rank, 0, {"name": who}),
            ("process_sort_index", rank, 0, {"sort_index": rank}),
            ("gloompi", rank, 0, facts),
            ("thread_name", rank, 0, {"name": "Context"}),
        ]  # fmt: skip
        written = calls(path)
        assert [(call["name"], call["cat"], call["pid"], call["tid"], call["args"]) for call in written] == [
            (
                f"{record.name} #{record.number}" if record.number else record.name,
                "collective" if record.number else "message",
                rank,
                0,
                {
                    "number": record.number,
                    "peer": record.peer,
                    "dtype": record.dtype,
                    "count": record.count,
                    "bytes": record.nbytes,
                    "state": "done",
                    "context": "",
                },
            )
            for record in history
        ]
        for call, record in zip(written, history, strict=True):
            assert call["ts"] == pytest.approx(record.start * 1e6, abs=1)
            assert call["dur"] == pytest.approx((record.end - record.start) * 1e6, abs=1)
        assert [call["name"] for call in written] == ["allreduce #1", "gather_object #2", "send", "recv"]
        no_overlaps(written)


def test_calls_that_overlap_are_in_rows_of_their_own(folder: Path) -> None:
    def body(ctx: Context) -> None:
        first, second = ctx.irecv(np.empty(1), ctx.rank, tag=1), ctx.irecv(np.empty(1), ctx.rank, tag=2)
        ctx.barrier()
        ctx.send(np.ones(1), ctx.rank, tag=2)
        ctx.send(np.ones(1), ctx.rank, tag=1)
        second.wait()
        first.wait()
        ctx.barrier()

    run_ranks(2, body)
    for path in files(folder, 2)[0]:
        found = calls(path)
        no_overlaps(found)
        rows = {event["args"]["name"] for event in events(path) if event["name"] == "thread_name"}
        assert rows == {"Context", "Context, overlapping"}
        assert len({call["tid"] for call in found}) == 3
        assert {call["tid"] for call in found if call["name"].startswith("barrier")} == {0}


def test_lanes() -> None:
    lanes = Lanes()
    found = [lanes.lane(*span) for span in [(0, 1), (1, 2), (0, 3), (2.5, 4), (2, 5), (3, 6), (5, 7), (5, 5)]]
    assert found == [0, 0, 1, 0, 2, 1, 0, 2]


def test_children_are_named_alike_on_all_ranks(folder: Path) -> None:
    def body(ctx: Context) -> str:
        with ctx.dup() as twin:
            twin.barrier()
            twin.allreduce(np.ones(1))
            number = twin._conversation.number
        ctx.barrier()
        return child_name(number)

    (name, *_) = names = run_ranks(3, body)
    assert set(names) == {name}
    for path in files(folder, 3)[0]:
        found = [(call["name"], call["args"]["context"], call["tid"]) for call in calls(path)]
        assert found == [("dup #1", "", 0), ("barrier #1", name, 1), ("allreduce #2", name, 1), ("barrier #2", "", 0)]
        rows = {event["tid"]: event["args"]["name"] for event in events(path) if event["name"] == "thread_name"}
        assert rows == {0: "Context", 1: f"Context {name}"}


def test_two_contexts_of_a_program(folder: Path) -> None:
    def body(ctx: Context) -> None:
        ctx.barrier()

    run_ranks(2, body)
    run_ranks(2, body)
    run_ranks(3, lambda ctx: ctx.allgather(np.ones(1)))
    first = {path.name.split("-")[1] for path in folder.glob("*-rank2.json")}
    assert len(first) == 1
    assert len(list(folder.iterdir())) == 7
    traces = read_traces(folder)
    assert [(trace.context, trace.member.rank, trace.member.size) for trace in traces] == [
        (0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2), (2, 0, 3), (2, 1, 3), (2, 2, 3)
    ]  # fmt: skip
    assert [event.context for trace in traces for event in trace.events] == [(trace.context, "") for trace in traces]
    assert len(arrivals(traces)) == 3


def test_a_file_that_is_there_is_overwritten(folder: Path) -> None:
    run_ranks(1, lambda ctx: ctx.barrier())
    (path,) = folder.iterdir()
    # The same process makes another Context of the same rank: it is the next one.
    run_ranks(1, lambda ctx: ctx.barrier())
    assert len(list(folder.iterdir())) == 2
    assert len(calls(path)) == 1


def test_contexts_of_some_ranks_do_not_write_into_each_others_files(mpi_jobs: None, folder: Path) -> None:
    ranks = run_job(4, "traced.py", "halves", env={"GLOOMPI_TRACE": str(folder)})
    assert all(found["done"] for found in ranks)
    traces = read_traces(folder)
    assert sorted(trace.member.size for trace in traces) == [2] * 4 + [4] * 4
    for trace in traces:
        world = next(rank for rank, found in enumerate(ranks) if found["pid"] == trace.member.pid)
        if trace.member.size == 4:
            assert trace.member.rank == world
            assert [event.name for event in trace.events] == ["barrier #1"]
        else:
            assert trace.member.rank == world // 2
            assert [event.facts["count"] for event in trace.events] == [5 + world % 2]
    assert len({trace.context for trace in traces if trace.member.size == 2}) == 2
    assert main([str(folder)]) == 0


def test_the_folder_is_that_of_the_start(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOOMPI_TRACE", "relative")
    (tmp_path / "elsewhere").mkdir()

    def body(ctx: Context) -> None:
        monkeypatch.chdir(tmp_path / "elsewhere")
        ctx.barrier()

    run_ranks(1, body)
    assert len(calls(*(tmp_path / "relative").iterdir())) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_calls_are_written_while_the_job_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gloompi.engine.trace._WRITE_SECONDS", 0.0)

    def body(ctx: Context) -> None:
        for number in range(1, 6):
            ctx.barrier()
            (path,) = folder.iterdir()
            assert [call["name"] for call in calls(path, ended=False)] == [
                f"barrier #{each}" for each in range(1, number + 1)
            ]

    run_ranks(1, body)


def test_several_threads_write_whole_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gloompi.engine.trace._WRITE_SECONDS", 0.0)
    rounds = 150

    def body(ctx: Context) -> None:
        twins = [ctx.dup() for _ in range(4)]

        def work(twin: Context) -> None:
            for _ in range(rounds):
                twin.barrier()

        threads = [threading.Thread(target=work, args=(twin,)) for twin in twins]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for twin in twins:
            twin.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_ranks(1, body)
    finally:
        sys.setswitchinterval(interval)
    found = calls(*folder.iterdir())
    assert len(found) == 4 + 4 * rounds
    no_overlaps(found)


def test_what_is_under_way_when_a_context_breaks_is_written_too(folder: Path) -> None:
    together = threading.Barrier(2)

    def body(ctx: Context) -> None:
        ctx.irecv(np.empty(1), 1 - ctx.rank, tag=1)
        ctx.barrier()
        together.wait(30)
        with pytest.raises(OperationTimeoutError):
            ctx.recv(np.empty(2), 1 - ctx.rank, timeout=0.05 if ctx.rank == 0 else 30)
        for _ in range(3):
            with pytest.raises(GloompiError):
                ctx.barrier()

    run_ranks(2, body)
    for path in files(folder, 2)[0]:
        found = [(call["name"], call["args"]["count"], call["args"]["state"]) for call in calls(path)]
        assert found == [
            ("barrier #1", None, "done"), ("recv", 1, "OperationTimeoutError"), ("recv", 2, "OperationTimeoutError")
        ]  # fmt: skip
        no_overlaps(calls(path))


def test_a_program_that_does_not_close_its_context(folder: Path) -> None:
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
os.environ["GLOOMPI_TRACE"] = {str(folder)!r}
from test_lifecycle import connected
(ctx,) = connected(1)
ctx.barrier()
print("done")
"""
    assert in_subprocess(code) == ["done"]
    assert [call["name"] for call in calls(*folder.iterdir())] == ["barrier #1"]


@pytest.mark.parametrize("end", ["raise ValueError('mine')", "sys.exit(3)", "ctx.isend(bytes(1 << 20), 0)  # for nobody"])
def test_a_program_that_leaves_its_context_broken_off(folder: Path, end: str) -> None:
    code = f"""
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
os.environ["GLOOMPI_TRACE"] = {str(folder)!r}
from test_lifecycle import connected
(ctx,) = connected(1)
threading.Thread(target=lambda kept: time.sleep(60), args=[ctx], daemon=True).start()  # so that it is never collected
ctx.barrier()
{end}
"""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here)])
    command = [sys.executable, "-c", code]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=60, check=False)
    assert calls(*folder.iterdir())[0]["name"] == "barrier #1"


@pytest.mark.parametrize("broken", [False, True])
def test_a_forked_child_writes_nothing(folder: Path, broken: bool) -> None:
    code = f"""
import os, sys, gc
os.environ["GLOOMPI_TRACE"] = {str(folder)!r}
from test_lifecycle import connected
import gloompi
(ctx,) = connected(1)
ctx.barrier()
if {broken}:
    ctx.abort("enough")
pid = os.fork()
if not pid:
    for call in (ctx.barrier, ctx.ibarrier, ctx.barrier):
        try:
            call()
        except gloompi.ContextClosedError:
            print("refused", flush=True)
    ctx.close()
    del ctx
    gc.collect()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
if not {broken}:
    ctx.barrier()
ctx.close()
"""
    assert in_subprocess(code) == ["refused"] * 3
    wanted = ["barrier #1"] if broken else ["barrier #1", "barrier #2"]
    assert [call["name"] for call in calls(*folder.iterdir())] == wanted


def test_a_collective_that_was_not_begun_is_no_message(folder: Path) -> None:
    def body(ctx: Context) -> None:
        def op(a: Any, b: Any) -> Any:
            if a.size > 1:
                with pytest.raises(RuntimeError):
                    ctx.barrier()
            return a + b

        ctx.allreduce(np.ones(3), op=op)

    run_ranks(2, body)
    for path in files(folder, 2)[0]:
        found = [(call["name"], call["cat"], call["args"]["number"], call["args"]["state"]) for call in calls(path)]
        assert found == [("barrier", "collective", None, "RuntimeError"), ("allreduce #1", "collective", 1, "done")]
    assert [arrival.name for arrival in arrivals(read_traces(folder))] == ["allreduce #1"]


# -- what cannot be written -------------------------------------------------------------------------------------------------


def warned(record: Sequence[warnings.WarningMessage]) -> list[str]:
    assert all(issubclass(each.category, RuntimeWarning) for each in record)
    return [str(each.message) for each in record]


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GLOOMPI_TRACE", str(tmp_path / "file" / "traces"))

    def body(ctx: Context) -> Any:
        return [ctx.allreduce(np.ones(1))[0] for _ in range(3)]

    with pytest.warns(RuntimeWarning) as record:
        assert run_ranks(2, body) == [[2.0] * 3] * 2
    folder = tmp_path / "file" / "traces"
    assert sorted(warned(record)) == [
        f"GLOOMPI_TRACE: the trace of rank {rank} ends here: [Errno 20] Not a directory: '{folder}'" for rank in range(2)
    ]


def test_a_full_disk_in_the_middle_of_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gloompi.engine.trace._WRITE_SECONDS", 0.0)

    def full(fd: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def body(ctx: Context) -> None:
        ctx.barrier()
        monkeypatch.setattr("gloompi.engine.trace.write_all", full)
        for _ in range(3):
            ctx.barrier()  # only the first of them warns
        ctx.ibarrier().wait()
        assert len(ctx.history()) == 5

    with pytest.warns(RuntimeWarning) as record:
        run_ranks(1, body)
    assert warned(record) == ["GLOOMPI_TRACE: the trace of rank 0 ends here: [Errno 28] No space left on device"]
    assert len(calls(*folder.iterdir(), ended=False)) == 1


def test_a_warning_that_is_an_error_comes_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gloompi.engine.trace._WRITE_SECONDS", 0.0)
    folder.parent.mkdir()
    folder.write_text("in the way")

    def body(ctx: Context) -> None:
        with pytest.raises(RuntimeWarning, match="the trace of rank 0 ends here"):
            ctx.barrier()
        ctx.barrier()
        assert [record.state for record in ctx.history()] == ["done"] * 2

    run_ranks(1, body)


# -- whose files ------------------------------------------------------------------------------------------------------------


def ends(run: Callable[[], object]) -> str:
    """What is said when a rank's trace cannot be written."""
    with pytest.warns(RuntimeWarning) as record:
        run()
    (text,) = warned(record)
    return text.removeprefix("GLOOMPI_TRACE: the trace of rank 0 ends here: ")


def one_barrier() -> None:
    run_ranks(1, lambda ctx: ctx.barrier())


def end_of_trace(path: Path) -> None:
    """A rank's trace is written to a file of this name."""
    Trace(path, Peer(0, "node0", 100, "self", "", "", b"0" * 16), 1).end()


def test_traces_are_for_this_user_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        one_barrier()
    finally:
        os.umask(before)
    (path,) = folder.iterdir()
    assert [oct(each.stat().st_mode & 0o7777) for each in (folder.parent, folder, path)] == ["0o700", "0o700", "0o600"]


@pytest.mark.parametrize(
    "plant",
    [
        lambda path, target: path.symlink_to(target),
        lambda path, target: path.hardlink_to(target),
        lambda path, target: path.touch(),
        lambda path, target: os.mkfifo(path),
    ],
)
def test_a_name_that_is_taken_is_not_written_to(tmp_path: Path, plant: Any) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    plant(tmp_path / "trace", tmp_path / "thesis.txt")
    assert ends(lambda: end_of_trace(tmp_path / "trace")) == f"[Errno 17] File exists: '{tmp_path}/trace'"
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("plant", "text"),
    [
        (lambda path, target: path.symlink_to(target), "[Errno 1] a symbolic link, which is not followed: "),
        (lambda path, target: path.touch(), "[Errno 17] another file has taken its place: "),
        (lambda path, target: path.hardlink_to(target), "[Errno 17] another file has taken its place: "),
    ],
)
def test_a_file_that_is_replaced_is_not_written_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Any, text: str
) -> None:
    monkeypatch.setattr("gloompi.engine.trace._WRITE_SECONDS", 0.0)
    (tmp_path / "thesis.txt").write_text("years of work")
    plant(tmp_path / "planted", tmp_path / "thesis.txt")
    paths = []

    def body(ctx: Context) -> None:
        ctx.barrier()
        paths.extend(folder.iterdir())
        (tmp_path / "planted").rename(paths[0])
        ctx.barrier()
        ctx.barrier()

    assert ends(lambda: run_ranks(1, body)) == f"{text}'{paths[0]}'"
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o770, True), (0o1777, False), (0o755, False)])
def test_a_folder_that_others_can_write_to(folder: Path, mode: int, refused: bool) -> None:
    folder.mkdir(parents=True)
    folder.chmod(mode)
    if refused:
        assert re.search(rf"mode 0{mode:o}: other users can write to it; .*: '{folder}'$", ends(one_barrier))
    else:
        one_barrier()
    assert len(list(folder.iterdir())) == (0 if refused else 1)


def test_a_folder_of_another_user(folder: Path) -> None:
    as_other()
    folder.mkdir(parents=True)
    os.chown(folder, OTHER, OTHER)
    assert re.search(rf"the folder belongs to \S+ \(uid {OTHER}\), .*: '{folder}'$", ends(one_barrier))
    assert list(folder.iterdir()) == []


def test_links_that_another_user_has_planted_are_not_written_to(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attack that a review showed, and the same one on the merged trace."""
    monkeypatch.setenv("GLOOMPI_TRACE", str(public))
    (tmp_path / "thesis.txt").write_text("years of work")
    for name in ("trace", "trace.json"):
        run_as_other("ln", "-s", tmp_path / "thesis.txt", public / name)
    assert ends(lambda: end_of_trace(public / "trace")) == f"[Errno 17] File exists: '{public}/trace'"
    one_barrier()
    assert main([str(public)]) == 0, capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not (public / "trace.json").is_symlink()


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (lambda path, target: path.write_text("years of work"), "no trace that gloompi has merged, and left as it is"),
        (lambda path, target: path.write_text('{"traceEvents": []}'), "no trace that gloompi has merged, and left as it is"),
        (lambda path, target: path.symlink_to(target), "a symbolic link"),
        (lambda path, target: os.mkfifo(path), "no regular file"),
    ],
)
def test_what_is_no_merged_trace_is_left_alone(
    folder: Path, tmp_path: Path, plant: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Browsers and profilers call theirs trace.json too."""
    one_barrier()
    merged = folder / "trace.json"
    plant(merged, tmp_path / "thesis.txt")
    before = merged.lstat()
    code, out, err = run(capsys, folder)
    assert (code, out) == (1, "")
    assert re.search(rf"^gloompi trace: \[Errno \d+\] {why}.*: '{merged}'\n$", err)
    assert (merged.lstat().st_ino, merged.lstat().st_size) == (before.st_ino, before.st_size)
    merged.unlink()
    assert [run(capsys, folder)[0] for _ in range(2)] == [0, 0]  # its own one is replaced


@pytest.mark.parametrize("plant", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(folder: Path, plant: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one_barrier()
    plant(folder / "gloompi-0123456789abcdef-0-rank7.json")
    assert main([str(folder)]) == 1
    assert re.search(r"^gloompi trace: \[Errno 1\] (no regular file|a symbolic link).*rank7.json'$", capsys.readouterr().err)


# -- files that were not written to their end, and others -------------------------------------------------------------------


def note(rank: int, size: int, host: str = "node0", pid: int = 100, **more: object) -> Event:
    facts = {"rank": rank, "size": size, "host": host, "pid": pid + rank, "host_id": host, **more}
    return {"name": "gloompi", "ph": "M", "pid": rank, "tid": 0, "args": facts}


def call(name: str, start: float, end: float, state: str = "done", context: str = "") -> Event:
    """A call of a made-up trace, in seconds."""
    number = int(name.partition("#")[2] or 0)
    facts = {"number": number, "peer": None, "dtype": None, "count": None, "bytes": None, "state": state, "context": context}
    return {"name": name, "ph": "X", "ts": start * 1e6, "dur": (end - start) * 1e6, "pid": 0, "tid": 0, "args": facts}


def write(folder: Path, found: Sequence[Event], rank: int, context: str = "0123456789abcdef-0", tail: str = "\n]\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gloompi-{context}-rank{rank}.json"
    path.write_text("[\n" + ",\n".join(json.dumps(event) for event in found) + tail)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(each) for each in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    "tail",
    [
        "",
        ",",
        ",\n",
        ',\n{"name": "barr',
        ',\n{"name": "barrier #2", "ph": "X", "ts": 1, "dur"',
        "\n",
        "\n]",
        "\n]\n",
        ",\n{",
    ],
)
def test_a_torn_file(tmp_path: Path, tail: str) -> None:
    write(tmp_path, [note(0, 1), call("barrier #1", 1.0, 1.5)], 0, tail=tail)
    (trace,) = read_traces(tmp_path)
    assert trace.member == Member(0, 1, "node0", 100)
    assert [(event.name, event.start, event.end) for event in trace.events] == [("barrier #1", 1.0, 1.5)]


@pytest.mark.parametrize("text", ["", "[\n", '[\n{"name": "process_n'])
def test_a_rank_that_came_to_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    write(tmp_path, [note(0, 2), call("barrier #1", 1.0, 1.5)], 0)
    write(tmp_path, [], 1).write_text(text)
    assert [trace.member.rank for trace in read_traces(tmp_path)] == [0]
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert "\nNo trace of rank 1.\n" in out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello\nworld\n", "ValueError: line 1: Expecting value: line 1 column 1 (char 0)"),
        ("[\n[1, 2],\n", "ValueError: line 2 is no event"),
        ('{"a": 1}\n', "KeyError: 'name'"),
        ('{"name": "x", "ph": "M"}\n', "it does not say whose"),
        ('{"name": "gloompi", "args": {"rank": 0}}\n', "KeyError: 'size'"),
        ('{"name": "gloompi", "args": 3}\n', "TypeError: 'int' object is not subscriptable"),
        ('{"name": "x", "ph": "X", "ts": "now", "dur": 1, "args": {}}\n', "TypeError: unsupported operand"),
        ('{"name": "x", "ph": "X", "ts": 1, "dur": 1, "args": {"context": "", "number": 1}}\n', "KeyError: 'state'"),
        ('{"name": "x", "ph": "X", "ts": NaN, "dur": 1, "args": {}}\n', "ValueError: a call has no time"),
        ('{"name": "x", "ph": "X", "ts": 1' + "0" * 400 + ', "dur": 1, "args": {}}\n', "OverflowError: "),
        ("[" * 100_000 + "\n", "RecursionError: "),
    ],
)
def test_a_foreign_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str) -> None:
    path = write(tmp_path, [], 0)
    path.write_text(text)
    code, out, err = run(capsys, tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"gloompi trace: {path} is not a trace of gloompi: {why}")
    assert err.count("\n") == 1


def test_a_foreign_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, [], 0)
    path.write_bytes(b"\xff\xfe\0")
    code, _, err = run(capsys, tmp_path)
    assert code == 1
    assert err.startswith(f"gloompi trace: {path} is not a trace of gloompi: UnicodeDecodeError: ")


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, [note(0, 1), call("barrier #1", 1.0, 1.5)], 0)
    (tmp_path / "trace.json").write_text("{}")
    (tmp_path / "gloompi-0123456789abcdef-0-rank0.json.bak").write_text("no")
    (tmp_path / "folder").mkdir()
    assert len(read_traces(tmp_path)) == 1


def test_a_file_without_the_end_of_its_array_as_earlier_versions_wrote_it(tmp_path: Path) -> None:
    path = write(tmp_path, [note(0, 1), call("barrier #1", 1.0, 1.5)], 0)
    path.write_text(path.read_text().replace("}\n]", "},"))
    (trace,) = read_traces(tmp_path)
    assert [event.name for event in trace.events] == ["barrier #1"]


def test_folders_without_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"gloompi trace: no traces in {tmp_path}: run the job with GLOOMPI_TRACE={tmp_path}\n"
    assert run(capsys, tmp_path) == (1, "", text)
    code, _, err = run(capsys, tmp_path / "missing")
    assert (code, err) == (1, f"gloompi trace: [Errno 2] No such file or directory: '{tmp_path / 'missing'}'\n")
    write(tmp_path, [note(0, 1)], 0)
    assert run(capsys, tmp_path) == (1, "", f"gloompi trace: the traces in {tmp_path} have no calls\n")
    write(tmp_path, [], 0).write_text("")
    assert run(capsys, tmp_path) == (1, "", text)


# -- who came late ----------------------------------------------------------------------------------------------------------


def late_by(size: int, late: dict[tuple[int, int], float], calls: int = 3) -> list[list[Event]]:
    """Barriers at 10, 11, ... s, to which some ranks come late; everybody leaves a millisecond after the last has come."""
    found: list[list[Event]] = [[note(rank, size)] for rank in range(size)]
    for number in range(1, calls + 1):
        starts = [9.0 + number + late.get((rank, number), 0.0) for rank in range(size)]
        for rank, start in enumerate(starts):
            found[rank].append(call(f"barrier #{number}", start, max(starts) + 0.001))
    return found


def write_all(folder: Path, found: Sequence[Sequence[Event]], **more: Any) -> None:
    for rank, each in enumerate(found):
        write(folder, each, rank, **more)


def shifted(found: Sequence[Event], seconds: float, host: str) -> list[Event]:
    """The events of a rank on another host, whose clock is ahead."""
    again = []
    for event in found:
        if event["ph"] == "X":
            again.append({**event, "ts": event["ts"] + seconds * 1e6})
        else:
            again.append({**event, "args": {**event["args"], "host": host, "host_id": host}})
    return again


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_arrivals_and_latecomers(tmp_path: Path, size: int) -> None:
    last = size - 1
    write_all(tmp_path, late_by(size, {(last, 1): 0.25, (last, 2): 0.5, (0, 3): 0.125}))
    found = arrivals(read_traces(tmp_path))
    assert [(arrival.name, arrival.last.rank) for arrival in found] == [
        ("barrier #1", last), ("barrier #2", last), ("barrier #3", 0)
    ]  # fmt: skip
    assert [arrival.late for arrival in found] == pytest.approx([0.25, 0.5, 0.125])
    rows = latecomers(found)
    assert [row.member.rank for row in rows] == [last, 0, *range(1, last)]
    assert [(row.calls, row.times_last) for row in rows] == [(3, 2), (3, 1), *[(3, 0)] * (size - 2)]
    assert [rows[0].typical, rows[0].worst, rows[0].total] == pytest.approx([0.375, 0.5, 0.75])


def test_the_report_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path, late_by(4, {(2, 1): 0.25, (2, 2): 0.5, (0, 3): 0.125}))
    assert run(capsys, tmp_path) == (
        0,
        f"""4 ranks of 4, 12 calls, 3 collectives

  rank    calls     last     median      worst      total   late by, ms
     2        3        2    375.000    500.000      750.0
     0        3        1    125.000    125.000      125.0
     1        3        0      0.000      0.000        0.0
     3        3        0      0.000      0.000        0.0

rank 2 (node0, pid 102) came late: last to 2 of 3 collectives, typically by 375.0 ms; the others waited 0.750 s for it

The longest waits:
  barrier #2: rank 2 (node0, pid 102) came 500.000 ms late
  barrier #1: rank 2 (node0, pid 102) came 250.000 ms late
  barrier #3: rank 0 (node0, pid 100) came 125.000 ms late

All ranks are in {tmp_path / "trace.json"}: open it at https://ui.perfetto.dev or in chrome://tracing.
""",
        "",
    )


def test_nobody_is_late_as_a_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path, late_by(3, {(1, 1): 0.0002, (2, 2): 0.0005}))
    _, out, _ = run(capsys, tmp_path)
    assert "\nNo rank is late as a rule.\n" in out


@pytest.mark.parametrize("ahead", [3600.0, -0.4, 0.0])
def test_clocks_of_two_hosts_that_differ(tmp_path: Path, ahead: float) -> None:
    late = {(1, 1): 0.25, (1, 2): 0.25, (3, 3): 0.125, (1, 4): 0.25}
    found = late_by(4, late, calls=4)
    found[2:] = [shifted(each, ahead, "node1") for each in found[2:]]
    # One end that was much later than the others does not mislead.
    found[3][-1]["dur"] += 5e6
    write_all(tmp_path, found)
    traces = aligned(read_traces(tmp_path))
    lates = arrivals(traces)
    assert [arrival.last.rank for arrival in lates] == [1, 1, 3, 1]
    assert [arrival.late for arrival in lates] == pytest.approx([0.25, 0.25, 0.125, 0.25], abs=1e-5)
    assert latecomers(lates)[0].member == Member(1, 4, "node0", 101)


def test_clocks_without_a_collective_that_all_leave_together_are_taken_as_they_are(tmp_path: Path) -> None:
    found = [[note(0, 2), call("broadcast #1", 1.0, 1.1)], [note(1, 2), call("broadcast #1", 1.0, 1.1)]]
    found[1] = shifted(found[1], 7.0, "node1")
    # An error ends at a time of each rank's own.
    found[0].append(call("barrier #2", 2.0, 3.0, "OperationTimeoutError"))
    found[1].append(call("barrier #2", 9.0, 19.0, "PeerLostError"))
    write_all(tmp_path, found)
    (first,) = arrivals(aligned(read_traces(tmp_path)))
    assert (first.last.rank, first.late) == (1, pytest.approx(7.0))


def test_messages_are_not_arrivals_and_children_are_apart(tmp_path: Path) -> None:
    found = []
    for rank in range(2):
        start = 1.0 + rank
        found.append([
            note(rank, 2), call("send", start, start), call("barrier #1", start, 3.0),
            call("barrier #1", start + 5, 9.0, context="0badcafe"), call("barrier #2", 20.0 - rank, 21.0),
        ])  # fmt: skip
    write_all(tmp_path, found)
    assert [(arrival.name, arrival.last.rank, arrival.late) for arrival in arrivals(read_traces(tmp_path))] == [
        ("barrier #1", 1, pytest.approx(1.0)),
        ("barrier #1", 1, pytest.approx(1.0)),
        ("barrier #2", 0, pytest.approx(1.0)),
    ]


def test_a_rank_that_never_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = late_by(3, {})
    for rank in (0, 1):
        found[rank].append(call("allreduce #4", 14.0, 44.0, "OperationTimeoutError"))
        found[rank].append(call("recv", 13.5, 44.0, "OperationTimeoutError"))
    found[2].append(call("send", 13.5, 13.6))
    write_all(tmp_path, found)
    assert absences(read_traces(tmp_path)) == {Member(2, 3, "node0", 102): ("allreduce #4", "send")}
    _, out, _ = run(capsys, tmp_path)
    assert out.split("\n\n")[0] == (
        "3 ranks of 3, 14 calls, 4 collectives\n"
        "rank 0 (node0, pid 100): allreduce #4 ended with OperationTimeoutError\n"
        "rank 0 (node0, pid 100): recv ended with OperationTimeoutError\n"
        "rank 1 (node0, pid 101): allreduce #4 ended with OperationTimeoutError\n"
        "rank 1 (node0, pid 101): recv ended with OperationTimeoutError\n"
        "rank 2 (node0, pid 102) never came to allreduce #4, as far as its trace goes: its last call is send"
    )


def test_a_collective_that_has_failed_is_no_lateness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = late_by(3, {(1, 1): 0.25})
    for rank, each in enumerate(found):  # rank 2 was 30 s late for it: the others had given it up
        state = "OperationTimeoutError" if rank == 0 else "done" if rank == 1 else "PeerLostError"
        each.append(call("allreduce #4", 14.0 + 30.0 * (rank == 2), 44.0, state))
    write_all(tmp_path, found)
    assert [arrival.name for arrival in arrivals(read_traces(tmp_path))] == ["barrier #1", "barrier #2", "barrier #3"]
    _, out, _ = run(capsys, tmp_path)
    assert out.startswith(
        "3 ranks of 3, 12 calls, 4 collectives\n"
        "rank 0 (node0, pid 100): allreduce #4 ended with OperationTimeoutError\n"
        "rank 2 (node0, pid 102): allreduce #4 ended with PeerLostError\n"
    )
    assert "\nrank 1 (node0, pid 101) came late: last to 1 of 3 collectives, typically by 250.0 ms; " in out
    assert "30000" not in out


def test_a_rank_without_any_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path, [[note(0, 2), call("barrier #1", 1.0, 2.0, "OperationTimeoutError")], [note(1, 2)]])
    code, out, _ = run(capsys, tmp_path, "-o", tmp_path / "all.json")
    assert code == 0
    assert "rank 1 (node0, pid 101) never came to barrier #1, as far as its trace goes: it has no call at all\n" in out
    assert "late by" not in out


def test_missing_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = late_by(20, {(3, 1): 0.25})
    for rank in (0, 3):
        write(tmp_path, found[rank], rank)
    _, out, _ = run(capsys, tmp_path)
    first, second, *_ = out.split("\n")
    assert first == "2 ranks of 20, 6 calls, 3 collectives"
    assert second == "No trace of rank 1, 2, 4, 5, 6, 7, 8, 9, 10, 11 and others."
    assert "\n  barrier #1: rank 3 (node0, pid 103) came 250.000 ms late\n" in out


def test_a_size_that_nobody_can_count_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [note(0, 2**62), call("barrier #1", 1.0, 1.5)], 0)
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert "\nNo trace of rank 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and others.\n" in out


def test_one_rank_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path, late_by(1, {}))
    code, out, _ = run(capsys, tmp_path, "--plot", tmp_path / "one.png")
    assert code == 0
    assert out.startswith("1 rank of 1, 3 calls, 0 collectives\n\nAll ranks are in ")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_several_contexts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two halves of a job: both have a rank 0."""
    write_all(tmp_path, late_by(2, {(1, 1): 0.25, (1, 2): 0.25, (1, 3): 0.25}))
    other = [[note(rank, 2, pid=200), *each[1:]] for rank, each in enumerate(late_by(2, {(0, 2): 0.5}))]
    write(
        tmp_path, [each if each["ph"] == "M" else {**each, "ts": each["ts"] + 1e6} for each in other[0]], 0, "f" * 16 + "-0"
    )
    code, out, _ = run(capsys, tmp_path)
    assert code == 0
    assert out.startswith("3 ranks in 2 Contexts, 9 calls, 3 collectives\nContext 1: no trace of rank 1.\n")
    assert "     1        3        3    250.000    250.000      750.0   rank 1 (node0, pid 101)\n" in out
    assert "\n  barrier #1 of Context 0: rank 1 (node0, pid 101) came 250.000 ms late\n" in out
    merged = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    processes = {event["pid"]: event["args"]["name"] for event in merged if event["name"] == "process_name"}
    assert processes == {
        0: "rank 0 of 2 (node0, pid 100)", 1: "rank 0 of 2 (node0, pid 200)", 2: "rank 1 of 2 (node0, pid 101)"
    }  # fmt: skip


def test_calls_of_two_contexts_with_one_number_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = "5d0c1f2a"
    for context, moment in (("0123456789abcdef-0", 0.0), ("0123456789abcdef-1", 50.0)):
        for rank in range(3):
            found = [note(rank, 3)]
            for name, start in (("", 1.0), (child, 3.0)):
                late = 0.25 * (rank == 2)
                found.append(call("allreduce #2", moment + start + late, moment + start + 0.5, context=name))
            if context == "0123456789abcdef-1" and rank < 2:
                found.append(call("allreduce #3", moment + 9.0, moment + 19.0, "OperationTimeoutError", context=child))
            write(tmp_path, found, rank, context)
    _, out, _ = run(capsys, tmp_path)
    lines = out.splitlines()
    assert lines[:4] == [
        "3 ranks in 2 Contexts, 14 calls, 5 collectives",
        f"rank 0 (node0, pid 100): allreduce #3 of Context 1, child {child} ended with OperationTimeoutError",
        f"rank 1 (node0, pid 101): allreduce #3 of Context 1, child {child} ended with OperationTimeoutError",
        f"rank 2 (node0, pid 102) never came to allreduce #3 of Context 1, child {child}, as far as its trace goes: its "
        f"last call is allreduce #2 of Context 1, child {child}",
    ]
    assert sorted(line for line in lines if line.startswith("  allreduce")) == [
        f"  allreduce #2 of Context {each}: rank 2 (node0, pid 102) came 250.000 ms late"
        for each in (f"0, child {child}", "0", f"1, child {child}", "1")
    ]


# -- one file for all, and the picture --------------------------------------------------------------------------------------


def test_the_merged_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def body(ctx: Context) -> None:
        with ctx.dup() as twin:
            pending = twin.irecv(np.empty(1), ctx.rank, tag=1)
            twin.barrier()
            ctx.allreduce(np.ones(4))
            twin.send(np.ones(1), ctx.rank, tag=1)
            pending.wait()

    run_ranks(3, body)
    target = tmp_path / "merged.json"
    assert run(capsys, folder, "--output", target)[0] == 0
    assert not (folder / "trace.json").exists()
    merged = json.loads(target.read_text())
    assert merged["displayTimeUnit"] == "ms"
    found = merged["traceEvents"]
    spans = [event for event in found if event["ph"] == "X"]
    assert len(spans) == 3 * 5
    assert min(event["ts"] for event in spans) == 0
    for event in spans:
        assert set(event) == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert event["dur"] >= 0
        assert event["pid"] in range(3)
    no_overlaps(spans)
    notes = [(event["pid"], event["name"]) for event in found if event["ph"] == "M"]
    assert len(spans) + len(notes) == len(found)
    for rank in range(3):
        assert (rank, "process_name") in notes
        rows = {
            event["tid"]: event["args"]["name"] for event in found if event["name"] == "thread_name" and event["pid"] == rank
        }
        assert {event["tid"] for event in spans if event["pid"] == rank} == set(rows)
        assert sorted(name.split(", child")[0] for name in rows.values()) == ["Context 0"] * 3
        assert sum("child" in name for name in rows.values()) == 2
        assert sum(name.endswith(", overlapping") for name in rows.values()) == 1


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[trace]'")
    from matplotlib.image import imread

    write_all(tmp_path, late_by(4, {(2, 1): 0.25, (2, 2): 0.5, (0, 3): 0.125}))
    for ending in ("png", "svg", "pdf"):
        target = tmp_path / f"picture.{ending}"
        assert run(capsys, tmp_path, "--plot", target)[0] == 0
        assert target.stat().st_size > 5000
    pixels = imread(tmp_path / "picture.png")
    height, width = pixels.shape[:2]
    assert width > height > 500
    colours = {tuple(round(float(part), 1) for part in pixel[:3]) for row in pixels[::5, ::5] for pixel in row}
    assert (0.1, 0.5, 0.7) in colours  # a call


def test_a_picture_that_cannot_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[trace]'")
    write_all(tmp_path, late_by(2, {}))
    for name in ("x.txt", "x.jpg"):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path), "--plot", name])
        assert caught.value.code == 2
        text = f"argument --plot: no picture can be written to {name!r}: its name must end in .png, .svg or .pdf\n"
        assert capsys.readouterr().err.endswith(text)
    assert not (tmp_path / "trace.json").exists()
    code, _, err = run(capsys, tmp_path, "--plot", tmp_path / "none" / "x.png")
    assert code == 1
    assert err.startswith("gloompi trace: [Errno 2] No such file or directory: ")


def test_a_picture_without_matplotlib(tmp_path: Path) -> None:
    write_all(tmp_path, late_by(2, {}))
    code = """
import sys
sys.modules["matplotlib"] = None
from gloompi.trace.command import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run([*command, "--plot", "x.png"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "gloompi trace: --plot needs the package matplotlib: pip install 'gloompi[trace]'\n"
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


# -- real jobs --------------------------------------------------------------------------------------------------------------


def test_the_late_rank_of_a_job_is_named(mpi_jobs: None, folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'gloompi[trace]'")
    ranks = run_job(4, "traced.py", "late", 2, env={"GLOOMPI_TRACE": str(folder)})
    command = [sys.executable, "-m", "gloompi", "trace", str(folder), "--plot", str(folder / "late.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 ranks of 4, 88 calls, 21 collectives\n\n")
    assert re.search(
        rf"\nrank 2 \(\S+, pid {ranks[2]['pid']}\) came late: last to (19|20|21) of 21 collectives, "
        r"typically by \d+\.\d ms; the others waited \d\.\d{3} s for it\n",
        done.stdout,
    )
    assert done.stdout.count("rank 2 (") >= 10
    assert (folder / "late.png").stat().st_size > 10_000
    assert len(json.loads((folder / "trace.json").read_text())["traceEvents"]) == 88 + 4 * 3


def test_the_programs_of_the_documentation(mpi_jobs: None, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "trace.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert programs
    for number, program in enumerate(programs):
        path, folder = tmp_path / f"{number}.py", tmp_path / f"traces{number}"
        path.write_text(program)
        done = Job(4, str(path), env={"GLOOMPI_TRACE": str(folder)}).finish()
        assert (done.returncode, done.stderr) == (0, "")
        assert len([json.loads(trace.read_text()) for trace in folder.iterdir()]) == 4
    command = [sys.executable, "-m", "gloompi", "trace", str(tmp_path / "traces0")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"```\n{done.stdout.splitlines()[0]}\n" in text


def test_a_killed_rank_leaves_what_it_had_written(survivors: None, folder: Path) -> None:
    ranks = run_job(3, "traced.py", "killed", 1, survivors=True, env={"GLOOMPI_TRACE": str(folder)})
    assert [found.get("error") for found in ranks] == ["PeerLostError", None, "PeerLostError"]
    traces = {trace.member.rank: trace for trace in read_traces(folder)}
    for rank in (0, 2):
        assert [event.name for event in traces[rank].events][-1] == "allreduce #4"
        assert [event.state for event in traces[rank].events] == ["done"] * 3 + ["PeerLostError"]
    assert [event.name for event in traces[1].events] == ["barrier #1", "barrier #2"]
    command = [sys.executable, "-m", "gloompi", "trace", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    victim = f"rank 1 ({traces[1].member.host}, pid {ranks[1]['pid']})"
    text = f"\n{victim} never came to allreduce #4, as far as its trace goes: its last call is barrier #2\n"
    assert text in done.stdout


def test_a_closed_context_is_silent(folder: Path) -> None:
    def body(ctx: Context) -> None:
        ctx.barrier()
        ctx.close()
        for _ in range(3):
            with pytest.raises(ContextClosedError):
                ctx.barrier()

    run_ranks(2, body)
    for path in files(folder, 2)[0]:
        assert [call["name"] for call in calls(path)] == ["barrier #1"]


def test_help() -> None:
    command = [sys.executable, "-m", "gloompi", "trace", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("usage: python -m gloompi trace [-h] [-o FILE] [--plot FILE] folder\n")
