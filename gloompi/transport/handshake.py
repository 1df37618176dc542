"""The handshake: both ends of a connection prove that they hold the session key.  Bytes in, bytes out; no sockets.

Four flights::

    dialer   -> acceptor   hello    magic, transport, session label, both ranks, fresh nonce    64 bytes
    acceptor -> dialer     answer   fresh nonce, first half of HMAC("handshake", hello, nonce)  64 bytes
    dialer   -> acceptor   proof    second half of it                                           32 bytes
    acceptor -> dialer     welcome  HMAC("welcome", hello, answer)                              32 bytes

The HMACs (RFC 2104, with SHA-512 and SHA-256) bind session, transport, both ranks, both nonces, the certificates of both
ranks and the direction, so that neither replaying nor reflecting a flight gets anybody in, nor carrying one elsewhere.  Who
cannot make the first half of an HMAC cannot make the second from it: so the acceptor has computed one HMAC, and no more,
when it knows whether it talks to a stranger.  The welcome tells the dialer that it holds the one connection of its rank: a
dialer that does not get it may dial again.  docs/security-protocol.md has all of it.
"""

from __future__ import annotations

import hmac
from collections.abc import Generator, Sequence
from enum import IntEnum
from hashlib import sha256
from os import urandom
from struct import Struct
from typing import Any

from ..errors import AuthenticationError

__all__ = ["ANSWER_NBYTES", "HELLO_NBYTES", "PROOF_NBYTES", "Flights", "Session", "Transport", "accept", "dial"]

_MAGIC = b"gloompi\x02"  # the last byte is the version of the handshake
_HELLO = Struct("<8sB15sII32s")
HELLO_NBYTES = _HELLO.size
_LABEL_NBYTES = 15
_NONCE_NBYTES = 32
_MAC_NBYTES = 32
ANSWER_NBYTES = _NONCE_NBYTES + _MAC_NBYTES
PROOF_NBYTES = _MAC_NBYTES

_NO_DIGEST = bytes(32)


class Transport(IntEnum):
    """The way that a connection takes: a hello says it, and it must be the acceptor's too.

    What is going to be encrypted is known by the certificates, which are in every MAC.
    """

    UNIX = 1
    TCP = 2


class Session:
    """The session key, and what either side sends and checks with it.

    Parameters
    ----------
    records : sequence of bytes
        What all ranks have told each other, in rank order, as this rank has received it.  It has fresh random bytes of every
        rank in it; a rank that has received something else has another key.
    secret : bytes
        What the ranks share beforehand; empty if the records were exchanged over a trusted channel.
    digests : sequence of bytes
        By rank, the digest of the certificate that it encrypts with; none if the ranks do not encrypt.
    """

    __slots__ = ("_digests", "_key", "_label", "size")

    @property
    def marker(self) -> bytes:
        """32 bytes that only the ranks know, and that do not give the key away."""
        return hmac.digest(self._key, b"gloompi marker", "sha256")

    def __init__(self, records: Sequence[bytes], secret: bytes = b"", digests: Sequence[bytes] = ()) -> None:
        self.size = len(records)
        self._digests = [digest or _NO_DIGEST for digest in digests] or [_NO_DIGEST] * self.size
        told = sha256(b"gloompi records\0")
        for record in records:
            told.update(sha256(record).digest())  # of one length each: no record can become part of another
        # Neither the secret nor the records alone give the key away.
        self._key = hmac.digest(secret, b"gloompi session key\0" + told.digest(), "sha256")
        # Public: it only lets a listener drop the leftovers of another session without an HMAC.
        self._label = hmac.digest(self._key, b"gloompi session label", "sha256")[:_LABEL_NBYTES]

    def hello(self, dialer: int, acceptor: int, transport: Transport) -> bytes:
        return _HELLO.pack(_MAGIC, transport, self._label, dialer, acceptor, urandom(_NONCE_NBYTES))

    def macs(self, hello: bytes, nonce: bytes) -> tuple[bytes, bytes]:
        """Return the MAC of the answer with this nonce, and the proof."""
        both = self._mac(b"handshake", hello, nonce, "sha512")
        return both[:_MAC_NBYTES], both[_MAC_NBYTES:]

    def welcome(self, hello: bytes, answer: bytes) -> bytes:
        return self._mac(b"welcome", hello, answer, "sha256")

    def _mac(self, label: bytes, hello: bytes, answer: bytes, algorithm: str) -> bytes:
        _, _, _, dialer, acceptor, _ = _HELLO.unpack(hello)
        certificates = self._digests[dialer] + self._digests[acceptor]
        return hmac.digest(self._key, label + b"\0" + certificates + hello + answer, algorithm)

    def check_hello(self, hello: bytes, acceptor: int, transport: Transport) -> int:
        """Return the rank that a hello claims to come from.

        Raises
        ------
        AuthenticationError
            It is no hello, of another version or session, for another rank, or came by another way.
        """
        magic, way, label, dialer, meant, _ = _HELLO.unpack(hello)
        if magic[:7] != _MAGIC[:7]:
            raise AuthenticationError(f"not gloompi: it starts with {hello[:8]!r}")
        if magic != _MAGIC:
            raise AuthenticationError(f"handshake version {magic[7]}, this is version {_MAGIC[7]}")
        if not hmac.compare_digest(label, self._label):
            raise AuthenticationError("it belongs to another session")
        if way != transport:
            raise AuthenticationError(f"it was sent by another way (number {way}) than it has come ({transport.name})")
        if meant != acceptor:
            raise AuthenticationError(f"it is meant for rank {meant}, this is rank {acceptor}")
        if not acceptor < dialer < self.size:
            raise AuthenticationError(f"rank {dialer} does not dial rank {acceptor} in a session of {self.size}")
        return int(dialer)


Flights = Generator[tuple[bytes, int], bytes, Any]
"""One side of a handshake: yields what to send and how many bytes to wait for, and is sent those."""


def dial(session: Session, dialer: int, acceptor: int, transport: Transport) -> Flights:
    """The dialer's side.

    Raises
    ------
    AuthenticationError
        The other side does not hold the session key.
    """
    hello = session.hello(dialer, acceptor, transport)
    answer = yield hello, ANSWER_NBYTES
    mac, proof = session.macs(hello, answer[:_NONCE_NBYTES])
    _check(answer[_NONCE_NBYTES:], mac, "answer")
    welcome = yield proof, PROOF_NBYTES
    _check(welcome, session.welcome(hello, answer), "welcome")


def accept(session: Session, acceptor: int, transport: Transport) -> Flights:
    """The acceptor's side; returns the dialer's rank, and the welcome that is still to be sent.

    Raises
    ------
    AuthenticationError
        The other side is a stranger.
    """
    hello = yield b"", HELLO_NBYTES
    dialer = session.check_hello(hello, acceptor, transport)
    nonce = urandom(_NONCE_NBYTES)
    mac, right = session.macs(hello, nonce)
    answer = nonce + mac
    proof = yield answer, PROOF_NBYTES
    _check(proof, right, "proof")
    return dialer, session.welcome(hello, answer)


def _check(given: bytes, right: bytes, flight: str) -> None:
    if not hmac.compare_digest(given, right):
        raise AuthenticationError(f"wrong HMAC in its {flight}: it does not hold the session key")
