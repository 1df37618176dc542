"""A matrix in bands of rows, transposed: every rank has a block for every other, and the blocks differ in size.

Shows Alltoallv with uneven counts, Allreduce and Gather:

    mpiexec -n 4 python examples/transpose.py
    mpiexec -n 4 python -m gloompi examples/transpose.py
"""

from itertools import pairwise

import numpy as np
from mpi4py import MPI

ROWS, COLUMNS = 701, 503


def bounds(length, size):
    """Where each rank's share begins; the last number is where the last one ends.  No share is as large as the next."""
    weights = np.arange(size + 1) * (np.arange(size + 1) + 1)
    return weights * length // weights[-1]


def element(row, column):
    """What is in the matrix, so that every rank can tell what it should have received."""
    return row * 1000.0 + column


def main():
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    row_bounds, column_bounds = bounds(ROWS, size), bounds(COLUMNS, size)
    rows = np.arange(row_bounds[rank], row_bounds[rank + 1])
    columns = np.arange(column_bounds[rank], column_bounds[rank + 1])
    band = element(rows[:, None], np.arange(COLUMNS))

    # For each rank the block of my rows and its columns, transposed, one after the other.
    sent = np.concatenate([band[:, begin:end].T.ravel() for begin, end in pairwise(column_bounds)])
    sent_counts = len(rows) * np.diff(column_bounds)
    received_counts = len(columns) * np.diff(row_bounds)
    received = np.empty(received_counts.sum())
    comm.Alltoallv([sent, sent_counts], [received, received_counts])
    blocks = np.split(received, np.cumsum(received_counts)[:-1])
    transposed = np.hstack([block.reshape(len(columns), -1) for block in blocks])

    wrong = np.array([np.count_nonzero(transposed != element(np.arange(ROWS), columns[:, None]))])
    comm.Allreduce(MPI.IN_PLACE, wrong, op=MPI.SUM)
    mine = np.array([len(columns), transposed.sum()])
    shares = np.empty((size, 2)) if rank == 0 else None
    comm.Gather(mine, shares, root=0)
    if rank == 0:
        print(f"{ROWS} x {COLUMNS} matrix transposed on {size} ranks: {wrong[0]} elements are wrong")
        for peer, (count, total) in enumerate(shares):
            print(f"rank {peer}: {count:.0f} of {COLUMNS} rows, sum {total:.0f}")


if __name__ == "__main__":
    main()
