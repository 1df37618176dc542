"""Requests: one and several, persistent ones, cancelling."""

from __future__ import annotations

from typing import Any

import numpy as np

from .registry import Registry, error_of, junk, neighbours, seen

CHECKS = Registry()


@CHECKS.same
def persistent_requests_take_the_data_of_the_moment(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    column = MPI.INT.Create_vector(2, 1, 2).Commit()
    x, out = np.zeros(4, "i4"), np.zeros(4, "i4")
    requests = [comm.Send_init([x, 1, column], right, 1), comm.Recv_init([out, 1, column], left, 1)]
    found = []
    for turn in range(3):
        x[:] = [10 * turn + comm.rank, -1, 10 * turn + comm.rank + 1, -1]
        MPI.Prequest.Startall(requests)
        status = junk(MPI)
        requests[1].Wait(status)
        requests[0].Wait()
        found.append((out.tolist(), seen(MPI, status)))
        assert all(request != MPI.REQUEST_NULL for request in requests)
    for request in requests:
        request.Free()
    column.Free()
    return found, [request == MPI.REQUEST_NULL for request in requests]


@CHECKS.same
def persistent_requests_that_are_not_active(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    out = np.zeros(1)
    receive = comm.Recv_init(out, left)
    found: list[Any] = []
    for call in (receive.Wait, receive.Test, receive.Get_status):
        status = junk(MPI)
        found.append((call(status), seen(MPI, status)))
    found.append(MPI.Request.Waitany([receive]))
    found.append(MPI.Request.Testany([receive, MPI.REQUEST_NULL]))
    found.append(MPI.Request.Waitsome([receive]))
    found.append(MPI.Request.Testsome([receive]))
    found.append(MPI.Request.Waitall([receive]))
    found.append(MPI.Request.Testall([receive]))
    receive.Start()
    request = comm.Isend(np.full(1, 5.0), right)
    found.append((receive.wait(), out.tolist()))
    request.Wait()
    receive.Free()
    found.append(error_of(MPI.REQUEST_NULL.Cancel))
    found.append(error_of(receive.Free))
    found.append(error_of(receive.Start))
    return found


@CHECKS.ours
def persistent_request_cannot_be_started_twice(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    receive = comm.Recv_init(bytearray(3), left)
    receive.Start()
    assert error_of(receive.Start) == ("MPI", MPI.ERR_REQUEST)
    assert error_of(MPI.Prequest.Startall, [receive]) == ("MPI", MPI.ERR_REQUEST)
    comm.Send(b"abc", right)
    receive.Wait()
    receive.Free()
    plain = MPI.Prequest(comm.Irecv(bytearray(3), left))
    assert error_of(plain.Start) == ("MPI", MPI.ERR_REQUEST)
    comm.Send(b"abc", right)
    plain.Wait()


@CHECKS.same
def mixture_of_null_inactive_done_and_waiting(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    first, second, third = (np.zeros(1) for _ in range(3))
    inactive = comm.Recv_init(third, left, 3)
    active = comm.Recv_init(third, left, 4)
    active.Start()
    requests = [MPI.REQUEST_NULL, inactive, comm.Irecv(first, left, 1), comm.Irecv(second, left, 2), active]
    found: list[Any] = [MPI.Request.Testany(requests)[1], MPI.Request.Testsome(requests), MPI.Request.Testall(requests)]
    comm.Barrier()
    send = comm.Isend(np.full(1, 2.0), right, 2)
    status = junk(MPI)
    found.append(MPI.Request.Waitany(requests, status))
    found.append((seen(MPI, status), requests[3] == MPI.REQUEST_NULL, second.tolist()))
    send.Wait()
    comm.Barrier()
    send = comm.Isend(np.full(1, 4.0), right, 4)
    found.append(MPI.Request.Waitsome(requests))
    found.append((requests[4] == MPI.REQUEST_NULL, third.tolist()))
    send.Wait()
    comm.Barrier()
    send = comm.Isend(np.full(1, 1.0), right, 1)
    statuses = [junk(MPI) for _ in requests]
    found.append(MPI.Request.Waitall(requests, statuses))
    found.append([seen(MPI, each) for each in statuses])
    send.Wait()
    found.append([request == MPI.REQUEST_NULL for request in requests])
    found += [MPI.Request.Waitany(requests), MPI.Request.Testsome(requests), MPI.Request.Testall(requests)]
    inactive.Free()
    active.Free()
    return found


@CHECKS.same
def nothing_to_wait_for(MPI: Any, comm: Any) -> Any:
    found: list[Any] = []
    for requests in ([], [MPI.REQUEST_NULL], [MPI.Request(), MPI.REQUEST_NULL]):
        for call in ("Waitany", "waitany", "Testany", "testany"):
            status = junk(MPI)
            found.append((getattr(MPI.Request, call)(requests, status), seen(MPI, status)))
        for call in ("Waitall", "waitall", "Testall", "testall", "Waitsome", "waitsome", "Testsome", "testsome"):
            found.append(getattr(MPI.Request, call)(requests))
    status = junk(MPI)
    found.append((MPI.REQUEST_NULL.Wait(status), seen(MPI, status)))
    found.append((MPI.REQUEST_NULL.wait(), MPI.REQUEST_NULL.test(), MPI.REQUEST_NULL.Test()))
    found.append(MPI.REQUEST_NULL.Get_status())
    found.append(error_of(MPI.Request.Waitall, [None]))
    found.append(error_of(MPI.Request.Waitany, [1]))
    found.append(error_of(MPI.Request.Waitall, None))
    return found


@CHECKS.same
def lists_of_statuses_of_another_length(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found: list[Any] = []
    for length in (0, 1, 3, 5):
        for call in ("Waitall", "waitall"):
            receives = [comm.irecv(source=left, tag=tag) for tag in range(3)]
            sends = [comm.isend("x" * tag, right, tag) for tag in range(3)]
            statuses = [junk(MPI) for _ in range(length)]
            result = getattr(MPI.Request, call)(receives, statuses)
            found.append((call, result, len(statuses), [(each.source, each.tag) for each in statuses]))
            MPI.Request.waitall(sends)
    receives = [comm.irecv(source=left, tag=tag) for tag in range(3)]
    sends = [comm.isend("x" * tag, right, tag) for tag in range(3)]
    statuses = tuple(MPI.Status() for _ in range(3))
    found.append(MPI.Request.waitall(receives, list(statuses)))
    found.append([status.tag for status in statuses])
    MPI.Request.waitall(sends)
    return found


@CHECKS.same
def objects_of_requests(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found: list[Any] = []

    def begun() -> tuple[list[Any], list[Any]]:
        return (
            [comm.irecv(source=left, tag=tag) for tag in range(3)],
            [comm.isend([comm.rank, tag], right, tag) for tag in range(3)],
        )

    receives, sends = begun()
    found.append(sorted(MPI.Request.waitany(receives)[1] for _ in range(3)))
    found.append(MPI.Request.waitall(sends))
    receives, sends = begun()
    collected: list[Any] = []
    while len(collected) < 3:
        indices, objects = MPI.Request.waitsome(receives)
        assert len(indices) == len(objects)
        collected += zip(indices, objects, strict=True)
    found.append(sorted(collected))
    MPI.Request.Waitall(sends)
    receives, sends = begun()
    flag, objects = False, None
    while not flag:
        flag, objects = MPI.Request.testall(receives)
    found.append(objects)
    MPI.Request.Waitall(sends)
    receives, sends = begun()
    for receive in receives:
        flag, obj = receive.test()
        while not flag:
            assert obj is None
            flag, obj = receive.test()
        found.append(obj)
    MPI.Request.Waitall(sends)
    return found


@CHECKS.same
def status_without_completing(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    out = np.zeros(2)
    receive = comm.Irecv(out, left, 6)
    found: list[Any] = [receive.Get_status()]
    comm.Barrier()
    send = comm.Isend(np.full(2, comm.rank + 1.0), right, 6)
    status = junk(MPI)
    while not receive.Get_status(status):
        pass
    found.append((seen(MPI, status), receive != MPI.REQUEST_NULL, out.tolist()))
    status = junk(MPI)
    found.append((receive.Test(status), seen(MPI, status), receive == MPI.REQUEST_NULL))
    send.Wait()
    return found


@CHECKS.ours
def statuses_of_several_without_completing(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    receives = [MPI.REQUEST_NULL, comm.irecv(source=left, tag=1), comm.irecv(source=left, tag=2)]
    assert MPI.Request.Get_status_any(receives) == (MPI.UNDEFINED, False)
    assert MPI.Request.Get_status_all(receives) is False
    assert MPI.Request.Get_status_some(receives) == []
    comm.Barrier()
    comm.send("two", right, 2)
    while not MPI.Request.Get_status_some(receives):
        pass
    status, statuses = junk(MPI), []
    assert MPI.Request.Get_status_any(receives, status) == (2, True)
    assert status.tag == 2
    assert MPI.Request.Get_status_some(receives, statuses) == [2]
    assert [each.tag for each in statuses] == [2]
    comm.Barrier()
    comm.send("one", right, 1)
    while not MPI.Request.Get_status_all(receives, statuses):
        pass
    assert [each.tag for each in statuses[1:]] == [1, 2]
    assert MPI.Request.waitall(receives) == [None, "one", "two"]
    assert MPI.Request.Get_status_any(receives) == (MPI.UNDEFINED, True)
    assert MPI.Request.Get_status_all(receives) is True
    assert MPI.Request.Get_status_some(receives) is None


@CHECKS.same
def cancelled_receives(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    found: list[Any] = []
    out = np.full(1, -1.0)
    receive = comm.Irecv(out, left, 1)
    receive.Cancel()
    status = junk(MPI)
    receive.Wait(status)
    found.append((status.Is_cancelled(), receive == MPI.REQUEST_NULL))
    comm.Barrier()
    send = comm.Isend(np.full(1, 3.0), right, 1)  # not for the one that was cancelled
    status = junk(MPI)
    comm.Recv(out, left, 1, status)
    send.Wait()
    found.append((out.tolist(), seen(MPI, status)))
    receive, send = comm.Irecv(out, left, 2), comm.Isend(np.full(1, 4.0), right, 2)
    while not receive.Get_status():
        pass
    receive.Cancel()  # too late
    status = junk(MPI)
    receive.Wait(status)
    send.Wait()
    found.append((out.tolist(), seen(MPI, status)))
    persistent = comm.Recv_init(out, left, 3)
    persistent.Start()
    persistent.Cancel()
    persistent.Wait(status)
    found.append(status.Is_cancelled())
    comm.Barrier()
    persistent.Start()
    send = comm.Isend(np.full(1, 5.0), right, 3)
    persistent.Wait(status)
    found.append((out.tolist(), seen(MPI, status)))
    send.Wait()
    persistent.Free()
    return found


@CHECKS.same_as_mpich
def freed_while_under_way(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    x, out = np.arange(1000.0), np.zeros(1000)
    receive = comm.Irecv(out, left, 1)
    send = comm.Isend(x, right, 1)
    send.Free()
    found = [send == MPI.REQUEST_NULL, error_of(send.Free), send.Wait()]
    receive.Wait()
    return found, np.array_equal(x, out)


@CHECKS.ours
def forgotten_while_under_way(MPI: Any, comm: Any) -> None:
    left, right = neighbours(comm)
    for i in range(3):
        comm.isend(["x" * 100_000, i], right, i)  # nobody keeps the request
    assert [comm.recv(source=left, tag=tag)[1] for tag in (2, 0, 1)] == [2, 0, 1]


@CHECKS.same
def iterators_of_requests_are_refused(MPI: Any, comm: Any) -> Any:
    out, found = [bytearray(1) for _ in range(3)], []
    names = ("any", "all", "some")
    functions = [f"{test}{name}" for test in ("Wait", "Test", "wait", "test", "Get_status_") for name in names]
    requests = [comm.Irecv(each, comm.rank, tag) for tag, each in enumerate(out)]
    for name in functions:
        for given in (lambda: (each for each in requests), lambda: iter(requests), lambda: requests[0], lambda: 5):
            found.append((name, error_of(getattr(MPI.Request, name), given())))
    found.append(error_of(MPI.Prequest.Startall, iter([])))
    found.append([bool(each) for each in requests])
    for tag in range(3):
        comm.Send(b"x", comm.rank, tag)
    found.append((MPI.Request.Waitall(tuple(requests)), out))
    return found


@CHECKS.same
def copies_of_handles(MPI: Any, comm: Any) -> Any:
    left, right = neighbours(comm)
    persistent = comm.Send_init(b"x", right)
    copy = MPI.Prequest(persistent)
    found = [copy == persistent, copy is not persistent, isinstance(persistent, MPI.Request), bool(copy)]
    found += [MPI.Request() == MPI.REQUEST_NULL, bool(MPI.REQUEST_NULL), error_of(MPI.Request, 5)]
    persistent.Start()
    comm.Recv(bytearray(1), left)
    persistent.Wait()
    persistent.Free()
    return found


@CHECKS.same
def many_operations_completed_in_another_order(MPI: Any, comm: Any) -> Any:
    size, rank, n = comm.size, comm.rank, 10
    left, right = neighbours(comm)
    sums, gathered = np.zeros((n, 5)), np.zeros((n, size), "i8")
    x = [np.arange(5.0) * (rank + i) for i in range(n)]
    y = [np.array([rank + i]) for i in range(n)]
    copies = [np.full(3, rank * 10 + i) for i in range(n)]
    received = [bytearray(1 + i) for i in range(n)]
    requests = []
    for i in range(n):
        requests.append(comm.Iallreduce(x[i], sums[i]))
        requests.append(comm.Isend(bytes([i]) * (1 + i), right, i))
        requests.append(comm.Ibcast(copies[i], i % size))
        requests.append(comm.Iallgather(y[i], gathered[i]))
        requests.append(comm.Ibarrier())
    requests += [comm.Irecv(received[i], left, i) for i in reversed(range(n))]
    for request in reversed(requests):
        request.Wait()
    return sums.tolist(), [copy.tolist() for copy in copies], gathered.tolist(), received
