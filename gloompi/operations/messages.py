"""Messages from rank to rank, and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine.operation import ANY_SOURCE, ANY_TAG
from ..message import Message
from ..plans.messages import Status
from ..request import Request
from .running import Running

if TYPE_CHECKING:
    from ..arrays import Array

__all__ = ["Messages"]


class Messages(Running):
    """Send, ssend, recv, recv_array, sendrecv, their forms for objects, and probes."""

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

    def ssend(self, x: Any, dest: int, *, tag: int = 0, timeout: float | None = None) -> None:
        """Send `x` to one rank, and return when a receive there has matched it; else as `send`."""
        self._run(self._plan.send(x, dest, tag, synchronous=True), timeout)

    def issend(self, x: Any, dest: int, *, tag: int = 0) -> Request:
        """Non-blocking `ssend`; `x` must not be changed until it is done."""
        return self._start(self._plan.send(x, dest, tag, synchronous=True))

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

    def recv_array(self, source: int, *, tag: int = 0, timeout: float | None = None) -> Array:
        """Receive an array of whatever length and dtype is sent, and return it.

        A message does not say which shape its array had.  It says the dtype of numbers, dates and texts, and of bfloat16
        where ml_dtypes is installed, but not of structures, whose fields are too much for it: their items come as void of
        the same size, and ``.view(dtype)`` makes them what they were.

        Parameters
        ----------
        source, tag : int
            As for `recv`.  To know where an array came from, take it with `mprobe` and `Message.recv_array`.

        Returns
        -------
        ndarray, shape (count,), dtype of what is sent

        Raises
        ------
        MismatchError
            The message is an object.
        """
        result: Array = self._run(self._plan.recv_array(source, tag), timeout)
        return result

    def irecv_array(self, source: int, *, tag: int = 0) -> Request:
        """Non-blocking `recv_array`."""
        return self._start(self._plan.recv_array(source, tag))

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

    # -- objects --------------------------------------------------------------------------------------------------------

    def send_object(self, obj: Any, dest: int, *, tag: int = 0, timeout: float | None = None) -> None:
        """Send a Python object to one rank, pickled (protocol 5); the arrays in it are copied once.

        Parameters
        ----------
        obj : object
            Anything that can be pickled.
        dest, tag
            As for `send`.

        Raises
        ------
        PicklingError, TypeError, AttributeError, ...
            `obj` cannot be pickled.  Before anything is sent.
        """
        self._run(self._plan.send_object(obj, dest, tag), timeout)

    def isend_object(self, obj: Any, dest: int, *, tag: int = 0) -> Request:
        """Non-blocking `send_object`; `obj` may be changed at once."""
        return self._start(self._plan.send_object(obj, dest, tag))

    def ssend_object(self, obj: Any, dest: int, *, tag: int = 0, timeout: float | None = None) -> None:
        """Send an object, and return when a receive has matched it."""
        self._run(self._plan.send_object(obj, dest, tag, synchronous=True), timeout)

    def issend_object(self, obj: Any, dest: int, *, tag: int = 0) -> Request:
        """Non-blocking `ssend_object`; `obj` may be changed at once."""
        return self._start(self._plan.send_object(obj, dest, tag, synchronous=True))

    def recv_object(self, source: int = ANY_SOURCE, *, tag: int = 0, timeout: float | None = None) -> Any:
        """Receive an object that `send_object` has sent, and return it.

        Its arrays lie in the memory of the message, which lives as long as one of them; those of less than a 64th of the
        message, and those of up to 64 KiB and less than an eighth, have memory of their own.

        Unpickling runs code that the sender chooses: every rank of a Context is trusted.

        Parameters
        ----------
        source, tag
            As for `recv`.

        Raises
        ------
        MismatchError
            The message is an array.
        """
        return self._run(self._plan.recv_object(source, tag), timeout)

    def irecv_object(self, source: int = ANY_SOURCE, *, tag: int = 0) -> Request:
        """Non-blocking `recv_object`."""
        return self._start(self._plan.recv_object(source, tag))

    def sendrecv_object(
        self, obj: Any, dest: int, source: int, *, sendtag: int = 0, recvtag: int = 0, timeout: float | None = None
    ) -> Any:
        """Send an object to one rank, and return the one that is received from one, at the same time.

        See `send_object` and `recv_object`.
        """
        return self._run(self._plan.sendrecv_object(obj, dest, source, sendtag, recvtag), timeout)

    def isendrecv_object(self, obj: Any, dest: int, source: int, *, sendtag: int = 0, recvtag: int = 0) -> Request:
        """Non-blocking `sendrecv_object`; `obj` may be changed at once."""
        return self._start(self._plan.sendrecv_object(obj, dest, source, sendtag, recvtag))

    # -- probes ---------------------------------------------------------------------------------------------------------

    def probe(self, source: int = ANY_SOURCE, *, tag: int = ANY_TAG, timeout: float | None = None) -> Status:
        """Wait for a message, and leave it to be received.

        Parameters
        ----------
        source, tag : int
            As for `recv`.

        Returns
        -------
        Status
            source, tag and nbytes of the message that a receive would get.
        """
        _, status = self._run(self._plan.probe(source, tag, takes=False), timeout)
        found: Status = status
        return found

    def iprobe(self, source: int = ANY_SOURCE, *, tag: int = ANY_TAG) -> Status | None:
        """`probe` without waiting: None if there is no message yet.

        Raises
        ------
        PeerLostError
            The source has closed its Context, so that none can come; the Context stays usable.
        """
        found = self._look(source, tag, takes=False)
        if found is None:
            self._check_present(source)
        return None if found is None else found[1]

    def mprobe(self, source: int = ANY_SOURCE, *, tag: int = ANY_TAG, timeout: float | None = None) -> Message:
        """Wait for a message and take it out of the matching: only the Message that is returned can receive it."""
        return Message._of(self, *self._run(self._plan.probe(source, tag, takes=True), timeout))

    def improbe(self, source: int = ANY_SOURCE, *, tag: int = ANY_TAG) -> Message | None:
        """`mprobe` without waiting: None if there is no message yet; errors as `iprobe`."""
        found = self._look(source, tag, takes=True)
        if found is None:
            self._check_present(source)
        return None if found is None else Message._of(self, *found)

    def _look(self, source: int, tag: int, takes: bool) -> Any:
        find = self._plan.finder(source, tag, takes)
        self._engine.check_open(self._conversation)
        return self._engine.exclusively(self._deadline(None), "probe", self._engine.look, find)

    def _check_present(self, source: int) -> None:
        """Whoever looks again and again for a message of a rank that has left would do so for ever."""
        rank = source if source == ANY_SOURCE else self._conversation.ranks[source]
        if rank in self._conversation.messages.departed:
            raise self._engine.left_error(rank)
