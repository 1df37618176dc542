"""Headers of frames, as bytes and as fields."""

from __future__ import annotations

import pytest

from gloompi.transport.frames import HEADER_NBYTES, NO_FINGERPRINT, VERSION, Kind, pack_header, unpack_header

# The wire format: these literals change only together with VERSION.
CASES = {
    "message": (
        (Kind.MESSAGE, 1, 7, 4096, NO_FINGERPRINT),
        b"\x04\x01\x00\x00\x00\x00\x00\x00" b"\x01\x00\x00\x00\x00\x00\x00\x00" b"\x07\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\x10\x00\x00\x00\x00\x00\x00" + bytes(32),
    ),
    "announce beyond 4 GiB": (
        (Kind.ANNOUNCE, 0xFEDCBA9876543210, (17 << 16) | 3, 0x0123456789AB, bytes(range(32))),
        b"\x04\x02\x00\x00\x00\x00\x00\x00" b"\x10\x32\x54\x76\x98\xba\xdc\xfe" b"\x03\x00\x11\x00\x00\x00\x00\x00"
        b"\xab\x89\x67\x45\x23\x01\x00\x00"
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
        b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
    ),
    "negative tag": (
        (Kind.GOODBYE, 0, -2, 0, NO_FINGERPRINT),
        b"\x04\x06\x00\x00\x00\x00\x00\x00" b"\x00\x00\x00\x00\x00\x00\x00\x00" b"\xfe\xff\xff\xff\xff\xff\xff\xff"
        b"\x00\x00\x00\x00\x00\x00\x00\x00" + bytes(32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pack_header_writes_the_pinned_bytes(name: str) -> None:
    fields, packed = CASES[name]
    assert pack_header(*fields) == packed


@pytest.mark.parametrize("name", CASES)
def test_unpack_header_reads_the_pinned_bytes(name: str) -> None:
    fields, packed = CASES[name]
    assert unpack_header(packed, 0) == (VERSION, *fields)


def test_unpack_header_starts_at_the_offset() -> None:
    first, second = pack_header(Kind.DATA, 1, 2, 3), pack_header(Kind.CREDIT, 4, 5, 6)
    assert unpack_header(memoryview(b"abc" + first + second), 3 + HEADER_NBYTES) == (4, 5, 4, 5, 6, NO_FINGERPRINT)


def test_a_header_keeps_the_payload_aligned() -> None:
    assert HEADER_NBYTES == 64


def test_kinds_keep_their_numbers() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "MESSAGE": 1,
        "ANNOUNCE": 2,
        "CLEAR": 3,
        "DATA": 4,
        "CREDIT": 5,
        "GOODBYE": 6,
        "ABORT": 7,
        "WAITING": 8,
        "LEAVE": 9,
        "OFFER": 10,
        "TAKEN": 11,
        "VIEW": 12,
        "DECIDED": 13,
        "PUSHED": 14,
        "REFUSED": 15,
    }


def test_without_fingerprint_the_field_is_zero() -> None:
    assert pack_header(Kind.GOODBYE, 9, 0, 0)[32:] == bytes(32)
