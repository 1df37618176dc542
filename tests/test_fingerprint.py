"""Fingerprints: equal where the facts are, readable where they are not."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloompi.engine.fingerprint import ALGORITHMS, OPERATIONS, describe, fingerprint, items_of, read, same_items

F4 = np.dtype("<f4")
POINT = np.dtype([("x", "<f8"), ("y", "<f8")])
OTHER_POINT = np.dtype([("x", "<f8"), ("z", "<i8")])


def test_fingerprint_is_pinned() -> None:
    assert fingerprint("allreduce", F4, 1000, -1, "sum", "ring") == (
        b"\x05\x03\x01\x00" b"\xff\xff\xff\xff" b"\x00\x00\x00\x00" b"\x00\x00\x00\x00"
        b"\xe8\x03\x00\x00\x00\x00\x00\x00" b"<f4\x00\x00\x00\x00\x00"
    )  # fmt: skip


def test_codes_on_the_wire_stay() -> None:
    assert OPERATIONS[:9] == ("", "send", "barrier", "broadcast", "reduce", "allreduce", "allgather", "gather", "scatter")
    assert ALGORITHMS[:4] == ("auto", "recursive_doubling", "halving_doubling", "ring")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("allreduce", F4, 1000, -1, "sum"), "allreduce(sum, <f4, count 1000)"),
        (("allreduce", F4, 1000, -1, "sum", "ring"), "allreduce(sum, <f4, count 1000, algorithm ring)"),
        (("broadcast", np.dtype(">i8"), 0, 3), "broadcast(>i8, count 0, root 3)"),
        (("reduce", np.dtype("|b1"), 5, 0, "lxor"), "reduce(lxor, |b1, count 5, root 0)"),
        (("send", np.dtype("<c16"), 2**40), "send(<c16, count 1099511627776)"),
        (("barrier", np.dtype("u1"), 0), "barrier()"),
        (("gather", np.dtype("<M8[ns]"), 4, 1), "gather(<M8[ns], count 4, root 1)"),
        (("allreduce", F4, 3, -1, "hypot"), "allreduce(custom op ceb3c16a3cda8d25, <f4, count 3)"),
    ],
)
def test_describe(arguments: tuple[Any, ...], text: str) -> None:
    assert describe(fingerprint(*arguments)) == text


# -- what a receive of any array makes of it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "<f8",
        ">c16",
        "|b1",
        "<M8",
        "<M8[ns]",
        "<M8[10us]",
        ">M8[25ns]",
        "<m8[100ns]",
        "<M8[1024D]",
        "<m8[2147483647as]",
        "<U100000",
        "<U1000000",
        ">U1000000",
        "|S1000000",
        "|S1000000000",
        "|V1000000",
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_dtype_of_a_fingerprint(name: str, count: int) -> None:
    dtype = np.dtype(name)
    packed = fingerprint("send", dtype, count)
    assert items_of(packed, count * dtype.itemsize) == (dtype, count)
    assert items_of(packed, count * dtype.itemsize)[0].str == name
    assert describe(packed) == f"send({name}, count {count})"
    assert read(packed) == (-1, count, name)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "int4"])
@pytest.mark.parametrize("order", "=<>")
def test_dtype_of_a_fingerprint_of_another_package(name: str, order: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, name)).newbyteorder(order)
    assert items_of(fingerprint("send", dtype, 3), 3 * dtype.itemsize) == (dtype, 3)


def test_dtype_of_a_fingerprint_that_makes_no_sense() -> None:
    sane = fingerprint("send", np.dtype("<M8[10us]"), 3)
    for junk in b"<Mzz\xff\xff\xff\xff", b"<U\0\0\xff\xff\xff\xff", b"\xffM\xff\xff\0\0\0\0", b"|S\0\0\0\0\0\0":
        packed = sane[:24] + junk
        assert items_of(packed, 24) in ((np.dtype("V8"), 3), (np.dtype("S0"), 3))
        assert describe(packed).isprintable()


def test_describe_survives_codes_of_a_newer_version() -> None:
    newer = b"\xc8\xc8\xc8" + fingerprint("broadcast", F4, 7, 2)[3:]
    assert describe(newer) == "operation 200(custom op 0000000000000000, <f4, count 7, root 2)"


@pytest.mark.parametrize("names", [("nidmovh", "bubanxn"), ("tjodhhw", "xvihifq"), ("idrbumk", "extntcm")])
def test_names_of_one_checksum_are_told_apart(names: tuple[str, str]) -> None:
    """Of operators, and of the fields of structures."""
    assert len({crc32(name.encode()) for name in names}) == 1
    assert len({fingerprint("allreduce", F4, 8, -1, name) for name in names}) == 2
    dtypes = [np.dtype([("a", "f8"), (f"{name}xxxx", "f8")]) for name in names]
    one, other = (fingerprint("send", dtype, 8) for dtype in dtypes)
    assert not same_items(one, other)


BASE: dict[str, Any] = {
    "operation": "allreduce",
    "dtype": F4,
    "count": 8,
    "root": -1,
    "reduction": "sum",
    "algorithm": "auto",
}


@pytest.mark.parametrize(
    "change",
    [
        {"operation": "reduce"},
        {"dtype": np.dtype("<i4")},
        {"dtype": np.dtype(">f4")},
        {"count": 9},
        {"root": 0},
        {"reduction": "prod"},
        {"reduction": "mine"},
        {"algorithm": "ring"},
    ],
    ids=str,
)
def test_fingerprint_differs_where_one_fact_does(change: dict[str, Any]) -> None:
    assert fingerprint(**{**BASE, **change}) != fingerprint(**BASE)
    assert describe(fingerprint(**{**BASE, **change})) != describe(fingerprint(**BASE))


def test_fingerprint_of_equal_dtypes_is_equal() -> None:
    one, other = np.dtype([("x", "<f8"), ("y", "<f8")]), np.dtype({"names": ["x", "y"], "formats": ["<f8", "<f8"]})
    assert fingerprint("send", one, 3) == fingerprint("send", other, 3)


# -- equal dtypes, and others -------------------------------------------------------------------------------------------

mark = fingerprint.__wrapped__  # without the cache, which would find what it has for an equal dtype


def equal(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether NumPy says so on one of the two ranks: M8[1000ms] == M8[s], but not the other way round."""
    return one == other or other == one


def through_a_file(dtype: np.dtype[Any]) -> np.dtype[Any]:
    file = io.BytesIO()
    try:
        np.save(file, np.zeros(1, dtype))
    except ValueError:  # fields that are not in the order of memory cannot be saved
        return dtype
    file.seek(0)
    return np.load(file).dtype


def aligned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """With the flag, where the fields lie as it wants them."""
    if dtype.names is None:
        return dtype
    fields = dtype.fields or {}
    try:
        return np.dtype(
            {
                "names": list(dtype.names),
                "formats": [aligned(fields[name][0]) for name in dtype.names],
                "offsets": [fields[name][1] for name in dtype.names],
                "titles": [(*fields[name], None)[2] for name in dtype.names],
                "itemsize": dtype.itemsize,
            },
            align=True,
        )
    except ValueError:
        return dtype


# Each makes a dtype that is equal, as far as NumPy can make one in that way.
WAYS: dict[str, Callable[[np.dtype[Any]], np.dtype[Any]]] = {
    "file": through_a_file,
    "pickle": lambda dtype: pickle.loads(pickle.dumps(dtype)),
    "aligned": aligned,
    "metadata": lambda dtype: np.dtype(dtype, metadata={"unit": "m"}),
    "record": lambda dtype: np.dtype((np.record, dtype)) if dtype.names else dtype,
    "native": lambda dtype: dtype.newbyteorder("|"),
}

ITEMS = st.sampled_from(
    [
        "<f8",
        ">f8",
        "=f8",
        "i8",
        "q",
        "l",
        "?",
        "S3",
        "<U3",
        ">U3",
        "V8",
        "V4",
        "M8[s]",
        "M8[1000ms]",
        "M8[7D]",
        "M8[10us]",
        "m8[10us]",
        "M8[25ns]",
        "M8[20000us]",
        "M8[20ms]",
        "M8[2147483647as]",
        "U1000000",
        "S4000000",
        "V4000000",
        "m8",
        "c16",
        "g",
    ]
)
NAMES = ("a", "b", "ä", "longer than eight")


@st.composite
def structures(draw: st.DrawFn, item: st.SearchStrategy[Any]) -> np.dtype[Any]:
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    formats = [np.dtype(draw(item)) for _ in names]
    shapes = [draw(st.sampled_from([(), (), (1,), (2,), (2, 1)])) for _ in names]
    titled = draw(st.booleans())
    fields = [
        ((f"title of {name}", name) if titled else name, form, *([shape] if shape else []))
        for name, form, shape in zip(names, formats, shapes, strict=True)
    ]
    plain = np.dtype(fields)
    if not draw(st.booleans()):
        return np.dtype(fields, align=draw(st.booleans()))
    # In another order in memory, with gaps.
    places, place = {}, 0
    for name in draw(st.permutations(names)):
        place += draw(st.sampled_from([0, 0, 8]))
        places[name] = place
        place += plain[name].itemsize
    return np.dtype(
        {
            "names": names,
            "formats": [plain[name] for name in names],
            "offsets": [places[name] for name in names],
            "itemsize": place + draw(st.sampled_from([0, 8])),
        }
    )


DTYPES = st.recursive(ITEMS.map(np.dtype), structures, max_leaves=6)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(one=DTYPES, other=DTYPES)
def test_fingerprints_are_equal_if_and_only_if_the_dtypes_are(one: np.dtype[Any], other: np.dtype[Any]) -> None:
    same = mark("allgather", one, 3) == mark("allgather", other, 3)
    assert same == equal(one, other)
    assert same_items(mark("send", one, 3), mark("send", other, 3)) == equal(one, other)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(dtype=DTYPES, way=st.sampled_from(sorted(WAYS)))
def test_fingerprint_of_a_dtype_that_was_made_in_another_way(dtype: np.dtype[Any], way: str) -> None:
    again = WAYS[way](dtype)
    assert (mark("allgather", dtype, 3) == mark("allgather", again, 3)) == equal(dtype, again)


ALIGNED = np.dtype([("x", "<f8"), ("n", "<i4")], align=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ALIGNED, through_a_file(ALIGNED)),
        (np.dtype([("p", ALIGNED), ("q", "i1", (2,))]), through_a_file(np.dtype([("p", ALIGNED), ("q", "i1", (2,))]))),
        (POINT, np.dtype((np.record, POINT))),
        (np.dtype([("p", POINT)]), np.dtype([("p", np.dtype((np.record, POINT)))])),
        (POINT, np.dtype(POINT, metadata={"unit": "m"})),
        (POINT, np.dtype([("x", np.dtype("<f8", metadata={"unit": "m"})), ("y", "<f8")])),
        (np.dtype("M8[1000ms]"), np.dtype("M8[s]")),
        (np.dtype("m8[2000000ns]"), np.dtype("m8[2ms]")),
        (np.dtype("V4"), np.dtype((np.record, "V4"))),
        (np.dtype("q"), np.dtype("l")),
    ],
    ids=["file", "nested, file", "record", "nested record", "metadata", "a field's metadata", "ms", "ns", "void", "long"],
)
def test_fingerprint_is_of_what_numpy_compares(one: np.dtype[Any], other: np.dtype[Any]) -> None:
    assert equal(one, other)
    assert mark("allgather", one, 3) == mark("allgather", other, 3)


def test_fingerprint_of_other_packages_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    others = [np.dtype("V2"), np.dtype("f2"), np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e4m3fnuz)]
    marks = [mark("send", dtype, 3) for dtype in (bfloat16, bfloat16.newbyteorder(), *others)]
    assert len(set(marks)) == len(marks)
    marks = [mark("send", np.dtype([("a", dtype)]), 3) for dtype in (bfloat16, *others)]
    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (POINT, OTHER_POINT),
        (np.dtype("<M8[25us]"), np.dtype("<M8[25s]")),
        (np.dtype("<U1000001"), np.dtype("<U1000002")),
        (np.dtype("V7"), np.dtype("V8")),
    ],
    ids=str,
)
def test_fingerprint_tells_dtypes_with_long_names_apart(one: np.dtype[Any], other: np.dtype[Any]) -> None:
    assert fingerprint("allgather", one, 3) != fingerprint("allgather", other, 3)


def test_describe_tells_dtypes_with_long_names_apart() -> None:
    # Both sides of a MismatchError: two texts that are the same explain nothing.
    assert describe(fingerprint("allgather", POINT, 3)) != describe(fingerprint("allgather", OTHER_POINT, 3))


def test_fingerprint_takes_fields_out_of_order() -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<f4"], "offsets": [4, 0]})
    assert fingerprint("send", dtype, 1) != fingerprint("send", np.dtype([("b", "<f4"), ("a", "<i4")]), 1)


def test_custom_operators_are_told_apart_by_name() -> None:
    assert fingerprint("allreduce", F4, 1, -1, "mine") == fingerprint("allreduce", F4, 1, -1, "mine")
    assert fingerprint("allreduce", F4, 1, -1, "mine") != fingerprint("allreduce", F4, 1, -1, "yours")


@pytest.mark.parametrize(
    ("sent", "received", "fits"),
    [
        ("<f4", "<f4", True),
        ("<f4", ">f4", False),
        ("<f4", "<i4", False),
        ("<f4", "|u1", True),  # raw bytes take anything
        ("|u1", "<f4", False),
        ("|i1", "|u1", True),
        (POINT, POINT, True),
        (POINT, OTHER_POINT, False),
        (POINT, "|u1", True),
        ("<M8[25us]", "<M8[25s]", False),
        ("<U1000001", "<U1000002", False),
        ("V7", "V8", False),
    ],
    ids=str,
)
def test_same_items(sent: Any, received: Any, fits: bool) -> None:
    # The counts differ: a receive may be longer than its message.
    assert same_items(fingerprint("send", np.dtype(sent), 3), fingerprint("send", np.dtype(received), 5)) is fits
