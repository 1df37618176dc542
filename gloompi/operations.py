"""The operations of a Context: what ranks do together, each in a blocking and a non-blocking form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .deadline import Deadline, check_timeout
from .engine.engine import Engine, Plan
from .plan import Op, Planner, Status
from .request import Request

if TYPE_CHECKING:
    from .arrays import Array

__all__ = ["Operations"]


class Operations:
    """Collectives and messages, over an engine that somebody else opens and closes."""

    timeout: float | None

    def __init__(self, engine: Engine, timeout: float | None) -> None:
        self._engine = engine
        self._plan = Planner(engine, 0)
        self.timeout = timeout

    # -- running a plan -------------------------------------------------------------------------------------------------

    def _run(self, plan: Plan, timeout: float | None) -> Any:
        engine = self._engine
        deadline = self._deadline(timeout)
        return engine.exclusively(deadline, plan.name, engine.run, plan, deadline)

    def _start(self, plan: Plan) -> Request:
        engine = self._engine
        task = engine.exclusively(self._deadline(None), plan.name, engine.start, *plan)
        return Request(engine, task, self.timeout)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else check_timeout(timeout))

    # -- collectives ----------------------------------------------------------------------------------------------------

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

    def broadcast(self, x: Any, *, root: int = 0, algorithm: str = "auto", timeout: float | None = None) -> Any:
        """Copy the root's `x` into every rank's `x`.

        Parameters
        ----------
        x : array, shape (...), any dtype but object
            Same shape and dtype on all ranks; written in place on all but the root.
        root : int
        algorithm : {"auto", "binomial", "scatter_allgather"}
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
        Binomial tree (Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521) or scatter and ring allgather
        (Barnett et al. 1994, doi:10.1109/SHPCC.1994.296665).
        """
        return self._run(self._plan.broadcast(x, root, algorithm), timeout)

    def ibroadcast(self, x: Any, *, root: int = 0, algorithm: str = "auto") -> Request:
        """Non-blocking `broadcast`; `x` must be left alone until it is done."""
        return self._start(self._plan.broadcast(x, root, algorithm))

    def reduce(
        self,
        x: Any,
        out: Any = None,
        *,
        root: int = 0,
        op: Op = "sum",
        algorithm: str = "auto",
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

    def ireduce(self, x: Any, out: Any = None, *, root: int = 0, op: Op = "sum", algorithm: str = "auto") -> Request:
        """Non-blocking `reduce`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.reduce(x, out, root, op, algorithm))

    def allreduce(
        self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: str = "auto", timeout: float | None = None
    ) -> Array:
        """Reduce `x` over all ranks; every rank gets the same result, bit for bit.

        Parameters
        ----------
        x : array_like, shape (...), any dtype that `op` takes
            This rank's contribution; same shape and dtype on all ranks.
        out : array, shape and dtype of `x`, optional
            Receives the result; ``out=x`` reduces in place.  Default: a new array.
        op : str, ufunc or callable
            "sum", "prod", "min", "max", "land", "lor", "lxor", "band", "bor", "bxor"; a NumPy ufunc; or ``f(a, b) -> c``,
            elementwise and associative, which gets 1-d pieces of the arrays, in rank order.  NaN and integer overflow
            follow NumPy.
        algorithm : {"auto", "recursive_doubling", "halving_doubling", "ring"}
            Same on all ranks.  "ring" is for commutative operators, which the ten names are.

        Returns
        -------
        ndarray, shape and dtype of `x`

        Raises
        ------
        TypeError
            `x` has object dtype, or `op` has no meaning for its dtype.  Raised before anything is sent.
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
        doi:10.1016/j.jpdc.2008.09.002) for long ones: 2 nbytes (size-1)/size bytes sent per rank.
        """
        result: Array = self._run(self._plan.allreduce(x, out, op, algorithm), timeout)
        return result

    def iallreduce(self, x: Any, out: Any = None, *, op: Op = "sum", algorithm: str = "auto") -> Request:
        """Non-blocking `allreduce`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.allreduce(x, out, op, algorithm))

    def allgather(self, x: Any, out: Any = None, *, algorithm: str = "auto", timeout: float | None = None) -> Array:
        """Collect `x` of all ranks on all ranks.

        Parameters
        ----------
        x : array_like, shape (...), any dtype but object
            Same shape and dtype on all ranks.
        out : array, shape (size, ...), optional
            Receives the result.  Default: a new array.
        algorithm : {"auto", "bruck", "ring"}
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
        Bruck et al. 1997 (doi:10.1109/71.642949) for short arrays, else a ring.
        """
        result: Array = self._run(self._plan.allgather(x, out, algorithm), timeout)
        return result

    def iallgather(self, x: Any, out: Any = None, *, algorithm: str = "auto") -> Request:
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

    # -- messages -------------------------------------------------------------------------------------------------------

    def send(self, x: Any, dest: int, *, tag: int = 0, timeout: float | None = None) -> None:
        """Send `x` to one rank.

        Returns when `x` may be changed again: short messages may not have been received by then.

        Parameters
        ----------
        x : array_like, any shape, any dtype but object
        dest : int
            May be this rank itself.
        tag : int
            0 to 2**31 - 1.

        Raises
        ------
        TypeError, ValueError
            `x` has object dtype, or `dest` or `tag` is out of range.  Before anything is sent.
        """
        self._run(self._plan.send(x, dest, tag), timeout)

    def isend(self, x: Any, dest: int, *, tag: int = 0) -> Request:
        """Non-blocking `send`; `x` must not be changed until it is done."""
        return self._start(self._plan.send(x, dest, tag))

    def recv(self, out: Any, source: int, *, tag: int = 0, timeout: float | None = None) -> Status:
        """Receive a message into `out`.

        Parameters
        ----------
        out : array, any shape
            Of the dtype that is sent, or uint8 for the raw bytes of any.  A shorter message fills the beginning.
        source : int
            A rank, or ANY_SOURCE.
        tag : int
            0 to 2**31 - 1, or ANY_TAG.

        Returns
        -------
        Status
            source, tag and nbytes of the message.

        Raises
        ------
        TypeError, ValueError
            `out` has object dtype, is no view of memory or is read-only; `source` or `tag` is out of range.
        MismatchError
            The message is longer than `out` or of another dtype.
        """
        status: Status = self._run(self._plan.recv(out, source, tag), timeout)
        return status

    def irecv(self, out: Any, source: int, *, tag: int = 0) -> Request:
        """Non-blocking `recv`; `out` must be left alone until it is done."""
        return self._start(self._plan.recv(out, source, tag))

    def sendrecv(
        self,
        x: Any,
        dest: int,
        out: Any,
        source: int,
        *,
        sendtag: int = 0,
        recvtag: int = 0,
        timeout: float | None = None,
    ) -> Status:
        """Send `x` to one rank and receive `out` from one, at the same time; see `send` and `recv`.

        `x` and `out` must not overlap.
        """
        status: Status = self._run(self._plan.sendrecv(x, dest, out, source, sendtag, recvtag), timeout)
        return status

    def isendrecv(self, x: Any, dest: int, out: Any, source: int, *, sendtag: int = 0, recvtag: int = 0) -> Request:
        """Non-blocking `sendrecv`; `x` and `out` must be left alone until it is done."""
        return self._start(self._plan.sendrecv(x, dest, out, source, sendtag, recvtag))
