"""What all communicators of the facade share: the Context they stand for, and their life."""

from __future__ import annotations

import threading
from collections import defaultdict
from itertools import count
from typing import Any, NoReturn

from mpi4py import MPI as mpi

from ..context import Context
from . import attributes, groups
from .codes import HandleError, exception
from .pickling import PICKLER
from .requests import Request
from .work import Completion, Work

__all__ = ["CommBase", "CommContext", "Standing", "constants"]

constants: dict[str, CommBase] = {}
"""The communicators that `gloompi.MPI` has by name; where they are, a pickle finds them again."""


class CommContext(Context):
    """The Context of a communicator, which a program need not free: without a word about it, that is done for it."""

    def __del__(self) -> None:
        conversation = getattr(self, "_conversation", None)
        if conversation is not None and not conversation.freed:
            self._engine.free(conversation)


class Standing:
    """What all copies of a communicator share.

    Attributes
    ----------
    context : Context or None
        None for the null communicator, and after Free.
    predefined : bool
        COMM_WORLD, COMM_SELF: the program must not free it.
    inner : CommBase or None
        A duplicate for the collectives that mpi4py's own packages make of messages; `tags` numbers them.
    """

    __slots__ = ("attributes", "context", "errhandler", "info", "inner", "locks", "name", "predefined", "tags")

    def __init__(self, context: Context | None, name: str = "", predefined: bool = False) -> None:
        self.context = context
        self.name = name
        self.predefined = predefined
        self.info = mpi.INFO_NULL
        self.errhandler = mpi.ERRORS_RETURN
        self.attributes: dict[int, Any] = {}
        self.inner: Any = None
        self.tags = count()
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


_NULL = Standing(None, "MPI_COMM_NULL")


class CommBase:
    """Handle of a communicator."""

    _standing: Standing
    _hash: int
    _plain: type[CommBase]
    """What Split and its like make, also of a class of the program's: Intracomm."""

    def __new__(cls, comm: CommBase | None = None) -> Any:
        if comm is not None and not isinstance(comm, CommBase):
            raise TypeError(
                f"Argument 'comm' must be a communicator of gloompi.MPI, not {type(comm).__module__}.{type(comm).__name__}"
            )
        self = super().__new__(cls)
        self._stand_for(_NULL if comm is None else comm._standing)
        return self

    def _stand_for(self, standing: Standing) -> None:
        self._standing = standing
        self._hash = id(standing)

    @classmethod
    def _of(cls, context: Context | None, name: str = "", predefined: bool = False) -> Any:
        self = cls.__new__(cls)
        if context is not None:
            context._plan.pickler = PICKLER
            self._stand_for(Standing(context, name, predefined))
        return self

    @property
    def _context(self) -> Context:
        context = self._standing.context
        if context is None:
            raise exception(mpi.ERR_COMM, "the communicator is null or has been freed")
        return context

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CommBase):
            return NotImplemented
        return self._standing is other._standing or self._standing.context is other._standing.context is None

    def __hash__(self) -> int:
        return self._hash  # of what it has stood for first: Free must not change the hash of what may be a key

    def __bool__(self) -> bool:
        return self._standing.context is not None

    def __reduce__(self) -> str | tuple[Any, ...]:
        for name, constant in constants.items():
            if self is constant:
                return name
            if self == constant:
                return type(self), (constant,)
        raise HandleError(
            "cannot copy or pickle a communicator that is not COMM_WORLD, COMM_SELF or null: it is of this process; Dup() "
            "makes another one of the same ranks"
        )

    def __repr__(self) -> str:
        context = self._standing.context
        what = "null" if context is None else f"rank {context.rank} of {context.size}"
        return f"<gloompi.MPI.{type(self).__name__} {self._standing.name or 'communicator'}, {what}>"

    # -- who takes part -------------------------------------------------------------------------------------------------

    def Get_rank(self) -> int:
        return self._context.rank

    def Get_size(self) -> int:
        return self._context.size

    @property
    def rank(self) -> int:
        return self._context.rank

    @property
    def size(self) -> int:
        return self._context.size

    def Get_group(self) -> mpi.Group:
        return groups.group_of(self._context)

    @property
    def group(self) -> mpi.Group:
        return self.Get_group()

    def Compare(self, comm: CommBase) -> int:
        mine, theirs = self._context, comm._context
        if mine is theirs:
            return mpi.IDENT
        ranks, others = list(mine._conversation.ranks), list(theirs._conversation.ranks)
        if mine._engine is not theirs._engine or sorted(ranks) != sorted(others):
            return mpi.UNEQUAL
        return mpi.CONGRUENT if ranks == others else mpi.SIMILAR

    def Is_inter(self) -> bool:
        self._context  # noqa: B018  # raises for a null communicator
        return False

    def Is_intra(self) -> bool:
        return not self.Is_inter()

    is_inter = property(Is_inter)
    is_intra = property(Is_intra)

    def Get_topology(self) -> int:
        self._context  # noqa: B018
        return mpi.UNDEFINED

    topology = property(Get_topology)

    @property
    def is_topo(self) -> bool:
        return False

    # -- life -----------------------------------------------------------------------------------------------------------

    def Dup(self, info: mpi.Info | None = None) -> Any:
        made = type(self)._of(self._context.dup())
        made._standing.info = self._standing.info if info is None else info.Dup()
        made._standing.attributes = attributes.copied(self, self._standing.attributes)
        return made

    def Clone(self) -> Any:
        return self.Dup()

    def Dup_with_info(self, info: mpi.Info) -> Any:
        return self.Dup(info)

    def Idup(self, info: mpi.Info | None = None) -> tuple[Any, Request]:
        # Nothing has to be sent for it, so it is complete at once.
        made = self.Dup(info)
        done = Work(self._context, lambda: (Completion(), lambda result: Completion())).start()
        return made, Request._of(done)

    def Idup_with_info(self, info: mpi.Info) -> tuple[Any, Request]:
        return self.Idup(info)

    def Split(self, color: int = 0, key: int = 0) -> Any:
        if color < 0 and color != mpi.UNDEFINED:
            raise exception(mpi.ERR_ARG, f"color must be >= 0 or UNDEFINED, not {color}")
        return self._plain._of(self._context.split(None if color == mpi.UNDEFINED else color, key))

    def Split_type(self, split_type: int, key: int = 0, info: mpi.Info = mpi.INFO_NULL) -> Any:
        context = self._context
        if split_type not in (mpi.COMM_TYPE_SHARED, mpi.UNDEFINED):
            raise exception(mpi.ERR_ARG, f"split_type must be COMM_TYPE_SHARED or UNDEFINED, not {split_type}")
        hosts = [peer.host_id for peer in context.peers]
        first = hosts.index(hosts[context.rank])  # of the ranks of this host
        return self._plain._of(context.split(None if split_type == mpi.UNDEFINED else first, key))

    def Create(self, group: mpi.Group) -> Any:
        context = self._context
        made = context._run(context._plan.create(groups.members(group, context)), None)
        return self._plain._of(None if made is None else context._child(made))

    def Create_group(self, group: mpi.Group, tag: int = 0) -> Any:
        context = self._context
        members = groups.members(group, context)
        if context.rank not in members:
            return self._plain._of(None)
        return self._plain._of(context._child(context._run(context._plan.group(members, tag), None)))

    def Free(self) -> None:
        context = self._context
        if self._standing.predefined:
            raise exception(mpi.ERR_COMM, f"{self._standing.name} must not be freed")
        for keyval in tuple(self._standing.attributes):
            self.Delete_attr(keyval)
        if self._standing.inner:
            self._standing.inner.Free()
        context._engine.free(context._conversation)  # which may be inside a call: what collects garbage runs anywhere
        self._standing.context = None
        self._standing = _NULL

    def free(self) -> None:
        if self and not self._standing.predefined:
            self.Free()

    def Disconnect(self) -> None:
        self.Free()

    def Abort(self, errorcode: int = 0) -> NoReturn:
        self._context.abort(f"Abort({errorcode}) was called")
        mpi.COMM_WORLD.Abort(errorcode)
        raise SystemExit(errorcode)

    # -- name, attributes, info, error handler --------------------------------------------------------------------------

    def Get_name(self) -> str:
        self._context  # noqa: B018
        return self._standing.name

    def Set_name(self, name: str) -> None:
        self._context  # noqa: B018
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        self._standing.name = name

    name = property(Get_name, Set_name)

    def Get_attr(self, keyval: int) -> Any:
        self._context  # noqa: B018
        return attributes.get(self._standing.attributes, keyval)

    def Set_attr(self, keyval: int, attrval: Any) -> None:
        self._context  # noqa: B018
        attributes.put(self, self._standing.attributes, keyval, attrval)

    def Delete_attr(self, keyval: int) -> None:
        self._context  # noqa: B018
        attributes.deleted(self, self._standing.attributes, keyval)

    @classmethod
    def Create_keyval(cls, copy_fn: Any = None, delete_fn: Any = None, nopython: bool = False) -> int:
        return attributes.create_keyval(copy_fn, delete_fn)

    @classmethod
    def Free_keyval(cls, keyval: int) -> int:
        return attributes.free_keyval(keyval)

    def Get_info(self) -> mpi.Info:
        self._context  # noqa: B018
        return self._standing.info.Dup() if self._standing.info else mpi.Info.Create()

    def Set_info(self, info: mpi.Info) -> None:
        self._context  # noqa: B018
        self._standing.info = info.Dup() if info else info

    info = property(Get_info, Set_info)

    def Get_errhandler(self) -> mpi.Errhandler:
        return mpi.Errhandler(self._standing.errhandler)

    def Set_errhandler(self, errhandler: mpi.Errhandler) -> None:
        self._standing.errhandler = errhandler

    def Call_errhandler(self, errorcode: int) -> None:
        """Nothing to do: errors are exceptions here, as with mpi4py's default handler ERRORS_RETURN."""
