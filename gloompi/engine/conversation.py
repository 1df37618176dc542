"""A Conversation: what one Context uses of an engine that several Contexts may share.

It has two channels of its own, and the ranks that take part, in the Context's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

from ..errors import ContextClosedError
from .channel import Channel
from .messages import Messages
from .recorder import Entry, Recorder
from .task import Task

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["ROOT", "Conversation", "descendant"]

# The number of the Context that the rendezvous has made.
ROOT = 0


class Conversation:
    """One Context's share of an engine.

    Parameters
    ----------
    number : int
        The same on all its ranks, even; the channel of its messages has this number, that of its collectives the next.
    ranks : sequence of int
        The engine's rank of each of its ranks.
    me : int
        The engine's rank of this process.

    Attributes
    ----------
    rank, size : int
        In this Context.
    closed : bool
    freed : bool
        Its user has let go of it: it ends as soon as it is idle.
    recorder : Recorder
    """

    __slots__ = ("_begun", "_tasks", "collectives", "freed", "messages", "number", "rank", "ranks", "recorder", "size")

    def __init__(self, messages: Messages, number: int, ranks: Sequence[int], me: int, trace: Trace | None = None) -> None:
        self.number = number
        self.recorder = Recorder(trace, number)
        self.ranks = ranks
        self.rank = ranks.index(me)
        self.size = len(ranks)
        self.freed = False
        self.messages: Channel
        self.collectives: Channel
        self.messages, self.collectives = messages.join(number, ranks)
        self._tasks: set[Task] = set()
        self._begun: dict[int, set[Task]] = {}  # of them, by thread

    @property
    def closed(self) -> bool:
        return self.messages.closed

    @property
    def idle(self) -> bool:
        """Whether nothing that was begun here is under way."""
        return not self._tasks and not self.messages.held

    def has_begun(self, thread: int) -> bool:
        """Return whether a request that this thread has begun is under way."""
        return bool(self._begun.get(thread))

    def note(self, task: Task) -> None:
        """Remember a task until it is done."""
        if task.done:
            self._record(task)
        else:
            task.thread = thread = get_ident()
            self._tasks.add(task)
            self._begun.setdefault(thread, set()).add(task)
            task.ended = (partial(self._ended, task),)  # `tell`, when nobody else can have asked
            if task.done:
                task._tell()

    def _ended(self, task: Task) -> None:
        if task in self._tasks:
            self._tasks.discard(task)
            self._begun.get(task.thread, set()).discard(task)
            self._record(task)

    def _record(self, task: Task) -> None:
        if task.failure is None:
            self.recorder.ended(task)
        else:
            self.recorder.failed(task, type(task.failure).__name__)

    def cut_off(self, failure: str) -> None:
        """What is under way will not end any more."""
        tasks, self._tasks, self._begun = self._tasks, set(), {}
        for task in tuple(tasks):  # another thread may be about to add one
            self.recorder.failed(task, failure)

    def entries(self, current: Iterable[Task] = ()) -> list[Entry]:
        """The calls that are remembered or under way, in the order of their begin."""
        return self.recorder.entries({*self._tasks, *current})

    def abandon(self, waited_for: Iterable[object] = ()) -> None:
        """End the tasks that are under way, those that threads wait for among them, without a result."""
        others = [task for task in waited_for if isinstance(task, Task) and task.conversation is self]
        for task in (*self._tasks, *others):
            text = f"{task.label} was under way when this Context was closed: wait for requests before close()"
            task.abandon(ContextClosedError(text))


def descendant(key: bytes, parent: int, *origin: int | str | tuple[int, ...]) -> int:
    """The number of a Context that is made of Context `parent`.

    All its ranks compute it alike, without a message.  The 63 bits are as good as random, whatever tags, colors and keys a
    program uses: among a million Contexts, two have the same number with a probability of one in ten million.

    Parameters
    ----------
    key : bytes, up to 64
        What the ranks of one engine know and others do not.
    origin
        What is made how: the name of the operation, the number of the call, the tag, who belongs to it.  Python's own
        integers, strings and tuples, whose text is never that of others.
    """
    from hashlib import blake2b  # loads OpenSSL

    text = repr((parent, *origin)).encode()
    return int.from_bytes(blake2b(text, digest_size=8, key=key, person=b"gloompi channel").digest(), "little") & ~1
