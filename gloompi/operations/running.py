"""Running plans: the blocking and the non-blocking way."""

from __future__ import annotations

from typing import Any

from ..deadline import Deadline, check_timeout
from ..engine.conversation import Conversation
from ..engine.engine import Engine
from ..engine.task import Task
from ..plans.planner import Planner
from ..request import Request

__all__ = ["Running"]


class Running:
    """What all operations of a Context share."""

    rank: int
    size: int
    timeout: float | None

    def __init__(self, engine: Engine, timeout: float | None, conversation: Conversation | None = None) -> None:
        self._engine = engine
        self._conversation = conversation = conversation or engine.root
        self._plan = Planner(engine, conversation)
        self.rank, self.size = conversation.rank, conversation.size
        self.timeout = timeout

    def _run(self, plan: Task, timeout: float | None) -> Any:
        engine = self._engine
        deadline = Deadline(self.timeout if timeout is None else check_timeout(timeout))
        if self._conversation.closed:
            engine.check_open(self._conversation)
        return engine.exclusively(deadline, plan.name, engine.run, plan, deadline)

    def _start(self, plan: Task) -> Request:
        engine = self._engine
        engine.check_open(self._conversation)
        task = engine.exclusively(self._deadline(None), plan.name, engine.start, plan)
        if not task.done:
            self._conversation.note(task)
        return Request(engine, self._conversation, task, self.timeout)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else check_timeout(timeout))
