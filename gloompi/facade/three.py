"""The three forms of an operation: blocking, non-blocking, persistent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mpi4py import MPI as mpi

from ..context import Context
from ..signatures import show_signature
from .requests import Prequest, Request
from .work import Begin, Completion, Work, checked, fill

__all__ = ["do", "forms", "start"]


def do(context: Context | None, begin: Begin, status: mpi.Status | None = None) -> Any:
    """Run an operation to its end; return its object."""
    plan, end = begin()
    if isinstance(plan, Completion):
        completion = plan
    else:
        assert context is not None
        completion = end(context._run(plan, None))
    fill(status, completion)
    return checked(completion).obj


def start(context: Context | None, begin: Begin) -> Request:
    """Begin an operation; return its handle."""
    request: Request = Request._of(Work(context, begin).start())
    return request


def forms(build: Callable[..., Begin]) -> tuple[Callable[..., None], Callable[..., Request], Callable[..., Prequest]]:
    """Return ``X``, ``Ix`` and ``X_init`` of an operation; `build` takes the arguments and returns what begins it."""
    name = build.__name__.lstrip("_").capitalize()

    def blocking(self: Any, *args: Any, **kwargs: Any) -> None:
        do(self._context, build(self, *args, **kwargs))

    def non_blocking(self: Any, *args: Any, **kwargs: Any) -> Request:
        return start(self._context, build(self, *args, **kwargs))

    def persistent(self: Any, *args: Any, **kwargs: Any) -> Prequest:
        given = with_info.bind(self, *args, **kwargs).arguments
        given.pop("info", None)  # hints, of which there are none
        request: Prequest = Prequest._of(Work(self._context, build(**given), persistent=True))
        return request

    show_signature(build, f"Comm.{name}")
    plain = inspect.signature(build)
    info = inspect.Parameter("info", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=mpi.INFO_NULL)
    with_info = plain.replace(parameters=[*plain.parameters.values(), info])
    functions: dict[str, Any] = {name: blocking, f"I{name.lower()}": non_blocking, f"{name}_init": persistent}
    for its_name, function in functions.items():
        function.__name__ = its_name
        function.__qualname__ = f"Comm.{its_name}"
        function.__doc__ = f"As mpi4py.MPI.Comm.{its_name}, over sockets."
        function.__signature__ = with_info if function is persistent else plain
    return blocking, non_blocking, persistent
