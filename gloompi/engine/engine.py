"""The Engine: messages between this rank and all others, over one Pair each.

Caller-driven: bytes move only inside calls, but then on every connection, so that a blocked send also takes what comes
in, and an abort from any peer is seen by whoever is waiting.

How a message travels: up to `EAGER_NBYTES` it is sent at once, as long as the peer has granted credit for it; its peer
keeps it until a receive matches.  A larger message, or one without credit, is announced, and sent when the receive that
matches it clears it.  The receiver of a large message of a collective knows that it comes and clears it in advance.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline
from ..errors import ContextClosedError, GloompiError, MismatchError, OperationTimeoutError, PeerLostError
from ..transport.frames import HEADER_NBYTES, NO_FINGERPRINT, Kind, pack_header
from ..transport.pair import STAGING_NBYTES, Link, Loopback, Pair, Sink
from .channel import Channel, Disagreement
from .farewell import MAX_ABORT_NBYTES, Abort, abort_frame, linger
from .fingerprint import describe, same_items
from .matching import Arrival
from .operation import DONE, Operation, Receive, Scratch, Send, Steps
from .polling import Poller
from .task import Task, peer_of

if TYPE_CHECKING:
    import socket

    from ..transport.endpoint import Peer

__all__ = ["EAGER_NBYTES", "Engine"]

_log = logging.getLogger("gloompi")

# Messages up to this size go out without asking. Asking costs a round trip; not asking costs the receiver a copy where
# its receive is late.
EAGER_NBYTES = 64 * 1024

# What a peer may have sent without asking that no receive has matched: bounds the memory for early messages to this
# much per peer, headers included.
CREDIT_NBYTES = 1024 * 1024

# How long a rank whose Context breaks tries to tell its peers.
_TELL_SECONDS = 0.5

# A rank that has waited this long within a collective asks whether its peers are in the same call.
_ASK_SECONDS = 0.05

_MESSAGE, _ANNOUNCE, _CLEAR, _DATA = Kind.MESSAGE, Kind.ANNOUNCE, Kind.CLEAR, Kind.DATA
# What one rank sees of another's clean exit, if it still needs it.
_CLOSED = "it closed its Context while this rank still needed it"

_alive: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """All connections of one rank.

    Parameters
    ----------
    rank : int
    peers : list of Peer
        In rank order, this rank included.
    sockets : list of socket or None
        In rank order, connected and authenticated; None for this rank.  The engine owns them.
    crowded, shared : bool
        See `Poller`.

    Attributes
    ----------
    error : GloompiError or None
        What broke the engine; every later use raises it.
    scratch : Scratch
    """

    def __init__(
        self,
        rank: int,
        peers: list[Peer],
        sockets: list[socket.socket | None],
        *,
        crowded: bool = False,
        shared: bool = False,
    ) -> None:
        self.rank = rank
        self.size = len(peers)
        self.peers = tuple(peers)
        self.error: GloompiError | None = None
        self.scratch = Scratch()
        self.ready: deque[Task] = deque()
        self._turn = threading.Lock()
        self._holder: threading.Thread | None = None
        self._asked = ""
        self._current: Task | None = None
        self._channels: dict[int, Channel] = {}
        self._poller = Poller(crowded, shared, self._abort_asked)
        self._suspecting = False
        self._finished = 0  # peers that have said goodbye
        staging = memoryview(bytearray(STAGING_NBYTES))
        self._links: list[Link] = []
        for peer, sock in zip(peers, sockets, strict=True):
            if sock is None:
                # A rank does not run out of credit with itself: it would have to ask itself for more.
                self._links.append(Loopback(peer, self, CREDIT_NBYTES))
            else:
                pair = Pair(sock, peer, self, CREDIT_NBYTES, staging)
                self._poller.add(pair)
                self._links.append(pair)
        _alive.add(self)

    # -- what collectives and messages are made of ------------------------------------------------------------------

    def channel(self, number: int) -> Channel:
        """Return the channel with this number; odd ones are for collectives."""
        channel = self._channels.get(number)
        if channel is None:
            channel = self._channels[number] = Channel(number, collective=bool(number & 1))
        return channel

    def begin(self, channel: Channel, fingerprint: bytes) -> int:
        """Number the next collective call of a channel, and compare it with what has come for it already."""
        try:
            return channel.begin(fingerprint)
        except Disagreement as exc:
            self._disagree(exc)
            raise self._broken() from None

    def send(self, channel: Channel, dest: int, tag: int, payload: memoryview, fingerprint: bytes) -> Operation:
        """Begin to send `payload` (bytes, contiguous), which must not change before the operation is done."""
        link = self._links[dest]
        nbytes = len(payload)
        if link.finished:
            self._lose(link, _CLOSED)
        if nbytes <= EAGER_NBYTES and link.credit >= nbytes + HEADER_NBYTES:
            link.credit -= nbytes + HEADER_NBYTES
            if link.write(pack_header(_MESSAGE, channel.id, tag, nbytes, fingerprint), payload if nbytes else None):
                return DONE
            operation = Send(channel, dest, tag, payload, fingerprint)
            link.when_taken(operation)
            return operation
        operation = Send(channel, dest, tag, payload, fingerprint)
        if (dest, tag) in channel.cleared:
            channel.cleared.discard((dest, tag))
            self._transmit(link, operation)
        else:
            channel.waiting.setdefault((dest, tag), deque()).append(operation)
            link.write(pack_header(_ANNOUNCE, channel.id, tag, nbytes, fingerprint))
        return operation

    def _transmit(self, link: Link, send: Send) -> None:
        """Send a message that the peer has cleared."""
        nbytes = len(send.payload)
        header = pack_header(_DATA, send.channel.id, send.tag, nbytes, send.fingerprint)
        if link.write(header, send.payload if nbytes else None):
            send.complete()
        else:
            link.when_taken(send)

    def receive(self, receive: Receive) -> Receive:
        """Post a receive."""
        channel = receive.channel
        if channel.collective and receive.capacity > EAGER_NBYTES:
            receive.nbytes = receive.capacity
            self._clear(receive)
        else:
            arrival = channel.matcher.post(receive)
            if arrival is not None:
                self._settle(receive, arrival)
        if not receive.done and receive.source >= 0 and self._links[receive.source].finished:
            self._lose(self._links[receive.source], _CLOSED)
        return receive

    def _settle(self, receive: Receive, arrival: Arrival) -> None:
        """Give a receive the message that was there before it."""
        if not self._accept(receive, arrival.source, arrival.tag, arrival.nbytes, arrival.fingerprint):
            return
        if arrival.payload is None:
            self._clear(receive)
            return
        link = self._links[arrival.source]
        link.consumed += arrival.nbytes + HEADER_NBYTES
        if link.consumed >= CREDIT_NBYTES // 2:
            self._grant(link)
        if arrival.complete:
            arrival.deliver(receive)
        else:
            arrival.receive = receive

    def _accept(self, receive: Receive, source: int, tag: int, nbytes: int, fingerprint: bytes) -> bool:
        """Bind a message to a receive; if they do not fit, break the engine and return False."""
        if receive.channel.collective:
            if fingerprint != receive.fingerprint or nbytes != receive.capacity:
                self._check(receive.channel, source, tag, fingerprint)
                if self.error is None:
                    self._garbled(source, f"{nbytes} bytes for a step of {receive.capacity}")
                return False
        elif nbytes > receive.capacity or not same_items(fingerprint, receive.fingerprint):
            here = f"{describe(receive.fingerprint).replace('send', 'recv', 1)} of at most {receive.capacity} bytes"
            there = f"{describe(fingerprint)} of {nbytes} bytes"
            operation = f"the message from rank {source} to rank {self.rank} with tag {tag}"
            self._fail(MismatchError(operation, self.rank, here, source, there))
            return False
        receive.source, receive.tag, receive.nbytes = source, tag, nbytes
        return True

    def _clear(self, receive: Receive) -> None:
        channel, key = receive.channel, (receive.source, receive.tag)
        channel.awaiting.setdefault(key, deque()).append(receive)
        header = pack_header(_CLEAR, channel.id, receive.tag, 0, receive.fingerprint)
        self._links[receive.source].write(header)

    def _grant(self, link: Link) -> None:
        """Let the peer send again, without asking, what its receives have taken here."""
        granted, link.consumed = link.consumed, 0
        link.write(pack_header(Kind.CREDIT, 0, 0, granted))

    # -- what arrives -------------------------------------------------------------------------------------------------

    def frame(self, pair: Link, kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Take a header; return where its payload goes, or None if none follows."""
        rank = pair.rank
        if kind == _MESSAGE:
            conversation = self._channels.get(channel) or self.channel(channel)
            receive = conversation.matcher.match(rank, tag)
            if receive is None:
                return self._early(conversation, rank, tag, nbytes, fingerprint)
            if not self._accept(receive, rank, tag, nbytes, fingerprint):
                return None
            pair.consumed += nbytes + HEADER_NBYTES
            if pair.consumed >= CREDIT_NBYTES // 2:
                self._grant(pair)
            return receive
        if kind == _DATA:
            return self._data(rank, self.channel(channel), tag, nbytes, fingerprint)
        if kind == _CLEAR:
            self._cleared(pair, self.channel(channel), tag, fingerprint)
        elif kind == _ANNOUNCE:
            self._announced(rank, self.channel(channel), tag, nbytes, fingerprint)
        elif kind == Kind.WAITING:
            self._check(self.channel(channel), rank, tag, fingerprint)
        elif kind == Kind.CREDIT:
            pair.credit += nbytes
        elif kind == Kind.GOODBYE:
            pair.finished = True
            self._finished += 1
            if any(channel.involves(rank) for channel in self._channels.values()):
                self._lose(pair, _CLOSED)
        elif kind == Kind.ABORT and 0 < nbytes <= MAX_ABORT_NBYTES:
            return Abort(rank, nbytes, self._fail)
        else:
            self._garbled(rank, f"a frame of kind {kind} with {nbytes} bytes")
        return None

    def _early(self, channel: Channel, rank: int, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        """Keep a message that no receive waits for."""
        if nbytes > EAGER_NBYTES:
            self._garbled(rank, f"{nbytes} bytes without asking; {EAGER_NBYTES} are the limit")
            return None
        if channel.collective:
            self._check(channel, rank, tag, fingerprint)
            if self.error is not None:
                return None
        arrival = Arrival(rank, tag, nbytes, fingerprint, announced=False)
        channel.matcher.keep(arrival)
        return arrival

    def _data(self, rank: int, channel: Channel, tag: int, nbytes: int, fingerprint: bytes) -> Sink | None:
        queue = channel.awaiting.get((rank, tag))
        if queue is None or queue[0].nbytes != nbytes:
            self._check(channel, rank, tag, fingerprint)
            if self.error is None:
                self._garbled(rank, f"{nbytes} bytes that nothing was cleared for")
            return None
        receive = queue.popleft()
        if not queue:
            del channel.awaiting[rank, tag]
        if channel.collective and fingerprint != receive.fingerprint:
            self._check(channel, rank, tag, fingerprint)
            return None
        return receive

    def _cleared(self, link: Link, channel: Channel, tag: int, fingerprint: bytes) -> None:
        key = (link.rank, tag)
        queue = channel.waiting.get(key)
        if channel.collective:
            self._check(channel, link.rank, tag, fingerprint)
        if queue is None:
            channel.cleared.add(key)
            return
        send = queue.popleft()
        if not queue:
            del channel.waiting[key]
        self._transmit(link, send)

    def _announced(self, rank: int, channel: Channel, tag: int, nbytes: int, fingerprint: bytes) -> None:
        if channel.collective:
            self._check(channel, rank, tag, fingerprint)
            if nbytes > EAGER_NBYTES:
                return  # its receive clears it, or has done so, without being asked
        receive = channel.matcher.match(rank, tag)
        if receive is None:
            channel.matcher.keep(Arrival(rank, tag, nbytes, fingerprint, announced=True))
        elif self._accept(receive, rank, tag, nbytes, fingerprint):
            self._clear(receive)

    def watch(self, pair: Pair, writing: bool) -> None:
        self._poller.watch(pair, writing)

    # -- progress -----------------------------------------------------------------------------------------------------

    def take_turn(self, deadline: Deadline, what: str) -> None:
        """Become the one thread that uses the engine; `give_turn` ends it.

        Raises
        ------
        OperationTimeoutError
            Another thread kept the engine for all of the budget.
        GloompiError
            The engine is broken or closed.
        RuntimeError
            This thread is in an operation already.
        """
        if not self._turn.acquire(blocking=False):
            if self._holder is threading.current_thread():
                raise RuntimeError(
                    f"{what} was called from within {self._label()} on the same Context, by a signal handler or an op"
                )
            remaining = deadline.remaining()
            if not self._turn.acquire(timeout=-1 if remaining is None else remaining):
                assert deadline.timeout is not None
                holder = self._holder.name if self._holder is not None else "?"
                reason = f"thread {holder!r} is in {self._label()} on the same Context, which serves one at a time"
                raise OperationTimeoutError(what, deadline.timeout, reason)
        self._holder = threading.current_thread()
        if self.error is not None:
            self.give_turn()
            raise self._broken()

    def give_turn(self) -> None:
        self._holder = None
        self._turn.release()

    def start(self, name: str, begin: Callable[[], tuple[Steps, int]], finish: Callable[[], Any]) -> Task:
        """Begin an algorithm and run it as far as it gets without waiting; `finish` makes its result."""
        try:
            steps, number = begin()
            self._current = task = Task(steps, name, number, finish, self.ready)
            task.advance()
        except BaseException as exc:
            self._interrupted(exc)
            raise
        return task

    def test(self, task: Task) -> bool:
        """Move what can be moved without waiting; return whether the task is done."""
        self._current = task
        try:
            while not task.done and self.error is None and self._move():
                pass
        except BaseException as exc:
            self._interrupted(exc)
            raise
        if not task.done and self.error is not None:
            raise self._broken()
        return task.done

    def wait(self, task: Task, deadline: Deadline) -> None:
        """Move bytes until the task is done.

        Raises
        ------
        OperationTimeoutError
            The budget is spent.  The engine is broken then, like after every error here.
        PeerLostError, MismatchError, ContextClosedError
        """
        self._current = task
        poller = self._poller
        patience_ends = 0.0
        tries = 0
        asked: Sequence[Operation] = ()
        try:
            while not task.done:
                if self.error is not None:
                    raise self._broken()
                tries += 1
                if self._move():
                    patience_ends = 0.0
                    if tries & 63 or not deadline.expired():
                        continue
                now = monotonic()
                if not patience_ends:
                    patience_ends = now + poller.patience
                if now < patience_ends:
                    poller.pause()
                    continue
                remaining = deadline.remaining()
                if remaining == 0:
                    raise self._late(task, deadline)
                if self._finished == self.size - 1 > 0:
                    # All peers have said goodbye: what is awaited, even from any source, cannot come any more.
                    self._lose(self._links[self.rank - 1], _CLOSED)
                    continue
                if asked is task.awaited or (remaining is not None and remaining <= _ASK_SECONDS):
                    poller.poll(remaining)
                elif not poller.poll(_ASK_SECONDS):
                    self._ask(task)
                    asked = task.awaited
                patience_ends = 0.0
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _ask(self, task: Task) -> None:
        """Tell those whom a collective waits for which call that is.

        Ranks that disagree about a call may all be waiting to receive, two roots of a gather for example: then this is
        the only frame that lets them find out.
        """
        for operation in task.awaited:
            if isinstance(operation, Receive) and operation.channel.collective and not operation.done:
                header = pack_header(Kind.WAITING, operation.channel.id, operation.tag, 0, operation.fingerprint)
                self._links[operation.source].write(header)

    def _move(self) -> bool:
        """Serve every connection that has something to do, without waiting; resume the tasks that can go on."""
        poller = self._poller
        moved = poller.flush() if poller.writing else False
        moved |= poller.poll(0)
        return self._resume() if self.ready else moved

    def _resume(self) -> bool:
        ready = self.ready
        while ready:
            ready.popleft().advance()
        return True

    # -- how it ends ----------------------------------------------------------------------------------------------------

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        """A stream has ended: quietly after a goodbye, else this breaks the engine."""
        self._poller.remove(pair)
        pair.close()
        if pair.finished or self.error is not None:
            return
        # The peer may have left because of somebody else; then others have been told and have told us.
        error = self._loss(pair, f"{reason}; its process has ended or its link is down, see its log", cause)
        if not self._suspecting:
            self._suspecting = True
            while self.error is None and any(other.receive() for other in self._poller.pairs()):
                pass
            self._fail(error)

    def _lose(self, link: Link, reason: str) -> None:
        self._fail(self._loss(link, reason, None))

    def _loss(self, link: Link, reason: str, cause: OSError | None) -> PeerLostError:
        peer = link.peer
        error = PeerLostError(peer.rank, peer.host, peer.pid, peer.link, self._label() or None, reason)
        error.__cause__ = cause
        return error

    def _garbled(self, rank: int, what: str) -> None:
        self._lose(self._links[rank], f"it sent {what}: the ranks run different versions, or memory is corrupt")

    def _check(self, channel: Channel, source: int, tag: int, fingerprint: bytes) -> None:
        try:
            channel.check(source, tag, fingerprint)
        except Disagreement as exc:
            self._disagree(exc)

    def _disagree(self, found: Disagreement) -> None:
        self._fail(MismatchError(found.operation, self.rank, found.here, found.other, found.there))

    def _late(self, task: Task, deadline: Deadline) -> OperationTimeoutError:
        assert deadline.timeout is not None
        states = [self._state(operation, task.name) for operation in task.awaited if not operation.done]
        more = f"; and {len(states) - 4} more" if len(states) > 4 else ""
        error = OperationTimeoutError(task.label, deadline.timeout, "; ".join(states[:4]) + more)
        self._fail(error)
        return error

    def _state(self, operation: Operation, name: str) -> str:
        rank = peer_of(operation)
        who = "any rank" if rank < 0 else str(self.peers[rank])
        if isinstance(operation, Receive):
            total = operation.nbytes or operation.capacity
            what = f"got {operation.position} of {total} bytes from {who}"
        else:
            assert isinstance(operation, Send)
            what = f"sending {len(operation.payload)} bytes to {who}"
        return f"{what}, which may have stopped or not entered {name}; see its log"

    def _label(self) -> str:
        task = self._current
        return task.label if task is not None and not task.done else ""

    def _broken(self) -> GloompiError:
        assert self.error is not None
        return self.error.with_traceback(None)

    def _interrupted(self, exc: BaseException) -> None:
        """Something else than the engine ended a wait: a signal, or the user's operator."""
        if self.error is None:
            self._abort(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)

    def abort(self, reason: str) -> None:
        """Break the engine from this side; the peers get PeerLostError naming this rank and the reason.

        Any thread may call it, and a signal handler: a thread that waits in the engine is woken and does it.
        """
        if self._turn.acquire(blocking=False):
            try:
                self._abort(reason)
            finally:
                self._turn.release()
            return
        self._asked = reason
        self._poller.wake()
        if self._holder is not threading.current_thread() and self._turn.acquire(timeout=2 * _TELL_SECONDS):
            self._turn.release()

    def _abort_asked(self) -> None:
        self._abort(self._asked)

    def _abort(self, reason: str) -> None:
        me = self.peers[self.rank]
        told = PeerLostError(me.rank, me.host, me.pid, me.link, self._label() or None, f"it aborted: {reason}")
        self._fail(ContextClosedError(f"this Context was aborted: {reason}"), told)

    def _fail(self, error: GloompiError, told: GloompiError | None = None) -> None:
        """Keep the first error, tell every peer, close."""
        if self.error is not None:
            return
        self.error = error
        _log.debug("rank %d: %s", self.rank, error)
        header, payload = abort_frame(told or error)
        pairs = [pair for pair in self._poller.pairs() if not pair.finished]
        for pair in pairs:
            pair.write(header, payload)
        linger(pairs, Deadline(_TELL_SECONDS))
        self._release()

    def close(self, deadline: Deadline) -> None:
        """Finish what was begun to be sent, say goodbye, and close all connections."""
        if self.error is not None:
            return
        while any(channel.waiting for channel in self._channels.values()):
            self._poller.poll(deadline.remaining())
            self._resume()
            if self.error is not None:
                raise self._broken()
            if deadline.expired():
                raise self._unsent(deadline)
        pairs = self._poller.pairs()
        self.error = ContextClosedError("this Context is closed")
        for pair in pairs:
            pair.write(pack_header(Kind.GOODBYE, 0, 0, 0, NO_FINGERPRINT))
        linger(pairs, deadline)
        self._release()

    def _unsent(self, deadline: Deadline) -> OperationTimeoutError:
        assert deadline.timeout is not None
        dests = sorted({dest for channel in self._channels.values() for dest, _ in channel.waiting})
        reason = f"messages to {', '.join(str(self.peers[dest]) for dest in dests[:4])} were never received there"
        error = OperationTimeoutError("close", deadline.timeout, reason)
        self._fail(error)
        return error

    def _release(self) -> None:
        for pair in self._poller.pairs():
            self._poller.remove(pair)
            pair.close()
        self._poller.close()
        self._channels.clear()
        self.ready.clear()
        self._current = None

    def drop(self) -> None:
        """Close all connections without a word: the peers take it for a loss."""
        self.error = ContextClosedError("this Context was collected without having been closed")
        self._release()

    @property
    def closed(self) -> bool:
        return self.error is not None

    def forsake(self) -> None:
        """In a forked child: let go of the parent's sockets without a word to the peers."""
        self.error = ContextClosedError(
            f"this Context belongs to process {os.getppid()}, which forked this one; a child makes its own"
        )
        for link in self._links:
            if isinstance(link, Pair):
                link.close()  # close() alone: shutdown() would end the parent's connection
        self._poller.close()
        self._turn = threading.Lock()


def _forsake_all() -> None:
    for engine in list(_alive):
        if engine.error is None:
            engine.forsake()


os.register_at_fork(after_in_child=_forsake_all)
