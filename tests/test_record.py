"""Records and verdicts: sizes, failures, other versions."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_interface

import pytest

from gloompi.rendezvous.record import RECORD_NBYTES, VERDICT_NBYTES, Blame, Record, pack_verdict, unpack_verdict
from gloompi.transport.endpoint import MAX_ADDRESSES, Address, Endpoint, Nearness

V6 = Address(ip_interface("fd00::4/64"), 65535, Nearness.ORDINARY, 0xFFFFFFFF)
FULL = Endpoint(
    "n" * 64, 2**32 - 1, 65535, b"\xff" * 16, b"\xff" * 16, (V6,) * MAX_ADDRESSES, 65535, True, b"\xff" * 32, True, 2**32 - 1
)
NOBODY = Endpoint("node7", 4121, 1, bytes(16), b"", ())
ENTROPY = bytes(range(100, 132))


def test_sizes() -> None:
    assert RECORD_NBYTES <= 400
    assert VERDICT_NBYTES <= 400


@pytest.mark.parametrize(
    "record",
    [
        Record(FULL, ENTROPY),
        Record(NOBODY, ENTROPY),
        Record(NOBODY, ENTROPY, "no such interface"),
        Record(NOBODY, ENTROPY, "ü" * 100),
        Record(dataclasses.replace(FULL, unix=b"", addresses=(), digest=b""), ENTROPY, "x" * 256),
    ],
    ids=["full", "empty", "failure", "not ASCII", "longest failure"],
)
def test_unpack_reads_what_pack_wrote(record: Record) -> None:
    packed = record.pack()
    assert len(packed) == RECORD_NBYTES
    assert Record.unpack(packed) == record


def test_failure_drops_the_addresses_but_not_who_it_is() -> None:
    record = Record.unpack(Record(dataclasses.replace(NOBODY, host="node1", pid=7), ENTROPY, "x" * 900).pack())
    assert (record.endpoint.host, record.endpoint.pid, record.endpoint.addresses) == ("node1", 7, ())


@pytest.mark.parametrize("text", ["x" * 258, "x" * 5000, "ü" * 129, "xü" * 1000, "€" * 87])
def test_long_failure_is_cut(text: str) -> None:
    packed = Record(NOBODY, ENTROPY, text).pack()
    assert len(packed) == RECORD_NBYTES
    failure = Record.unpack(packed).failure
    assert failure.endswith("...")
    assert text.startswith(failure[:-3])
    assert 252 <= len(failure.encode()) <= 256  # what is left of a record; a letter may be 3 bytes


def test_failure_that_cannot_be_encoded_is_escaped() -> None:
    text = "no such file: /data/\udce9"
    shown = "no such file: /data/\\udce9"
    assert Record.unpack(Record(NOBODY, ENTROPY, text).pack()).failure == shown
    assert unpack_verdict(pack_verdict(text, Blame.OWN)) == (shown, Blame.OWN)


def test_record_head_is_pinned() -> None:
    packed = Record(NOBODY, ENTROPY).pack()
    assert packed[:39] == b"\x01\x06" + ENTROPY + b"node7"
    assert Record(NOBODY, ENTROPY, "why").pack()[:34] == b"\x02\x06" + ENTROPY
    assert Record(NOBODY, ENTROPY, "why").pack()[144:] == b"why" + bytes(253)


def test_other_version() -> None:
    packed = bytearray(Record(NOBODY, ENTROPY).pack())
    packed[1] = 5
    with pytest.raises(ValueError, match="version") as caught:
        Record.unpack(bytes(packed))
    assert str(caught.value) == "its record has version 5, this gloompi writes version 6"


@pytest.mark.parametrize(
    "packed",
    [
        bytes(RECORD_NBYTES),
        b"\xff" * RECORD_NBYTES,
        b"\x03\x01" + bytes(RECORD_NBYTES - 2),  # no such status
        b"\x01\x01" + b"\xff" * (RECORD_NBYTES - 2),  # 255 addresses
        b"",
        b"\x01\x01",
        Record(FULL, ENTROPY).pack()[:150],
    ],
    ids=["zeros", "ones", "status", "addresses", "nothing", "two bytes", "cut off"],
)
def test_no_record(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Record.unpack(packed)


def test_repr_keeps_the_entropy_secret() -> None:
    record = Record(NOBODY, b"secret" * 5 + b"!!")
    assert repr(record) == f"Record({NOBODY}, failure='')"
    assert "secret" not in repr(record)


@pytest.mark.parametrize("failure", ["", "rank 3 is missing", "ü" * 199, "x" * 399])
def test_verdict(failure: str) -> None:
    for own in (False, True):
        packed = pack_verdict(failure, own)
        assert len(packed) == VERDICT_NBYTES
        assert unpack_verdict(packed) == (failure, own)


@pytest.mark.parametrize("failure", ["x" * 400, "ü" * 200, "€" * 5000])
def test_long_verdict_is_cut(failure: str) -> None:
    packed = pack_verdict(failure, True)
    assert len(packed) == VERDICT_NBYTES
    shown, _ = unpack_verdict(packed)
    assert shown.endswith("...")
    assert failure.startswith(shown[:-3])
    assert len(shown.encode()) > 393


def test_no_failure_is_all_zero() -> None:
    assert pack_verdict("", False) == bytes(VERDICT_NBYTES)
