"""The Context: rank, size and the connections of a group of ranks; what a user holds."""

from __future__ import annotations

import warnings
from dataclasses import replace
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from .deadline import Deadline, check_timeout
from .engine.conversation import Conversation
from .engine.engine import Engine
from .engine.recorder import CallRecord
from .errors import is_clean
from .objects import PICKLE, Pickler
from .operations import Operations
from .signatures import public

if TYPE_CHECKING:
    from .stores.store import Store
    from .transport.device import Device
    from .transport.endpoint import Peer

__all__ = ["Context"]

_TIMEOUT = 1800.0
_CONNECT_TIMEOUT = 300.0


@public
class Context(Operations):
    """A group of ranks that are connected to each other.

    Made by `from_mpi`, `from_store` or `from_env`, or from another one by `dup` and `split`.  The first error that concerns
    other ranks breaks it, here and on every peer; later operations raise the same error.  Use it in a ``with`` statement:
    leaving it with an exception, other than that of ``sys.exit(0)``, tells the peers instead of letting them wait.

    Any number of threads may use it at the same time: one that waits lets the others in.  Collectives are matched in the
    order of the calls on each rank, so that threads which make some at the same time need a `dup` each.

    Every operation takes ``timeout``, in seconds for the whole call; the default is the Context's own, and
    ``float("inf")`` is no limit.  Arrays may be anything that NumPy sees without a copy: ndarrays of any shape, strides and
    dtype but object, buffers, CPU tensors with DLPack.

    Attributes
    ----------
    rank, size : int
    timeout : float or None
        Default budget of an operation, seconds; None is no limit.
    peers : tuple of Peer
        Who each rank is and how it is reached: rank in this Context, host, pid, transport ("self", "unix", "tcp", "tls"),
        address.
    """

    def __init__(self, *parts: Any, **others: Any) -> None:
        if not parts or not isinstance(parts[0], Engine):
            raise TypeError(
                "a Context is made by Context.from_mpi(comm), Context.from_store(store, rank, size) or Context.from_env(), "
                "on all ranks, or by dup and split of another one"
            )
        super().__init__(*parts, **others)

    @classmethod
    def from_mpi(
        cls,
        comm: Any = None,
        *,
        secret: bytes | str | None = None,
        device: Device | None = None,
        timeout: float | None = _TIMEOUT,
        connect_timeout: float | None = _CONNECT_TIMEOUT,
        pickler: Pickler | None = None,
    ) -> Context:
        """Connect the ranks of an MPI communicator.

        Collective over `comm`.  Afterwards MPI is not used any more: it may be busy, be finalized, or have been
        initialised without thread support.  The caller's own traffic on `comm` is not touched.

        Parameters
        ----------
        comm : mpi4py.MPI.Intracomm, optional
            Default: MPI.COMM_WORLD.
        secret : bytes or str, optional
            Known to all ranks and to nobody else, and random, 128 bits or more (whoever reads what the ranks tell each other
            can try at leisure what it may be): then nobody who can read or change MPI's messages can join the ranks.
            Default: the content of the file that GLOOMPI_SECRET_FILE names; without one MPI is trusted, and whoever can read
            it during the rendezvous can pose as a rank.
        device : Device, optional
            Which interfaces, ports and transports this rank uses.  Default: ``Device()``.
        timeout : float, optional
            Default budget of the operations, seconds; None is no limit.  GLOOMPI_TIMEOUT replaces the default, 1800.0.
        connect_timeout : float, optional
            Budget for the rendezvous, seconds, from the moment that this rank calls.
        pickler : Pickler, optional
            How objects become bytes, and bytes objects, in operations on objects; all ranks have to take the same.  Contexts
            made of this one have it too.  Default: pickle protocol 5, which executes what the sender of an object chooses;
            with GLOOMPI_PICKLE=off these operations raise a RuntimeError instead.

        Raises
        ------
        RendezvousError
            The ranks did not find each other: the same error on every rank that can be reached.
            A secret that cannot be read is one of its reasons.
        TypeError, ValueError
            `comm` is not a communicator, is null or freed, or is an inter-communicator; `secret` is empty, or no text.
        """
        from .rendezvous.mpi import exchange_over

        budget, deadline = _budgets(device, timeout, connect_timeout, pickler)
        shared, trouble = _secret(secret)
        with exchange_over(comm, shared, deadline) as exchange:
            return cls._from_exchange(exchange, device, budget, deadline, shared, trouble, pickler)

    @classmethod
    def from_store(
        cls,
        store: Store,
        rank: int,
        size: int,
        *,
        secret: bytes | str | None = None,
        device: Device | None = None,
        timeout: float | None = _TIMEOUT,
        connect_timeout: float | None = _CONNECT_TIMEOUT,
        pickler: Pickler | None = None,
    ) -> Context:
        """Connect processes that share a key-value store.

        Every process calls it with its own rank.  What an earlier rendezvous has left in the store, even one that was
        killed, does not disturb; several at the same time need prefixes of their own (`PrefixStore`).

        Parameters
        ----------
        store : Store
            Stays open.
        rank, size : int
            0 <= rank < size; every rank once, the same size everywhere.
        secret : bytes or str, optional
            As for `from_mpi`; without one the session key goes through the store, and whoever can read it there can pose as
            a rank.
        device, timeout, connect_timeout, pickler
            As for `from_mpi`.

        Raises
        ------
        RendezvousError
            The ranks did not find each other (the text names those that did not come), a rank is there twice, the ranks'
            secrets differ, or the store cannot be reached.
        TypeError, ValueError
            `store` is no Store, or `rank`, `size` or `secret` has no meaning.
        OSError
            The file that GLOOMPI_SECRET_FILE names cannot be read.
        """
        from .rendezvous.store import exchange_through
        from .secret import shared_secret
        from .stores.store import Store

        if not isinstance(store, Store):
            raise TypeError(f"store must be a gloompi.Store, not {type(store).__name__}")
        rank, size = index(rank), index(size)
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        if not 0 <= rank < size:
            raise ValueError(f"rank must be in range({size}), not {rank}")
        budget, deadline = _budgets(device, timeout, connect_timeout, pickler)
        shared = shared_secret(secret)
        with exchange_through(store, rank, size, shared, deadline) as exchange:
            return cls._from_exchange(exchange, device, budget, deadline, shared, pickler=pickler)

    @classmethod
    def from_env(
        cls,
        *,
        secret: bytes | str | None = None,
        device: Device | None = None,
        timeout: float | None = _TIMEOUT,
        connect_timeout: float | None = _CONNECT_TIMEOUT,
        pickler: Pickler | None = None,
    ) -> Context:
        """Connect the processes that a launcher has started together, over what the environment offers.

        In this order: the store that GLOOMPI_STORE names (``redis://``, ``file:///``, ``etcd://``, ``zookeeper://``,
        ``tcp://``), with the launcher's rank and size; torchrun's RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, with a
        store that rank 0 serves; the communicator of an MPI launcher; the same four variables set by hand; MPI.COMM_WORLD,
        which without a launcher is this process alone.

        Parameters
        ----------
        secret
            As for `from_store`.
        device, timeout, connect_timeout, pickler
            As for `from_mpi`.

        Raises
        ------
        RendezvousError
            The ranks did not find each other, or the environment does not say how they can.  Over MPI, a secret that cannot
            be read is one of the reasons.
        ValueError, ImportError, OSError
            GLOOMPI_STORE names no store, the store's package is missing, the file that GLOOMPI_SECRET_FILE names cannot be
            read, or rank 0 cannot listen.
        """
        from .rendezvous.environment import exchange_from_env

        budget, deadline = _budgets(device, timeout, connect_timeout, pickler)
        shared, trouble = _secret(secret)
        with exchange_from_env(shared, deadline, trouble) as exchange:
            return cls._from_exchange(exchange, device, budget, deadline, shared, trouble, pickler)

    @classmethod
    def _from_exchange(
        cls,
        exchange: Any,
        device: Device | None,
        timeout: float | None,
        deadline: Deadline,
        secret: bytes = b"",
        trouble: Exception | None = None,
        pickler: Pickler | None = None,
    ) -> Context:
        from .rendezvous.mesh import connect
        from .settings import value

        mesh = connect(exchange, device, deadline, secret, trouble)
        engine = Engine(
            exchange.rank, mesh.peers, mesh.sockets, crowded=mesh.crowded, shared=mesh.shared, marker=mesh.marker
        )
        if pickler is None and value("GLOOMPI_PICKLE", True):
            pickler = PICKLE
        return cls(engine, value("GLOOMPI_TIMEOUT", timeout) if timeout == _TIMEOUT else timeout, pickler=pickler)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Context cannot be copied or pickled: it is connections of this process; ctx.dup() makes another one of the "
            "same ranks, and another process makes its own"
        )

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<gloompi.Context rank {self.rank} of {self.size}{state}>"

    @property
    def peers(self) -> tuple[Peer, ...]:
        peers = self._engine.peers
        return tuple(
            peers[rank] if rank == number else replace(peers[rank], rank=number)
            for number, rank in enumerate(self._conversation.ranks)
        )

    @property
    def closed(self) -> bool:
        """Whether the Context was closed, was aborted, or is broken."""
        return self._engine.closed or self._conversation.closed

    def history(self) -> list[CallRecord]:
        """Return the last calls of this Context on this rank, 256 at most, in the order of their begin.

        Also after an error, whose traceback shows the last of them (from Python 3.11 on).  GLOOMPI_TRACE=FOLDER has all
        calls written to files, for ``python -m gloompi trace FOLDER``.

        Returns
        -------
        list of CallRecord
            number, name, peer, dtype, count, nbytes, start, end, state of each.
        """
        return [entry.record for entry in self._engine.calls(self._conversation)]

    # -- more of them ----------------------------------------------------------------------------------------------------

    def dup(self) -> Context:
        """Return a Context of the same ranks whose operations and messages are apart from this one's.

        Collective: every rank calls it.  The connections are shared, nothing is opened and nothing is sent.  Each Context
        is closed by itself, and the connections with the last one; an error that breaks one breaks all.
        """
        return self._child(self._run(self._plan.dup(), None))

    def split(self, color: int | None, key: int = 0, *, timeout: float | None = None) -> Context | None:
        """Return a Context of the ranks that call it with the same `color`.

        Collective: every rank of this Context calls it.  The connections are shared, as with `dup`; ranks in error texts
        stay those of the Context that was connected first.

        Parameters
        ----------
        color : int or None
            64 bits; None takes no part, and gets None.
        key : int
            The new ranks are in the order of `key`, and of the old ranks where keys are equal.
        """
        conversation = self._run(self._plan.split(color, key), timeout)
        return None if conversation is None else self._child(conversation)

    def shrink(self, *, timeout: float | None = None) -> Context:
        """Return a Context of the ranks that have survived, after an error has broken this one.

        Collective over the survivors: every rank that goes on calls it.  They agree on who is alive over the connections
        that are left, without MPI and without a store, even if another rank dies meanwhile; ranks are counted anew, in the
        old order.  A rank that dies after they have agreed breaks the new Context, which can be shrunk in its turn.

        Raises
        ------
        RuntimeError
            This Context works.
        ContextClosedError
            It was closed or aborted here, before or meanwhile, or the others have lost this rank and go on without it.
        OperationTimeoutError
            A rank that is alive has not called it within the budget, and is named.

        Notes
        -----
        What was on its way when the loss was noticed is dropped.  See `gloompi.engine.shrinking` for the algorithm.
        """
        engine = self._engine.shrink(self._conversation, self._deadline(timeout))
        return type(self)(engine, self.timeout, pickler=self._plan.of_children())

    def _child(self, conversation: Conversation) -> Context:
        return type(self)(self._engine, self.timeout, conversation, self._plan.of_children())

    # -- the end --------------------------------------------------------------------------------------------------------

    def close(self, *, timeout: float | None = None) -> None:
        """Finish what was begun to be sent, say goodbye to the peers, close the connections.

        Not collective, and safe to call twice.  Peers that still need this rank get a PeerLostError.  The connections stay
        open as long as another Context made by `dup` or `split` uses them.  Inside a call on one of those, as in a
        ``__del__`` that the garbage collector runs, it does not wait: this one then ends when what was begun in it has, and
        the next call says goodbye.  When the interpreter ends, other than by an
        exception, a Context that is still open says goodbye too, after exit functions and the ``__del__`` of the program's
        objects, which may use it; unless a peer has yet to ask for a message that was begun to be sent: that is not waited
        for, and the peers take it for a loss.

        Raises
        ------
        OperationTimeoutError
            A message that was begun to be sent was not received within the budget.
        """
        try:
            if not self.closed and not self._engine.free_inside(self._conversation):
                deadline = self._deadline(timeout)
                self._engine.exclusively(deadline, "close", self._engine.leave, self._conversation, deadline)
        finally:
            self._engine.part(self._conversation)

    def abort(self, reason: str) -> None:
        """Break the Context on all ranks: the peers get a PeerLostError that names this rank and the reason.

        So are all Contexts that share its connections.

        Parameters
        ----------
        reason : str
            Of more than 1,000 characters, the first; what cannot be encoded is written as an escape.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {type(reason).__name__}")
        self._abort(reason)

    def _abort(self, reason: str | BaseException) -> None:
        if self.closed:
            self._engine.part(self._conversation)
        else:
            self._engine.abort(reason)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if exc is None or is_clean(exc):
            self.close()
        else:
            try:
                self._abort(exc)
            except BaseException:  # a signal handler has come before anything was done, perhaps
                self._abort(exc)
                raise

    def __del__(self) -> None:
        conversation = getattr(self, "_conversation", None)
        if conversation is None:
            return
        if self._engine.closed or self._engine.leaving:
            self._engine.drop(conversation)
        elif not (conversation.closed or conversation.freed):
            text = f"{self!r} was not closed"
            self._engine.drop(conversation)  # first: a warning may be an error
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)


def _budgets(
    device: Device | None, timeout: float | None, connect_timeout: float | None, pickler: Pickler | None
) -> tuple[float | None, Deadline]:
    """Check what all ways to make a Context take; the operations' budget and the rendezvous' deadline."""
    if device is not None:
        from .transport.device import Device

        if not isinstance(device, Device):
            raise TypeError(f"device must be a gloompi.Device, not {type(device).__name__}")
    if pickler is not None and not isinstance(pickler, Pickler):
        raise TypeError(f"pickler must be a gloompi.Pickler, not {type(pickler).__name__}")
    return check_timeout(timeout), Deadline(check_timeout(connect_timeout, "connect_timeout"))


def _secret(secret: bytes | str | None) -> tuple[bytes, Exception | None]:
    """The secret as bytes, and what is wrong with its file: where MPI connects the ranks already, all can be told."""
    from .secret import shared_secret

    try:
        return shared_secret(secret), None
    except (OSError, ValueError) as exc:
        if secret is not None:
            raise
        return b"", exc
