"""Reports of the commands: counts in words, and the files that pictures go to."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["PICTURES", "counted", "picture"]

PICTURES = (".png", ".svg", ".pdf")
"""What pictures are written as: matplotlib has others, but what it makes of them depends on what is installed."""


def counted(number: int, noun: str) -> str:
    """Such as ``"1 rank"`` and ``"2 ranks"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def picture(path: str) -> str:
    """Return the path of a picture; for argparse, which refuses others before anything has begun."""
    if Path(path).suffix.lower() not in PICTURES:
        *others, last = PICTURES
        raise argparse.ArgumentTypeError(
            f"no picture can be written to {path!r}: its name must end in {', '.join(others)} or {last}"
        )
    return path
