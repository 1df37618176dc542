"""The end of the interpreter: what is to be done when the program's own objects are gone.

mpi4py finalizes MPI after the interpreter's end.  So a program may communicate in exit functions, also in those that it has
registered before the import, in ``weakref.finalize`` and in the ``__del__`` of what lives to the end.  Nothing written in
Python runs after all of these but the ``__del__`` of an object that goes later still.  CPython (``finalize_modules`` in
Python/pylifecycle.c, from 3.10 to 3.13) replaces every module in `sys.modules` by None, clears that dict, and collects
garbage, which is when most of a program's globals go.  What is in the dict and is no module goes in between, and can collect
first.

What is alive even then, because the `sys` module or an extension module holds it, comes too late.  All other threads stand
still.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import ExitStack

__all__ = ["at_the_end"]

_KEY = "gloompi.ending.last"

# The modules of these can be imported until the end.  Those of the program have to go before.
_NEEDED = {"gloompi", "ml_dtypes", "mpi4py", "numpy", *sys.stdlib_module_names}

_actions: list[Callable[[], None]] = []


def at_the_end(action: Callable[[], None]) -> None:
    """Have a function called when the program's own objects are gone; functions are called in the order of these calls.

    For exit functions.  By then only what has been imported can be imported.  What a function raises is reported as what a
    ``__del__`` raises, and the next one is called.
    """
    _actions.append(action)
    if _KEY not in sys.modules:
        sys.modules[_KEY] = _Last()  # type: ignore[assignment]


class _Last:
    """Goes when all modules have gone."""

    def __init__(self) -> None:
        loaded = sys.modules.copy()
        self._needed = {name: module for name, module in loaded.items() if name.partition(".")[0] in _NEEDED}

    def __del__(self) -> None:
        modules = sys.modules
        modules.update(self._needed)
        _forget_hooks()
        try:
            with ExitStack() as stack:
                for action in reversed(_actions):
                    stack.callback(action)
                gc.collect()
        finally:
            for name in self._needed:
                modules.pop(name, None)


def _forget_hooks() -> None:
    """Let go of functions of the program that nothing calls any more: each keeps all globals of its module alive."""
    for name in ("excepthook", "displayhook", "breakpointhook"):
        setattr(sys, name, getattr(sys, f"__{name}__"))
    threading = sys.modules.get("threading")
    if threading is not None:
        threading.excepthook = threading.__excepthook__  # type: ignore[attr-defined]
