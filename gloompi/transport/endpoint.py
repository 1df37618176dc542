"""An Endpoint: where a rank listens, plus who it is, in a fixed number of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from struct import Struct
from typing import NamedTuple

from ..foreign import plain

__all__ = ["ENDPOINT_NBYTES", "MAX_ADDRESSES", "WHO_NBYTES", "Address", "Endpoint", "Nearness", "Peer"]

# 8 addresses fit a record of 400 bytes, and are more than any host we have seen the interface list of needs.
MAX_ADDRESSES = 8

# Of SHA-256.
DIGEST_NBYTES = 32

# Of a host's name: HOST_NAME_MAX of Linux.
_HOST_LENGTH = 64


class Nearness(IntEnum):
    """Classes of interfaces; a pair prefers the lower number."""

    FAST = 0
    """hsn*, ib*: Slingshot and InfiniBand."""
    ORDINARY = 1
    VIRTUAL = 2
    """Bridges of containers and virtual machines: often the same address on every host."""
    LINK_LOCAL = 3
    LOOPBACK = 4


class Address(NamedTuple):
    """One listening TCP socket: IP address with prefix length, port, and the class of its interface.

    `scope` is the interface's index on its own host: dialing a link-local IPv6 address takes the dialer's.  0 is an address
    that no interface of the host has: it is advertised for one that cannot be reached from outside.
    """

    ip: IPv4Interface | IPv6Interface
    port: int
    nearness: Nearness
    scope: int = 0

    def __str__(self) -> str:
        host = f"[{self.ip.ip}]" if self.ip.version == 6 else str(self.ip.ip)
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Endpoint:
    """Where a rank listens and who it is.

    Attributes
    ----------
    host : str
        Host name, for people only; nothing resolves it.
    pid, cores, first_core : int
        Process id, how many cores the process may use, and the number of the first of them.
    host_id : bytes, 16
        Equal for two processes if they can reach each other over AF_UNIX and loopback.
    unix : bytes
        Name of the abstract AF_UNIX listening socket, 16 bytes; empty if the rank has none.
    addresses : tuple of Address
        At most `MAX_ADDRESSES`, best first.
    readable : bool
        Processes of the same user and host may read its memory, as far as it knows.
    digest : bytes, 32
        SHA-256 of the certificate that the rank encrypts with; empty if it does not encrypt.
    checksum : bool
        The rank wants its connections checked.
    uid : int
        Its user, as numbered in its own user namespace.
    """

    host: str
    pid: int
    cores: int
    host_id: bytes
    unix: bytes
    addresses: tuple[Address, ...]
    first_core: int = 0
    readable: bool = False
    digest: bytes = b""
    checksum: bool = False
    uid: int = 0

    def pack(self) -> bytes:
        """Return `ENDPOINT_NBYTES` bytes."""
        packed = _WHO.pack(
            self.host.encode()[:_HOST_LENGTH],
            self.pid,
            self.uid,
            min(self.cores, 0xFFFF),
            min(self.first_core, 0xFFFF),
            self.host_id,
            self.unix,
            self.readable * _READABLE | self.checksum * _CHECKSUM,
            len(self.addresses),
        )
        for address in self.addresses:
            packed += _ADDRESS.pack(
                address.ip.version,
                address.nearness,
                address.ip.network.prefixlen,
                address.port,
                address.scope,
                address.ip.ip.packed,
            )
        return packed.ljust(_DIGEST_OFFSET, b"\0") + self.digest.ljust(DIGEST_NBYTES, b"\0")

    @classmethod
    def unpack(cls, packed: bytes) -> Endpoint:
        """Read what `pack` wrote.

        Raises
        ------
        ValueError
            The bytes are not an endpoint.
        """
        if len(packed) < WHO_NBYTES:
            raise ValueError(f"an endpoint has at least {WHO_NBYTES} bytes, not {len(packed)}")
        host, pid, uid, cores, first_core, host_id, unix, flags, count = _WHO.unpack_from(packed)
        if count > MAX_ADDRESSES:
            raise ValueError(f"an endpoint has at most {MAX_ADDRESSES} addresses, not {count}")
        if len(packed) < WHO_NBYTES + count * _ADDRESS.size:
            raise ValueError(f"{len(packed)} bytes are too few for an endpoint of {count} addresses")
        addresses = []
        for index in range(count):
            version, nearness, prefix, port, scope, ip = _ADDRESS.unpack_from(packed, _WHO.size + index * _ADDRESS.size)
            addresses.append(Address(_interface(version, ip, prefix), port, Nearness(nearness), scope))
        text = plain(host.rstrip(b"\0").decode(errors="ignore"), _HOST_LENGTH)
        unix, digest = (some.rstrip(b"\0") and some for some in (unix, packed[_DIGEST_OFFSET:ENDPOINT_NBYTES]))
        readable, checksum = bool(flags & _READABLE), bool(flags & _CHECKSUM)
        return cls(text, pid, cores, host_id, unix, tuple(addresses), first_core, readable, digest, checksum, uid)


@lru_cache(maxsize=4096)
def _interface(version: int, ip: bytes, prefix: int) -> IPv4Interface | IPv6Interface:
    # 5 us each, and all ranks of a host publish the same ones.
    numeric: IPv4Address | IPv6Address = ip_address(ip[:4] if version == 4 else ip)
    return ip_interface((numeric, prefix))


_WHO = Struct(f"<{_HOST_LENGTH}sIIHH16s16sBB")
_READABLE, _CHECKSUM = 1, 2  # flags
_ADDRESS = Struct("<BBBHI16s")
WHO_NBYTES = _WHO.size  # an endpoint without addresses
_DIGEST_OFFSET = _WHO.size + MAX_ADDRESSES * _ADDRESS.size
ENDPOINT_NBYTES = _DIGEST_OFFSET + DIGEST_NBYTES


@dataclass(frozen=True)
class Peer:
    """Who a pair leads to, as in ``ctx.peers``.

    Attributes
    ----------
    rank, pid : int
    host : str
    transport : str
        ``"self"``, ``"unix"``, ``"tcp"``, or ``"tls"`` for TCP that is encrypted.
    address : str
        ``"10.0.0.4:40112"`` for tcp and tls, the name of the abstract socket for unix, empty for self.
    why : str
        Why this way was taken, such as ``"shared subnet 10.0.0.0/24"``.
    host_id : bytes
        The same for the ranks of one host, whatever its name.
    readable : bool
        See `Endpoint`.
    checked : bool
        Checksums go with what is sent to the peer and what comes from it, see `Device`.
    """

    rank: int
    host: str
    pid: int
    transport: str
    address: str
    why: str = ""
    host_id: bytes = field(default=b"", repr=False, compare=False)
    readable: bool = field(default=False, repr=False, compare=False)
    checked: bool = field(default=False, compare=False)

    @property
    def link(self) -> str:
        """Transport and address in one."""
        return f"{self.transport} {self.address}".rstrip()

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid}, {self.link})"
