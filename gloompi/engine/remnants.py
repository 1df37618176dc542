"""Remnants: the connections that a broken engine leaves, over which the survivors can still talk.

Nobody knows where in its stream a peer has stopped when it learned of a loss.  What it says from then on are words: frames
with a marker in place of the fingerprint, 32 bytes that only the ranks of a session know.  Everything else is dropped.
An abort bears the marker too: a peer that has sent one takes nothing but words any more.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from select import POLLIN, POLLOUT, poll
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from ..deadline import Deadline
from ..transport.abort import is_delivered, linger
from ..transport.frames import HEADER_NBYTES, Kind, pack_header, unpack_header
from ..transport.link import Link, Sink
from ..transport.liveness import Vigil
from ..transport.pair import STAGING_NBYTES, Pair

if TYPE_CHECKING:
    import socket

    from ..transport.tls import Encrypted

__all__ = ["Remnants", "Word", "next_marker"]

# Taken in one call of what may not be a word.
_ROOM_NBYTES = 65536

# How long to wait until a last word has arrived.
_LAST_SECONDS = 0.5

# How long to wait for input while something is still to be sent.
_PAUSE_SECONDS = 1e-3


def next_marker(marker: bytes, ranks: Sequence[int]) -> bytes:
    """The marker of those that go on: words of the old ones mean nothing to them."""
    from hashlib import sha256

    return sha256(marker + repr(ranks).encode()).digest()


class Word(NamedTuple):
    """What survivors tell each other.

    Attributes
    ----------
    kind : int
        ``Kind.VIEW``: who is alive, as far as the sender knows at the begin of a round.  ``Kind.DECIDED``: who goes on;
        after that it is the next engine that speaks.
    round : int
    view : int
        A bit for each rank, the lowest for rank 0.
    """

    kind: int
    round: int
    view: int

    def pack(self, marker: bytes, view_nbytes: int) -> bytes:
        view = self.view.to_bytes(view_nbytes, "little")
        check = crc32(view, self.round)
        return pack_header(self.kind, check, self.round, view_nbytes, marker) + view

    @classmethod
    def unpack(cls, packed: bytes) -> Word | None:
        """The word that these bytes are, or None if they were damaged on their way."""
        _, kind, check, number, nbytes, _ = unpack_header(packed, 0)
        view = packed[HEADER_NBYTES:]
        if kind not in (Kind.VIEW, Kind.DECIDED) or nbytes != len(view) or check != crc32(view, number & 0xFFFFFFFF):
            return None
        return cls(kind, number, int.from_bytes(view, "little"))


class _Scanner:
    """The sink of all that a peer still sends; calls `told` with each word, `aborted` where it comes across an abort.

    Until the first word it takes all that there is.  Then words follow each other, and it takes not a byte more than the
    next one has: behind the last comes what is for the next engine.
    """

    __slots__ = ("_aborted", "_began", "_held", "_marker", "_room", "_told", "_word_nbytes")

    def __init__(
        self,
        marker: bytes,
        word_nbytes: int,
        room: memoryview,
        told: Callable[[bytes], None],
        aborted: Callable[[], None],
    ) -> None:
        self._marker = marker
        self._word_nbytes = word_nbytes
        self._room = room
        self._told = told
        self._aborted = aborted
        self._held = b""
        self._began = False

    def feed(self, data: memoryview) -> None:
        held = self._held + data
        while (marker := held.find(self._marker)) >= 0:
            start = max(0, marker - HEADER_NBYTES + len(self._marker))
            if len(held) >= start + HEADER_NBYTES and unpack_header(held, start)[1] == Kind.ABORT:
                held = held[start + HEADER_NBYTES :]
                self._aborted()
                continue
            if len(held) < start + self._word_nbytes:
                held = held[start:]
                break
            packed, held = held[start : start + self._word_nbytes], held[start + self._word_nbytes :]
            self._began = True
            self._told(packed)
        else:
            held = held[-HEADER_NBYTES + 1 :]  # the begin of a word, perhaps
        self._held = held

    def window(self) -> memoryview:
        return self._room[: self._word_nbytes - len(self._held)] if self._began else self._room

    def advance(self, nbytes: int) -> None:
        self.feed(self._room[:nbytes])

    def finish(self) -> None:
        """There is no end but that of the stream."""


def _ended() -> socket.socket:
    """A stream that has ended."""
    import socket

    near, far = socket.socketpair()
    far.close()
    near.setblocking(False)
    return near


class Remnants:
    """What is left of an engine's connections.

    Parameters
    ----------
    pairs : iterable of Pair
        What waits in them, an abort at least, is still to be sent.
    marker : bytes
    size : int
        Ranks of the engine.

    Attributes
    ----------
    gone : set of int
        Whose streams have ended.
    words : dict of int to deque of Word
        By rank: what has come and was not taken yet.
    heard : set of int
        Who has said anything.
    """

    def __init__(self, pairs: Iterable[Pair], marker: bytes, size: int) -> None:
        self._marker = marker
        self._view_nbytes = (size + 7) // 8
        self._pairs = {pair.rank: pair for pair in pairs if pair.sock is not None}
        self._asleep = False
        self._vigil = Vigil()
        self.gone: set[int] = set()
        self.heard: set[int] = set()
        self.words: dict[int, deque[Word]] = {rank: deque() for rank in self._pairs}
        self._unread: set[int] = set()  # nothing is read from these: they have decided
        room, staging = memoryview(bytearray(_ROOM_NBYTES)), memoryview(bytearray(STAGING_NBYTES))
        for rank, pair in list(self._pairs.items()):
            told, aborted = partial(self._take, rank), partial(self._cut, rank)
            scanner = _Scanner(marker, HEADER_NBYTES + self._view_nbytes, room, told, aborted)
            if pair.aborted:
                pair.cut()
            pair.divert(self, scanner, staging)
            pair.catch_up()

    def settle(self, deadline: Deadline) -> None:
        """Send what waits, and go to sleep: sockets that are collected with their Context would complain.

        A pair that has not sent all by `deadline` is closed: its peer must not wait for the rest.  Except those whose peers
        have aborted: they wait for nothing, and may have ceased to read.
        """
        for pair in list(self._pairs.values()):
            pair.flush()
        while not deadline.expired():
            if all(self._settled(pair) for pair in self._pairs.values()):
                break
            self.listen(_PAUSE_SECONDS)  # peers that cannot send to us cannot hear us either
        for rank, pair in list(self._pairs.items()):
            if pair.cut_short or (pair.sending and not pair.aborted):
                del self._pairs[rank]
                pair.close()
            else:
                pair.sleep()
        self._asleep = True

    def _settled(self, pair: Pair) -> bool:
        """Whether there is nothing to wait for: the peer has been told, or has broken its side too and waits for nothing."""
        return pair.aborted or pair.rank in self._unread or pair.cut_short or (not pair.sending and is_delivered(pair))

    def wake(self) -> None:
        """Begin to talk and to listen."""
        self._asleep = False
        for pair in list(self._pairs.values()):
            pair.wake()
        for pair in list(self._pairs.values()):
            pair.catch_up()

    @property
    def ranks(self) -> set[int]:
        """Those that are connected."""
        return set(self._pairs)

    @property
    def unsent(self) -> set[int]:
        """Ranks that have not been told all yet."""
        return {rank for rank, pair in self._pairs.items() if pair.sending}

    def say(self, rank: int, word: Word) -> None:
        """Tell a rank, now or in `listen`."""
        self._pairs[rank].write(word.pack(self._marker, self._view_nbytes))

    def listen(self, seconds: float) -> None:
        """Wait for something to come, up to `seconds`, and take it; send what waits."""
        waiting = poll()
        served = {}
        for rank, pair in list(self._pairs.items()):
            if pair.shortage:  # it would be ready all the time
                pair.flush()
                seconds = min(seconds, _PAUSE_SECONDS)
            wanted = (POLLOUT if pair.sending and not pair.shortage else 0) | (0 if rank in self._unread else POLLIN)
            if wanted:
                served[pair.fd] = pair
                waiting.register(pair.fd, wanted)
        for fd, event in waiting.poll(seconds * 1000):
            pair = served[fd]
            if event & POLLOUT:
                pair.flush()
            if event & ~POLLOUT and pair.rank not in self._unread:
                pair.receive()
        if monotonic() >= self._vigil.due:
            # Only the rank that was the first to miss a host has closed the connection; the others heard of it too soon.
            for pair, reason in self._vigil.look(list(self._pairs.values())):
                self.lost(pair, reason, None)

    def _cut(self, rank: int) -> None:
        pair = self._pairs.get(rank)
        if pair is not None:
            pair.aborted = True
            pair.cut()

    def _take(self, rank: int, packed: bytes) -> None:
        if rank not in self._pairs:
            return  # an earlier word in the same piece was damaged
        word = Word.unpack(packed)
        if word is None:
            self.lost(self._pairs[rank], "a damaged word", None)
            return
        self.heard.add(rank)
        self.words[rank].append(word)
        if word.kind == Kind.DECIDED:
            self._unread.add(rank)
            self._pairs[rank].pause()

    def take(self, ranks: Iterable[int]) -> list[socket.socket | Encrypted]:
        """Hand over the connections to some ranks, which are the caller's now; close the others.

        A rank that has gone meanwhile is gone for the caller, too: its stream has ended.
        """
        taken = [self._pairs.pop(rank).detach() if rank in self._pairs else _ended() for rank in ranks]
        self.close()
        return taken

    def close(self) -> None:
        """Close what is left, and let those who are awake hear the last word: without it they would go on alone."""
        try:
            if not self._asleep:
                linger(self._pairs.values(), Deadline(_LAST_SECONDS))
        finally:
            self.forsake()

    def forsake(self) -> None:
        """Close what is left without a word: in a forked child it is the parent's to say any."""
        while self._pairs:
            self._close(self._pairs.popitem()[1])

    def _close(self, pair: Pair) -> None:
        if pair.sock is None or pair.sock.fileno() < 0:  # asleep, or it was interrupted in going to sleep
            os.close(pair.fd)
        else:
            pair.close()

    # -- what pairs report -----------------------------------------------------------------------------------------------

    def frame(self, link: Link, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Nothing is taken for a frame any more."""
        raise AssertionError(f"a frame of kind {kind} from rank {link.rank}, whose connection is diverted")

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        self.gone.add(pair.rank)
        if self._pairs.pop(pair.rank, None) is not None:
            self._close(pair)

    def failed(self, pair: Pair, reason: str, cause: OSError) -> None:
        self.lost(pair, reason, cause)

    def watch(self, pair: Pair, writing: bool) -> None:
        """`listen` looks by itself."""

    def hold(self, pair: Pair) -> None:
        """`listen` looks by itself."""
