"""send, recv, sendrecv and their non-blocking forms: matching, order, sizes, and what does not fit."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest

from gloompi import ANY_SOURCE, ANY_TAG, Context, Device, MismatchError, Status
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5)
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = 3 * EAGER + 3
COUNTS = (0, 1, 7, 1000, EAGER, EAGER + 1, LARGE)

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


def values(rank: int, count: int, dtype: Any = "f8") -> np.ndarray:
    return (np.arange(count) * 3 + 1000 * rank).astype(dtype)


# -- receives that make an array ----------------------------------------------------------------------------------------

RECORD = np.dtype([("x", "<f8"), ("n", "<i4", (2,))], align=True)
DTYPES: list[Any] = ["?", "i1", "<u8", ">f8", "f2", "g", "c16", "S3", "<U20", "M8[ns]", "m8[D]", "M8", "V5", "V0"]
DTYPES += ["M8[25us]", ">m8[10000s]", "S1000000"]  # whose names have more than eight characters


@transports
@pytest.mark.parametrize("form", ["recv", "irecv", "mprobe", "improbe"])
def test_recv_array(form: str, transport: str) -> None:
    def receive(ctx: Context, source: int, tag: int) -> Any:
        if form == "recv":
            return ctx.recv_array(source, tag=tag)
        if form == "irecv":
            return ctx.irecv_array(source, tag=tag).wait()
        message = ctx.mprobe(source, tag=tag)
        assert (message.source, message.tag) == (1 - ctx.rank, 3)
        return message.recv_array() if form == "mprobe" else message.irecv_array().wait()

    def body(ctx: Context) -> None:
        other = 1 - ctx.rank
        for count in COUNTS:
            for source, tag in ((other, 3), (ANY_SOURCE, ANY_TAG)):
                sending = ctx.isend(values(ctx.rank, count), other, tag=3)
                found = receive(ctx, source, tag)
                assert (type(found), found.dtype, found.shape) == (np.ndarray, np.dtype("f8"), (count,))
                np.testing.assert_array_equal(found, values(other, count))
                found[...] = 0  # it is the caller's
                sending.wait()
            ctx.barrier()  # or a fast rank's next message would match the wildcards
        for dtype in map(np.dtype, DTYPES):
            for shape in ((), (0,), (4,), (2, 3), (2, 0)):
                x = np.zeros(shape, dtype)
                if dtype.kind not in "VM":
                    x[...] = 1
                sending = ctx.isend(x, other, tag=3)
                found = receive(ctx, other, 3)
                assert (found.dtype, found.shape) == (dtype, (x.size,))
                assert found.tolist() == x.ravel().tolist()
                sending.wait()

    run_ranks(2, body, device=Device(transport=transport))


def test_recv_array_of_what_has_no_room_in_a_fingerprint() -> None:
    def body(ctx: Context) -> None:
        for dtype in map(np.dtype, (RECORD, [], [("a", "V0")])):
            for count in (0, 5):
                x = np.zeros(count, dtype)
                if dtype.itemsize:
                    x.view("u1")[:] = np.arange(x.nbytes) % 2
                sending = ctx.isend(x, ctx.rank)
                found = ctx.recv_array(ctx.rank)
                sending.wait()
                assert (found.dtype.type, found.dtype.fields, found.shape) == (np.void, None, (count,))
                assert found.dtype.itemsize == (dtype.itemsize if count else 0)
                if dtype.itemsize:
                    assert found.view(dtype).tobytes() == x.tobytes()

    run_ranks(1, body)


def test_recv_array_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")

    def body(ctx: Context) -> None:
        for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.int4):
            for order in "<>":
                x = np.arange(5).astype(np.dtype(kind).newbyteorder(order))
                sending = ctx.isend(x, ctx.rank)
                found = ctx.recv_array(ctx.rank)
                sending.wait()
                assert found.dtype == x.dtype
                assert found.tolist() == x.tolist()

    run_ranks(1, body)


def test_recv_array_takes_its_turn_among_the_receives() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            ctx.barrier()
            for number in range(4):
                ctx.send(np.full(number + 1, number), 1)
        else:
            out = [np.empty(4, int), np.empty(4, int)]
            requests = [
                ctx.irecv_array(0),
                ctx.irecv(out[0], 0),
                ctx.irecv_array(ANY_SOURCE, tag=ANY_TAG),
                ctx.irecv(out[1], 0),
            ]
            ctx.barrier()
            found = [request.wait() for request in requests]
            assert [found[0].tolist(), out[0][:2].tolist(), found[2].tolist(), out[1].tolist()] == [
                [number] * (number + 1) for number in range(4)
            ]

    run_ranks(2, body)


def test_recv_array_can_be_cancelled() -> None:
    def body(ctx: Context) -> None:
        request = ctx.irecv_array(ctx.rank)
        assert request.cancel()
        assert request.wait() is None
        ctx.isend(np.ones(3), ctx.rank)
        assert ctx.recv_array(ctx.rank).tolist() == [1] * 3

    run_ranks(1, body)


@pytest.mark.parametrize("length", [3, EAGER_NBYTES + 1])
def test_recv_array_takes_no_object(length: int) -> None:
    def body(ctx: Context) -> str:
        with pytest.raises(MismatchError) as caught:  # noqa: PT012
            if ctx.rank == 0:
                ctx.send_object(bytes(length), 1)
                ctx.recv(np.empty(1), 1)
            else:
                ctx.recv_array(0)
        return str(caught.value)

    text = run_ranks(2, body)[1]
    assert "rank 1 called recv_array, rank 0 called send_object of " in text


def test_recv_array_in_the_history() -> None:
    def body(ctx: Context) -> None:
        ctx.isend(np.ones(3), ctx.rank)
        ctx.recv_array(ANY_SOURCE)
        last = ctx.history()[-1]
        assert (last.name, last.peer, last.dtype, last.count, last.nbytes) == ("recv_array", ctx.rank, None, None, None)

    run_ranks(1, body)


# -- all forms, all pairs ---------------------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize("n", SIZES)
def test_every_rank_sends_to_every_rank(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for count in COUNTS:
            requests = [ctx.isend(values(ctx.rank + 10 * dest, count), dest, tag=dest) for dest in range(n)]
            for source in range(n):
                out = np.full(count, -1.0)
                status = ctx.recv(out, source, tag=ctx.rank)
                assert status == Status(source, ctx.rank, 8 * count)
                np.testing.assert_array_equal(out, values(source + 10 * ctx.rank, count))
            for request in requests:
                assert request.wait() is None

    run_ranks(n, body, device=Device(transport=transport))


@transports
@pytest.mark.parametrize("n", SIZES)
def test_send_and_recv_around_a_ring(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        after, before = (ctx.rank + 1) % n, (ctx.rank - 1) % n
        for count in COUNTS:
            x, out = values(ctx.rank, count), np.full(count, -1.0)
            status = ctx.sendrecv(x, after, out, before, sendtag=5, recvtag=5)
            assert status == Status(before, 5, 8 * count)
            np.testing.assert_array_equal(out, values(before, count))

            request = ctx.isendrecv(x, before, out, after, sendtag=6, recvtag=ANY_TAG)
            assert request.wait() == Status(after, 6, 8 * count)
            np.testing.assert_array_equal(out, values(after, count))

            if n > 1 and ctx.rank == 0:
                ctx.send(x, after, tag=7)
                ctx.recv(out, before, tag=7)
            elif n > 1:
                ctx.recv(out, before, tag=7)
                ctx.send(out, after, tag=7)
            if n > 1:
                np.testing.assert_array_equal(out, values(0, count))

    run_ranks(n, body, device=Device(transport=transport))


@transports
def test_both_send_large_messages_to_each_other(transport: str) -> None:
    def body(ctx: Context) -> None:
        peer = 1 - ctx.rank
        # A blocking send of a large message waits for its receive, so both receives have to be posted by somebody.
        count = 10 * LARGE
        out = np.full(count, -1.0)
        incoming = ctx.irecv(out, peer)
        ctx.send(values(ctx.rank, count), peer)
        assert incoming.wait() == Status(peer, 0, 8 * count)
        np.testing.assert_array_equal(out, values(peer, count))
        back = np.empty(count)
        assert ctx.sendrecv(out, peer, back, peer).nbytes == 8 * count
        np.testing.assert_array_equal(back, values(ctx.rank, count))
        outgoing = [ctx.isend(values(ctx.rank, LARGE), peer, tag=tag) for tag in range(5)]
        for tag in reversed(range(5)):
            ctx.recv(out, peer, tag=tag)
            np.testing.assert_array_equal(out[:LARGE], values(peer, LARGE))
        for request in outgoing:
            request.wait()

    run_ranks(2, body, device=Device(transport=transport))


# -- to oneself -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2])
def test_messages_to_oneself(n: int) -> None:
    def body(ctx: Context) -> None:
        me = ctx.rank
        for count in COUNTS:
            for source, tag in itertools.product((me, ANY_SOURCE), (3, ANY_TAG)):
                out = np.full(count, -1.0)
                sent = ctx.isend(values(me, count), me, tag=3)  # before its receive
                assert ctx.recv(out, source, tag=tag) == Status(me, 3, 8 * count)
                sent.wait()
                np.testing.assert_array_equal(out, values(me, count))

                out = np.full(count, -1.0)
                received = ctx.irecv(out, source, tag=tag)
                ctx.send(values(me, count), me, tag=3)  # after it
                assert received.wait() == Status(me, 3, 8 * count)
                np.testing.assert_array_equal(out, values(me, count))

                out = np.full(count, -1.0)
                assert ctx.sendrecv(values(me, count), me, out, source, sendtag=3, recvtag=tag) == (me, 3, 8 * count)
                np.testing.assert_array_equal(out, values(me, count))

    run_ranks(n, body)


def test_more_messages_to_oneself_than_there_is_credit_for() -> None:
    def body(ctx: Context) -> None:
        requests = [ctx.isend(np.full(128, number), ctx.rank) for number in range(3000)]
        out = np.empty(128, int)
        for number in range(3000):
            ctx.recv(out, ctx.rank)
            assert out[0] == out[-1] == number
        for request in requests:
            request.wait()

    run_ranks(1, body)


# -- matching ---------------------------------------------------------------------------------------------------------


@transports
def test_messages_of_one_source_and_tag_keep_their_order(transport: str) -> None:
    # Small and large ones mixed: the large ones wait for their receive, but do not lose their place.
    counts = [3, LARGE, 0, 2 * EAGER, 1, EAGER, EAGER + 1, 2, LARGE, 5]

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            requests = [ctx.isend(values(index, count), 1, tag=tag) for index, count in enumerate(counts) for tag in (1, 2)]
            for request in requests:
                request.wait()
            return
        out = np.empty(LARGE)
        for tag in (2, 1):
            for index, count in enumerate(counts):
                assert ctx.recv(out, 0, tag=tag) == Status(0, tag, 8 * count)
                np.testing.assert_array_equal(out[:count], values(index, count))

    run_ranks(2, body, device=Device(transport=transport))


def test_receives_match_in_the_order_of_their_posting() -> None:
    wanted = ((0, 7), (ANY_SOURCE, ANY_TAG), (0, 8), (ANY_SOURCE, ANY_TAG), (0, ANY_TAG), (ANY_SOURCE, 7))

    def body(ctx: Context) -> list[int]:
        if ctx.rank == 0:
            ctx.barrier()
            for number, tag in enumerate((7, 8, 7, 8, 7, 7)):
                ctx.send(np.array([number]), 1, tag=tag)
            return []
        outs = np.full((6, 1), -1)
        requests = [ctx.irecv(out, source, tag=tag) for out, (source, tag) in zip(outs, wanted, strict=True)]
        ctx.barrier()
        for request in reversed(requests):
            request.wait()
        return outs[:, 0].tolist()

    # Each message goes to the first receive left that admits it: message 2 passes over the third, which wants tag 8.
    assert run_ranks(2, body)[1] == [0, 1, 3, 2, 4, 5]


@transports
@pytest.mark.parametrize("n", [2, 3, 5])
def test_any_source_and_any_tag_take_everything_once(n: int, transport: str) -> None:
    counts = (0, 5, 2 * EAGER)

    def body(ctx: Context) -> None:
        if ctx.rank:
            requests = [ctx.isend(values(ctx.rank, count, "i8") + tag, 0, tag=tag) for tag in range(10) for count in counts]
            for request in requests:
                request.wait()
            return
        seen: dict[tuple[int, int], list[int]] = {}
        out = np.empty(2 * EAGER, "i8")
        for _ in range((n - 1) * 10 * len(counts)):
            source, tag, nbytes = ctx.recv(out, ANY_SOURCE, tag=ANY_TAG)
            np.testing.assert_array_equal(out[: nbytes // 8], values(source, nbytes // 8, "i8") + tag)
            seen.setdefault((source, tag), []).append(nbytes // 8)
        assert seen == {(source, tag): list(counts) for source in range(1, n) for tag in range(10)}

    run_ranks(n, body, device=Device(transport=transport))


def test_any_source_with_a_tag_and_a_source_with_any_tag() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank:
            ctx.send(np.array([10 * ctx.rank]), 0, tag=1)
            ctx.send(np.array([10 * ctx.rank + 1]), 0, tag=ctx.rank + 1)
            ctx.barrier()
            return
        ctx.barrier()  # all of them are here before their receives
        out = np.empty(1, int)
        assert ctx.recv(out, 2, tag=ANY_TAG) == Status(2, 1, 8)
        assert out == 20
        assert ctx.recv(out, ANY_SOURCE, tag=3) == Status(2, 3, 8)
        assert out == 21
        assert ctx.recv(out, ANY_SOURCE, tag=1) == Status(1, 1, 8)
        assert out == 10
        assert ctx.recv(out, ANY_SOURCE, tag=ANY_TAG) == Status(1, 2, 8)
        assert out == 11

    run_ranks(3, body)


def test_messages_and_collectives_do_not_match_each_other() -> None:
    def body(ctx: Context) -> None:
        out = np.empty(1)
        request = ctx.irecv(out, ANY_SOURCE, tag=ANY_TAG)
        for _ in range(5):
            assert ctx.allreduce(np.ones(1)) == ctx.size
            assert ctx.allreduce(np.ones(LARGE))[-1] == ctx.size
        assert not request.test()
        ctx.barrier()
        ctx.send(np.array([7.0]), (ctx.rank + 1) % ctx.size)
        assert request.wait() == Status((ctx.rank - 1) % ctx.size, 0, 8)
        assert out == 7

    run_ranks(3, body)


def test_the_smallest_and_largest_tag() -> None:
    def body(ctx: Context) -> None:
        out = np.empty(1)
        for tag in (0, 2**31 - 1):
            for dest in (0, 1):
                request = ctx.isend(np.array([float(tag)]), dest, tag=tag)
                if ctx.rank == dest:
                    for source in (0, 1):
                        assert ctx.recv(out, source, tag=tag) == Status(source, tag, 8)
                        assert out == tag
                request.wait()

    run_ranks(2, body)


# -- bounded memory ---------------------------------------------------------------------------------------------------


@transports
def test_many_small_messages_without_a_receiver(transport: str) -> None:
    count = 50_000  # of 1 KiB, and what is kept of each: more than may come unasked

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            requests = [ctx.isend(np.full(128, number), 1, tag=number % 3) for number in range(count)]
            assert not requests[-1].test()  # without credit it waits for its receive
            assert requests[0].test()
            ctx.barrier()
            for request in requests:
                request.wait()
            ctx.send(np.array([1]), 1, tag=9)  # with new credit
            return
        ctx.barrier()
        out = np.empty(128, int)
        for tag in (1, 0, 2):
            for number in range(tag, count, 3):
                assert ctx.recv(out, ANY_SOURCE, tag=tag) == Status(0, tag, 1024)
                assert out[0] == out[-1] == number
        ctx.recv(out, 0, tag=9)

    run_ranks(2, body, device=Device(transport=transport))


def test_credit_comes_back() -> None:
    def body(ctx: Context) -> None:
        out = np.empty(1000)
        for number in range(1000):  # 8 MB in all
            if ctx.rank == 0:
                ctx.send(np.full(1000, float(number)), 1)
            else:
                ctx.recv(out, 0)
                assert out[0] == out[-1] == number

    run_ranks(2, body)


# -- sizes and dtypes -------------------------------------------------------------------------------------------------


def test_a_shorter_message_fills_the_beginning() -> None:
    def body(ctx: Context) -> None:
        for count in (0, 1, 1000, 2 * EAGER):
            if ctx.rank == 0:
                ctx.send(values(0, count), 1)
                ctx.send(values(0, count), 1)
            else:
                out = np.full(LARGE, -1.0)
                assert ctx.recv(out, 0) == Status(0, 0, 8 * count)
                np.testing.assert_array_equal(out[:count], values(0, count))
                assert (out[count:] == -1).all()
                grid = np.full((2, LARGE), -1.0)[:, ::2]  # not contiguous
                assert ctx.recv(grid, 0).nbytes == 8 * count
                np.testing.assert_array_equal(grid.ravel()[:count], values(0, count))
                assert (grid.ravel()[count:] == -1).all()

    run_ranks(2, body)


def test_empty_messages_carry_source_and_tag() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            for tag in (4, 5):
                ctx.send(np.empty(0), 1, tag=tag)
            ctx.send(np.empty((3, 0)), 1, tag=6)
        else:
            assert ctx.recv(np.empty(0), ANY_SOURCE, tag=ANY_TAG) == Status(0, 4, 0)
            assert ctx.recv(np.empty(5), 0, tag=5) == Status(0, 5, 0)
            assert ctx.recv(np.empty((0, 2)), 0, tag=6) == Status(0, 6, 0)

    run_ranks(2, body)


def test_uint8_receives_the_raw_bytes_of_any_dtype() -> None:
    dtypes = ("?", "i1", "u2", "i8", "f2", "f8", "g", "c16", ">f4", "S5", "U3", "M8[ns]", "i1,f8")
    long = EAGER_NBYTES // 3  # items of 1 and 2 bytes go without asking, longer ones wait

    def body(ctx: Context) -> None:
        for dtype, count in itertools.product(dtypes, (0, 3, long)):
            raw = np.random.default_rng(count).integers(0, 2, count * np.dtype(dtype).itemsize, "u1")
            if ctx.rank == 0:
                ctx.send(raw.view(dtype), 1)
                ctx.send(raw.view(dtype), 1)
            else:
                out = np.full(raw.size + 10, 99, "u1")
                assert ctx.recv(out, 0) == Status(0, 0, raw.size)
                assert out[: raw.size].tobytes() == raw.tobytes()
                assert (out[raw.size :] == 99).all()
                same = np.empty(count, dtype)
                ctx.recv(same, 0)
                assert same.tobytes() == raw.tobytes()

    run_ranks(2, body)


def _mismatch(sent: Any, out: Any, transport: str = "unix", *, posted: bool = False, tag: int = 0) -> MismatchError:
    """Send and receive what does not fit; check that both ranks find out, and return the error."""

    def body(ctx: Context) -> MismatchError:
        with pytest.raises(MismatchError) as caught:  # noqa: PT012
            if ctx.rank == 0:
                if posted:
                    ctx.barrier()
                ctx.send(sent, 1, tag=tag)
                ctx.barrier()
            elif posted:
                request = ctx.irecv(out, 0, tag=ANY_TAG)
                ctx.barrier()
                request.wait()
            else:
                ctx.recv(out, ANY_SOURCE, tag=tag)
        with pytest.raises(MismatchError):
            ctx.barrier()
        return caught.value

    told, found = run_ranks(2, body, device=Device(transport=transport))
    assert (found.rank, found.other, found.reported_by) == (1, 0, None)
    assert (told.rank, told.other, told.reported_by) == (1, 0, 1)
    assert str(told) == f"{found} (reported by rank 1)"
    assert (told.here, told.there, told.operation) == (found.here, found.there, found.operation)
    return found


@transports
@pytest.mark.parametrize("posted", [False, True])
def test_a_message_that_is_too_long_is_a_mismatch(posted: bool, transport: str) -> None:
    error = _mismatch(np.ones(4), np.ones(3), transport, posted=posted, tag=7)
    assert str(error) == (
        "ranks disagree on the message from rank 0 to rank 1 with tag 7: rank 1 called recv(<f8, count 3) of at most 24 "
        "bytes, rank 0 called send(<f8, count 4) of 32 bytes; a receive needs the dtype that was sent and room for all of "
        "it; recv_array takes any array, recv_object any object"
    )
    error = _mismatch(np.ones(LARGE), np.ones(LARGE - 1), transport, posted=posted)
    assert error.here == f"recv(<f8, count {LARGE - 1}) of at most {8 * (LARGE - 1)} bytes"
    assert error.there == f"send(<f8, count {LARGE}) of {8 * LARGE} bytes"
    error = _mismatch(np.ones(2, "i4"), np.ones(7, "u1"), transport, posted=posted)
    assert error.here == "recv(|u1, count 7) of at most 7 bytes"
    assert error.there == "send(<i4, count 2) of 8 bytes"


@pytest.mark.parametrize("posted", [False, True])
@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ("f4", "f8"),
        ("i8", "f8"),
        ("i4", "u4"),
        (">f8", "<f8"),
        ("u1", "i1"),
        ("u1", "f8"),
        ("M8[s]", "M8[ms]"),
        ("S3", "S4"),
    ],
)
def test_another_dtype_is_a_mismatch(sent: str, wanted: str, posted: bool) -> None:
    for count in (2, EAGER_NBYTES + 1):  # of any length
        error = _mismatch(np.zeros(count, sent), np.zeros(2 * count, wanted), posted=posted)
        assert error.here.startswith(f"recv({np.dtype(wanted).str}, count ")
        assert error.there.startswith(f"send({np.dtype(sent).str}, count ")


def test_another_structure_is_a_mismatch() -> None:
    sent = np.zeros(3, [("a", "<f8"), ("b", "<i8")])
    error = _mismatch(sent, np.zeros(3, [("a", "<i8"), ("b", "<f8")]))
    assert error.here != error.there.replace("send", "recv")


# -- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_is_refused_before_anything_is_sent() -> None:
    def body(ctx: Context) -> None:
        x = np.ones(3)
        read_only = np.ones(3)
        read_only.flags.writeable = False
        calls: list[tuple[Any, type[Exception], str]] = [
            (lambda: ctx.send(x, 2), ValueError, "dest must be in range(2), not 2"),
            (lambda: ctx.send(x, ANY_SOURCE), ValueError, "dest must be in range(2), not -1"),
            (lambda: ctx.isend(x, -2), ValueError, "dest must be in range(2), not -2"),
            (lambda: ctx.recv(x, 2), ValueError, "source must be in range(2), not 2"),
            (lambda: ctx.irecv(x, -2), ValueError, "source must be in range(2), not -2"),
            (lambda: ctx.send(x, 1, tag=-1), ValueError, "tag must be in range(2147483648), not -1"),
            (lambda: ctx.send(x, 1, tag=2**31), ValueError, "tag must be in range(2147483648), not 2147483648"),
            (lambda: ctx.recv(x, 1, tag=-2), ValueError, "tag must be in range(2147483648) or ANY_TAG, not -2"),
            (lambda: ctx.sendrecv(x, 2, x, 0), ValueError, "dest must be in range(2), not 2"),
            (lambda: ctx.sendrecv(x, 0, x, 2), ValueError, "source must be in range(2), not 2"),
            (lambda: ctx.sendrecv(x, 0, x, 0, sendtag=ANY_TAG), ValueError, "tag must be in range(2147483648), not -1"),
            (lambda: ctx.recv(read_only, 0), ValueError, "out is read-only"),
            (
                lambda: ctx.recv([0], 0),
                TypeError,
                "out must be an array, a buffer or a DLPack tensor, not list; recv_object takes any object, recv_array any "
                "array",
            ),
            (lambda: ctx.recv(b"abc", 0), ValueError, "out is read-only"),
        ]
        for call, error, text in calls:
            with pytest.raises(error) as caught:
                call()
            assert str(caught.value) == text
        with pytest.raises(TypeError):
            ctx.send(x, "1")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            ctx.send(x, 1, tag=1.5)  # type: ignore[arg-type]
        ctx.sendrecv(np.full(3, ctx.rank), np.int32(1 - ctx.rank), x := np.empty(3, int), np.int64(1 - ctx.rank))
        assert (x == 1 - ctx.rank).all()

    run_ranks(2, body)


def test_a_send_is_on_its_way_when_it_returns() -> None:
    sent, changed = threading.Event(), threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            x = np.arange(1000)
            ctx.send(x, 1)
            x[:] = -1  # may be changed now, whether or not it was received
            changed.set()
            assert sent.wait(30)
        else:
            assert changed.wait(30)
            out = np.empty(1000, int)
            ctx.recv(out, 0)
            np.testing.assert_array_equal(out, np.arange(1000))
            sent.set()

    run_ranks(2, body)
