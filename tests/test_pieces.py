"""gatherv, allgatherv, scatterv, alltoallv: pieces of any length, and what happens when their places do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from layouts import assert_only_inside, layouts
from operations import forms

from gloompi import Context, Device, MismatchError
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

SIZES = (1, 2, 3, 4, 5, 8)
WORLDS = [*((n, "unix") for n in SIZES), (3, "tcp"), (4, "tcp")]
EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
DTYPES = ("?", "b", "H", "i", "L", "e", "f", "d", "g", "F", "D", "G", ">i4", ">f8", "S5", "U3", "M8[ns]")

# How many rows rank r has for rank s.
LENGTHS: dict[str, Callable[[int, int], int]] = {
    "none": lambda rank, dest: 0,
    "equal": lambda rank, dest: 3,
    "different": lambda rank, dest: 2 * rank + 3 * dest,
    "some none": lambda rank, dest: (rank + dest) % 2 * 5,
    "around what is sent without asking": lambda rank, dest: EAGER - 1 + (rank + 2 * dest) % 4,
    "short and long": lambda rank, dest: (rank + dest) % 2 * 3 * EAGER + 1,
}


def piece(rank: int, dest: int, length: int, row: tuple[int, ...] = (), dtype: Any = "f8") -> np.ndarray:
    count = length * int(np.prod(row))
    return ((np.arange(count) + 10 * rank + dest) % 100).astype(dtype).reshape(length, *row)


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """The same pieces in arrays of their own."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(one, other)
        assert one.flags.writeable
    for number, one in enumerate(found):
        assert not any(np.shares_memory(one, other) for other in found[:number])


def places(pieces: list[np.ndarray]) -> list[np.ndarray]:
    return [np.zeros_like(each) for each in pieces]


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_allgatherv_gives_every_rank_all_pieces(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "allgatherv"):
            for length in LENGTHS.values():
                every = [piece(rank, 1, length(rank, 1)) for rank in range(n)]
                x = every[ctx.rank].copy()
                found = form(x)
                same(found, every)
                assert not any(np.shares_memory(x, each) for each in found)
                out = places(every)
                given = form(x, out)
                assert all(one is other for one, other in zip(given, out, strict=True))
                same(out, every)
                # In place: this rank's piece is where it belongs.
                out = places(every)
                out[ctx.rank][...] = x
                same(form(out[ctx.rank], tuple(out)), every)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_gatherv_gives_the_root_all_pieces(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "gatherv"):
            for length in LENGTHS.values():
                for root in {0, n // 2, n - 1}:
                    every = [piece(rank, root, length(rank, 1)) for rank in range(n)]
                    x = every[ctx.rank].copy()
                    found, out = form(x, root=root), places(every)
                    given = form(x, out if ctx.rank == root else "whatever", root=root)
                    if ctx.rank != root:
                        assert found is None
                        assert given is None
                        continue
                    same(found, every)
                    assert not any(np.shares_memory(x, each) for each in found)
                    assert all(one is other for one, other in zip(given, out, strict=True))
                    same(out, every)

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_scatterv_gives_every_rank_its_piece(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "scatterv"):
            for length in LENGTHS.values():
                for root in {0, n // 2, n - 1}:
                    every = [piece(root, rank, length(rank, 1)) for rank in range(n)]
                    pieces = every if ctx.rank == root else "whatever"
                    found = form(pieces, root=root)
                    same([found], [every[ctx.rank]])
                    assert not any(np.shares_memory(found, each) for each in every)
                    out = np.zeros_like(every[ctx.rank])
                    assert form(pieces, out, root=root) is out
                    same([out], [every[ctx.rank]])
                    # Some may say where, others not.
                    found = form(pieces, out if ctx.rank % 2 else None, root=root)
                    np.testing.assert_array_equal(found, every[ctx.rank])
                    # In place: the root's own piece stays where it is.
                    found = form(pieces, every[root] if ctx.rank == root else None, root=root)
                    np.testing.assert_array_equal(found, piece(root, ctx.rank, length(ctx.rank, 1)))

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize(("n", "transport"), WORLDS)
def test_alltoallv_gives_every_rank_a_piece_of_each(n: int, transport: str) -> None:
    def body(ctx: Context) -> None:
        for form in forms(ctx, "alltoallv"):
            for length in LENGTHS.values():
                mine = [piece(ctx.rank, dest, length(ctx.rank, dest)) for dest in range(n)]
                come = [piece(source, ctx.rank, length(source, ctx.rank)) for source in range(n)]
                found = form(mine)
                same(found, come)
                assert not any(np.shares_memory(one, other) for one in found for other in mine)
                out = places(come)
                given = form(tuple(mine), out)
                assert all(one is other for one, other in zip(given, out, strict=True))
                same(out, come)
                for dest, each in enumerate(mine):
                    np.testing.assert_array_equal(each, piece(ctx.rank, dest, length(ctx.rank, dest)))

    run_ranks(n, body, device=Device(transport=transport))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pieces_keep_dtype_and_rows(n: int) -> None:
    def body(ctx: Context) -> None:
        for dtype in DTYPES:
            for row in ((), (1,), (2, 3), (2, 1, EAGER // 4)):
                every = [piece(rank, 0, 2 * rank % 3, row, dtype) for rank in range(n)]
                same(ctx.allgatherv(every[ctx.rank]), every)
                gathered = ctx.gatherv(every[ctx.rank], root=n - 1)
                if ctx.rank == n - 1:
                    assert gathered is not None
                    same(gathered, every)
                same([ctx.scatterv(every if ctx.rank == 0 else None)], [every[ctx.rank]])
                mine = [piece(ctx.rank, dest, (ctx.rank + dest) % 3, row, dtype) for dest in range(n)]
                come = [piece(source, ctx.rank, (source + ctx.rank) % 3, row, dtype) for source in range(n)]
                same(ctx.alltoallv(mine), come)

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pieces_of_bfloat16_and_structures(n: int) -> None:
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    structure = np.dtype([("a", "i4"), ("b", "f8"), ("c", "S3")])

    def body(ctx: Context) -> None:
        for dtype in (bfloat16, structure):
            every = [
                np.array([(number, rank, b"abc") for number in range(rank + 1)], dtype)
                if dtype is structure
                else piece(rank, 0, rank + 1, (), dtype)
                for rank in range(n)
            ]
            for found in (ctx.allgatherv(every[ctx.rank]), ctx.alltoallv([every[ctx.rank]] * n)):
                assert [each.tolist() for each in found] == [each.tolist() for each in every]
                assert {each.dtype for each in found} == {dtype}
            part = ctx.scatterv(every if ctx.rank == 0 else None)
            assert (part.tolist(), part.dtype) == (every[ctx.rank].tolist(), dtype)

    run_ranks(n, body)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_rows_without_bytes_keep_their_number(n: int) -> None:
    def body(ctx: Context) -> None:
        for row in ((0,), (2, 0)):
            every = [np.empty((rank + 1, *row)) for rank in range(n)]
            shapes = [each.shape for each in every]
            assert [each.shape for each in ctx.allgatherv(every[ctx.rank])] == shapes
            assert [each.shape for each in ctx.alltoallv([every[ctx.rank]] * n)] == shapes
            assert [each.shape for each in ctx.gatherv(every[ctx.rank]) or every] == shapes
            assert ctx.scatterv(every if ctx.rank == 0 else None).shape == shapes[ctx.rank]

    run_ranks(n, body)


def test_scatterv_pieces_may_be_of_different_kinds() -> None:
    pieces: list[Any] = [np.arange(6, dtype="i2").reshape(2, 3), 2.5, np.array([], ">f4"), [1j, 2j], np.array("abc")]

    def body(ctx: Context) -> None:
        for form in forms(ctx, "scatterv"):
            found = form(pieces if ctx.rank == 3 else None, root=3)
            wanted = np.asarray(pieces[ctx.rank])
            assert (found.shape, found.dtype, found.tolist()) == (wanted.shape, wanted.dtype, wanted.tolist())

    run_ranks(len(pieces), body)


@pytest.mark.parametrize("n", SIZES)
def test_every_layout_goes_in_and_out(n: int) -> None:
    def body(ctx: Context) -> None:
        for row in ((2,), (5 * EAGER // 8,)):  # 3 rows of the second do not go without asking
            every = [piece(rank, 1, 3, row) for rank in range(n)]
            arrangements = [list(layouts(each)) for each in every]
            for number in range(4):
                x = arrangements[ctx.rank][number]
                out = [list(layouts(np.zeros_like(each)))[(rank + number) % 4] for rank, each in enumerate(every)]
                for form in forms(ctx, "allgatherv"):
                    same(form(x), every)
                    form(x, out)
                    for place, wanted in zip(out, every, strict=True):
                        np.testing.assert_array_equal(place, wanted)
                        assert_only_inside(place)
                        place[...] = 0
                for form in forms(ctx, "gatherv"):
                    if form(x, out, root=n - 1) is not None:
                        for place, wanted in zip(out, every, strict=True):
                            np.testing.assert_array_equal(place, wanted)
                            assert_only_inside(place)
                pieces = [arrangement[number] for arrangement in arrangements]
                for form in forms(ctx, "scatterv"):
                    place = out[ctx.rank]
                    place[...] = 0
                    assert form(pieces if ctx.rank == 0 else None, place) is place
                    np.testing.assert_array_equal(place, every[ctx.rank])
                    assert_only_inside(place)
                for form in forms(ctx, "alltoallv"):
                    for each in out:
                        each[...] = 0
                    form(pieces, out)
                    for place in out:
                        np.testing.assert_array_equal(place, every[ctx.rank])
                        assert_only_inside(place)

    run_ranks(n, body)


def test_rows_of_an_array_are_pieces_and_places() -> None:
    def body(ctx: Context) -> None:
        x = np.arange(12.0).reshape(3, 4) + 100 * ctx.rank
        out = np.zeros((3, 4))
        found = ctx.alltoallv(x, out)
        np.testing.assert_array_equal(out, [np.arange(4) + 4 * ctx.rank + 100 * rank for rank in range(3)])
        assert all(np.shares_memory(each, out) for each in found)
        np.testing.assert_array_equal(ctx.scatterv(x if ctx.rank == 1 else None, root=1), np.arange(4) + 4 * ctx.rank + 100)
        assert [each.tolist() for each in ctx.allgatherv([ctx.rank] * ctx.rank or np.empty(0, int))] == [[], [1], [2, 2]]

    run_ranks(3, body)


def test_a_read_only_input_may_repeat_memory() -> None:
    def body(ctx: Context) -> None:
        x = np.broadcast_to(np.array([1.0, 2.0]) * (ctx.rank + 1), (ctx.rank + 1, 2))
        assert [each.tolist() for each in ctx.allgatherv(x)] == [[[1, 2]], [[2, 4]] * 2]
        assert [each.tolist() for each in ctx.alltoallv([x, x])] == [[[1, 2]], [[2, 4]] * 2]

    run_ranks(2, body)


# -- overlap ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 3 * EAGER])
def test_a_place_of_gatherv_may_be_the_input(count: int) -> None:
    def body(ctx: Context) -> None:
        x = np.full(count, ctx.rank + 1.0)
        if ctx.rank:
            request = ctx.igatherv(x)
            ctx.send(np.ones(1), 0)
            request.wait()
            return
        for rank in (1, 2):
            ctx.recv(np.ones(1), rank)  # their pieces, or that they come, are here before
        found = ctx.gatherv(x, [np.zeros(count), x, np.zeros(count)])
        assert found is not None
        assert [set(each.tolist()) for each in found] == [{1.0}, {2.0}, {3.0}]

    run_ranks(3, body)


@pytest.mark.parametrize("count", [100, 3 * EAGER])
def test_a_place_of_allgatherv_may_be_the_input(count: int) -> None:
    def body(ctx: Context) -> None:
        x = np.full(count, ctx.rank + 1.0)
        left = (ctx.rank - 1) % 3
        out = [x if rank == left else np.zeros(count) for rank in range(3)]
        if ctx.rank == 2:
            ctx.recv(np.ones(1), left)  # its piece, or that it comes, is here before
            found = ctx.allgatherv(x, out)
        else:
            request = ctx.iallgatherv(x, out)
            if ctx.rank == 1:
                ctx.send(np.ones(1), 2)
            found = request.wait()
        assert [set(each.tolist()) for each in found] == [{1.0}, {2.0}, {3.0}]

    run_ranks(3, body)


@pytest.mark.parametrize("count", [100, 3 * EAGER])
def test_the_place_of_scatterv_may_be_a_piece_of_another_rank(count: int) -> None:
    def body(ctx: Context) -> None:
        pieces = [np.full(count, rank + 1.0) for rank in range(3)] if ctx.rank == 0 else None
        found = ctx.scatterv(pieces, pieces[1] if pieces else None)
        assert set(found.tolist()) == {ctx.rank + 1.0}

    run_ranks(3, body)


# -- what one rank can see by itself --------------------------------------------------------------------------------------


def _refused(call: Callable[..., Any], error: type[Exception], text: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert str(caught.value) == text


@pytest.mark.parametrize("n", [2, 3])
def test_misuse_is_refused_before_anything_is_sent(n: int) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:  # alone: nothing that it does may reach the others
            x, read_only = np.ones((2, 3)), np.ones((2, 3))
            read_only.flags.writeable = False
            good = [np.ones((2, 3)) for _ in range(n)]
            for name in ("gatherv", "allgatherv"):
                for call in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                    text = "x must have at least one axis: pieces differ in length along the first"
                    _refused(call, ValueError, text, 1.0)
                    _refused(call, TypeError, "x has dtype object: Python objects cannot be sent as an array", [None])
            for name in ("gatherv", "allgatherv", "alltoallv"):
                for call in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                    given = good if name == "alltoallv" else x
                    for length in (n - 1, n + 1):
                        text = f"out must be a list of {n} arrays, one for each rank, not of {length}"
                        _refused(call, ValueError, text, given, [np.ones((2, 3))] * length)
                    wrong: list[tuple[Any, type[Exception], str]] = [
                        (read_only, ValueError, "out[1] is read-only"),
                        (
                            np.ones((2, 4)),
                            ValueError,
                            "out[1] must have shape (n, 3), like the other pieces, not (2, 4)",
                        ),
                        (np.ones(()), ValueError, "out[1] must have shape (n, 3), like the other pieces, not ()"),
                        (
                            np.ones((2, 3), "f4"),
                            TypeError,
                            "out[1] must have dtype float64, like the other pieces, not float32",
                        ),
                        (
                            [[1.0] * 3] * 2,
                            TypeError,
                            "out[1] must be an array, a buffer or a DLPack tensor, not list",
                        ),
                    ]
                    for place, error, text in wrong:
                        _refused(call, error, text, given, [good[0], place, *good[2:]])
            for name in ("scatterv", "alltoallv"):
                for call in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                    for pieces, found in ((None, "None"), ([], "0"), ([x] * (n + 1), str(n + 1))):
                        text = f"pieces must be a list of {n} arrays, one for each rank, not {found}"
                        _refused(call, ValueError, text, pieces)
                    text = "pieces[1] has dtype object: Python objects cannot be sent as an array"
                    _refused(call, TypeError, text, [x, [None], *good[2:]])
            for call in (ctx.alltoallv, ctx.ialltoallv):
                text = "pieces[0] must have at least one axis: pieces differ in length along the first"
                _refused(call, ValueError, text, [1.0] * n)
                text = "pieces[1] must have shape (n, 3), like the other pieces, not (2, 4)"
                _refused(call, ValueError, text, [x, np.ones((2, 4)), *good[2:]])
                text = "pieces[1] must have dtype float64, like the other pieces, not int64"
                _refused(call, TypeError, text, [x, np.ones((2, 3), "i8"), *good[2:]])
            for call in (ctx.scatterv, ctx.iscatterv):
                _refused(call, ValueError, "out is read-only", good, read_only)
                _refused(call, TypeError, "out must be an array, a buffer or a DLPack tensor, not list", good, [1.0])
            for name, given in (("gatherv", x), ("scatterv", good)):
                for call in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                    for root in (n, -1):
                        _refused(call, ValueError, f"root must be in range({n}), not {root}", given, root=root)
        assert not ctx.closed
        assert [each.tolist() for each in ctx.allgatherv([ctx.rank])] == [[rank] for rank in range(n)]

    run_ranks(n, body)


@pytest.mark.parametrize("name", ["gatherv", "allgatherv", "alltoallv"])
@pytest.mark.parametrize(("mine", "place"), [((2,), (3,)), ((1,), (5,)), ((5,), (1,)), ((2, 3), (1, 3)), ((0,), (1,))])
def test_a_place_of_this_ranks_own_piece_that_does_not_fit(name: str, mine: tuple[int, ...], place: tuple[int, ...]) -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            x, out = np.ones(mine, "u1"), [np.zeros(place, "u1"), np.zeros(mine, "u1")]
            if name == "alltoallv":
                given, text = [x, x], f"out[0] must have shape {mine}, like pieces[0], not {place}"
            else:
                given, text = x, f"out[0] must have shape {mine}, like x, not {place}"  # type: ignore[assignment]
            for call in (getattr(ctx, name), getattr(ctx, f"i{name}")):
                _refused(call, ValueError, text, given, out)
        assert not ctx.closed
        ctx.barrier()

    run_ranks(2, body)


def test_the_roots_own_place_of_scatterv_that_does_not_fit() -> None:
    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            pieces = [np.ones(2), np.ones(3)]
            for call in (ctx.scatterv, ctx.iscatterv):
                _refused(call, ValueError, "out must have shape (2,), not (3,)", pieces, np.ones(3))
                _refused(call, TypeError, "out must have dtype float64, not float32", pieces, np.ones(2, "f4"))
        assert not ctx.closed
        ctx.barrier()

    run_ranks(2, body)


# -- what takes two to see ------------------------------------------------------------------------------------------------

ADVICE = "every rank must make the same calls in the same order"


def disagree(n: int, calls: Callable[[Context], Any]) -> list[MismatchError]:
    def body(ctx: Context) -> MismatchError:
        with pytest.raises(MismatchError) as caught:  # noqa: PT012
            calls(ctx)
            ctx.barrier()  # a rank that was done before the others disagreed learns of it here
        assert ctx.closed
        return caught.value

    return run_ranks(n, body, timeout=10)


@pytest.mark.parametrize("name", ["gatherv", "allgatherv", "alltoallv"])
@pytest.mark.parametrize(
    ("sent", "room"),
    [(5, 4), (4, 5), (0, 1), (1, 0), (EAGER, EAGER + 1), (EAGER + 1, EAGER), (EAGER + 2, EAGER + 1), (3 * EAGER, 1)],
)
def test_a_piece_that_is_not_as_long_as_its_place(name: str, sent: int, room: int) -> None:
    def calls(ctx: Context) -> None:
        out = [np.zeros(sent) for _ in range(3)]
        if ctx.rank == 0:
            out[2] = np.zeros(room)
        given: Any = [np.ones(sent)] * 3 if name == "alltoallv" else np.ones(sent)
        getattr(ctx, name)(given, out if name != "gatherv" or ctx.rank == 0 else None)

    errors = disagree(3, calls)
    for error in errors:
        assert (error.rank, error.other) == (0, 2)
        assert error.operation == f"{name} #1"
        assert error.here == f"{name}(<f8, count 1{', root 0' * (name == 'gatherv')}) with {8 * room} bytes from rank 2"
        assert error.there == f"{name}(<f8, count 1{', root 0' * (name == 'gatherv')}) with {8 * sent} bytes to rank 0"
    assert errors[0].reported_by is None
    assert str(errors[0]) == (
        f"ranks disagree on {name} #1: rank 0 called {errors[0].here}, rank 2 called {errors[0].there}; {ADVICE}"
    )


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (np.zeros(3), "float64, shape (3,)"),
        (np.zeros((2, 1)), "float64, shape (2, 1)"),
        (np.zeros(2, ">f8"), ">f8, shape (2,)"),
        (np.zeros(20_000), "float64, shape (20000,)"),
    ],
)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_piece_of_scatterv_that_its_place_is_not_like(n: int, out: np.ndarray, found: str) -> None:
    def calls(ctx: Context) -> None:
        ctx.scatterv([np.ones(2)] * n if ctx.rank == 0 else None, out.copy() if ctx.rank == n - 1 else None)

    errors = disagree(n, calls)
    for rank, error in enumerate(errors):
        told = "" if rank == n - 1 else f" (reported by rank {n - 1})"
        assert str(error) == (
            f"ranks disagree on scatterv #1: rank {n - 1} called scatterv with out of dtype {found}, rank 0 called scatterv "
            f"with a piece of dtype float64, shape (2,) for it; {ADVICE}{told}"
        )


def test_a_mismatch_of_scatterv_in_a_split_context_names_the_ranks_of_the_first() -> None:
    def body(ctx: Context) -> str:
        part = ctx.split(ctx.rank % 2)  # 1 and 3 are 0 and 1 of theirs
        assert part is not None
        with part, pytest.raises(MismatchError) as caught:  # noqa: PT012
            ctx.barrier()  # or the error may reach ranks that are still in the split; in the barrier they expect it
            if ctx.rank % 2:
                part.scatterv([np.ones(2)] * 2 if part.rank == 0 else None, np.zeros(3) if part.rank == 1 else None)
            ctx.barrier()
        return str(caught.value).partition(";")[0]

    for text in run_ranks(4, body):
        assert re.match(r"ranks disagree on scatterv #1: rank 3 called .*, rank 1 called ", text)


# -- large ----------------------------------------------------------------------------------------------------------------

LARGE = 2**31 + 7
NEEDED = 3 * LARGE


def test_a_piece_of_more_than_two_gibibytes() -> None:
    if psutil.virtual_memory().available < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:.0f} GB of free memory")
    marks = [0, 1, 2**31 - 1, 2**31, LARGE // 2, LARGE - 1]

    def body(ctx: Context) -> None:
        pieces = [np.full(3, ctx.rank, "u1"), np.full(5, ctx.rank, "u1")]
        if ctx.rank == 0:
            pieces[1] = np.zeros(LARGE, "u1")
            pieces[1][marks] = range(1, len(marks) + 1)
        first, second = ctx.alltoallv(pieces)
        if ctx.rank == 0:
            assert (first.tolist(), second.tolist()) == ([0] * 3, [1] * 3)
        else:
            assert first.shape == (LARGE,)
            assert first[marks].tolist() == list(range(1, len(marks) + 1))
            assert np.count_nonzero(first) == len(marks)
            assert second.tolist() == [1] * 5

    run_ranks(2, body)
