"""The connections of one rank: how bytes move on them, who uses them, and how they end.

Bytes move only inside calls, but then on every connection, so that a blocked send also takes what comes in, and an abort
from any peer is seen by whoever is waiting.  The first error breaks all connections, and every peer is told.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline
from ..errors import ContextClosedError, GloompiError, PeerLostError, SystemCallError, note, readable, summary
from ..foreign import plain
from ..transport.abort import REASON_LENGTH, abort_frame, linger
from ..transport.link import Link, Loopback
from ..transport.pair import STAGING_NBYTES, Pair
from .conversation import ROOT, Conversation, descendant
from .messages import CLOSED, CREDIT_NBYTES, Messages
from .operation import Scratch
from .polling import Poller
from .recorder import Entry, child_name, tail
from .sleepers import Sleepers
from .task import Task, Waiting
from .turn import Turn

if TYPE_CHECKING:
    import socket

    from ..transport.endpoint import Peer
    from ..transport.tls import Encrypted
    from .remnants import Remnants
    from .trace import Trace

__all__ = ["Connections", "alive", "all_alive"]

# How long a rank whose Context breaks tries to tell its peers.
_TELL_SECONDS = 0.5

# Frames that hanging up needs beyond the recursion limit.
_MORE_FRAMES = 200

# How long a rank that has lost a peer looks for a peer's word about why.
_LOOK_SECONDS = 0.1

alive: weakref.WeakSet[Connections] = weakref.WeakSet()


def all_alive() -> list[Connections]:
    """Return what is alive, whatever other threads make meanwhile."""
    while True:
        try:
            return list(alive)
        except RuntimeError:
            pass  # one has been made while this was looking


class Connections:
    """All connections of one rank.

    Parameters
    ----------
    rank : int
    peers : list of Peer
        In rank order, this rank included.
    sockets : list of socket, Encrypted or None
        In rank order, connected and authenticated; None for this rank.  The engine owns them.
    crowded, shared : bool
        See `Poller`.
    marker : bytes
        See `Remnants`; empty: there will be none.

    Attributes
    ----------
    error : GloompiError or None
        What broke the engine; every later use raises it.
    messages : Messages
    scratch : Scratch
    root : Conversation
        Of all ranks; others are made with `join`.
    leaving : bool
        The interpreter ends, and says goodbye for those that are still open.
    sleepers : Sleepers
        The threads that wait.
    watches : list of callable
        Called when the engine is about to close its connections, and when a conversation has ended.
    """

    def __init__(
        self,
        rank: int,
        peers: list[Peer],
        sockets: Sequence[socket.socket | Encrypted | None],
        *,
        crowded: bool = False,
        shared: bool = False,
        marker: bytes = b"",
    ) -> None:
        self.rank = rank
        self.size = len(peers)
        self.peers = tuple(peers)
        self.error: GloompiError | None = None
        self.leaving = False
        self.scratch = Scratch()
        self.ready: deque[Task] = deque()
        self.turn = Turn(self._abort)
        self._current: Waiting | None = None
        self._poller = Poller(crowded, shared, self.turn.woken)
        self.sleepers = Sleepers(self.turn, self._poller, lambda: bool(self.messages.reading))
        self.watch = self._poller.watch
        self.hold = self._poller.hold
        self._suspecting = False
        self._links: list[Link] = []
        self.messages = Messages(rank, self._links, self._fail, self._lose, self._poller)
        self.frame = self.messages.frame  # what arrives goes there without a detour
        staging = memoryview(bytearray(STAGING_NBYTES))
        for peer, sock in zip(peers, sockets, strict=True):
            if sock is None:
                self._links.append(Loopback(peer, self, CREDIT_NBYTES))
            else:
                pair = self._pair(sock, peer, staging)
                pair.readable = peer.transport == "unix" and peer.readable and peers[rank].readable
                self._poller.add(pair)
                self._links.append(pair)
        self._crowded, self._shared, self._marker = crowded, shared, marker
        self._remnants: Remnants | None = None
        self._given_up = False
        self._trace = _trace(rank, self.peers, marker)
        self.watches: list[Callable[[], None]] = []
        self._conversations: set[Conversation] = set()
        self._dropped: list[Conversation] = []
        self.root = self.join(ROOT, range(self.size))
        alive.add(self)

    def _pair(self, sock: socket.socket | Encrypted, peer: Peer, staging: memoryview) -> Pair:
        if isinstance(sock, tuple):
            from ..transport.tls import TlsPair  # brings ssl, which only its users pay for

            return TlsPair(sock, peer, self, CREDIT_NBYTES, staging)
        if peer.checked:
            from ..transport.checked import CheckedPair  # which only its users pay for

            return CheckedPair(sock, peer, self, CREDIT_NBYTES, staging)
        return Pair(sock, peer, self, CREDIT_NBYTES, staging)

    def descendant(self, parent: Conversation, *origin: int | str | tuple[int, ...]) -> int:
        """The number of a conversation that is made of another one; see `gloompi.engine.conversation.descendant`."""
        return descendant(self._marker, parent.number, *origin)

    def join(self, number: int, ranks: Sequence[int]) -> Conversation:
        """Begin a conversation of some ranks: no message is needed, they all do the same.

        Raises
        ------
        GloompiError
            Another one that is not over has this number.  The engine is broken then: a rank that has only one of the two
            does not see it, and would wait for those that do.
        """
        if self.messages.knows(number):
            self._fail(
                GloompiError(
                    f"the new Context of {len(ranks)} ranks has the number of another one, {child_name(number)}, so that "
                    f"each would get the other's messages; numbers are hashes of 63 bits, and another order of "
                    f"dup and split gives others"
                )
            )
            raise self._broken()
        conversation = Conversation(self.messages, number, ranks, self.rank, self._trace)
        left = {rank for rank in ranks if self._links[rank].finished}  # and has said so before this began
        conversation.messages.departed |= left
        conversation.collectives.departed |= left
        self._conversations.add(conversation)
        return conversation

    def check_open(self, conversation: Conversation) -> None:
        """Raise ContextClosedError if a conversation is closed while others go on; closed connections say so themselves."""
        if conversation.messages.closed and self.error is None:
            raise ContextClosedError("this Context is closed")

    # -- bytes -----------------------------------------------------------------------------------------------------------

    def _move(self) -> bool:
        """Serve every connection that has something to do, without waiting; resume the tasks that can go on."""
        poller, reading = self._poller, self.messages.reading
        moved = poller.flush() if poller.writing else False
        if not reading:
            moved |= poller.poll(0)
        else:
            moved = True
            reading.turn()
            if self.error is None:
                poller.poll(0)
        return self._resume() if self.ready else moved

    def _resume(self) -> bool:
        ready = self.ready
        while ready:
            task = ready.popleft()
            try:
                task.advance()
            except Exception as exc:
                if not self._is_of_another_thread(task):
                    raise
                # That one's own call raises it; to this one, the Context is broken.
                current, self._current = self._current, task
                self._interrupted(exc)
                self._current = current
        return True

    def _is_of_another_thread(self, task: Task) -> bool:
        me = get_ident()
        if task.thread:
            return task.thread != me
        return any(call is task and thread != me for thread, call in tuple(self.sleepers.calls.items()))

    def catch_up(self) -> None:
        """Take what has come before there were these connections."""
        for pair in self._poller.pairs():
            pair.catch_up()

    # -- how it ends ----------------------------------------------------------------------------------------------------

    def lost(self, pair: Pair, reason: str, cause: OSError | None) -> None:
        """A stream has ended: quietly after a goodbye, else this breaks the engine."""
        self._poller.remove(pair)
        pair.close()
        if self.error is not None:
            return
        if pair.finished:
            if pair.owes:
                self._lose(pair, CLOSED)
            return
        # The peer may have left because of somebody else; then others have been told and have told us.
        error = self._loss_error(pair, f"{reason}; {pair.likely}", cause)
        if not self._suspecting:
            self._suspecting = True
            # One of them may be sending a large message: look at what it says first, not at all of it.
            looking = Deadline(_LOOK_SECONDS)
            while self.error is None and any(other.receive() for other in self._poller.pairs()) and not looking.expired():
                pass
            self._fail(error)

    def damaged(self, pair: Pair, reason: str) -> None:
        """What has come is not what was sent: this breaks the engine, and the peer is told too."""
        self._lose(pair, reason)

    def failed(self, pair: Pair, reason: str, cause: OSError) -> None:
        """A system call has failed for a reason of this rank's own, of which nobody would hear: this breaks the engine.

        Raises
        ------
        SystemCallError
            Unless the engine was broken before.
        """
        if self.error is None:
            error = SystemCallError(self.rank, self._label() or None, cause.errno or 0, reason)
            error.__cause__ = cause
            self._fail(error)
            raise error

    @property
    def shortages(self) -> list[str]:
        """What the kernel had no memory for at the last try, for error texts."""
        found = [pair.shortage for pair in self._poller.held]
        return [*found, self.messages.reading.shortage] if self.messages.reading.shortage else found

    def left_error(self, rank: int) -> PeerLostError:
        """The error that a peer has closed its Context, for a call that can do without it."""
        return self._loss_error(self._links[rank], CLOSED, None)

    def _lose(self, link: Link, reason: str) -> None:
        self._fail(self._loss_error(link, reason, None))

    def _loss_error(self, link: Link, reason: str, cause: OSError | None) -> PeerLostError:
        peer = link.peer
        error = PeerLostError(peer.rank, peer.host, peer.pid, peer.link, self._label() or None, reason)
        error.__cause__ = cause
        return error

    def _label(self) -> str:
        task = self._current
        return task.label if task is not None and not task.done else ""

    def _broken(self) -> GloompiError:
        assert self.error is not None
        return self.error.with_traceback(None)

    def _interrupted(self, exc: BaseException) -> None:
        """Something else than the engine ended a wait: a signal, the user's operator, what an algorithm has found."""
        if self.error is not None:
            return
        if not self.turn.mine():  # a signal came while it waited for the turn, which another thread has
            self.abort(exc)
            return
        task = self._current
        if isinstance(task, Task) and task.failure is exc and task.conversation is not None:
            task.conversation.recorder.failed(task, type(exc).__name__)  # it is not under way any more
        if isinstance(exc, GloompiError):
            self._fail(exc)
        else:
            self._abort(exc)
            note(exc, *getattr(self.error, "__notes__", ()))

    def abort(self, reason: str | BaseException) -> None:
        """Break the engine from this side; the peers get PeerLostError naming this rank and the reason.

        Any thread may call it, and a signal handler: a thread that waits in the engine is woken and does it.
        """
        self.turn.abort(reason, self._poller.wake, 2 * _TELL_SECONDS)

    def _abort(self, reason: str | BaseException) -> None:
        text = "an exception"
        try:
            text = readable(reason if isinstance(reason, str) else summary(reason), REASON_LENGTH)
        finally:  # a signal handler may raise while the text is being made
            me = self.peers[self.rank]
            told = PeerLostError(me.rank, me.host, me.pid, me.link, self._label() or None, f"it aborted: {text}")
            self._fail(ContextClosedError(f"this Context was aborted: {text}"), told)

    def _fail(self, error: GloompiError, told: GloompiError | None = None) -> None:
        """Keep the first error, tell every peer, and close, except what can be shrunk."""
        if self.error is not None:
            return
        try:
            self._break(error, told)
        except RecursionError:
            if self.error is None:
                raise
            # It is the limit that this has met: nobody else can hang up before that is far away.
            limit = sys.getrecursionlimit()
            sys.setrecursionlimit(limit + _MORE_FRAMES)
            try:
                self._release()
            finally:
                sys.setrecursionlimit(limit)
            raise

    def _break(self, error: GloompiError, told: GloompiError | None) -> None:
        try:  # before all else: whoever is interrupted in telling the peers must at least hang up
            self.error = error
            self._attempt(self._tell, error, told)
        finally:
            self.error = error  # the very first line may have been interrupted
            try:
                self._attempt(self._release)
            finally:
                self._hang_up()
                self._attempt(self._poller.close)

    def _attempt(self, step: Callable[..., object], *arguments: Any) -> None:
        """Do a part of breaking, which the others must follow: its failure must not take the place of the error."""
        try:
            step(*arguments)
        except Exception as exc:
            assert self.error is not None
            note(self.error, f"While the peers were told of this: {summary(exc)}")

    def _log(self, error: GloompiError) -> None:
        import logging

        # Part of it may be what a peer has chosen, such as what the unpickling of its object has raised.
        logging.getLogger("gloompi").debug("rank %d: %s", self.rank, plain(str(error), REASON_LENGTH))

    def _tell(self, error: GloompiError, told: GloompiError | None) -> None:
        if error.reported_by is not None:
            error.interrupted = self._label()
        self.messages.revoke()
        self._conversations.difference_update(self._dropped)  # nobody will close them
        header, payload = abort_frame(told or error, self.rank, self._marker)
        pairs = [pair for pair in self._poller.pairs() if not pair.finished]
        for pair in pairs:
            pair.write(header, payload)
        self._attempt(self._explain, error)
        self._attempt(self._log, error)
        if told is None and (self._marker or self.size == 1):
            from .remnants import Remnants  # needed once, if ever

            remnants = Remnants(pairs, self._marker, self.size)
            try:
                remnants.settle(Deadline(_TELL_SECONDS))
                self._remnants = remnants
            except BaseException:
                remnants.close()
                raise
            if self._given_up:
                self.let_go()  # by another thread or a signal handler, too early to find anything
        else:
            linger(pairs, Deadline(_TELL_SECONDS))

    def let_go(self) -> None:
        """Close what a broken engine has left: it will not be shrunk.

        If it is just being shrunk, by another thread or by what a signal handler interrupts, that ends soon.
        """
        self._given_up = True
        remnants, self._remnants = self._remnants, None
        if remnants is not None:
            remnants.close()

    def _explain(self, error: GloompiError) -> None:
        """Let the error's traceback end with the calls that led to it (from Python 3.11 on)."""
        text = tail(
            [entry for conversation in tuple(self._conversations) for entry in self.calls(conversation)], monotonic()
        )
        if text:
            note(error, text)

    def calls(self, conversation: Conversation) -> list[Entry]:
        """What is remembered of a conversation's calls, and those under way."""
        under_way = {self._current, *tuple(self.sleepers.calls.values())}  # other threads', perhaps
        return conversation.entries(
            task for task in under_way if isinstance(task, Task) and task.conversation is conversation
        )

    def _release(self) -> None:
        """Give everything back; whatever becomes of one step, the others follow."""
        with ExitStack() as steps:  # the last first
            if self._trace is not None:
                steps.callback(self._trace.end)
            for conversation in tuple(self._conversations):
                steps.callback(conversation.cut_off, type(self.error).__name__)
            steps.callback(self._clear)
            steps.callback(self._poller.close)
            steps.callback(self.sleepers.rouse_all)
            for watch in reversed(self.watches):
                steps.callback(watch)
            steps.callback(self._hang_up)
            steps.callback(self.messages.revoke)

    def _hang_up(self) -> None:
        """Close the connections, except those of the remnants, which are asleep."""
        for link in self._links:
            if isinstance(link, Pair):
                link.close()
        for pair in self._poller.pairs():
            self._poller.remove(pair)

    def _clear(self) -> None:
        self.messages.clear()
        self.ready.clear()
        self._current = None

    @property
    def closed(self) -> bool:
        return self.error is not None

    def forsake(self) -> None:
        """In a forked child: let go of the parent's sockets without a word to the peers."""
        for link in self._links:
            if isinstance(link, Pair):
                link.close()  # close() alone: shutdown() would end the parent's connection
        if self.error is not None:
            remnants, self._remnants = self._remnants, None
            if remnants is not None:
                remnants.forsake()
            return
        self.error = ContextClosedError(
            f"this Context belongs to process {os.getppid()}, which forked this one; a child makes its own"
        )
        if self._trace is not None:
            self._trace.forsake()
        self._poller.close_in_child()
        self.turn = Turn(self._abort)


def _trace(rank: int, peers: Sequence[Peer], marker: bytes) -> Trace | None:
    from ..settings import value

    folder = value("GLOOMPI_TRACE")
    if folder is None:
        return None
    from .trace import open_trace  # what it needs, no other program does

    return open_trace(folder, rank, peers, marker)


def _forsake_all() -> None:
    for engine in all_alive():
        engine.forsake()


os.register_at_fork(after_in_child=_forsake_all)
