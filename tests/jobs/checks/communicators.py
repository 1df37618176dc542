"""Communicators: their life, their groups, what is attached to them."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gloompi import MismatchError

from .registry import Registry, cause_of, error_of, neighbours

CHECKS = Registry()


def ranks_in_world(MPI: Any, comm: Any) -> list[int]:
    group, world = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    found = group.Translate_ranks(None, world)
    group.Free()
    world.Free()
    return list(found)


@CHECKS.same
def split_by_color_and_key(MPI: Any, comm: Any) -> Any:
    rank, size, found = comm.rank, comm.size, []
    for color, key in (
        (0, 0),
        (0, -rank),
        (rank % 2, 0),
        (rank % 2, size - rank),
        (MPI.UNDEFINED if rank == 0 else 7, 0),
        (MPI.UNDEFINED, 0),
        (rank, 5),
        (2**31 - 1, rank // 2),
    ):
        part = comm.Split(color, key)
        if color == MPI.UNDEFINED:
            found.append((part == MPI.COMM_NULL, bool(part)))
            continue
        found.append((part.rank, part.size, ranks_in_world(MPI, part), part.allgather(rank)))
        found.append(MPI.Comm.Compare(comm, part))
        part.Free()
    found.append(error_of(comm.Split, "0"))
    return found


@CHECKS.ours
def split_refuses_negative_colors(MPI: Any, comm: Any) -> None:
    assert error_of(comm.Split, -5, 0) == ("MPI", MPI.ERR_ARG)
    assert cause_of(comm.Split, -5, 0) == "color must be >= 0 or UNDEFINED, not -5"
    assert error_of(comm.Split_type, 123456) == ("MPI", MPI.ERR_ARG)


@CHECKS.same
def split_by_shared_memory(MPI: Any, comm: Any) -> Any:
    shared = comm.Split_type(MPI.COMM_TYPE_SHARED)
    backwards = comm.Split_type(MPI.COMM_TYPE_SHARED, key=-comm.rank, info=MPI.INFO_NULL)
    none = comm.Split_type(MPI.UNDEFINED)
    found = [shared.rank, shared.size, backwards.rank, none == MPI.COMM_NULL]
    shared.Free()
    backwards.Free()
    return found


@CHECKS.same
def create_from_groups(MPI: Any, comm: Any) -> Any:
    group, found = comm.Get_group(), []
    last = comm.size - 1
    for members in (list(range(comm.size)), list(range(last, -1, -1)), [last], [0], []):
        part = group.Incl(members)
        made = comm.Create(part)
        if comm.rank in members:
            found.append((made.rank, made.size, ranks_in_world(MPI, made), made.allgather(comm.rank)))
            made.Free()
        else:
            found.append(made == MPI.COMM_NULL)
        part.Free()
    found.append((group.size, group.rank, MPI.Group.Compare(comm.group, group)))
    group.Free()
    return found


@CHECKS.same
def create_from_groups_that_differ(MPI: Any, comm: Any) -> Any:
    """Even and odd ranks each their own group, in reverse; then those who give none, beside those who do."""
    rank, size = comm.rank, comm.size
    group, found = comm.Get_group(), []
    alike = [other for other in range(size) if other % 2 == rank % 2]
    for members in (alike[::-1], [] if rank == size - 1 else list(range(size - 1)), [rank]):
        part = group.Incl(members)
        made = comm.Create(part)
        found.append((made.rank, made.size, ranks_in_world(MPI, made), made.allgather(rank)) if made else None)
        if made:
            made.Free()
        part.Free()
    group.Free()
    return found


@CHECKS.ours
def create_refuses_groups_that_overlap(MPI: Any, comm: Any) -> None:
    rank, size = comm.rank, comm.size
    group = comm.Get_group()
    given = group.Incl([0] if rank == 0 or rank == size - 1 > 1 else list(range(size - 1)) or [0])
    if size == 1:
        comm.Create(given).Free()
    elif size == 3:  # 0 gives [0], 1 gives [0, 1], 2 gives [0]: 1 alone is in a group that not all of its members give
        if rank == 1:
            text = "rank 1 called create of the group of ranks (0, 1), rank 0 called create of another group; "
            with pytest.raises(MismatchError, match=f"^ranks disagree on create #1: {re.escape(text)}"):
                comm.Create(given)
        else:
            made = comm.Create(given)
            assert bool(made) == (rank == 0)
            made.free()
    assert comm.allgather(rank) == list(range(size))  # nothing is broken
    whole = MPI.COMM_WORLD.Get_group()
    if size > 1:
        alone = comm.Split(rank)
        assert error_of(alone.Create, whole) == ("MPI", MPI.ERR_GROUP)
        assert cause_of(alone.Create_group, whole) == f"{size - 1} of the group's {size} ranks are not in the communicator"
        alone.Free()


@CHECKS.ours  # MPICH refuses tags of this size
def create_group_with_tags_whose_checksums_are_the_same(MPI: Any, comm: Any) -> None:
    """CRC-32 of ``((0, 1), tag)`` is the same for both tags, and they are two communicators nevertheless."""
    if comm.rank > 1 or comm.size == 1:
        return
    group = comm.Get_group()
    pair = group.Incl([0, 1])
    one, two = comm.Create_group(pair, 2052441290), comm.Create_group(pair, 1536558932)
    if comm.rank == 0:
        one.send("for one", 1)
        two.send("for two", 1)
    else:
        assert (two.recv(source=0), one.recv(source=0)) == ("for two", "for one")
    for each in (one, two, pair, group):
        each.Free()


@CHECKS.same
def groups_of_one_communicator_are_equal(MPI: Any, comm: Any) -> Any:
    dup, part, half = comm.Dup(), comm.Split(comm.rank), comm.Split(comm.rank // 2, -comm.rank)
    found = []
    for each in (comm, dup, part, half):
        one, two = each.Get_group(), each.Get_group()
        found += [one == two, one != two, one == MPI.GROUP_NULL, one == MPI.GROUP_EMPTY, one == 5]
        part_of_it = one.Incl([0])
        found += [part_of_it == MPI.GROUP_NULL, each is half or type(one) is MPI.Group, error_of(hash, one)]
        found += [isinstance(each, MPI.Group) for each in (one, part_of_it, MPI.GROUP_EMPTY, comm, 5)]
        one.Free()
        found += [one == two, one != two, one == MPI.GROUP_NULL, two.size]
        two.Free()
        part_of_it.Free()
    found += [comm.Get_group() == dup.Get_group(), comm.size == 1 or comm.Get_group() == part.Get_group()]
    for each in (dup, part, half):
        each.Free()
    return found


@CHECKS.same
def comparisons(MPI: Any, comm: Any) -> Any:
    dup, same = comm.Dup(), MPI.Intracomm(comm)
    reverse = comm.Split(0, -comm.rank)
    alone = comm.Split(comm.rank)
    found = [MPI.Comm.Compare(comm, other) for other in (comm, same, dup, reverse, alone)]
    found += [comm == same, comm == dup, same is comm, comm != dup]
    found += [MPI.Comm() == MPI.COMM_NULL, MPI.Intracomm() == MPI.COMM_NULL, comm == MPI.COMM_NULL, comm == 5]
    found.append(MPI.Comm.Compare(MPI.COMM_SELF, alone) in (MPI.CONGRUENT, MPI.UNEQUAL))
    for made in (dup, reverse, alone):
        made.Free()
    return found


@CHECKS.same_as_mpich
def null_communicator(MPI: Any, comm: Any) -> Any:
    null, found = MPI.COMM_NULL, []
    assert not null
    x = np.zeros(1)
    for name in ("Get_rank", "Get_size", "Get_group", "Dup", "Split", "Free", "Barrier", "Is_inter", "Get_info"):
        found.append((name, error_of(getattr(null, name))))
    for name in ("rank", "size", "group", "info", "is_inter", "is_intra"):
        found.append((name, error_of(getattr, null, name)))
    for name in ("barrier", "Ibarrier"):
        found.append((name, error_of(getattr(null, name))))
    for name in ("Send", "Isend", "Recv", "Irecv", "send", "isend", "Send_init"):
        found.append((name, error_of(getattr(null, name), x, 0)))
    for name in ("recv", "irecv", "Probe", "Iprobe", "Mprobe", "Improbe"):
        found.append((name, error_of(getattr(null, name))))
    for name in ("Bcast", "bcast", "gather", "scatter", "allgather", "alltoall", "reduce", "allreduce"):
        found.append((name, error_of(getattr(null, name), x)))
    for name in ("Gather", "Scatter", "Allgather", "Alltoall", "Reduce", "Allreduce"):
        found.append((name, error_of(getattr(null, name), x, x)))
    found.append(error_of(comm.Compare, null))
    found.append(error_of(MPI.Comm.Compare, null, comm))
    return found


@CHECKS.same
def freed_communicator(MPI: Any, comm: Any) -> Any:
    dup = comm.Dup()
    dup.Free()
    found = [dup == MPI.COMM_NULL, bool(dup), error_of(dup.Free), error_of(dup.Get_rank), error_of(dup.send, 1, 0)]
    dup = comm.Dup()
    dup.free()
    dup.free()
    found.append(dup == MPI.COMM_NULL)
    dup = comm.Dup()
    dup.Disconnect()
    found.append(dup == MPI.COMM_NULL)
    return found


@CHECKS.ours
def copies_of_a_freed_communicator_are_null(MPI: Any, comm: Any) -> None:
    dup = comm.Dup()
    copy = MPI.Intracomm(dup)
    dup.Free()
    assert not copy
    assert copy == MPI.COMM_NULL
    assert cause_of(copy.Get_rank) == "the communicator is null or has been freed"


@CHECKS.ours
def predefined_communicators_stay(MPI: Any, comm: Any) -> None:
    assert error_of(MPI.COMM_WORLD.Free) == ("MPI", MPI.ERR_COMM)
    assert cause_of(MPI.COMM_SELF.Free) == "MPI_COMM_SELF must not be freed"
    assert error_of(MPI.COMM_SELF.Disconnect) == ("MPI", MPI.ERR_COMM)
    MPI.COMM_WORLD.free()
    MPI.COMM_SELF.free()
    assert MPI.COMM_WORLD.allgather(comm.rank) == list(range(comm.size))
    assert MPI.COMM_SELF.allgather(comm.rank) == [comm.rank]


@CHECKS.same
def names(MPI: Any, comm: Any) -> Any:
    dup = comm.Dup()
    dup.Set_name("a name")
    found = [dup.name, MPI.Intracomm(dup).Get_name(), MPI.COMM_WORLD.name, MPI.COMM_SELF.Get_name()]
    dup.name = "another"
    found += [dup.Get_name(), error_of(dup.Set_name, None)]
    dup.Free()
    return found


@CHECKS.same
def attributes(MPI: Any, comm: Any) -> Any:
    world = MPI.COMM_WORLD
    found = [world.Get_attr(key) for key in (MPI.IO, MPI.WTIME_IS_GLOBAL, MPI.UNIVERSE_SIZE, MPI.APPNUM)]
    return found, error_of(world.Get_attr, MPI.KEYVAL_INVALID)


@CHECKS.same
def infos(MPI: Any, comm: Any) -> Any:
    info = MPI.Info.Create({"mpi_assert_no_any_tag": "false"})
    dup = comm.Dup(info)
    again = comm.Dup_with_info(info)
    comm.Set_info(info)
    info.Free()
    found = []
    for each in (dup, again, comm):
        held = each.Get_info()
        found.append(isinstance(held, MPI.Info))
        held.Free()
    made, request = comm.Idup()
    request.Wait()
    found.append((made.allgather(comm.rank), made.is_intra, made.is_inter, made.is_topo, made.topology))
    for each in (dup, again, made):
        each.Free()
    return found


@CHECKS.same
def classes_of_the_program(MPI: Any, comm: Any) -> Any:
    class Mine(MPI.Intracomm):
        def double(self) -> int:
            return 2 * int(self.rank)

    mine = Mine(comm)
    dup, part = mine.Dup(), mine.Split(0)
    found = [mine == comm, mine.double(), type(dup) is Mine, type(part) is Mine, isinstance(mine, MPI.Comm)]
    found += [dup.double(), mine.bcast(5), type(mine.Clone()) is Mine, error_of(Mine, 5)]
    dup.Free()
    part.Free()
    return found


@CHECKS.same
def traffic_of_communicators_is_apart(MPI: Any, comm: Any) -> Any:
    _, right = neighbours(comm)
    dup = comm.Dup()
    twice = dup.Dup()
    reverse = twice.Split(0, -comm.rank)
    every = [comm, dup, twice, MPI.COMM_SELF]
    requests = []
    for i, each in enumerate(every):
        requests.append(each.isend((i, comm.rank), right % each.size, 1))
    requests.append(reverse.isend("reverse", (reverse.rank + 1) % comm.size, 1))
    found: list[Any] = [each.recv(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG) for each in reversed(every)]
    found.append(reverse.recv())
    found += [each.iprobe() for each in every]
    first, second, one, ten = (np.full(1, comm.rank + start) for start in (0.0, 0.0, 1.0, 10.0))
    a = dup.Iallreduce(one, first)
    b = twice.Iallreduce(ten, second)
    found.append(reverse.allgather(comm.rank))
    b.Wait()
    a.Wait()
    found.append((first.tolist(), second.tolist()))
    MPI.Request.waitall(requests)
    for each in (reverse, dup, twice):
        each.Free()
    return found


@CHECKS.ours
def freeing_early_does_not_disturb_those_who_probe(MPI: Any, comm: Any) -> None:
    left, _ = neighbours(comm)
    dup = comm.Dup()
    if comm.rank == 0:
        dup.Free()
        comm.Barrier()
    else:
        comm.Barrier()
        for _ in range(3):
            assert not dup.iprobe(0)
            assert not dup.Iprobe(MPI.ANY_SOURCE)
            assert dup.improbe(left) is None
        dup.Free()
    assert comm.allgather(comm.rank) == list(range(comm.size))


@contextlib.contextmanager
def nothing_unraised() -> Iterator[None]:
    """Fail if a __del__ has failed, or has warned."""
    unraised: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: unraised.append(f"{args.object}: {args.exc_value!r}")
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraised == [], unraised


class Holder:
    """What ends something when it is collected; in a cycle, so that the collector does it."""

    def __init__(self, end: Any) -> None:
        self.end, self.itself = end, self

    def __del__(self) -> None:
        self.end()


@CHECKS.ours
def freed_by_the_collector_inside_a_call(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    out = [np.zeros(4, "i4") for _ in range(3)]
    gaps = MPI.INT.Create_vector(2, 1, 2).Commit()
    conversations = comm._context._engine._conversations
    collected: list[int] = []

    def add(a: Any, b: Any, datatype: Any) -> None:
        if not collected:  # once, inside the call of this rank
            collected.append(gc.collect())
        np.frombuffer(b, "i8")[:] += np.frombuffer(a, "i8")

    op = MPI.Op.Create(add, commute=True)
    with nothing_unraised():
        before = len(conversations)
        dups = [comm.Dup() for _ in range(3)]
        under_way = comm.Dup()
        requests = [under_way.Irecv([each, 1, gaps], left, tag) for tag, each in enumerate(out)]
        under_way.Send(np.array([5, 6], "i4"), right, 0)
        comm.Barrier()
        gc.collect()
        gc.disable()
        for end in (dups[0].Free, dups[1].Disconnect, under_way.Free, requests[0].Free, requests[1].Free):
            Holder(end)
        dups[2].Irecv(bytearray(1), left)  # is never matched
        Holder(dups[2].free)
        x = np.full(3, comm.rank)
        comm.Allreduce(MPI.IN_PLACE, x, op)
        gc.enable()
        assert x.tolist() == [sum(range(comm.size))] * 3
        assert collected or comm.rank == 0  # which has nothing to add up in some algorithms
        gc.collect()
        assert not any(dups)
        assert not under_way
        comm.Barrier()
        assert len(conversations) == before + 2  # nothing is under way in the first two, which have said goodbye
    gaps.Free()
    op.Free()


@CHECKS.ours
def nobody_frees_and_nothing_is_said(MPI: Any, comm: Any) -> None:
    """Warnings are errors here; what is collected is freed as soon as nothing is under way in it."""
    conversations = comm._context._engine._conversations
    with nothing_unraised():
        before = len(conversations)
        assert comm.Split(0, 0).allreduce(1) == comm.size
        assert comm.Dup().bcast(comm.rank) == 0
        dup, out = comm.Dup(), np.zeros(100_000)
        if comm.rank == 0 and comm.size > 1:
            MPI.Attach_buffer(bytearray(800_000 + MPI.BSEND_OVERHEAD))
            dup.Bsend(np.arange(100_000.0), 1)
            dup = None
            gc.collect()  # what is on its way is not lost with it
        comm.Barrier()
        if comm.rank == 1:
            dup.Recv(out, 0)
            assert out[-1] == 99_999
        if comm.rank == 0:
            MPI.Detach_buffer()
        dup = None
        gc.collect()
        comm.Barrier()
        comm.Barrier()
        assert len(conversations) == before


@CHECKS.ours
def thousand_duplicates_leave_nothing(MPI: Any, comm: Any) -> None:
    def opened() -> tuple[int, int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count(), len(comm._context._engine._conversations)

    comm.Barrier()
    before = opened()
    for i in range(1000):
        made = comm.Dup() if i % 2 else comm.Split(i % 3, comm.rank)
        if i % 100 == 0:
            assert made.allreduce(comm.rank) == sum(range(comm.size))
        made.Free()
    comm.Barrier()
    assert opened() == before


@CHECKS.same
def oneself(MPI: Any, comm: Any) -> Any:
    me, out = MPI.COMM_SELF, np.zeros(3)
    request = me.Irecv(out, 0, 3)
    me.Send(np.arange(3.0) + comm.rank, 0, 3)
    request.Wait()
    found = [me.rank, me.size, out.tolist(), me.sendrecv([comm.rank], 0, source=0), me.bcast("x"), me.gather(1), me.scan(2)]
    found += [me.allreduce(comm.rank, MPI.MAX), me.exscan(3), me.alltoall([4]), me.scatter([5]), me.reduce(6)]
    me.Allreduce(MPI.IN_PLACE, out)
    me.Barrier()
    dup = me.Dup()
    found += [out.tolist(), dup.size, MPI.Comm.Compare(me, dup), me.iprobe()]
    dup.Free()
    return found


@CHECKS.ours
def threads_take_turns(MPI: Any, comm: Any) -> None:
    assert MPI.Query_thread() == MPI.THREAD_MULTIPLE
    turns: list[int] = []
    failed: list[BaseException] = []

    def beside() -> None:
        try:
            out = np.zeros(1)
            for i in range(200):
                request = MPI.COMM_SELF.Irecv(out, 0, 4)
                MPI.COMM_SELF.Send(np.full(1, float(i)), 0, 4)
                request.Wait()
                assert out[0] == i
                turns.append(i)
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=beside)
    thread.start()
    for i in range(200):
        assert comm.allreduce(i) == i * comm.size
    thread.join()
    assert failed == []
    assert turns == list(range(200))
