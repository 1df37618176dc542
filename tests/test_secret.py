"""The secret that ranks share: long enough, and in a file that nobody else can have written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from other_user import OTHER, run_as_other

from gloompi import Context, HashStore, TCPStore
from gloompi.secret import shared_secret

pytestmark = pytest.mark.usefixtures("nothing_leaks")

SECRET = b"sixteen bytes at least"


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(path))
    return path


def refused(error: type[Exception], text: str) -> None:
    """Every way to take the file's secret raises this, which shows nothing of it, before anything is opened or written."""
    store = HashStore()
    for use in (
        lambda: shared_secret(None),
        lambda: Context.from_store(store, 0, 2),
        lambda: Context.from_env(),
        lambda: TCPStore("127.0.0.1", 1, timeout=0.0),
    ):
        with pytest.raises(error, match=text) as caught:
            use()
        assert "sixteen" not in str(caught.value)
    assert store._items == {}


@pytest.mark.parametrize("secret", [b"x" * 15, "4711", "x" * 15, b"x"])
def test_short_secret(secret: bytes | str, secret_file: Path) -> None:
    """The word 4711 was found from one signed record in 0.12 s."""
    with pytest.raises(ValueError, match=rf"^secret has {len(secret)} bytes and needs 16, at random: openssl rand -hex 32$"):
        Context.from_store(HashStore(), 0, 2, secret=secret)
    secret_file.write_bytes((secret if isinstance(secret, bytes) else secret.encode()) + b"  \n")
    refused(ValueError, rf"the secret has {len(secret)} bytes and needs 16, at random: openssl rand -hex 32")


def test_secret_that_is_long_enough(secret_file: Path) -> None:
    assert shared_secret(None) == SECRET
    assert shared_secret("é" * 8) == ("é" * 8).encode()
    assert shared_secret(b"x" * 16) == b"x" * 16


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_file_that_others_can_write_to(mode: int, secret_file: Path) -> None:
    secret_file.chmod(mode)
    owner = rf"the file belongs to .* \(uid {os.geteuid()}\), mode 0{mode:o}"
    refused(PermissionError, f"names: {owner}: other users can write to it; chmod go-w, and")


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_file_that_others_can_replace(mode: int, secret_file: Path) -> None:
    secret_file.parent.chmod(mode)
    refused(
        PermissionError, rf"the folder '{re.escape(str(secret_file.parent))}' belongs to .*: other users can put a file in"
    )
    secret_file.parent.chmod(mode | 0o1000)
    assert shared_secret(None) == SECRET


@pytest.mark.parametrize("how", ["a folder of somebody else", "a link", "a folder above", "a link to a folder"])
def test_file_that_others_can_put_another_in_the_place_of(how: str, secret_file: Path) -> None:
    folder, open_ = secret_file.parent, secret_file.parent / "open"
    open_.mkdir()
    open_.chmod(0o777)
    if how == "a folder of somebody else":
        if os.geteuid():
            pytest.skip("needs root, to give a folder to another user")
        os.chown(folder, OTHER, -1)
    elif how == "a link":
        secret_file.rename(open_ / "secret")
        secret_file.symlink_to(open_ / "secret")
    else:
        inner = open_ / "inner"
        inner.mkdir(mode=0o700)
        secret_file.rename(inner / "secret")
        if how == "a folder above":
            os.environ["GLOOMPI_SECRET_FILE"] = str(inner / "secret")
        else:
            (folder / "way").symlink_to(inner)
            os.environ["GLOOMPI_SECRET_FILE"] = str(folder / "way" / "secret")
    refused(PermissionError, "can put a file in")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a link to another user")
@pytest.mark.parametrize("way", ["link", "way/secret"])
def test_link_of_somebody_else_in_a_sticky_folder(way: str, secret_file: Path) -> None:
    """What it leads to is this user's own file, and yet the other one's choice: one whose content he knows."""
    open_ = secret_file.parent / "open"
    open_.mkdir()
    open_.chmod(0o1777)
    (open_ / "link").symlink_to(secret_file)
    (open_ / "way").symlink_to(secret_file.parent)
    os.environ["GLOOMPI_SECRET_FILE"] = str(open_ / way)
    assert shared_secret(None) == SECRET  # its own
    for link in ("link", "way"):
        os.chown(open_ / link, OTHER, -1, follow_symlinks=False)
    refused(
        PermissionError, rf"the link '.*/{way.partition('/')[0]}' belongs to .* \(uid {OTHER}\), .*, who can put a file in"
    )


@pytest.mark.parametrize("relative", [False, True])
def test_folder_of_others_that_the_path_leaves_again(
    relative: bool, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``..`` behind a link is the folder above what the link leads to, so whoever can replace the link chooses the file."""
    folder = secret_file.parent
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    (folder / "one" / "two").mkdir(parents=True)
    (folder / "open" / "link").symlink_to(folder / "one" / "two")
    path = folder / "open" / "link" / ".." / ".." / "secret"
    assert path.samefile(secret_file)
    if relative:
        monkeypatch.chdir(folder / "one")
        path = Path("..", path.relative_to(folder))
    os.environ["GLOOMPI_SECRET_FILE"] = str(path)
    refused(PermissionError, "the folder '.*/open' belongs to .*: other users can put a file in its place")


def test_secret_that_is_no_utf8_is_shown_by_no_error() -> None:
    assert len(shared_secret("sixteen bytes at least \udc80")) > 16


def test_file_of_somebody_else(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = public / "secret"
    run_as_other("sh", "-c", f"umask 022; echo {SECRET.decode()} > {path}")
    monkeypatch.setenv("GLOOMPI_SECRET_FILE", str(path))
    refused(PermissionError, rf"names: the file belongs to .*\(?uid {OTHER}\)?, mode 0644, and this process is")


def test_link_to_a_file_of_somebody_else(public: Path, secret_file: Path) -> None:
    path = public / "theirs"
    run_as_other("sh", "-c", f"umask 022; echo {SECRET.decode()} > {path}")
    secret_file.unlink()
    secret_file.symlink_to(path)
    refused(PermissionError, rf"uid {OTHER}")


def test_link_to_a_file_of_ones_own(secret_file: Path) -> None:
    """As Kubernetes mounts secrets."""
    secret_file.rename(secret_file.with_name("hidden"))
    secret_file.symlink_to("hidden")
    assert shared_secret(None) == SECRET


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: path.write_bytes(bytes(65537)), "more than the 65536 bytes"),
    ],
)
def test_what_is_no_file_of_a_secret(make: Callable[[Path], None], text: str, secret_file: Path) -> None:
    secret_file.unlink()
    make(secret_file)
    if secret_file.is_file():
        secret_file.chmod(0o600)
    refused(OSError, text)
