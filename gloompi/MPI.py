"""mpi4py's MPI module, communicating over gloompi's sockets.

    from gloompi import MPI

Constants, datatypes, operators, Status, Group, Info and exceptions are mpi4py's own, which are local; communicators,
requests and messages are gloompi's.  The ranks are connected when the module is imported, on all of them.  What sockets
cannot give raises NotImplementedError.  ``python -m gloompi script.py`` runs a program with this in the place of
``mpi4py.MPI``.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI as _mpi

globals().update({name: value for name, value in vars(_mpi).items() if not name.startswith("__")})

from .facade import bsend as _bsend  # noqa: E402  # what follows takes the place of mpi4py's
from .facade.communicator import constants as _constants  # noqa: E402
from .facade.intracomm import COMM_NULL, Comm, Intracomm  # noqa: E402
from .facade.matched import MESSAGE_NO_PROC, MESSAGE_NULL, Message  # noqa: E402, F401
from .facade.requests import REQUEST_NULL, Prequest, Request  # noqa: E402, F401
from .facade.unsupported import refusing_class, refusing_function  # noqa: E402
from .facade.world import World  # noqa: E402
from .plans.base import MAX_TAG as _MAX_TAG  # noqa: E402

# -- what sockets cannot give -------------------------------------------------------------------------------------------

Topocomm = refusing_class(_mpi.Topocomm, Intracomm)
for _name in ("Cartcomm", "Graphcomm", "Distgraphcomm"):
    globals()[_name] = refusing_class(getattr(_mpi, _name), Topocomm)
Intercomm = refusing_class(_mpi.Intercomm, Comm)
for _name in ("Win", "File", "Session"):
    globals()[_name] = refusing_class(getattr(_mpi, _name))
Grequest = refusing_class(_mpi.Grequest, Request)
WIN_NULL, FILE_NULL, SESSION_NULL = (globals()[_name]() for _name in ("Win", "File", "Session"))
for _name in (
    "Open_port",
    "Close_port",
    "Publish_name",
    "Unpublish_name",
    "Lookup_name",
    "Register_datarep",
    "Iflush_buffer",
    "_comm_lock_table",
    "_commctx_inter",
):
    globals()[_name] = refusing_function(_name)

# -- what belongs to the process ----------------------------------------------------------------------------------------

Attach_buffer, Detach_buffer, Flush_buffer = _bsend.attach, _bsend.detach, _bsend.flush


def _comm_lock(comm: Comm, name: str) -> Any:
    """A lock of a communicator, for mpi4py's own packages."""
    return comm._standing.locks[name]


def _commctx_intra(comm: Comm) -> tuple[Any, int]:
    """A duplicate of a communicator and a tag, for the collectives of mpi4py's own packages."""
    standing = comm._standing
    if standing.inner is None:
        standing.inner = Intracomm(comm).Dup()
    return standing.inner, next(standing.tags) % (_MAX_TAG + 1)


def Init() -> None:
    """Nothing to do: importing this module has done it."""


def Init_thread(required: int = _mpi.THREAD_MULTIPLE) -> int:
    """As `Init`; return what `Query_thread` does."""
    return Query_thread()


def Query_thread() -> int:
    """Return THREAD_MULTIPLE, whatever MPI itself was initialised with: it is not used."""
    return _mpi.THREAD_MULTIPLE


_world = World()
COMM_WORLD: Intracomm = Intracomm._of(_world.context, "MPI_COMM_WORLD", predefined=True)
COMM_SELF: Intracomm = Intracomm._of(_world.itself, "MPI_COMM_SELF", predefined=True)
_constants.update(COMM_NULL=COMM_NULL, COMM_SELF=COMM_SELF, COMM_WORLD=COMM_WORLD)
Finalize = _world.finalize
