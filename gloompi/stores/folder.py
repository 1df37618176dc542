"""The folder of a FileStore: what in it is the store's own, and how that alone is made and deleted."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from secrets import token_hex
from time import time
from urllib.parse import quote, unquote

from ..files import make_folder, open_file, open_folder, ownership

__all__ = ["StoreFolder", "discard", "names", "place", "remove", "touch"]

# Says by its name alone that what in this folder is called as a FileStore calls it was made by one.
_MARKER = "gloompi-FileStore"
# Most file systems end a name at 255 bytes; the longest key that is stored under its own name.
_MAX_NAME = 200
# In the folder of a key: a value, and what processes have left that were killed while they changed it.
_MAX_FILES = 10_000
# A process that still takes the folder for the key's may write to it once more.
_ATTEMPTS = 10
# Nobody takes this long to make or delete a key, even by the clock of another host.
_ABANDONED_SECONDS = 3600.0

_UNFINISHED = re.compile(r"(draft|trash)-[0-9a-f]{16}")
_HASHED = re.compile(r"sha256=[0-9a-f]{64}")
_PART = re.compile(r"(value|now)-[0-9a-f]{16}")
# What an NFS client makes of a file that is deleted while a process of its host has it open.
_NFS = re.compile(r"\.nfs[0-9a-f]+")


def place(key: str) -> str:
    """The name of a key's folder; two keys never have the same."""
    name = "key=" + quote(key, safe="")  # '=' is quoted: nothing else in the folder can look like it
    return name if len(name) <= _MAX_NAME else "sha256=" + sha256(key.encode()).hexdigest()


def _is_place(name: str) -> bool:
    if name.startswith("key="):
        with suppress(UnicodeDecodeError):
            return place(unquote(name[4:], errors="strict")) == name
    return _HASHED.fullmatch(name) is not None


def names(folder: int) -> list[str]:
    """Return the names in the folder of a key; not what NFS makes of files that are gone.

    Raises
    ------
    OSError
        It is more than a store makes.
    """
    with os.scandir(folder) as entries:
        found = [entry.name for entry in islice(entries, _MAX_FILES + 1)]
    if len(found) > _MAX_FILES:
        raise OSError(errno.EFBIG, f"more than the {_MAX_FILES} files that a key has")
    return [name for name in found if not _NFS.fullmatch(name)]


def touch(name: str, folder: int) -> None:
    """Make an empty file."""
    with open_file(name, os.O_WRONLY | os.O_CREAT, folder):
        pass


def _has_parts_alone(folder: int) -> bool:
    """Return whether all in the folder of a key has names, kind and owner of what a store makes there."""
    for name in names(folder):
        if not _PART.fullmatch(name):
            return False
        with suppress(FileNotFoundError):  # somebody has just changed the key
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or (name[:3] == "now" and found.st_size):
                return False
    return True


def discard(name: str, folder: int) -> None:
    """Delete the folder of a key that has another name by now, unless there is something in it that no store makes."""
    # Other processes may be at it too, and NFS may keep a file for a while: what is left is swept up in an hour.
    with suppress(OSError), open_folder(name, folder) as parts:
        for _ in range(_ATTEMPTS):
            if not _has_parts_alone(parts):
                return
            for part in names(parts):
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=parts)
            try:
                os.rmdir(name, dir_fd=folder)
                return
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


def remove(name: str, folder: int) -> None:
    """Delete the folder of a key, if it is there.

    Raises
    ------
    FileExistsError
        There is something in it that no store makes.
    """
    trash = f"trash-{token_hex(8)}"
    with suppress(FileNotFoundError):
        with open_folder(name, folder) as parts:
            if not _has_parts_alone(parts):
                raise FileExistsError(
                    errno.EEXIST, "something is in the folder of this key that no FileStore has made", name
                )
        os.rename(name, trash, src_dir_fd=folder, dst_dir_fd=folder)
    discard(trash, folder)


class StoreFolder:
    """A folder that stores have for themselves.

    Parameters
    ----------
    path : Path
        Absolute.  Made if it is not there; swept of what killed processes have left.

    Raises
    ------
    OSError
        It cannot be made, somebody else can change it, or something is in it and no store has marked it as one's own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = self.make()
        with suppress(FileNotFoundError), self.open() as folder:
            _sweep(folder)

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def open(self) -> Iterator[int]:
        """The descriptor of the folder.

        Raises
        ------
        FileNotFoundError
            It is not there, or that is what something says that is done with the descriptor.
        """
        try:
            with open_folder(self._path) as folder:
                yield folder
        except OSError as exc:
            if exc.errno != errno.ESTALE:  # another host has removed it, as NFS says
                raise
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path)) from exc

    def make(self) -> bool:
        """Make the folder and mark it; say whether it was not there."""
        made = make_folder(self._path)
        if not made and not self._path.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._path))
        with suppress(FileNotFoundError), self.open() as folder:  # whoever made it may be removing it
            if not self._is_marked(folder):
                self._check_empty(folder)
                touch(_MARKER, folder)
        return made

    def _is_marked(self, folder: int) -> bool:
        try:
            found = os.stat(_MARKER, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size:
            text = f"no mark that a FileStore of this user has made: it {ownership(found)}, {found.st_size} bytes"
            raise PermissionError(errno.EPERM, text, str(self._path / _MARKER))
        return True

    def _check_empty(self, folder: int) -> None:
        """Raise if there is anything but keys: those are left where a process was killed while it removed the folder."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _is_own(entry.name, folder):
                    text = f"the folder is no FileStore's, {entry.name!r} is in it; give an empty one, or a free name"
                    raise FileExistsError(errno.EEXIST, text, str(self._path))

    def remove_if_made(self) -> None:
        """Remove the folder if it was made here and nothing is in it."""
        if not self._made:
            return
        # What keeps it there may be another process's key, or another user's doing: both are no reason to fail.
        with suppress(OSError), self.open() as folder:
            if self._is_marked(folder) and os.listdir(folder) == [_MARKER]:
                os.unlink(_MARKER, dir_fd=folder)
                try:
                    os.rmdir(self._path)
                except OSError:
                    touch(_MARKER, folder)
                    raise


def _is_own(name: str, folder: int) -> bool:
    """Return whether something in an unmarked folder can have been made by no other than a store."""
    if name == _MARKER or _NFS.fullmatch(name):
        return True
    try:
        with open_folder(name, folder) as parts:
            if not _has_parts_alone(parts):
                return False
            # The folder of a key is never empty, but while it is made or deleted.
            return _UNFINISHED.fullmatch(name) is not None or (_is_place(name) and bool(names(parts)))
    except FileNotFoundError:  # gone already
        return True
    except OSError:
        return False


def _sweep(folder: int) -> None:
    """Delete what processes have left that were killed while they made or deleted a key."""
    with os.scandir(folder) as entries:
        unfinished = [entry.name for entry in entries if _UNFINISHED.fullmatch(entry.name)]
    for name in unfinished:
        with suppress(FileNotFoundError):
            if time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _ABANDONED_SECONDS:
                discard(name, folder)
