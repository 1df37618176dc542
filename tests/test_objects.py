"""The bytes of Python objects: their format, and which of the arrays in them are copied on arrival."""

from __future__ import annotations

import gc
import pickle
import threading
import tracemalloc
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from gloompi import Context
from gloompi.objects import PICKLE, Pickler, decode, encode
from gloompi.testing import run_ranks

# A pickle of 3 bytes with buffers of 5, 0 and 65 bytes.
HEADER = (
    b"\0gloompi"
    b"\x03\0\0\0\0\0\0\0"  # bytes of the pickle
    b"\x03\0\0\0\0\0\0\0"  # buffers
    b"\x05\0\0\0\0\0\0\0"
    b"\x00\0\0\0\0\0\0\0"
    b"\x41\0\0\0\0\0\0\0"
)
BUFFERS = [b"first", b"", bytes(range(65))]
# The pickle at 64, the buffers at 128, 192 and 192; what is between them is of no account.
WHOLE = HEADER.ljust(64, b"-") + b"abc".ljust(64, b"-") + b"first".ljust(64, b"-") + bytes(range(65))


def parts(pickled: bytes = b"abc", buffers: Iterable[Any] = BUFFERS) -> Pickler:
    """A pickler of fixed output that returns its input."""
    return Pickler(lambda obj: (pickled, list(buffers)), lambda data, found: (data, list(found)))


def passed(obj: Any) -> Any:
    """What a receiver makes of an object, from memory that it may write."""
    return decode(memoryview(bytearray(encode(obj).tobytes())))


# -- the format ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obj", [None, 0, "text", b"\0gloompi", [1, {"a": (2.5, None)}], bytearray(100_000)], ids=type)
def test_an_object_without_buffers_is_a_plain_pickle(obj: Any) -> None:
    message = encode(obj)
    assert (message.ndim, message.dtype) == (1, np.uint8)
    assert message.tobytes() == pickle.dumps(obj, 5)
    assert passed(obj) == obj


def test_bytes_of_a_plain_pickle() -> None:
    assert encode(7).tobytes() == b"\x80\x05K\x07."
    assert decode(memoryview(b"\x80\x05K\x07.")) == 7
    assert decode(memoryview(b"\x80\x02K\x07.")) == 7  # of another protocol


def test_bytes_of_an_object_with_buffers() -> None:
    message = encode(None, parts())
    assert (message.ndim, message.dtype, len(message)) == (1, np.uint8, len(WHOLE))
    found = message.tobytes()
    assert found[:48] == HEADER
    assert found[64:67] == b"abc"
    assert found[128:133] == b"first"
    assert found[192:] == BUFFERS[2]


def test_an_object_with_buffers_from_its_bytes() -> None:
    pickled, buffers = decode(memoryview(WHOLE), parts())
    assert bytes(pickled) == b"abc"
    assert [bytes(each) for each in buffers] == BUFFERS


@pytest.mark.parametrize(
    ("pickled", "buffers"),
    [
        (b"", [b""]),
        (b"x" * 64, [b"y" * 64]),
        (b"x" * 65, [b"y" * 63, b"z" * 128]),
        (b"x", [bytes([number]) * number for number in range(200)]),
    ],
)
def test_lengths_around_the_alignment(pickled: bytes, buffers: list[bytes]) -> None:
    message = encode(None, parts(pickled, buffers))
    found, found_buffers = decode(message.data, parts())
    assert bytes(found) == pickled
    assert [bytes(each) for each in found_buffers] == buffers


def test_every_buffer_lies_at_a_multiple_of_64_bytes() -> None:
    message = encode([np.ones(count, "u1") for count in (449, 511, 512, 513, 1000)])  # none of them is far smaller
    start = message.__array_interface__["data"][0]
    for array in decode(message.data):
        assert (array.__array_interface__["data"][0] - start) % 64 == 0


@pytest.mark.parametrize("buffer", [bytearray(b"12345678"), memoryview(b"12345678"), np.arange(8, dtype="u1") + 49])
def test_a_pickler_may_give_buffers_of_any_kind(buffer: Any) -> None:
    _, (found,) = decode(encode(None, parts(buffers=[buffer])).data, parts())
    assert bytes(found) == b"12345678"


# -- arrays -------------------------------------------------------------------------------------------------------------

ARRAYS = {
    "C order": np.arange(60.0).reshape(6, 10),
    "Fortran order": np.asfortranarray(np.arange(60.0).reshape(6, 10)),
    "0-d": np.array(2.5),
    "empty": np.empty((0, 5), "i4"),
    "bool": np.array([True, False]),
    "big endian": np.arange(5, dtype=">i4"),
    "complex": np.arange(5) * 1j,
    "long double": np.arange(5, dtype="g"),
    "text": np.array(["abc", "d"]),
    "structure": np.array([(1, 2.5, b"xy")], [("a", "i4"), ("b", "f8"), ("c", "S3")]),
    "long": np.arange(100_000, dtype="i2"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_lies_in_the_message(name: str) -> None:
    array = ARRAYS[name]
    message = encode({"array": array, "rank": 3})
    found = decode(message.data)["array"]
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.strides == array.strides or not array.size
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable
    assert not found.flags.owndata
    assert np.shares_memory(found, message) or not array.size
    assert not np.shares_memory(array, message)


@pytest.mark.parametrize(
    ("small", "others", "apart"),
    [
        (100, 400, False),  # nothing of a short message is
        (100, 2000, True),
        (1000, 5000, False),
        (1000, 8000, True),
        (64 * 1024, 380_000, False),
        (64 * 1024, 600_000, True),
        (66_000, 600_000, False),
        (66_000, 4_000_000, False),
        (66_000, 4_400_000, True),
    ],
)
def test_an_array_that_is_far_smaller_than_the_message_has_memory_of_its_own(small: int, others: int, apart: bool) -> None:
    first, last = np.arange(small, dtype="u1"), np.arange(small, dtype="u1")[::-1].copy()
    last.flags.writeable = False
    message = encode([first, np.zeros(others, "u1"), last, first])
    found = decode(message.data)
    assert [np.shares_memory(each, message) for each in found] == [not apart, True, not apart, not apart]
    assert found[0] is found[3]
    assert [each.flags.writeable for each in found[:3]] == [True, True, False]
    for sent, came in zip((first, last), found[::2], strict=False):
        np.testing.assert_array_equal(sent, came)
    alive = weakref.ref(message)
    del message, found[1]
    assert (alive() is None) == apart


def test_what_is_kept_of_received_objects_keeps_nothing_else() -> None:
    def body(ctx: Context) -> list[Any]:
        kept, sent = [], {"mean": np.arange(4.0), "data": np.zeros(250_000)}
        other = 1 - ctx.rank
        for _ in range(10):
            request = ctx.isend_object(sent, other)
            kept.append(ctx.recv_object(other)["mean"])
            request.wait()
            for root in range(2):
                found = ctx.broadcast_object(sent if ctx.rank == root else None, root=root)
                kept += [found["mean"]] if ctx.rank != root else []
            kept += [each["mean"] for each in ctx.allgather_object(sent)]
        return kept

    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = run_ranks(2, body)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000  # one message
    finally:
        tracemalloc.stop()
    assert all(each.tolist() == [0, 1, 2, 3] for found in kept for each in found)


def test_arrays_that_have_no_buffer_arrive_as_copies() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    # The buffer protocol has no format for these dtypes, so NumPy puts their items inside the pickle.
    for array in (np.array(["2024-02-29", "NaT"], "M8[D]"), np.arange(5).astype("m8[s]"), np.arange(50).astype(bfloat16)):
        found = passed(array)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "array", [np.arange(20.0)[::2], np.arange(20.0).reshape(4, 5)[:, 1:3], np.broadcast_to(1.0, (3, 2))]
)
def test_an_array_with_gaps_arrives_without_them(array: np.ndarray) -> None:
    found = passed(array)
    assert found.flags.c_contiguous or found.flags.f_contiguous
    np.testing.assert_array_equal(found, array)


def test_an_array_of_objects_is_a_plain_pickle() -> None:
    array = np.array([1, None, "x"], object)
    assert encode(array)[0] != 0
    assert passed(array).tolist() == [1, None, "x"]


def test_read_only_stays_read_only() -> None:
    array, other = np.arange(5), np.arange(5)
    array.flags.writeable = False
    message = encode([array, other, array])
    found, writable, again = decode(message.data)
    assert not found.flags.writeable
    assert writable.flags.writeable
    assert found is again
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        found.flags.writeable = True
    assert np.shares_memory(found, message)


def test_an_array_that_occurs_twice_is_sent_once() -> None:
    array = np.arange(10_000)
    message = encode([array, array])
    assert len(message) < 1.1 * array.nbytes
    one, two = decode(message.data)
    assert one is two


def test_arrays_of_one_message_are_apart() -> None:
    found = passed([np.arange(3), np.arange(3), np.arange(0), np.arange(5)])
    found[0][...] = -1
    assert [each.tolist() for each in found] == [[-1] * 3, [0, 1, 2], [], [0, 1, 2, 3, 4]]


def test_a_change_after_encoding_changes_nothing() -> None:
    array, items = np.arange(3), [1]
    message = encode((array, items))
    array[...] = -1
    items.append(2)
    found, others = decode(message.data)
    assert (found.tolist(), others) == ([0, 1, 2], [1])


def test_raw_memory_goes_beside_the_pickle() -> None:
    data = bytearray(b"abc")
    message = encode([pickle.PickleBuffer(data), pickle.PickleBuffer(b"xyz")])
    writable, read_only = decode(message.data)
    assert (bytes(writable), bytes(read_only)) == (b"abc", b"xyz")
    assert (writable.readonly, read_only.readonly) == (False, True)
    assert np.shares_memory(np.frombuffer(writable, "u1"), message)


def test_a_buffer_beyond_two_gibibytes_is_found() -> None:
    # Of the first buffer nothing is ever written or read, so that it takes no memory.
    nbytes = 2**31 + 7
    pickled = b"\x80\x05]\x94(\x97\x97e."  # a list of two buffers
    message = np.zeros(128 + nbytes + 57 + 5, "u1")
    message[:40] = np.frombuffer(np.array([0, len(pickled), 2, nbytes, 5], "<u8").tobytes(), "u1")
    message[:8] = np.frombuffer(b"\0gloompi", "u1")
    message[64 : 64 + len(pickled)] = np.frombuffer(pickled, "u1")
    message[-5:] = range(5)
    large, after = decode(message.data)
    assert len(large) == nbytes
    assert bytes(after) == bytes(range(5))


# -- objects that cannot be pickled -----------------------------------------------------------------------------------------


class Refuses:
    def __reduce__(self) -> Any:
        raise ArithmeticError("not this one")


def _broken() -> Any:
    raise ArithmeticError("not here")


class BreaksOnArrival:
    def __reduce__(self) -> Any:
        return _broken, ()


@pytest.mark.parametrize(
    ("obj", "error"),
    [
        (Refuses(), ArithmeticError),
        ([np.arange(3), Refuses()], ArithmeticError),
        (threading.Lock(), TypeError),
        ((number for number in ()), TypeError),
        (lambda: None, (pickle.PicklingError, AttributeError)),
    ],
)
def test_what_cannot_be_pickled_raises_what_pickle_does(obj: Any, error: Any) -> None:
    with pytest.raises(error) as caught:
        encode(obj)
    with pytest.raises(type(caught.value)) as own:
        pickle.dumps(obj, 5)
    assert str(caught.value) == str(own.value)


@pytest.mark.parametrize("more", [(), (np.arange(3),)])
def test_what_cannot_be_unpickled_raises_what_it_does(more: tuple[Any, ...]) -> None:
    with pytest.raises(ArithmeticError, match=r"^not here$"):
        decode(encode([BreaksOnArrival(), *more]).data)


def test_pickle_is_the_default() -> None:
    data, buffers = PICKLE.dumps([np.arange(3), 1])
    assert data[:2] == b"\x80\x05"
    assert len(buffers) == 1
    array, number = PICKLE.loads(memoryview(data), [memoryview(bytearray(np.arange(3).tobytes()))])
    assert (array.tolist(), number) == ([0, 1, 2], 1)
