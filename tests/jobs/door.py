"""The library of `shim.py` from a rank's side: preload it, ask it, and let it refuse communication."""

from __future__ import annotations

import ctypes
import os
import sys


class Door:
    """Calls into MPI are counted here, and refused on demand.  To be made before mpi4py.MPI is imported.

    Parameters
    ----------
    library : str
        The path of the shim.  The program starts anew with it preloaded: the ranks alone, as a launcher may be a script.
    """

    def __init__(self, library: str) -> None:
        if os.environ.get("LD_PRELOAD") != library:
            os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": library})
        self._library = ctypes.CDLL(library)
        self._library.mpi_refuse.restype = None
        self._library.mpi_refused.restype = ctypes.c_long
        self._library.mpi_refusable.restype = ctypes.c_char_p

    def refuse(self) -> None:
        """From now on, MPI's communication functions return an error."""
        self._library.mpi_refuse(1)

    def allow(self) -> None:
        """As before `refuse`; MPI_Finalize may need it."""
        self._library.mpi_refuse(0)

    def refused(self) -> dict[str, int]:
        """How many calls of which functions were refused."""
        names = self._library.mpi_refusable().decode().split()
        counts = {name: self._library.mpi_refused(index) for index, name in enumerate(names)}
        return {name: count for name, count in counts.items() if count}
