"""Endpoints in their fixed number of bytes."""

from __future__ import annotations

import dataclasses
import random
from ipaddress import ip_interface

import pytest

from gloompi.transport.endpoint import ENDPOINT_NBYTES, MAX_ADDRESSES, Address, Endpoint, Nearness, Peer

V4 = Address(ip_interface("10.0.0.4/24"), 40112, Nearness.ORDINARY)
V6 = Address(ip_interface("fd00::4/64"), 1, Nearness.FAST)
LINK_LOCAL = Address(ip_interface("fe80::1:2/10"), 65535, Nearness.LINK_LOCAL, 0xFFFFFFFF)
LOOPBACK = Address(ip_interface("127.0.0.1/8"), 5, Nearness.LOOPBACK, 1)

DIGEST = bytes(range(32, 64))
ENDPOINT = Endpoint("node7", 4121, 64, bytes(range(16)), bytes(range(16, 32)), (V4,), 5, True, DIGEST, uid=1000)


def test_pack_writes_the_pinned_bytes() -> None:
    assert ENDPOINT.pack() == (
        b"node7" + bytes(59) + b"\x19\x10\x00\x00" b"\xe8\x03\x00\x00" b"\x40\x00" b"\x05\x00"
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
        b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"
        b"\x01\x01"
        b"\x04\x01\x18" b"\xb0\x9c" b"\x00\x00\x00\x00" b"\x0a\x00\x00\x04" + bytes(12) + bytes(7 * 25)
        + DIGEST
    )  # fmt: skip


@pytest.mark.parametrize(
    "addresses",
    [(), (V4,), (V6,), (V6, V4, LINK_LOCAL, LOOPBACK), (V4,) * MAX_ADDRESSES, (V6,) * MAX_ADDRESSES],
    ids=len,
)
def test_unpack_reads_what_pack_wrote(addresses: tuple[Address, ...]) -> None:
    endpoint = dataclasses.replace(ENDPOINT, addresses=addresses)
    packed = endpoint.pack()
    assert len(packed) == ENDPOINT_NBYTES
    assert Endpoint.unpack(packed) == endpoint


@pytest.mark.parametrize("unix", [b"", b"\0" * 15 + b"\1", b"\1" + b"\0" * 15])
def test_unix_name_survives(unix: bytes) -> None:
    assert Endpoint.unpack(dataclasses.replace(ENDPOINT, unix=unix).pack()).unix == unix


@pytest.mark.parametrize(
    ("readable", "checksum", "flags"), [(False, False, 0), (True, False, 1), (False, True, 2), (True, True, 3)]
)
def test_flags(readable: bool, checksum: bool, flags: int) -> None:
    endpoint = dataclasses.replace(ENDPOINT, readable=readable, checksum=checksum)
    packed = endpoint.pack()
    assert packed[108] == flags
    assert Endpoint.unpack(packed) == endpoint


@pytest.mark.parametrize("digest", [b"", b"\0" * 31 + b"\1", b"\1" + b"\0" * 31])
def test_digest_survives(digest: bytes) -> None:
    endpoint = dataclasses.replace(ENDPOINT, digest=digest, addresses=(V6,) * MAX_ADDRESSES)
    assert Endpoint.unpack(endpoint.pack()) == endpoint


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("", ""),
        ("n" * 64, "n" * 64),
        ("n" * 300, "n" * 64),
        ("ü" * 40, "ü" * 32),
        ("n" + "ü" * 40, "n" + "ü" * 31),  # byte 64 is half a letter
    ],
)
def test_long_host_names_are_cut(host: str, kept: str) -> None:
    packed = dataclasses.replace(ENDPOINT, host=host).pack()
    assert len(packed) == ENDPOINT_NBYTES
    assert Endpoint.unpack(packed) == dataclasses.replace(ENDPOINT, host=kept)


def test_cores_beyond_the_field_are_as_many_as_fit() -> None:
    assert Endpoint.unpack(dataclasses.replace(ENDPOINT, cores=100_000).pack()).cores == 65535


def test_too_many_addresses() -> None:
    endpoint = dataclasses.replace(ENDPOINT, addresses=(V4,) * (MAX_ADDRESSES + 1))
    with pytest.raises(ValueError, match="an endpoint has at most 8 addresses, not 9"):
        Endpoint.unpack(endpoint.pack())


def test_unpack_of_anything_is_an_endpoint_or_a_value_error() -> None:
    random_bytes = random.Random(25).randbytes
    refused = 0
    for _ in range(3000):
        packed = bytearray(random_bytes(ENDPOINT_NBYTES))
        packed[102] %= 11  # the number of addresses, so that most go on to read some
        try:
            assert len(Endpoint.unpack(bytes(packed)).addresses) <= MAX_ADDRESSES
        except ValueError:
            refused += 1
    assert 0 < refused < 3000


@pytest.mark.parametrize(("address", "text"), [(V4, "10.0.0.4:40112"), (V6, "[fd00::4]:1")])
def test_address_text(address: Address, text: str) -> None:
    assert str(address) == text


def test_nearness_prefers_fast_interfaces() -> None:
    assert sorted(Nearness) == [
        Nearness.FAST,
        Nearness.ORDINARY,
        Nearness.VIRTUAL,
        Nearness.LINK_LOCAL,
        Nearness.LOOPBACK,
    ]


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (Peer(3, "node7", 4121, "tcp", "10.0.0.4:40112"), "rank 3 (node7, pid 4121, tcp 10.0.0.4:40112)"),
        (Peer(0, "node7", 4120, "self", ""), "rank 0 (node7, pid 4120, self)"),
    ],
)
def test_peer_text(peer: Peer, text: str) -> None:
    assert str(peer) == text
