"""Exchange over a Store: each rank sets a key, each rank reads all of them in one round trip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from ..deadline import Deadline
from ..errors import RendezvousError, readable, summary
from ..foreign import plain
from ..stores.bounded import within
from ..stores.prefix import PrefixStore
from ..stores.store import Store, looks
from .agreement import MAX_TEXT, agree, earlier_run, forget, forget_trace, missing_ranks
from .exchange import Exchange
from .local import local_exchanges
from .signing import Signed

__all__ = ["exchange_through"]

_log = logging.getLogger("gloompi")

_WATCH_SECONDS = 0.1
# A rendezvous takes two rounds and the doctor a few more: so many are looked for of a run that was killed.
_ROUNDS = 8
# In one request: a trace that somebody else has left may name any number of ranks.
_CLEARED_RANKS = 250


@contextmanager
def exchange_through(store: Store, rank: int, size: int, secret: bytes, deadline: Deadline) -> Iterator[Exchange]:
    """An exchange through `store`; nothing of it stays there if no rank dies.

    Parameters
    ----------
    secret : bytes
        Signs the records, so that who can only write to the store cannot join; empty to trust the store.

    Raises
    ------
    RendezvousError
        Not all ranks came before the deadline, another process has the same rank, or the store cannot be reached.
    """
    if size == 1:
        yield local_exchanges(1)[0]
        return
    if rank == 0:
        _warn_of_others(store, bool(secret))
    exchange = _StoreExchange(PrefixStore("gloompi", store), rank, size)
    reason = ""
    with within(deadline):
        try:
            session = exchange.open(deadline)
            yield Signed(exchange, secret, f"{_name_space(store)} {session}".encode())
        except RendezvousError:
            raise  # the others have it too, or will have one that says as much
        except BaseException as exc:
            reason = summary(exc)
            raise
        finally:
            exchange.leave(reason)


_told: set[type[Store]] = set()


def _warn_of_others(store: Store, signed: bool) -> None:
    """Say once for each kind of store what others can do where the ranks, or the store, have no secret."""
    kind, inner = type(store), store
    while isinstance(inner, PrefixStore):
        inner = inner._store
        kind = type(inner)
    if kind in _told or not (inner._unguarded if signed else inner._exposed):
        return
    _told.add(kind)
    if signed:
        _log.warning(
            "the ranks have a secret, %r has none: %s can keep the ranks from meeting; give it the same (%s)",
            inner,
            inner._exposed,
            inner._unguarded,
        )
        return
    _log.warning(
        "the ranks have no secret, and meet in %r: %s can pose as a rank, rank 0 too, read and change what the ranks "
        "send each other, and execute code on them, because they unpickle what ranks send; give all ranks a secret "
        "(GLOOMPI_SECRET_FILE, secret=), or let them meet in a folder of yours (file:///...)",
        inner,
        inner._exposed,
    )


class _StoreExchange:
    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store = store
        self._session = ""
        self._round = 0

    def open(self, deadline: Deadline) -> str:
        """Agree with the other ranks on a session; return it."""
        store, rank = self._store, self.rank
        earlier = earlier_run(store, rank)
        if earlier is not None:
            _log.debug("rank %d: clearing up after an earlier run of %d ranks in %r", rank, earlier[1], store)
            self._clear_up(earlier[0], _ROUNDS, earlier[1], deadline)
        self._session = agree(store, rank, self.size, deadline)
        store._met()
        _log.debug("rank %d of %d: session agreed on in %r", rank, self.size, store)
        return self._session

    def _clear_up(self, session: str, rounds: int, size: int, deadline: Deadline) -> None:
        others = [f"{session}/left", f"{session}/gone"]
        for start in range(0, max(size, 1), _CLEARED_RANKS):
            if deadline.expired():
                return
            ranks = range(start, min(start + _CLEARED_RANKS, size))
            self._store.delete([f"{session}/{number}/{peer}" for number in range(rounds) for peer in ranks] + others)
            others = []

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        number, self._round = self._round, self._round + 1
        self._store.set(f"{self._session}/{number}/{self.rank}", record)
        found = {self.rank: record}
        watched = monotonic()
        for _ in looks(deadline):
            missing = [peer for peer in range(self.size) if peer not in found]
            keys = [f"{self._session}/{number}/{peer}" for peer in missing]
            gone, *values = self._store.peek([f"{self._session}/gone", *keys])
            found.update((peer, value) for peer, value in zip(missing, values, strict=True) if value is not None)
            if len(found) == self.size:
                return [found[peer] for peer in range(self.size)]
            if gone is not None:
                raise RendezvousError(plain(gone.decode(errors="replace"), MAX_TEXT))
            if monotonic() - watched >= _WATCH_SECONDS:
                watched = monotonic()
                watch()
        missing = [peer for peer in range(self.size) if peer not in found]
        raise RendezvousError(
            f"{missing_ranks(missing, self.size)} not got through the rendezvous within {deadline.timeout or 0:.1f} s; "
            f"late (connect_timeout) or dead"
        )

    def leave(self, reason: str) -> None:
        """Tell the others if this rank gives up; clean up; the last rank to leave deletes what all had to read."""
        store, session = self._store, self._session
        try:
            if reason and session:
                store.set(f"{session}/gone", readable(f"rank {self.rank} gave up: {reason}").encode())
            forget(store, self.rank)
            if session and store.add(f"{session}/left", 1) == self.size:
                # A rank that failed early has seen fewer rounds than others may have.
                self._clear_up(session, max(self._round, _ROUNDS), self.size, Deadline(None))
            forget_trace(store, self.rank, session, self.size)
        except Exception as exc:  # a store of the user's may raise anything
            # The rendezvous has ended, well or not, and that is what the caller has to hear.
            _log.log(logging.WARNING if session else logging.DEBUG, "rank %d left keys in %r: %s", self.rank, store, exc)


def _name_space(store: Store) -> str:
    """The prefixes of a store, which have the job's name among them."""
    prefixes = ""
    while isinstance(store, PrefixStore):
        prefixes = store._prefix + prefixes
        store = store._store
    return prefixes
