"""Effort: what something costs, in steps of the interpreter: the same on every machine and at every load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Noticed", "Steps", "assert_linear", "assert_proportional", "counted", "steps_of"]


class Steps:
    """Bytecodes that a thread has executed."""

    number = 0


@contextmanager
def counted() -> Iterator[Steps]:
    """Count the steps of this thread, in functions that are called or resumed meanwhile."""
    steps = Steps()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        steps.number += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


def steps_of(action: Callable[[], object]) -> int:
    """Run something and return how many steps it took."""
    with counted() as steps:
        action()
    return steps.number


def assert_proportional(few: int, few_steps: int, many: int, many_steps: int) -> None:
    """Check that the steps for `many` are in proportion to those for `few`."""
    times = many_steps / few_steps
    assert times < 1.5 * many / few, f"{few}: {few_steps} steps; {many}: {many_steps} steps, {times:.1f} times as many"


def assert_linear(prepare: Callable[[int], Callable[[], object]], few: int = 40, many: int = 400) -> None:
    """Check that what ``prepare(n)`` returns takes steps in proportion to `n`."""
    assert_proportional(few, steps_of(prepare(few)), many, steps_of(prepare(many)))


class Noticed:
    """Mixed into a class whose instances are compared by identity: then each comparison takes steps, also in a list's
    search, which is C's."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)
