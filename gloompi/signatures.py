"""Signatures in Python's own errors, so that who passes an option by its position reads what it is called.

Python begins the text about a call with wrong arguments with the function's qualified name, which has the class that happens
to define a method: an internal one for most of a Context's.  Here that name is made to say how the method is called.  No
function is wrapped, so that no call takes longer.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, TypeVar

__all__ = ["public", "show_signature"]

Class = TypeVar("Class", bound=type)


def public(cls: Class) -> Class:
    """Have errors about the arguments of a class's public methods begin with how these are called.

    ``Context.send(x, dest, *, tag=0, timeout=None): send() takes 3 positional arguments but 4 were given``
    """
    package = cls.__module__.partition(".")[0]
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != package:
            continue
        for name, member in vars(base).items():
            function = getattr(member, "__func__", member)
            # One that a public class above this one has may have its signature already.
            if isinstance(function, FunctionType) and function.__qualname__ == f"{base.__name__}.{name}":
                if name in ("__init__", "__new__"):
                    show_signature(function, cls.__name__)
                elif not name.startswith("_"):
                    show_signature(function, f"{cls.__name__}.{name}", bound=not isinstance(member, staticmethod))
    return cls


def show_signature(function: Any, name: str, bound: bool = True) -> None:
    """Have errors about the arguments of a method begin with how it is called; `bound`: its first is the object or class."""
    function.__qualname__ = f"{name}({_parameters(function, int(bound))}): {name.rpartition('.')[2]}"


def _parameters(function: Any, start: int) -> str:
    """``x, *, root=0, algorithm='auto', timeout=None``, from the parameter with this number on."""
    code = function.__code__
    stop = code.co_argcount
    positional, named = code.co_varnames[start:stop], code.co_varnames[stop : stop + code.co_kwonlyargcount]
    defaults: dict[str, Any] = dict(zip(reversed(positional), reversed(function.__defaults__ or ()), strict=False))
    defaults.update(function.__kwdefaults__ or {})

    def shown(name: str) -> str:
        if name not in defaults:
            return name
        default = defaults[name]
        plain = default is None or isinstance(default, str | int | float)
        return f"{name}={default!r}" if plain else f"{name}={getattr(default, '__name__', '...')}"

    return ", ".join([*map(shown, positional), *(["*"] if named else []), *map(shown, named)])
