"""The turn: who has it, who waits for it, and what is left of it after an accident."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from gloompi import OperationTimeoutError
from gloompi.deadline import Deadline
from gloompi.engine.turn import Turn


class Aborted:
    """Notes what a turn's holder was asked."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.threads: list[str] = []

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.threads.append(threading.current_thread().name)


def doing() -> str:
    return "allreduce #1"


def in_thread(action: object, name: str = "other") -> threading.Thread:
    thread = threading.Thread(target=action, name=name)  # type: ignore[arg-type]
    thread.start()
    return thread


def another_thread_gets(turn: Turn) -> bool:
    """Whether a thread that does not wait gets the turn; it gives it back."""
    taken: list[bool] = []

    def other() -> None:
        turn.take(Deadline(0), "send", doing)
        turn.give()
        taken.append(True)

    in_thread(other).join(20)
    return bool(taken)


def test_a_second_thread_waits_and_says_for_whom() -> None:
    turn = Turn(Aborted())
    turn.take(Deadline(1), "barrier", doing)
    caught: list[BaseException] = []

    def other() -> None:
        try:
            turn.take(Deadline(0.05), "send", doing)
        except OperationTimeoutError as exc:
            caught.append(exc)

    in_thread(other).join(20)
    name = threading.current_thread().name
    reason = f"thread {name!r} is in allreduce #1 on the same Context, which serves one at a time"
    assert [str(exc) for exc in caught] == [f"send timed out after 0.1 s: {reason}"]
    turn.give()


def test_nobody_is_waited_for_at_the_interpreters_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other threads stand still then: who has the turn will never give it."""
    turn, taken, go = Turn(Aborted()), threading.Event(), threading.Event()

    def hold() -> None:
        turn.take(Deadline(30.0), "recv", doing)
        taken.set()
        go.wait(30)
        turn.give()

    holder = in_thread(hold, "holder")
    taken.wait(30)
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    began = time.monotonic()
    for limit in (20.0, None):
        with pytest.raises(OperationTimeoutError) as caught:
            turn.take(Deadline(limit), "close", doing)
        assert str(caught.value) == (
            "close timed out after 0.0 s: thread 'holder' is in allreduce #1 on the same Context, which serves one at a "
            "time, and stands still at the interpreter's end"
        )
    assert time.monotonic() - began < 5
    go.set()
    holder.join(30)
    turn.take(Deadline(1.0), "close", doing)
    turn.give()


def test_nested_use_is_refused_and_harms_nothing() -> None:
    turn = Turn(Aborted())
    turn.take(Deadline(1), "barrier", doing)
    turn.busy = True
    with pytest.raises(RuntimeError, match="send was called from within allreduce #1 on the same Context"):
        turn.take(Deadline(1), "send", doing)
    turn.busy = False
    turn.give()
    assert another_thread_gets(turn)


def test_a_turn_left_taken_is_used_on_and_given_back_whole() -> None:
    turn = Turn(Aborted())
    for _ in range(3):
        turn.take(Deadline(1), "barrier", doing)  # a signal handler raised before the turn could be given back
    turn.give()
    assert another_thread_gets(turn)


def test_aborting_a_turn_that_nobody_has() -> None:
    aborted = Aborted()
    Turn(aborted).abort("", lambda: None, 1)
    assert aborted.reasons == [""]


def test_aborting_from_another_thread_wakes_the_holder() -> None:
    aborted = Aborted()
    turn = Turn(aborted)
    turn.take(Deadline(1), "recv", doing)
    turn.busy = True
    woken = threading.Event()
    aborter = in_thread(lambda: turn.abort("enough", woken.set, 20))
    assert woken.wait(20)
    turn.busy = False
    turn.give()
    aborter.join(20)
    assert aborted.reasons[0] == "enough"
    assert aborted.threads[0] == threading.current_thread().name


def test_aborting_when_an_accident_left_the_turn_taken() -> None:
    aborted = Aborted()
    turn = Turn(aborted)
    turn.take(Deadline(1), "recv", doing)
    in_thread(lambda: turn.abort("enough", lambda: None, 0.01)).join(20)
    assert aborted.reasons == ["enough"]
    assert aborted.threads == ["other"]


def test_aborting_by_a_signal_handler_where_the_turn_has_just_been_taken() -> None:
    aborted = Aborted()
    turn = Turn(aborted)
    turn.take(Deadline(1), "recv", doing)
    turn.abort("enough", lambda: None, 20)
    assert aborted.reasons == ["enough"]
    assert turn.mine()  # the operation that it has come in front of goes on
    turn.give()
    assert another_thread_gets(turn)


def test_aborting_from_within_an_operation() -> None:
    """By a signal handler: the operation itself does it, when it is woken."""
    aborted = Aborted()
    turn = Turn(aborted)
    turn.take(Deadline(1), "recv", doing)
    turn.busy = True
    woken: list[bool] = []
    turn.abort("enough", lambda: woken.append(True), 20)
    assert woken
    assert not aborted.reasons
    turn.woken()
    assert aborted.reasons == ["enough"]


def test_turn_is_given_back_although_aborting_raises() -> None:
    def interrupted(reason: object) -> None:
        raise KeyboardInterrupt

    turn = Turn(interrupted)
    turn.take(Deadline(1), "recv", doing)
    turn._asked = "enough"
    with pytest.raises(KeyboardInterrupt):
        turn.give()
    turn._asked = None
    assert another_thread_gets(turn)
