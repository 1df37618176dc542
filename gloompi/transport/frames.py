"""Frames: 64 header bytes and what they mean.  Bytes in, fields out; no sockets here.

Layout, little-endian::

    0   version     u8      of this layout
    1   kind        u8      Kind
    2   (zero)      6 B     where frames are checked, the two checks, see `checked`
    8   channel     u64     which conversation of which Context
    16  tag         i64     the user's tag, or sequence number << 16 | step of a collective; of PUSHED, see there
    24  nbytes      u64     payload that follows, or (ANNOUNCE, CREDIT) a number of bytes
    32  fingerprint 32 B    what the sender believes it is doing, see `gloompi.engine.fingerprint`

64 bytes keep a payload aligned behind its header for every dtype.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

__all__ = ["HEADER_NBYTES", "NO_FINGERPRINT", "VERSION", "Kind", "pack_header", "unpack_header"]

VERSION = 4


class Kind(IntEnum):
    """What a frame is for.  Only MESSAGE, DATA, OFFER, ABORT, VIEW, DECIDED and PUSHED are followed by a payload."""

    MESSAGE = 1
    """A whole message, sent without asking."""
    ANNOUNCE = 2
    """Ready to send `nbytes`; waits for CLEAR."""
    CLEAR = 3
    """The receive for this tag is posted: send."""
    DATA = 4
    """The message that was cleared."""
    CREDIT = 5
    """`nbytes` of the messages sent without asking have found their receives."""
    GOODBYE = 6
    """The sender has closed its Context; nothing follows."""
    ABORT = 7
    """The sender's Context is broken; the payload says why."""
    WAITING = 8
    """The sender has been waiting for a message of this call for a while: do we mean the same call?"""
    LEAVE = 9
    """The sender has closed the Context of this channel, and keeps others on the same connection."""
    OFFER = 10
    """As ANNOUNCE, and the payload says where in the sender's memory the message is: waits for TAKEN or CLEAR."""
    TAKEN = 11
    """The message that was offered has been read."""
    VIEW = 12
    """Among survivors, with a marker for the fingerprint; the payload says who is alive, the tag is a round's number."""
    DECIDED = 13
    """As VIEW; the payload says who goes on."""
    PUSHED = 14
    """A message that was announced for lack of credit, for which there is some now; its CLEAR means nothing any more.

    The tag is the number of its announcement, among all ANNOUNCE and OFFER of this connection, from 1.
    """
    REFUSED = 15
    """The message that was announced for this tag will never be asked for: the sender of this is closing its Context."""


_HEADER = Struct("<BB6xQqQ32s")
HEADER_NBYTES = _HEADER.size
NO_FINGERPRINT = bytes(32)

_pack = _HEADER.pack


def pack_header(kind: int, channel: int, tag: int, nbytes: int, fingerprint: bytes = NO_FINGERPRINT) -> bytes:
    return _pack(VERSION, kind, channel, tag, nbytes, fingerprint)


unpack_header = _HEADER.unpack_from
"""``unpack_header(buffer, offset) -> (version, kind, channel, tag, nbytes, fingerprint)``"""
