"""What goes on beside the operations of a run: messages parked on a dup, several threads, ranks that only send."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from gloompi import ANY_SOURCE, Context, Request

from .traffic_mix import Operation, WrongResult, perform

__all__ = ["DRAWS", "NAMES", "Side"]

DRAWS = {"parked": ("park", "collect"), "threads": ("threads", "listener"), "senders": ("stream",)}
"""Names of operations, by what is drawn."""

NAMES = frozenset(name for names in DRAWS.values() for name in names)

# Bytes of a message that is parked: sent at once, at most sent at once, announced or read in memory.
_PARKED_NBYTES = (0, 100, 10_000, 256 * 1024, 300_000, 1_000_000)
_MOST_PARKED_NBYTES, _MOST_PARKED = 4 * 1024 * 1024, 40

# What threads do, and each of them how often; items of their arrays at most.
_IN_THREADS = ("allreduce", "allgather", "barrier", "messages", "objects", "ring")
_CALLS, _MOST_ITEMS = 3, 10_000

# What each rank sends to each listener.
_TO_LISTENER = 20

# Items of a message of a stream.
_STREAMED = 100

# Tags of what is received from anybody: others may be ahead, in operations that have small tags.
_TAG = 1_000_000


class _Parcel(NamedTuple):
    source: int
    dest: int
    tag: int
    nbytes: int

    def content(self) -> np.ndarray:
        return ((np.arange(self.nbytes) + self.tag + 7 * self.source) % 251).astype(np.uint8)


class Side:
    """The Contexts of a rank beside its own, and what is parked on one of them.

    Parameters
    ----------
    ctx : Context
    stack : ExitStack
        Closes what is made here.
    """

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self._ctx = ctx
        self._parking, self._first, self._second = (stack.enter_context(ctx.dup()) for _ in range(3))
        self._parked: list[_Parcel] = []
        self._sends: list[Request] = []

    def perform(self, operation: Operation, seconds: float) -> None:
        """Do an operation of `NAMES`; a stream lasts `seconds`.

        Raises
        ------
        WrongResult
        """
        if operation.name == "stream":
            self._stream(operation, seconds)
        else:
            getattr(self, f"_{operation.name}")(operation)

    def finish(self) -> None:
        """Receive what is still parked."""
        self._collect()

    # -- parked messages -------------------------------------------------------------------------------------------------

    def _park(self, operation: Operation) -> None:
        """Send what nobody receives for now."""
        ctx = self._parking
        for rank in range(ctx.size):
            for parcel in _parcels(operation, rank, ctx.size):
                if rank == ctx.rank:
                    self._sends.append(ctx.isend(parcel.content(), parcel.dest, tag=parcel.tag))
                if parcel.dest == ctx.rank:
                    self._parked.append(parcel)

    def _collect(self, operation: Operation | None = None) -> None:
        """Receive all that was parked, in any order."""
        parked, sends = self._parked, self._sends
        self._parked, self._sends = [], []
        random.Random(len(parked)).shuffle(parked)
        for parcel in parked:
            out = np.empty(parcel.nbytes, np.uint8)
            self._parking.recv(out, parcel.source, tag=parcel.tag)
            if not np.array_equal(out, parcel.content()):
                raise WrongResult(f"{parcel} was parked, and something else has come")
        for request in sends:
            request.wait()

    # -- threads ---------------------------------------------------------------------------------------------------------

    def _threads(self, operation: Operation) -> None:
        """Two threads on a dup each, and this one on the rank's own Context."""
        works = [
            lambda ctx=ctx, number=number: _work(ctx, operation, number)
            for number, ctx in enumerate((self._first, self._second, self._ctx))
        ]
        _together(works)

    def _listener(self, operation: Operation) -> None:
        """A thread that receives, beside this one, which sends over the same dup and calls on another."""
        ctx, tag = self._first, _TAG + operation.index

        def listen() -> None:
            heard = [0] * ctx.size
            for _ in range(_TO_LISTENER * (ctx.size - 1)):
                out = np.empty(2)
                status = ctx.recv(out, ANY_SOURCE, tag=tag)
                if out.tolist() != [status.source, heard[status.source]]:
                    raise WrongResult(f"the listener of rank {ctx.rank} got {out} from rank {status.source}")
                heard[status.source] += 1

        def talk() -> None:
            for number in range(_TO_LISTENER):
                for dest in range(ctx.size):
                    if dest != ctx.rank:
                        ctx.send(np.array([ctx.rank, number], float), dest, tag=tag)
                if number == _TO_LISTENER // 2:
                    _work(self._ctx, operation, 0)

        _together([listen, talk])

    # -- ranks that only send --------------------------------------------------------------------------------------------

    def _stream(self, operation: Operation, seconds: float) -> None:
        """All others send to the root for a while, and make no other call."""
        ctx, tag = self._first, _TAG + operation.index
        if ctx.rank != operation.root:
            until, number = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                ctx.send(np.full(_STREAMED, float(number)), operation.root, tag=tag)
                number += 1
            ctx.send(np.full(_STREAMED, -1.0), operation.root, tag=tag)
            return
        heard = dict.fromkeys(set(range(ctx.size)) - {ctx.rank}, 0)
        out = np.empty(_STREAMED)
        while heard:
            source = ctx.recv(out, ANY_SOURCE, tag=tag).source
            if out[0] == -1:
                del heard[source]
            elif not np.array_equal(out, np.full(_STREAMED, float(heard[source]))):
                raise WrongResult(f"{out[0]} of rank {source}'s stream came instead of {heard[source]}")
            else:
                heard[source] += 1


def _parcels(operation: Operation, source: int, size: int) -> list[_Parcel]:
    """What a rank parks, the same wherever it is asked for."""
    draw = random.Random(f"{operation} {source}")
    found: list[_Parcel] = []
    left = _MOST_PARKED_NBYTES
    for number in range(draw.randint(1, _MOST_PARKED)):
        nbytes = min(draw.choice(_PARKED_NBYTES), left)
        left -= nbytes
        found.append(_Parcel(source, draw.randrange(size), operation.index * _MOST_PARKED + number, nbytes))
    return found


def _work(ctx: Context, operation: Operation, number: int) -> None:
    """Some operations on one Context."""
    draw = random.Random(f"{operation} {number}")
    for index in range(_CALLS):
        name, root = draw.choice(_IN_THREADS), draw.randrange(ctx.size)
        perform(ctx, Operation(name, index, min(operation.count, _MOST_ITEMS), root, operation.op))


def _together(works: list[Callable[[], None]]) -> None:
    """Do the last of them here and the others in threads; raise what the first of them has failed with."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(work,)) for work in works[:-1]]
    for thread in threads:
        thread.start()
    run(works[-1])
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
