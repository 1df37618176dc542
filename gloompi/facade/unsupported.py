"""What the facade has not: every such name of mpi4py says so, and never falls through to MPI."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["Unsupported", "refuse_rest", "refusing_class", "refusing_function"]


class Unsupported:
    """A method that raises NotImplementedError, whether it is called or, as a property, read."""

    def __init__(self, name: str, *, called: bool) -> None:
        self._name = name
        self._called = called

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if not self._called and instance is not None:
            refuse(self._name)
        return refusing_function(self._name)


def refuse(name: str) -> NoReturn:
    raise NotImplementedError(
        f"MPI.{name} is not available in gloompi.MPI, which communicates over sockets and never through MPI; use mpi4py.MPI "
        f"itself for it"
    )


def refusing_function(name: str) -> Any:
    def refusing(*args: object, **kwargs: object) -> NoReturn:
        refuse(name)

    refusing.__name__ = refusing.__qualname__ = name.rpartition(".")[2]
    refusing.__doc__ = f"Not available over sockets: raises NotImplementedError naming MPI.{name}."
    return refusing


def refuse_rest(mine: type, theirs: type) -> None:
    """Give `mine` a refusing attribute for every public one of mpi4py's class that it has not."""
    for name in vars(theirs):
        if not name.startswith("__") and not hasattr(mine, name):
            setattr(mine, name, Unsupported(f"{theirs.__name__}.{name}", called=callable(getattr(theirs, name))))


def refusing_class(theirs: type, base: type = object) -> type:
    """Return a stand-in for one of mpi4py's classes that can be named and asked for, but not used."""

    def new(cls: type, obj: object = None, *args: object, **kwargs: object) -> Any:
        if obj is not None or args or kwargs:
            refuse(theirs.__name__)
        return base.__new__(cls)  # type: ignore[call-overload]

    members: dict[str, Any] = {"__module__": "gloompi.MPI", "__new__": new, "__bool__": lambda self: False}
    members["__doc__"] = f"Stand-in for mpi4py.MPI.{theirs.__name__}."
    if base is object:  # all there can be are null, and the same to a program; copied and pickled as a constant
        members["__eq__"] = lambda self, other: type(other) is type(self) or NotImplemented
        members["__hash__"] = lambda self: hash(type(self))
        members["__reduce__"] = lambda self: f"{theirs.__name__.upper()}_NULL"
    stand_in = type(theirs.__name__, (base,), members)
    refuse_rest(stand_in, theirs)
    return stand_in
