"""Request and Prequest: handles of the facade's non-blocking operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpi4py import MPI as mpi

from ..request import Request as Handle
from ..waiting import move, wait_for_first
from .codes import HandleError, exception
from .work import EMPTY, Completion, Work, checked, fill

__all__ = ["REQUEST_NULL", "Prequest", "Request"]

Statuses = list[mpi.Status] | tuple[mpi.Status, ...] | None


class Request:
    """As mpi4py.MPI.Request, over sockets."""

    __module__ = "gloompi.MPI"

    _work: Work | None
    _hash: int

    def __new__(cls, request: Request | None = None) -> Request:
        if request is not None and not isinstance(request, Request):
            raise TypeError(f"Argument 'request' must be a Request, not {type(request).__name__}")
        self = super().__new__(cls)
        self._work = None if request is None else request._work
        self._hash = id(self._work)
        return self

    @classmethod
    def _of(cls, work: Work) -> Any:
        self = cls.__new__(cls)
        self._work = work
        self._hash = id(work)
        return self

    def __eq__(self, other: object) -> bool:
        return self._work is other._work if isinstance(other, Request) else NotImplemented

    def __hash__(self) -> int:
        return self._hash  # of what it has stood for first, also when it is complete

    def __bool__(self) -> bool:
        return self._work is not None

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self is REQUEST_NULL:
            return "REQUEST_NULL"
        if self._work is not None:
            raise HandleError("cannot copy or pickle a request that is not null: it is of this process; wait for it first")
        return type(self), (REQUEST_NULL,)

    # -- of one request -------------------------------------------------------------------------------------------------

    def _take(self, status: mpi.Status | None) -> Completion:
        completion = self._end() or EMPTY
        fill(status, completion)
        return checked(completion)

    def _end(self) -> Completion | None:
        """Wait for it and take what it has come to; then it is null.  None if there is nothing, or another thread has it."""
        work = self._work
        if work is None:
            return None
        try:
            return work.take()
        finally:
            # Not before: until it is done, another thread may test it and cancel it.
            if not work.active and not work.persistent:
                self._work = None

    def _complete(self) -> bool:
        work = self._work
        return work is None or work.test()

    def Wait(self, status: mpi.Status | None = None) -> bool:
        self._take(status)
        return True

    def Test(self, status: mpi.Status | None = None) -> bool:
        done = self._complete()
        if done:
            self._take(status)
        return done

    def Get_status(self, status: mpi.Status | None = None) -> bool:
        done = self._complete()
        if done:
            fill(status, _completion(self))
        return done

    def wait(self, status: mpi.Status | None = None) -> Any:
        return self._take(status).obj

    def test(self, status: mpi.Status | None = None) -> tuple[bool, Any]:
        return (True, self._take(status).obj) if self._complete() else (False, None)

    def get_status(self, status: mpi.Status | None = None) -> bool:
        return self.Get_status(status)

    def Cancel(self) -> None:
        work = self._work
        if work is None:
            raise exception(mpi.ERR_REQUEST, "cannot cancel a null request")
        work.cancel()

    def cancel(self) -> None:
        self.Cancel()

    def Free(self) -> None:
        if self._work is None:
            raise exception(mpi.ERR_REQUEST, "cannot free a null request")
        self.free()

    def free(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.release()

    # -- of several -----------------------------------------------------------------------------------------------------

    @classmethod
    def _waitany(cls, requests: Sequence[Request], status: mpi.Status | None) -> tuple[int, Any]:
        while True:
            index, places, handles = _first(requests)
            if index is None:
                if not places:
                    fill(status, EMPTY)
                    return mpi.UNDEFINED, None
                index = places[wait_for_first(handles)]
            completion = requests[index]._end()
            if completion is not None:  # no other thread was faster
                fill(status, completion)
                return index, checked(completion).obj

    @classmethod
    def _testany(cls, requests: Sequence[Request], status: mpi.Status | None) -> tuple[int, bool, Any]:
        while True:
            index, done = _test_first(requests)
            if index is None:
                if done:
                    fill(status, EMPTY)
                return mpi.UNDEFINED, done, None
            completion = requests[index]._end()
            if completion is not None:
                fill(status, completion)
                return index, True, checked(completion).obj

    @classmethod
    def _waitall(cls, requests: Sequence[Request], statuses: Statuses) -> list[Any]:
        _check(requests)
        return _told([(index, request._end() or EMPTY) for index, request in enumerate(requests)], statuses)

    @classmethod
    def _testall(cls, requests: Sequence[Request], statuses: Statuses) -> tuple[bool, list[Any] | None]:
        if not _test_all(requests):
            return False, None
        return True, cls._waitall(requests, statuses)

    @classmethod
    def _some(cls, requests: Sequence[Request], statuses: Statuses, wait: bool) -> tuple[list[int] | None, list[Any] | None]:
        while True:
            if wait:
                index, places, handles = _first(requests)
                if index is None and places:
                    wait_for_first(handles)
            done = _test_each(requests)
            if done is None:
                return None, None
            taken = [(index, completion) for index in done if (completion := requests[index]._end()) is not None]
            if taken or not wait:
                return [index for index, _ in taken], _told(taken, statuses)

    @classmethod
    def Waitany(cls, requests: Sequence[Request], status: mpi.Status | None = None) -> int:
        return cls._waitany(requests, status)[0]

    @classmethod
    def waitany(cls, requests: Sequence[Request], status: mpi.Status | None = None) -> tuple[int, Any]:
        return cls._waitany(requests, status)

    @classmethod
    def Testany(cls, requests: Sequence[Request], status: mpi.Status | None = None) -> tuple[int, bool]:
        return cls._testany(requests, status)[:2]

    @classmethod
    def testany(cls, requests: Sequence[Request], status: mpi.Status | None = None) -> tuple[int, bool, Any]:
        return cls._testany(requests, status)

    @classmethod
    def Waitall(cls, requests: Sequence[Request], statuses: Statuses = None) -> bool:
        cls._waitall(requests, statuses)
        return True

    @classmethod
    def waitall(cls, requests: Sequence[Request], statuses: Statuses = None) -> list[Any]:
        return cls._waitall(requests, statuses)

    @classmethod
    def Testall(cls, requests: Sequence[Request], statuses: Statuses = None) -> bool:
        return cls._testall(requests, statuses)[0]

    @classmethod
    def testall(cls, requests: Sequence[Request], statuses: Statuses = None) -> tuple[bool, list[Any] | None]:
        return cls._testall(requests, statuses)

    @classmethod
    def Waitsome(cls, requests: Sequence[Request], statuses: Statuses = None) -> list[int] | None:
        return cls._some(requests, statuses, wait=True)[0]

    @classmethod
    def waitsome(cls, requests: Sequence[Request], statuses: Statuses = None) -> tuple[list[int] | None, list[Any] | None]:
        return cls._some(requests, statuses, wait=True)

    @classmethod
    def Testsome(cls, requests: Sequence[Request], statuses: Statuses = None) -> list[int] | None:
        return cls._some(requests, statuses, wait=False)[0]

    @classmethod
    def testsome(cls, requests: Sequence[Request], statuses: Statuses = None) -> tuple[list[int] | None, list[Any] | None]:
        return cls._some(requests, statuses, wait=False)

    @classmethod
    def Get_status_any(cls, requests: Sequence[Request], status: mpi.Status | None = None) -> tuple[int, bool]:
        index, done = _test_first(requests)
        if done:
            fill(status, EMPTY if index is None else _completion(requests[index]))
        return mpi.UNDEFINED if index is None else index, done

    @classmethod
    def Get_status_all(cls, requests: Sequence[Request], statuses: Statuses = None) -> bool:
        if not _test_all(requests):
            return False
        _fill_all(statuses, [_completion(request) for request in requests])
        return True

    @classmethod
    def Get_status_some(cls, requests: Sequence[Request], statuses: Statuses = None) -> list[int] | None:
        done = _test_each(requests)
        if done is not None:
            _fill_all(statuses, [_completion(requests[index]) for index in done])
        return done

    get_status_any = Get_status_any
    get_status_all = Get_status_all
    get_status_some = Get_status_some


class Prequest(Request):
    """As mpi4py.MPI.Prequest: a request that can be started again and again."""

    __module__ = "gloompi.MPI"

    def Start(self) -> None:
        work = self._work
        if work is None or not work.persistent or work.active:
            state = "null" if work is None else "under way" if work.active else "not persistent"
            raise exception(mpi.ERR_REQUEST, f"cannot start a request that is {state}")
        work.start()

    @classmethod
    def Startall(cls, requests: Sequence[Prequest]) -> None:
        _check(requests)
        for request in requests:
            request.Start()


REQUEST_NULL = Request()

_KINDS = {Request, Prequest}


def _check(requests: Sequence[Request]) -> None:
    """Raise TypeError unless all are requests, in something that has a length."""
    _require_sequence(requests)
    if not _KINDS.issuperset(map(type, requests)):
        for request in requests:
            if not isinstance(request, Request):
                raise TypeError(f"expected a gloompi.MPI.Request, not {type(request).__module__}.{type(request).__name__}")


def _require_sequence(requests: Sequence[Request]) -> None:
    """As mpi4py, refuse what has no length: an iterator would be at its end after the first look."""
    if not hasattr(requests, "__len__"):
        raise TypeError(f"requests must be a list or a tuple, not {type(requests).__name__}: pass list(...) of it")


def _first(requests: Sequence[Request]) -> tuple[int | None, list[int], list[Handle]]:
    """The place of the first that is done; else, the places of those that are under way, and what to wait for.

    Moves nothing, and looks at none behind the first that is done.  A request that is null or not active is neither.
    """
    _require_sequence(requests)
    places: list[int] = []
    handles: list[Handle] = []
    try:
        for index, request in enumerate(requests):
            work = request._work
            if work is not None and work.active:
                handle = work._handle
                if handle is None or handle._task.done:
                    return index, places, handles
                places.append(index)
                handles.append(handle)
    except AttributeError:
        _check(requests)
        raise
    return None, places, handles


def _test_first(requests: Sequence[Request]) -> tuple[int | None, bool]:
    """The place of the first that is done, moving what can be moved if none is; True if so, or if none is under way."""
    index, places, handles = _first(requests)
    if index is None and places:
        move(handles)
        index, places, _ = _first(requests)
    return index, index is not None or not places


def _test_each(requests: Sequence[Request]) -> list[int] | None:
    """The places of all that are done, after moving what can be moved; None if no request is active."""
    _check(requests)
    works = [(index, work) for index, request in enumerate(requests) if (work := request._work) is not None and work.active]
    handles = [handle for _, work in works if (handle := work._handle) is not None and not handle._task.done]
    if handles:
        move(handles)
    done = [index for index, work in works if (handle := work._handle) is None or handle._task.done]
    return done if works else None


def _test_all(requests: Sequence[Request]) -> bool:
    """Whether all are done, or not active, moving what can be moved if some are not."""
    _check(requests)
    works = [work for request in requests if (work := request._work) is not None and work.active]
    handles = [handle for work in works if (handle := work._handle) is not None and not handle._task.done]
    if handles:
        move(handles)
    return all(handle._task.done for handle in handles)


def _completion(request: Request) -> Completion:
    work = request._work
    return EMPTY if work is None else work.completion()


def _told(taken: list[tuple[int, Completion]], statuses: Statuses) -> list[Any]:
    """Say what the requests of these places have come to; return their objects."""
    _fill_all(statuses, [completion for _, completion in taken])
    failed = [index for index, completion in taken if completion.truncated]
    if failed:
        raise exception(
            mpi.ERR_IN_STATUS,
            f"of {len(taken)} requests, those at {failed} got messages longer than their buffers; see the statuses",
        )
    return [completion.obj for _, completion in taken]


def _fill_all(statuses: Statuses, completions: list[Completion]) -> None:
    if statuses is None:
        return
    if isinstance(statuses, list):
        statuses += [mpi.Status() for _ in range(len(completions) - len(statuses))]
    for status, completion in zip(statuses, completions, strict=False):
        fill(status, completion)
