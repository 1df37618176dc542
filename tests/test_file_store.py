"""FileStore: a folder of files that may be killed, seen late, or on NFS, and is never half of anything."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from launch import JOBS, reports

from gloompi import FileStore, RendezvousError
from gloompi.stores import file

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(program: str, *args: object) -> str:
    """What a program of tests/jobs prints."""
    command = [sys.executable, str(JOBS / program), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# -- many processes, and killed ones ------------------------------------------------------------------------------------


def test_processes_at_once(folder: Path) -> None:
    clients, times = 2, 60
    output = run("store_crowd.py", f"file://{folder}", clients, times)
    found = [(report["work"], report["result"]) for report in reports(5 * clients, output)]
    results = {name: [result for work, result in found if work == name] for name, _ in found}
    assert sorted(chain(*results["add"])) == list(range(1, clients * times + 1))
    assert min(results["read"]) >= times
    store = FileStore(folder)
    pieces = store.get("pieces", 0.0)
    for n in range(clients):
        mine = [b"(%d.%d)" % (n, i) for i in range(times)]
        places = [pieces.index(piece) for piece in mine]
        assert places == sorted(places)
        assert [pieces.count(piece) for piece in mine] == [1] * times
    store.delete(["counter", "pieces", "value"])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_processes(folder: Path, seed: int) -> None:
    (found,) = reports(1, run("store_kills.py", f"file://{folder}", 60, seed))
    assert len(set(found["counts"])) == 61
    assert found["counts"][-1] > 60
    # What was under way when they died is no key. If it was nothing, the store has removed its empty folder.
    left = [each.name for each in folder.glob("*")]
    assert all(name.startswith(("draft-", "trash-")) for name in left)
    assert folder.exists() == bool(left)


# -- keys ---------------------------------------------------------------------------------------------------------------

LONG = "x" * 1000
NAMES = [
    "a",
    "A",
    "a/b",
    "a%2Fb",
    "a_b",
    ".",
    "..",
    "/",
    "../a",
    "key=a",
    "draft-0",
    "trash-0",
    "now-0",
    "sha256=0",
    "a\0b",
    "a\nb",
    "ä",
    "a\u0308",
    LONG,
    LONG + "x",
    "ä" * 32,
    "ä" * 33,
    "ä" * 34,
    "x" * 196,
    "x" * 197,
]


def test_every_key_has_its_own_folder(folder: Path) -> None:
    store = FileStore(folder)
    store.multi_set(NAMES, [name.encode() for name in NAMES])
    assert store.multi_get(NAMES, 0.0) == [name.encode() for name in NAMES]
    places = list(folder.iterdir())
    assert len(places) == len(NAMES)
    assert all(place.is_dir() and len(os.fsencode(place.name)) <= 255 for place in places)
    assert [each.name for each in folder.parent.iterdir()] == ["store"]
    store.delete(NAMES)
    assert list(folder.iterdir()) == []


def test_a_key_holds_one_value_only(folder: Path) -> None:
    store = FileStore(folder)
    for n in range(10):
        store.set("key", b"%d" % n)
        store.add("counter", 1)
    for key in folder.iterdir():
        assert sorted(each.name.partition("-")[0] for each in key.iterdir()) == ["now", "value"]


# -- the folder ---------------------------------------------------------------------------------------------------------


def test_folder_is_for_this_user_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        store = FileStore(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.close()


def test_folder_that_was_made_is_removed(folder: Path) -> None:
    with FileStore(folder / "a" / "b") as store:
        store.set("key", b"")
        store.delete(["key"])
    assert not (folder / "a" / "b").exists()


def test_folder_that_was_there_or_is_in_use_stays(folder: Path) -> None:
    folder.mkdir()
    FileStore(folder).close()
    assert folder.exists()
    with FileStore(folder / "a") as store, FileStore(folder / "a") as other:
        store.set("key", b"value")
        store.close()
        assert other.get("key", 0.0) == b"value"
    assert (folder / "a").exists()


def test_folder_that_was_removed_is_made_again(folder: Path) -> None:
    with FileStore(folder) as store, FileStore(folder) as other:
        store.close()
        assert other.peek(["key"]) == [None]
        other.delete(["key"])
        other.set("key", b"value")
        assert store.get("key", 0.0) == b"value"


def test_folder_that_is_removed_meanwhile_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir
    maker, other = FileStore(folder), FileStore(folder)

    def made_and_removed(self: Path, *args: object, **options: object) -> None:
        mkdir(self, *args, **options)  # type: ignore[arg-type]
        if self == folder:
            monkeypatch.undo()
            maker.close()

    monkeypatch.setattr(Path, "mkdir", made_and_removed)
    other.set("key", b"value")
    assert other.get("key", 0.0) == b"value"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        FileStore(tmp_path / "file" / "store")
    with pytest.raises(FileExistsError):
        FileStore(tmp_path / "file")


def test_path_is_kept_when_the_process_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FileStore("store")
    store.set("key", b"value")
    monkeypatch.chdir("/")
    assert repr(store) == f"FileStore('{tmp_path}/store')"
    assert store.get("key", 0.0) == b"value"


# -- what the file system is asked for ----------------------------------------------------------------------------------

AUDITED = """
import os, sys
from gloompi import FileStore

events = set()

def audit(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].startswith(sys.argv[1]):
        events.add("exclusive open" if args[2] & os.O_EXCL else "open")
    elif event.startswith(("os.", "fcntl.", "socket.")):
        events.add(event)

sys.addaudithook(audit)
with FileStore(sys.argv[1]) as store:
    for _ in range(2):
        store.set("key", b"value")
        store.add("counter", 1)
        store.append("text", b"text")
        store.compare_set("key", b"value", b"another")
        store.multi_get(["key", "counter", "text"])
    store.delete(["key", "counter", "text"])
print(*sorted(events))
"""


def test_no_locks_and_no_links(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    events = set(done.stdout.split("\n")[0].split(" "))
    assert "os.rename" in events
    assert events <= {"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.utime"}


# -- what NFS does ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY])
def test_rename_whose_answer_was_lost(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    rename = Path.rename

    def done_and_refused(self: Path, target: Path) -> Path:
        rename(self, target)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "rename", done_and_refused)
    store = FileStore(folder)
    assert store.compare_set("new", None, b"1")
    assert not store.compare_set("new", None, b"2")
    if error == errno.ENOENT:  # a file's rename that is repeated does not find the old name
        assert [store.add("counter", 1) for _ in range(4)] == [1, 2, 3, 4]
        store.set("new", b"2")
        assert store.compare_set("new", b"2", b"3")
        assert store.get("new", 0.0) == b"3"
        store.delete(["new", "counter"])
        assert store.peek(["new", "counter"]) == [None, None]
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOSPC, errno.EIO])
def test_rename_that_failed(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    store = FileStore(folder)
    store.set("old", b"value")

    def refused(self: Path, target: Path) -> Path:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        for key in ("old", "new"):
            with pytest.raises(OSError, match=os.strerror(error)):
                store.set(key, b"another")
    assert store.peek(["old", "new"]) == [b"value", None]
    store.set("old", b"another")
    assert store.get("old", 0.0) == b"another"


def failing(method: Callable[..., object], errors: list[int]) -> Callable[..., object]:
    """A method that fails with these errors first."""

    def call(*args: object, **options: object) -> object:
        if errors:
            raise OSError(errors[0], os.strerror(errors.pop(0)))
        return method(*args, **options)

    return call


def test_value_that_is_replaced_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    errors = [errno.ESTALE, errno.ENOENT, errno.ESTALE]
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, errors))
    assert store.get("key", 0.0) == b"value"
    assert errors == []


def test_value_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, [errno.EACCES]))
    with pytest.raises(PermissionError):
        store.get("key", 0.0)


def test_folder_that_is_listed_while_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    listdir = os.listdir
    missed = [2]

    def listed(path: str) -> list[str]:
        missed[0] -= 1
        return [name for name in listdir(path) if missed[0] < 0 or not name.startswith("now-")]

    monkeypatch.setattr(os, "listdir", listed)
    assert store.get("key", 0.0) == b"value"
    assert missed == [-1]


def test_key_without_a_current_value(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_SETTLE_SECONDS", 0.1)
    store = FileStore(folder)
    store.set("key", b"value")
    (key,) = folder.iterdir()
    next(key.glob("now-*")).unlink()
    with pytest.raises(RendezvousError) as caught:
        store.get("key", 0.0)
    assert str(caught.value) == (
        f"rendezvous failed: {key} had no current value for 0 s; another program may have changed it"
    )
    store.delete(["key"])
    assert store.peek(["key"]) == [None]


def test_key_that_others_always_change_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_SETTLE_SECONDS", 0.1)
    store = FileStore(folder)
    monkeypatch.setattr(store, "_install", lambda place, version, value: False)
    with pytest.raises(RendezvousError, match=r"FileStore\('.*'\): 'key' was changed by others for 0 s on end$"):
        store.set("key", b"value")


# -- what killed processes leave ----------------------------------------------------------------------------------------


def test_leftovers_of_killed_processes(folder: Path) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    (key,) = folder.iterdir()
    (key / "value-0123456789abcdef").write_bytes(b"hal")  # written, and never became the current one
    for name in ("draft-0123456789abcdef", "trash-0123456789abcdef"):
        (folder / name).mkdir()
        (folder / name / "value-0123456789abcdef").write_bytes(b"hal")
        (folder / name / "now-0123456789abcdef").touch()
    (folder / "draft-0").mkdir()
    assert store.get("key", 0.0) == b"value"
    assert [store.add("counter", 1), store.add("counter", 1)] == [1, 2]
    store.set("key", b"another")
    assert store.get("key", 0.0) == b"another"
    store.delete(["key", "counter"])
    assert store.peek(["key", "counter"]) == [None, None]
    assert not key.exists()


def test_what_killed_processes_left_is_swept_up(tmp_path: Path) -> None:
    """Not what somebody may still be making."""
    for name, hours in (("draft-old", 2), ("trash-old", 2), ("draft-new", 0), ("key=old", 2), ("other", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "value-1").touch()
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
    FileStore(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["draft-new", "key=old", "other"]
