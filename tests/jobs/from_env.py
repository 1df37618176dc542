"""Context.from_env, several times in a row: `from_env.py NUMBER [TIMES [CONNECT_TIMEOUT]]`; NUMBER is for errors only."""

import sys
from time import monotonic

import numpy as np
from report import facts_of, report

from gloompi import Context

number = int(sys.argv[1])
times = int(sys.argv[2]) if len(sys.argv) > 2 else 1
connect_timeout = float(sys.argv[3]) if len(sys.argv) > 3 else 20.0

began = monotonic()
try:
    totals = []
    for n in range(times):
        with Context.from_env(connect_timeout=connect_timeout) as ctx:
            totals.append(float(ctx.allreduce(np.full(1000, 10.0**ctx.rank + n))[0]))
    report(ctx.rank, size=ctx.size, totals=totals)
except Exception as exc:
    report(number, **facts_of(exc), seconds=monotonic() - began)
