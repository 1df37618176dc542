"""Ranks that disagree get MismatchError, all of them; a rank that does not come is named by a timeout."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gloompi import Context, Device, GloompiError, MismatchError, OperationTimeoutError, PeerLostError
from gloompi.engine.messages import EAGER_NBYTES
from gloompi.testing import run_ranks

EAGER = EAGER_NBYTES // 8  # doubles: the most that goes without asking
LARGE = EAGER_NBYTES + 3  # of bytes, too
PROMPT = 2.0  # seconds
ADVICE = "every rank must make the same calls in the same order"

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


def disagree(n: int, calls: Callable[[Context], Any], transport: str = "unix") -> list[MismatchError]:
    """Run `calls` and a barrier on all ranks; check that all of them get the same MismatchError soon."""

    def body(ctx: Context) -> MismatchError:
        start = time.monotonic()
        with pytest.raises(MismatchError) as caught:  # noqa: PT012
            calls(ctx)
            ctx.barrier()  # a rank that was done before the others disagreed learns of it here
        assert time.monotonic() - start < PROMPT
        assert ctx.closed
        with pytest.raises(MismatchError) as again:
            ctx.barrier()
        assert str(again.value) == str(caught.value)
        return caught.value

    errors = run_ranks(n, body, device=Device(transport=transport), timeout=2 * PROMPT)
    finders = [rank for rank, error in enumerate(errors) if error.reported_by is None]
    assert finders
    for rank, error in enumerate(errors):
        assert error.rank != error.other
        assert error.here != error.there
        operation, here, there = re.escape(error.operation), re.escape(error.here), re.escape(error.there)
        told = "" if rank in finders else rf" \(reported by rank {error.reported_by}\)"
        assert re.fullmatch(
            f"ranks disagree on {operation}: rank {error.rank} called {here}, rank {error.other} called {there}; "
            f"{ADVICE}{told}",
            str(error),
        )
        assert error.rank == rank if rank in finders else error.rank in finders
    return errors


def called(errors: list[MismatchError]) -> dict[int, set[str]]:
    """What each rank called, as the errors say."""
    calls: dict[int, set[str]] = {}
    for error in errors:
        calls.setdefault(error.rank, set()).add(error.here)
        calls.setdefault(error.other, set()).add(error.there)
    return calls


@transports
@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [3, LARGE])
def test_another_dtype(count: int, n: int, transport: str) -> None:
    errors = disagree(n, lambda ctx: ctx.allreduce(np.ones(count, "f4" if ctx.rank == n - 1 else "f8")), transport)
    for rank, calls in called(errors).items():
        (call,) = calls
        assert call.startswith(f"allreduce(sum, {'<f4' if rank == n - 1 else '<f8'}, count {count}, algorithm ")


def test_an_error_that_is_passed_on_names_the_rank_that_met_it_first() -> None:
    for _ in range(20):
        for error in disagree(5, lambda ctx: ctx.allreduce(np.ones(3 + (ctx.rank == 4)))):
            # The text's "rank" is who noticed.
            assert error.reported_by in (None, error.rank)


def test_a_mismatch_says_what_both_called() -> None:
    errors = disagree(2, lambda ctx: (ctx.barrier(), ctx.allreduce(np.ones(3), op=("sum", "max")[ctx.rank])))
    here = [f"allreduce({op}, <f8, count 3, algorithm recursive_doubling)" for op in ("sum", "max")]
    for rank, error in enumerate(errors):
        found = rank if error.reported_by is None else error.reported_by
        assert (error.operation, error.rank, error.other) == ("allreduce #2", found, 1 - found)
        assert (error.here, error.there) == (here[found], here[1 - found])
        told = "" if error.reported_by is None else f" (reported by rank {found})"
        assert str(error) == (
            f"ranks disagree on allreduce #2: rank {found} called {here[found]}, rank {1 - found} called "
            f"{here[1 - found]}; every rank must make the same calls in the same order{told}"
        )


DISAGREEMENTS: dict[str, Callable[[Context, bool], Any]] = {
    "allreduce, byte order": lambda ctx, odd: ctx.allreduce(np.ones(3, ">f8" if odd else "<f8")),
    "allreduce, sign": lambda ctx, odd: ctx.allreduce(np.ones(3, "u4" if odd else "i4")),
    "allreduce, count": lambda ctx, odd: ctx.allreduce(np.ones(4 if odd else 3)),
    "allreduce, count 0": lambda ctx, odd: ctx.allreduce(np.ones(0 if odd else 3)),
    "allreduce, small and large": lambda ctx, odd: ctx.allreduce(np.ones(3 if odd else LARGE)),
    "allreduce, both large": lambda ctx, odd: ctx.allreduce(np.ones(LARGE + odd)),
    "allreduce, op": lambda ctx, odd: ctx.allreduce(np.ones(3), op="prod" if odd else "sum"),
    "allreduce, op of large": lambda ctx, odd: ctx.allreduce(np.ones(LARGE), op="min" if odd else "max"),
    "allreduce, ufunc": lambda ctx, odd: ctx.allreduce(np.ones(3), op=np.fmin if odd else np.fmax),
    "allreduce, algorithm": lambda ctx, odd: ctx.allreduce(np.ones(9), algorithm="ring" if odd else "halving_doubling"),
    "allreduce, structure": lambda ctx, odd: ctx.allreduce(
        np.zeros(3, [("a", "f8"), ("b", "i8")] if odd else [("a", "i8"), ("b", "f8")]), op=_first
    ),
    "reduce, op": lambda ctx, odd: ctx.reduce(np.ones(3), op="lor" if odd else "land"),
    "reduce, root": lambda ctx, odd: ctx.reduce(np.ones(3), root=int(odd)),
    "reduce, count": lambda ctx, odd: ctx.reduce(np.ones(LARGE - odd)),
    "reduce, algorithm": lambda ctx, odd: ctx.reduce(np.ones(9), algorithm="binomial" if odd else "halving_doubling"),
    "broadcast, root": lambda ctx, odd: ctx.broadcast(np.ones(3), root=int(odd)),
    "broadcast, nobody is root": lambda ctx, odd: ctx.broadcast(np.ones(3), root=(0 if odd else 1)),
    "broadcast, root of large": lambda ctx, odd: ctx.broadcast(np.ones(LARGE), root=int(odd)),
    "broadcast, count": lambda ctx, odd: ctx.broadcast(np.ones(3 + odd)),
    "broadcast, dtype": lambda ctx, odd: ctx.broadcast(np.ones(LARGE, "f8" if odd else "i8")),
    "broadcast, algorithm": lambda ctx, odd: ctx.broadcast(np.ones(9), algorithm="scatter_allgather" if odd else "binomial"),
    "allgather, count": lambda ctx, odd: ctx.allgather(np.ones(3 + odd)),
    "allgather, count 0": lambda ctx, odd: ctx.allgather(np.ones(0 if odd else 5)),
    "allgather, algorithm": lambda ctx, odd: ctx.allgather(np.ones(5), algorithm="ring" if odd else "bruck"),
    "gather, count": lambda ctx, odd: ctx.gather(np.ones(3 + odd)),
    "gather, dtype of large": lambda ctx, odd: ctx.gather(np.ones(LARGE, "f8" if odd else "u8")),
    "gather, root": lambda ctx, odd: ctx.gather(np.ones(3), root=int(odd)),
    "scatter, count": lambda ctx, odd: ctx.scatter(np.ones((ctx.size, 3)), np.ones(4 if odd and ctx.rank else 3)),
    "scatter, dtype": lambda ctx, odd: ctx.scatter(np.ones((ctx.size, 3)), np.ones(3, "f4" if odd and ctx.rank else "f8")),
    "scatter, root": lambda ctx, odd: ctx.scatter(np.ones((ctx.size, 3)), np.ones(3), root=int(odd)),
    "reduce_scatter, dtype": lambda ctx, odd: ctx.reduce_scatter(np.ones(2 * ctx.size, "f4" if odd else "f8")),
    "reduce_scatter, count": lambda ctx, odd: ctx.reduce_scatter(np.ones((2 + odd) * ctx.size)),
    "reduce_scatter, small and large": lambda ctx, odd: ctx.reduce_scatter(np.ones((3 if odd else LARGE) * ctx.size)),
    "reduce_scatter, counts": lambda ctx, odd: ctx.reduce_scatter(np.ones(9), counts=[9 - odd, odd, *[0] * (ctx.size - 2)]),
    "reduce_scatter, counts of large": lambda ctx, odd: ctx.reduce_scatter(
        np.ones(LARGE), counts=[LARGE - odd, odd, *[0] * (ctx.size - 2)]
    ),
    "reduce_scatter, op": lambda ctx, odd: ctx.reduce_scatter(np.ones(ctx.size), op="min" if odd else "max"),
    "reduce_scatter, algorithm": lambda ctx, odd: ctx.reduce_scatter(
        np.ones(ctx.size), algorithm="pairwise" if odd else "recursive_halving"
    ),
    "scan, dtype": lambda ctx, odd: ctx.scan(np.ones(3, "i4" if odd else "u4")),
    "scan, count": lambda ctx, odd: ctx.scan(np.ones(3 + odd)),
    "scan, small and large": lambda ctx, odd: ctx.scan(np.ones(3 if odd else LARGE)),
    "scan, both large": lambda ctx, odd: ctx.scan(np.ones(LARGE - odd)),
    "scan, op": lambda ctx, odd: ctx.scan(np.ones(3), op="prod" if odd else "sum"),
    "scan, algorithm": lambda ctx, odd: ctx.scan(np.ones(3), algorithm="chain" if odd else "recursive_doubling"),
    "scan and exscan": lambda ctx, odd: ctx.exscan(np.ones(3)) if odd else ctx.scan(np.ones(3)),
    "exscan, count": lambda ctx, odd: ctx.exscan(np.ones(3 + odd)),
    "exscan, op of large": lambda ctx, odd: ctx.exscan(np.ones(LARGE), op="min" if odd else "max"),
    "alltoall, dtype": lambda ctx, odd: ctx.alltoall(np.ones((ctx.size, 2), "i8" if odd else "f8")),
    "alltoall, count": lambda ctx, odd: ctx.alltoall(np.ones((ctx.size, 2 + odd))),
    "alltoall, count 0": lambda ctx, odd: ctx.alltoall(np.ones((ctx.size, 0 if odd else 2))),
    "alltoall, small and large": lambda ctx, odd: ctx.alltoall(np.ones((ctx.size, 2 if odd else LARGE))),
    "alltoall, both large": lambda ctx, odd: ctx.alltoall(np.ones((ctx.size, LARGE + odd))),
    "alltoall, algorithm": lambda ctx, odd: ctx.alltoall(np.ones(ctx.size), algorithm="bruck" if odd else "pairwise"),
    "gatherv, dtype": lambda ctx, odd: ctx.gatherv(np.ones(3, "f4" if odd else "f8")),
    "gatherv, row": lambda ctx, odd: ctx.gatherv(np.ones((3, 2 + odd))),
    "gatherv, shape of a row": lambda ctx, odd: ctx.gatherv(np.ones((3, 2, 5) if odd else (3, 5, 2))),
    "gatherv, root": lambda ctx, odd: ctx.gatherv(np.ones(3), root=int(odd)),
    "gatherv, root of large": lambda ctx, odd: ctx.gatherv(np.ones(LARGE), root=int(odd)),
    "gatherv, a piece longer than its place": lambda ctx, odd: ctx.gatherv(
        np.ones(3 + odd), [np.ones(3)] * ctx.size if ctx.rank == 0 else None
    ),
    "gatherv, a piece far longer than its place": lambda ctx, odd: ctx.gatherv(
        np.ones(LARGE if odd else 3), [np.ones(3)] * ctx.size if ctx.rank == 0 else None
    ),
    "gather and gatherv": lambda ctx, odd: ctx.gatherv(np.ones(3)) if odd else ctx.gather(np.ones(3)),
    "allgatherv, dtype": lambda ctx, odd: ctx.allgatherv(np.ones(3, "u2" if odd else "i2")),
    "allgatherv, row of large": lambda ctx, odd: ctx.allgatherv(np.ones((LARGE, 2) if odd else LARGE)),
    "allgatherv, a piece shorter than its place": lambda ctx, odd: ctx.allgatherv(
        np.ones(3 - odd), [np.ones(3 - (odd and rank == ctx.rank)) for rank in range(ctx.size)]
    ),
    "allgatherv, a place shorter than its piece": lambda ctx, odd: ctx.allgatherv(
        np.ones(LARGE), [np.ones(5 if odd and rank == 0 else LARGE) for rank in range(ctx.size)]
    ),
    "scatterv, root": lambda ctx, odd: ctx.scatterv([np.ones(3)] * ctx.size, root=int(odd)),
    "scatterv, place": lambda ctx, odd: ctx.scatterv([np.ones(3)] * ctx.size, np.ones(4 if odd else 3)),
    "scatterv, place for large": lambda ctx, odd: ctx.scatterv([np.ones(LARGE)] * ctx.size, np.ones(3) if odd else None),
    "scatter and scatterv": lambda ctx, odd: (
        ctx.scatterv([np.ones(3)] * ctx.size) if odd else ctx.scatter(np.ones((ctx.size, 3)), np.ones(3))
    ),
    "alltoallv, dtype": lambda ctx, odd: ctx.alltoallv([np.ones(3, "f4" if odd else "f8")] * ctx.size),
    "alltoallv, row": lambda ctx, odd: ctx.alltoallv([np.ones((3, 2) if odd else 3)] * ctx.size),
    "alltoallv, a piece longer than its place": lambda ctx, odd: ctx.alltoallv(
        [np.ones(3 + (odd and rank == 0)) for rank in range(ctx.size)], [np.ones(3)] * ctx.size
    ),
    "alltoallv, a place for what is sent without asking": lambda ctx, odd: ctx.alltoallv(
        [np.ones(EAGER + (odd and rank == 0)) for rank in range(ctx.size)], [np.ones(EAGER)] * ctx.size
    ),
    "alltoall and alltoallv": lambda ctx, odd: (
        ctx.alltoallv([np.ones(3)] * ctx.size) if odd else ctx.alltoall(np.ones((ctx.size, 3)))
    ),
    "objects, operation": lambda ctx, odd: ctx.gather_object(1) if odd else ctx.allgather_object(1),
    "objects, operation of large": lambda ctx, odd: (
        ctx.alltoall_object([bytes(LARGE)] * ctx.size) if odd else ctx.allgather_object(bytes(LARGE))
    ),
    "objects, root": lambda ctx, odd: ctx.broadcast_object("x", root=int(odd)),
    "objects and arrays": lambda ctx, odd: ctx.allgather_object(np.ones(3)) if odd else ctx.allgatherv(np.ones(3)),
    "split": lambda ctx, odd: ctx.barrier() if odd else ctx.split(None),
    "order of new operations": lambda ctx, odd: [
        (ctx.scan(np.ones(3)), ctx.alltoall(np.ones(ctx.size)))
        if odd
        else (ctx.alltoall(np.ones(ctx.size)), ctx.scan(np.ones(3)))
    ],
    "order of non-blocking pieces": lambda ctx, odd: [
        request.wait()
        for request in [
            ctx.iallgatherv(np.ones((count, 2), dtype)) for count, dtype in ((5, "f4" if odd else "f8"), (LARGE, "f8"))
        ]
    ],
    "operation": lambda ctx, odd: ctx.allgather(np.ones(3)) if odd else ctx.allreduce(np.ones(3)),
    "operation of large": lambda ctx, odd: ctx.allgather(np.ones(LARGE)) if odd else ctx.broadcast(np.ones(LARGE)),
    "barrier": lambda ctx, odd: ctx.barrier() if odd else ctx.allreduce(np.ones(3)),
    "order": lambda ctx, odd: [
        (ctx.allreduce(np.ones(3)), ctx.barrier()) if odd else (ctx.barrier(), ctx.allreduce(np.ones(3)))
    ],
    "order of large": lambda ctx, odd: [
        ctx.allreduce(np.ones(LARGE), op=op) for op in (("sum", "max") if odd else ("max", "sum"))
    ],
    "order of non-blocking": lambda ctx, odd: [
        request.wait() for request in [ctx.iallreduce(np.ones(count)) for count in ((5, LARGE, 6) if odd else (5, 6, LARGE))]
    ],
}


def _first(a: Any, b: Any) -> Any:
    return a


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_ranks_disagree_on(what: str, n: int) -> None:
    calls = DISAGREEMENTS[what]
    for odd in (1, n - 1):  # a rank beside the roots, or the last
        disagree(n, lambda ctx: calls(ctx, ctx.rank == odd))  # noqa: B023


def test_a_mismatch_of_the_new_operations_says_what_both_called() -> None:
    def text(call: Callable[[Context, bool], Any]) -> str:
        (error, *_) = (e for e in disagree(2, lambda ctx: call(ctx, ctx.rank == 1)) if e.reported_by is None)
        return f"rank {error.rank}: {error.here}; rank {error.other}: {error.there}"

    def both(here: str, there: str) -> set[str]:
        return {f"rank 0: {here}; rank 1: {there}", f"rank 1: {there}; rank 0: {here}"}

    pairwise = "algorithm pairwise)"
    assert text(DISAGREEMENTS["reduce_scatter, op"]) in both(
        f"reduce_scatter(max, <f8, count 2, {pairwise}", f"reduce_scatter(min, <f8, count 2, {pairwise}"
    )
    found = text(DISAGREEMENTS["reduce_scatter, counts"])
    assert re.fullmatch(
        rf"rank \d: (reduce_scatter\(sum, <f8 #[0-9a-f]{{16}}, count 9, {re.escape(pairwise)}); rank \d: (reduce_scatter.*)",
        found,
    )
    assert text(DISAGREEMENTS["scan and exscan"]) in both(
        "scan(sum, <f8, count 3, algorithm recursive_doubling)", "exscan(sum, <f8, count 3, algorithm recursive_doubling)"
    )
    assert text(DISAGREEMENTS["alltoall, algorithm"]) in both(
        "alltoall(<f8, count 2, algorithm pairwise)", "alltoall(<f8, count 2, algorithm bruck)"
    )
    assert text(DISAGREEMENTS["alltoallv, row"]).count("alltoallv(<f8, count 1)") == 1
    assert text(DISAGREEMENTS["gatherv, root"]) in both("gatherv(<f8, count 1, root 0)", "gatherv(<f8, count 1, root 1)")
    assert text(DISAGREEMENTS["gatherv, a piece longer than its place"]) == (
        "rank 0: gatherv(<f8, count 1, root 0) with 24 bytes from rank 1; "
        "rank 1: gatherv(<f8, count 1, root 0) with 32 bytes to rank 0"
    )
    assert text(DISAGREEMENTS["scatterv, root"]) in both("scatterv(root 0)", "scatterv(root 1)")
    assert text(DISAGREEMENTS["objects and arrays"]) in both("allgatherv(<f8, count 1)", "allgather_object()")
    assert text(DISAGREEMENTS["split"]) in both("split()", "barrier()")


def test_callables_of_different_names_are_different_operators() -> None:
    def _last(a: Any, b: Any) -> Any:
        return b

    errors = disagree(2, lambda ctx: ctx.allreduce(np.ones(3), op=(_first, _last)[ctx.rank]))
    assert re.fullmatch(r"allreduce\(custom op [0-9a-f]{16}, <f8, count 3, algorithm recursive_doubling\)", errors[0].here)


def test_shapes_of_one_count_do_not_disagree() -> None:
    shapes = [(6,), (2, 3), (3, 2)]
    results = run_ranks(3, lambda ctx: ctx.allreduce(np.ones(shapes[ctx.rank])))
    assert [result.shape for result in results] == shapes
    assert all((result == 3).all() for result in results)


def test_a_rank_that_was_done_learns_of_it_in_any_operation() -> None:
    everybody_else = threading.Event()

    def body(ctx: Context) -> None:
        x = np.ones(3)
        if ctx.rank == 0:
            ctx.broadcast(x, root=0)  # as root it is done at once
            assert everybody_else.wait(30)
            with pytest.raises(MismatchError) as caught:
                ctx.recv(x, 1)
            assert caught.value.reported_by in (None, 1)
        else:
            with pytest.raises(MismatchError) as caught:
                ctx.broadcast(np.ones(4), root=0)
            everybody_else.set()
        assert (caught.value.rank, caught.value.other) == (1, 0)

    run_ranks(2, body)


# -- a call that a rank does not make -----------------------------------------------------------------------------------


@transports
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("broadcast", lambda ctx, x, timeout: ctx.broadcast(x, root=0, timeout=timeout)),
        ("recv", lambda ctx, x, timeout: ctx.recv(x, 0, timeout=timeout)),
    ],
)
@pytest.mark.parametrize("count", [3, LARGE])
def test_a_skipped_call_times_out_and_names_who_is_missing(count: int, name: str, call: Any, transport: str) -> None:
    timeout = 0.4
    late = threading.Barrier(3)

    def body(ctx: Context) -> tuple[str, str]:
        error: type[GloompiError] = OperationTimeoutError
        if ctx.rank == 0:
            late.wait(30)
            with pytest.raises(error) as caught:
                ctx.recv(np.ones(3), 1)
            assert caught.value.reported_by in (1, 2)
            return str(caught.value), ""
        start = time.monotonic()
        with pytest.raises(error) as caught:
            call(ctx, np.ones(count), timeout)
        assert timeout <= time.monotonic() - start + 0.05 < timeout + 1
        assert caught.value.timeout == timeout
        assert caught.value.operation == (f"{name} #1" if name != "recv" else name)
        late.wait(30)
        with pytest.raises(error) as again:
            ctx.barrier()
        assert str(again.value) == str(caught.value)
        return str(caught.value), str(ctx.peers[0])

    (told, _), (first, missing), (second, also_missing) = run_ranks(3, body, device=Device(transport=transport))
    number, undone = ("", "sent it") if name == "recv" else (" #1", f"entered {name}")
    for text, peer in ((first, missing), (second, also_missing), (told, None)):
        who = re.escape(peer) if peer else r"rank 0 \(\S+, pid \d+, \w+ \S+\)"
        if "(reported by rank " in text:
            who = r"rank 0 \(\S+, pid \d+, \w+ \S+\)"
        assert re.fullmatch(
            rf"{name}{number} timed out after 0\.4 s: got 0 of \d+ bytes from {who}, which may have stopped or not "
            rf"{undone}; see its log( \(reported by rank [12](; this rank was in recv)?\))?",
            text,
        )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("allgatherv", lambda ctx: ctx.allgatherv(np.ones(3), timeout=0.3)),
        ("alltoallv", lambda ctx: ctx.alltoallv([np.ones(3)] * 2, timeout=0.3)),
        ("scatterv", lambda ctx: ctx.scatterv(timeout=0.3)),
        ("broadcast_object", lambda ctx: ctx.broadcast_object(timeout=0.3)),
        ("recv_object", lambda ctx: ctx.recv_object(0, timeout=0.3)),
        # Messages without any bytes: "got 0 of 0 bytes" would say that all is here.
        ("barrier", lambda ctx: ctx.barrier(timeout=0.3)),
        ("allreduce", lambda ctx: ctx.allreduce(np.ones(0), timeout=0.3)),
        ("recv", lambda ctx: ctx.recv(np.ones(0), 0, timeout=0.3)),
    ],
)
def test_a_timeout_does_not_name_a_length_that_nobody_knows(name: str, call: Callable[[Context], Any]) -> None:
    done = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            assert done.wait(30)
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.ones(3), 1)
            return
        with pytest.raises(OperationTimeoutError) as caught:
            call(ctx)
        done.set()
        number = "" if name.startswith("recv") else " #1"
        missing = re.escape(str(ctx.peers[0]))
        undone = "sent it" if name.startswith("recv") else f"entered {name}"
        assert re.fullmatch(
            rf"{name}{number} timed out after 0\.3 s: no message from {missing}, which may have stopped or not "
            rf"{undone}; see its log",
            str(caught.value),
        )
        assert "0 of 0 bytes" not in str(caught.value)

    run_ranks(2, body)


@pytest.mark.parametrize("name", ["barrier", "allreduce", "gather"])
def test_a_skipped_collective_times_out_on_all_ranks(name: str) -> None:
    timeout, missing, n = 0.3, 2, 4
    others_failed = threading.Barrier(n)

    def body(ctx: Context) -> str:
        if ctx.rank == missing:
            others_failed.wait(30)
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.ones(3), 0)
            return ""
        start = time.monotonic()
        with pytest.raises(OperationTimeoutError) as caught:  # noqa: PT012
            if name == "barrier":
                ctx.barrier(timeout=timeout)
            elif name == "allreduce":
                ctx.allreduce(np.ones(LARGE), timeout=timeout)
            else:
                ctx.gather(np.ones(3), timeout=timeout)
                ctx.recv(np.ones(3), 0)  # all but the root are done, and learn of it here
        assert timeout <= time.monotonic() - start + 0.05 < timeout + 1
        others_failed.wait(30)
        return str(caught.value)

    texts = run_ranks(n, body)
    # Who is named is missing, or waits for the missing rank too: an algorithm hears from few ranks directly.
    for rank in set(range(n)) - {missing}:
        what = "no message" if name == "barrier" else r"got 0 of \d+ bytes"
        assert re.match(rf"{name} #1 timed out after 0\.3 s: {what} from rank \d \(", texts[rank])
    if name == "gather":
        assert re.fullmatch(
            r"gather #1 timed out after 0\.3 s: got 0 of 24 bytes from rank 2 \(\S+, pid \d+, \w+ \S+\), which may have "
            r"stopped or not entered gather; see its log",
            texts[0],
        )


def test_a_large_send_that_nobody_receives_times_out() -> None:
    done = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.send(np.ones(LARGE), 1, timeout=0.2)
            assert str(caught.value) == (
                f"send timed out after 0.2 s: sending {8 * LARGE} bytes to {ctx.peers[1]}, which may have stopped or not "
                "posted a receive for it; see its log"
            )
            done.set()
        else:
            assert done.wait(30)
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.ones(LARGE), 0)

    run_ranks(2, body)


def test_an_empty_message_that_nobody_receives() -> None:
    done = threading.Event()

    def body(ctx: Context) -> None:
        if ctx.rank == 0:
            with pytest.raises(OperationTimeoutError) as caught:
                ctx.ssend(np.ones(0), 1, timeout=0.2)
            assert str(caught.value) == (
                f"ssend timed out after 0.2 s: sending an empty message to {ctx.peers[1]}, which may have stopped or not "
                "posted a receive for it; see its log"
            )
            done.set()
        else:
            assert done.wait(30)
            with pytest.raises(OperationTimeoutError):
                ctx.recv(np.ones(0), 0)

    run_ranks(2, body)


def test_a_slow_rank_is_no_error() -> None:
    waiting = threading.Semaphore(0)

    def body(ctx: Context) -> None:
        if ctx.rank == 1:
            for _ in range(2):
                assert waiting.acquire(timeout=30)
        else:
            waiting.release()
        assert ctx.allreduce(np.ones(3), timeout=30).tolist() == [3] * 3
        ctx.timeout = 20.0
        ctx.barrier()

    run_ranks(3, body)


def test_a_rank_that_fails_is_not_waited_for() -> None:
    def body(ctx: Context) -> None:
        start = time.monotonic()
        if ctx.rank == 1:
            ctx.abort("not today")
            return
        with pytest.raises(PeerLostError, match="it aborted: not today"):
            ctx.allreduce(np.ones(LARGE))
        assert time.monotonic() - start < 10

    run_ranks(3, body)
