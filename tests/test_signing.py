"""Signed records: whose word is believed, on every way over which ranks meet."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from launch import run_job

from gloompi import Context, HashStore, PrefixStore, RendezvousError
from gloompi.deadline import Deadline
from gloompi.rendezvous.exchange import Exchange, no_watch
from gloompi.rendezvous.local import LocalExchange, _Board, local_exchanges
from gloompi.rendezvous.mesh import prepare
from gloompi.rendezvous.signing import SIGNATURE_NBYTES, Signed, sign, signing_key
from gloompi.rendezvous.store import exchange_through

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SECRET = b"correct horse battery staple"
UNSIGNED = (
    "its record is not signed with this rank's secret: the ranks have different secrets (secret=, GLOOMPI_SECRET_FILE), or "
    "somebody else alters what they exchange"
)
ALTERED = "its record does not follow from what this rank has received before: somebody alters what the ranks exchange"

Alter = Callable[[int, int, list[bytes]], list[bytes]]
"""What becomes of the records on their way: the rank that gets them, the round, and what all ranks gave."""


class Middle:
    """An exchange in which somebody sits between the ranks."""

    def __init__(self, exchange: Exchange, alter: Alter) -> None:
        self.rank, self.size, self._exchange, self._alter = exchange.rank, exchange.size, exchange, alter
        self._round = 0

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        found = self._alter(self.rank, self._round, self._exchange(record, deadline, watch))
        self._round += 1
        return found


def speak(rounds: list[bytes], alter: Alter, secrets: list[bytes], meetings: list[bytes]) -> list[list[list[bytes]] | str]:
    """What two or more ranks get in some rounds, or why they do not."""
    board = _Board(len(secrets))

    def rank(number: int) -> list[list[bytes]] | str:
        exchange = Signed(Middle(LocalExchange(number, board), alter), secrets[number], meetings[number])
        try:
            return [exchange(b"%s of %d" % (each, number), Deadline(1.0), no_watch) for each in rounds]
        except RendezvousError as exc:
            return f"{exc.rank}: {exc.reason}"

    with ThreadPoolExecutor(len(secrets)) as pool:
        return list(pool.map(rank, range(len(secrets))))


def faithful(rank: int, number: int, records: list[bytes]) -> list[bytes]:
    return records


def test_signature_is_what_the_protocol_says() -> None:
    key = signing_key(SECRET)
    assert key == hmac.digest(SECRET, b"gloompi signing key", "sha256")
    before = sha256(b"gloompi meeting\0here").digest()
    where = b"gloompi record\0" + b"\x02\0\0\0" + b"\0\0\0\0" + b"\x01\0\0\0"
    assert sign(key, 2, 0, 1, before, b"word") == hmac.digest(key, where + before + b"word", "sha256")
    heard: list[bytes] = []

    def listen(rank: int, number: int, records: list[bytes]) -> list[bytes]:
        if rank == 0:
            heard.extend(records)
        return records

    assert len(speak([b"one", b"two"], listen, [SECRET] * 2, [b"here"] * 2)[0]) == 2
    assert heard[1] == sign(key, 2, 0, 1, before, b"one of 1") + b"one of 1"
    then = sha256(before + sha256(heard[0]).digest() + sha256(heard[1]).digest()).digest()
    assert heard[2] == sign(key, 2, 1, 0, then, b"two of 0") + b"two of 0"


@pytest.mark.parametrize("secret", [b"", SECRET])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_records_arrive_as_they_were_given(size: int, secret: bytes) -> None:
    said = [[b"%s of %d" % (each, rank) for rank in range(size)] for each in (b"one", b"two", b"three")]
    assert speak([b"one", b"two", b"three"], faithful, [secret] * size, [b""] * size) == [said] * size


@pytest.mark.parametrize(
    ("secrets", "meetings"),
    [
        ([SECRET, b"another"], [b"here"] * 2),
        ([SECRET, b""], [b"here"] * 2),
        ([SECRET] * 2, [b"here", b"there"]),
        ([b""] * 2, [b"here", b"there"]),
    ],
    ids=["secret", "none", "meeting", "meeting without a secret"],
)
def test_ranks_that_do_not_belong_together(secrets: list[bytes], meetings: list[bytes]) -> None:
    assert speak([b"one"], faithful, secrets, meetings) == [f"1: {UNSIGNED}", f"0: {UNSIGNED}"]


@pytest.mark.parametrize("position", [0, SIGNATURE_NBYTES - 1, SIGNATURE_NBYTES, -1])
@pytest.mark.parametrize("number", [0, 1])
def test_one_flipped_bit(number: int, position: int) -> None:
    def flip(rank: int, at: int, records: list[bytes]) -> list[bytes]:
        if rank == 0 and at == number:
            changed = bytearray(records[1])
            changed[position] ^= 1
            records = [records[0], bytes(changed)]
        return records

    found, _ = speak([b"one", b"two"], flip, [SECRET] * 2, [b""] * 2)
    assert found == f"1: {ALTERED if number else UNSIGNED}"


def test_own_record_comes_back_as_it_was() -> None:
    """Or all records of another time could stand for those of this one."""

    def alter(rank: int, number: int, records: list[bytes]) -> list[bytes]:
        return records[::-1]

    text = "its own record came back changed: somebody alters what the ranks exchange"
    assert speak([b"one"], alter, [SECRET] * 2, [b""] * 2) == [f"0: {text}", f"1: {text}"]


@pytest.mark.parametrize("secret", [b"", SECRET])
def test_who_has_heard_something_else_is_noticed_in_the_next_round(secret: bytes) -> None:
    """Also where there is no secret, and the change was signed as it should be."""

    def alter(rank: int, number: int, records: list[bytes]) -> list[bytes]:
        if (rank, number) == (1, 0):
            word = b"one of X"
            before = sha256(b"gloompi meeting\0").digest()
            records = [sign(signing_key(secret), 2, 0, 0, before, word) + word, records[1]]
        return records

    found = speak([b"one", b"two"], alter, [secret] * 2, [b""] * 2)
    assert found == [f"1: {ALTERED}", f"0: {ALTERED}"]


# -- every way to meet --------------------------------------------------------------------------------------------------


def over_local(secrets: list[bytes]) -> list[object]:
    (one, _), (_, other) = local_exchanges(2, secrets[0]), local_exchanges(2, secrets[1])
    other._exchange._board = one._exchange._board  # type: ignore[attr-defined]

    def rank(exchange: Exchange) -> object:
        try:
            with Context._from_exchange(exchange, None, 20.0, Deadline(20.0), secrets[exchange.rank]) as ctx:
                return float(ctx.allreduce(np.float64(10.0**ctx.rank)))
        except RendezvousError as exc:
            return exc

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, [one, other]))


def over_a_store(secrets: list[bytes]) -> list[object]:
    store = HashStore()

    def rank(number: int) -> object:
        try:
            with Context.from_store(store, number, 2, secret=secrets[number], connect_timeout=20.0) as ctx:
                return float(ctx.allreduce(np.float64(10.0**ctx.rank)))
        except RendezvousError as exc:
            return exc

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(rank, range(2)))


@pytest.mark.parametrize("way", [over_local, over_a_store])
def test_different_secrets_in_one_process(way: Callable[[list[bytes]], list[object]]) -> None:
    assert way([SECRET, SECRET]) == [11.0, 11.0]
    for rank, error in enumerate(way([SECRET, b"another secret of them"])):
        assert isinstance(error, RendezvousError)
        assert (error.rank, error.reason) == (1 - rank, UNSIGNED)


WAYS = {
    "argument over MPI": ("from_mpi", "argument"),
    "file over MPI": ("from_mpi", "file"),
    "argument over the environment's MPI": ("from_env", "argument"),
    "file over the environment's MPI": ("from_env", "file"),
    "file, with the face of mpi4py": ("facade", "file"),
}


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("way", WAYS)
def test_secrets_over_mpi(way: str, tmp_path: Path) -> None:
    for rank, found in enumerate(run_job(2, "with_secrets.py", *WAYS[way], tmp_path, "same")):
        assert found["total"] == 3.0, (rank, found)
    for rank, found in enumerate(run_job(2, "with_secrets.py", *WAYS[way], tmp_path, "different")):
        assert found["error"] == f"rendezvous failed at rank {1 - rank}: {UNSIGNED}"
        assert found["seconds"] < 10


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("way", ["from_mpi", "from_env", "facade"])
def test_secret_file_that_one_rank_cannot_read_over_mpi(way: str, tmp_path: Path) -> None:
    """All ranks are told, at once, by a rank that has nothing to sign with."""
    ranks = run_job(3, "with_secrets.py", way, "file", tmp_path, "missing")
    assert max(found["seconds"] for found in ranks) < 10
    first, second, third = (found["error"] for found in ranks)
    assert first == second == third
    assert "): [Errno 2] cannot read the file that GLOOMPI_SECRET_FILE names: No such file or directory: " in first
    assert first.startswith("rendezvous failed at rank 1 (")


@pytest.mark.parametrize(("jobs", "meets"), [(["job 7", "job 7"], True), (["job 7", "job 8"], False)])
def test_the_name_of_a_job_is_signed(jobs: list[str], meets: bool) -> None:
    """Who writes to the store shows the ranks of one job the keys of another; both have the same secret."""

    class Everywhere(HashStore):
        """What is under any prefix is under all of them."""

        def _read(self, keys: Sequence[str]) -> list[bytes | None]:
            return super()._read([bare(key) for key in keys])

        def _write(self, items: Mapping[str, bytes]) -> None:
            super()._write({bare(key): value for key, value in items.items()})

        def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
            return super()._swap(bare(key), old, new)

        def _remove(self, keys: Sequence[str]) -> None:
            super()._remove([bare(key) for key in keys])

    def bare(key: str) -> str:
        return key[key.index("gloompi/") :]

    store = Everywhere()

    def rank(number: int) -> object:
        deadline = Deadline(20.0)
        record, listeners = prepare(None, 2)
        listeners.close()
        try:
            with exchange_through(PrefixStore(jobs[number], store), number, 2, SECRET, deadline) as exchange:
                return len(exchange(record.pack(), deadline, no_watch))
        except RendezvousError as exc:
            return exc.reason

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(rank, range(2))) == ([2, 2] if meets else [UNSIGNED] * 2)
