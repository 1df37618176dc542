"""Collectives on buffers and on objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from .registry import Registry, cause_of, error_of

CHECKS = Registry()


def columns(comm: Any, n: int = 4) -> np.ndarray[Any, Any]:
    """One row for each rank; what it holds depends on this rank and on the place."""
    return np.arange(comm.size * n, dtype="i8").reshape(comm.size, n) + 1000 * (comm.rank + 1)


@CHECKS.same
def in_place_wherever_it_is_allowed(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []
    counts, displs = [i + 1 for i in range(size)], [i * (i + 1) // 2 for i in range(size)]
    for root in range(size):
        for place in (MPI.IN_PLACE, None):
            x = columns(comm)
            comm.Gather(place if rank == root else x[rank], x, root)
            found.append(x.tolist())
            x = columns(comm)
            comm.Scatter(x, place if rank == root else x[0], root)
            found.append(x.tolist())
            y = np.arange(sum(counts)) + 100 * rank
            mine = y[displs[rank] : displs[rank] + counts[rank]]
            comm.Gatherv(place if rank == root else mine, [y, counts, displs, MPI.LONG] if rank == root else None, root)
            found.append(y.tolist())
            y = np.arange(sum(counts)) + 100 * rank
            mine = y[: counts[rank]]
            comm.Scatterv([y, counts, displs, MPI.LONG] if rank == root else None, place if rank == root else mine, root)
            found.append(y.tolist())
            x = columns(comm)
            comm.Reduce(place if rank == root else x, x if rank == root else None, MPI.SUM, root)
            found.append(x.tolist())
    place = MPI.IN_PLACE
    for name in ("Allgather", "Alltoall"):
        x = columns(comm)
        getattr(comm, name)(place, x)
        found.append(x.tolist())
        x = columns(comm)
        getattr(comm, f"I{name.lower()}")(place, x).Wait()
        found.append(x.tolist())
    y = np.arange(sum(counts)) + 100 * rank
    comm.Allgatherv(place, [y, counts, displs, MPI.LONG])
    found.append(y.tolist())
    x = columns(comm, 2)
    comm.Alltoallv(place, [x, [2] * size, [2 * i for i in range(size)], MPI.LONG])
    found.append(x.tolist())
    x = columns(comm, 2)
    comm.Alltoallw(place, [x, [2] * size, [16 * i for i in range(size)], [MPI.LONG] * size])
    found.append(x.tolist())
    for name in ("Allreduce", "Scan", "Exscan"):
        x = columns(comm)
        getattr(comm, name)(place, x, op=MPI.SUM)
        found.append(x.tolist())
        x = columns(comm)
        getattr(comm, f"I{name.lower()}")(place, x, MPI.MAX).Wait()
        found.append(x.tolist())
    x = columns(comm)
    comm.Reduce_scatter_block(place, x, MPI.SUM)
    found.append(x[0].tolist())
    y = np.arange(sum(counts)) + 100 * rank
    comm.Reduce_scatter(place, y, counts, MPI.SUM)
    found.append(y[: counts[rank]].tolist())
    return found


@CHECKS.same_as_mpich
def in_place_where_it_is_not_allowed(MPI: Any, comm: Any) -> Any:
    x = np.zeros(comm.size)
    found = [error_of(comm.Bcast, MPI.IN_PLACE), error_of(comm.Bcast, None)]
    found.append(error_of(comm.Allgather, x, None) is None)
    found.append(error_of(comm.Send, None, MPI.PROC_NULL))
    found.append(error_of(comm.Send, None, comm.rank))
    return found


@CHECKS.same
def roots_out_of_range(MPI: Any, comm: Any) -> Any:
    x, found = np.zeros(comm.size), []
    for root in (comm.size, comm.size + 5, -1, -77):
        found.append(error_of(comm.Bcast, x, root))
        found.append(error_of(comm.bcast, 1, root))
        found.append(error_of(comm.gather, 1, root))
        found.append(error_of(comm.scatter, None, root))
        found.append(error_of(comm.reduce, 1, MPI.SUM, root))
        found.append(error_of(comm.Reduce, x, None, MPI.SUM, root))
        found.append(error_of(comm.Gather, x, None, root))
        found.append(error_of(comm.Ibcast, x, root))
    for root in (None, "0", [0]):
        found.append(error_of(comm.bcast, 1, root))
        found.append(error_of(comm.Bcast, x, root))
    return found


@CHECKS.same
def minima_and_maxima_with_places(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []
    for datatype, first in (
        (MPI.FLOAT_INT, "f4"),
        (MPI.DOUBLE_INT, "f8"),
        (MPI.LONG_INT, "i8"),
        (MPI.INT_INT, "i4"),
        (MPI.SHORT_INT, "i2"),
        (MPI.LONG_DOUBLE_INT, "g"),
    ):
        pair = np.dtype([("value", first), ("place", "i4")], align=True)
        assert pair.itemsize == datatype.Get_extent()[1]
        x = np.zeros(5, pair)
        x["value"] = [rank, -rank, 7, (rank * 7) % 3, rank % 2]
        x["place"] = [rank, rank, size - rank, rank, -rank]
        for op in (MPI.MINLOC, MPI.MAXLOC):
            out = np.zeros(5, pair)
            comm.Allreduce([x, 5, datatype], [out, 5, datatype], op)
            found.append([(float(a), int(b)) for a, b in out])
            out[:] = 0
            comm.Scan([x, 5, datatype], [out, 5, datatype], op)
            found.append([(float(a), int(b)) for a, b in out])
            out[:] = 0
            comm.Reduce([x, 5, datatype], [out, 5, datatype], op, size - 1)
            found.append([(float(a), int(b)) for a, b in out])
    for op in (MPI.MINLOC, MPI.MAXLOC):
        found.append(comm.allreduce((rank % 2, rank), op))
        found.append(comm.reduce((7, -rank), op, 0))
        found.append(comm.scan((rank % 3, rank), op))
    return found


@CHECKS.same
def operators_of_the_program(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []

    def add(a: Any, b: Any, datatype: Any) -> None:
        x, y = np.frombuffer(a, "i8"), np.frombuffer(b, "i8")
        y += x

    def multiply(a: Any, b: Any, datatype: Any) -> None:
        x, y = np.frombuffer(a, "i8").reshape(-1, 2, 2), np.frombuffer(b, "i8").reshape(-1, 2, 2)
        y[...] = x @ y

    matrix = MPI.LONG.Create_contiguous(4).Commit()
    x = np.array([[[1, rank + 1], [0, 1]], [[2, 0], [rank, 1]], [[0, 1], [1, rank]]])
    for function, commutes in ((add, True), (add, False), (multiply, False)):
        op = MPI.Op.Create(function, commutes)
        found.append((op.Is_commutative(), op.is_predefined))
        for root in range(size):
            out = np.zeros_like(x)
            comm.Reduce([x, 3, matrix], [out, 3, matrix] if rank == root else None, op, root)
            found.append(out.tolist())
        for name in ("Allreduce", "Scan", "Exscan"):
            out = np.full_like(x, -1)
            getattr(comm, name)([x, 3, matrix], [out, 3, matrix], op)
            found.append(out.tolist())
        whole, out = np.concatenate([x] * size), np.zeros_like(x)
        comm.Reduce_scatter_block([whole, 3, matrix], [out, 3, matrix], op)
        found.append(out.tolist())
        op.Free()
    matrix.Free()
    return found


@CHECKS.ours
def operators_that_change_what_they_are_given(MPI: Any, comm: Any) -> None:
    def add(a: Any, b: Any, datatype: Any) -> None:
        x, y = np.frombuffer(a, "i8"), np.frombuffer(b, "i8")
        y += x
        x[:] = -1  # MPI forbids that

    rank, size = comm.rank, comm.size
    op = MPI.Op.Create(add, True)
    for count in (3, 50_000):
        every = [np.arange(count) + 100 * each for each in range(size)]
        for name, wanted in (
            ("Allreduce", sum(every)),
            ("Scan", sum(every[: rank + 1])),
            ("Exscan", sum(every[:rank]) if rank else np.zeros(count, "i8")),
        ):
            x, out = every[rank].copy(), np.zeros(count, "i8")
            getattr(comm, name)(x, out, op)
            assert np.array_equal(out, wanted), name
            assert np.array_equal(x, every[rank]), name
    op.Free()


@CHECKS.same
def operators_that_raise_or_do_not_fit(MPI: Any, comm: Any) -> Any:
    x, out, found = np.zeros(2), np.zeros(2), []
    for op in (MPI.BAND, MPI.MAXLOC, MPI.OP_NULL):
        found.append(error_of(comm.Allreduce, x, out, op) is None)
    found.append(error_of(comm.Allreduce, x, out, "sum"))
    found.append(error_of(comm.Allreduce, x, out, None))
    found.append(error_of(comm.Allreduce, x, np.zeros(3)))
    found.append(error_of(comm.Allreduce, x, np.zeros(2, "i4")))
    found.append(error_of(comm.Allreduce, x, None))
    found.append(error_of(comm.Allreduce, None, None))
    return found


@CHECKS.same
def objects_in_rank_order(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []

    def join(a: str, b: str) -> str:
        return f"({a}{b})"

    for root in range(size):
        found.append(comm.reduce(str(rank), lambda a, b: a + b, root))
        found.append(comm.reduce([rank], MPI.SUM, root))
    found += [comm.allreduce(str(rank)), comm.allreduce([rank], op=MPI.SUM)]
    found += [comm.scan(str(rank)), comm.exscan(str(rank)), comm.scan([rank], lambda a, b: a + b)]
    for text in (comm.allreduce(str(rank), join), comm.scan(str(rank), join)):
        found.append(text.replace("(", "").replace(")", ""))
    for op in (MPI.MAX, MPI.MIN, MPI.PROD, MPI.LAND, MPI.LOR, MPI.LXOR, MPI.BAND, MPI.BOR, MPI.BXOR):
        found.append((comm.allreduce(rank + 1, op), comm.scan(rank + 1, op), comm.exscan(rank + 1, op)))
    made = MPI.Op.Create(lambda a, b, datatype: None)
    found.append(error_of(comm.allreduce, 1, made) is None)
    made.Free()
    array = comm.allreduce(np.arange(3) + rank)
    found.append(array.tolist())
    return found


@CHECKS.same
def objects_in_lists_of_another_length(MPI: Any, comm: Any) -> Any:
    size, rank, found = comm.size, comm.rank, []
    found += [comm.gather(None), comm.allgather(None), comm.bcast(None), comm.alltoall([None] * size)]
    found.append(comm.scatter(tuple(range(size)) if rank == 0 else None))
    found.append(comm.alltoall(tuple(range(size))))
    found.append(comm.scatter(range(size) if rank == size - 1 else "not looked at", size - 1))
    if size == 1:
        for wrong in ([], [1, 2], 5):
            found += [error_of(comm.scatter, wrong), error_of(comm.alltoall, wrong)]
    return found


@CHECKS.ours
def gaps_of_derived_datatypes_keep_their_content(MPI: Any, comm: Any) -> None:
    rank, size = comm.rank, comm.size
    every = MPI.LONG.Create_vector(3, 1, 2).Commit()  # 0, 2, 4 of 5
    block = every.Create_resized(0, 6 * 8).Commit()

    def add(a: Any, b: Any, datatype: Any) -> None:
        x, y = np.frombuffer(a, "i8").reshape(-1, 6), np.frombuffer(b, "i8").reshape(-1, 6)
        y[:, :5:2] += x[:, :5:2]

    op = MPI.Op.Create(add, True)
    x = np.arange(12) + 100 * rank
    total = sum(np.arange(12) + 100 * each for each in range(size))
    for name in ("Allreduce", "Iallreduce", "Reduce", "Scan"):
        out = np.full(12, -1)
        receive = None if name == "Reduce" and rank else [out, 2, block]
        request = getattr(comm, name)([x, 2, block], receive, op)
        if request is not None:
            request.Wait()
        expected = np.full(12, -1)
        places = [0, 2, 4, 6, 8, 10]
        if name == "Scan":
            expected[places] = sum(np.arange(12) + 100 * each for each in range(rank + 1))[places]
        elif receive is not None:
            expected[places] = total[places]
        assert out.tolist() == expected.tolist(), name
    op.Free()

    out = np.full(6 * size, -1)
    comm.Allgather(np.arange(3) + 10 * rank, [out, 1, block])
    expected = np.full((size, 6), -1)
    for each in range(size):
        expected[each, :5:2] = np.arange(3) + 10 * each
    assert out.tolist() == expected.reshape(-1).tolist()
    out[:] = -1
    comm.Alltoall([np.arange(6 * size) + 100 * rank, 1, block], [out, 1, block])
    for each in range(size):
        expected[each, :5:2] = [100 * each + 6 * rank + i for i in (0, 2, 4)]
    assert out.tolist() == expected.reshape(-1).tolist()
    out = np.full(6, -1)
    comm.Bcast([np.arange(6) if rank == 0 else out, 1, block])
    if rank:
        assert out.tolist() == [0, -1, 2, -1, 4, -1]
    every.Free()
    block.Free()


@CHECKS.same
def types_that_differ_but_say_the_same(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []
    every = MPI.INT.Create_vector(4, 1, 2).Commit()
    x = np.arange(8, dtype="i4") + 10 * rank
    if rank == 0:
        comm.Bcast([x, 1, every])
    else:
        comm.Bcast([x, 4, MPI.INT])
    found.append(x.tolist())
    out = np.full(4 * size, -1, "i4")
    comm.Gather([x, 1, every], [out, 4, MPI.INT] if rank == 0 else None)
    found.append(out.tolist())
    comm.Allgather([x, 1, every], [out, 4, MPI.INT])
    found.append(out.tolist())
    comm.Scatter([out, 4, MPI.INT] if rank == 0 else None, [x, 1, every])
    found.append(x.tolist())
    every.Free()
    return found


@CHECKS.same
def nothing_at_all(MPI: Any, comm: Any) -> Any:
    size, empty, found = comm.size, np.zeros(0), []
    out = np.full(3, 7.0)
    comm.Bcast(empty)
    comm.Gather(empty, empty)
    comm.Scatter(empty, empty)
    comm.Allgather(empty, empty)
    comm.Alltoall(empty, empty)
    comm.Allreduce(empty, empty)
    comm.Reduce(empty, empty)
    comm.Scan(empty, empty)
    comm.Exscan(empty, empty)
    comm.Reduce_scatter(empty, empty, [0] * size)
    comm.Reduce_scatter_block(empty, empty)
    comm.Allgatherv([out, 0], [out, [0] * size])
    comm.Alltoallv([out, [0] * size], [out, [0] * size])
    found.append(out.tolist())
    counts = [0] * size
    counts[-1] = 2
    x, part = np.arange(2.0) + comm.rank, np.full(counts[comm.rank], -1.0)
    comm.Reduce_scatter(x, part, counts)
    found.append(part.tolist())
    comm.Allgatherv(x[: counts[comm.rank]], [out, counts])
    found.append(out.tolist())
    return found


@CHECKS.same
def persistent_collectives_take_the_data_of_the_moment(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []
    x, total, every, copy = np.zeros(3), np.zeros(3), np.zeros((size, 3)), np.zeros(3)
    mixed = np.zeros((size, 3))
    requests = [
        comm.Allreduce_init(x, total, MPI.SUM),
        comm.Allgather_init(x, every),
        comm.Bcast_init(copy, size - 1),
        comm.Alltoall_init(np.arange(size * 3.0), mixed),
        comm.Barrier_init(),
    ]
    for turn in range(3):
        x[:] = [rank + turn, rank * turn, turn]
        copy[:] = rank + turn
        MPI.Prequest.Startall(requests)
        MPI.Request.Waitall(requests)
        found.append((total.tolist(), every.tolist(), copy.tolist(), mixed.tolist()))
    for request in requests:
        request.Free()
    return found


@CHECKS.ours
def more_room_than_is_sent(MPI: Any, comm: Any) -> None:
    """MPI calls it erroneous; what is beyond the data stays."""
    rank, size = comm.rank, comm.size
    out = np.full((size, 5), -1)
    comm.Gather(np.arange(3) + 10 * rank, [out, 5, MPI.LONG] if rank == 0 else None)
    if rank == 0:
        assert out.tolist() == [[10 * each, 10 * each + 1, 10 * each + 2, -1, -1] for each in range(size)]


@CHECKS.same
def scattering_in_place_what_is_read_only(MPI: Any, comm: Any) -> Any:
    x = np.arange(3 * comm.size)
    x.flags.writeable = False
    out = np.zeros(3, int)
    root = comm.size - 1
    mine = MPI.IN_PLACE if comm.rank == root else out
    comm.Scatter(x if comm.rank == root else None, mine, root)
    comm.Scatterv([x, [3] * comm.size] if comm.rank == root else None, mine, root)
    return out.tolist()


@CHECKS.ours
def more_room_for_each_than_is_sent(MPI: Any, comm: Any) -> None:
    """MPI calls it erroneous and both MPIs accept it; what is beyond the data stays, where MPICH's Allgatherv changes it."""
    rank, size = comm.rank, comm.size
    every = MPI.LONG.Create_vector(2, 1, 2).Commit()  # two items, and a gap after each
    for unit in (1, 20_000):  # 480 kB are sent when they are asked for

        def room(own: int, unit: int = unit) -> Any:
            return np.full(own * unit, -1)

        def data(count: int, start: int = 0, unit: int = unit) -> Any:
            return np.arange(start, start + count * unit)

        counts = [1 + each % 3 for each in range(size)]  # of each rank, with room for 4 each
        for forms in ((comm.Gatherv, comm.Scatterv, comm.Allgatherv, comm.Alltoallv, comm.Scatter),
                      (comm.Igatherv, comm.Iscatterv, comm.Iallgatherv, comm.Ialltoallv, comm.Iscatter)):  # fmt: skip
            gatherv, scatterv, allgatherv, alltoallv, scatter = (_waiting(form) for form in forms)
            out = room(4 * size)
            gathered = np.concatenate([_padded(data(counts[each], 7 * each), 4 * unit) for each in range(size)])
            gatherv(data(counts[rank], 7 * rank), [out, [4 * unit] * size] if rank == size - 1 else None, size - 1)
            assert out.tolist() == (gathered if rank == size - 1 else room(4 * size)).tolist()
            out = room(4 * size)
            allgatherv(data(counts[rank], 7 * rank), [out, [4 * unit] * size])
            assert out.tolist() == gathered.tolist()
            out = room(4)
            given = [data(sum(counts)), [each * unit for each in counts]]
            scatterv(given if rank == 0 else None, out, 0)
            assert out.tolist() == _padded(data(counts[rank], sum(counts[:rank]) * unit), 4 * unit).tolist()
            out = room(3 if rank else 2)  # on some ranks alone
            scatter(data(2 * size) if rank == 0 else None, out, 0)
            assert out.tolist() == _padded(data(2, 2 * rank * unit), len(out)).tolist()
            out = room(4 * size)
            alltoallv([data(size, rank), [unit] * size], [out, [4 * unit] * size])
            whole = [_padded(data(1, each + rank * unit), 4 * unit) for each in range(size)]
            assert out.tolist() == np.concatenate(whole).tolist()
    out = np.full(8, -1)
    comm.Scatter(np.arange(3 * size) if rank == 0 else None, [out, 2, every])  # 3 of 4 items
    assert out.tolist() == [3 * rank, -1, 3 * rank + 1, 3 * rank + 2, -1, -1, -1, -1]
    out = np.full(5 * size + 5, -1)
    comm.Allgatherv([np.arange(3) + 10 * rank, 3], [out, [2] * size, [2 * each for each in range(size)], every])
    for each in range(size):
        assert out[6 * each :][:6].tolist()[:4] == [10 * each, -1, 10 * each + 1, 10 * each + 2]
    every.Free()


def _waiting(form: Any) -> Any:
    def call(*arguments: Any) -> None:
        request = form(*arguments)
        if request is not None:
            request.Wait()

    return call


def _padded(data: Any, count: int) -> Any:
    return np.concatenate([data, np.full(count - len(data), -1)])


@CHECKS.ours
def less_room_for_one_than_is_sent(MPI: Any, comm: Any) -> None:
    x = np.arange(3)
    for call, arguments in (
        (comm.Allgatherv, (x, [np.zeros(9, int), [2] * comm.size])),
        (comm.Gatherv, (x, [np.zeros(9, int), [2] * comm.size], comm.rank)),
        (comm.Scatter, (np.arange(3 * comm.size), np.zeros(2, int), comm.rank)),
        (comm.Scatterv, ([np.arange(3 * comm.size), [3] * comm.size], np.zeros(2, int), comm.rank)),
        (comm.Alltoallv, ([np.arange(9), [3] * comm.size], [np.zeros(9, int), [2] * comm.size])),
    ):
        assert error_of(call, *arguments) == ("MPI", MPI.ERR_TRUNCATE)
        assert cause_of(call, *arguments) == "a block of 24 bytes does not fit the 16 bytes that there are for it"
    assert comm.allgather(comm.rank) == list(range(comm.size))


@CHECKS.same
def pairs_without_the_gap_after_the_last(MPI: Any, comm: Any) -> Any:
    """A DOUBLE_INT is 12 bytes of data and 16 from one to the next: 12 are enough for one, 28 for two."""
    rank, found = comm.rank, []
    pair = np.dtype([("value", "f8"), ("place", "i4")])
    assert pair.itemsize == 12
    for op in (MPI.MINLOC, MPI.MAXLOC):
        one = np.array([(rank % 2 + 0.5, rank)], pair)
        two = np.zeros(28, "u1")
        two[:12].view(pair)[0] = rank + 0.5, rank
        two[16:].view(pair)[0] = -rank, rank
        for x, count in ((one, 1), (two, 2)):
            mine = [x, count, MPI.DOUBLE_INT]
            for name in ("Allreduce", "Reduce", "Scan", "Exscan"):
                out = np.full(x.nbytes, 3, "u1")
                getattr(comm, name)(mine, [out, count, MPI.DOUBLE_INT], op)
                if name != "Reduce" or rank == 0:
                    found.append([out[start : start + 12].tolist() for start in range(0, x.nbytes, 16)])
            comm.Allreduce(MPI.IN_PLACE, mine, op)
            found.append([x.view("u1")[start : start + 12].tolist() for start in range(0, x.nbytes, 16)])
        out = np.zeros(12, "u1")
        every = np.arange(16 * comm.size - 4, dtype="u1") + np.uint8(rank)
        comm.Reduce_scatter_block([every, 1, MPI.DOUBLE_INT], [out, 1, MPI.DOUBLE_INT], op)
        found.append(out.tolist())
    return found


@CHECKS.ours
def less_room_than_is_sent(MPI: Any, comm: Any) -> None:
    out = np.full((comm.size, 2), -1)
    error = error_of(comm.Allgather, np.arange(3), out)
    assert error == ("MPI", MPI.ERR_TRUNCATE)
    assert out.tolist() == [[-1, -1]] * comm.size
    assert comm.allgather(comm.rank) == list(range(comm.size))
