"""The collectives that reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..collectives.allreduce import AllreduceAlgorithm
from ..collectives.reduce import ReduceAlgorithm
from ..collectives.reduce_scatter import ReduceScatterAlgorithm
from ..collectives.scan import ScanAlgorithm
from ..reduction import Op
from ..request import Request
from .running import Running

if TYPE_CHECKING:
    from ..arrays import Array

__all__ = ["Reductions"]


class Reductions(Running):
    """Reduce, allreduce, reduce_scatter, scan, exscan."""

    def reduce(
        self,
        x: Any,
        out: Any = None,
        *,
        root: int = 0,
        op: Op = "sum",
        algorithm: ReduceAlgorithm = "auto",
        timeout: float | None = None,
    ) -> Array | None:
        """Reduce `x` over all ranks; the root gets the result.

        Parameters
        ----------
        x : array_like, shape (...), any dtype that `op` takes
            This rank's contribution; same shape and dtype on all ranks.
        out : array, shape and dtype of `x`, optional
            Receives the result at the root; ``out=x`` reduces in place there.  Ignored elsewhere.
        root : int
        op, algorithm
            As for `allreduce`; algorithms are "auto", "binomial", "halving_doubling".

        Returns
        -------
        ndarray, shape and dtype of `x`, at the root; None elsewhere.

        Raises
        ------
        TypeError, ValueError
            As for `allreduce`, or `root` is no rank.
        MismatchError
            Ranks disagree on dtype, count, op, root or algorithm.

        Notes
        -----
        Binomial tree, or recursive halving and a gather (Rabenseifner 2004, doi:10.1007/978-3-540-24685-5_1).
        """
        result: Array | None = self._run(self._plan.reduce(x, out, root, op, algorithm), timeout)
        return result

    def ireduce(
        self, x: Any, out: Any = None, *, root: int = 0, op: Op = "sum", algorithm: ReduceAlgorithm = "auto"
    ) -> Request:
        """Non-blocking `reduce`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.reduce(x, out, root, op, algorithm))

    def allreduce(
        self,
        x: Any,
        out: Any = None,
        *,
        op: Op = "sum",
        algorithm: AllreduceAlgorithm = "auto",
        timeout: float | None = None,
    ) -> Array:
        """Reduce `x` over all ranks; every rank gets the same result, bit for bit.

        Parameters
        ----------
        x : array_like, shape (...), any dtype that `op` takes
            This rank's contribution; same shape and dtype on all ranks.
        out : array, shape and dtype of `x`, optional
            Receives the result; ``out=x`` reduces in place.  Default: a new array.
        op : str, ufunc or callable
            "sum", "prod", "min", "max", "land", "lor", "lxor", "band", "bor", "bxor", or, for floating-point and complex
            numbers, "mean", the sum divided by the number of ranks; a NumPy ufunc; or ``f(a, b) -> c``, elementwise and
            associative.  NaN and integer overflow follow NumPy.  Python's sum, min, max, any and all, operator.add and the
            like, NumPy's functions of these names and mpi4py's operators stand for the names.  Sums are made in the dtype of
            `x`, those of a mean too: of float16 one beyond 65504 is infinite, where np.mean adds in float32.

            A callable gets 1-d pieces of the arrays, in rank order and read-only; if it writes into what it gets, copies.
            It is tried on arrays of one element before anything is sent, once for each dtype.
        algorithm : {"auto", "recursive_doubling", "halving_doubling", "ring", "bcube", "direct"}
            Same on all ranks.  "ring" is for commutative operators, which the ten names are.

        Returns
        -------
        ndarray, shape and dtype of `x`

        Raises
        ------
        TypeError
            `x` has object dtype, or `op` has no meaning for its dtype, fails on two elements, or does not return one of
            the dtype.  Raised before anything is sent.
        ValueError
            `out` is read-only or of another shape; `op` or `algorithm` is unknown.
        MismatchError
            Ranks disagree on dtype, count, op or algorithm.
        PeerLostError, OperationTimeoutError
            A peer is gone or late.  The Context is broken afterwards.

        Notes
        -----
        Recursive doubling (Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521) for short arrays, recursive
        halving and doubling (Rabenseifner 2004, doi:10.1007/978-3-540-24685-5_1) or a ring (Patarasuk and Yuan 2009,
        doi:10.1016/j.jpdc.2008.09.002) for long ones: 2 nbytes (size-1)/size bytes sent per rank; where all ranks share a
        host, "direct", in which each takes what it needs from all others.  "bcube", as in Gloo (Guo et al. 2009,
        doi:10.1145/1592568.1592577), has to be asked for.
        """
        result: Array = self._run(self._plan.allreduce(x, out, op, algorithm), timeout)
        return result

    def iallreduce(self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: AllreduceAlgorithm = "auto") -> Request:
        """Non-blocking `allreduce`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.allreduce(x, out, op, algorithm))

    def reduce_scatter(
        self,
        x: Any,
        out: Any = None,
        *,
        counts: Sequence[int] | None = None,
        op: Op = "sum",
        algorithm: ReduceScatterAlgorithm = "auto",
        timeout: float | None = None,
    ) -> Array:
        """Reduce `x` over all ranks and give each rank its share of the rows of the result.

        Parameters
        ----------
        x : array_like, shape (rows, ...), any dtype that `op` takes
            Same shape and dtype on all ranks.
        out : array, shape (counts[rank], ...), optional
            Receives this rank's share.  Default: a new array.
        counts : sequence of int, optional
            How many rows each rank gets; their sum is the number of rows.  Same on all ranks.  Default: all the same.
        op
            As for `allreduce`.
        algorithm : {"auto", "recursive_halving", "pairwise"}
            Same on all ranks.  "pairwise" is for commutative operators.

        Returns
        -------
        ndarray, shape (counts[rank], ...), dtype of `x`
            The rows that follow those of the ranks below.

        Raises
        ------
        TypeError, ValueError
            As for `allreduce`, or `counts` does not fit the rows of `x`.
        MismatchError
            Ranks disagree on dtype, count, counts, op or algorithm.

        Notes
        -----
        Recursive halving for short arrays and for operators that do not commute, else pairwise exchange; both in Thakur,
        Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521.
        """
        result: Array = self._run(self._plan.reduce_scatter(x, out, counts, op, algorithm), timeout)
        return result

    def ireduce_scatter(
        self,
        x: Any,
        out: Any = None,
        *,
        counts: Sequence[int] | None = None,
        op: Op = "sum",
        algorithm: ReduceScatterAlgorithm = "auto",
    ) -> Request:
        """Non-blocking `reduce_scatter`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.reduce_scatter(x, out, counts, op, algorithm))

    def scan(
        self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: ScanAlgorithm = "auto", timeout: float | None = None
    ) -> Array:
        """Reduce `x` over the ranks from 0 up to and including this one.

        Parameters
        ----------
        x, out, op
            As for `allreduce`; not "mean".
        algorithm : {"auto", "recursive_doubling", "chain"}
            Same on all ranks.

        Returns
        -------
        ndarray, shape and dtype of `x`

        Raises
        ------
        TypeError, ValueError, MismatchError
            As for `allreduce`.

        Notes
        -----
        Recursive doubling (Hillis and Steele 1986, doi:10.1145/7902.7903) for short arrays, for long ones a pipeline
        through the ranks (Sanders and Träff 2006, doi:10.1007/11846802_15).
        """
        result: Array = self._run(self._plan.scan(x, out, op, algorithm), timeout)
        return result

    def iscan(self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: ScanAlgorithm = "auto") -> Request:
        """Non-blocking `scan`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.scan(x, out, op, algorithm))

    def exscan(
        self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: ScanAlgorithm = "auto", timeout: float | None = None
    ) -> Array | None:
        """Reduce `x` over the ranks before this one.

        Parameters
        ----------
        x, out, op, algorithm
            As for `scan`.

        Returns
        -------
        ndarray, shape and dtype of `x`; None on rank 0, where `out` stays as it was.

        Raises
        ------
        TypeError, ValueError, MismatchError
            As for `allreduce`.
        """
        result: Array | None = self._run(self._plan.exscan(x, out, op, algorithm), timeout)
        return result

    def iexscan(self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: ScanAlgorithm = "auto") -> Request:
        """Non-blocking `exscan`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.exscan(x, out, op, algorithm))
