"""Remnants: the connections that a broken engine leaves, over which the survivors can still talk.

Nobody knows where in its stream a peer has stopped when it learned of a loss.  Whatever it says from then on begins with a
marker, 32 bytes that only the ranks of a session know; everything else is dropped.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from enum import IntEnum
from select import POLLIN, POLLOUT, poll
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ..deadline import Deadline

if TYPE_CHECKING:
    import socket

    from ..transport.pair import Pair

__all__ = ["MARKER_NBYTES", "Remnants", "Said", "Word", "next_marker"]

MARKER_NBYTES = 32

_HEAD = Struct("<BxxxI")

# Looked at in one call; what of it is no word is dropped.
_PEEK_NBYTES = 65536

# How long to wait for input while something is still to be sent.
_PAUSE_SECONDS = 1e-3


def next_marker(marker: bytes, ranks: Sequence[int]) -> bytes:
    """The marker of those that go on: words of the old ones mean nothing to them."""
    from hashlib import sha256

    return sha256(marker + repr(ranks).encode()).digest()


class Said(IntEnum):
    """Kinds of words."""

    VIEW = 1
    """Who is alive, as far as the sender knows at the begin of a round."""
    DECIDED = 2
    """Who goes on; nothing else follows."""


class Word(NamedTuple):
    """What survivors tell each other.

    Attributes
    ----------
    kind : Said
    round : int
    view : int
        A bit for each rank, the lowest for rank 0.
    """

    kind: Said
    round: int
    view: int


class Remnants:
    """What is left of an engine's connections.

    Parameters
    ----------
    pairs : iterable of Pair
        What waits in them, an abort at least, is still to be sent.
    marker : bytes
    size : int
        Ranks of the engine.
    deadline : Deadline
        For sending what waits.  A pair that has not sent all by then is closed: its peer must not wait for the rest.

    Attributes
    ----------
    sockets : dict of int to socket
        By rank, once it is awake; those whose stream has ended are in `gone` too.
    gone : set of int
    words : dict of int to deque of Word
        By rank: what has come and was not taken yet.
    """

    def __init__(self, pairs: Iterable[Pair], marker: bytes, size: int, deadline: Deadline) -> None:
        self._marker = marker
        self._view_nbytes = (size + 7) // 8
        self._word_nbytes = MARKER_NBYTES + _HEAD.size + self._view_nbytes
        self._unsent: dict[int, bytearray] = {}
        self._unread: dict[int, bytes] = {}
        self._over: set[int] = set()  # what comes from these is for the engine that comes after
        self._asleep: dict[int, int] = {}  # descriptors by rank, between the end of the engine and `wake`
        self.gone: set[int] = set()
        self.sockets: dict[int, socket.socket] = {}
        self.words: dict[int, deque[Word]] = {}
        for pair in pairs:
            if pair.sock is not None:
                self.sockets[pair.rank] = pair.sock
                self.words[pair.rank] = deque()
        self._settle([pair for pair in pairs if pair.sock is not None], deadline)

    def _settle(self, pairs: list[Pair], deadline: Deadline) -> None:
        sending = [pair for pair in pairs if pair.flush() or pair.sending]
        while sending and not deadline.expired():
            self.listen(_PAUSE_SECONDS)  # peers that cannot send to us cannot hear us either
            for pair in sending:
                pair.flush()
            sending = [pair for pair in sending if pair.sending and pair.rank not in self.gone]
        for pair in pairs:
            sock = pair.detach()
            if pair in sending:
                del self.words[pair.rank]
                sock.close()
            else:
                # Descriptors: sockets that are collected together with the Context might complain before it closes them.
                self._asleep[pair.rank] = sock.detach()
        self.sockets.clear()

    def wake(self) -> None:
        """Make sockets of what is left, to talk and listen."""
        import socket

        self.sockets = {rank: socket.socket(fileno=fd) for rank, fd in self._asleep.items()}
        self._asleep.clear()
        for rank, sock in self.sockets.items():
            sock.setblocking(False)
            while self._unread.get(rank) and rank not in self._over and self._read(rank):
                pass

    def say(self, rank: int, word: Word) -> None:
        """Tell a rank, now or in `listen`."""
        packed = self._marker + _HEAD.pack(word.kind, word.round) + word.view.to_bytes(self._view_nbytes, "little")
        self._unsent.setdefault(rank, bytearray()).extend(packed)
        self._send(rank)

    def _send(self, rank: int) -> None:
        unsent = self._unsent[rank]
        try:
            del unsent[: self.sockets[rank].send(unsent)]
        except BlockingIOError:
            return
        except OSError:
            unsent.clear()  # its end will be read
        if not unsent:
            del self._unsent[rank]

    @property
    def unsent(self) -> set[int]:
        """Ranks that have not been told all yet."""
        return set(self._unsent) - self.gone

    def listen(self, seconds: float | None) -> None:
        """Wait for something to come, up to `seconds`, and take it; send what waits."""
        waiting = poll()
        rank_of = {}
        for rank, sock in self.sockets.items():
            wanted = (POLLOUT if rank in self._unsent else 0) | (0 if rank in self._over else POLLIN)
            if wanted and rank not in self.gone:
                rank_of[sock.fileno()] = rank
                waiting.register(sock, wanted)
        for fd, event in waiting.poll(None if seconds is None else seconds * 1000):
            rank = rank_of[fd]
            if event & POLLOUT and rank in self._unsent:
                self._send(rank)
            if event & ~POLLOUT and rank not in self._over:
                self._read(rank)

    def unread(self, rank: int, data: bytes) -> None:
        """Keep bytes that the engine has received behind what has broken it."""
        if rank in self._asleep:
            self._unread[rank] = data + self._unread.get(rank, b"")

    def _read(self, rank: int) -> bool:
        """Take what has come from a rank, up to the end of a word; return whether it was one."""
        import socket

        sock, before = self.sockets[rank], self._unread.get(rank, b"")
        ended = False
        try:
            fresh = sock.recv(_PEEK_NBYTES, socket.MSG_PEEK)
            ended = not fresh
        except BlockingIOError:
            fresh = b""
        except OSError:
            fresh, ended = b"", True
        seen = before + fresh
        start = seen.find(self._marker)
        if start < 0:
            start = max(0, len(seen) - MARKER_NBYTES + 1)  # the last bytes may be the begin of a marker
            complete = False
        else:
            complete = len(seen) - start >= self._word_nbytes
        # Not a byte more than the word: what follows is for the engine that comes after.
        taken = start + self._word_nbytes if complete else len(seen)
        self._unread[rank] = before[taken:] if complete else seen[start:]
        if taken > len(before):
            sock.recv(taken - len(before))
        if complete:
            packed = seen[start + MARKER_NBYTES : taken]
            kind, number = _HEAD.unpack_from(packed)
            view = int.from_bytes(packed[_HEAD.size :], "little")
            self.words[rank].append(Word(Said(kind), number, view))
            if kind == Said.DECIDED:
                self._over.add(rank)
        elif ended:
            self.gone.add(rank)
        return complete

    def take(self, ranks: Iterable[int]) -> list[socket.socket]:
        """Hand over the sockets of some ranks, which are the caller's now; close the others."""
        taken = [self.sockets.pop(rank) for rank in ranks]
        self.close()
        return taken

    def close(self) -> None:
        """Close what is left."""
        for fd in self._asleep.values():
            os.close(fd)
        self._asleep.clear()
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()
