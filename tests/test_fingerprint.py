"""Fingerprints: equal where the facts are, readable where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gloompi.engine.fingerprint import ALGORITHMS, OPERATIONS, describe, fingerprint, same_items

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
        # crc32(b"hypot")
        (("allreduce", F4, 3, -1, "hypot"), "allreduce(custom op 98ab8e9a, <f4, count 3)"),
    ],
)
def test_describe(arguments: tuple[Any, ...], text: str) -> None:
    assert describe(fingerprint(*arguments)) == text


def test_describe_survives_codes_of_a_newer_version() -> None:
    newer = b"\xc8\xc8\xc8" + fingerprint("broadcast", F4, 7, 2)[3:]
    assert describe(newer) == "operation 200(custom op 00000000, <f4, count 7, root 2)"


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
