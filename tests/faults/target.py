"""A target: something that reads bytes of strangers and of peers, as a function of the bytes.

It returns if the bytes were taken or refused as they should be; any exception is a finding.  `within` adds that it allocates
no more than is documented.
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gloompi.engine.messages import CREDIT_NBYTES

__all__ = [
    "CAP_NBYTES",
    "GENERATED",
    "MAX_INPUT_NBYTES",
    "NOISE_NBYTES",
    "Fuzzed",
    "Target",
    "changed",
    "generated",
    "within",
]

# What a peer may make a rank keep, see `gloompi.engine.messages`. One frame makes it allocate `EAGER_NBYTES` at most, and
# nothing else that is read here needs as much.
CAP_NBYTES = CREDIT_NBYTES
MAX_INPUT_NBYTES = 2048
# What hypothesis draws at a time, and how many inputs are made of it: drawing takes far longer than reading.
NOISE_NBYTES, GENERATED = 404, 100


class Target(NamedTuple):
    """Something that reads bytes, and what it reads when all is well."""

    run: Callable[[bytes], None]
    seeds: list[bytes]


def changed(good: bytes, noise: bytes) -> bytes:
    """Good bytes after some edits, of which every four bytes of `noise` are one: where (2), how, and with what."""
    data = bytearray(good)
    for low, high, how, value in zip(*[iter(noise)] * 4, strict=False):
        position = (low | high << 8) % max(len(data), 1)
        match how % 6:
            case 0 | 1:
                data[position : position + 1] = bytes([value])
            case 2:
                data[position : position + 1] = bytes([data[position] ^ 1 << value % 8]) if data else b""
            case 3:  # a number that is far too large, or negative
                start = position & ~7
                data[start : start + 8] = struct.pack("<Q", (0xFF00000000000000 >> value % 57) | value)
            case 4:
                del data[position : position + 1 + value % 8]
            case 5:
                data[position:position] = data[position : position + value]
    return bytes(data)


def generated(target: Target, noise: bytes) -> Iterator[bytes]:
    """Inputs of a target: what it reads when all is well, with one to three edits each."""
    seeds = target.seeds
    for start in range(GENERATED):
        piece = noise[4 * start : 4 * start + 8]
        yield changed(seeds[(start + piece[3]) % len(seeds)], piece + noise[-4:] * (piece[2] % 2))


def within(run: Callable[[bytes], None], data: bytes) -> int:
    """Run a target, and check what it has allocated at a time; return that.  To be called while tracemalloc is tracing."""
    # Again if it was much: what other threads, imports and caches have taken, they take once.
    for _ in range(3):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        run(data)
        _, peak = tracemalloc.get_traced_memory()
        if peak - before <= CAP_NBYTES:
            return peak - before
    raise AssertionError(f"{peak - before} bytes were allocated for an input of {len(data)}")


class Fuzzed:
    """Runs a target on one input after another.

    Parameters
    ----------
    target : Target
    traced : int
        One input in so many has its allocations traced, which takes twice the time.

    Attributes
    ----------
    count : int
        Of inputs so far.
    peak : int
        The most that was allocated for one of those that were traced, bytes.
    """

    def __init__(self, target: Target, traced: int) -> None:
        self.target, self.traced = target, traced
        self.count = self.peak = 0

    def __call__(self, data: bytes) -> None:
        self.count += 1
        if self.count % self.traced:
            self.target.run(data)
            return
        tracemalloc.start()
        try:
            nbytes = within(self.target.run, data)
            if (
                nbytes > self.peak
            ):  # what the first to come this way takes once, such as the tables of coverage, is not its own
                nbytes = min(nbytes, within(self.target.run, data))
            self.peak = max(self.peak, nbytes)
        finally:
            tracemalloc.stop()
