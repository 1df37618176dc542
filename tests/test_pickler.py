"""What is unpickled is a matter of policy: another pickler, or no objects at all."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from launch import run_job

import gloompi
from gloompi import Context, HashStore, Pickler
from gloompi.objects import decode, encode
from gloompi.testing import RankError, run_ranks

pytestmark = pytest.mark.usefixtures("nothing_leaks")

AS_JSON = Pickler(lambda obj: (json.dumps(obj).encode(), ()), lambda data, buffers: json.loads(bytes(data)))
REFUSED = (
    "operations on objects are refused, because whoever receives pickled objects executes what their sender has chosen "
    "(GLOOMPI_PICKLE=off): send arrays, or give all ranks another way, such as from_mpi(pickler=...)"
)


def meet(size: int, body: Callable[[Context], Any], pickler: Pickler | None) -> list[Any]:
    store = HashStore()

    def rank(number: int) -> Any:
        with Context.from_store(store, number, size, timeout=20.0, connect_timeout=20.0, pickler=pickler) as ctx:
            return body(ctx)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))


def all_operations(ctx: Context) -> list[Any]:
    other = 1 - ctx.rank
    found = [
        ctx.broadcast_object([0, "x"] if ctx.rank == 0 else None),
        ctx.gather_object(ctx.rank, root=1),
        ctx.allgather_object({"rank": ctx.rank}),
        ctx.scatter_object([["a"], ["b"]] if ctx.rank == 0 else None),
        ctx.alltoall_object([1, 2]),
        ctx.reduce_object(ctx.rank + 1, op=lambda a, b: a + b),
        ctx.allreduce_object(ctx.rank + 1, op=lambda a, b: a + b),
        ctx.scan_object(1, op=lambda a, b: a + b),
        ctx.exscan_object(1, op=lambda a, b: a + b),
    ]
    request = ctx.isend_object("hello", other)
    found.append(ctx.recv_object(other))
    request.wait()
    request = ctx.isend_object("again", other)
    found.append(ctx.mprobe(other).recv_object())
    request.wait()
    return found


EXPECTED = [
    [[0, "x"], None, [{"rank": 0}, {"rank": 1}], ["a"], [1, 1], 3, 3, 1, None, "hello", "again"],
    [[0, "x"], [0, 1], [{"rank": 0}, {"rank": 1}], ["b"], [2, 2], None, 3, 2, 1, "hello", "again"],
]


class Evil:
    """What a rank would have others execute."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("child", ["itself", "dup", "split", "dup of split"])
def test_another_pickler(child: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "dumps", None)

    def body(ctx: Context) -> Any:
        with ExitStack() as stack:
            made = ctx
            if "split" in child:
                made = stack.enter_context(made.split(0))  # type: ignore[arg-type]
            if "dup" in child:
                made = stack.enter_context(made.dup())
            return all_operations(made)

    assert meet(2, body, AS_JSON) == EXPECTED


def test_a_pickler_that_refuses_what_it_does_not_know(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the documentation: the attacker's object is not made, and the attack works without it."""
    monkeypatch.setenv("EVIL", str(tmp_path / "executed"))

    class Numbers(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            raise pickle.UnpicklingError(f"{module}.{name} is not permitted")

    def loads(data: memoryview, buffers: Any) -> Any:
        import io

        return Numbers(io.BytesIO(data)).load()

    careful = Pickler(lambda obj: (pickle.dumps(obj, 5), ()), loads)

    def body(ctx: Context) -> str:
        if ctx.rank == 1:
            ctx.send_object(Evil(), 0)
            return ""
        with pytest.raises(pickle.UnpicklingError) as caught:
            ctx.recv_object(1)
        return str(caught.value)

    assert meet(2, body, careful)[0] == "posix.mkdir is not permitted"
    assert not (tmp_path / "executed").exists()

    def naive(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx.send_object(Evil(), 0)
        else:
            ctx.recv_object(1)

    meet(2, naive, None)
    assert (tmp_path / "executed").exists()


OPERATIONS: dict[str, Callable[[Context], Any]] = {
    "send": lambda ctx: ctx.send_object(1, 0),
    "isend": lambda ctx: ctx.isend_object(1, 0),
    "recv": lambda ctx: ctx.recv_object(0),
    "irecv": lambda ctx: ctx.irecv_object(0),
    "broadcast": lambda ctx: ctx.broadcast_object(1, root=1),
    "gather": lambda ctx: ctx.gather_object(1),
    "allgather": lambda ctx: ctx.allgather_object(1),
    "scatter": lambda ctx: ctx.scatter_object([1, 2, 3], root=1),
    "alltoall": lambda ctx: ctx.alltoall_object([1, 2, 3]),
    "reduce": lambda ctx: ctx.reduce_object(1, op=max),
    "allreduce": lambda ctx: ctx.allreduce_object(1, op=max),
    "scan": lambda ctx: ctx.scan_object(1, op=max),
    "exscan": lambda ctx: ctx.exscan_object(1, op=max),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_objects(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused on every rank before anything is sent; arrays go on."""
    monkeypatch.setenv("GLOOMPI_PICKLE", "off")

    def body(ctx: Context) -> None:
        part = ctx.split(0)
        assert part is not None
        with part, part.dup() as copy:
            for each in (ctx, part, copy):
                with pytest.raises(RuntimeError) as caught:
                    OPERATIONS[name](each)
                assert str(caught.value) == REFUSED
                assert (each.allreduce(np.ones(3)) == 3).all()

    run_ranks(3, body, timeout=20.0)


def test_no_object_of_a_message_that_has_come(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a rank that has no such setting: it is not made, however it is asked for."""
    monkeypatch.setenv("EVIL", str(tmp_path / "executed"))

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            ctx._plan.__dict__["_pickler"] = gloompi.objects.PICKLE
            ctx.send_object(Evil(), 0, tag=7)
            ctx.barrier()
            return
        message = ctx.mprobe(1, tag=7)
        for receive in (message.recv_object, message.irecv_object):
            with pytest.raises(RuntimeError, match="GLOOMPI_PICKLE=off"):
                receive()
        message.recv_array()
        ctx.barrier()

    monkeypatch.setenv("GLOOMPI_PICKLE", "off")
    with pytest.raises(RankError):  # an object is no array
        run_ranks(2, body, timeout=20.0)
    assert not (tmp_path / "executed").exists()


def test_a_pickler_takes_the_place_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_PICKLE", "off")
    assert meet(2, all_operations, AS_JSON) == EXPECTED


@pytest.mark.parametrize("text", ["0", "no", "OFF"])
def test_setting_without_a_meaning(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_PICKLE", text)
    with pytest.raises(RankError, match=f"GLOOMPI_PICKLE must be on or off, not '{text}'"):
        run_ranks(2, lambda ctx: None, timeout=20.0)


@pytest.mark.parametrize("pickler", [pickle, "pickle", (json.dumps, json.loads)])
def test_what_is_no_pickler(pickler: Any) -> None:
    with pytest.raises(TypeError, match=r"^pickler must be a gloompi\.Pickler, not (module|str|tuple)$"):
        Context.from_store(HashStore(), 0, 1, pickler=pickler)


@pytest.mark.usefixtures("mpi_jobs")
def test_no_objects_with_the_face_of_mpi4py() -> None:
    for found in run_job(2, "no_pickles.py", env={"GLOOMPI_PICKLE": "off"}):
        assert found == {"rank": found["rank"], "refused": [REFUSED] * found["tried"], "tried": 9, "total": 2.0}


@pytest.mark.parametrize("rest", [b"", b"x" * 100, struct.pack("<QQ", 5, 0) + b"x" * 100, b"\xff" * 40])
def test_what_a_pickler_makes_may_begin_as_a_message_with_buffers(rest: bytes) -> None:
    own = Pickler(lambda obj: (obj, ()), lambda data, _: bytes(data))
    obj = b"\0gloompi" + rest
    assert decode(encode(obj, own).data, own) == obj
