"""Who does what with which part of a vector: the rank and index arithmetic that several algorithms share."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Half", "block", "blocks", "halves", "power_of_two_within", "prime_factors", "tree"]


def block(count: int, parts: int, index: int) -> slice:
    """Part `index` of `count` elements cut into `parts` as equal as can be.

    10 elements in 4 parts: 0-2, 2-5, 5-7, 7-10.
    """
    return slice(count * index // parts, count * (index + 1) // parts)


def blocks(count: int, parts: int) -> list[slice]:
    """All parts of `block`."""
    return [block(count, parts, index) for index in range(parts)]


def power_of_two_within(size: int) -> int:
    """The largest power of two that is not above `size`."""
    return 1 << (size.bit_length() - 1)


def prime_factors(number: int) -> list[int]:
    """In ascending order; 12: 2, 2, 3."""
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


class Half(NamedTuple):
    """One step of recursive halving: the partner's place, the part that is kept and the part that is given away."""

    partner: int
    keep: slice
    give: slice


def halves(place: int, places: int, count: int) -> list[Half]:
    """Recursive vector halving with distance doubling, for a power of two of places.

    4 places, 8 elements: place 1 gives 0-4 to place 0 and keeps 4-8, then gives 6-8 to place 3 and keeps 4-6.
    """
    steps = []
    start, stop = 0, count
    distance = 1
    while distance < places:
        middle = (start + stop) // 2
        lower, upper = slice(start, middle), slice(middle, stop)
        keep, give = (upper, lower) if place & distance else (lower, upper)
        steps.append(Half(place ^ distance, keep, give))
        start, stop = keep.start, keep.stop
        distance *= 2
    return steps


def tree(rank: int, root: int, size: int) -> tuple[int | None, list[int]]:
    """Parent and children of a rank in a binomial tree, nearest child first.

    A place (rank counted from the root) hangs below the place without its lowest set bit.  4 ranks, root 0: 0 has the
    children 1 and 2, 2 has the child 3.
    """
    place = (rank - root) % size
    lowest = place & -place or size
    parent = (root + (place & (place - 1))) % size if place else None
    children = []
    distance = 1
    while distance < lowest and place + distance < size:
        children.append((root + place + distance) % size)
        distance *= 2
    return parent, children
