"""Files of this user's own: opened so that no link, no pipe and no file of somebody else's takes their place.

Whoever may write to a folder decides what its names stand for.  So a folder has to be one that only this user can change, a
file is opened without following a link and without waiting for what is no file, and what was opened is looked at, not the
name: between two looks at a name it may have become another.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path

__all__ = ["check_folder", "make_folder", "open_file", "open_folder", "ownership", "read_file", "read_trusted", "write_all"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe without a writer would be waited for, and a terminal would become this process's.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PIECE_NBYTES = 1 << 20
# As many as the kernel follows.
_MOST_LINKS = 40
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def ownership(found: os.stat_result) -> str:
    """Owner and mode, for people: ``"belongs to nobody (uid 65534), mode 0755"``."""
    return f"belongs to {_user(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}"


def _user(uid: int) -> str:
    from pwd import getpwuid  # which only an error pays for

    try:
        return f"{getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def make_folder(path: Path) -> bool:
    """Make a folder that only this user can enter, and those above it; say whether it was not there."""
    try:
        os.mkdir(os.fspath(path), 0o700)
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent)
        return make_folder(path)
    except FileExistsError:
        return False
    return True


def _is_open_to_others(found: os.stat_result) -> bool:
    """Return whether others can change what the names in a folder stand for."""
    return bool(found.st_mode & _WRITABLE_BY_OTHERS) and not found.st_mode & stat.S_ISVTX


def check_folder(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Raise PermissionError unless the folder is this user's, and others cannot change what its names stand for."""
    mine = os.geteuid()
    if found.st_uid != mine:
        text = f"the folder {ownership(found)}, and this process is {_user(mine)}; take one of your own (mktemp -d)"
    elif _is_open_to_others(found):
        text = f"the folder {ownership(found)}: other users can write to it; chmod go-w, or take one of your own (mktemp -d)"
    else:
        return
    raise PermissionError(errno.EPERM, text, os.fspath(path))


@contextmanager
def open_folder(path: str | os.PathLike[str], folder: int | None = None) -> Iterator[int]:
    """The descriptor of a folder that only this user can change.

    Parameters
    ----------
    folder : int, optional
        Descriptor of the folder that `path` is in.

    Raises
    ------
    PermissionError
        It belongs to somebody else, or others can write to it and it is not sticky.
    NotADirectoryError
        It is no folder, or a symbolic link.
    """
    path = os.fspath(path)
    try:
        fd = os.open(path, _FOLDER, dir_fd=folder)
    except NotADirectoryError:
        if not stat.S_ISLNK(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        text = "a symbolic link, which is not followed; give the folder that it leads to"
        raise NotADirectoryError(errno.ENOTDIR, text, path) from None
    try:
        check_folder(os.fstat(fd), path)
        yield fd
    except OSError as exc:
        # What is named relative to a descriptor says nothing to people.
        if isinstance(exc.filename, str) and exc.filename != path:
            exc.filename = os.path.join(path, exc.filename)
        raise
    finally:
        os.close(fd)


@contextmanager
def open_file(
    name: str | os.PathLike[str], flags: int, folder: int | None = None, *, anybodys: bool = False
) -> Iterator[int]:
    """The descriptor of a regular file that belongs to this user; one that is made is for this user only.

    Parameters
    ----------
    flags : int
        As os.open takes them.
    folder : int, optional
        Descriptor of the folder that `name` is in.
    anybodys : bool
        It may belong to another user.

    Raises
    ------
    PermissionError
        It is a link, no regular file, or somebody else's.
    """
    name = os.fspath(name)
    try:
        fd = os.open(name, flags | _FILE, 0o600, dir_fd=folder)
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        raise PermissionError(errno.EPERM, "a symbolic link, which is not followed", name) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PermissionError(errno.EPERM, f"no regular file: {ownership(found)}", name)
        if not anybodys and found.st_uid != os.geteuid():
            text = f"the file {ownership(found)}, and this process is {_user(os.geteuid())}"
            raise PermissionError(errno.EPERM, text, name)
        yield fd
    finally:
        os.close(fd)


def read_file(name: str | os.PathLike[str], limit: int, folder: int | None = None) -> bytes:
    """Read a file as `open_file` opens it, of `limit` bytes at most.

    Raises
    ------
    OSError
        As `open_file`, or the file is longer (EFBIG).
    """
    with open_file(name, os.O_RDONLY, folder) as fd:
        return _content(fd, limit, name)


def _way(path: str) -> Iterator[tuple[str, str]]:
    """Each name that the kernel looks up on the way to a file: the folder it is in, and where it lies."""
    # Not by os.path.abspath: what ".." leads to behind a link is for the link to say.
    place, left, links = "/", os.path.join(os.getcwd(), path).split("/")[::-1], 0
    while left:
        name = left.pop()
        if name == "..":
            place = os.path.dirname(place)
        if name in ("", ".", ".."):
            continue
        folder, place = place, os.path.join(place, name)
        yield folder, place
        if os.path.islink(place):
            links += 1
            if links > _MOST_LINKS:  # others make new ones meanwhile
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(place)
            left += target.split("/")[::-1]
            place = "/" if target.startswith("/") else folder


def _replaceable(folder: str, place: str) -> str:
    """Why others can put something else in the place of what is in a folder; empty if they cannot."""
    found = os.stat(folder)
    if found.st_uid not in (0, os.geteuid()):
        return f"the folder {folder!r} {ownership(found)}, who can put a file in its place"
    if _is_open_to_others(found):
        return f"the folder {folder!r} {ownership(found)}: other users can put a file in its place; chmod go-w"
    if found.st_mode & _WRITABLE_BY_OTHERS and os.path.islink(place):
        # A sticky folder keeps what is in it for its owner, and a link does not need to lead to what is its owner's.
        link = os.lstat(place)
        if link.st_uid not in (0, os.geteuid()):
            return f"the link {place!r} {ownership(link)}, who can put a file in its place"
    return ""


def read_trusted(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a file, of `limit` bytes at most, that only this user and root can have written; links are followed.

    Raises
    ------
    PermissionError
        It is no regular file, it belongs to another user than this one and root, or others can write to it or replace it.
    OSError
        It cannot be read, or is longer (EFBIG).
    """
    path = os.fspath(path)
    fd = os.open(path, os.O_RDONLY | (_FILE & ~os.O_NOFOLLOW))
    try:
        found, text = os.fstat(fd), ""
        if not stat.S_ISREG(found.st_mode):
            text = f"no regular file: {ownership(found)}"
        elif found.st_uid not in (0, os.geteuid()):
            text = f"the file {ownership(found)}, and this process is {_user(os.geteuid())}; make one of your own"
        elif found.st_mode & _WRITABLE_BY_OTHERS:
            text = f"the file {ownership(found)}: other users can write to it; chmod go-w, and write a new secret"
        else:
            text = next(filter(None, starmap(_replaceable, _way(path))), "")
        if text:
            raise PermissionError(errno.EPERM, text, path)
        return _content(fd, limit, path)
    finally:
        os.close(fd)


def _content(fd: int, limit: int, name: str | os.PathLike[str]) -> bytes:
    content = bytearray()
    # What is there counts, not what the size says: it may grow meanwhile.
    while piece := os.read(fd, min(_PIECE_NBYTES, limit + 1 - len(content))):
        content += piece
        if len(content) > limit:
            raise OSError(errno.EFBIG, f"more than the {limit} bytes that a file of this kind has", os.fspath(name))
    return bytes(content)


def write_all(fd: int, content: bytes) -> None:
    """Write to a descriptor until nothing is left."""
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]
