"""Buffers: blocks and ranks, parts of items, memory and its life, items for reductions, and the texts of errors."""

from __future__ import annotations

import ctypes
import gc
import mmap
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from buffer_kinds import ALL_DERIVED, DERIVED, INT, GpuArray, Tensor, filled, ints, pattern, transfer
from mpi4py import MPI

from gloompi.facade.buffers import Buffer, simple, vector, vector_w


@pytest.mark.parametrize("nbytes", range(25))
def test_bytes_of_a_part_of_an_item_are_delivered(nbytes: int) -> None:
    datatype = DERIVED["indexed"]  # bytes 4 to 12 and 16 to 20 of 20
    places = [*range(4, 12), *range(16, 20), *range(20, 28), *range(32, 36)]
    expected = filled(64)
    expected[places[:nbytes]] = pattern()[:nbytes]
    memory = filled(64)
    buffer = simple([memory, 2, datatype], readonly=False)
    # The extent is from the first byte of the data to the last: 16 bytes from one item to the next.
    assert (buffer.nbytes, datatype.Get_extent()) == (24, (4, 16))
    received = buffer.incoming()
    received[:] = 0x55
    received[:nbytes] = pattern()[:nbytes]
    buffer.deliver(received, nbytes)
    assert memory.tobytes() == expected.tobytes()


def test_more_bytes_than_the_message_are_refused() -> None:
    buffer = simple([filled(64), 2, DERIVED["indexed"]], readonly=False)
    with pytest.raises(ValueError, match=r"^nbytes must be in range\(25\), not 25$"):
        buffer.deliver(buffer.incoming(), 25)


def test_datatype_null_is_not_looked_at_where_there_are_no_items() -> None:
    (buffer,) = vector_w([ints(), [0], [0], [MPI.DATATYPE_NULL]], 1, readonly=True)
    assert (buffer.nbytes, buffer.count) == (0, 0)


def test_objects_are_not_sent_as_bytes() -> None:
    with pytest.raises(TypeError) as caught:
        simple([np.array([None]), MPI.BYTE], readonly=True)
    assert str(caught.value) == (
        "message: the array has dtype object, whose items are Python objects: send them by send, not Send"
    )


# -- several ranks --------------------------------------------------------------------------------------------------------


def places(buffers: list[Buffer]) -> list[tuple[int, int, int]]:
    return [(buffer.offset, buffer.count, buffer.nbytes) for buffer in buffers]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ints(), [(0, 3, 12), (12, 3, 12), (24, 3, 12), (36, 3, 12)]),
        (ints(10), [(0, 3, 12), (12, 3, 12), (24, 2, 8), (32, 2, 8)]),
        (ints(2), [(0, 1, 4), (4, 1, 4), (8, 0, 0), (8, 0, 0)]),
        ([ints(), 2], [(0, 2, 8), (8, 2, 8), (16, 2, 8), (24, 2, 8)]),
        ([ints(), [0, 1, 2, 3]], [(0, 0, 0), (0, 1, 4), (4, 2, 8), (12, 3, 12)]),
        ([ints(), (2, 3)], [(0, 2, 8), (12, 2, 8), (24, 2, 8), (36, 2, 8)]),
        ([ints(), ([1, 2, 3, 0], [9, 7, 4, 99])], [(36, 1, 4), (28, 2, 8), (16, 3, 12), (396, 0, 0)]),
        ([ints(), (1, np.array([3, 2, 1, 0])), "i"], [(12, 1, 4), (8, 1, 4), (4, 1, 4), (0, 1, 4)]),
        ([b"", "B"], [(0, 0, 0)] * 4),
    ],
)
def test_vector_of_four_ranks(spec: Any, expected: list[tuple[int, int, int]]) -> None:
    assert places(vector(spec, 4, readonly=True)) == expected


def test_vector_of_three_ranks_counts_extents() -> None:
    # Each item: 2 ints of 3 and a gap up to 12 bytes of extent 16.
    datatype = INT.Create_vector(2, 1, 2).Create_resized(0, 16).Commit()
    memory = pattern()
    buffers = vector([memory, ([1, 2, 1], [5, 0, 3]), datatype], 3, readonly=True)
    assert places(buffers) == [(80, 1, 8), (0, 2, 16), (48, 1, 8)]
    for buffer, items in zip(buffers, ([5], [0, 1], [3]), strict=True):
        expected = b"".join(memory[16 * item + part :][:4].tobytes() for item in items for part in (0, 8))
        assert buffer.outgoing().tobytes() == expected
    datatype.Free()


def test_vector_w_of_three_ranks_counts_bytes() -> None:
    memory = pattern()
    datatypes = [MPI.BYTE, DERIVED["vector"], MPI.DOUBLE]
    buffers = vector_w([memory, [3, 1, 2], [1, 10, 100], datatypes], 3, readonly=True)
    assert places(buffers) == [(1, 3, 3), (10, 1, 8), (100, 2, 16)]
    assert [buffer.dense for buffer in buffers] == [True, False, True]
    assert buffers[1].outgoing().tobytes() == memory[10:14].tobytes() + memory[22:26].tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", ["contiguous", "vector", "hole at the end"])
def test_blocks_follow_each_other(size: int, name: str) -> None:
    datatype = DERIVED[name]
    _, extent = datatype.Get_extent()
    memory = pattern(size * 2 * extent)
    first = simple([memory, datatype], readonly=True, blocks=size)
    assert first.count == 2
    for rank in range(size):
        block = first.after(rank)
        expected = simple([memory, 2, 2 * rank, datatype], readonly=True)
        assert (block.offset, block.count) == (expected.offset, 2)
        assert block.outgoing().tobytes() == expected.outgoing().tobytes()


def test_blocks_of_no_items() -> None:
    assert simple(np.empty(0), readonly=True, blocks=4).after(3).nbytes == 0


def test_count_of_one_block_is_given_or_inferred() -> None:
    assert simple(ints(), readonly=True, blocks=4).count == 3
    assert simple([ints(), 2], readonly=True, blocks=4).count == 2
    assert simple([ints(), (None, 4)], readonly=True, blocks=4).count == 2


# -- errors of gloompi's own ----------------------------------------------------------------------------------------------

TEXTS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: simple([ints(10), (8, 3), INT], readonly=True),
        ValueError,
        "message: 8 items of MPI_INT at byte 12 need 44 bytes, but the buffer has 40: check count, displacement "
        "and datatype, "
        "or pass a larger buffer",
    ),
    (
        lambda: simple([ints(10), 4], readonly=True, blocks=3),
        ValueError,
        "message: 12 items of MPI_INT at byte 0 need 48 bytes, but the buffer has 40: check count, displacement "
        "and datatype, "
        "or pass a larger buffer",
    ),
    (
        lambda: simple([ints(10), 4], readonly=True).after(2),
        ValueError,
        "message, block 2: 4 items of MPI_INT at byte 32 need 48 bytes, but the buffer has 40: check count, "
        "displacement and "
        "datatype, or pass a larger buffer",
    ),
    (
        lambda: simple([ints(10), 1, DERIVED["negative lower bound"]], readonly=True),
        ValueError,
        "message: 1 items of a derived datatype at byte 0 begin at byte -4, but the buffer has 40: check count, "
        "displacement and "
        "datatype, or pass a larger buffer",
    ),
    (
        lambda: vector([ints(10), [4, 4, 4]], 3, readonly=True),
        ValueError,
        "message, block 2: 4 items of MPI_INT at byte 32 need 48 bytes, but the buffer has 40: check count, "
        "displacement and "
        "datatype, or pass a larger buffer",
    ),
    (
        lambda: vector([ints(10), (1, [0, -1])], 2, readonly=True),
        ValueError,
        "message, block 1: 1 items of MPI_INT at byte -4 begin at byte -4, but the buffer has 40: check count, "
        "displacement and "
        "datatype, or pass a larger buffer",
    ),
    (
        lambda: vector_w([ints(10), [1, 2], [0, 36], [INT, INT]], 2, readonly=True),
        ValueError,
        "message, block 1: 2 items of MPI_INT at byte 36 need 44 bytes, but the buffer has 40: check count, "
        "displacement and "
        "datatype, or pass a larger buffer",
    ),
    (
        lambda: simple([MPI.BOTTOM, 3, INT], readonly=True),
        NotImplementedError,
        "message: BOTTOM with 3 items of MPI_INT: gloompi sends from and receives into buffers, not absolute "
        "addresses; pass "
        "the buffer and displacements in it",
    ),
    (
        lambda: vector([None, [1], [0], INT], 1, readonly=True),
        ValueError,
        "message: the buffer is None, but the count of block 0 is 1: pass a buffer, or count 0",
    ),
    (
        lambda: simple({}, readonly=True),
        TypeError,
        "message: expecting buffer or list/tuple, not dict: pass an object with the buffer protocol, DLPack or "
        "__cuda_array_interface__, or a list that begins with one",
    ),
    (
        lambda: simple(ints()[::2], readonly=True),
        BufferError,
        "message: this numpy.ndarray is not contiguous (strides (8,)): send a contiguous copy, or describe the strides by a "
        "derived datatype over the whole array",
    ),
    (
        lambda: simple(b"abc", readonly=False),
        BufferError,
        "message: this bytes is read-only and cannot receive",
    ),
    (
        lambda: simple([b"abcde", INT], readonly=True),
        ValueError,
        "message: cannot infer the count: 5 bytes are not a multiple of the extent 4 of MPI_INT; give the count",
    ),
    (
        lambda: simple(ints(10), readonly=True, blocks=4),
        ValueError,
        "message: cannot infer the count: 10 items of MPI_INT are not a multiple of 4 blocks; give the count of one block",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), TEXTS)
def test_error_text(call: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == text


def test_nothing_outside_the_buffer_is_needed_by_the_last_item() -> None:
    # Two items of extent 12 whose data is 4 bytes: 16 bytes are enough.
    datatype = DERIVED["hole at the end"]
    memory = ints(4)
    buffer = simple([memory, 2, datatype], readonly=True)
    assert buffer.outgoing().tobytes() == memory[[0, 3]].tobytes()
    with pytest.raises(ValueError, match="need 16 bytes, but the buffer has 12"):
        simple([memory[:3], 2, datatype], readonly=True)
    simple([memory[:3], 0, datatype], readonly=True)


def test_bottom_without_bytes_is_no_buffer() -> None:
    for spec in ([MPI.BOTTOM, 0, INT], [MPI.BOTTOM, 3, DERIVED["zero size"]]):
        buffer = simple(spec, readonly=True)
        assert (buffer.nbytes, buffer.memory.size) == (0, 0)


# -- memory ---------------------------------------------------------------------------------------------------------------


def unreadable(nbytes: int) -> int:
    """An address that nothing is mapped at: that of a mapping which is gone, followed by its guard."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    no_access, private_anonymous = 0, 0x22
    return int(libc.mmap(None, nbytes, no_access, private_anonymous, -1, 0))


def test_memory_of_a_gpu_is_refused() -> None:
    x = GpuArray(ints(), data=(unreadable(4096), False))
    with pytest.raises(TypeError) as caught:
        simple(x, readonly=True)
    assert str(caught.value) == (
        "message: the 48 bytes of this buffer_kinds.GpuArray are not in memory that the host can read: gloompi needs "
        "host memory; pass a copy there, such as x.get() of CuPy or x.cpu() of PyTorch, and copy back what arrives"
    )


def test_memory_whose_end_is_of_a_gpu_is_refused() -> None:
    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    address = unreadable(2 * page)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(address, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    simple(GpuArray(ints(), data=(address, False), shape=(page // 4,), strides=None), readonly=True)
    with pytest.raises(TypeError, match="are not in memory that the host can read"):
        simple(GpuArray(ints(), data=(address, False), shape=(page // 4 + 1,), strides=None), readonly=True)


@pytest.mark.usefixtures("nothing_leaks")
def test_looking_at_gpu_memory_leaks_no_files() -> None:
    bad = GpuArray(ints(), data=(unreadable(4096), False))
    for _ in range(10):
        simple(GpuArray(ints()), readonly=True)
        with pytest.raises(TypeError):
            simple(bad, readonly=True)


class Weak(bytearray):
    pass


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: np.frombuffer(x, "i"),
        lambda x: memoryview(x),
        lambda x: np.frombuffer(x, "i").reshape(2, 2).T.data,
        lambda x: Tensor(np.frombuffer(x, "i")),
        lambda x: Tensor(np.frombuffer(x, "i"), versioned=False),
        lambda x: GpuArray(np.frombuffer(x, "i")),
    ],
    ids=["itself", "ndarray", "memoryview", "memoryview in Fortran order", "tensor", "old tensor", "GPU array"],
)
def test_memory_lives_as_long_as_the_buffer(wrap: Callable[[Any], Any]) -> None:
    owner = Weak(bytes(range(16)))
    alive = weakref.ref(owner)
    buffer = simple(wrap(owner), readonly=False)
    del owner
    gc.collect()
    assert alive() is not None
    assert sorted(buffer.outgoing().tobytes()) == list(range(16))
    del buffer
    gc.collect()
    assert alive() is None


def test_dense_messages_are_views() -> None:
    x = ints()
    buffer = simple([x, (3, 2)], readonly=False)
    assert buffer.dense
    assert np.shares_memory(buffer.outgoing(), x[2:5])
    assert np.shares_memory(buffer.incoming(), x[2:5])
    assert buffer.memory.nbytes == x.nbytes


@pytest.mark.parametrize("name", ALL_DERIVED)
def test_dense_is_what_has_neither_gaps_nor_another_order(name: str) -> None:
    dense = {"contiguous", "consecutive", "struct without gaps", "duplicate", "zero size", "FLOAT_INT", "INT_INT"}
    (buffer,) = vector_w([pattern(), [1], [200], [ALL_DERIVED[name]]], 1, readonly=True)
    assert buffer.dense == (name in dense)


def test_padding_of_a_long_double_is_not_whatever_was_in_memory() -> None:
    datatype = MPI.LONG_DOUBLE.Create_vector(2, 1, 2).Commit()
    memory = np.arange(1, 5, dtype=np.longdouble)
    packed = simple([memory, 1, datatype], readonly=True).outgoing()
    assert packed.view(np.longdouble).tolist() == [1, 3]
    for _ in range(20):
        np.full(packed.size, 0xAA, np.uint8)  # what a new array of this size is likely to be given next
        assert simple([memory, 1, datatype], readonly=True).outgoing().tobytes() == packed.tobytes()
    datatype.Free()


@pytest.mark.parametrize("name", ["vector", "permuted", "contiguous"])
def test_datatype_may_be_freed_while_the_message_is_under_way(name: str) -> None:
    datatype = DERIVED[name].Dup()
    sent = simple([pattern(), 3, datatype], readonly=True)
    memory, expected = filled(), filled()
    received = simple([memory, 3, datatype], readonly=False)
    datatype.Free()
    transfer(sent, received)
    MPI.COMM_SELF.Sendrecv([pattern(), 3, DERIVED[name]], 0, 0, [expected, 3, DERIVED[name]], 0, 0)
    assert memory.tobytes() == expected.tobytes()


def test_messages_after_finalize() -> None:
    program = textwrap.dedent(
        """
        import numpy as np
        from mpi4py import MPI
        from gloompi.facade.buffers import simple, vector

        datatype = MPI.INT.Create_vector(2, 1, 2).Commit()
        early = simple([np.arange(4, dtype="i"), 1, datatype], readonly=True)
        MPI.Finalize()
        x = np.arange(4, dtype="i")
        print(bytes(simple(x, readonly=True).outgoing()) == bytes(x), simple([x, 3, 1, MPI.INT], readonly=True).items())
        print([buffer.count for buffer in vector([x, "i"], 3, readonly=True)])
        for call in (
            lambda: simple([x, 5], readonly=True),
            lambda: early.outgoing(),
            lambda: simple([x, 1, datatype], readonly=True),
        ):
            try:
                call()
            except Exception as exc:
                print(f"{type(exc).__name__}: {exc}")
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    gone = (
        "RuntimeError: message: MPI is finalized, and a derived datatype needs it to be packed: use predefined datatypes "
        "and contiguous buffers after MPI.Finalize()"
    )
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (
        0,
        "",
        [
            "True [1 2 3]",
            "[2, 1, 1]",
            "ValueError: message: 5 items of the datatype i4 at byte 0 need 20 bytes, but the buffer has 16: check count, "
            "displacement and datatype, or pass a larger buffer",
            gone,
            gone,
        ],
    )


def test_handle_that_is_used_again_means_another_datatype() -> None:
    handles = set()
    for blocks in range(1, 40):
        datatype = INT.Create_vector(2, blocks, blocks + 1).Commit()
        handles.add(datatype.handle)
        buffer = simple([pattern(), 1, datatype], readonly=True)
        assert buffer.nbytes == 8 * blocks
        del buffer
        datatype.Free()
    assert len(handles) < 39  # else this test has tested nothing


def test_read_only_memory_is_never_written() -> None:
    buffer = simple([bytes(64), 2, DERIVED["vector"]], readonly=True)
    with pytest.raises(ValueError, match=r"^the buffer of this message is read-only: it was made for sending$"):
        buffer.deliver(buffer.incoming())


# -- items, for reductions ------------------------------------------------------------------------------------------------

DTYPES = {
    "BYTE": "u1", "PACKED": "u1", "CHAR": "i1", "SIGNED_CHAR": "i1", "UNSIGNED_CHAR": "u1", "WCHAR": "i4",
    "SHORT": np.short, "INT": np.intc, "LONG": np.int_, "LONG_LONG": np.longlong,
    "UNSIGNED_SHORT": np.ushort, "UNSIGNED": np.uintc, "UNSIGNED_LONG": np.uint, "UNSIGNED_LONG_LONG": np.ulonglong,
    "FLOAT": "f4", "DOUBLE": "f8", "LONG_DOUBLE": np.longdouble,
    "C_BOOL": "?", "CXX_BOOL": "?", "INT8_T": "i1", "INT16_T": "i2", "INT32_T": "i4", "INT64_T": "i8",
    "UINT8_T": "u1", "UINT16_T": "u2", "UINT32_T": "u4", "UINT64_T": "u8", "AINT": np.intp, "COUNT": "i8", "OFFSET": "i8",
    "C_COMPLEX": "c8", "C_FLOAT_COMPLEX": "c8", "C_DOUBLE_COMPLEX": "c16", "C_LONG_DOUBLE_COMPLEX": np.clongdouble,
    "CXX_FLOAT_COMPLEX": "c8", "CXX_DOUBLE_COMPLEX": "c16", "CXX_LONG_DOUBLE_COMPLEX": np.clongdouble,
    "CHARACTER": "i1", "LOGICAL": "i4", "INTEGER": "i4", "REAL": "f4", "DOUBLE_PRECISION": "f8", "COMPLEX": "c8",
    "DOUBLE_COMPLEX": "c16", "LOGICAL1": "?", "INTEGER1": "i1", "INTEGER2": "i2", "INTEGER4": "i4", "INTEGER8": "i8",
    "REAL4": "f4", "REAL8": "f8", "COMPLEX8": "c8", "COMPLEX16": "c16", "FLOAT16_T": "f2", "REAL2": "f2",
    "FLOAT_INT": "V8", "INT_INT": "V8", "SHORT_INT": "V8", "DOUBLE_INT": "V16", "LONG_INT": "V16", "LONG_DOUBLE_INT": "V32",
}  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_items_of_a_predefined_datatype(name: str) -> None:
    datatype = getattr(MPI, name)
    if datatype == MPI.DATATYPE_NULL:
        pytest.skip("this MPI has it not")
    memory = pattern()
    items = simple([memory, 3, 2, datatype], readonly=False).items()
    assert items.dtype == np.dtype(DTYPES[name])
    assert items.shape == (3,)
    assert items.tobytes() == memory[2 * datatype.extent : 5 * datatype.extent].tobytes()
    assert np.shares_memory(items, memory)


@pytest.mark.parametrize("name", ["REAL16", "COMPLEX32"])
def test_items_of_quadruple_precision_are_no_long_double(name: str) -> None:
    datatype = getattr(MPI, name)
    if datatype == MPI.DATATYPE_NULL or datatype.extent == 0:
        pytest.skip("this MPI has it not")
    if np.finfo(np.longdouble).nmant == 112:
        pytest.skip("long double is quadruple precision here")
    assert simple([pattern(), 3, datatype], readonly=True).items().dtype == np.dtype((np.void, datatype.extent))


def test_items_of_derived_datatypes_are_voids_of_their_extent() -> None:
    for name, extent in (("contiguous", 12), ("vector", 16), ("hole at the end", 12), ("permuted", 8), ("struct", 32)):
        items = simple([pattern(), 3, 1, DERIVED[name]], readonly=True).items()
        assert items.dtype == np.dtype((np.void, extent))
        assert items.tobytes() == pattern()[extent : 4 * extent].tobytes()
    assert simple([pattern(), 3, DERIVED["duplicate"]], readonly=True).items().dtype == np.intc


def test_items_of_no_count_are_none() -> None:
    for datatype in (INT, DERIVED["vector"], DERIVED["zero size"]):
        assert simple([ints(), 0, datatype], readonly=True).items().shape == (0,)


def test_items_that_reach_beyond_their_extent_are_refused() -> None:
    with pytest.raises(NotImplementedError) as caught:
        simple([pattern(), 2, DERIVED["extent smaller than the data"]], readonly=True).items()
    assert str(caught.value) == (
        "reduction of a derived datatype: its data (bytes 0 to 16) is not inside its extent (bytes 0 to 4), so "
        "the items are no array"
    )


def test_items_whose_last_extent_is_not_in_the_buffer_get_it() -> None:
    memory = ints(4)
    items = simple([memory, 2, DERIVED["hole at the end"]], readonly=True).items()
    assert items.dtype == np.dtype((np.void, 12))
    assert items.tobytes() == memory.tobytes() + bytes(8)


def test_datatype_made_for_a_precision_is_known() -> None:
    datatype = MPI.Datatype.Create_f90_real(10, 100)
    for _ in range(2):
        buffer = simple([np.arange(5.0), datatype], readonly=True)
        assert buffer.dense
        assert buffer.items().tolist() == [0, 1, 2, 3, 4]
