"""The collectives on pieces: arrays of different length along their first axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..request import Request
from .running import Running

if TYPE_CHECKING:
    from ..arrays import Array

__all__ = ["Pieces"]


class Pieces(Running):
    """Gatherv, allgatherv, scatterv, alltoallv."""

    def gatherv(
        self, x: Any, out: Sequence[Any] | None = None, *, root: int = 0, timeout: float | None = None
    ) -> list[Array] | None:
        """Collect arrays of different length at the root.

        Parameters
        ----------
        x : array_like, shape (n, ...), any dtype but object
            `n` may differ from rank to rank; the rest of the shape and the dtype are the same.
        out : sequence of size arrays, optional
            At the root: where each piece goes; of its shape and dtype.  Default: new arrays.
        root : int

        Returns
        -------
        list of size ndarrays at the root, None elsewhere
            Item r is `x` of rank r.

        Raises
        ------
        TypeError, ValueError
            `x` has object dtype or no axis, `out` is not of one dtype and row shape or is read-only, `root` is no rank.
            Before anything is sent.
        MismatchError
            Ranks disagree on dtype, shape of a row or root, or a piece is not as long as its place in `out`.
        """
        result: list[Array] | None = self._run(self._plan.gatherv(x, out, root), timeout)
        return result

    def igatherv(self, x: Any, out: Sequence[Any] | None = None, *, root: int = 0) -> Request:
        """Non-blocking `gatherv`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.gatherv(x, out, root))

    def allgatherv(self, x: Any, out: Sequence[Any] | None = None, *, timeout: float | None = None) -> list[Array]:
        """Collect arrays of different length on all ranks.

        Parameters
        ----------
        x, out
            As for `gatherv`.

        Returns
        -------
        list of size ndarrays
            Item r is `x` of rank r.

        Raises
        ------
        TypeError, ValueError, MismatchError
            As for `gatherv`.

        Notes
        -----
        A ring: size - 1 steps.
        """
        result: list[Array] = self._run(self._plan.allgatherv(x, out), timeout)
        return result

    def iallgatherv(self, x: Any, out: Sequence[Any] | None = None) -> Request:
        """Non-blocking `allgatherv`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.allgatherv(x, out))

    def scatterv(
        self, pieces: Sequence[Any] | None = None, out: Any = None, *, root: int = 0, timeout: float | None = None
    ) -> Array:
        """Give piece r of the root to rank r.

        Parameters
        ----------
        pieces : sequence of size array_likes, any shapes, any dtypes but object
            At the root; ignored elsewhere.
        out : array, shape and dtype of this rank's piece, optional
            Receives it.  Default: a new array.
        root : int

        Returns
        -------
        ndarray

        Raises
        ------
        TypeError, ValueError
            `pieces` are not one per rank or have object dtype, `out` is read-only, `root` is no rank.  Before anything is
            sent.
        MismatchError
            Ranks disagree on the root, or a piece has not shape and dtype of the `out` it is for.
        """
        result: Array = self._run(self._plan.scatterv(pieces, out, root), timeout)
        return result

    def iscatterv(self, pieces: Sequence[Any] | None = None, out: Any = None, *, root: int = 0) -> Request:
        """Non-blocking `scatterv`; `pieces` and `out` must be left alone until it is done."""
        return self._start(self._plan.scatterv(pieces, out, root))

    def alltoallv(
        self, pieces: Sequence[Any], out: Sequence[Any] | None = None, *, timeout: float | None = None
    ) -> list[Array]:
        """Give piece s of every rank to rank s.

        Parameters
        ----------
        pieces : sequence of size array_likes, each of shape (n, ...), any dtype but object
            `n` may differ; the rest of the shape and the dtype are the same for all pieces of all ranks.
        out : sequence of size arrays, optional
            Where the piece of each rank goes; of its shape and dtype.  Default: new arrays.

        Returns
        -------
        list of size ndarrays
            Item r is the piece of rank r that was meant for this rank.

        Raises
        ------
        TypeError, ValueError
            As for `gatherv`.
        MismatchError
            Ranks disagree on dtype or shape of a row, or a piece is not as long as its place in `out`.

        Notes
        -----
        Pairwise exchange (Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521).
        """
        result: list[Array] = self._run(self._plan.alltoallv(pieces, out), timeout)
        return result

    def ialltoallv(self, pieces: Sequence[Any], out: Sequence[Any] | None = None) -> Request:
        """Non-blocking `alltoallv`; `pieces` and `out` must be left alone until it is done."""
        return self._start(self._plan.alltoallv(pieces, out))
