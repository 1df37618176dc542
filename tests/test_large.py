"""Arrays of more than 2 GiB and more than 2**31 elements: no count on the way is a C int."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from gloompi import Context
from gloompi.testing import run_ranks

COUNT = 2**31 + 7
NEEDED = 3 * COUNT


def test_more_than_two_gibibytes() -> None:
    if psutil.virtual_memory().available < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.0f} GB of free memory")
    marks = [0, 1, 2**31 - 1, 2**31, COUNT // 2, COUNT - 1]

    def body(ctx: Context) -> None:
        x = np.zeros(COUNT, np.uint8)
        if ctx.rank == 0:
            x[marks] = range(1, len(marks) + 1)
        ctx.broadcast(x, root=0)
        assert x[marks].tolist() == list(range(1, len(marks) + 1))
        x[marks] += ctx.rank
        ctx.allreduce(x, out=x, op="max")
        assert x[marks].tolist() == list(range(2, len(marks) + 2))
        assert np.count_nonzero(x) == len(marks)
        if ctx.rank == 0:
            ctx.send(x, 1)
        else:
            x[:] = 0
            assert ctx.recv(x, 0).nbytes == COUNT
            assert x[marks].tolist() == list(range(2, len(marks) + 2))

    run_ranks(2, body)
