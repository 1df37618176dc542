"""The rank and index arithmetic of the algorithms, by itself."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gloompi.collectives.fold import Fold
from gloompi.collectives.partition import Half, block, blocks, halves, power_of_two_within, tree

SIZES = range(1, 18)
COUNTS = (0, 1, 2, 3, 7, 8, 10, 16, 17, 100, 1023, 2**31 + 5)


def test_ten_elements_in_four_parts() -> None:
    assert blocks(10, 4) == [slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10)]
    assert block(10, 4, 1) == slice(2, 5)


@pytest.mark.parametrize("count", COUNTS)
def test_blocks_are_adjacent_complete_and_as_equal_as_can_be(count: int) -> None:
    for parts in SIZES:
        pieces = blocks(count, parts)
        assert pieces == [block(count, parts, index) for index in range(parts)]
        assert len(pieces) == parts
        assert (pieces[0].start, pieces[-1].stop) == (0, count)
        assert all(one.stop == two.start for one, two in pairwise(pieces))
        lengths = {piece.stop - piece.start for piece in pieces}
        assert lengths <= {count // parts, count // parts + 1}


def test_power_of_two_within() -> None:
    assert [power_of_two_within(size) for size in range(1, 18)] == [1, 2, 2, 4, 4, 4, 4, *[8] * 8, 16, 16]


def test_halves_of_eight_elements_in_four_places() -> None:
    assert halves(1, 4, 8) == [Half(0, slice(4, 8), slice(0, 4)), Half(3, slice(4, 6), slice(6, 8))]
    kept = [halves(place, 4, 8)[-1].keep for place in range(4)]
    assert kept == [slice(0, 2), slice(4, 6), slice(2, 4), slice(6, 8)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("places", [1, 2, 4, 8, 16])
def test_halves_fit_those_of_the_partner(places: int, count: int) -> None:
    ways = [halves(place, places, count) for place in range(places)]
    for place, way in enumerate(ways):
        assert len(way) == places.bit_length() - 1
        start, stop = 0, count
        for step, half in enumerate(way):
            assert half.partner == place ^ (1 << step)
            theirs = ways[half.partner][step]
            assert (theirs.partner, theirs.keep, theirs.give) == (place, half.give, half.keep)
            # Keep and give are what was kept before.
            assert sorted([half.keep.start, half.keep.stop, half.give.start, half.give.stop])[::3] == [start, stop]
            assert {half.keep.stop, half.keep.start} & {half.give.start, half.give.stop}
            start, stop = half.keep.start, half.keep.stop
    if places > 1:
        kept = sorted((way[-1].keep.start, way[-1].keep.stop) for way in ways)
        assert (kept[0][0], kept[-1][1]) == (0, count)
        assert all(one[1] == two[0] for one, two in pairwise(kept))


def test_a_tree_of_four_ranks() -> None:
    assert [tree(rank, 0, 4) for rank in range(4)] == [(None, [1, 2]), (0, []), (0, [3]), (2, [])]
    assert [tree(rank, 2, 4) for rank in range(4)] == [(2, [1]), (0, []), (None, [3, 0]), (2, [])]
    assert tree(0, 0, 1) == (None, [])


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_spans_all_ranks(size: int) -> None:
    steps = (size - 1).bit_length()
    for root in range(size):
        parents = {rank: tree(rank, root, size)[0] for rank in range(size)}
        children = {rank: tree(rank, root, size)[1] for rank in range(size)}
        assert [rank for rank, parent in parents.items() if parent is None] == [root]
        for rank in range(size):
            assert all(parents[child] == rank for child in children[rank])
            assert len(children[rank]) <= steps
            distances = [(child - rank) % size for child in children[rank]]
            assert distances == sorted(distances)  # nearest first
            depth, above = 0, rank
            while parents[above] is not None:
                depth, above = depth + 1, parents[above]
            assert above == root
            assert depth <= steps
        assert sorted(child for each in children.values() for child in each) == sorted(set(range(size)) - {root})
        if root == 0:
            # A subtree is a range of ranks that begins with its own rank, so that operands stay in order.
            for rank in range(size):
                below, todo = [], [rank]
                while todo:
                    below.append(todo.pop())
                    todo += children[below[-1]]
                assert sorted(below) == list(range(rank, rank + len(below)))


@pytest.mark.parametrize("size", SIZES)
def test_a_fold_gives_every_place_to_one_rank_in_rank_order(size: int) -> None:
    fold = Fold(size)
    assert fold.places == power_of_two_within(size)
    ranks = [fold.rank(place) for place in range(fold.places)]
    assert ranks == sorted(set(ranks))
    joined = sorted(set(range(size)) - set(ranks))
    assert len(joined) == size - fold.places
    assert all(rank % 2 == 0 and rank + 1 in ranks for rank in joined)


def test_five_ranks_in_four_places() -> None:
    assert [Fold(5).rank(place) for place in range(4)] == [1, 2, 3, 4]
    assert [Fold(7).rank(place) for place in range(4)] == [1, 3, 5, 6]
