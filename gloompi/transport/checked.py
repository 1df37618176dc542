"""A pair whose frames carry checksums: what was altered on its way never counts as received.

Six bytes of the header, which other pairs leave zero, hold two checks, little-endian::

    2   header      u16     CRC-16 of the other 62 bytes of the header
    4   payload     u32     CRC-32 of the payload

A header is checked before any of it is believed.  A payload goes to its sink as it comes, but the last bytes, and the word
that it is complete, only if all of it is undamaged.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Protocol, cast
from zlib import crc32

from .frames import HEADER_NBYTES, Kind, unpack_header
from .link import Patience, Sink
from .pair import Pair, PairHandler

if TYPE_CHECKING:
    import socket

    from .endpoint import Peer

__all__ = ["CheckedPair", "DamagedHeader", "payload_check", "seal"]

_CHECKS = Struct("<2xHI")
_HEADER_CHECK = Struct("<H")
_PAYLOAD_CHECK = Struct("<I")

# Where the polynomial division of the header begins: with 0, a header of zeros would pass for one.
_START = 0xFFFF


class DamagedHeader(Exception):
    """A header is not what its check says."""


def seal(header: bytes, payload: memoryview | None = None) -> bytes:
    """Return `header`, which a payload may follow, with the two checks.

    Parameters
    ----------
    header : bytes
        Of `pack_header`; a payload may also follow in it.
    payload : memoryview, optional
        What will be sent behind it.
    """
    check = crc32(header[HEADER_NBYTES:])
    if payload is not None:
        check = crc32(payload, check)
    head, tail = header[:2], _PAYLOAD_CHECK.pack(check) + header[8:]
    return head + _HEADER_CHECK.pack(crc_hqx(tail[: HEADER_NBYTES - 4], crc_hqx(head, _START))) + tail


def payload_check(buffer: memoryview, position: int = 0) -> int:
    """Return what a sealed header says that the CRC-32 of its payload is.

    Raises
    ------
    DamagedHeader
        No header may be believed that says so.
    """
    wanted, check = _CHECKS.unpack_from(buffer, position)
    found = crc_hqx(buffer[position + 4 : position + HEADER_NBYTES], crc_hqx(buffer[position : position + 2], _START))
    if found != wanted:
        raise DamagedHeader(f"its header has CRC-16 {found:04x}, not {wanted:04x}")
    return int(check)


class CheckedHandler(PairHandler, Protocol):
    """Who a checked pair reports to.

    Attributes
    ----------
    rank : int
        This rank.
    """

    rank: int

    def damaged(self, pair: Pair, reason: str) -> None:
        """What has come is not what was sent; closes the pair, in which the peer can still be told why."""


class CheckedPair(Pair):
    """The checked connection to one peer.

    Parameters
    ----------
    sock, peer, handler, credit, staging
        As for `Pair`.
    """

    __slots__ = ("_count", "_header")

    _handler: CheckedHandler

    def __init__(self, sock: socket.socket, peer: Peer, handler: CheckedHandler, credit: int, staging: memoryview) -> None:
        super().__init__(sock, peer, handler, credit, staging)
        assert isinstance(staging.obj, bytearray)
        self._begins_with = cast("Any", _beginning(staging.obj))
        self._count = 0  # frames that have come or begun to come
        self._header = (0, 0, 0, 0)  # of the last: kind, channel, tag, nbytes

    @property
    def receiving(self) -> Sink | None:
        return self._sink.sink if isinstance(self._sink, _Checking) else self._sink

    def write(self, header: bytes, payload: memoryview | None = None) -> bool:
        return super().write(seal(header, payload), payload)

    def expect(self, header: bytes, nbytes: int, waits: Patience) -> memoryview | None:
        payload = super().expect(header, nbytes, waits)
        if payload is None:
            return None
        self._count += 1
        try:
            check = payload_check(self._staging)
        except DamagedHeader as exc:
            self._refuse("", str(exc))
            return None
        self._header = unpack_header(header, 0)[1:5]
        return payload if self._agrees(crc32(payload), check) else None

    def _begin(self, position: int) -> Sink | None:
        self._count += 1
        try:
            check = payload_check(self._staging, position)
        except DamagedHeader as exc:
            self._refuse("", str(exc))
            return None
        self._header = unpack_header(self._staging, position)[1:5]
        sink = super()._begin(position)
        return None if sink is None else _Checking(self, sink, self._header[3], check)

    def _agrees(self, found: int, wanted: int) -> bool:
        """Whether the payload of the last frame has the CRC-32 that it should have; if not, that ends the connection."""
        if found == wanted:
            return True
        kind, channel, tag, nbytes = self._header
        name = Kind(kind).name if kind in Kind.__members__.values() else f"kind {kind}"
        about = f" ({name}, channel {channel}, tag {tag})"
        self._refuse(about, f"its payload of {nbytes} bytes has CRC-32 {found:08x}, not {wanted:08x}")
        return False

    def _refuse(self, about: str, why: str) -> None:
        self._handler.damaged(
            self,
            f"frame {self._count} from rank {self.rank} to rank {self._handler.rank}{about} is damaged: {why}; memory or a "
            f"link on the way has altered it, or its program has changed an array that was still being sent; see the error "
            f"counters of both hosts (edac-util, ethtool -S)",
        )


def _beginning(memory: bytearray) -> Callable[[bytes], bool]:
    """A test whether `memory` begins with a header, whatever its checks are."""

    def begins_with(header: bytes) -> bool:
        return memory.startswith(header[8:], 8) and memory.startswith(header[:2])

    return begins_with


class _Checking:
    """The sink of a payload: another sink gets it, but for the last bytes of one that is damaged, and is told of the end."""

    __slots__ = ("_check", "_found", "_left", "_pair", "_window", "sink")

    def __init__(self, pair: CheckedPair, sink: Sink, nbytes: int, check: int) -> None:
        self._pair = pair
        self.sink = sink
        self._left = nbytes
        self._check = check
        self._found = 0
        self._window = memoryview(b"")

    def feed(self, data: memoryview) -> None:
        self._found = crc32(data, self._found)
        self._left -= len(data)
        if self._left or self._found == self._check:
            self.sink.feed(data)

    def window(self) -> memoryview:
        self._window = self.sink.window()
        return self._window

    def advance(self, nbytes: int) -> None:
        # First: a sink that reduces writes its result where the bytes have come.
        self._found = crc32(self._window[:nbytes], self._found)
        self._left -= nbytes
        if self._left or self._found == self._check:
            self.sink.advance(nbytes)

    def finish(self) -> None:
        if self._pair._agrees(self._found, self._check):
            self.sink.finish()
