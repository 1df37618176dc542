"""What users pass as arrays."""

from __future__ import annotations

import array
import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gloompi.arrays import flat_input, flat_output, view

F8 = np.dtype("f8")


class Interface:
    """Only `__array_interface__`, as PIL and older CUDA-less tensors have."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.__array_interface__ = data.__array_interface__


class Tensor:
    """Only DLPack, by a capsule of before DLPack 1.0, which cannot say whether it may be written."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __dlpack__(self, **_: Any) -> Any:
        return self._data.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()


class TorchTensor(Tensor):
    """And a view of its own, as torch has."""

    def numpy(self) -> Any:
        return self._data


class CopyingTensor(Tensor):
    """`numpy` copies: what is written there is lost."""

    def numpy(self) -> Any:
        return self._data.copy()


# -- view ---------------------------------------------------------------------------------------------------------------


def test_view_of_an_ndarray_is_itself() -> None:
    x = np.arange(3)
    assert view(x, "x") is x


@pytest.mark.parametrize(
    "x",
    [bytearray(b"abcd"), memoryview(bytearray(8)).cast("i"), array.array("d", [1, 2]), (ctypes.c_int32 * 3)(1, 2, 3)],
    ids=["bytearray", "memoryview", "array", "ctypes"],
)
def test_view_shares_the_memory_of_a_buffer(x: Any) -> None:
    seen = view(x, "x")
    assert seen.flags.writeable
    seen[0] = 77
    assert x[0] == 77


def test_view_of_bytes_is_read_only() -> None:
    seen = view(b"abc", "x")
    assert (seen.dtype, seen.tolist(), seen.flags.writeable) == (np.dtype("u1"), [97, 98, 99], False)


@pytest.mark.parametrize("wrap", [Interface, TorchTensor])
def test_view_shares_the_memory_of_a_tensor(wrap: Any) -> None:
    data = np.arange(6.0).reshape(2, 3)
    seen = view(wrap(data), "x")
    assert seen.shape == (2, 3)
    assert seen.flags.writeable
    seen[1, 2] = 77
    assert data[1, 2] == 77


@pytest.mark.parametrize("wrap", [Tensor, CopyingTensor])
def test_view_of_a_tensor_that_cannot_be_written_safely(wrap: Any) -> None:
    data = np.arange(3.0)
    seen = view(wrap(data), "x")
    assert np.may_share_memory(seen, data)
    assert seen.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("x", "kind"), [([1, 2], "list"), (3, "int"), (1.5, "float"), (None, "NoneType"), ("text", "str"), ({}, "dict")]
)
def test_view_of_what_owns_no_memory(x: Any, kind: str) -> None:
    with pytest.raises(TypeError, match="must be an array") as caught:
        view(x, "out")
    assert str(caught.value) == f"out must be an array, a buffer or a DLPack tensor, not {kind}"


@pytest.mark.parametrize("dtype", ["O", [("a", "i4"), ("b", "O")]], ids=["object", "field"])
def test_objects_are_refused(dtype: Any) -> None:
    x = np.zeros(2, dtype)
    for action in (lambda: view(x, "x"), lambda: flat_input(x), lambda: flat_output(x, "x", (2,), x.dtype)):
        with pytest.raises(TypeError, match="Python objects") as caught:
            action()
        assert str(caught.value) == f"x has dtype {x.dtype}: Python objects cannot be sent as an array"


# -- input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 3), (3, 0, 2), (2, 3, 4)], ids=str)
def test_flat_input_of_contiguous_shares_memory(shape: tuple[int, ...]) -> None:
    x = np.arange(float(np.prod(shape))).reshape(shape)
    same, flat = flat_input(x)
    assert same is x
    assert flat.shape == (x.size,)
    assert flat.tolist() == x.ravel().tolist()
    if x.size:
        assert np.shares_memory(flat, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[:, ::2],
        lambda x: x.T,
        lambda x: x[::-1],
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[0], (3, 4)),
        lambda x: x.real[1:, 1:3],
    ],
    ids=["strided", "transposed", "reversed", "Fortran", "broadcast", "corner"],
)
def test_flat_input_is_in_c_order_whatever_the_layout(make: Any) -> None:
    x = make(np.arange(12.0).reshape(3, 4))
    same, flat = flat_input(x)
    assert same is x
    assert flat.flags.c_contiguous
    assert flat.tolist() == [value for row in x.tolist() for value in row]


@pytest.mark.parametrize(
    ("x", "shape", "values"),
    [
        ([1, 2, 3], (3,), [1, 2, 3]),
        ([[1.5], [2.5]], (2, 1), [1.5, 2.5]),
        (7, (), [7]),
        (np.float32(2.5), (), [2.5]),
        (b"ab", (2,), [97, 98]),
    ],
    ids=["list", "lists", "int", "scalar", "bytes"],
)
def test_flat_input_converts_as_numpy_does(x: Any, shape: tuple[int, ...], values: list[float]) -> None:
    same, flat = flat_input(x)
    assert (same.shape, flat.tolist()) == (shape, values)


@pytest.mark.parametrize("x", [None, [None], {"a": 1}, object()], ids=["None", "list", "dict", "object"])
def test_flat_input_refuses_objects(x: Any) -> None:
    with pytest.raises(TypeError, match="Python objects") as caught:
        flat_input(x, "pieces")
    assert str(caught.value) == "pieces has dtype object: Python objects cannot be sent as an array"


@pytest.mark.parametrize("dtype", [">f8", "<f8", "?", "c16", "M8[s]", "S3", [("a", "i4"), ("b", "f8")]], ids=str)
def test_flat_input_keeps_the_dtype(dtype: Any) -> None:
    _, flat = flat_input(np.zeros((2, 2), dtype))
    assert flat.dtype == np.dtype(dtype)


# -- output -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0)], ids=str)
def test_flat_output_of_contiguous_is_the_same_memory(shape: tuple[int, ...]) -> None:
    out = np.zeros(shape)
    target, flat = flat_output(out, "out", shape, F8)
    assert target is out
    flat[:] = np.arange(out.size)
    assert out.ravel().tolist() == list(range(out.size))


@pytest.mark.parametrize("make", [lambda x: x[:, ::2], lambda x: x.T, lambda x: x[::-1]], ids=["strided", "T", "reversed"])
def test_flat_output_elsewhere_is_to_be_copied_back(make: Any) -> None:
    out = make(np.full((3, 4), -1.0))
    target, flat = flat_output(out, "out", out.shape, F8)
    assert target is out
    assert (flat.shape, flat.dtype) == ((out.size,), F8)
    assert flat.flags.c_contiguous
    assert not np.shares_memory(flat, out)


def test_flat_output_takes_a_buffer() -> None:
    out = bytearray(4)
    _, flat = flat_output(out, "out", (4,), np.dtype("u1"))
    flat[:] = 65
    assert out == b"AAAA"


def read_only() -> Any:
    out = np.zeros(3)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (np.zeros(4), ValueError, "out must have shape (3,), not (4,)"),
        (np.zeros((3, 1)), ValueError, "out must have shape (3,), not (3, 1)"),
        (np.zeros(()), ValueError, "out must have shape (3,), not ()"),
        (np.zeros(3, "f4"), TypeError, "out must have dtype float64, not float32"),
        (np.zeros(3, ">f8"), TypeError, "out must have dtype float64, not >f8"),
        (np.zeros(3, "i8"), TypeError, "out must have dtype float64, not int64"),
        (read_only(), ValueError, "out is read-only"),
        (np.broadcast_to(1.0, (3,)), ValueError, "out is read-only"),
        ([0.0, 0.0, 0.0], TypeError, "out must be an array, a buffer or a DLPack tensor, not list"),
    ],
    ids=["shape", "dimensions", "scalar", "precision", "byte order", "kind", "read-only", "broadcast", "list"],
)
def test_flat_output_refuses(out: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        flat_output(out, "out", (3,), F8)
    assert str(caught.value) == text


def test_flat_output_refuses_what_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        flat_output(bytes(3), "out", (3,), np.dtype("u1"))
    # A NumPy scalar is immutable: the result would end in a copy that nobody sees.
    with pytest.raises((TypeError, ValueError)):
        flat_output(np.float64(0), "out", (), F8)


@pytest.mark.parametrize("x", [[1, 2], None, np.float64(1), np.zeros(2, object)], ids=["list", "None", "scalar", "objects"])
def test_view_says_what_takes_other_objects(x: Any) -> None:
    with pytest.raises(TypeError) as plain:
        view(x, "x")
    with pytest.raises(TypeError) as caught:
        view(x, "x", "; broadcast_object takes any object")
    assert str(caught.value) == f"{plain.value}; broadcast_object takes any object"


# -- dtypes that NumPy has from ml_dtypes -------------------------------------------------------------------------------


class Bits:
    """A tensor of a package that has short floats, which NumPy refuses over DLPack, and can show their bits."""

    requires_grad = False

    def __init__(self, data: Any, dtype: str) -> None:
        self._data = data
        self.dtype = dtype

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        raise RuntimeError("Unsupported dtype in DLTensor.")

    def view(self, dtype: Any) -> Any:
        return TorchTensor(self._data.view(dtype))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the class of a tensor is in."""
    monkeypatch.setattr(Bits, "__module__", "some_torch.tensors")
    monkeypatch.setitem(sys.modules, "some_torch", SimpleNamespace(int16=np.int16, uint8=np.uint8))  # type: ignore[arg-type]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_view_shares_the_memory_of_short_floats(kind: str) -> None:
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), kind))
    data = np.arange(6.0).reshape(2, 3).astype(dtype)
    for memory in (data, data[:, ::2], data[::-1]):
        seen = view(Bits(memory, f"some_torch.{kind}"), "x")
        assert (seen.dtype, seen.shape, seen.flags.writeable) == (dtype, memory.shape, True)
        assert np.shares_memory(seen, data)
        assert seen.tolist() == memory.tolist()
    seen[...] = 7
    assert (data == 7).all()


@pytest.mark.usefixtures("package")
def test_view_of_short_floats_that_it_cannot_see(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ml_dtypes")
    data = np.zeros(3, np.int16)
    refused = "x is a tensor that NumPy cannot see without a copy: Unsupported dtype in DLTensor."
    for dtype in ("some_torch.complex32", "some_torch.float8_e9m9", "bfloat16", "some_torch.int16"):
        with pytest.raises(TypeError) as caught:
            view(Bits(data, dtype), "x")
        assert str(caught.value) == refused
    leaf = Bits(data, "some_torch.bfloat16")
    monkeypatch.setattr(leaf, "requires_grad", True)
    with pytest.raises(TypeError) as caught:
        view(leaf, "x")
    assert str(caught.value) == refused
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError) as caught:
        view(Bits(data, "some_torch.bfloat16"), "x")
    assert (
        str(caught.value) == "a tensor of some_torch.bfloat16 needs the package ml_dtypes: pip install 'gloompi[bfloat16]'"
    )


def test_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'gloompi[bench]'")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for kind in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float32"):
        tensor = torch.arange(4).to(getattr(torch, kind))
        seen = view(tensor, "x")
        assert seen.dtype == np.dtype(getattr(ml_dtypes, kind, kind))
        seen[1] = 3
        assert tensor.tolist() == [0, 3, 2, 3]
    leaf = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(TypeError, match="require gradient"):
        view(leaf, "x")
    assert view(leaf.detach(), "x").tolist() == [1] * 3


class Foreign:
    """A tensor that NumPy refuses: on another device, or of a dtype that it has not."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it lives on a GPU")


def test_a_tensor_that_numpy_cannot_see_is_a_type_error() -> None:
    for check in (lambda: view(Foreign(), "x"), lambda: flat_input(Foreign())):
        with pytest.raises(TypeError, match="x is a tensor that NumPy cannot see without a copy: "):
            check()
