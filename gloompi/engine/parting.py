"""Parting: how conversations end, and the connections with the last of them, without losing what is under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..deadline import Deadline
from ..errors import ContextClosedError, MismatchError
from ..transport.abort import linger
from ..transport.frames import Kind, pack_header
from .channel import Channel
from .connections import Connections
from .conversation import Conversation
from .lateness import unsent
from .messages import CLOSED
from .task import Awaited

__all__ = ["Parting"]

# Nobody tells a thread that closes a Context when another one has sent what is left: it looks again after this.
_LOOK_SECONDS = 0.02


class _Unfinished(Awaited):
    """What a close waits for; it is looked at, and tells nobody."""

    def __init__(self, unfinished: Callable[[], list[int]]) -> None:
        self._unfinished = unfinished

    @property
    def done(self) -> bool:  # type: ignore[override]
        return not self._unfinished()


class Parting(Connections):
    """Connections that can be left."""

    def close(self, deadline: Deadline) -> None:
        """Finish what was begun to be sent, say goodbye, and close all connections.

        Raises
        ------
        OperationTimeoutError
            Something could not be sent within the budget.
        PeerLostError
            A peer that something was still to be sent to is gone.  Others may go unnoticed.
        MismatchError
            A peer disagrees about a call of this rank's, and it has only come out now.
        """
        try:
            owing = self.messages.unmatched()
            self._move()
            if self.error is not None and not owing and not isinstance(self.error, MismatchError):
                return
            self._finish_messages(None, deadline)
            pairs = self._poller.pairs()
            for pair in pairs:
                pair.write(pack_header(Kind.GOODBYE, 0, 0, 0))
            silent = linger(pairs, deadline)
            self._resume()
        except BaseException as exc:
            self._interrupted(exc)
            raise
        self.error = ContextClosedError("this Context is closed")
        self._release()
        if silent:
            raise unsent(
                [pair.rank for pair in silent], deadline, self.peers, [pair.shortage for pair in silent if pair.shortage]
            )

    def leave(self, conversation: Conversation, deadline: Deadline) -> None:
        """End a conversation, and if it is the last, close the engine.

        Raises
        ------
        OperationTimeoutError, PeerLostError, MismatchError
            As `close`.
        """
        if all(other.freed for other in tuple(self._conversations) if other is not conversation):
            self.close(deadline)
            return
        channels = (conversation.messages, conversation.collectives)
        try:
            self._finish_messages(channels, deadline)
            self._say_goodbye(conversation)
            # Nobody may call this engine again for a long time.
            links = [self._links[rank] for rank in conversation.ranks]
            self._finish_sends(lambda: [link.rank for link in links if link.sending], deadline)
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def _say_goodbyes(self) -> None:
        """End the conversations that were dropped, and those that were freed and have nothing under way any more."""
        busy = []
        while self._dropped:
            conversation = self._dropped.pop()
            if conversation.freed and (not conversation.idle or self._conversations == {conversation}):
                busy.append(conversation)  # the last one is for close()
            elif conversation in self._conversations:
                self._say_goodbye(conversation)
        self._dropped += busy

    def _say_goodbye(self, conversation: Conversation) -> None:
        conversation.abandon(self.sleepers.calls.values())
        self.messages.leave((conversation.messages, conversation.collectives), conversation.ranks)
        self._conversations.discard(conversation)
        for watch in tuple(self.watches):
            watch()

    def _finish_messages(self, channels: Sequence[Channel] | None, deadline: Deadline) -> None:
        """Wait until all messages have been asked for, unless a rank is closing that has not."""
        messages = self.messages
        if messages.unmatched(channels):
            messages.refuse(channels)
        self._finish_sends(lambda: messages.unmatched(channels), deadline, lambda: messages.hopeless(channels))

    def _finish_sends(
        self, unfinished: Callable[[], list[int]], deadline: Deadline, hopeless: Callable[[], list[int]] = list
    ) -> None:
        waiting = _Unfinished(unfinished)
        while self.error is None and not waiting.done:
            refused = hopeless()
            if refused:
                self._lose(self._links[refused[0]], CLOSED)
            elif deadline.expired():
                self._fail(unsent(unfinished(), deadline, self.peers, self.shortages))
            elif not self._move():
                self.sleepers.sleep(waiting, deadline.before(_LOOK_SECONDS).timeout)
        if self.error is not None:
            raise self._broken()

    def forget(self, conversation: Conversation) -> None:
        """End a conversation without a word, while another one is going on."""
        self._conversations.discard(conversation)

    def part(self, conversation: Conversation) -> None:
        """A conversation will not be shrunk: with the last one, and with the first, close what a broken engine has left.

        Whoever closes the Context that all others came from is done with them, too, and may not have closed each of them.
        """
        if self.error is not None:
            self._conversations.discard(conversation)
            if not self._conversations or conversation is self.root:
                self.let_go()

    def free(self, conversation: Conversation) -> None:
        """Have a conversation end as soon as nothing is under way in it, with a goodbye.

        Waits for nothing, and may run anywhere, as `drop` may.  The last one stays until `close`.
        """
        conversation.freed = True
        self.drop(conversation)

    def free_inside(self, conversation: Conversation) -> bool:
        """Free a conversation of several if this thread is inside a call, where it cannot wait; return whether it was."""
        if self._conversations == {conversation} or not self.turn.mine():
            return False
        self.free(conversation)
        return True

    def drop(self, conversation: Conversation) -> None:
        """End a conversation that nobody has any more; if it is the last, close all connections: a loss for the peers.

        This may run anywhere, by the garbage collector even inside a call: it takes no lock, and the next call says goodbye.
        When the interpreter ends, what nobody has any more may still be used by the __del__ of its user.
        """
        if self.error is not None:
            self._conversations.discard(conversation)
            if not self._conversations:
                self.let_go()
        elif self.leaving:
            return
        elif conversation.freed or not self._conversations <= {conversation, *self._dropped}:
            self._dropped.append(conversation)
        else:
            self.error = ContextClosedError("this Context was collected without having been closed")
            self._release()
