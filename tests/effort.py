"""Effort: what something costs, in steps of the interpreter: the same on every machine and at every load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Noticed", "assert_linear", "steps_of"]


def steps_of(action: Callable[[], object]) -> int:
    """Run something and return how many bytecodes this thread has executed for it."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return steps


def assert_linear(prepare: Callable[[int], Callable[[], object]], few: int = 40, times: int = 10) -> None:
    """Check that what ``prepare(n)`` returns costs in proportion to `n`, be it called with `few` or with `times` as many."""
    small, large = steps_of(prepare(few)), steps_of(prepare(times * few))
    assert large < 1.5 * times * small, f"{few}: {small} steps; {times * few}: {large}, {large / small:.1f} times as many"


class Noticed:
    """Mixed into a class whose instances are compared by identity: then each comparison takes steps, also in a list's
    search, which is C's."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)
