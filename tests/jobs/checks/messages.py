"""Messages from rank to rank."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from .registry import Registry, cause_of, error_of, junk, neighbours, seen

CHECKS = Registry()


@CHECKS.same_as_mpich
def longer_than_its_buffer_is_truncated(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found = []
    for words, room in ((8, 3), (8, 0), (8, 8), (8, 9), (0, 0), (30_000, 29_999)):
        x = np.arange(words, dtype="i4") + comm.rank
        out = np.full(room, -1, "i4")
        request = comm.Isend(x, right, tag=words)
        status = junk(MPI)
        error = error_of(comm.Recv, out, left, words, status)
        request.Wait()
        if error is None:
            found.append((seen(MPI, status), out.tolist()))
        else:
            assert out[:room].tolist() in ([left + i for i in range(room)], [-1] * room)
            found.append(error)
    # What comes after a message that was too long is not disturbed.
    assert comm.sendrecv(comm.rank, right, source=left) == left
    return found


@CHECKS.ours
def truncated_message_has_a_cause(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    request = comm.Isend(np.arange(8, dtype="i4"), right, tag=5)
    out = np.full(3, -1, "i4")
    assert cause_of(comm.Recv, out, left, 5) == (
        f"the message from rank {left} with tag 5 has 32 bytes, more than the buffer; pass a larger one, or ask Probe for "
        "the size"
    )
    assert out.tolist() == [0, 1, 2]
    request.Wait()


@CHECKS.ours
def truncated_message_of_a_derived_datatype_leaves_the_gaps(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    column = MPI.INT.Create_vector(3, 1, 2).Commit()
    out = np.full(6, -1, "i4")
    for words, expected in ((5, [0, -1, 1, -1, 2, -1]), (2, [0, -1, 1, -1, -1, -1])):
        out[:] = -1
        request = comm.Isend(np.arange(words, dtype="i4"), right)
        error = error_of(comm.Recv, [out, 1, column], left)
        assert error == (("MPI", MPI.ERR_TRUNCATE) if words > 3 else None)
        assert out.tolist() == expected
        request.Wait()
    column.Free()


@CHECKS.same_as_mpich
def truncated_in_sendrecv_and_matched_and_nonblocking(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    x, out = np.arange(9, dtype="f8"), np.zeros(4)
    found = [error_of(comm.Sendrecv, x, right, 1, out, left, 1)]
    request = comm.Isend(x, right, 2)
    found.append(error_of(comm.Mprobe(left, 2).Recv, out))
    request.Wait()
    receive, send = comm.Irecv(out, left, 3), comm.Isend(x, right, 3)
    found.append(error_of(receive.Wait))
    found.append(receive == MPI.REQUEST_NULL)
    send.Wait()
    return found


@CHECKS.same_as_mpich
def truncated_among_others_in_waitall(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    places = [np.zeros(4), np.zeros(2), np.zeros(4)]
    receives = [comm.Irecv(place, left, tag) for tag, place in enumerate(places)]
    sends = [comm.Isend(np.full(4, tag + 10.0), right, tag) for tag in range(3)]
    statuses = [MPI.Status() for _ in range(3)]
    error = error_of(MPI.Request.Waitall, receives, statuses)
    MPI.Request.Waitall(sends)
    # The others have completed all the same.
    assert places[0].tolist() == [10.0] * 4
    assert places[2].tolist() == [12.0] * 4
    # MPICH calls those behind it pending, although they are done.
    return error, [MPI.Get_error_class(status.error) for status in statuses[:2]], receives[:2] == [MPI.REQUEST_NULL] * 2


@CHECKS.same
def ranks_and_tags_out_of_range(MPI: Any, comm: Any) -> Any:
    x, size, found = np.zeros(1), comm.size, []
    for bad in (size, size + 7, -77, MPI.ANY_SOURCE):
        for call in (comm.Send, comm.Isend, comm.Ssend, comm.Send_init, comm.send, comm.isend, comm.ssend, comm.bsend):
            found.append(error_of(call, x, dest=bad))
        found.append(error_of(comm.Sendrecv, x, bad, 0, np.zeros(1), MPI.PROC_NULL))
        found.append(error_of(comm.sendrecv, x, bad, 0, None, MPI.PROC_NULL))
    for bad in (size, size + 7, -77):
        for call in (comm.Recv, comm.Irecv, comm.Recv_init):
            found.append(error_of(call, x, source=bad))
        for call in (comm.recv, comm.irecv, comm.Probe, comm.Iprobe, comm.Mprobe, comm.improbe):
            found.append(error_of(call, source=bad))
    for bad in (-1, -77, MPI.ANY_TAG):
        for call in (comm.Send, comm.Isend, comm.send, comm.Send_init):
            found.append(error_of(call, x, 0, bad))
    found.append(error_of(comm.Recv, x, 0, -77))
    found.append(error_of(comm.Iprobe, 0, -77))
    for bad in ("0", None, [0]):
        found.append(error_of(comm.Send, x, bad))
        found.append(error_of(comm.Recv, x, bad))
        found.append(error_of(comm.Send, x, 0, bad))
        found.append(error_of(comm.recv, None, 0, bad))
    return found


@CHECKS.same
def numbers_of_other_types(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found = []
    for number in (np.int64, np.uint8, np.array, float):  # what comes of size / 2
        found.append(comm.sendrecv(comm.rank, number(right), number(2), None, number(left), number(2)))
        found.append(comm.bcast(comm.rank, number(0)))
    return found


@CHECKS.ours
def causes_of_ranks_and_tags_out_of_range(MPI: Any, comm: Any) -> None:
    size = comm.size
    assert cause_of(comm.send, 1, size) == f"dest must be in range({size}), not {size}"
    assert cause_of(comm.recv, None, -5) == f"source must be in range({size}), not -5"
    assert cause_of(comm.send, 1, 0, -1) == f"tag must be in range({comm.Get_attr(MPI.TAG_UB) + 1}), not -1"
    assert cause_of(comm.bcast, 1, size) == f"root must be in range({size}), not {size}"


@CHECKS.ours
def largest_tag_is_the_upper_bound(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    bound = comm.Get_attr(MPI.TAG_UB)
    assert bound >= 32767
    status = MPI.Status()
    assert comm.sendrecv("far", right, bound, None, left, bound, status) == "far"
    assert status.tag == bound
    assert error_of(comm.send, "too far", right, bound + 1) == ("MPI", MPI.ERR_TAG)


@CHECKS.same
def null_process_in_every_call(MPI: Any, comm: Any) -> Any:
    null, x, found = MPI.PROC_NULL, np.full(3, 7.0), []
    MPI.Attach_buffer(bytearray(1000 + MPI.BSEND_OVERHEAD))
    for call in (comm.Send, comm.Ssend, comm.Bsend, comm.Rsend, comm.send, comm.ssend, comm.bsend):
        found.append(call(x, null, 3))
    for call in (comm.Isend, comm.Issend, comm.Ibsend, comm.Irsend, comm.isend, comm.issend, comm.ibsend):
        found.append(call(x, null).wait())
    MPI.Detach_buffer()

    def with_status(call: Any, *arguments: Any) -> None:
        status = junk(MPI)
        result = call(*arguments, status)
        found.append((result if isinstance(result, bool | None) else type(result).__name__, seen(MPI, status)))

    with_status(comm.Recv, x, null, 5)
    with_status(comm.recv, None, null, 5)
    with_status(comm.Probe, null, 5)
    with_status(comm.Iprobe, null, 5)
    with_status(comm.Mprobe, null, 5)
    with_status(comm.Improbe, null, 5)
    with_status(comm.Sendrecv, x, null, 1, x, null, 2)
    with_status(comm.sendrecv, x, null, 1, None, null, 2)
    with_status(comm.Sendrecv_replace, x, null, 1, null, 2)
    with_status(comm.Irecv(x, null).Wait)
    with_status(comm.irecv(None, null).wait)
    with_status(comm.Mprobe(null).Recv, x)
    with_status(comm.mprobe(null).recv)
    with_status(comm.Mprobe(null).Irecv(x).Wait)
    request = comm.Send_init(x, null)
    request.Start()
    found.append(request.Wait())
    request.Free()
    left, right = neighbours(comm)
    receive = comm.irecv(source=left)
    comm.sendrecv("one way", right, source=null)
    found.append((receive.wait(), x.tolist(), comm.mprobe(null) == MPI.MESSAGE_NO_PROC))
    return found


@CHECKS.ours
def null_process_in_persistent_receive(MPI: Any, comm: Any) -> None:
    request = comm.Recv_init(bytearray(1), MPI.PROC_NULL)
    for _ in range(2):
        request.Start()
        status = junk(MPI)
        request.Wait(status)
        assert seen(MPI, status) == (MPI.PROC_NULL, MPI.ANY_TAG, 0, 0, False)
    request.Free()


@CHECKS.same
def counts_of_a_status(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found = []
    pair = MPI.INT.Create_contiguous(2).Commit()
    for nbytes in (0, 4, 6, 8, 12):
        status = MPI.Status()
        comm.Sendrecv(bytes(nbytes), right, 0, bytearray(20), left, 0, status)
        found.append([status.Get_count(kind) for kind in (MPI.BYTE, MPI.INT, MPI.DOUBLE, pair)])
        found.append([status.Get_elements(kind) for kind in (MPI.BYTE, MPI.INT)])
        found.append((status.count, status.source, status.tag, status.cancelled, status.error))
    pair.Free()
    return found


@CHECKS.same
def order_and_wildcards(MPI: Any, comm: Any) -> Any:
    size, rank = comm.size, comm.rank
    requests = [comm.isend((rank, i), dest, tag=i % 3) for dest in range(size) for i in range(12)]
    found: list[Any] = []
    status = MPI.Status()
    for source in range(size):
        for tag in (2, 0):
            found.append([comm.recv(source=source, tag=tag) for _ in range(4)])
        comm.Probe(source, MPI.ANY_TAG, status)
        found.append((status.source, status.tag))
    rest = []
    for _ in range(4 * size):
        obj = comm.recv(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
        assert (status.source, status.tag) == (obj[0], 1)
        rest.append(obj)
    for source in range(size):
        assert [obj[1] for obj in rest if obj[0] == source] == [1, 4, 7, 10]
    MPI.Request.waitall(requests)
    assert not comm.iprobe()
    return found, sorted(rest)


@CHECKS.same
def objects_received_as_buffers_and_buffers_as_objects(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found = []
    x = np.arange(200_000.0)
    small, large = [None, {"rank": comm.rank}, [np.arange(5) + comm.rank], b"x" * 10, "y" * 500_000], [x, [x, x[::2]]]
    for number, obj in enumerate((*small, *large)):
        if number < len(small):  # large arrays travel beside the pickle, not in it
            request = comm.isend(obj, right, 1)
            status = MPI.Status()
            comm.Probe(left, 1, status)
            message = bytearray(status.Get_count(MPI.BYTE))
            comm.Recv(message, left, 1)
            request.wait()
            again = MPI.pickle.loads(message)
            found.append((repr(again), len(pickle.dumps(again))))
        request = comm.Isend(MPI.pickle.dumps(obj), right, 2)
        found.append(repr(comm.recv(source=left, tag=2)))
        request.Wait()
    request = comm.Isend(b"", right, 3)
    found.append(comm.recv(source=left, tag=3))
    request.Wait()
    request = comm.Isend(b"no pickle", right, 3)
    found.append(error_of(comm.recv, source=left, tag=3))
    request.Wait()
    return found


@CHECKS.same
def arrays_inside_objects(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found: list[Any] = []
    for n in (0, 1, 1000, 300_000):
        x = np.arange(2.0 * n).reshape(2, n) + comm.rank
        fixed = x.copy()
        fixed.flags.writeable = False
        sent = {"c": x, "f": np.asfortranarray(x), "every": x[:, ::3], "fixed": fixed, "twice": [x, x]}
        sent["bytes"] = bytearray(n)
        for received, whose in (
            (comm.sendrecv(sent, right, source=left), left),
            (comm.bcast(sent if comm.rank == comm.size - 1 else None, comm.size - 1), comm.size - 1),
            (comm.allgather(sent)[left], left),
            (comm.alltoall([sent] * comm.size)[left], left),
            (comm.scatter([sent] * comm.size if comm.rank == 0 else None), 0),
        ):
            want = np.arange(2.0 * n).reshape(2, n) + whose
            for key in ("c", "f", "fixed"):
                assert np.array_equal(received[key], want)
                assert received[key].dtype == want.dtype
            assert np.array_equal(received["every"], want[:, ::3])
            assert received["twice"][0] is received["twice"][1]
            assert received["bytes"] == bytearray(n)
            received["bytes"] += b"more"
            found.append([received[key].flags.writeable for key in ("c", "f", "every", "fixed")])
            found.append([received[key].flags.f_contiguous for key in ("c", "f")])
            if whose != comm.rank:
                received["c"][...] = -1  # the sender's is not touched
        assert np.array_equal(x, np.arange(2.0 * n).reshape(2, n) + comm.rank)
        gathered = comm.gather(sent, comm.size - 1)
        found.append(None if gathered is None else len(gathered))
    return found


@CHECKS.same
def root_gets_its_own_object(MPI: Any, comm: Any) -> Any:
    obj = [comm.rank]
    return (
        comm.bcast(obj, 0) is obj,
        comm.sendrecv(obj, comm.rank, source=comm.rank) is obj,
        comm.allgather(obj)[comm.rank] is obj,
        (comm.gather(obj) or [None] * comm.size)[comm.rank] is obj,
        comm.scatter([obj] * comm.size) is obj,
    )


@CHECKS.same
def pickling_set_by_the_program(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    calls = {"dumps": 0, "loads": 0}

    def dumps(obj: Any) -> bytes:
        calls["dumps"] += 1
        return json.dumps(obj).encode()

    def loads(data: Any) -> Any:
        calls["loads"] += 1
        return json.loads(bytes(data))

    obj = {"rank": comm.rank, "list": [1, 2.5, None], "tuple": (1, 2)}
    MPI.pickle.__init__(dumps, loads)
    try:
        found = [
            comm.sendrecv(obj, right, source=left),
            comm.bcast(obj, 0),
            comm.gather(obj, 0),
            comm.scatter([obj] * comm.size, 0),
            comm.allgather(obj),
            comm.alltoall([obj] * comm.size),
            comm.allreduce([comm.rank], MPI.SUM),
        ]
        request = comm.isend(obj, right)
        found.append(comm.irecv(source=left).wait())
        request.wait()
        found.append(error_of(comm.send, {1, 2}, right))
        assert calls["dumps"] > 4
        assert calls["loads"] > 4
    finally:
        MPI.pickle.__init__()
    return found


@CHECKS.same
def pickle_protocol_set_by_the_program(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found = []
    for protocol in (0, 2, 4, 5):
        MPI.pickle.PROTOCOL = protocol
        try:
            request = comm.isend({"protocol": protocol}, right)
            message = comm.Mprobe(left)
            data = bytearray(1000)
            status = MPI.Status()
            message.Recv(data, status)
            found.append(bytes(data[: status.count]) == pickle.dumps({"protocol": protocol}, protocol))
            request.wait()
        finally:
            MPI.pickle.PROTOCOL = None
    return found


@CHECKS.same
def objects_that_cannot_be_pickled(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found = [error_of(call, lambda: 0, right) for call in (comm.send, comm.isend, comm.ssend)]
    found.append(error_of(comm.sendrecv, lambda: 0, right, source=left))
    return found, comm.sendrecv(comm.rank, right, source=left)


@CHECKS.same_as_mpich
def buffered_sends_and_their_room(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    x = np.arange(100, dtype="u1")
    found = [error_of(comm.Bsend, x, right), error_of(comm.bsend, b"1", right)]
    room = bytearray(250 + 2 * MPI.BSEND_OVERHEAD)
    MPI.Attach_buffer(room)
    assert error_of(MPI.Attach_buffer, bytearray(10)) is not None  # of what class is MPI's choice
    comm.Bsend(x, right, 1)
    x[:] = 0  # it has been copied
    request = comm.Ibsend(np.arange(100, 200, dtype="u1"), right, 2)
    request.Wait()
    found.append(error_of(comm.Bsend, np.zeros(1000, "u1"), right, 3))
    out = np.zeros(100, "u1")
    for tag in (2, 1):
        comm.Recv(out, left, tag)
        found.append(out.tolist())
    found.append(len(MPI.Detach_buffer()) == len(room))
    MPI.Attach_buffer(bytearray(100 + MPI.BSEND_OVERHEAD))
    for i in range(50):  # the room is used again
        comm.bsend(i, right, 4)
        found.append(comm.recv(source=left, tag=4))
        comm.Barrier()
        comm.Barrier()
    MPI.Detach_buffer()
    return found


@CHECKS.same_as_mpich
def matched_messages_are_for_one_receive(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    requests = [comm.isend(i, right, tag=i) for i in range(4)]
    status = MPI.Status()
    message = comm.mprobe(left, 2, status)
    found: list[Any] = [seen(MPI, status)[:2], bool(message), comm.improbe(left, 2), comm.iprobe(left, 2)]
    again = MPI.Message(message)
    found += [again == message, message != MPI.MESSAGE_NULL]
    found.append(message.recv())
    found += [bool(message), message == MPI.MESSAGE_NULL]
    found.append([comm.recv(source=left) for _ in range(3)])
    found.append([error_of(call) for call in (message.recv, message.irecv)])
    found.append([error_of(MPI.MESSAGE_NULL.Recv, bytearray(1)), error_of(MPI.MESSAGE_NULL.Irecv, bytearray(1))])
    MPI.Request.waitall(requests)
    return found


@CHECKS.same
def handles_copied_and_pickled(MPI: Any, comm: Any) -> Any:
    def copies(handle: Any) -> list[Any]:
        found: list[Any] = []
        for copied in (copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
            try:
                again = copied(handle)
            except ValueError:
                found.append("ValueError")
            else:
                found.append((again == handle, again is handle, type(again) is type(handle)))
        return found

    constants = ("COMM_WORLD", "COMM_SELF", "COMM_NULL", "REQUEST_NULL", "MESSAGE_NULL", "MESSAGE_NO_PROC", "WIN_NULL",
                 "FILE_NULL", "SESSION_NULL", "INFO_NULL", "GROUP_EMPTY", "SUM", "DOUBLE", "IN_PLACE")  # fmt: skip
    found: list[Any] = [copies(getattr(MPI, name)) for name in constants if hasattr(MPI, name)]
    found += [MPI.Win() == MPI.WIN_NULL, MPI.File() == MPI.FILE_NULL, MPI.WIN_NULL == MPI.FILE_NULL]
    request, persistent = comm.Irecv(bytearray(1), comm.rank), comm.Send_init(bytearray(1), comm.rank)
    group = comm.Get_group()
    handles = [comm, MPI.Intracomm(comm), MPI.Intracomm(MPI.COMM_WORLD), request, persistent, group]
    found += [copies(each) for each in handles]
    persistent.Start()
    request.Wait()
    persistent.Wait()
    send = comm.Isend(bytearray(1), comm.rank)
    message = comm.Mprobe(comm.rank)
    found.append(copies(message))
    message.Recv(bytearray(1))
    send.Wait()
    persistent.Free()
    group.Free()
    return found, copies(request), copies(message), copies(persistent)


@CHECKS.ours
def copying_a_handle_is_a_type_error_that_says_what_to_do(MPI: Any, comm: Any) -> None:
    request = comm.Irecv(bytearray(1), comm.rank)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^cannot copy or pickle a communicator that .*; Dup\(\) makes another"):
            copied(comm)
        with pytest.raises(TypeError, match=r"^cannot copy or pickle a request that is not null: .*; wait for it"):
            copied(request)
    comm.Send(bytearray(1), comm.rank)
    request.Wait()
    comm.Send(bytearray(1), comm.rank)
    message = comm.Mprobe(comm.rank)
    with pytest.raises(TypeError, match=r"^cannot copy or pickle a message that is not null: it is received once"):
        copy.copy(message)
    message.Recv(bytearray(1))
    assert comm.allgather(comm.rank) == list(range(comm.size))


@CHECKS.ours
def hashes_of_handles_stay(MPI: Any, comm: Any) -> None:
    dup = comm.Dup()
    request = dup.Irecv(bytearray(1), dup.rank)
    dup.Send(bytearray(1), dup.rank, 0)
    again = MPI.Request(request)
    dup.Send(bytearray(1), dup.rank, 1)
    message = dup.Mprobe(dup.rank, 1)
    handles = {dup: "dup", request: "request", message: "message"}
    assert handles[MPI.Intracomm(dup)] == "dup"
    assert handles[again] == "request"
    assert handles[MPI.Message(message)] == "message"
    hashes = [hash(each) for each in (dup, request, message)]
    request.Wait()
    message.Recv(bytearray(1))
    handles_in_order = [handles[each] for each in (dup, request, message)]
    dup.Free()
    assert [hash(each) for each in (dup, request, message)] == hashes
    assert [handles[each] for each in (dup, request, message)] == handles_in_order == ["dup", "request", "message"]
    assert dup == MPI.COMM_NULL
    assert request == MPI.REQUEST_NULL


@CHECKS.same
def large_messages_in_all_directions_at_once(MPI: Any, comm: Any) -> Any:
    size, rank, n = comm.size, comm.rank, 400_000
    received = [np.zeros(n) for _ in range(size)]
    requests = [comm.Irecv(received[source], source, 9) for source in range(size)]
    requests += [comm.Isend(np.arange(n) * 1.0 + 10 * rank + dest, dest, 9) for dest in range(size)]
    MPI.Request.Waitall(requests)
    return [bool((received[source] == np.arange(n) + 10 * source + rank).all()) for source in range(size)]


@CHECKS.same
def replacing_in_place(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    x = np.arange(50_000) + comm.rank
    status = MPI.Status()
    comm.Sendrecv_replace(x, right, 3, left, 3, status)
    request = comm.Isendrecv_replace(x, right, 4, left, 4)
    request.Wait()
    every = MPI.LONG.Create_vector(3, 1, 2).Commit()
    y = np.arange(6) + 10 * comm.rank
    comm.Sendrecv_replace([y, 1, every], right, 5, left, 5)
    every.Free()
    return seen(MPI, status), int(x[0]), y.tolist()
