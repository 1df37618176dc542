"""Pictures that commands write (package matplotlib)."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.backend_bases

__all__ = ["check_format"]


def check_format(path: str) -> None:
    """Raise ValueError if matplotlib has no format for the ending of `path`."""
    if Path(path).suffix[1:].lower() not in matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes():
        raise ValueError(f"no picture can be written to {path!r}: its name must end in .png, .svg or .pdf")
