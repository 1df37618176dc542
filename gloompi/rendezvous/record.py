"""What a rank tells all others: its endpoint, or why it has none; and at the end, whether it reached everybody.

Bytes in, fields out.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from ..errors import readable
from ..foreign import plain
from ..transport.endpoint import ENDPOINT_NBYTES, WHO_NBYTES, Endpoint

__all__ = ["RECORD_NBYTES", "VERDICT_NBYTES", "Blame", "Record", "pack_verdict", "unpack_verdict"]

_VERSION = 6
RECORD_NBYTES = 400
VERDICT_NBYTES = 400

_HEAD = Struct("<BB32s")
_REASON_OFFSET = _HEAD.size + WHO_NBYTES
_OK, _FAILED = 1, 2


class Record(NamedTuple):
    """One rank's part of the rendezvous.

    Attributes
    ----------
    endpoint : Endpoint
        Without addresses if the rank has failed.
    entropy : bytes, 32
        Random: this rank's share of the session key.
    failure : str
        Why the rank cannot take part; empty if it can.
    """

    endpoint: Endpoint
    entropy: bytes
    failure: str = ""

    def __repr__(self) -> str:
        return f"Record({self.endpoint}, failure={self.failure!r})"  # the entropy is secret

    def pack(self) -> bytes:
        """Return `RECORD_NBYTES` bytes."""
        head = _HEAD.pack(_FAILED if self.failure else _OK, _VERSION, self.entropy)
        packed = head + self.endpoint.pack()
        if self.failure:
            packed = packed[:_REASON_OFFSET] + _cut(self.failure, RECORD_NBYTES - _REASON_OFFSET)
        return packed.ljust(RECORD_NBYTES, b"\0")

    @classmethod
    def unpack(cls, packed: bytes) -> Record:
        """Read what `pack` wrote.

        Raises
        ------
        ValueError
            The bytes are of another version, or no record.
        """
        if len(packed) != RECORD_NBYTES:
            raise ValueError(f"its record has {len(packed)} bytes, this gloompi writes {RECORD_NBYTES}")
        status, version, entropy = _HEAD.unpack_from(packed)
        if version != _VERSION or status not in (_OK, _FAILED):
            raise ValueError(f"its record has version {version}, this gloompi writes version {_VERSION}")
        if status == _OK:
            return cls(Endpoint.unpack(packed[_HEAD.size : _HEAD.size + ENDPOINT_NBYTES]), entropy)
        who = Endpoint.unpack(packed[_HEAD.size : _REASON_OFFSET])
        return cls(who, entropy, _said(packed[_REASON_OFFSET:]))


class Blame(IntEnum):
    """How much a failure says about its cause; of several, the ranks raise the one that says most."""

    WAITED = 0
    """Somebody did not come: why, only that rank can know."""
    DIALED = 1
    """Somebody could not be reached, at an address and for a reason that are in the text."""
    OWN = 2
    """The rank has a fault of its own."""


_WORST = max(Blame)


def pack_verdict(failure: str, blame: Blame) -> bytes:
    """`VERDICT_NBYTES` bytes that say whether a rank is connected to all others.

    Parameters
    ----------
    failure : str
        Why it is not; empty if it is.
    blame : Blame
    """
    return (bytes([blame]) + _cut(failure, VERDICT_NBYTES - 1)).ljust(VERDICT_NBYTES, b"\0")


def unpack_verdict(packed: bytes) -> tuple[str, Blame]:
    """What `pack_verdict` was given."""
    return _said(packed[1:]), Blame(min(packed[0], _WORST))


def _said(packed: bytes) -> str:
    return plain(packed.rstrip(b"\0").decode(errors="replace"), VERDICT_NBYTES)


def _cut(text: str, nbytes: int) -> bytes:
    encoded = readable(text).encode()
    return encoded if len(encoded) <= nbytes else encoded[: nbytes - 3].decode(errors="ignore").encode() + b"..."
