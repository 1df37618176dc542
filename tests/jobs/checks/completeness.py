"""What gloompi.MPI has of mpi4py.MPI's names, and what it says of those that it refuses."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import mpi4py
import numpy as np
from mpi4py import MPI as mpi

from .registry import Registry

CHECKS = Registry()
CLASSES = ("Comm", "Intracomm", "Request", "Prequest", "Message")
REFUSED_CLASSES = ("Intercomm", "Topocomm", "Cartcomm", "Graphcomm", "Distgraphcomm", "Win", "File", "Session", "Grequest")
REFUSED_FUNCTIONS = (
    "Open_port",
    "Close_port",
    "Publish_name",
    "Unpublish_name",
    "Lookup_name",
    "Register_datarep",
)


def public(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


def refusal(call: Any, *arguments: Any) -> str | None:
    try:
        call(*arguments)
    except NotImplementedError as exc:
        return str(exc)
    except Exception:
        return None
    return None


def text(name: str) -> str:
    return (
        f"MPI.{name} is not available in gloompi.MPI, which communicates over sockets and never through MPI; use mpi4py.MPI "
        f"itself for it"
    )


def stub() -> dict[str, dict[str, list[str]]]:
    """The parameters of each method of each class, of mpi4py's type stub."""
    tree = ast.parse(Path(mpi4py.__file__).with_name("MPI.pyi").read_text())
    found: dict[str, dict[str, list[str]]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                each.name: [a.arg for a in (*each.args.posonlyargs, *each.args.args, *each.args.kwonlyargs)]
                for each in node.body
                if isinstance(each, ast.FunctionDef)
            }
    return found


@CHECKS.ours
def module_has_every_name(MPI: Any, comm: Any) -> None:
    missing = [name for name in public(mpi) if not hasattr(MPI, name)]
    assert missing == [], missing


@CHECKS.ours
def classes_have_every_name(MPI: Any, comm: Any) -> None:
    missing = [
        f"{kind}.{name}"
        for kind in (*CLASSES, *REFUSED_CLASSES)
        for name in public(getattr(mpi, kind))
        if not hasattr(getattr(MPI, kind), name)
    ]
    assert missing == [], missing


@CHECKS.ours
def nothing_that_communicates_is_mpi4pys(MPI: Any, comm: Any) -> None:
    communicating = tuple(getattr(mpi, kind) for kind in (*CLASSES, *REFUSED_CLASSES))
    theirs = [
        name
        for name in public(MPI)
        if isinstance(getattr(MPI, name), communicating)
        or (isinstance(getattr(MPI, name), type) and issubclass(getattr(MPI, name), communicating))
    ]
    assert theirs == [], theirs


@CHECKS.ours
def local_things_are_mpi4pys(MPI: Any, comm: Any) -> None:
    for name in ("Status", "Datatype", "Op", "Group", "Info", "Errhandler", "Exception", "SUM", "INT", "IN_PLACE", "pickle"):
        assert getattr(MPI, name) is getattr(mpi, name), name
    for name in ("ANY_SOURCE", "ANY_TAG", "PROC_NULL", "UNDEFINED", "ERR_TRUNCATE", "COMM_TYPE_SHARED"):
        assert getattr(MPI, name) == getattr(mpi, name)
    assert MPI.Wtime() <= mpi.Wtime()
    assert MPI.Get_processor_name() == mpi.Get_processor_name()
    assert MPI.Get_version() == mpi.Get_version()
    assert MPI.Compute_dims(12, 2) == [4, 3]
    assert MPI.Is_initialized()
    assert not MPI.Is_finalized()


def said_of(call: Any, *arguments: Any) -> str:
    """What is said of wrong arguments; empty where something else is said, or nothing."""
    try:
        call(*arguments)
    except TypeError as exc:
        return str(exc)
    except NotImplementedError:
        return ""
    return ""


@CHECKS.ours
def wrong_arguments_are_told_what_is_right(MPI: Any, comm: Any) -> None:
    for name, text in (
        ("Bcast", "Comm.Bcast(buf, root=0): Bcast() missing 1 required positional argument: 'buf'"),
        ("bcast", "Comm.bcast(obj, root=0): bcast() missing 1 required positional argument: 'obj'"),
        ("Isend", "Comm.Isend(buf, dest, tag=0): Isend() missing 2 required positional arguments: 'buf' and 'dest'"),
        ("allreduce", "Comm.allreduce(sendobj, op=...): allreduce() missing 1 required positional argument: 'sendobj'"),
    ):
        said = said_of(getattr(comm, name))
        assert said == text, said
    for name in public(MPI.Intracomm):
        said = said_of(lambda name: getattr(comm, name)(no_such_argument=1), name)
        assert "CommBase" not in said, said
        assert "CollectiveComm" not in said, said
        assert "MessageComm" not in said, said
        assert "ObjectComm" not in said, said


@CHECKS.ours
def refused_methods_name_themselves(MPI: Any, comm: Any) -> None:
    instances = {
        "Comm": comm,
        "Intracomm": comm,
        "Request": MPI.Request(),
        "Prequest": MPI.Prequest(),
        "Message": MPI.Message(),
    }
    asked = 0
    for kind, instance in instances.items():
        parameters = stub()[kind]
        for name in public(getattr(mpi, kind)):
            on_class = inspect.getattr_static(getattr(MPI, kind), name)
            if type(on_class).__name__ != "Unsupported":
                continue
            asked += 1
            said = refusal(lambda name=name, instance=instance: getattr(instance, name)())
            owner = next(each.__name__ for each in getattr(mpi, kind).__mro__ if name in vars(each))
            assert said == text(f"{owner}.{name}"), name
            if name in parameters:  # not a property
                assert refusal(getattr(type(instance), name), *[None] * len(parameters[name])) == said, name
    assert asked > 30


@CHECKS.ours
def refused_functions_name_themselves(MPI: Any, comm: Any) -> None:
    for name in REFUSED_FUNCTIONS:
        assert refusal(getattr(MPI, name), "argument") == text(name)


@CHECKS.ours
def refused_classes_name_themselves(MPI: Any, comm: Any) -> None:
    for kind in REFUSED_CLASSES:
        refused, theirs = getattr(MPI, kind), getattr(mpi, kind)
        assert not refused()
        for name in ("Create", "Open", "Allocate", "Allocate_shared", "Init", "Delete", "Get_remote_size", "Merge", "Sub"):
            if name in vars(theirs):
                assert refusal(getattr(refused, name), comm) == text(f"{kind}.{name}")
                assert refusal(lambda name=name, refused=refused: getattr(refused(), name)(comm)) == text(f"{kind}.{name}")
    assert not MPI.WIN_NULL
    assert not MPI.FILE_NULL
    assert isinstance(MPI.WIN_NULL, MPI.Win)
    assert refusal(lambda: MPI.WIN_NULL.group) == text("Win.group")
    for kind in ("Cartcomm", "Graphcomm", "Distgraphcomm"):
        assert issubclass(getattr(MPI, kind), MPI.Topocomm)
        assert issubclass(getattr(MPI, kind), MPI.Intracomm)


@CHECKS.ours
def no_method_of_mpi4pys_takes_our_handles(MPI: Any, comm: Any) -> None:
    for call in (
        lambda: mpi.Intracomm(comm),
        lambda: mpi.Request(MPI.REQUEST_NULL),
        lambda: mpi.Message(MPI.MESSAGE_NULL),
        lambda: mpi.Win.Create(None, comm=comm),
        lambda: mpi.INT.Pack(bytearray(4), bytearray(4), 0, comm),
        lambda: MPI.Intracomm(mpi.COMM_WORLD),
        lambda: MPI.Request(mpi.REQUEST_NULL),
        lambda: MPI.Message(mpi.MESSAGE_NULL),
        lambda: MPI.Request.Waitall([mpi.REQUEST_NULL]),
        lambda: MPI.Comm.Compare(comm, mpi.COMM_WORLD),
    ):
        try:
            call()
        except (TypeError, AttributeError):
            continue
        raise AssertionError(f"accepted: {inspect.getsource(call)}")
    assert comm != mpi.COMM_WORLD
    assert MPI.COMM_NULL != mpi.COMM_NULL
    assert MPI.REQUEST_NULL != mpi.REQUEST_NULL


@CHECKS.ours
def parameters_are_mpi4pys(MPI: Any, comm: Any) -> None:
    differ = []
    for kind in CLASSES:
        for name, parameters in stub()[kind].items():
            found = inspect.getattr_static(getattr(MPI, kind), name, None)
            if found is None or type(found).__name__ in ("Unsupported", "property") or name.startswith("__"):
                continue
            function = getattr(found, "__func__", found)
            mine = list(inspect.signature(function).parameters)
            if mine != parameters:
                differ.append(f"{kind}.{name}: {mine}, mpi4py has {parameters}")
    assert differ == [], differ


@CHECKS.ours
def defaults_are_mpi4pys(MPI: Any, comm: Any) -> None:
    differ = []
    tree = ast.parse(Path(mpi4py.__file__).with_name("MPI.pyi").read_text())
    for node in tree.body:
        if not (isinstance(node, ast.ClassDef) and node.name in CLASSES):
            continue
        for each in node.body:
            found = inspect.getattr_static(getattr(MPI, node.name), each.name, None) if hasattr(each, "name") else None
            if found is None or type(found).__name__ in ("Unsupported", "property") or each.name.startswith("__"):
                continue
            mine = inspect.signature(getattr(found, "__func__", found)).parameters
            arguments = [*each.args.posonlyargs, *each.args.args]
            for argument, default in zip(reversed(arguments), reversed(each.args.defaults), strict=False):
                if argument.arg in mine:
                    theirs = eval(ast.unparse(default), vars(mpi).copy())
                    if mine[argument.arg].default != theirs:
                        differ.append(f"{node.name}.{each.name}({argument.arg}={theirs!r})")
    assert differ == [], differ


@CHECKS.ours
def info_of_persistent_collectives_by_position_and_by_name(MPI: Any, comm: Any) -> None:
    x, out, info = np.zeros(comm.size), np.zeros(comm.size), MPI.INFO_NULL
    counts = [1] * comm.size
    for requests in (
        [comm.Barrier_init(info), comm.Barrier_init(info=info)],
        [comm.Bcast_init(x, 0, info), comm.Bcast_init(buf=x, root=0, info=info)],
        [comm.Allreduce_init(x, out, MPI.SUM, info), comm.Allreduce_init(sendbuf=x, recvbuf=out, op=MPI.SUM, info=info)],
        [comm.Alltoall_init(x, out, info), comm.Alltoall_init(x, recvbuf=out, info=info)],
        [comm.Reduce_scatter_init(x, out[:1], counts, MPI.SUM, info)],
    ):
        for request in requests:
            request.Start()
            request.Wait()
            request.Free()
