"""The collectives that move arrays of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..collectives.allgather import AllgatherAlgorithm
from ..collectives.alltoall import AlltoallAlgorithm
from ..collectives.broadcast import BroadcastAlgorithm
from ..request import Request
from .running import Running

if TYPE_CHECKING:
    from ..arrays import Array

__all__ = ["Movement"]


class Movement(Running):
    """Barrier, broadcast, gather, scatter, allgather, alltoall."""

    def barrier(self, *, timeout: float | None = None) -> None:
        """Wait until every rank has called it.

        Raises
        ------
        PeerLostError, OperationTimeoutError, MismatchError
            A peer is gone, late, or in another operation.  The Context is broken afterwards.  So with every operation.

        Notes
        -----
        Dissemination (Hensgen, Finkel and Manber 1988, doi:10.1007/BF01379320): ceil(log2(size)) steps.
        """
        self._run(self._plan.barrier(), timeout)

    def ibarrier(self) -> Request:
        """Non-blocking `barrier`."""
        return self._start(self._plan.barrier())

    def broadcast(
        self, x: Any, *, root: int = 0, algorithm: BroadcastAlgorithm = "auto", timeout: float | None = None
    ) -> Any:
        """Copy the root's `x` into every rank's `x`.

        Parameters
        ----------
        x : array, shape (...), any dtype but object
            Same shape and dtype on all ranks; written in place on all but the root.
        root : int
        algorithm : {"auto", "binomial", "scatter_allgather", "direct"}
            Same on all ranks.

        Returns
        -------
        `x`

        Raises
        ------
        TypeError, ValueError
            `x` has object dtype, is not a view of memory, is read-only, or `root` is no rank.  Before anything is sent.
        MismatchError
            Ranks disagree on dtype, count, root or algorithm.

        Notes
        -----
        Binomial tree (Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521), or for long arrays scatter and
        ring allgather (Barnett et al. 1994, doi:10.1109/SHPCC.1994.296665), or, where all ranks share a host, from the root
        to all.
        """
        return self._run(self._plan.broadcast(x, root, algorithm), timeout)

    def ibroadcast(self, x: Any, *, root: int = 0, algorithm: BroadcastAlgorithm = "auto") -> Request:
        """Non-blocking `broadcast`; `x` must be left alone until it is done."""
        return self._start(self._plan.broadcast(x, root, algorithm))

    def allgather(
        self, x: Any, out: Any = None, *, algorithm: AllgatherAlgorithm = "auto", timeout: float | None = None
    ) -> Array:
        """Collect `x` of all ranks on all ranks.

        Parameters
        ----------
        x : array_like, shape (...), any dtype but object
            Same shape and dtype on all ranks.
        out : array, shape (size, ...), optional
            Receives the result.  Default: a new array.
        algorithm : {"auto", "bruck", "ring", "direct"}
            Same on all ranks.

        Returns
        -------
        ndarray, shape (size, *x.shape), dtype of `x`
            Row r is `x` of rank r.

        Raises
        ------
        TypeError, ValueError
            `x` has object dtype, or `out` does not fit or is read-only.  Before anything is sent.
        MismatchError
            Ranks disagree on dtype, count or algorithm.

        Notes
        -----
        Bruck et al. 1997 (doi:10.1109/71.642949) for short arrays, else a ring, or, where all ranks share a host, from
        each to all others at once.
        """
        result: Array = self._run(self._plan.allgather(x, out, algorithm), timeout)
        return result

    def iallgather(self, x: Any, out: Any = None, *, algorithm: AllgatherAlgorithm = "auto") -> Request:
        """Non-blocking `allgather`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.allgather(x, out, algorithm))

    def gather(self, x: Any, out: Any = None, *, root: int = 0, timeout: float | None = None) -> Array | None:
        """Collect `x` of all ranks at the root.

        Parameters
        ----------
        x : array_like, shape (...), any dtype but object
            Same shape and dtype on all ranks.
        out : array, shape (size, ...), optional
            Receives the result at the root.  Ignored elsewhere.
        root : int

        Returns
        -------
        ndarray, shape (size, *x.shape), at the root; None elsewhere.

        Raises
        ------
        TypeError, ValueError, MismatchError
            As for `allgather`, or `root` is no rank.
        """
        result: Array | None = self._run(self._plan.gather(x, out, root), timeout)
        return result

    def igather(self, x: Any, out: Any = None, *, root: int = 0) -> Request:
        """Non-blocking `gather`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.gather(x, out, root))

    def scatter(self, x: Any = None, out: Any = None, *, root: int = 0, timeout: float | None = None) -> Array:
        """Give row r of the root's `x` to rank r.

        Parameters
        ----------
        x : array_like, shape (size, ...), any dtype but object
            At the root; ignored elsewhere.
        out : array, shape x.shape[1:] and dtype of `x`
            Receives this rank's row.  Needed on every rank but the root.
        root : int

        Returns
        -------
        ndarray, shape x.shape[1:]

        Raises
        ------
        TypeError, ValueError
            `x` has object dtype or not one row per rank; `out` is missing, read-only or of another shape or dtype than a
            row; `root` is no rank.  Before anything is sent.
        MismatchError
            Ranks disagree on dtype, count or root.
        """
        result: Array = self._run(self._plan.scatter(x, out, root), timeout)
        return result

    def iscatter(self, x: Any = None, out: Any = None, *, root: int = 0) -> Request:
        """Non-blocking `scatter`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.scatter(x, out, root))

    def alltoall(
        self, x: Any, out: Any = None, *, algorithm: AlltoallAlgorithm = "auto", timeout: float | None = None
    ) -> Array:
        """Give row s of every rank's `x` to rank s.

        Parameters
        ----------
        x : array_like, shape (size, ...), any dtype but object
            Same shape and dtype on all ranks.
        out : array, shape and dtype of `x`, optional
            Receives the result; ``out=x`` exchanges in place.  Default: a new array.
        algorithm : {"auto", "pairwise", "bruck"}
            Same on all ranks.

        Returns
        -------
        ndarray, shape and dtype of `x`
            Row r is the row of rank r that was meant for this rank.

        Raises
        ------
        TypeError, ValueError
            `x` has object dtype or not one row per rank, or `out` does not fit or is read-only.  Before anything is sent.
        MismatchError
            Ranks disagree on dtype, count or algorithm.

        Notes
        -----
        Pairwise exchange (Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521), or, for many ranks and few
        bytes, Bruck et al. 1997 (doi:10.1109/71.642949).
        """
        result: Array = self._run(self._plan.alltoall(x, out, algorithm), timeout)
        return result

    def ialltoall(self, x: Any, out: Any = None, *, algorithm: AlltoallAlgorithm = "auto") -> Request:
        """Non-blocking `alltoall`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.alltoall(x, out, algorithm))
