"""FileStore: a folder of files that may be killed, seen late, or on NFS, and is never half of anything."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from launch import JOBS, reports
from other_user import OTHER, as_other, run_as_other

from gloompi import FileStore, RendezvousError
from gloompi.stores import file

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


MARKER = "gloompi-FileStore"


def inside(folder: Path) -> list[Path]:
    """What is in a store's folder beside its mark."""
    return [each for each in folder.iterdir() if each.name != MARKER]


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
    assert inside(folder) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_processes(folder: Path, seed: int) -> None:
    (found,) = reports(1, run("store_kills.py", f"file://{folder}", 60, seed))
    assert len(set(found["counts"])) == 61
    assert found["counts"][-1] > 60
    # What was under way when they died is no key. If it was nothing, the store has removed its empty folder.
    left = [each.name for each in folder.glob("*")]
    assert all(name == MARKER or name.startswith(("draft-", "trash-")) for name in left)
    assert folder.exists() == bool(left) == (left != [MARKER])


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
    places = inside(folder)
    assert len(places) == len(NAMES)
    assert all(place.is_dir() and len(os.fsencode(place.name)) <= 255 for place in places)
    assert [each.name for each in folder.parent.iterdir()] == ["store"]
    store.delete(NAMES)
    assert inside(folder) == []


def test_a_key_holds_one_value_only(folder: Path) -> None:
    store = FileStore(folder)
    for n in range(10):
        store.set("key", b"%d" % n)
        store.add("counter", 1)
    for key in inside(folder):
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
    mkdir = os.mkdir
    maker, other = FileStore(folder), FileStore(folder)

    def made_and_removed(path: str | Path, *args: int, **options: int) -> None:
        mkdir(path, *args, **options)
        if path == folder:
            monkeypatch.undo()
            folder.rmdir()

    monkeypatch.setattr(os, "mkdir", made_and_removed)
    maker.close()
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
    if event == "open":
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
    rename = os.rename

    def done_and_refused(source: str, target: str, **folders: int) -> None:
        rename(source, target, **folders)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "rename", done_and_refused)
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
        assert inside(folder) == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.ENOSPC, errno.EIO])
def test_rename_that_failed(folder: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    store = FileStore(folder)
    store.set("old", b"value")

    def refused(source: str, target: str, **folders: int) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
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
    monkeypatch.setattr(file, "read_file", failing(file.read_file, errors))
    assert store.get("key", 0.0) == b"value"
    assert errors == []


def test_value_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    monkeypatch.setattr(file, "read_file", failing(file.read_file, [errno.EACCES]))
    with pytest.raises(PermissionError):
        store.get("key", 0.0)


def test_folder_that_is_listed_while_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    names = file.names
    missed = [2]

    def listed(parts: int) -> list[str]:
        missed[0] -= 1
        return [name for name in names(parts) if missed[0] < 0 or not name.startswith("now-")]

    monkeypatch.setattr(file, "names", listed)
    assert store.get("key", 0.0) == b"value"
    assert missed == [-1]


def test_key_without_a_current_value(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_SETTLE_SECONDS", 0.1)
    store = FileStore(folder)
    store.set("key", b"value")
    (key,) = inside(folder)
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
    monkeypatch.setattr(store, "_install", lambda folder, place, version, value: False)
    with pytest.raises(RendezvousError, match=r"FileStore\('.*'\): 'key' was changed by others for 0 s on end$"):
        store.set("key", b"value")


# -- what killed processes leave ----------------------------------------------------------------------------------------


def test_leftovers_of_killed_processes(folder: Path) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    (key,) = inside(folder)
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


ID = "0123456789abcdef"


def leave(folder: Path, *names: str, hours: float = 2) -> None:
    """A folder as a store makes them, that nobody has touched for some hours."""
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    os.utime(folder, (time.time() - 3600 * hours,) * 2)


def test_what_killed_processes_left_is_swept_up(folder: Path) -> None:
    """Not what somebody may still be making."""
    store = FileStore(folder)
    store.set("old", b"value")
    os.utime(folder / "key=old", (0, 0))
    leave(folder / f"draft-{ID}", f"value-{ID}")
    leave(folder / f"trash-{ID}", f"value-{ID}", f"now-{ID}", "value-fedcba9876543210")
    leave(folder / "draft-fedcba9876543210", f"value-{ID}", hours=0)
    FileStore(folder)
    assert sorted(os.listdir(folder)) == ["draft-fedcba9876543210", MARKER, "key=old"]


# -- what is not the store's --------------------------------------------------------------------------------------------


def files(folder: Path) -> list[tuple[str, bytes]]:
    """All that there is in a folder, with what it holds."""
    return sorted(
        (str(each.relative_to(folder)), each.read_bytes() if each.is_file() else b"") for each in folder.rglob("*")
    )


def papers(folder: Path) -> list[tuple[str, bytes]]:
    """A folder of the user's, with names that a store may like, that nobody has touched for years; what it holds."""
    for name in ("draft-2024", "trash-2019", f"draft-{ID}", f"trash-{ID}", "key=letters", "letters"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thesis.txt").write_text("years of work")
        os.utime(folder / name, (0, 0))
    return files(folder)


def test_folder_of_the_users_is_refused_and_nothing_of_it_deleted(tmp_path: Path) -> None:
    held = papers(tmp_path / "papers")
    with pytest.raises(FileExistsError) as caught:
        FileStore(tmp_path / "papers")
    assert files(tmp_path / "papers") == held
    assert re.fullmatch(
        rf"\[Errno 17\] the folder is no FileStore's, '[^']+' is in it; give an empty one, or a free name: "
        rf"'{tmp_path}/papers'",
        str(caught.value),
    )


@pytest.mark.parametrize("name", ["draft-2024", f"draft-{ID}", f"trash-{ID}", "key=letters", "sha256=" + "0" * 64, ".nfs1x"])
def test_folder_with_one_thing_of_the_users_is_refused(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=f"no FileStore's, '{name}' is in it"):
        FileStore(folder)
    assert (folder / name / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["key=2024", "sha256=" + "0" * 64])
def test_empty_folder_of_the_users_is_no_key(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    with pytest.raises(FileExistsError, match=f"no FileStore's, '{name}' is in it"):
        FileStore(folder)
    assert os.listdir(folder) == [name]


def test_marked_folder_with_things_of_the_users(folder: Path) -> None:
    FileStore(folder)
    held = papers(folder)
    with FileStore(folder) as store:
        store.set("key", b"value")
        assert store.get("key", 0.0) == b"value"
        store.delete(["key"])
        with pytest.raises(FileExistsError, match=f"no FileStore has made: '{folder}/key=letters'"):
            store.delete(["letters"])
        assert files(folder) == held
    assert files(folder) == held


@pytest.mark.parametrize(
    "plant",
    [
        lambda place: (place / "thesis.txt").write_text("years of work"),
        lambda place: (place / f"value-{ID}x").write_text("years of work"),
        lambda place: (place / f"now-{ID}").write_text("years of work"),
        lambda place: (place / f"value-{ID}").mkdir(),
        lambda place: (place / f"value-{ID}").symlink_to("/etc/passwd"),
        lambda place: os.mkfifo(place / f"value-{ID}"),
    ],
)
def test_unfinished_key_with_something_else_in_it_stays(folder: Path, plant: Callable[[Path], object]) -> None:
    FileStore(folder)
    for name in (f"draft-{ID}", f"trash-{ID}"):
        (folder / name).mkdir()
        plant(folder / name)
        os.utime(folder / name, (0, 0))
    names = sorted(map(str, folder.rglob("*")))
    FileStore(folder)
    assert sorted(map(str, folder.rglob("*"))) == names


def test_sweep_does_not_follow_links(tmp_path: Path, folder: Path) -> None:
    papers(tmp_path / "papers")
    leave(tmp_path / "papers" / "mine", f"value-{ID}")
    held = files(tmp_path / "papers")
    FileStore(folder)
    (folder / f"draft-{ID}").symlink_to(tmp_path / "papers" / "mine")
    (folder / f"trash-{ID}").symlink_to(tmp_path / "papers")
    for name in (f"draft-{ID}", f"trash-{ID}"):
        os.utime(folder / name, (0, 0), follow_symlinks=False)
    FileStore(folder)
    assert files(tmp_path / "papers") == held


@pytest.mark.parametrize("use", [lambda store: store.delete(["key"]), lambda store: store.set("key", b"mine"),
                                 lambda store: store.get("key", 0.0), lambda store: store.add("key", 1)])  # fmt: skip
def test_key_that_is_a_link_is_not_followed(tmp_path: Path, folder: Path, use: Callable[[FileStore], object]) -> None:
    other = FileStore(tmp_path / "other")
    other.set("key", b"1")
    store = FileStore(folder)
    (folder / "key=key").symlink_to(tmp_path / "other" / "key=key")
    with pytest.raises(NotADirectoryError) as caught:
        use(store)
    text = f"[Errno 20] a symbolic link, which is not followed; give the folder that it leads to: '{folder}/key=key'"
    assert str(caught.value) == text
    assert other.get("key", 0.0) == b"1"


def test_folder_that_is_a_link_is_not_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "target").mkdir()
    folder.symlink_to(tmp_path / "target")
    with pytest.raises(NotADirectoryError, match=f"a symbolic link, which is not followed; .*: '{folder}'"):
        FileStore(folder)
    assert list((tmp_path / "target").iterdir()) == []


def test_close_leaves_what_others_have_put_there(folder: Path, tmp_path: Path) -> None:
    with FileStore(folder):
        (folder / "thesis.txt").write_text("years of work")
    assert (folder / "thesis.txt").read_text() == "years of work"
    with FileStore(tmp_path / "other"):
        (tmp_path / "other").rename(tmp_path / "moved")
        (tmp_path / "other").symlink_to(tmp_path / "moved")
    assert (tmp_path / "moved" / MARKER).exists()


def test_close_while_another_store_makes_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmdir = os.rmdir
    store, other = FileStore(folder), FileStore(folder)

    def after_a_key(path: Path, **options: int) -> None:
        monkeypatch.undo()
        other.set("key", b"value")
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", after_a_key)
    store.close()
    assert (folder / MARKER).exists()
    assert FileStore(folder).get("key", 0.0) == b"value"


def test_key_without_its_folders_mark(folder: Path) -> None:
    """A process was killed while it removed the folder, and another has made a key."""
    store = FileStore(folder)
    store.multi_set({"key": b"value", LONG: b"long"})
    leave(folder / f"draft-{ID}", f"value-{ID}")
    (folder / MARKER).unlink()
    assert FileStore(folder).multi_get(["key", LONG], 0.0) == [b"value", b"long"]
    assert (folder / MARKER).exists()
    assert not (folder / f"draft-{ID}").exists()


def test_all_is_for_this_user_only(folder: Path) -> None:
    before = os.umask(0)
    try:
        store = FileStore(folder / "a" / "b")
        for n in range(2):
            store.set("key", b"%d" % n)
            store.set(LONG, b"%d" % n)
    finally:
        os.umask(before)
    found = [folder, *folder.rglob("*")]
    assert len(found) == 3 + 1 + 2 * 3
    assert {(each.is_dir(), stat.S_IMODE(each.stat().st_mode)) for each in found} == {(True, 0o700), (False, 0o600)}


# -- what is no value ---------------------------------------------------------------------------------------------------


def current(folder: Path, key: str = "key") -> Path:
    """The file of a key's value."""
    (path,) = (folder / f"key={key}").glob("value-*")
    return path


def with_size(path: Path, nbytes: int) -> None:
    path.touch()
    os.truncate(path, nbytes)


@pytest.mark.parametrize(
    ("plant", "text"),
    [
        (os.mkfifo, r"no regular file: belongs to .*, mode 0644"),
        (lambda path: path.symlink_to("/dev/zero"), "a symbolic link, which is not followed"),
        (lambda path: path.symlink_to("/etc/passwd"), "a symbolic link, which is not followed"),
        (lambda path: with_size(path, 1 << 40), "more than the 67108864 bytes that a file of this kind has"),
    ],
)
def test_what_is_no_value_is_not_read(folder: Path, plant: Callable[[Path], object], text: str) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    path = current(folder)
    path.unlink()
    plant(path)
    began = time.monotonic()
    with pytest.raises(OSError, match=f"{text}: '{path}'"):
        store.get("key", 5.0)
    assert time.monotonic() - began < 5.0


def test_key_with_too_many_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gloompi.stores.folder._MAX_FILES", 10)
    store = FileStore(folder)
    store.set("key", b"value")
    for n in range(10):
        (folder / "key=key" / f"value-{n:016x}").touch()
    with pytest.raises(OSError, match="more than the 10 files that a key has"):
        store.get("key", 0.0)


def test_value_that_is_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_MAX_NBYTES", 10)
    store = FileStore(folder)
    store.set("key", bytes(10))
    for use in (store.set, lambda key, value: store.compare_set(key, None, value)):
        with pytest.raises(ValueError, match=r"^the value of 'longer' has 11 bytes; a FileStore takes up to 10$"):
            use("longer", bytes(11))
    assert store.peek(["key", "longer"]) == [bytes(10), None]


# -- other users --------------------------------------------------------------------------------------------------------


def test_folder_of_another_user_is_refused(folder: Path) -> None:
    as_other()
    folder.mkdir(0o700)
    os.chown(folder, OTHER, OTHER)
    with pytest.raises(PermissionError) as caught:
        FileStore(folder)
    assert re.fullmatch(
        rf"\[Errno 1\] the folder belongs to \S+ \(uid {OTHER}\), mode 0700, and this process is root \(uid 0\); take one "
        rf"of your own \(mktemp -d\): '{folder}'",
        str(caught.value),
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match=rf"mode 0{mode:o}: other users can write to it; chmod go-w.*: '{folder}'"):
        FileStore(folder)
    assert list(folder.iterdir()) == []
    folder.chmod(0o1000 | mode)  # as /tmp: they can make files there, but not touch this user's
    with FileStore(folder) as store:
        store.set("key", b"value")
        assert store.get("key", 0.0) == b"value"


def test_folder_that_becomes_writable_by_others_is_refused(folder: Path) -> None:
    store = FileStore(folder)
    store.set("key", b"value")
    folder.chmod(0o777)
    for use in (lambda: store.get("key", 0.0), lambda: store.set("key", b""), lambda: store.delete(["key"])):
        with pytest.raises(PermissionError, match="other users can write to it"):
            use()


def test_mark_that_another_user_has_made_is_none(public: Path) -> None:
    run_as_other("touch", public / MARKER)
    with pytest.raises(PermissionError, match=rf"no mark .* belongs to \S+ \(uid {OTHER}\), mode 0644, 0 bytes: "):
        FileStore(public)


def test_keys_that_another_user_has_made_are_none(public: Path) -> None:
    store = FileStore(public)
    run_as_other("sh", "-c", f"cd {public} && mkdir key=key && touch key=key/value-{ID} key=key/now-{ID}")
    for use in (lambda: store.get("key", 0.0), lambda: store.set("key", b""), lambda: store.delete(["key"])):
        with pytest.raises(PermissionError, match=rf"the folder belongs to \S+ \(uid {OTHER}\), .*: '{public}/key=key'"):
            use()
    store.set("another", b"value")
    assert store.get("another", 0.0) == b"value"


def test_links_that_another_user_has_planted_lead_nowhere(public: Path, tmp_path: Path) -> None:
    """The folder of the attacks that a review showed: links with a store's own names, to folders of the user's."""
    papers(tmp_path / "papers")
    leave(tmp_path / "papers" / "mine", f"value-{ID}")
    held = files(tmp_path / "papers")
    store = FileStore(public)
    plant = (
        f"ln -s {tmp_path}/papers draft-{ID}; ln -s {tmp_path}/papers/mine trash-{ID}; ln -s {tmp_path}/papers/mine key=key"
    )
    run_as_other("sh", "-c", f"cd {public} && {plant}; touch -h -d '3 hours ago' *-{ID}")
    with FileStore(public) as again:
        for use in (lambda: again.delete(["key"]), lambda: store.set("key", b""), lambda: store.get("key", 0.0)):
            with pytest.raises(NotADirectoryError, match="a symbolic link, which is not followed"):
                use()
    store.close()
    assert files(tmp_path / "papers") == held
