"""Requests of gloompi.MPI: what mpi4py's own tests do not ask."""

from __future__ import annotations

import pytest
from facade_checks import names, require


@pytest.mark.parametrize("n", [3, 1])
@pytest.mark.parametrize("check", names("requests"))
def test_requests(mpi_jobs: None, check: str, n: int) -> None:
    require("requests", check, n)
