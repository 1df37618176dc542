"""A task tells who wants to know that it is done, and one of several is told of the first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from effort import assert_linear, steps_of

from gloompi.engine.channel import Channel
from gloompi.engine.operation import Operation, Receive, Steps
from gloompi.engine.task import AnyOf, Task
from gloompi.transport.link import Link

LINK: Any = object()


class Waiting:
    """A task that waits for one operation after the other, and the means to let it go on."""

    def __init__(self, *awaited: Operation) -> None:
        self.ready: deque[Task] = deque()

        def steps(task: Task) -> Steps:
            yield from awaited

        self._left = deque(awaited)
        self.task = Task("recv", steps, lambda: "result", b"")
        self.task.start(self.ready, False)

    def go_on(self) -> None:
        self._left.popleft().complete()
        self.ready.popleft().advance()


def waiting(count: int) -> list[Waiting]:
    return [Waiting(Operation()) for _ in range(count)]


def receive() -> Receive:
    return Receive(Channel(1, True), 1, 0, None, 0, bytes(32))


# -- telling ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Waiting.go_on, lambda one: one.task.abandon(), lambda one: one.task.abandon(OSError())])
def test_those_who_want_to_know_are_told_once_in_their_order(end: Callable[[Waiting], None]) -> None:
    one = Waiting(Operation())
    told: list[int] = []
    for number in range(3):
        one.task.tell(lambda number=number: told.append(number))  # type: ignore[misc]
    assert told == []
    end(one)
    assert told == [0, 1, 2]
    assert one.task.done
    one.task.tell(lambda: told.append(3))  # at once
    assert told == [0, 1, 2, 3]
    assert one.task.ended == ()


def test_those_who_do_not_want_to_know_any_more_are_not_told() -> None:
    one = Waiting(Operation())
    told: list[str] = []
    first, second, third = (lambda: told.append("first")), (lambda: told.append("second")), (lambda: told.append("third"))
    for each in (first, second, third):
        one.task.tell(each)
    one.task.tell_no_more(second)
    one.task.tell_no_more(second)  # it is not there
    one.go_on()
    assert told == ["first", "third"]
    one.task.tell_no_more(first)


def test_threads_that_ask_while_a_task_ends_are_all_told() -> None:
    """Whether they came before its end or after it, and however many others ask and give up at the same time."""
    number, turns = 4, 300
    level = threading.Barrier(number + 1)
    ones = waiting(turns)
    told = [0] * number

    def ask(which: int) -> None:
        def tell() -> None:
            told[which] += 1

        def never() -> None:
            raise AssertionError

        for one in ones:
            level.wait(30)
            one.task.tell_no_more(never)
            one.task.tell(tell)
            one.task.tell_no_more(never)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    for one in ones:
        level.wait(30)
        one.go_on()
    for thread in threads:
        thread.join(30)
    assert told == [turns] * number


# -- one of several -----------------------------------------------------------------------------------------------------


def test_one_of_several_is_done_when_one_is() -> None:
    ones = waiting(3)
    any_of = AnyOf([one.task for one in ones])
    told: list[int] = []
    any_of.ended = (lambda: told.append(1),)
    with any_of.while_told():
        assert not any_of.done
        ones[1].go_on()
        assert any_of.done
        assert told == [1]
        ones[0].go_on()
        assert told == [1]
    assert any_of.done


def test_one_of_several_that_is_done_before() -> None:
    ones = waiting(3)
    ones[2].go_on()
    any_of = AnyOf([one.task for one in ones])
    assert not any_of.done  # nobody has told it
    with any_of.while_told():
        assert any_of.done


@pytest.mark.parametrize("ended", [False, True])
def test_nothing_is_left_with_the_tasks(ended: bool) -> None:
    ones = waiting(3)
    others = [lambda: None, lambda: None]
    for one in ones[:2]:
        one.task.tell(others[0])
    tasks = [one.task for one in ones]

    def interrupted() -> None:
        with AnyOf([*tasks, tasks[0]]).while_told():  # one of them twice
            ones[1].task.tell(others[1])
            with AnyOf(tasks).while_told():
                pass
            if ended:
                ones[2].go_on()
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert [task.ended for task in tasks] == [(others[0],), tuple(others), ()]


def test_asking_for_several() -> None:
    """Each is asked for once, and again when it waits for something else; the others are not."""
    first, second = Waiting(receive(), receive()), Waiting(receive())
    any_of = AnyOf([first.task, second.task])
    asked: list[Receive] = []
    assert not any_of.asked
    any_of.ask(asked.append)
    assert any_of.asked
    assert asked == [*first.task.awaited, *second.task.awaited]
    first.go_on()
    assert not any_of.asked
    any_of.ask(asked.append)
    assert any_of.asked
    assert asked[2:] == [*first.task.awaited]


def test_several_have_stalled_when_all_have(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gloompi.engine.task.monotonic", lambda: now)
    ones = [Waiting(Operation(), Operation()), Waiting(Operation())]
    any_of = AnyOf([one.task for one in ones])
    assert not any_of.stalled(0.05)  # they count from now
    now += 0.02
    ones[0].go_on()
    assert not any_of.stalled(0.05)
    now += 0.04
    assert not any_of.stalled(0.05)  # the first counts from now
    now += 0.051
    assert any_of.stalled(0.05)


def test_several_are_hopeless_when_all_are() -> None:
    ones = waiting(3)
    tasks = [one.task for one in ones]
    lost = {tasks[0].awaited[0], tasks[2].awaited[0]}

    def gone(operation: Operation) -> Link | None:
        return LINK if operation in lost else None

    assert AnyOf(tasks[::2]).hopeless(gone) is LINK
    assert AnyOf(tasks).hopeless(gone) is None


def test_a_look_costs_the_same_however_many_there_are() -> None:
    few, many = (AnyOf([one.task for one in waiting(count)]) for count in (1, 100))

    def look(any_of: AnyOf) -> Callable[[], object]:
        return lambda: (any_of.done, any_of.asked, any_of.hopeless(lambda operation: None))

    assert steps_of(look(few)) == steps_of(look(many))


def test_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that happens in one wait, however often it is asked whether they have stalled meanwhile."""
    monkeypatch.setattr("gloompi.engine.task.monotonic", lambda: 100.0)

    def prepare(count: int) -> Callable[[], object]:
        ones = waiting(count)
        any_of = AnyOf([one.task for one in ones])

        def wait() -> None:
            with any_of.while_told():
                for one in ones:
                    any_of.stalled(0.05)
                    assert any_of.done == ones[0].task.done
                    one.go_on()

        return wait

    assert_linear(prepare)
