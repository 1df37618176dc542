"""Heat in a rod, each rank with a piece of it, neighbours exchanging the edges of their pieces (the halo) at every step.

Shows Isend and Irecv that overlap with work, and allreduce:

    mpiexec -n 4 python examples/halo.py
    mpiexec -n 4 python -m gloompi examples/halo.py
"""

import numpy as np
from mpi4py import MPI

CELLS, STEPS, RATE = 10_000, 400, 0.4


def initial(cells):
    """Temperatures where the rod is hot at two places."""
    x = cells / CELLS
    return np.exp(-((x - 0.3) ** 2) / 0.001) + 0.5 * (np.abs(x - 0.7) < 0.05)


def diffused(u):
    """The inner cells of `u` one step later."""
    return u[1:-1] + RATE * (u[:-2] - 2 * u[1:-1] + u[2:])


def main():
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    begin, end = rank * CELLS // size, (rank + 1) * CELLS // size
    left = rank - 1 if rank > 0 else MPI.PROC_NULL
    right = rank + 1 if rank < size - 1 else MPI.PROC_NULL

    u = np.zeros(end - begin + 2)  # with a cell of each neighbour; beyond the ends of the rod it is cold
    u[1:-1] = initial(np.arange(begin, end))
    for _ in range(STEPS):
        requests = [comm.Irecv(u[:1], source=left, tag=1), comm.Irecv(u[-1:], source=right, tag=2)]
        requests += [comm.Isend(u[1:2], dest=left, tag=2), comm.Isend(u[-2:-1], dest=right, tag=1)]
        new = np.empty_like(u)
        new[2:-2] = diffused(u[1:-1])  # needs no halo
        MPI.Request.Waitall(requests)
        new[1:2], new[-2:-1] = diffused(u[:3]), diffused(u[-3:])
        new[0], new[-1] = u[0], u[-1]  # what is received next is written here, and beyond the ends it stays cold
        u = new

    counts = comm.gather(end - begin, root=0)
    whole = np.empty(CELLS) if rank == 0 else None
    comm.Gatherv(u[1:-1], [whole, counts] if rank == 0 else None, root=0)
    hottest = comm.allreduce(u[1:-1].max(), op=MPI.MAX)
    if rank == 0:
        serial = np.zeros(CELLS + 2)
        serial[1:-1] = initial(np.arange(CELLS))
        for _ in range(STEPS):
            serial[1:-1] = diffused(serial)
        print(f"{CELLS} cells, {STEPS} steps on {size} ranks")
        print(f"heat {whole.sum():.6f}, hottest {hottest:.6f}")
        print(f"largest difference from one rank's solution: {np.abs(whole - serial[1:-1]).max():g}")


if __name__ == "__main__":
    main()
