"""How a rank of a test job says what happened to it: one line of JSON, written at once so that lines do not mix."""

from __future__ import annotations

import json
import os
from typing import Any


def report(rank: int, **facts: Any) -> None:
    os.write(1, (json.dumps({"rank": rank, **facts}) + "\n").encode())


def facts_of(exc: BaseException) -> dict[str, Any]:
    """An exception as part of a report."""
    return {
        "error": type(exc).__name__,
        "text": str(exc),
        "lost": getattr(exc, "rank", None),
        "operation": getattr(exc, "operation", None),
        "reported_by": getattr(exc, "reported_by", None),
        "interrupted": getattr(exc, "interrupted", ""),
    }
