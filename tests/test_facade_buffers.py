"""mpi4py's buffer specifications mean what mpi4py means by them.

Each is given to mpi4py's own communication on COMM_SELF, and to Buffers with a plain copy of bytes between them: the same
bytes must arrive at the same places, or an exception of the same type.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from buffer_kinds import (
    ALL_DERIVED,
    DERIVED,
    FOREIGN,
    INT,
    LARGE,
    UNCOMMITTED,
    GpuArray,
    Odd,
    Tensor,
    filled,
    gpu_with,
    ints,
    pattern,
    readonly,
    tensor_with,
    transfer,
    without,
)
from mpi4py import MPI

from gloompi.facade.buffers import simple, vector, vector_w

SELF = MPI.COMM_SELF

# -- the two sides of the comparison --------------------------------------------------------------------------------------


def by_mpi(send: Any, recv: Any) -> None:
    SELF.Sendrecv(send, 0, 0, recv, 0, 0)


def by_buffers(send: Any, recv: Any) -> None:
    source = simple(send, readonly=True)
    transfer(source, simple(recv, readonly=False))


def by_mpi_at(send: Any, recv: Any) -> None:
    """What Alltoallw means, by Sendrecv, which may receive less than it expects: it gets the address of a slice."""
    parts = [[memory[displ:], count, datatype] for memory, ((count,), (displ,)), (datatype,) in (send, recv)]
    SELF.Sendrecv(parts[0], 0, 0, parts[1], 0, 0)


def by_mpi_v(send: Any, recv: Any) -> None:
    SELF.Alltoallv(send, recv)


def by_buffers_v(send: Any, recv: Any) -> None:
    (target,) = vector(recv, 1, readonly=False)
    (source,) = vector(send, 1, readonly=True)
    transfer(source, target)


def by_mpi_w(send: Any, recv: Any) -> None:
    SELF.Alltoallw(send, recv)


def by_buffers_w(send: Any, recv: Any) -> None:
    (target,) = vector_w(recv, 1, readonly=False)
    (source,) = vector_w(send, 1, readonly=True)
    transfer(source, target)


def content_of(spec: Any) -> bytes:
    memory = spec[0] if isinstance(spec, (list, tuple)) else spec
    memory = memory.host if isinstance(memory, (Tensor, GpuArray)) else memory
    return b"" if memory is None or memory is MPI.BOTTOM else np.asarray(memory).tobytes("A")


def outcome(communicate: Callable[[Any, Any], None], case: Callable[[], tuple[Any, Any]]) -> Any:
    """What a transfer leaves in the receiver's memory, or the type of the exception (and MPI's class of error)."""
    send, recv = case()
    try:
        communicate(send, recv)
    except MPI.Exception as exc:
        return MPI.Exception, exc.Get_error_class()
    except Exception as exc:
        return type(exc)
    return content_of(recv)


# -- good specifications --------------------------------------------------------------------------------------------------

GOOD_SIMPLE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "ndarray": lambda: (ints(), ints(12, 50)),
    "of a tuple": lambda: ((ints(), INT), (ints(12, 50), INT)),
    "two dimensions": lambda: (ints().reshape(3, 4), np.zeros((2, 6), "i")),
    "Fortran order": lambda: (ints().reshape(3, 4).T, np.zeros((3, 4), "i", order="F")),
    "no dimension": lambda: (np.array(7), np.array(0)),
    "no items": lambda: (np.empty(0), np.empty((3, 0))),
    "part": lambda: (ints()[3:7], ints(12, 50)[5:9]),
    "shorter than the receiver's": lambda: (ints(3), ints(12, 50)),
    "native byte order, said so": lambda: (ints().astype("=i4"), np.zeros(12, np.dtype("i4").newbyteorder("="))),
    "foreign byte order, typed": lambda: ([ints().astype(FOREIGN + "i4"), INT], [np.zeros(12, FOREIGN + "i4"), INT]),
    "read-only": lambda: (readonly(ints()), ints(12, 50)),
    "dates, typed": lambda: ([np.arange(4).astype("M8[s]"), MPI.INT64_T], [np.zeros(4, "M8[s]"), MPI.INT64_T]),
    "records, typed": lambda: ([np.ones(4, "i4, f8"), MPI.BYTE], [np.zeros(4, "i4, f8"), MPI.BYTE]),
    "strings of length 1": lambda: (np.array([b"a", b"b"]), np.zeros(2, "S1")),
    "masked": lambda: (np.ma.masked_less(ints(), 3), ints(12, 50)),
    "subclass": lambda: (ints().view(Odd), np.zeros(12, "i").view(Odd)),
    "scalar": lambda: (np.float64(3), np.zeros(1)),
    "bytes": lambda: (b"abc", bytearray(3)),
    "array": lambda: (array.array("i", [1, 2]), array.array("i", [0, 0])),
    "memoryview": lambda: (memoryview(b"abc"), memoryview(bytearray(3))),
    "memoryview of Fortran order": lambda: (ints().reshape(3, 4).T.data, np.zeros((3, 4), "i", order="F").data),
    "ctypes": lambda: ((ctypes.c_int * 3)(1, 2, 3), (ctypes.c_int * 3)()),
    "mpi4py's": lambda: (MPI.buffer.frombuffer(bytearray(b"abc")), MPI.buffer.allocate(3, clear=True)),
    "mapped": lambda: (b"abc", [mmap.mmap(-1, 4096), "B"]),
    "None": lambda: ([None, "B"], [None, 0, INT]),
    "BOTTOM": lambda: ([MPI.BOTTOM, "B"], [MPI.BOTTOM, 0, 0, INT]),
    "IN_PLACE as a buffer": lambda: (MPI.IN_PLACE, ints()),
    "count": lambda: ([ints(), 5], [ints(12, 50), 5]),
    "count of NumPy": lambda: ([ints(), np.int8(5)], [ints(12, 50), np.array(5)]),
    "count 0": lambda: ([ints(), 0], [ints(12, 50), 0]),
    "count 0 of a large displacement": lambda: ([ints(), (0, 12)], [ints(12, 50), 0, 12, INT]),
    "count and None": lambda: ([ints(), (5, None)], [ints(12, 50), [5, None]]),
    "displacement": lambda: ([ints(), (None, 4)], [ints(12, 50), (None, 3), INT]),
    "count and displacement": lambda: ([ints(), (5, 4)], [ints(12, 50), [5, 3], "i"]),
    "four": lambda: ([ints(), 5, 4, INT], [ints(12, 50), 5, 3, "i4"]),
    "four, None": lambda: ([ints(), None, None, None], [ints(12, 50), None, None, None]),
    "a type of another size": lambda: ([ints(), (3, 1), MPI.DOUBLE], [ints(12, 50), (3, 2), MPI.DOUBLE]),
    "zero-size items": lambda: ([ints(), 3, DERIVED["zero size"]], [ints(12, 50), 2, DERIVED["zero size"]]),
    "tensor": lambda: (Tensor(ints()), Tensor(ints(12, 50))),
    "old tensor": lambda: (Tensor(ints(), versioned=False), Tensor(ints(12, 50), versioned=False)),
    "tensor in a list": lambda: ([Tensor(ints()), 3], [Tensor(ints(12, 50)), (3, 2), "i"]),
    "tensor in Fortran order": lambda: (Tensor(np.ones((2, 3), order="F")), Tensor(np.zeros((2, 3), order="F"))),
    "read-only tensor": lambda: (Tensor(readonly(ints())), ints(12, 50)),
    "tensor of a managed GPU": lambda: (Tensor(ints(), device=13), Tensor(ints(12, 50), device=13)),
    "tensor of a GPU in the host's memory": lambda: (Tensor(ints(), device=2), Tensor(ints(12, 50), device=2)),
    "empty tensor": lambda: (Tensor(ints(0)), Tensor(ints(0))),
    "GPU array in the host's memory": lambda: (GpuArray(ints()), GpuArray(ints(12, 50))),
    "GPU array without strides": lambda: (GpuArray(ints(), strides=None), GpuArray(ints(12, 50), strides=None)),
    "GPU array, read-only": lambda: (GpuArray(ints(), readonly=True), GpuArray(ints(12, 50))),
    "GPU array of any byte order": lambda: (GpuArray(ints(), typestr="|i4"), GpuArray(ints(12, 50))),
    "GPU array of foreign byte order, typed": lambda: ([GpuArray(ints(), typestr=FOREIGN + "i4"), INT], ints(12, 50)),
    "GPU array of unknown items": lambda: (GpuArray(ints(), typestr="|V4"), [ints(12, 50), MPI.BYTE]),
    "GPU array without memory": lambda: (GpuArray(ints(0), data=(None, False)), ints()),
}
CODES = "?bBhHiIlLqQefdgFDGc"
for code in CODES:
    GOOD_SIMPLE[f"dtype {code}"] = lambda code=code: (np.arange(5).astype(code), np.zeros(5, code))
    if code != "c":
        GOOD_SIMPLE[f"tensor of dtype {code}"] = lambda code=code: (
            Tensor(np.arange(5).astype(code)) if code not in "gG" else np.arange(5).astype(code),
            np.zeros(5, code),
        )
        GOOD_SIMPLE[f"GPU array of dtype {code}"] = lambda code=code: (
            GpuArray(np.arange(5).astype(code)),
            GpuArray(np.zeros(5, code)),
        )
for key in MPI._typedict:  # type: ignore[attr-defined]
    GOOD_SIMPLE[f"type string {key}"] = lambda key=key: ([pattern(64), 2, key], [filled(64), 2, key])


@pytest.mark.parametrize("case", GOOD_SIMPLE.values(), ids=GOOD_SIMPLE.keys())
def test_simple_places_bytes_where_mpi4py_does(case: Callable[[], tuple[Any, Any]]) -> None:
    expected = outcome(by_mpi, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers, case) == expected


@pytest.mark.parametrize("name", ALL_DERIVED)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_derived_datatype_is_placed_where_mpi4py_does(name: str, count: int) -> None:
    datatype = ALL_DERIVED[name]

    def case() -> tuple[Any, Any]:
        # In the middle of the memory, as some have items before their place.
        return [pattern(), ([count], [200]), [datatype]], [filled(), ([count], [160]), [datatype]]

    expected = outcome(by_mpi_at, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers_w, case) == expected


@pytest.mark.parametrize("name", [name for name, datatype in ALL_DERIVED.items() if datatype.Get_extent()[1] > 0])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_derived_datatype_is_displaced_as_mpi4py_does(name: str, count: int) -> None:
    datatype = ALL_DERIVED[name]

    def case() -> tuple[Any, Any]:
        return [pattern(), (count, 2), datatype], [filled(), count, 1, datatype]

    def case_v() -> tuple[Any, Any]:
        return [pattern(), (count, [2]), datatype], [filled(), count, [1], datatype]

    expected = outcome(by_mpi, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers, case) == expected
    assert outcome(by_mpi_v, case_v) == outcome(by_buffers_v, case_v) == expected


@pytest.mark.parametrize("name", ["negative extent", "no extent"])
def test_extent_that_is_not_positive_counts_backwards(name: str) -> None:
    def case() -> tuple[Any, Any]:
        return [pattern(), ([3], [-20]), DERIVED[name]], [filled(), ([3], [-9]), DERIVED[name]]

    if name == "negative extent":
        expected = outcome(by_mpi_v, case)
        assert isinstance(expected, bytes)
        assert outcome(by_buffers_v, case) == expected
    else:
        (buffer,) = vector([pattern(), ([3], [-20]), DERIVED[name]], 1, readonly=True)
        assert buffer.outgoing().tobytes() == pattern()[:4].tobytes() * 3


INT_BASED = [
    "vector", "hvector", "vector backwards", "indexed", "indexed_block", "permuted", "hole at the end",
    "negative lower bound",
    "extent smaller than the data", "contiguous of vectors", "contiguous of permuted", "subarray", "duplicate of vector",
    "hole at the beginning", "hindexed_block",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flat"), [(name, flat) for name in INT_BASED for flat in range(3 * DERIVED[name].Get_size() // 4 + 1)]
)
def test_fewer_bytes_than_expected_leave_the_rest_alone(name: str, flat: int) -> None:
    datatype = DERIVED[name]
    count = 3

    def case() -> tuple[Any, Any]:
        return [pattern(), ([flat], [0]), [INT]], [filled(), ([count], [160]), [datatype]]

    expected = outcome(by_mpi_at, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers_w, case) == expected


@pytest.mark.parametrize("name", LARGE)
def test_large_items_are_placed_where_mpi4py_does(name: str) -> None:
    def case() -> tuple[Any, Any]:
        return [pattern(60000), 1, LARGE[name]], [filled(60000), 1, LARGE[name]]

    expected = outcome(by_mpi, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers, case) == expected
    assert simple(case()[0], readonly=True).dense == (name not in ("permuted", "vector"))


GOOD_VECTOR: dict[str, Callable[[], tuple[Any, Any]]] = {
    "buffer": lambda: (ints(), ints(12, 50)),
    "count": lambda: ([ints(), 5], [ints(12, 50), 5]),
    "counts": lambda: ([ints(), [5]], [ints(12, 50), np.array([5])]),
    "count of no dimension": lambda: ([ints(), np.array(5)], [ints(12, 50), (np.int64(5), None)]),
    "counts and displacements": lambda: ([ints(), ([5], [2])], [ints(12, 50), ([5], [4]), INT]),
    "count and stride": lambda: ([ints(), (5, 2)], [ints(12, 50), 5, 4, INT]),
    "four": lambda: ([ints(), [5], [2], "i"], [ints(12, 50), 5, [4], None]),
    "typed": lambda: ([ints(), "i"], [ints(12, 50), INT]),
    "None": lambda: ([None, "B"], [None, 0, [0], "B"]),
    "BOTTOM": lambda: ([MPI.BOTTOM, 0, [0], "B"], [MPI.BOTTOM, "B"]),
    "None of a list": lambda: ([None, (0, None), INT], [None, (0, None), INT]),
    "bytes": lambda: ([b"abc", "c"], [bytearray(3), MPI.CHAR]),
    "tensor": lambda: (Tensor(ints()), [Tensor(ints(12, 50)), ([12], [0])]),
    "GPU array": lambda: (GpuArray(ints()), GpuArray(ints(12, 50))),
    "bytes of a tuple": lambda: ((b"abc", 2), (bytearray(3), [2])),
}


@pytest.mark.parametrize("case", GOOD_VECTOR.values(), ids=GOOD_VECTOR.keys())
def test_vector_places_bytes_where_mpi4py_does(case: Callable[[], tuple[Any, Any]]) -> None:
    expected = outcome(by_mpi_v, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers_v, case) == expected


GOOD_W: dict[str, Callable[[], tuple[Any, Any]]] = {
    "four": lambda: ([ints(), [3], [8], [INT]], [ints(12, 50), [3], [4], [INT]]),
    "three": lambda: ([ints(), ([3], [8]), [INT]], (ints(12, 50), ([3], [4]), (INT,))),
    "two": lambda: ([ints(), [INT]], [ints(12, 50), [INT]]),
    "no counts": lambda: ([ints(), None, None, [INT]], [ints(12, 50), (None, None), [INT]]),
    "BOTTOM": lambda: ([MPI.BOTTOM, [0], [0], [INT]], [None, ([0], [0]), [INT]]),
    "mpi4py's": lambda: ([b"abc", [MPI.CHAR]], [MPI.buffer.allocate(3, clear=True), [MPI.CHAR]]),
}


@pytest.mark.parametrize("case", GOOD_W.values(), ids=GOOD_W.keys())
def test_vector_w_places_bytes_where_mpi4py_does(case: Callable[[], tuple[Any, Any]]) -> None:
    if MPI.get_vendor()[0] == "Open MPI" and case in (GOOD_W["four"], GOOD_W["three"]):
        pytest.skip("Open MPI's Alltoallw of one rank takes its displacements for items (seen in 5.0.11)")
    expected = outcome(by_mpi_w, case)
    assert isinstance(expected, bytes)
    assert outcome(by_buffers_w, case) == expected


# -- bad specifications ---------------------------------------------------------------------------------------------------

BAD: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "number": lambda: 3,
    "type": lambda: object,
    "dict": lambda: {1: 2},
    "str": lambda: "abc",
    "BOTTOM alone": lambda: MPI.BOTTOM,
    "empty list": list,
    "list of one": lambda: [ints()],
    "list of five": lambda: [ints(), 0, 0, "i", None],
    "list of a list": lambda: [[1, 2], 2, INT],
    "list of a dict": lambda: [{1: 2}, 2, INT],
    "None without type": lambda: [None, 0],
    "None with count": lambda: [None, 1, INT],
    "None with count of three": lambda: [None, 1, 0, INT],
    "unknown type string": lambda: [ints(), 0, "zz"],
    "type that is no type": lambda: [ints(), 0, 3],
    "type without hash": lambda: [ints(), 0, []],
    "pair of three": lambda: [ints(), (1, 2, 3)],
    "pair of one": lambda: [ints(), (1,), INT],
    "negative count": lambda: [ints(), -1],
    "negative displacement": lambda: [ints(), 0, -1, INT],
    "displacement beyond": lambda: [ints(), 0, 13, INT],
    "float count": lambda: [ints(), 1.0],
    "float displacement": lambda: [ints(), (1, 1.0)],
    "str count": lambda: [ints(), "1", INT],
    "huge count": lambda: [ints(), 2**63],
    "huge displacement": lambda: [ints(), (1, 2**63)],
    "not a multiple": lambda: [b"abcde", "i"],
    "not a multiple after the displacement": lambda: [b"abcdefghi", (None, 1), "i"],
    "DATATYPE_NULL": lambda: [ints(), MPI.DATATYPE_NULL],
    "DATATYPE_NULL with count": lambda: [ints(), 1, MPI.DATATYPE_NULL],
    "DATATYPE_NULL with displacement": lambda: [ints(), 0, 1, MPI.DATATYPE_NULL],
    "negative extent": lambda: [ints(), DERIVED["negative extent"]],
    "negative extent and displacement": lambda: [ints(), 0, 1, DERIVED["negative extent"]],
    "no extent": lambda: [ints(), DERIVED["no extent"]],
    "uncommitted": lambda: [ints(), 1, UNCOMMITTED],
    "not contiguous": lambda: ints()[::2],
    "not contiguous, typed": lambda: [ints()[::2], INT],
    "not contiguous in two": lambda: ints().reshape(3, 4)[:, :2],
    "not contiguous memoryview": lambda: memoryview(b"abcdef")[::2],
    "not contiguous in reverse": lambda: ints()[::-1],
    "foreign byte order": lambda: ints().astype(FOREIGN + "i4"),
    "foreign byte order of a record": lambda: np.zeros(3, [("a", FOREIGN + "i4")]),
    "foreign byte order of ctypes": lambda: (
        ctypes.c_int.__ctype_be__ if sys.byteorder == "little" else ctypes.c_int.__ctype_le__
    )(3),
    "objects": lambda: np.array([None, 3]),
    "dates": lambda: np.zeros(3, "M8[s]"),
    "long strings": lambda: np.zeros(3, "S5"),
    "records": lambda: np.zeros(3, "i4, f8"),
    "voids": lambda: np.zeros(3, "V3"),
    "closed memoryview": lambda: released(),
    "tensor without device": lambda: tensor_with(__dlpack_device__=None),
    "tensor of a wrong device": lambda: Tensor(ints(), device=None),  # type: ignore[arg-type]
    "tensor without capsule": lambda: Tensor(tensor_with(__dlpack__=lambda **_: None)),
    "tensor, not contiguous": lambda: Tensor(ints()[::2]),
    "tensor that cannot": lambda: Tensor(np.zeros(3, "M8[s]")),
    "no interface": lambda: gpu_with(None),
    "empty interface": lambda: gpu_with({}),
    "interface without data": lambda: without("data"),
    "interface without type": lambda: without("typestr"),
    "interface without shape": lambda: without("shape"),
    "interface, data None": lambda: GpuArray(ints(), data=None),
    "interface, data of one": lambda: GpuArray(ints(), data=(1,)),
    "interface, typestr None": lambda: GpuArray(ints(), typestr=None),
    "interface, typestr of no size": lambda: GpuArray(ints(), typestr="<iX"),
    "interface of foreign byte order": lambda: GpuArray(ints(), typestr=FOREIGN + "i4"),
    "interface of unknown byte order": lambda: GpuArray(ints(), typestr="#i4"),
    "interface, shape None": lambda: GpuArray(ints(), shape=None),
    "interface, shape negative": lambda: GpuArray(ints(), shape=(-1,), strides=None),
    "interface, strides of no type": lambda: GpuArray(ints(), strides=42),
    "interface, not contiguous": lambda: GpuArray(ints()[::2]),
    "interface, masked": lambda: GpuArray(ints(), mask=True),
    "interface, half complex": lambda: GpuArray(ints(), typestr="<c4"),
}  # fmt: skip


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_bad_specification_is_refused_as_mpi4py_does(make: Callable[[], Any]) -> None:
    def case() -> tuple[Any, Any]:
        return make(), bytearray(1000)

    expected = outcome(by_mpi, case)
    assert not isinstance(expected, bytes)
    assert outcome(by_buffers, case) == expected


READ_ONLY: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"abc",
    "no bytes": lambda: b"",
    "memoryview": lambda: memoryview(b"abc"),
    "ndarray": lambda: readonly(ints()),
    "ndarray, typed": lambda: [readonly(ints()), INT],
    "Fortran order": lambda: readonly(np.ones((2, 3), order="F")),
    "scalar": lambda: np.float64(3),
    "tensor": lambda: Tensor(readonly(ints())),
    "GPU array": lambda: GpuArray(ints(), readonly=True),
    "dates": lambda: [readonly(np.zeros(3, "M8[s]")), MPI.BYTE],
    "mpi4py's": lambda: MPI.buffer.frombuffer(b"abc", readonly=True),
}


@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY.keys())
def test_read_only_memory_receives_nothing_as_in_mpi4py(make: Callable[[], Any]) -> None:
    def case() -> tuple[Any, Any]:
        return [None, "B"], make()

    expected = outcome(by_mpi, case)
    assert not isinstance(expected, bytes)
    assert outcome(by_buffers, case) == expected


def test_read_only_memory_is_sent_and_stays_read_only() -> None:
    for spec in (readonly(ints()), b"abc", Tensor(readonly(ints())), GpuArray(ints(), readonly=True)):
        assert not simple(spec, readonly=True).memory.flags.writeable


BAD_VECTOR: dict[str, Callable[[], Any]] = {
    "type": lambda: object,
    "list of five": lambda: [ints(), 0, [0], "i", None],
    "unknown type string": lambda: [ints(), 0, [0], "\0"],
    "DATATYPE_NULL": lambda: [ints(), None, [0], MPI.DATATYPE_NULL],
    "DATATYPE_NULL without items": lambda: [ints(), [0], [0], MPI.DATATYPE_NULL],
    "not a multiple": lambda: [b"abcde", None, [0], "i"],
    "negative extent": lambda: [ints(), None, [0], DERIVED["negative extent"]],
    "list of a list": lambda: [[1, 2], 0, 0, "i"],
    "two counts": lambda: [ints(), [1, 1]],
    "no counts": lambda: [ints(), []],
    "two displacements": lambda: [ints(), ([1], [0, 1])],
    "float counts": lambda: [ints(), np.array([3.1])],
    "float count": lambda: [ints(), np.float64(3.1)],
    "float of no dimension": lambda: [ints(), np.array(3.0)],
    "float displacement": lambda: [ints(), (3, [1.0])],
    "str counts": lambda: [ints(), "a", INT],
    "negative count": lambda: [ints(), [-1]],
    "huge count": lambda: [ints(), [2**63]],
    "uncommitted": lambda: [ints(), [1], [0], UNCOMMITTED],
    "pair of three": lambda: [ints(), (1, 2, 3)],
    "foreign byte order": lambda: ints().astype(FOREIGN + "i4"),
}


@pytest.mark.parametrize("make", BAD_VECTOR.values(), ids=BAD_VECTOR.keys())
def test_bad_vector_is_refused_as_mpi4py_does(make: Callable[[], Any]) -> None:
    def case() -> tuple[Any, Any]:
        return make(), [bytearray(1000), MPI.BYTE]

    expected = outcome(by_mpi_v, case)
    assert not isinstance(expected, bytes)
    assert outcome(by_buffers_v, case) == expected


BAD_W: dict[str, Callable[[], Any]] = {
    "number": lambda: 3,
    "list of one": lambda: [ints()],
    "list of five": lambda: [ints(), [0], [0], [INT], None],
    "BOTTOM without counts": lambda: [MPI.BOTTOM, None, [0], [INT]],
    "BOTTOM without displacements": lambda: [MPI.BOTTOM, [0], None, [INT]],
    "counts only": lambda: [ints(), [0], None, [INT]],
    "displacements only": lambda: [ints(), None, [0], [INT]],
    "count alone": lambda: [ints(), 3, 0, [INT]],
    "two counts": lambda: [ints(), [1, 1], [0], [INT]],
    "two types": lambda: [ints(), [1], [0], [INT, INT]],
    "one type": lambda: [ints(), [1], [0], INT],
    "type string": lambda: [ints(), [1], [0], ["i"]],
    "pair of three": lambda: [ints(), ([1], [0], [0]), [INT]],
    "list of a list": lambda: [[1, 2], [1], [0], [INT]],
    "negative count": lambda: [ints(), [-1], [0], [INT]],
    "DATATYPE_NULL": lambda: [ints(), [1], [0], [MPI.DATATYPE_NULL]],
    "uncommitted": lambda: [ints(), [1], [0], [UNCOMMITTED]],
}


@pytest.mark.parametrize("make", BAD_W.values(), ids=BAD_W.keys())
def test_bad_vector_w_is_refused_as_mpi4py_does(make: Callable[[], Any]) -> None:
    def case() -> tuple[Any, Any]:
        return make(), [bytearray(1000), [0], [0], [MPI.BYTE]]

    expected = outcome(by_mpi_w, case)
    assert not isinstance(expected, bytes)
    assert outcome(by_buffers_w, case) == expected
