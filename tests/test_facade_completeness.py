"""gloompi.MPI has mpi4py.MPI's names and parameters, and refuses what it has not."""

from __future__ import annotations

import pytest
from facade_checks import names, require


@pytest.mark.parametrize("check", names("completeness"))
def test_completeness(mpi_jobs: None, check: str) -> None:
    require("completeness", check, 1)
