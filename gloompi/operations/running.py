"""Running plans: the blocking and the non-blocking way."""

from __future__ import annotations

from typing import Any

from ..deadline import Deadline, check_timeout
from ..engine.conversation import Conversation
from ..engine.engine import Engine
from ..engine.task import Task
from ..objects import PICKLE, Pickler
from ..plans.planner import Planner
from ..request import Request

__all__ = ["Running"]


class Running:
    """What all operations of a Context share."""

    rank: int
    size: int
    timeout: float | None

    def __init__(
        self,
        engine: Engine,
        timeout: float | None,
        conversation: Conversation | None = None,
        pickler: Pickler | None = PICKLE,
    ) -> None:
        self._engine = engine
        self._conversation = conversation = conversation or engine.root
        self._plan = Planner(engine, conversation, pickler)
        self.rank, self.size = conversation.rank, conversation.size
        self.timeout = timeout

    def _run(self, task: Task, timeout: float | None) -> Any:
        engine, conversation = self._engine, self._conversation
        deadline = Deadline(self.timeout if timeout is None else check_timeout(timeout))
        task.began = deadline.began
        task.conversation = conversation
        if engine.error is not None or conversation.messages.closed:
            engine.check_open(conversation)
            return engine.exclusively(deadline, task.name, engine.run, task, deadline)  # raises what has ended it
        try:
            result = engine.exclusively(deadline, task.name, engine.run, task, deadline)
        except BaseException as exc:
            conversation.recorder.failed(task, type(exc).__name__)
            raise
        conversation.recorder.ended(task)
        return result

    def _start(self, task: Task) -> Request:
        engine, conversation = self._engine, self._conversation
        engine.check_open(conversation)
        deadline = self._deadline(None)
        task.began = deadline.began
        task.conversation = conversation
        broken = engine.error is not None
        try:
            engine.exclusively(deadline, task.name, engine.start, task)
        except BaseException as exc:
            if not broken:
                conversation.recorder.failed(task, type(exc).__name__)
            raise
        conversation.note(task)
        return Request._of(engine, conversation, task, self.timeout)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else check_timeout(timeout))
