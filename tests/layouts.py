"""Arrays of one content in several layouts, as inputs and as places to receive into."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["assert_only_inside", "layouts"]

_AROUND = 77


def layouts(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield arrays like `x`, which has at least one axis, in C order, in Fortran order, with gaps, and backwards."""
    yield x.copy()
    yield np.asfortranarray(x).copy(order="F")
    gaps = np.full((2 * len(x) + 1, *x.shape[1:]), _AROUND).astype(x.dtype)
    gaps[1::2] = x
    yield gaps[1::2]
    yield x[::-1].copy()[::-1]


def assert_only_inside(x: np.ndarray) -> None:
    """Assert that nothing was written between the rows of an array from `layouts`."""
    base = x.base
    if isinstance(base, np.ndarray) and base.shape[:1] == (2 * len(x) + 1,):
        np.testing.assert_array_equal(base[::2], np.full_like(base[::2], _AROUND))
