"""Context.from_store: ranks that meet over a store, the secret they share, and processes over real servers."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from launch import JOBS, reports
from servers import HOST, free_port

from gloompi import (
    Context,
    EtcdStore,
    FileStore,
    HashStore,
    PrefixStore,
    RedisStore,
    RendezvousError,
    Store,
    TCPStore,
    ZooKeeperStore,
)
from gloompi.deadline import Deadline
from gloompi.rendezvous import mesh
from gloompi.rendezvous.record import RECORD_NBYTES
from gloompi.rendezvous.store import exchange_through
from gloompi.transport.handshake import Session

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SECRET = "correct horse battery staple"


def meet(size: int, run: Callable[[int], object]) -> list[object]:
    """`run` in a thread per rank; what each returned or raised."""

    def guarded(rank: int) -> object:
        try:
            return run(rank)
        except BaseException as exc:
            return exc

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(guarded, range(size)))


def total(store: Store, rank: int, size: int, **options: object) -> float:
    """What an allreduce gives on ranks that met over a store."""
    with Context.from_store(store, rank, size, connect_timeout=20.0, **options) as ctx:  # type: ignore[arg-type]
        assert (ctx.rank, ctx.size, len(ctx.peers)) == (rank, size, size)
        return float(ctx.allreduce(np.float64(10.0**rank)))


TOTALS = {1: 1.0, 2: 11.0, 3: 111.0, 4: 1111.0, 5: 11111.0}


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_ranks_meet_and_nothing_stays(size: int) -> None:
    store = HashStore()
    for _ in range(2):
        assert meet(size, lambda rank: total(store, rank, size)) == [TOTALS[size]] * size
        assert store._items == {}


def test_store_stays_open(tmp_path: Path) -> None:
    with FileStore(tmp_path / "store") as store:
        assert meet(2, lambda rank: total(store, rank, 2)) == [11.0] * 2
        store.set("key", b"value")
        assert store.get("key", 0.0) == b"value"


def test_one_rank_does_not_use_the_store() -> None:
    class Untouched(HashStore):
        def _read(self, keys: object) -> list[bytes | None]:
            raise AssertionError("the store was used")

        _write = _swap = _remove = _read  # type: ignore[assignment]

    assert total(Untouched(), 0, 1) == 1.0


def test_missing_ranks_are_named() -> None:
    store = HashStore()

    def run(rank: int) -> None:
        Context.from_store(PrefixStore("job 7", store), 2 * rank, 4, connect_timeout=0.5)

    found = [str(result) for result in meet(2, run)]
    assert found[0] == (
        "rendezvous failed: ranks 1, 3 of 4 have not shown up in PrefixStore('gloompi', PrefixStore('job 7', HashStore())) "
        "within 0.5 s; late (connect_timeout), dead, or started with another store, prefix or size"
    )
    assert store._items == {}


# -- arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (({}, 0, 1), {}, TypeError, "store must be a gloompi.Store, not dict"),
        (("redis://node7", 0, 1), {}, TypeError, "store must be a gloompi.Store, not str"),
        ((HashStore, 0, 1), {}, TypeError, "store must be a gloompi.Store, not ABCMeta"),
        ((HashStore(), 0, 0), {}, ValueError, "size must be at least 1, not 0"),
        ((HashStore(), 4, 4), {}, ValueError, r"rank must be in range\(4\), not 4"),
        ((HashStore(), -1, 4), {}, ValueError, r"rank must be in range\(4\), not -1"),
        ((HashStore(), 0.0, 4), {}, TypeError, "'float' object cannot be interpreted as an integer"),
        ((HashStore(), 0, "4"), {}, TypeError, "'str' object cannot be interpreted as an integer"),
        ((HashStore(), 0, 1), {"secret": ""}, ValueError, "secret must not be empty; None is no secret"),
        ((HashStore(), 0, 1), {"secret": b""}, ValueError, "secret must not be empty; None is no secret"),
        ((HashStore(), 0, 1), {"secret": 7}, TypeError, "secret must be bytes or str, not int"),
        ((HashStore(), 0, 1), {"device": "eth0"}, TypeError, "device must be a gloompi.Device, not str"),
        ((HashStore(), 0, 1), {"timeout": -1}, ValueError, "timeout must be seconds >= 0 or None, not -1"),
        ((HashStore(), 0, 1), {"connect_timeout": -1}, ValueError, "connect_timeout must be seconds >= 0 or None, not -1"),
    ],
)
def test_misuse(arguments: tuple[object, ...], options: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}$"):
        Context.from_store(*arguments, **options)  # type: ignore[arg-type]


def test_ranks_of_numpy() -> None:
    store = HashStore()
    assert meet(2, lambda rank: total(store, np.int64(rank), np.uint8(2))) == [11.0] * 2


# -- the secret ---------------------------------------------------------------------------------------------------------


def secret_file(folder: Path, content: bytes = SECRET.encode(), mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_same_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As str, as bytes, and from a file."""
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(secret_file(tmp_path, SECRET.encode() + b"\n")))
    store = HashStore()
    secrets = [SECRET, SECRET.encode(), None]
    assert meet(3, lambda rank: total(store, rank, 3, secret=secrets[rank])) == [111.0] * 3
    assert caplog.text == ""


A, B = "a" * 16, "b" * 16


@pytest.mark.parametrize("secrets", [[A, B], [None, B], [A, None], [A, A, B], [A, B, B]])
def test_different_secrets(secrets: list[str | None]) -> None:
    store, size = HashStore(), len(secrets)
    found = meet(size, lambda rank: total(store, rank, size, secret=secrets[rank]))
    for rank, error in enumerate(found):
        assert type(error) is RendezvousError
        assert error.rank == next(peer for peer in range(size) if secrets[peer] != secrets[rank])
        assert error.reason == (
            "its record is not signed with this rank's secret: the ranks have different secrets (secret=, "
            "GLOOMPI_SECRET_FILE), or somebody else alters what they exchange"
        )
        assert str(error).startswith(f"rendezvous failed at rank {error.rank}")
    assert store._items == {}


def test_argument_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", "/nonexistent")
    store = HashStore()
    assert meet(2, lambda rank: total(store, rank, 2, secret=SECRET)) == [11.0] * 2


def test_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(path))
    with pytest.raises(FileNotFoundError) as caught:
        Context.from_store(HashStore(), 0, 2)
    assert str(caught.value) == (
        f"[Errno {errno.ENOENT}] cannot read the file that GLOOMPI_SECRET_FILE names: No such file or directory: '{path}'"
    )


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_file_that_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = secret_file(tmp_path, content)
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(path))
    with pytest.raises(ValueError, match="the file is empty") as caught:
        Context.from_store(HashStore(), 0, 2)
    assert str(caught.value) == (
        f"GLOOMPI_SECRET_FILE={path}: the file is empty; fill it with random text: openssl rand -hex 32"
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_file_that_others_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = secret_file(tmp_path, mode=mode)
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(path))
    assert total(HashStore(), 0, 1) == 1.0
    assert caplog.messages == [f"GLOOMPI_SECRET_FILE={path}: other users may read it; chmod 600 {path}"]


class Overheard(HashStore):
    """A store whose every value somebody keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, bytes]] = []

    def _write(self, items: Mapping[str, bytes]) -> None:
        self.written += items.items()
        super()._write(items)

    def records(self) -> list[bytes]:
        """What the ranks have made the session key of, as far as the store tells."""
        records = {key: value[-RECORD_NBYTES:] for key, value in self.written if "/0/" in key}
        return [records[key] for key in sorted(records)]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The session keys that the ranks have derived."""
    found: list[bytes] = []

    class Watched(Session):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            found.append(self._key)

    monkeypatch.setattr(mesh, "Session", Watched)
    return found


def test_without_a_secret_the_store_tells_the_key(keys: list[bytes]) -> None:
    """So whoever can read the store can pose as a rank: the store has to be trusted, or a secret be given."""
    store = Overheard()
    assert meet(3, lambda rank: total(store, rank, 3)) == [111.0] * 3
    assert set(keys) == {Session(store.records())._key}


def test_with_a_secret_the_store_does_not_tell_the_key(keys: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = Overheard()
    assert meet(3, lambda rank: total(store, rank, 3, secret=SECRET)) == [111.0] * 3
    assert len(set(keys)) == 1
    assert keys[0] != Session(store.records())._key
    assert keys[0] == Session(store.records(), SECRET.encode())._key  # all that is missing is the secret
    told = repr(store.written) + caplog.text
    assert "session agreed on" in told
    for hidden in (SECRET.encode(), keys[0]):
        assert repr(hidden)[2:-1] not in told
        assert hidden.hex() not in told


def test_secret_is_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(secret_file(tmp_path)))
    store = HashStore()
    secrets = [None, SECRET[::-1]]
    for error in meet(2, lambda rank: total(store, rank, 2, secret=secrets[rank])):
        assert SECRET not in repr(error) + str(error)
        assert SECRET[::-1] not in repr(error) + str(error)


@contextmanager
def _forged(secret: bytes, forge: Callable[[dict[str, bytes]], None]) -> Iterator[list[object]]:
    """What two ranks get from a second round when somebody changes what the first one has set for it."""
    store = HashStore()

    def run(rank: int) -> object:
        deadline = Deadline(20.0)
        with exchange_through(store, rank, 2, secret, deadline) as channel:
            channel(b"first of %d" % rank, deadline, lambda: None)
            if rank == 1:
                return channel(b"second of 1", deadline, lambda: None)
            key = next(key for key in store._items if key.endswith("/0/0"))
            store.wait([key[:-3] + "1/1"], 20.0)
            forge(store._items)
            return channel(b"second of 0", deadline, lambda: None)

    yield meet(2, run)


@pytest.mark.parametrize("secret", [b"", SECRET.encode()])
def test_nobody_can_move_a_record(secret: bytes) -> None:
    def replay(items: dict[str, bytes]) -> None:
        (key,) = (key for key in items if key.endswith("/1/1"))
        items[key] = items[key[:-3] + "0/1"]

    with _forged(secret, replay) as (found, _):
        assert isinstance(found, RendezvousError)
        assert found.rank == 1


def test_nobody_without_the_secret_can_change_a_record() -> None:
    def forge(items: dict[str, bytes]) -> None:
        (key,) = (key for key in items if key.endswith("/1/1"))
        items[key] = items[key][:32] + b"somebody 's"

    with _forged(SECRET.encode(), forge) as (found, _):
        assert isinstance(found, RendezvousError)
        assert found.rank == 1


# -- processes over real servers ----------------------------------------------------------------------------------------


def start(url: str, prefix: str, rank: int, size: int, *halt: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(JOBS / "meet.py"), url, prefix, str(rank), str(size), *halt]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(ranks: list[subprocess.Popen[str]]) -> list[dict[str, object]]:
    """What the ranks report, by rank."""
    output = ""
    for process in ranks:
        try:
            out, err = process.communicate(timeout=60.0)
        finally:
            process.kill()
        assert process.returncode == 0, err
        output += out
    return reports(len(ranks), output)


@pytest.fixture(params=["redis", "redis_tls", "etcd", "zookeeper", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is, in the form of GLOOMPI_STORE."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "redis_tls":
        return f"rediss://:{server.password}@{HOST}:{server.port}/0?ssl_ca_certs={server.ca}"
    scheme = "redis" if request.param == "redis" else request.param
    return f"{scheme}://{HOST}:{server.port}"


@pytest.mark.parametrize("halt", ["trace", "/1/"])
def test_processes_after_a_killed_run(url: str, halt: str) -> None:
    """One rank of the first run does not get beyond some key, and all are killed while they wait for it."""
    killed = [start(url, "job 7", rank, 4, *([halt] if rank == 3 else [])) for rank in range(4)]
    assert killed[3].stdout is not None
    assert f'"halted": "{halt}"' in killed[3].stdout.readline()
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    ranks = [start(url, "job 7", rank, 4) for rank in range(4)]
    pids = [process.pid for process in ranks]
    assert finish(ranks) == [{"rank": rank, "total": 1111.0, "pids": pids} for rank in range(4)]


def test_processes_over_a_tcp_store() -> None:
    url = f"tcp://{HOST}:{free_port()}"
    ranks = [start(url, "job 7", rank, 4) for rank in range(4)]
    pids = [process.pid for process in ranks]
    assert finish(ranks) == [{"rank": rank, "total": 1111.0, "pids": pids} for rank in range(4)]


def test_two_jobs_at_once_in_one_redis(redis_server: object) -> None:
    url = redis_server.url  # type: ignore[attr-defined]
    jobs = [[start(url, prefix, rank, size) for rank in range(size)] for prefix, size in (("job/7", 3), ("job", 4))]
    for ranks, total in zip(jobs, [111.0, 1111.0], strict=True):
        pids = [process.pid for process in ranks]
        assert finish(ranks) == [{"rank": rank, "total": total, "pids": pids} for rank in range(len(ranks))]


# -- who else may be there ----------------------------------------------------------------------------------------------


class Served(HashStore):
    """A store that others can use too."""

    _exposed = "whoever likes"


@pytest.mark.parametrize(("secret", "told"), [(None, 1), (SECRET, 0)])
def test_what_others_can_do_is_said_once(
    secret: str | None, told: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gloompi.rendezvous.store._told", set())
    shared = PrefixStore("a", PrefixStore("b", Served()))
    for _ in range(2):
        assert meet(2, lambda rank: total(shared, rank, 2, secret=secret)) == [11.0] * 2
    assert len(caplog.messages) == told
    if told:
        assert caplog.messages[0].startswith(
            "the ranks have no secret, and meet in Served(): whoever likes can pose as a rank, rank 0 too, read and change "
            "what "
            "the ranks send each other, and execute code on them, because they unpickle what ranks send; give all ranks a "
        )


@pytest.mark.parametrize(
    ("ranks", "stores", "text"),
    [
        (
            None,
            None,
            "the ranks have no secret, and meet in {}: whoever can reach its port, or takes it before rank 0 does, can",
        ),
        (None, SECRET, "the ranks have no secret, and meet in {}: whoever is between two ranks can pose as a rank,"),
        (
            SECRET,
            None,
            "the ranks have a secret, {} has none: whoever can reach its port, or takes it before rank 0 does, can keep the "
            "ranks from meeting; give it the same (TCPStore(secret=...), or GLOOMPI_SECRET_FILE)",
        ),
        (SECRET, SECRET, None),
    ],
)
def test_what_others_can_do_to_a_store_that_a_rank_serves(
    ranks: str | None,
    stores: str | None,
    text: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gloompi.rendezvous.store._told", set())
    port = free_port()

    def run(rank: int) -> float:
        with TCPStore(HOST, port, serve=rank == 0, rank=rank or None, secret=stores) as store:
            return total(PrefixStore("job", store), rank, 2, secret=ranks)

    assert meet(2, run) == [11.0] * 2
    assert len(caplog.messages) == (text is not None)
    if text is not None:
        assert caplog.messages[0].startswith(text.format(f"TCPStore('{HOST}', {port})"))


def test_stores_that_others_can_use_say_so(tmp_path: Path) -> None:
    for kind in (RedisStore, EtcdStore, ZooKeeperStore):
        assert kind._exposed == "whoever can use that server, or is between it and a rank,"
    assert (HashStore._exposed, FileStore._exposed) == ("", "")  # the folder's modes say who
