"""Queues by rank and tag, against lists."""

from __future__ import annotations

import random

import pytest
from effort import Noticed, assert_linear

from gloompi.engine.queues import Queues


class Item(Noticed):
    """Something that is put into a queue."""


def filled(*places: tuple[int, int]) -> tuple[Queues[Item], list[Item]]:
    queues: Queues[Item] = Queues()
    items = [Item() for _ in places]
    for (rank, tag), item in zip(places, items, strict=True):
        queues.put(rank, tag, item)
    return queues, items


def test_nothing_is_there() -> None:
    queues: Queues[Item] = Queues()
    assert not queues
    assert queues.first(1, 7) is queues.take(1, 7) is queues.only() is None
    assert not queues.remove(1, 7, Item())
    assert list(queues.items_of_all()) == []


def test_first_come_first_served() -> None:
    queues, (a, b, c) = filled((1, 7), (1, 7), (1, 7))
    assert queues.first(1, 7) is a
    assert list(queues.items_of_all()) == [a, b, c]
    assert [queues.take(1, 7) for _ in range(4)] == [a, b, c, None]
    assert not queues


def test_rank_and_tag_both_count() -> None:
    queues, (a, b, c) = filled((1, 7), (2, 7), (1, 8))
    assert queues.take(7, 1) is queues.take(2, 8) is None
    assert [queues.take(1, 8), queues.take(1, 7), queues.take(2, 7)] == [c, a, b]


def test_ranks_for_which_something_waits() -> None:
    queues, (a, _, c) = filled((1, 7), (2, 7), (2, 8))
    assert set(queues) == {1, 2}
    queues.take(2, 7)
    assert set(queues) == {1, 2}
    queues.remove(2, 8, c)
    assert set(queues) == {1}
    queues.remove(1, 7, a)
    assert not queues


@pytest.mark.parametrize("which", range(3))
def test_taken_out_of_a_queue(which: int) -> None:
    queues, items = filled((1, 7), (1, 7), (1, 7))
    taken = items.pop(which)
    assert not queues.remove(1, 8, taken)
    assert not queues.remove(2, 7, taken)
    assert queues.remove(1, 7, taken)
    assert not queues.remove(1, 7, taken)
    assert [queues.take(1, 7) for _ in range(3)] == [*items, None]


def test_the_only_queue() -> None:
    queues, (a, b, _) = filled((1, 7), (1, 7), (1, 8))
    assert queues.only() is None
    queues.take(1, 8)
    assert queues.only() is a
    queues.take(1, 7)
    assert queues.only() is b
    queues.put(2, 7, Item())
    assert queues.only() is None


def test_clear_forgets_what_is_behind() -> None:
    queues, _ = filled((1, 7), (1, 7))
    queues.clear()
    item = Item()
    queues.put(1, 7, item)
    assert [queues.take(1, 7), queues.take(1, 7)] == [item, None]


@pytest.mark.parametrize("seed", range(10))
def test_any_sequence(seed: int) -> None:
    generator = random.Random(seed)
    queues: Queues[Item] = Queues()
    lists: dict[tuple[int, int], list[Item]] = {(rank, tag): [] for rank in range(3) for tag in range(3)}
    for _ in range(1000):
        place = generator.randrange(3), generator.randrange(3)
        there = lists[place]
        choice = generator.random()
        if choice < 0.5:
            there.append(Item())
            queues.put(*place, there[-1])
        elif choice < 0.75:
            assert queues.take(*place) is (there.pop(0) if there else None)
        elif there:
            item = there.pop(generator.randrange(len(there)))
            assert queues.remove(*place, item)
        assert queues.first(*place) is (there[0] if there else None)
        assert set(queues) == {rank for (rank, _), waits in lists.items() if waits}
    assert set(queues.items_of_all()) == {item for waits in lists.values() for item in waits}


@pytest.mark.parametrize("way", ["as they came", "backwards", "removed as they came"])
def test_however_much_waits(way: str) -> None:
    def prepare(count: int) -> object:
        queues, items = filled(*[(1, 7)] * count)

        def empty() -> None:
            for item in items if way == "removed as they came" else reversed(items):
                if way == "as they came":
                    assert queues.take(1, 7) is not None
                else:
                    assert queues.remove(1, 7, item)

        return empty

    assert_linear(prepare)
