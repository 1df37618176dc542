"""The store that docs/stores.md shows how to write."""

from __future__ import annotations

import re
from pathlib import Path

from gloompi.testing import check_store

PAGE = Path(__file__).parent.parent / "docs" / "stores.md"


def test_store_of_the_documentation_keeps_the_contract(tmp_path: Path) -> None:
    block = re.search(r"<!-- test: own store -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, type] = {}
    exec(block[1], names)
    check_store(lambda: names["SQLiteStore"](tmp_path / "items.db"))
