"""What users can rely on: names, signatures, and what an import does not do."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

import gloompi
import gloompi.testing

NAMES = [
    "ANY_SOURCE",
    "ANY_TAG",
    "AuthenticationError",
    "CallRecord",
    "Context",
    "ContextClosedError",
    "Device",
    "EtcdStore",
    "FileStore",
    "GloompiError",
    "HashStore",
    "Message",
    "MismatchError",
    "OperationTimeoutError",
    "Peer",
    "PeerLostError",
    "Pickler",
    "PrefixStore",
    "RedisStore",
    "RendezvousError",
    "Request",
    "Status",
    "Store",
    "SystemCallError",
    "TCPStore",
    "ZooKeeperStore",
    "wait_all",
    "wait_any",
    "wait_some",
]

# Without annotations; `i` forms have no timeout, `Request.wait` has.
SIGNATURES = {
    "send": "(self, x, dest, *, tag=0, timeout=None)",
    "isend": "(self, x, dest, *, tag=0)",
    "ssend": "(self, x, dest, *, tag=0, timeout=None)",
    "issend": "(self, x, dest, *, tag=0)",
    "recv": "(self, out, source, *, tag=0, timeout=None)",
    "irecv": "(self, out, source, *, tag=0)",
    "recv_array": "(self, source, *, tag=0, timeout=None)",
    "irecv_array": "(self, source, *, tag=0)",
    "sendrecv": "(self, x, dest, out, source, *, sendtag=0, recvtag=0, timeout=None)",
    "isendrecv": "(self, x, dest, out, source, *, sendtag=0, recvtag=0)",
    "send_object": "(self, obj, dest, *, tag=0, timeout=None)",
    "isend_object": "(self, obj, dest, *, tag=0)",
    "ssend_object": "(self, obj, dest, *, tag=0, timeout=None)",
    "issend_object": "(self, obj, dest, *, tag=0)",
    "recv_object": "(self, source=-1, *, tag=0, timeout=None)",
    "irecv_object": "(self, source=-1, *, tag=0)",
    "sendrecv_object": "(self, obj, dest, source, *, sendtag=0, recvtag=0, timeout=None)",
    "isendrecv_object": "(self, obj, dest, source, *, sendtag=0, recvtag=0)",
    "probe": "(self, source=-1, *, tag=-1, timeout=None)",
    "iprobe": "(self, source=-1, *, tag=-1)",
    "mprobe": "(self, source=-1, *, tag=-1, timeout=None)",
    "improbe": "(self, source=-1, *, tag=-1)",
    "broadcast_object": "(self, obj=None, *, root=0, timeout=None)",
    "ibroadcast_object": "(self, obj=None, *, root=0)",
    "gather_object": "(self, obj, *, root=0, timeout=None)",
    "igather_object": "(self, obj, *, root=0)",
    "allgather_object": "(self, obj, *, timeout=None)",
    "iallgather_object": "(self, obj)",
    "scatter_object": "(self, objects=None, *, root=0, timeout=None)",
    "iscatter_object": "(self, objects=None, *, root=0)",
    "alltoall_object": "(self, objects, *, timeout=None)",
    "ialltoall_object": "(self, objects)",
    "reduce_object": "(self, obj, *, op=<built-in function add>, root=0, timeout=None)",
    "ireduce_object": "(self, obj, *, op=<built-in function add>, root=0)",
    "allreduce_object": "(self, obj, *, op=<built-in function add>, timeout=None)",
    "iallreduce_object": "(self, obj, *, op=<built-in function add>)",
    "scan_object": "(self, obj, *, op=<built-in function add>, timeout=None)",
    "iscan_object": "(self, obj, *, op=<built-in function add>)",
    "exscan_object": "(self, obj, *, op=<built-in function add>, timeout=None)",
    "iexscan_object": "(self, obj, *, op=<built-in function add>)",
    "gatherv": "(self, x, out=None, *, root=0, timeout=None)",
    "igatherv": "(self, x, out=None, *, root=0)",
    "allgatherv": "(self, x, out=None, *, timeout=None)",
    "iallgatherv": "(self, x, out=None)",
    "scatterv": "(self, pieces=None, out=None, *, root=0, timeout=None)",
    "iscatterv": "(self, pieces=None, out=None, *, root=0)",
    "alltoallv": "(self, pieces, out=None, *, timeout=None)",
    "ialltoallv": "(self, pieces, out=None)",
    "reduce": "(self, x, out=None, *, root=0, op='sum', algorithm='auto', timeout=None)",
    "ireduce": "(self, x, out=None, *, root=0, op='sum', algorithm='auto')",
    "allreduce": "(self, x, out=None, *, op='sum', algorithm='auto', timeout=None)",
    "iallreduce": "(self, x, out=None, *, op='sum', algorithm='auto')",
    "reduce_scatter": "(self, x, out=None, *, counts=None, op='sum', algorithm='auto', timeout=None)",
    "ireduce_scatter": "(self, x, out=None, *, counts=None, op='sum', algorithm='auto')",
    "scan": "(self, x, out=None, *, op='sum', algorithm='auto', timeout=None)",
    "iscan": "(self, x, out=None, *, op='sum', algorithm='auto')",
    "exscan": "(self, x, out=None, *, op='sum', algorithm='auto', timeout=None)",
    "iexscan": "(self, x, out=None, *, op='sum', algorithm='auto')",
    "barrier": "(self, *, timeout=None)",
    "ibarrier": "(self)",
    "broadcast": "(self, x, *, root=0, algorithm='auto', timeout=None)",
    "ibroadcast": "(self, x, *, root=0, algorithm='auto')",
    "allgather": "(self, x, out=None, *, algorithm='auto', timeout=None)",
    "iallgather": "(self, x, out=None, *, algorithm='auto')",
    "gather": "(self, x, out=None, *, root=0, timeout=None)",
    "igather": "(self, x, out=None, *, root=0)",
    "scatter": "(self, x=None, out=None, *, root=0, timeout=None)",
    "iscatter": "(self, x=None, out=None, *, root=0)",
    "alltoall": "(self, x, out=None, *, algorithm='auto', timeout=None)",
    "ialltoall": "(self, x, out=None, *, algorithm='auto')",
    "from_mpi": "(comm=None, *, secret=None, device=None, timeout=1800.0, connect_timeout=300.0, pickler=None)",
    "from_store": "(store, rank, size, *, secret=None, device=None, timeout=1800.0, connect_timeout=300.0, pickler=None)",
    "from_env": "(*, secret=None, device=None, timeout=1800.0, connect_timeout=300.0, pickler=None)",
    "history": "(self)",
    "dup": "(self)",
    "split": "(self, color, key=0, *, timeout=None)",
    "shrink": "(self, *, timeout=None)",
    "close": "(self, *, timeout=None)",
    "abort": "(self, reason)",
}
STORES = {
    "EtcdStore": "(url='http://127.0.0.1:2379', *, ca_cert=None, cert=None, key=None)",
    "FileStore": "(folder)",
    "HashStore": "()",
    "PrefixStore": "(prefix, store)",
    "RedisStore": "(url='redis://127.0.0.1:6379/0')",
    "TCPStore": "(host, port, *, serve=False, clients=None, rank=None, secret=None, timeout=300.0)",
    "ZooKeeperStore": "(hosts='127.0.0.1:2181')",
}
STORE_SIGNATURES = {
    "set": "(self, key, value)",
    "multi_set": "(self, keys, values=None)",
    "get": "(self, key, timeout=None)",
    "multi_get": "(self, keys, timeout=None)",
    "wait": "(self, keys, timeout=None)",
    "peek": "(self, keys)",
    "add": "(self, key, n)",
    "append": "(self, key, value)",
    "compare_set": "(self, key, expected, desired)",
    "delete": "(self, keys)",
    "close": "(self)",
}
ATTRIBUTES = {"closed", "peers"}


def bare_signature(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_the_public_names() -> None:
    assert gloompi.__all__ == NAMES
    for name in NAMES:
        assert getattr(gloompi, name) is not None
    assert set(NAMES) <= set(dir(gloompi))
    with pytest.raises(AttributeError, match=r"^module 'gloompi' has no attribute 'MemoryStore'$"):
        _ = gloompi.MemoryStore
    assert gloompi.testing.__all__ == ["RankError", "check_store", "run_ranks"]


def test_testing_needs_no_import_of_its_own() -> None:
    code = "import gloompi; print('testing' in vars(gloompi), gloompi.testing.run_ranks(2, lambda ctx: ctx.rank))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(gloompi.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False [0, 1]\n", "")
    assert "testing" in dir(gloompi)


@pytest.mark.parametrize("name", [name for name, signature in SIGNATURES.items() if "algorithm" in signature])
def test_algorithms_are_named_in_the_signature(name: str) -> None:
    blocking = name if name in ("allreduce", "allgather", "alltoall") else name.removeprefix("i")
    module = import_module(f"gloompi.collectives.{blocking.removeprefix('ex')}")
    annotation = inspect.signature(getattr(gloompi.Context, name)).parameters["algorithm"].annotation
    assert annotation == f"{module.__name__.split('.')[-1].title().replace('_', '')}Algorithm"
    assert get_args(getattr(module, annotation)) == ("auto", *module.ALGORITHMS)


def test_the_methods_of_a_context() -> None:
    public = {name for name in dir(gloompi.Context) if not name.startswith("_")}
    assert public == set(SIGNATURES) | ATTRIBUTES
    assert {name: bare_signature(getattr(gloompi.Context, name)) for name in SIGNATURES} == SIGNATURES


def test_the_methods_of_a_store() -> None:
    public = {name for name in vars(gloompi.Store) if not name.startswith("_")}
    assert public == {*STORE_SIGNATURES, "timeout"}
    assert {name: bare_signature(getattr(gloompi.Store, name)) for name in STORE_SIGNATURES} == STORE_SIGNATURES
    for name in STORES:
        store = getattr(gloompi, name)
        assert issubclass(store, gloompi.Store)
        assert {method for method in vars(store) if not method.startswith("_")} <= {"close"}  # all else is alike
    assert {name: bare_signature(getattr(gloompi, name)) for name in STORES} == STORES


def test_other_signatures() -> None:
    assert bare_signature(gloompi.Device) == (
        "(interface=None, *, host=None, advertise=None, port=0, family=None, transport=None, single_copy=None, tls=None,"
        " checksum=None)"
    )
    assert bare_signature(gloompi.Request.wait) == "(self, timeout=None)"
    assert bare_signature(gloompi.Request.test) == "(self)"
    assert {name for name in vars(gloompi.Request) if not name.startswith("_")} == {"cancel", "done", "test", "wait"}
    assert gloompi.Status._fields == ("source", "tag", "nbytes")
    assert list(inspect.signature(gloompi.CallRecord).parameters) == [
        "number", "name", "peer", "dtype", "count", "nbytes", "start", "end", "state"
    ]  # fmt: skip
    assert (gloompi.ANY_SOURCE, gloompi.ANY_TAG) == (-1, -1)
    assert bare_signature(gloompi.testing.run_ranks) == "(n, fn, *, timeout=60.0, device=None)"
    assert bare_signature(gloompi.testing.check_store) == "(make)"


# -- what Python says of wrong arguments --------------------------------------------------------------------------------


def callables() -> dict[str, Any]:
    """The public classes' methods, and the classes that a program makes itself."""
    found = {}
    for name in NAMES:
        cls = getattr(gloompi, name)
        if not inspect.isclass(cls) or issubclass(cls, Exception) or name in ("CallRecord", "Peer", "Status"):
            continue
        if name not in ("Context", "Request", "Message", "Store"):
            found[name] = cls
        for method in dir(cls):
            if not method.startswith("_") and callable(getattr(cls, method)):
                found[f"{name}.{method}"] = getattr(cls, method)
    return found


CALLABLES = callables()


def internal_names() -> set[str]:
    classes = {
        cls
        for name, module in sys.modules.items()
        if name.split(".")[0] == "gloompi"
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__.split(".")[0] == "gloompi"
    }
    return {cls.__name__ for cls in classes} - set(NAMES)


def definer(owner: str, method: str) -> str:
    """The public class that has a method, with a dot; a store has some of Store."""
    if not owner:
        return ""
    found = next(cls.__name__ for cls in getattr(gloompi, owner).__mro__ if method in vars(cls))
    return f"{found if found in NAMES else owner}."


@pytest.mark.parametrize("name", CALLABLES)
def test_wrong_arguments_are_told_what_is_right(name: str) -> None:
    function = CALLABLES[name]
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    bound = inspect.ismethod(function) or inspect.isclass(function)
    itself = () if bound else (object(),)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [(range(20), {}), ((), {"no_such_argument": 1})]
    if any(parameter.default is parameter.empty for parameter in parameters):
        wrong.append(((), {}))
    for arguments, options in wrong:
        with pytest.raises(TypeError) as caught:
            function(*itself, *arguments, **options)
        text = str(caught.value)
        owner, _, called = name.rpartition(".")
        shown, separator, said = text.partition(f"): {called}() ")
        assert separator, text
        assert said.startswith(("takes ", "got an unexpected keyword argument 'no_such_argument'", "missing "))
        assert shown.startswith(f"{definer(owner, called)}{called}(")
        for parameter in parameters:
            default = "" if parameter.default is parameter.empty else "="
            assert f"{parameter.name}{default}" in shown
        assert not internal_names() & set(re.findall(r"\w+", text)), text


def test_a_wrong_call_as_it_is_seen() -> None:
    def body(ctx: gloompi.Context) -> None:
        with pytest.raises(TypeError) as caught:
            ctx.broadcast([1.0], 0)  # type: ignore[misc]
        assert str(caught.value) == (
            "Context.broadcast(x, *, root=0, algorithm='auto', timeout=None): broadcast() takes 2 positional arguments but "
            "3 were given"
        )
        with pytest.raises(TypeError) as caught:
            ctx.reduce_object(1, max)  # type: ignore[misc]
        assert str(caught.value) == (
            "Context.reduce_object(obj, *, op=add, root=0, timeout=None): reduce_object() takes 2 positional arguments but "
            "3 were given"
        )

    gloompi.testing.run_ranks(1, body)


@pytest.mark.parametrize("arguments", [(), (1,), (None, 2, 3)])
@pytest.mark.parametrize("options", [{}, {"comm": None}, {"engine": 1}])
@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (
            gloompi.Context,
            "a Context is made by Context.from_mpi(comm), Context.from_store(store, rank, size) or Context.from_env(), on "
            "all ranks, or by dup and split of another one",
        ),
        (gloompi.Request, "a Request is what the operations of a Context that begin with an i return"),
        (gloompi.Message, "a Message is what mprobe and improbe of a Context return"),
    ],
)
def test_what_a_program_does_not_make_itself(cls: Any, text: str, arguments: Any, options: Any) -> None:
    with pytest.raises(TypeError) as caught:
        cls(*arguments, **options)
    assert str(caught.value) == text


def test_signatures_in_errors_change_no_other_name() -> None:
    assert gloompi.Context.broadcast.__name__ == "broadcast"
    assert pickle.loads(pickle.dumps(gloompi.Context.from_env)) == gloompi.Context.from_env
    for function in (gloompi.wait_all, gloompi.testing.run_ranks):
        assert pickle.loads(pickle.dumps(function)) is function
    assert "broadcast(self, x: 'Any', *, root: 'int' = 0" in pydoc.plain(pydoc.render_doc(gloompi.Context.broadcast))


@pytest.mark.parametrize("blocking", [name for name in SIGNATURES if f"i{name}" in SIGNATURES])
def test_a_non_blocking_form_takes_what_the_blocking_one_does(blocking: str) -> None:
    forms = [inspect.signature(getattr(gloompi.Context, name)).parameters for name in (blocking, f"i{blocking}")]
    assert [str(each) for each in forms[1].values()] == [str(each) for each in forms[0].values() if each.name != "timeout"]


@pytest.mark.parametrize(
    "name",
    [
        *NAMES[2:],
        *(f"Context.{method}" for method in SIGNATURES),
        *(f"Store.{method}" for method in STORE_SIGNATURES),
        "testing.check_store",
        "testing.run_ranks",
    ],
)
def test_everything_is_documented(name: str) -> None:
    thing: object = gloompi
    for part in name.split("."):
        thing = getattr(thing, part)
    assert inspect.getdoc(thing)


def test_the_errors_and_what_they_are() -> None:
    errors = {
        gloompi.GloompiError: (Exception,),
        gloompi.RendezvousError: (gloompi.GloompiError,),
        gloompi.PeerLostError: (gloompi.GloompiError, ConnectionError, OSError),
        gloompi.OperationTimeoutError: (gloompi.GloompiError, TimeoutError, OSError),
        gloompi.SystemCallError: (gloompi.GloompiError, OSError),
        gloompi.MismatchError: (gloompi.GloompiError, ValueError),
        gloompi.ContextClosedError: (gloompi.GloompiError,),
        gloompi.AuthenticationError: (gloompi.GloompiError,),
    }
    for error, bases in errors.items():
        assert error.__name__ in NAMES
        for base in bases:
            assert issubclass(error, base)


@pytest.mark.parametrize("module", ["gloompi", "gloompi.testing"])
def test_an_import_imports_no_optional_and_no_slow_package(module: str) -> None:
    packages = {"mpi4py", "psutil", "redis", "etcd3gw", "kazoo", "requests"}
    code = f"import sys, {module}; print(sorted({packages} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(gloompi.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
