"""A store in a folder that all ranks see, such as one on NFS: no locks, only rename."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from ..errors import RendezvousError
from ..files import open_file, open_folder, read_file, write_all
from ..signatures import public
from .bounded import budget
from .folder import StoreFolder, discard, names, place, remove, touch
from .store import Store, looks

__all__ = ["FileStore"]

Result = TypeVar("Result")

# What is longer was not written by a store.
_MAX_NBYTES = 64 * 1024**2
# A key that changes under every look, or a folder whose listing stays out of date (NFS caches it), is given up after this.
_SETTLE_SECONDS = 90.0
# What a file or folder gives that was replaced since it was listed; the second one over NFS.
_REPLACED = (errno.ENOENT, errno.ESTALE)
_NOW = re.compile(r"now-([0-9a-f]{16})")


@public
class FileStore(Store):
    """A store in a folder that all ranks can write to.

    Parameters
    ----------
    folder : str or path
        Made if it does not exist, for this user only: the session key of a rendezvous without a secret goes through it.
        One that exists has to be empty, or to have been a FileStore's before: an empty file ``gloompi-FileStore`` says so.

    Raises
    ------
    OSError
        The folder cannot be made or written; it belongs to another user, or others can write to it and it is not sticky
        (PermissionError); something else is in it (FileExistsError); it is a symbolic link (NotADirectoryError).

    Notes
    -----
    Every key is a folder with two files: ``value-V``, and ``now-V``, which is empty and says by its name which value counts.
    A key is made by renaming a finished folder to its name, which fails if a folder with files is there; it is changed by
    writing the next value and renaming ``now-V`` to ``now-W``, which fails for all but one of those who try, because the
    old name is gone.  A process may be killed at any point: the key then has its old value or its new one.  NFS clients may
    see a new key only when their cache of the folder expires (mount option ``acdirmax``, 60 s unless it is set).

    Files have mode 600 and folders 700; values have up to 64 MiB.  No link is followed, nothing is read but regular files of
    this user, and nothing is deleted whose name, kind and owner are not those of what a store makes.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = StoreFolder(Path(folder).absolute())

    def __repr__(self) -> str:
        return f"FileStore({str(self._folder)!r})"

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        try:
            with self._folder.open() as folder:
                return [self._look(folder, place(key))[1] for key in keys]
        except FileNotFoundError:
            return [None] * len(keys)

    def _write(self, items: Mapping[str, bytes]) -> None:
        for key, value in items.items():
            _check_length(key, value)
            name = place(key)

            def install(folder: int, name: str = name, value: bytes = value) -> bool:
                return self._install(folder, name, self._look(folder, name)[0], value)

            deadline = budget(_SETTLE_SECONDS)
            for _ in looks(deadline):
                if self._in_folder(install):
                    break
            else:
                raise RendezvousError(f"{self!r}: {key!r} was changed by others for {deadline.timeout or 0:.0f} s on end")

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        _check_length(key, new)
        name = place(key)

        def swap(folder: int) -> bool:
            version, value = self._look(folder, name)
            return value == old and self._install(folder, name, version, new)

        return self._in_folder(swap)

    def _remove(self, keys: Sequence[str]) -> None:
        with suppress(FileNotFoundError), self._folder.open() as folder:
            for key in keys:
                remove(place(key), folder)

    def close(self) -> None:
        """Remove the folder if this store made it and nothing is in it."""
        self._folder.remove_if_made()

    def _in_folder(self, change: Callable[[int], Result]) -> Result:
        """Call `change` with the folder's descriptor; once more with a new folder's if somebody removes this one."""
        deadline = budget(_SETTLE_SECONDS)
        for _ in looks(deadline):
            with suppress(FileNotFoundError), self._folder.open() as folder:
                return change(folder)
            self._folder.make()
        raise RendezvousError(f"{self!r} was removed by others for {deadline.timeout or 0:.0f} s on end")

    def _look(self, folder: int, name: str) -> tuple[str | None, bytes | None]:
        """The version of a key that counts, and its value; None, None if there is none."""
        deadline = budget(_SETTLE_SECONDS)
        for _ in looks(deadline):
            try:
                with open_folder(name, folder) as parts:
                    found = _current(parts)
            except FileNotFoundError:
                return None, None
            if found is not None:
                return found
        seconds = f"{deadline.timeout or 0:.0f} s"
        raise RendezvousError(
            f"{self._folder}/{name} had no current value for {seconds}; another program may have changed it"
        )

    def _install(self, folder: int, name: str, version: str | None, value: bytes) -> bool:
        """Make `value` the one that follows `version` (None: the first one); False if another has."""
        new = token_hex(8)
        if version is not None:
            return _follow(folder, name, version, new, value)
        draft = f"draft-{new}"
        os.mkdir(draft, 0o700, dir_fd=folder)
        try:
            with open_folder(draft, folder) as parts:
                _write_file(f"value-{new}", value, parts)
                touch(f"now-{new}", parts)
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as exc:
            if not _exists(f"{name}/now-{new}", folder):  # see `_follow`
                discard(draft, folder)
                if not isinstance(exc, OSError) or exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return False
            if not isinstance(exc, OSError):
                raise
        return True


def _check_length(key: str, value: bytes) -> None:
    if len(value) > _MAX_NBYTES:
        raise ValueError(f"the value of {key!r} has {len(value)} bytes; a FileStore takes up to {_MAX_NBYTES}")


def _current(parts: int) -> tuple[str, bytes] | None:
    """The version that counts in the folder of a key, and its value; None if it was changed while it was looked for."""
    try:
        for part in names(parts):
            if now := _NOW.fullmatch(part):
                return now[1], read_file(f"value-{now[1]}", _MAX_NBYTES, parts)
    except OSError as exc:
        if exc.errno not in _REPLACED:
            raise
    return None  # a file that is renamed while the folder is listed may be missed under both names


def _follow(folder: int, name: str, version: str, new: str, value: bytes) -> bool:
    try:
        with open_folder(name, folder) as parts:
            _write_file(f"value-{new}", value, parts)
            try:
                # By the name of the key: its folder may be another by now, and this one on its way to the trash.
                os.rename(f"{name}/now-{version}", f"{name}/now-{new}", src_dir_fd=folder, dst_dir_fd=folder)
            except FileNotFoundError:
                # Over NFS a rename may be done, its answer lost and the repetition refused.
                if not _exists(f"{name}/now-{new}", folder):
                    _unlink(f"value-{new}", parts)
                    return False
            _unlink(f"value-{version}", parts)
    except FileNotFoundError:
        return False
    return True


def _write_file(name: str, value: bytes, folder: int) -> None:
    with open_file(name, os.O_WRONLY | os.O_CREAT, folder) as fd:
        write_all(fd, value)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
