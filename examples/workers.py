"""Tasks of uneven cost: rank 0 gives the next one to whoever is done first, the other ranks work.

Shows probe, receiving from any source, and tags that tell what a message is:

    mpiexec -n 4 python examples/workers.py
    mpiexec -n 4 python -m gloompi examples/workers.py
"""

from mpi4py import MPI

TASK, DONE, STOP = 1, 2, 3
NUMBERS = [27, 9700, 871, 6171, 703, 10_971, 1133, 1000, 6372, 5252, 3, 106]


def longest_flight(below):
    """The start below a number whose Collatz sequence is longest, and its length: work that grows with the number."""
    best = (1, 0)
    for start in range(2, below):
        number, steps = start, 0
        while number != 1:
            number = 3 * number + 1 if number % 2 else number // 2
            steps += 1
        best = max(best, (start, steps), key=lambda found: found[1])
    return best


def give_out(comm):
    """Rank 0: the results in the order of the tasks, whoever did them and whenever."""
    results, given, idle = {}, 0, list(range(1, comm.Get_size()))
    if not idle:
        return [longest_flight(number) for number in NUMBERS]
    while len(results) < len(NUMBERS):
        while idle and given < len(NUMBERS):
            comm.send((given, NUMBERS[given]), dest=idle.pop(), tag=TASK)
            given += 1
        status = MPI.Status()
        comm.probe(source=MPI.ANY_SOURCE, tag=DONE, status=status)
        task, result = comm.recv(source=status.Get_source(), tag=DONE)
        results[task] = result
        idle.append(status.Get_source())
    for worker in range(1, comm.Get_size()):
        comm.send(None, dest=worker, tag=STOP)
    return [results[task] for task in range(len(NUMBERS))]


def work(comm):
    """Any other rank: tasks until there are no more."""
    status = MPI.Status()
    while True:
        message = comm.recv(source=0, tag=MPI.ANY_TAG, status=status)
        if status.Get_tag() == STOP:
            return
        task, number = message
        comm.send((task, longest_flight(number)), dest=0, tag=DONE)


def main():
    comm = MPI.COMM_WORLD
    if comm.Get_rank() > 0:
        work(comm)
        return
    for number, (start, steps) in zip(NUMBERS, give_out(comm), strict=True):
        print(f"below {number:>5}: {start:>5} takes {steps} steps")


if __name__ == "__main__":
    main()
