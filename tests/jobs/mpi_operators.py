"""mpi4py's operators, and gloompi.MPI's, given to a Context: those with names reduce, the others are refused.

The report has what each rank got wrong.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from report import report

import gloompi
from gloompi.reduction import OPERATORS


def main() -> None:
    with gloompi.Context.from_mpi(MPI.COMM_WORLD) as ctx:
        from gloompi import MPI as own

        wrong = []
        for module in (MPI, own):
            for name, ufunc in OPERATORS.items():
                every = [np.arange(5) * (rank + 1) % (7 if ctx.size > 1 else 2) for rank in range(ctx.size)]
                found = ctx.allreduce(every[ctx.rank], op=getattr(module, name.upper()))
                if not np.array_equal(found, ufunc.reduce(every).astype(int)):
                    wrong.append(f"{module.__name__}.{name.upper()}: {found}")
        refused = {}
        made = MPI.Op.Create(lambda a, b, datatype: None, commute=True)
        for name, op in (("MAXLOC", MPI.MAXLOC), ("OP_NULL", MPI.OP_NULL), ("NO_OP", MPI.NO_OP), ("Create", made)):
            try:
                ctx.allreduce(np.ones(3), op=op)
            except TypeError as exc:
                refused[name] = str(exc)
        made.Free()
        wrong += [] if ctx.allreduce(np.ones(3)).tolist() == [ctx.size] * 3 else ["sum"]
        report(ctx.rank, wrong=wrong, refused=refused)


main()
