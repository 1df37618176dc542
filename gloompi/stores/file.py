"""A store in a folder that all ranks see, such as one on NFS: no locks, only rename."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from time import time
from urllib.parse import quote

from ..deadline import Deadline
from ..errors import RendezvousError
from ..signatures import public
from .store import Store, looks

__all__ = ["FileStore"]

# Most file systems end a name at 255 bytes; the longest key that is stored under its own name.
_MAX_NAME = 200
# A key that changes under every look, or a folder whose listing stays out of date (NFS caches it), is given up after this.
_SETTLE_SECONDS = 90.0
# Nobody takes this long to make or delete a key, even by the clock of another host.
_ABANDONED_SECONDS = 3600.0
# What opening a file that was replaced since the folder was listed may give; the second one over NFS.
_REPLACED = (errno.ENOENT, errno.ESTALE)


@public
class FileStore(Store):
    """A store in a folder that all ranks can write to.

    Parameters
    ----------
    folder : str or path
        Made if it does not exist, for this user only: the session key of a rendezvous without a secret goes through it.

    Raises
    ------
    OSError
        The folder cannot be made or written.

    Notes
    -----
    Every key is a folder with two files: ``value-V``, and ``now-V``, which is empty and says by its name which value counts.
    A key is made by renaming a finished folder to its name, which fails if a folder with files is there; it is changed by
    writing the next value and renaming ``now-V`` to ``now-W``, which fails for all but one of those who try, because the
    old name is gone.  A process may be killed at any point: the key then has its old value or its new one.  NFS clients may
    see a new key only when their cache of the folder expires (mount option ``acdirmax``, 60 s unless it is set).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).absolute()
        self._made = not self._folder.exists()
        self._make_folder()
        self._sweep()

    def __repr__(self) -> str:
        return f"FileStore({str(self._folder)!r})"

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _sweep(self) -> None:
        """Delete what processes have left that were killed while they made or deleted a key."""
        with os.scandir(self._folder) as entries:
            old = [each for each in entries if each.name.startswith(("draft-", "trash-"))]
        for entry in old:
            with suppress(FileNotFoundError):
                if time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(entry.path, ignore_errors=True)

    def _place(self, key: str) -> Path:
        """The folder of a key; two keys never have the same."""
        name = "key=" + quote(key, safe="")  # '=' is quoted: nothing else in the folder can look like it
        return self._folder / (name if len(name) <= _MAX_NAME else "sha256=" + sha256(key.encode()).hexdigest())

    def _read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._look(self._place(key))[1] for key in keys]

    def _write(self, items: Mapping[str, bytes]) -> None:
        for key, value in items.items():
            place = self._place(key)
            for _ in looks(Deadline(_SETTLE_SECONDS)):
                if self._install(place, self._look(place)[0], value):
                    break
            else:
                raise RendezvousError(f"{self!r}: {key!r} was changed by others for {_SETTLE_SECONDS:.0f} s on end")

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        place = self._place(key)
        version, value = self._look(place)
        return value == old and self._install(place, version, new)

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            trash = self._folder / f"trash-{token_hex(8)}"
            with suppress(FileNotFoundError):
                self._place(key).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder if this store made it and nothing is in it."""
        if self._made:
            with suppress(OSError):
                self._folder.rmdir()

    def _look(self, place: Path) -> tuple[str | None, bytes | None]:
        """The version of a key that counts, and its value; None, None if there is none."""
        for _ in looks(Deadline(_SETTLE_SECONDS)):
            try:
                names = os.listdir(place)
            except FileNotFoundError:
                return None, None
            for name in names:
                kind, _, version = name.partition("-")
                if kind == "now":
                    try:
                        return version, (place / f"value-{version}").read_bytes()
                    except OSError as exc:
                        if exc.errno not in _REPLACED:
                            raise
            # Not found: a file that is renamed while the folder is listed may be missed under both names.
        raise RendezvousError(
            f"{place} had no current value for {_SETTLE_SECONDS:.0f} s; another program may have changed it"
        )

    def _install(self, place: Path, version: str | None, value: bytes) -> bool:
        """Make `value` the one that follows `version` (None: the first one); False if another has."""
        new = token_hex(8)
        if version is not None:
            return self._follow(place, version, new, value)
        draft = self._folder / f"draft-{new}"
        while True:
            self._make_folder()
            with suppress(FileNotFoundError):  # whoever made the folder has just removed it
                draft.mkdir()
                break
        try:
            (draft / f"value-{new}").write_bytes(value)
            (draft / f"now-{new}").touch()
            draft.rename(place)
        except BaseException as exc:
            if not (place / f"now-{new}").exists():  # see `_follow`
                shutil.rmtree(draft, ignore_errors=True)
                if not isinstance(exc, OSError) or exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return False
            if not isinstance(exc, OSError):
                raise
        return True

    def _follow(self, place: Path, version: str, new: str, value: bytes) -> bool:
        try:
            (place / f"value-{new}").write_bytes(value)
            (place / f"now-{version}").rename(place / f"now-{new}")
        except FileNotFoundError:
            # Over NFS a rename may be done, its answer lost and the repetition refused.
            if not (place / f"now-{new}").exists():
                with suppress(FileNotFoundError):
                    (place / f"value-{new}").unlink()
                return False
        with suppress(FileNotFoundError):
            (place / f"value-{version}").unlink()
        return True
