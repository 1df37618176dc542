"""Operations on Python objects: what everybody gets, who calls the operator, and objects that cannot be pickled."""

from __future__ import annotations

import operator
import pickle
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from operations import forms

from gloompi import ANY_SOURCE, ANY_TAG, Context, Device, MismatchError, PeerLostError
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import RankError, run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
WORLDS = [*((n, "unix") for n in SIZES), (3, "tcp"), (4, "tcp")]

# What rank r has; some of them longer than what is sent without asking.
OBJECTS: dict[str, Callable[[int], Any]] = {
    "none": lambda rank: None,
    "number": lambda rank: rank,
    "empty": lambda rank: [(), "", b"", {}, []][rank % 5],
    "nested": lambda rank: {"rank": rank, "items": [1.5, (None, {rank})], 3: "text" * rank},
    "some long": lambda rank: b"ab" * (1 if rank % 2 else EAGER_NBYTES),
    "long": lambda rank: "ä" * (EAGER_NBYTES + rank),
    "array": lambda rank: np.arange(12.0).reshape(3, 4) + rank,
    "long arrays": lambda rank: [
        np.arange(EAGER_NBYTES // 3) + rank,
        {"other": np.full((3, EAGER_NBYTES // 8), rank, "f4")},
    ],
    "a mixture": lambda rank: (rank, np.arange(rank), ["text", np.array(["x", None], object)]),
}


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        same(list(found.values()), list(wanted.values()))
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_every_rank_gets_the_objects_it_should(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for make in OBJECTS.values():
            every = [make(rank) for rank in range(n)]
            for form in forms(ctx, "allgather_object"):
                same(form(make(ctx.rank)), every)
            for form in forms(ctx, "alltoall_object"):
                same(form([(make(ctx.rank), dest) for dest in range(n)]), [(each, ctx.rank) for each in every])
            for root in {0, n // 2, n - 1}:
                for form in forms(ctx, "broadcast_object"):
                    obj = make(root)
                    found = form(obj if ctx.rank == root else "ignored", root=root)
                    same(found, obj)
                    assert found is obj or ctx.rank != root
                for form in forms(ctx, "gather_object"):
                    found = form(make(ctx.rank), root=root)
                    same(found, every if ctx.rank == root else None)
                for form in forms(ctx, "scatter_object"):
                    same(form(every if ctx.rank == root else "ignored", root=root), make(ctx.rank))
                    same(form(iter(every) if ctx.rank == root else None, root=root), make(ctx.rank))

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_sendrecv_object_around_a_ring(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        for make in OBJECTS.values():
            for form in forms(ctx, "sendrecv_object"):
                same(form(make(ctx.rank), after, before), make(before))
                same(form(make(ctx.rank), after, ANY_SOURCE, sendtag=7, recvtag=7), make(before))
                ctx.barrier()  # or a fast rank's next message would match the wildcard
        assert {call.name for call in ctx.history()} == {"sendrecv_object", "barrier"}

    run_ranks(n, body, device=Device(transport=transport))


def test_sendrecv_object_that_cannot_be_pickled_posts_nothing() -> None:
    def body(ctx: Context) -> None:
        with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
            ctx.sendrecv_object(lambda: None, ctx.rank, ctx.rank)
        ctx.send_object("next", ctx.rank)
        assert ctx.recv_object(ctx.rank) == "next"

    run_ranks(1, body)


@pytest.mark.parametrize("n", SIZES)
def test_reductions_are_in_rank_order(n: int) -> None:
    def body(ctx: Context) -> None:
        for long in ("", "-" * EAGER_NBYTES):
            mine, texts = f"{ctx.rank}{long}", [f"{rank}{long}" for rank in range(n)]
            for options in ({}, {"op": operator.add}, {"op": lambda a, b: a + b}):
                for root in {0, n - 1}:
                    for form in forms(ctx, "reduce_object"):
                        assert form(mine, root=root, **options) == ("".join(texts) if ctx.rank == root else None)
                for form in forms(ctx, "allreduce_object"):
                    assert form(mine, **options) == "".join(texts)
                for form in forms(ctx, "scan_object"):
                    assert form(mine, **options) == "".join(texts[: ctx.rank + 1])
                for form in forms(ctx, "exscan_object"):
                    assert form(mine, **options) == ("".join(texts[: ctx.rank]) if ctx.rank else None)
        assert ctx.allreduce_object((ctx.rank, "at"), op=max) == (n - 1, "at")
        arrays = ctx.allreduce_object([np.arange(ctx.rank)])
        assert [len(each) for each in arrays] == list(range(n))
        total = ctx.scan_object(np.arange(3.0))
        np.testing.assert_array_equal(total, np.arange(3.0) * (ctx.rank + 1))

    run_ranks(n, body)


def test_functions_of_python_that_take_a_sequence_are_meant_for_two() -> None:
    def body(ctx: Context) -> None:
        for op, make, wanted in (
            (sum, lambda rank: np.arange(3.0) + rank, np.arange(3.0) * 3 + 3),
            (sum, lambda rank: [rank], [0, 1, 2]),
            (sum, lambda rank: rank + 0.5, 4.5),
            (any, lambda rank: rank == 2, True),
            (any, lambda rank: [], False),
            (all, lambda rank: rank < 2, False),
            (all, lambda rank: "text", True),
            (max, lambda rank: (rank, "at"), (2, "at")),
        ):
            for name in ("allreduce_object", "reduce_object", "scan_object", "exscan_object"):
                found = getattr(ctx, name)(make(ctx.rank), op=op)
                if name == "allreduce_object" or (name, ctx.rank) in (("reduce_object", 0), ("scan_object", 2)):
                    same(found, wanted)

    run_ranks(3, body)


def test_the_operator_is_called_where_a_result_is_wanted() -> None:
    def body(ctx: Context) -> dict[str, int]:
        calls = {}
        for name in ("reduce_object", "allreduce_object", "scan_object", "exscan_object"):
            count = 0

            def add(a: int, b: int) -> int:
                nonlocal count
                count += 1
                return a + b

            getattr(ctx, name)(ctx.rank, op=add)
            calls[name] = count
        return calls

    for rank, calls in enumerate(run_ranks(4, body)):
        assert calls == {
            "reduce_object": 0 if rank else 3,
            "allreduce_object": 3,
            "scan_object": rank,
            "exscan_object": max(rank - 1, 0),
        }


def test_what_one_rank_gets_is_its_own() -> None:
    def body(ctx: Context) -> None:
        mine = [ctx.rank]
        for found in (ctx.allgather_object(mine), ctx.alltoall_object([mine] * 3)):
            for each in found:
                each.append("changed")
        array = np.zeros(5)
        for found in (ctx.allgather_object(array), ctx.alltoall_object([array] * 3), [ctx.scatter_object([array] * 3)]):
            for each in found:
                each += 1
                assert not np.shares_memory(each, array)
        assert mine == [ctx.rank]
        assert array.tolist() == [0] * 5
        ctx.barrier()
        assert mine == [ctx.rank]

    run_ranks(3, body)


def test_received_arrays_are_writable_and_not_copied() -> None:
    def body(ctx: Context) -> None:
        for count in (10, 50_000):
            for found in (
                *ctx.allgather_object(np.arange(count)),
                *ctx.alltoall_object([np.arange(count)] * 2),
                ctx.scatter_object([np.arange(count)] * 2),
                *(ctx.gather_object(np.arange(count)) or ()),
                *([] if ctx.rank == 0 else [ctx.broadcast_object(root=0)]),
            ):
                assert found.flags.writeable
                assert not found.flags.owndata
            if ctx.rank == 0:
                ctx.broadcast_object(np.arange(count), root=0)
            read_only = np.arange(count)
            read_only.flags.writeable = False
            assert [each.flags.writeable for each in ctx.allgather_object(read_only)] == [False, False]

    run_ranks(2, body)


@pytest.mark.parametrize("length", [1, 50_000])
def test_what_is_passed_may_be_changed_at_once(length: int) -> None:
    def body(ctx: Context) -> None:
        array, items = np.full(length, ctx.rank), [ctx.rank] * length
        mine: Any = (array, items)
        peer = 1 - ctx.rank
        requests = {
            "allgather": ctx.iallgather_object(mine),
            "gather": ctx.igather_object(mine, root=1),
            "scatter": ctx.iscatter_object([mine, mine] if ctx.rank == 0 else None),
            "alltoall": ctx.ialltoall_object([mine, mine]),
            "allreduce": ctx.iallreduce_object([mine]),
            "exscan": ctx.iexscan_object([mine]),
            "receive": ctx.irecv_object(peer),
            "send": ctx.isend_object(mine, peer),
        }
        array[...] = -1
        items[:] = ["changed"]
        every = [(np.full(length, rank), [rank] * length) for rank in range(2)]
        wanted = {
            "allgather": every,
            "gather": every if ctx.rank == 1 else None,
            "scatter": every[0],
            "alltoall": every,
            "allreduce": every,
            "exscan": None if ctx.rank == 0 else every[:1],
            "receive": every[peer],
            "send": None,
        }
        for name in reversed(requests):
            same(requests[name].wait(), wanted[name])

    run_ranks(2, body)


# -- messages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_objects_go_round_a_ring(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        right, left = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        for make in OBJECTS.values():
            for name in ("send_object", "ssend_object"):
                for send in forms(ctx, name):
                    receiving = ctx.irecv_object(left, tag=7)
                    assert send(make(ctx.rank), right, tag=7) is None
                    same(receiving.wait(), make(left))
            for receive in forms(ctx, "recv_object"):
                for source, tag in ((left, 2), (ANY_SOURCE, 2), (left, ANY_TAG)):
                    sending = ctx.isend_object(make(ctx.rank), right, tag=2)
                    same(receive(source, tag=tag), make(left))
                    sending.wait()

    run_ranks(n, body, device=Device(transport=transport))


def test_objects_of_one_sender_stay_in_order_and_apart_by_tag() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            sends = [ctx.isend_object((number, bytes(number % 3 * EAGER_NBYTES)), 1, tag=number % 2) for number in range(20)]
            for request in sends:
                request.wait()
        else:
            for tag in (1, 0):
                for number in range(tag, 20, 2):
                    assert ctx.recv_object(0, tag=tag) == (number, bytes(number % 3 * EAGER_NBYTES))

    run_ranks(2, body)


def test_objects_beside_arrays() -> None:
    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        requests = [ctx.irecv_object(peer, tag=0), ctx.irecv(out := np.empty(3), peer, tag=1)]
        ctx.send(np.full(3, float(ctx.rank)), peer, tag=1)
        ctx.send_object({"rank": ctx.rank}, peer, tag=0)
        assert requests[0].wait() == {"rank": peer}
        assert requests[1].wait() == (peer, 1, 24)
        assert out.tolist() == [peer] * 3

    run_ranks(2, body)


def _mismatch(n: int, body: Callable[[Context], Any]) -> list[MismatchError]:
    def failing(ctx: Context) -> MismatchError:
        with pytest.raises(MismatchError) as caught:  # noqa: PT012
            body(ctx)
            ctx.barrier()
        assert ctx.closed
        return caught.value

    return run_ranks(n, failing, timeout=10)


@pytest.mark.parametrize("count", [3, EAGER_NBYTES])
def test_an_array_is_no_object(count: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.send(np.ones(count), 1, tag=4)
        else:
            ctx.recv_object(0, tag=ANY_TAG)

    error = _mismatch(2, body)[1]
    assert str(error) == (
        "ranks disagree on the message from rank 0 to rank 1 with tag 4: rank 1 called recv_object, "
        f"rank 0 called send(<f8, count {count}) of {8 * count} bytes; a receive needs the dtype that was sent and room for "
        "all of it; recv_array takes any array, recv_object any object"
    )


@pytest.mark.parametrize("length", [3, EAGER_NBYTES + 1])
def test_an_object_is_no_array(length: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.send_object(bytes(length), 1)
        else:
            ctx.recv(np.ones(EAGER_NBYTES), 0)

    error = _mismatch(2, body)[1]
    assert (error.rank, error.other) == (1, 0)
    assert error.here == f"recv(<f8, count {EAGER_NBYTES}) of at most {8 * EAGER_NBYTES} bytes"
    assert re.fullmatch(r"send_object of \d+ bytes", error.there)


@pytest.mark.parametrize(
    "name", ["broadcast", "gather", "allgather", "scatter", "alltoall", "reduce", "allreduce", "scan", "exscan"]
)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_ranks_that_disagree_about_an_operation_on_objects(n: int, name: str) -> None:
    def call(ctx: Context, name: str) -> Any:
        obj: Any = [[ctx.rank, bytes(ctx.rank % 2 * EAGER_NBYTES)]]
        return getattr(ctx, f"{name}_object")(obj * n if name in ("scatter", "alltoall") else obj)

    for odd in {0, 1, n - 1}:
        other = "allgather" if name != "allgather" else "allreduce"
        for error in _mismatch(n, lambda ctx: call(ctx, other if ctx.rank == odd else name)):  # noqa: B023
            roots = {"broadcast", "gather", "scatter", "reduce"}
            texts = {each: f"{each}_object({'root 0' * (each in roots)})" for each in (name, other)}
            assert {error.here, error.there} == set(texts.values())


@pytest.mark.parametrize("name", ["broadcast", "gather", "scatter", "reduce"])
def test_ranks_that_disagree_about_the_root(name: str) -> None:
    def body(ctx: Context) -> Any:
        obj: Any = ["x"] * 3
        return getattr(ctx, f"{name}_object")(obj, root=int(ctx.rank == 2))

    for error in _mismatch(3, body):
        assert {error.here, error.there} == {f"{name}_object(root {root})" for root in (0, 1)}


# -- misuse -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        def refused(name: str, error: type[Exception], text: str, *arguments: Any, **options: Any) -> None:
            for form in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                with pytest.raises(error) as caught:
                    form(*arguments, **options)
                assert str(caught.value) == text

        if ctx.rank == 0:  # alone: nothing that it does may reach the others
            for name in ("scatter_object", "alltoall_object"):
                for objects, found in ((None, "None"), ([], "0"), ([1] * (n + 1), str(n + 1))):
                    refused(name, ValueError, f"objects must be {n}, one for each rank, not {found}", objects)
            for name in ("broadcast_object", "gather_object", "scatter_object", "reduce_object"):
                for root in (n, -1):
                    refused(name, ValueError, f"root must be in range({n}), not {root}", [1] * n, root=root)
            for name in ("reduce_object", "allreduce_object", "scan_object", "exscan_object"):
                refused(name, TypeError, "op must be a callable f(a, b) -> c, not str", 1, op="sum")
            for name in ("send_object", "ssend_object"):
                refused(name, ValueError, f"dest must be in range({n}), not {n}", 1, n)
                refused(name, ValueError, f"tag must be in range({2**31}), not -1", 1, 0, tag=-1)
            refused("recv_object", ValueError, f"source must be in range({n}), not {n}", n)
            refused("recv_object", ValueError, f"tag must be in range({2**31}) or ANY_TAG, not -2", 0, tag=-2)
            with pytest.raises(ValueError, match=r"^timeout must be seconds >= 0 or None, not -1$"):
                ctx.allgather_object(1, timeout=-1)
        assert not ctx.closed
        assert ctx.allgather_object(ctx.rank) == list(range(n))

    run_ranks(n, body)


# -- objects that cannot be pickled -------------------------------------------------------------------------------------


class Refuses:
    def __reduce__(self) -> Any:
        raise ArithmeticError("not this one")


def _broken() -> Any:
    raise ArithmeticError("not here")


class BreaksOnArrival:
    def __reduce__(self) -> Any:
        return _broken, ()


COLLECTIVES: dict[str, Callable[[Context, Any], Any]] = {
    "broadcast": lambda ctx, obj: ctx.broadcast_object(obj),
    "gather": lambda ctx, obj: ctx.gather_object(obj),
    "allgather": lambda ctx, obj: ctx.allgather_object(obj),
    "scatter": lambda ctx, obj: ctx.scatter_object([1] * (ctx.size - 1) + [obj]),
    "alltoall": lambda ctx, obj: ctx.alltoall_object([1] * (ctx.size - 1) + [obj]),
    "reduce": lambda ctx, obj: ctx.reduce_object(obj, op=lambda a, b: a),
    "allreduce": lambda ctx, obj: ctx.allreduce_object(obj, op=lambda a, b: a),
    "scan": lambda ctx, obj: ctx.scan_object(obj, op=lambda a, b: a),
    "exscan": lambda ctx, obj: ctx.exscan_object(obj, op=lambda a, b: a),
}


@pytest.mark.parametrize("obj", [Refuses(), [np.arange(3), Refuses()]])
def test_what_cannot_be_pickled_is_refused_before_anything_is_sent(obj: Any) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for call in (
                *(lambda call=call: call(ctx, obj) for call in COLLECTIVES.values()),
                lambda: ctx.ibroadcast_object(obj),
                lambda: ctx.iallgather_object(obj),
                lambda: ctx.send_object(obj, 1),
                lambda: ctx.isend_object(obj, 1),
                lambda: ctx.ssend_object(obj, 1),
                lambda: ctx.issend_object(obj, 1),
            ):
                with pytest.raises(ArithmeticError, match=r"^not this one$"):
                    call()
            with pytest.raises(TypeError, match="pickle"):
                ctx.allgather_object(threading.Lock())
        assert not ctx.closed
        assert ctx.allgather_object(ctx.rank) == [0, 1]
        assert ctx.iprobe() is None

    run_ranks(2, body)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_what_cannot_be_unpickled_concerns_the_rank_that_unpickles_it(name: str) -> None:
    def body(ctx: Context) -> bool:
        failed = True
        with suppress(ArithmeticError):
            COLLECTIVES[name](ctx, BreaksOnArrival())
            failed = False
        assert ctx.allgather_object(ctx.rank) == [0, 1, 2]  # the Context goes on
        return failed

    assert any(run_ranks(3, body))


def test_a_message_that_cannot_be_unpickled_fails_its_own_request_alone() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.send_object(BreaksOnArrival(), 1)
            ctx.send_object(BreaksOnArrival(), 1)
        request = ctx.irecv_object(0) if ctx.rank == 1 else None
        if ctx.rank == 1:
            with pytest.raises(ArithmeticError, match=r"^not here$"):
                ctx.recv_object(0)
        ctx.barrier()
        if request is not None:
            assert request.done
            for _ in range(2):
                with pytest.raises(ArithmeticError, match=r"^not here$"):
                    request.wait()

    run_ranks(3, body)


def test_an_operator_that_raises_breaks_the_context_on_all_ranks() -> None:
    def body(ctx: Context) -> None:
        def picky(a: Any, b: Any) -> Any:
            raise ArithmeticError("no such sum")

        if ctx.rank == 0:
            ctx.reduce_object(1, op=picky)
        with pytest.raises(PeerLostError, match="it aborted: ArithmeticError: no such sum"):  # noqa: PT012
            ctx.reduce_object(1, op=picky)  # only the root calls it
            ctx.barrier()

    with pytest.raises(RankError, match=r"^rank 0 of 3 failed: ArithmeticError: no such sum$"):
        run_ranks(3, body)
