"""How ranks agree over a store that they are the ones who meet now: leftovers, late, double and killed ranks."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
from test_errors import SPEECHLESS

from gloompi import HashStore, PrefixStore, RendezvousError, Store
from gloompi.deadline import Deadline
from gloompi.rendezvous.agreement import agree
from gloompi.rendezvous.store import exchange_through

pytestmark = pytest.mark.usefixtures("nothing_leaks")

HOST, PID = socket.gethostname(), os.getpid()


def together(run: Callable[[int], object], ranks: Iterable[int]) -> dict[int, object]:
    """`run` in a thread per rank; what each returned or raised."""

    def guarded(rank: int) -> object:
        try:
            return run(rank)
        except BaseException as exc:
            return exc

    ranks = list(ranks)
    with ThreadPoolExecutor(len(ranks)) as pool:
        return dict(zip(ranks, pool.map(guarded, ranks), strict=True))


def meet(store: Store, size: int, ranks: Iterable[int] | None = None, timeout: float = 20.0) -> dict[int, object]:
    """`agree` on some ranks or all of them."""
    return together(lambda rank: agree(store, rank, size, Deadline(timeout)), ranks or range(size))


def exchange(store: Store, rank: int, size: int, timeout: float = 20.0) -> object:
    """What a rank of `exchange_through` gets in two rounds."""
    deadline = Deadline(timeout)
    with exchange_through(store, rank, size, b"", deadline) as channel:
        return [channel(b"%d.%d" % (number, rank), deadline, lambda: None) for number in range(2)]


def records(size: int) -> list[list[bytes]]:
    return [[b"%d.%d" % (number, rank) for rank in range(size)] for number in range(2)]


def the_session(results: Mapping[int, object]) -> str:
    """The one session that all ranks have got."""
    sessions = set(results.values())
    assert len(sessions) == 1, results
    (session,) = sessions
    assert isinstance(session, str), session
    return session


def text(result: object) -> str:
    assert type(result) is RendezvousError, result
    return str(result)


def hello(**fields: object) -> bytes:
    return json.dumps({"nonce": "0" * 32, "size": 3, "host": "node7", "pid": 4121, **fields}).encode()


def offer(**fields: object) -> bytes:
    return json.dumps({"session": "1" * 32, "nonce": "0" * 32, "go": True, **fields}).encode()


# -- all come -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9])
def test_all_ranks_get_one_session(size: int) -> None:
    store = HashStore()
    sessions = {the_session(meet(store, size)) for _ in range(3)}
    assert len(sessions) == 3
    assert all(len(session) == 32 for session in sessions)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_records_come_in_rank_order_and_nothing_stays(size: int) -> None:
    store = HashStore()
    for _ in range(3):
        found = together(lambda rank: exchange(store, rank, size), range(size))
        assert found == dict.fromkeys(range(size), records(size))
        assert store._items == {}


@pytest.mark.parametrize("late", [0, 1, 2])
def test_late_rank(late: int) -> None:
    store = HashStore()
    others = [rank for rank in range(3) if rank != late]

    def run(rank: int) -> str:
        if rank == late:
            store.wait([f"hello/{other}" for other in others], 20.0)
        return agree(store, rank, 3, Deadline(20.0))

    the_session(together(run, range(3)))


def test_prefixes_do_not_meet() -> None:
    store = HashStore()
    jobs = ["a", "a/b", "b", "gloompi"]

    def run(number: int) -> object:
        job, rank = divmod(number, 3)
        return exchange(PrefixStore(jobs[job], store), rank, 3)

    found = together(run, range(3 * len(jobs)))
    assert found == dict.fromkeys(found, records(3))
    assert store._items == {}


class Slow(Store):
    """Another store, which takes a different time for each request."""

    def __init__(self, store: Store, seed: int) -> None:
        self._store, self._random = store, random.Random(seed)

    def _pause(self) -> None:
        sleep(self._random.choice([0.0, 0.0, 0.0005, 0.003]))

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        self._pause()
        return self._store._read(keys)

    def _write(self, items: Mapping[str, bytes]) -> None:
        self._pause()
        self._store._write(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        self._pause()
        return self._store._swap(key, old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        self._pause()
        self._store._remove(keys)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_rendezvous_after_another(seed: int) -> None:
    size, times = 4, 8
    store = HashStore()

    def run(rank: int) -> list[list[bytes]]:
        mine = Slow(store, 10 * seed + rank)
        found = []
        for n in range(times):
            deadline = Deadline(20.0)
            with exchange_through(mine, rank, size, b"", deadline) as channel:
                found.append(channel(b"%d.%d" % (n, rank), deadline, lambda: None))
        return found

    expected = [[b"%d.%d" % (n, rank) for rank in range(size)] for n in range(times)]
    assert together(run, range(size)) == dict.fromkeys(range(size), expected)
    assert store._items == {}


# -- what an earlier run has left ---------------------------------------------------------------------------------------

LEFTOVERS = {
    "hello of a rank": {"hello/1": hello()},
    "hello of rank 0": {"hello/0": hello()},
    "hellos of all ranks": {f"hello/{rank}": hello(nonce=str(rank)) for rank in range(3)},
    "hello of another size": {"hello/1": hello(size=5), "hello/4": hello(size=5)},
    "offer": {"offer/1": offer(go=False)},
    "offer to go": {"offer/1": offer(), "offer/2": offer()},
    "offer that was taken": {"hello/1": hello(), "offer/1": offer(), "ack/1": b"1" * 32},
    "ack": {"ack/1": b"1" * 32, "ack/2": b"1" * 32},
    "trace": {"trace/1": b"1" * 32 + b" 3"},
    "trace of another size": {"trace/1": b"1" * 32 + b" 5", "trace/2": b"1" * 32 + b" 2"},
    "records": {"trace/0": b"1" * 32 + b" 3", **{"1" * 32 + f"/{n}/{rank}": b"" for n in range(2) for rank in range(3)}},
    "records of another size": {"trace/0": b"1" * 32 + b" 5", "1" * 32 + "/0/4": b"old", "1" * 32 + "/left": b"3"},
    "garbage": {
        key: value
        for rank in range(3)
        for key, value in {
            f"hello/{rank}": [b"", b"\xff\xfe", b"[1, 2]"][rank],
            f"offer/{rank}": [b"{", b"null", b'{"nonce": 7}'][rank],
            f"ack/{rank}": [b"\0", b"\xff", b"ack"][rank],
            f"trace/{rank}": [b"", b"\xff x", b"x -1"][rank],
        }.items()
    },
}


@pytest.mark.parametrize("left", LEFTOVERS)
@pytest.mark.parametrize("size", [2, 3])
def test_leftovers_do_not_disturb(left: str, size: int) -> None:
    store = HashStore()
    below = PrefixStore("gloompi", store)
    below.multi_set(list(LEFTOVERS[left]), list(LEFTOVERS[left].values()))
    found = together(lambda rank: exchange(store, rank, size), range(size))
    assert found == dict.fromkeys(range(size), records(size))
    # What ranks have left that are not there this time is not found.
    left_by = {key: int(key.rpartition("/")[2]) for key in LEFTOVERS[left] if not key.startswith("1")}
    stays = [key for key, rank in left_by.items() if rank >= size]
    assert sorted(store._items) == sorted(f"gloompi/{key}" for key in stays)


@pytest.mark.parametrize("size", [2, 3])
def test_stale_hello_that_has_an_offer_already(size: int) -> None:
    store = HashStore()
    store.set("hello/1", hello(size=size))

    def run(rank: int) -> str:
        if rank == 1:  # when rank 0 has taken the leftover for rank 1
            store.wait(["offer/1"], 20.0)
        return agree(store, rank, size, Deadline(20.0))

    session = the_session(together(run, range(size)))
    assert json.loads(store.get("offer/1"))["session"] == session


class Meddling(HashStore):
    """A store in which something happens after keys were set so many times more."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self.sets_left, self._happens = -1, happens

    def _write(self, items: Mapping[str, bytes]) -> None:
        super()._write(items)
        self.sets_left -= 1
        if self.sets_left == 0:
            self._happens()


class Late(Store):
    """A rank's view of a store; it deletes nothing until it may."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.deletes, self.may = threading.Event(), threading.Event()

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._store._read(keys)

    def _write(self, items: Mapping[str, bytes]) -> None:
        self._store._write(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        return self._store._swap(key, old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        self.deletes.set()
        assert self.may.wait(20.0)
        self._store._remove(keys)


# What is set: hello/0 and hello/1, offer, ack, the word to go, traces, records.
@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("rank", [0, 1])
def test_earlier_process_that_cleans_up_late(rank: int, n: int) -> None:
    def clean_up() -> None:
        late.may.set()
        earlier.join()

    store = Meddling(clean_up)
    late = Late(store)
    failures: list[str] = []

    def give_up() -> None:
        with pytest.raises(RendezvousError, match=f"rank {1 - rank} of 2 has not shown up") as caught:
            exchange(late, rank, 2, timeout=0.0)
        failures.append(str(caught.value))

    earlier = threading.Thread(target=give_up)
    earlier.start()
    assert late.deletes.wait(20.0)
    store.sets_left = n
    assert together(lambda rank: exchange(store, rank, 2, 5.0), range(2)) == dict.fromkeys(range(2), records(2))
    assert len(failures) == 1
    assert store._items == {}


# -- ranks that do not come ---------------------------------------------------------------------------------------------

WHY = "late (connect_timeout), dead, or started with another store, prefix or size"


@pytest.mark.parametrize(
    ("size", "present", "absent"),
    [
        (2, [0], "rank 1 of 2 has"),
        (2, [1], "rank 0 of 2 has"),
        (4, [0, 1], "ranks 2, 3 of 4 have"),
        (4, [1, 3], "ranks 0, 2 of 4 have"),
        (4, [0, 1, 3], "rank 2 of 4 has"),
        (12, [0, 11], "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 2 more of 12 have"),
    ],
)
def test_absent_ranks_are_named(size: int, present: list[int], absent: str) -> None:
    found = meet(HashStore(), size, present, timeout=0.5)
    expected = f"rendezvous failed: {absent} not shown up in HashStore() within 0.5 s; {WHY}"
    assert {text(result) for result in found.values()} == {expected}


@pytest.mark.parametrize("first", [0, 1])
def test_absent_ranks_are_named_by_those_that_wait_longer(first: int) -> None:
    store = HashStore()
    found = together(lambda rank: exchange(store, rank, 4, 0.5 if rank == first else 1.0), [0, 1])
    for result in found.values():
        assert "ranks 2, 3 of 4 have not shown up" in text(result)
    assert store._items == {}


def test_rank_that_died_after_its_hello_is_named() -> None:
    store = HashStore()
    store.set("hello/2", hello())
    for result in meet(store, 3, [0, 1], timeout=0.5).values():
        assert text(result).startswith("rendezvous failed: rank 2 of 3 has not shown up in HashStore() within 0.5 s; ")


def test_rank_that_does_not_exchange_is_named() -> None:
    store = HashStore()

    def run(rank: int) -> object:
        if rank == 2:
            return agree(PrefixStore("gloompi", store), rank, 3, Deadline(20.0))
        return exchange(store, rank, 3, 0.5)

    found = together(run, range(3))
    expected = (
        "rendezvous failed: rank 2 of 3 has not got through the rendezvous within 0.5 s; late (connect_timeout) or dead"
    )
    assert [text(found[rank]) for rank in (0, 1)] == [expected] * 2


@pytest.mark.parametrize("sizes", [[2, 3], [3, 2], [3, 4, 3], [4, 3, 3], [3, 3, 4]])
def test_sizes_that_differ(sizes: list[int]) -> None:
    store = HashStore()
    found = together(lambda rank: agree(store, rank, sizes[rank], Deadline(0.5)), range(len(sizes)))
    for rank, result in found.items():
        others = "|".join(str(size) for size in sizes if size != sizes[rank])
        assert re.search(rf"of ({others})\b|({others}) ranks", text(result)), result


# -- ranks that are there twice -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_is_there_twice(rank: int) -> None:
    """The one that came first is told; the one that came last goes on."""
    store = HashStore()
    told = threading.Event()

    def run(number: int) -> str:
        try:
            if number > 0:
                store.wait([f"hello/{rank}"], 20.0)
            if number == 2:
                assert told.wait(20.0)
            return agree(store, 1 - rank if number == 2 else rank, 2, Deadline(20.0))
        finally:
            told.set()

    found = together(run, range(3))
    assert text(found.pop(0)) == (
        f"rendezvous failed: another process, pid {PID} on {HOST}, came later and is rank {rank} too in HashStore(); give "
        "each rank its number, or each job a prefix of its own (PrefixStore)"
    )
    the_session(found)


# -- cleaning up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [[0], [1], [0, 2], [1, 2]])
def test_nothing_stays_when_ranks_are_absent(present: list[int]) -> None:
    store = HashStore()
    for result in together(lambda rank: exchange(store, rank, 3, 0.2), present).values():
        text(result)
    assert store._items == {}


def test_nothing_stays_when_the_last_to_leave_gave_up_first() -> None:
    store = HashStore()
    gone = threading.Event()

    def run(rank: int) -> None:
        with exchange_through(store, rank, 2, b"", Deadline(20.0)) as channel:
            channel(b"", Deadline(20.0), lambda: None)
            if rank == 0:
                with pytest.raises(RendezvousError, match="rank 1 of 2 has not got through"):
                    channel(b"", Deadline(0.1), lambda: None)
            else:
                assert gone.wait(20.0)
        gone.set()

    assert together(run, range(2)) == {0: None, 1: None}
    assert store._items == {}


def test_error_of_the_program_stays_what_it_is_and_nothing_else_does() -> None:
    store = HashStore()

    def run(rank: int) -> None:
        with exchange_through(store, rank, 3, b"", Deadline(20.0)) as channel:
            channel(b"", Deadline(20.0), lambda: None)
            raise KeyError(rank)

    found = together(run, range(3))
    assert [(type(found[rank]), str(found[rank])) for rank in range(3)] == [(KeyError, str(rank)) for rank in range(3)]
    assert store._items == {}


class Killed(BaseException):
    """No code of a process that is killed runs any more."""


class Mortal(Store):
    """A rank's view of a store; the rank dies just before its `n`-th change."""

    def __init__(self, store: Store, n: int) -> None:
        self._store, self._changes_left = store, n

    def _live_or_die(self) -> None:
        self._changes_left -= 1
        if self._changes_left <= 0:
            raise Killed

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        if self._changes_left <= 0:
            raise Killed
        return self._store._read(keys)

    def _write(self, items: Mapping[str, bytes]) -> None:
        self._live_or_die()
        self._store._write(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        self._live_or_die()
        return self._store._swap(key, old, new)

    def _remove(self, keys: Sequence[str]) -> None:
        self._live_or_die()
        self._store._remove(keys)


# The changes of a rank: hello, offers or ack, trace, records, and in the end the keys of the agreement, the trace, and the
# count of those that have left; the last deletes the records.
@pytest.mark.parametrize("n", range(1, 11))
@pytest.mark.parametrize("victims", [[0], [2], [1, 2], [0, 1, 2]])
def test_second_run_after_a_killed_one(victims: list[int], n: int) -> None:
    store = HashStore()

    def first(rank: int) -> object:
        return exchange(Mortal(store, n) if rank in victims else store, rank, 3, 0.15)

    found = together(first, range(3))
    killed = [rank for rank in victims if isinstance(found[rank], Killed)]
    assert killed == victims or n > 6
    found = together(lambda rank: exchange(store, rank, 3), range(3))
    assert found == dict.fromkeys(range(3), records(3))
    assert store._items == {}


# -- ranks that give up -------------------------------------------------------------------------------------------------


def test_earlier_rank_0_that_gives_up_does_not_stop_the_next_run() -> None:
    store = HashStore()
    began = threading.Event()

    def run(rank: int) -> object:
        if rank == 3:  # rank 0 of an earlier run, whose others are dead
            began.set()
            return exchange(store, 0, 3, 0.4)
        assert began.wait(10.0)
        if rank != 1:
            sleep(0.6)
        return exchange(store, rank, 3)

    found = together(run, range(4))
    assert isinstance(found.pop(3), RendezvousError)
    assert found == {rank: records(3) for rank in range(3)}


class Overwriting(HashStore):
    """Another rank 0, which has not noticed yet that it is not alone, offers something else as often as it is told to."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def _write(self, items: Mapping[str, bytes]) -> None:
        super()._write(items)
        for key in items:
            if key.startswith("gloompi/offer/") and self.times:
                self.times -= 1
                nonce = json.loads(items[key])["nonce"]
                offer = {"nonce": nonce, "session": "0" * 32, "size": 3}
                super()._write({key: json.dumps(offer).encode()})


@pytest.mark.parametrize("times", [1, 4])
def test_offers_that_another_overwrote_are_made_again(times: int) -> None:
    store = Overwriting(times)
    assert together(lambda rank: exchange(store, rank, 3), range(3)) == {rank: records(3) for rank in range(3)}


def test_interrupted_rank_tells_the_others() -> None:
    store = HashStore()

    def run(rank: int) -> object:
        deadline = Deadline(60.0)
        with exchange_through(store, rank, 3, b"", deadline) as channel:
            if rank == 1:
                raise KeyboardInterrupt
            return channel(b"record", deadline, lambda: None)

    found = together(run, range(3))
    assert isinstance(found.pop(1), KeyboardInterrupt)
    assert {str(error) for error in found.values()} == {"rendezvous failed: rank 1 gave up: KeyboardInterrupt"}
    assert store.peek(["gloompi/trace/0", "gloompi/trace/1", "gloompi/trace/2"]) == [None] * 3


@pytest.mark.parametrize(
    ("exc", "text"),
    [(ValueError("/data/\udce9"), "ValueError: /data/\\udce9"), (SPEECHLESS["raises"][0], SPEECHLESS["raises"][1])],
    ids=["surrogate", "no text"],
)
def test_rank_whose_exception_has_no_text_tells_the_others(exc: Exception, text: str) -> None:
    store, agreed = HashStore(), threading.Barrier(2)

    def run(rank: int) -> object:
        deadline = Deadline(60.0)
        with exchange_through(store, rank, 2, b"", deadline) as channel:
            agreed.wait(60.0)
            if rank == 1:
                raise exc
            return channel(b"record", deadline, lambda: None)

    found = together(run, range(2))
    assert found.pop(1) is exc
    assert [str(error) for error in found.values()] == [f"rendezvous failed: rank 1 gave up: {text}"]


class Flaky(HashStore):
    def _remove(self, keys: Sequence[str]) -> None:
        raise LookupError("out of order")


def test_clean_up_that_fails_does_not_fail_the_rendezvous(caplog: pytest.LogCaptureFixture) -> None:
    store = Flaky()
    assert together(lambda rank: exchange(store, rank, 2), range(2)) == {rank: records(2) for rank in range(2)}
    assert {record.getMessage() for record in caplog.records if record.levelname == "WARNING"} == {
        f"rank {rank} left keys in PrefixStore('gloompi', Flaky()): out of order" for rank in range(2)
    }


# -- sessions that are none ----------------------------------------------------------------------------------------------


NO_SESSIONS = [
    "1" * 31,
    "1" * 33,
    "A" * 32,
    "g" * 32,
    "1" * 31 + "/",
    "1" * 32 + "\n",
    "\u0661" * 32,
    " " + "1" * 31,
    "../" + "1" * 29,
]


@pytest.mark.parametrize("session", [*NO_SESSIONS, 7, 1.5])
def test_offered_session_that_is_none(session: object) -> None:
    class Offering(HashStore):
        def _write(self, items: Mapping[str, bytes]) -> None:
            super()._write(items)
            if "hello/1" in items:
                nonce = json.loads(items["hello/1"])["nonce"]
                super()._write({"offer/1": json.dumps({"nonce": nonce, "session": session, "size": 2}).encode()})

    store = Offering()
    with pytest.raises(RendezvousError) as caught:
        agree(store, 1, 2, Deadline(20.0))
    assert re.fullmatch(
        r"rendezvous failed: rank 0 offers the session '.*' in Offering\(\), which is not 32 hexadecimal digits: somebody "
        r"else writes there",
        str(caught.value),
    )
    assert store.peek(["ack/1", "trace/1"]) == [None, None]


@pytest.mark.parametrize("session", [*NO_SESSIONS, ""])
def test_trace_of_a_session_that_is_none_has_nothing_deleted(session: str) -> None:
    """What lies under its name is somebody else's."""
    store = HashStore()
    store.multi_set({"gloompi/trace/0": f"{session} 2".encode(), f"gloompi/{session}/0/1": b"mine"})
    assert together(lambda rank: exchange(store, rank, 2), range(2)) == dict.fromkeys(range(2), records(2))
    assert store.peek([f"gloompi/{session}/0/1"]) == [b"mine"]
