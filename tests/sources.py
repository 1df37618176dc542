"""The tests of the installed mpi4py, from its source distribution, in a cache folder.

They come from the index that pip is configured for.  Nothing of them is part of this repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

# `pip download` also builds the distribution's metadata, in an environment that it fills first: 12 s on a fast network,
# where asking pip's own finder for the file takes 1 s.  The finder is no public interface (these lines work with pip 23.0
# to 26.3), so that `pip download` remains for versions of pip that have another one.
_FIND = """
import hashlib, sys
from pathlib import Path
from pip._internal.commands import create_command
from pip._vendor.packaging.specifiers import SpecifierSet

name, version, folder = sys.argv[1:]
command = create_command("download")
with command.main_context():
    options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", name])
    session = command.get_default_session(options)
    finder = command._build_package_finder(options=options, session=session)
    link = finder.find_best_candidate(name, specifier=SpecifierSet("==" + version)).best_candidate.link
    # Without compression on the way: the bytes whose hash the index gives.
    answer = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"})
    answer.raise_for_status()
    if link.hash_name and hashlib.new(link.hash_name, answer.content).hexdigest() != link.hash:
        sys.exit(f"{link.filename} is not what the index says: its {link.hash_name} is not {link.hash}")
    (Path(folder) / link.filename).write_bytes(answer.content)
"""


def cache() -> Path:
    """Where fetched files are kept: MPI4PY_TESTS_CACHE, else the user's cache folder."""
    named = os.environ.get("MPI4PY_TESTS_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gloompi"


def tests_of_mpi4py() -> Path:
    """The folder with the tests of the installed mpi4py; fetched if it is not in the cache.

    Raises
    ------
    RuntimeError
        pip could not fetch the source distribution.
    """
    name = f"mpi4py-{version('mpi4py')}"
    folder = cache() / name
    if not folder.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as temporary:
            archive = _fetch(version("mpi4py"), Path(temporary))
            unpacked = Path(temporary) / "unpacked"
            unpack(archive, f"{name}/test", unpacked)
            try:
                unpacked.rename(folder)
            except OSError:  # somebody else was faster
                if not folder.exists():
                    raise
    return folder


def unpack(archive: Path, wanted: str, folder: Path) -> None:
    """Write the files below `wanted`, a path inside of a tar archive, into `folder`, which is made."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            content = tar.extractfile(member) if member.isfile() else None
            if content is None or ".." in path.parts or not path.is_relative_to(wanted):
                continue
            target = folder / path.relative_to(wanted)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file)
    if not folder.exists():
        raise RuntimeError(f"{archive.name} has no files in {wanted}")


def _fetch(wanted: str, folder: Path) -> Path:
    """mpi4py's source distribution of a version, by the pip beside the python in use."""
    ways = (
        [sys.executable, "-c", _FIND, "mpi4py", wanted, str(folder)],
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"),
            *("--dest", str(folder), f"mpi4py=={wanted}"),
        ],
    )
    said = []
    for command in ways:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        found = list(folder.glob("mpi4py-*.tar.gz"))
        if done.returncode == 0 and found:
            return found[0]
        said.append((done.stdout + done.stderr).strip()[-2000:])
    raise RuntimeError(
        f"pip could not fetch the source distribution of mpi4py {wanted}, which has the tests; its finder said:\n"
        f"{said[0]}\nand `pip download` said:\n{said[1]}\nSee `pip config list` for the index that was asked."
    )
