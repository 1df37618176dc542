"""What is outstanding on a channel, and whom it needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from effort import assert_linear, steps_of

from gloompi.engine.channel import Channel
from gloompi.engine.matching import Arrival
from gloompi.engine.operation import Receive, Send

MARK = bytes(32)
WAYS = ["posted", "awaiting", "waiting"]


def needed(way: str, rank: int, count: int = 1, collective: bool = True) -> Channel:
    """A channel on which so many things need a rank."""
    channel = Channel(1, collective)
    for tag in range(count):
        if way == "posted":
            channel.matcher.post(Receive(channel, rank, tag, None, 0, MARK))
        elif way == "awaiting":
            channel.awaiting.put(rank, tag, Receive(channel, rank, tag, None, 0, MARK))
        else:
            channel.waiting.put(rank, tag, Send(channel, rank, tag, memoryview(b""), MARK))
    return channel


@pytest.mark.parametrize("way", WAYS)
def test_it_involves_those_that_something_needs(way: str) -> None:
    channel = needed(way, 2, 3)
    assert [channel.involves(rank) for rank in range(4)] == [False, False, True, False]
    for tag in range(3):
        assert channel.involves(2)
        if way == "posted":
            channel.matcher.match(2, tag)
        else:
            (channel.awaiting if way == "awaiting" else channel.waiting).take(2, tag)
    assert not channel.involves(2)


@pytest.mark.parametrize("way", ["posted", "waiting"])
def test_a_message_of_the_user_concerns_only_who_waits_for_it(way: str) -> None:
    assert not needed(way, 2, collective=False).involves(2)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_one_look_costs_the_same_however_much_is_outstanding(way: str, rank: int) -> None:
    few, many = needed(way, 2, 1), needed(way, 2, 100)
    assert steps_of(lambda: many.involves(rank)) == steps_of(lambda: few.involves(rank))


def test_held_messages_are_asked_for_in_the_order_of_their_coming() -> None:
    channel = Channel(0, False)
    arrivals = [Arrival(1, 7, 8, MARK, announced=True) for _ in range(3)] + [Arrival(1, 7, 0, MARK, announced=False)]
    for each in arrivals:
        channel.hold(each)
    assert channel.held == set(arrivals)
    assert [channel.unasked.take(1, 7) for _ in range(4)] == [*arrivals[:3], None]


@pytest.mark.parametrize("announced", [False, True])
def test_however_many_messages_are_held(announced: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        channel = Channel(0, False)
        arrivals = [Arrival(1, tag, 0, MARK, announced) for tag in range(count)]

        def hold_and_let_go() -> None:
            for each in arrivals:
                channel.hold(each)
            for each in reversed(arrivals):
                channel.unasked.remove(1, each.tag, each)
                channel.held.discard(each)

        return hold_and_let_go

    assert_linear(prepare)
