"""Ranks that do not make the same calls over gloompi.MPI."""

from __future__ import annotations

import pytest
from facade_checks import names, require


@pytest.mark.parametrize("check", names("disagreement"))
def test_disagreement(mpi_jobs: None, check: str) -> None:
    require("disagreement", check, 3)
