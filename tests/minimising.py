"""Smaller programs that still fail: of a program that fails, everything is tried away that is not needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from programs import Program


def shrink(program: Program, fails: Callable[[Program], bool], trials: int = 120) -> Program:
    """The smallest program found with `trials` calls of `fails`, which is known to be true of `program`.

    First whole steps, halves before single ones; then parts of steps; then numbers and communicators.
    """
    left = trials
    for candidates in (_fewer, _simpler):
        smaller = True
        while smaller and left > 0:
            smaller = False
            for candidate in candidates(program):
                if left == 0:
                    break
                left -= 1
                if fails(candidate):
                    program, smaller = candidate, True
                    break
    return program


def _fewer(program: Program) -> Iterator[Program]:
    """With fewer steps, or fewer parts of a step."""
    length = len(program) // 2
    while length:
        for begin in range(0, len(program), length):
            rest = program[:begin] + program[begin + length :]
            if rest:
                yield rest
        length //= 2
    for number, step in enumerate(program):
        parts = step.get("parts", [])
        if len(parts) == 1:
            # Alone, a part completes as the step of which it was a part.
            ending = {key: step[key] for key in ("finish", "shuffle", "again")}
            yield [*program[:number], {**parts[0], **ending}, *program[number + 1 :]]
        else:
            for i in range(len(parts)):
                yield [*program[:number], {**step, "parts": parts[:i] + parts[i + 1 :]}, *program[number + 1 :]]


def _simpler(program: Program) -> Iterator[Program]:
    """With one number smaller, one list shorter, or on the world instead of another communicator."""
    for path, value in _leaves(program):
        if path[-1] == "comm" and value != "world":
            yield _replaced(program, path, "world")
        elif isinstance(value, list):
            yield _replaced(program, path, value[:1])
        elif isinstance(value, int) and value > 0:
            yield _replaced(program, path, 0)
    for path, value in _leaves(program):
        if isinstance(value, int) and value > 1:
            yield _replaced(program, path, value // 2)
            if value - 1 > value // 2:
                yield _replaced(program, path, value - 1)


def _leaves(thing: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(thing, list) and thing and isinstance(thing[0], dict):
        for i, value in enumerate(thing):
            yield from _leaves(value, (*path, i))
    elif isinstance(thing, list):
        numbers = [value for value in thing if isinstance(value, int)]
        if len(numbers) > 1:
            yield path, thing
        for i, value in enumerate(numbers):
            yield (*path, i), value
    else:
        yield path, thing


def _replaced(program: Program, path: tuple[Any, ...], value: Any) -> Program:
    changed = copy.deepcopy(program)
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed
