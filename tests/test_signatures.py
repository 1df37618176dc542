"""Signatures in Python's own errors about the arguments of a call."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from gloompi.signatures import public, show_signature


class Part:
    def lift(self, x: Any, *, by: float = 1.0) -> None:
        """Belongs to whoever inherits it."""

    def _inside(self) -> None:
        """Nobody's business."""


@public
class Whole(Part):
    def __init__(self, name: str, size: int = 3) -> None:
        self.name, self.size = name, size

    @classmethod
    def made(cls, *, op: Any = operator.add, other: Any = ()) -> Whole:
        return cls("made")

    @staticmethod
    def plain(x: Any, y: Any = None) -> None:
        """Its first argument is none of Python's."""


@public
class More(Whole):
    def lower(self, x: Any) -> None:
        """What it has itself is its own, what is Whole's stays Whole's."""


WHOLE, MORE = Whole("a"), More("a")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: WHOLE.lift(1, 2), "Whole.lift(x, *, by=1.0): lift() takes 2 positional arguments but 3 were given"),
        (lambda: MORE.lift(), "Whole.lift(x, *, by=1.0): lift() missing 1 required positional argument: 'x'"),
        (lambda: MORE.lower(), "More.lower(x): lower() missing 1 required positional argument: 'x'"),
        (lambda: Whole(), "Whole(name, size=3): Whole() missing 1 required positional argument: 'name'"),
        (lambda: Whole.made(1), "Whole.made(*, op=add, other=...): made() takes 1 positional argument but 2 were given"),
        (lambda: WHOLE._inside(1), "Part._inside() takes 1 positional argument but 2 were given"),
        (lambda: Whole.plain(), "Whole.plain(x, y=None): plain() missing 1 required positional argument: 'x'"),
    ],
)
def test_text(call: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == text


def test_a_function_under_another_name() -> None:
    def _build(self: Any, buf: Any, root: int = 0) -> None:
        """Named for those who call it."""

    show_signature(_build, "Comm.Bcast")
    with pytest.raises(TypeError) as caught:
        _build(None)
    assert str(caught.value) == "Comm.Bcast(buf, root=0): Bcast() missing 1 required positional argument: 'buf'"


def test_a_class_of_another_package_is_left_alone() -> None:
    mine = type("Mine", (Whole,), {"__module__": "elsewhere", "run": lambda self, x: None})
    names = [function.__qualname__ for function in (Whole.lift, Whole.made, mine.run)]
    public(mine)
    assert [function.__qualname__ for function in (Whole.lift, Whole.made)] == names[:2]
