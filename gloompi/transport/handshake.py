"""The handshake: both ends of a connection prove that they hold the session key.  Bytes in, bytes out; no sockets.

Four flights::

    dialer   -> acceptor   hello    magic, session label, both ranks, fresh nonce               64 bytes
    acceptor -> dialer     answer   fresh nonce, HMAC("answer", hello, nonce)                   64 bytes
    dialer   -> acceptor   proof    HMAC("proof", hello, answer)                                32 bytes
    acceptor -> dialer     welcome  HMAC("welcome", hello, answer)                              32 bytes

The HMACs (HMAC-SHA256, RFC 2104) bind session, both ranks, both nonces and the direction, so that neither replaying nor
reflecting a flight gets anybody in.  The welcome tells the dialer that it holds the one connection of its rank: a dialer
that does not get it may dial again.
"""

from __future__ import annotations

import hmac
from collections.abc import Generator
from hashlib import sha256
from os import urandom
from struct import Struct
from typing import Any

from ..errors import AuthenticationError

__all__ = ["ANSWER_NBYTES", "HELLO_NBYTES", "PROOF_NBYTES", "Flights", "Session", "accept", "dial"]

_MAGIC = b"gloompi\x01"  # the last byte is the version of the handshake
_HELLO = Struct("<8s16sII32s")
HELLO_NBYTES = _HELLO.size
_NONCE_NBYTES = 32
ANSWER_NBYTES = _NONCE_NBYTES + 32
PROOF_NBYTES = 32


class Session:
    """The session key, and what either side sends and checks with it.

    Parameters
    ----------
    entropy : list of bytes
        32 random bytes of every rank, in rank order.
    secret : bytes
        What the ranks share beforehand; empty if `entropy` was exchanged over a trusted channel.
    """

    __slots__ = ("_key", "_label", "size")

    @property
    def marker(self) -> bytes:
        """32 bytes that only the ranks know, and that do not give the key away."""
        return hmac.digest(self._key, b"gloompi marker", "sha256")

    def __init__(self, entropy: list[bytes], secret: bytes = b"") -> None:
        self.size = len(entropy)
        together = b"".join(entropy)
        if secret:  # neither part alone gives the key away
            together = hmac.digest(secret, b"gloompi entropy\0" + together, "sha256")
        self._key = hmac.digest(together, b"gloompi session key", "sha256")
        # Public: it only lets a listener drop the leftovers of another session without an HMAC.
        self._label = sha256(b"gloompi session label" + self._key).digest()[:16]

    def hello(self, dialer: int, acceptor: int) -> bytes:
        return _HELLO.pack(_MAGIC, self._label, dialer, acceptor, urandom(32))

    def answer(self, hello: bytes) -> bytes:
        nonce = urandom(_NONCE_NBYTES)
        return nonce + self._mac(b"answer", hello, nonce)

    def proof(self, hello: bytes, answer: bytes) -> bytes:
        return self._mac(b"proof", hello, answer)

    def welcome(self, hello: bytes, answer: bytes) -> bytes:
        return self._mac(b"welcome", hello, answer)

    def _mac(self, direction: bytes, hello: bytes, answer: bytes) -> bytes:
        return hmac.digest(self._key, direction + b"\0" + hello + answer, "sha256")

    def check_hello(self, hello: bytes, acceptor: int) -> int:
        """Return the rank that a hello claims to come from.

        Raises
        ------
        AuthenticationError
            It is no hello, of another version or session, or for another rank.
        """
        magic, label, dialer, meant, _ = _HELLO.unpack(hello)
        if magic[:7] != _MAGIC[:7]:
            raise AuthenticationError(f"not gloompi: it starts with {hello[:8]!r}")
        if magic != _MAGIC:
            raise AuthenticationError(f"handshake version {magic[7]}, this is version {_MAGIC[7]}")
        if not hmac.compare_digest(label, self._label):
            raise AuthenticationError("it belongs to another session")
        if meant != acceptor:
            raise AuthenticationError(f"it is meant for rank {meant}, this is rank {acceptor}")
        if not acceptor < dialer < self.size:
            raise AuthenticationError(f"rank {dialer} does not dial rank {acceptor} in a session of {self.size}")
        return int(dialer)

    def check_answer(self, hello: bytes, answer: bytes) -> None:
        nonce, mac = answer[:_NONCE_NBYTES], answer[_NONCE_NBYTES:]
        _check(mac, self._mac(b"answer", hello, nonce), "answer")

    def check_proof(self, hello: bytes, answer: bytes, proof: bytes) -> None:
        _check(proof, self._mac(b"proof", hello, answer), "proof")

    def check_welcome(self, hello: bytes, answer: bytes, welcome: bytes) -> None:
        _check(welcome, self._mac(b"welcome", hello, answer), "welcome")


Flights = Generator[tuple[bytes, int], bytes, Any]
"""One side of a handshake: yields what to send and how many bytes to wait for, and is sent those."""


def dial(session: Session, dialer: int, acceptor: int) -> Flights:
    """The dialer's side.

    Raises
    ------
    AuthenticationError
        The other side does not hold the session key.
    """
    hello = session.hello(dialer, acceptor)
    answer = yield hello, ANSWER_NBYTES
    session.check_answer(hello, answer)
    welcome = yield session.proof(hello, answer), PROOF_NBYTES
    session.check_welcome(hello, answer, welcome)


def accept(session: Session, acceptor: int) -> Flights:
    """The acceptor's side; returns the dialer's rank, and the welcome that is still to be sent.

    Raises
    ------
    AuthenticationError
        The other side is a stranger.
    """
    hello = yield b"", HELLO_NBYTES
    dialer = session.check_hello(hello, acceptor)
    answer = session.answer(hello)
    proof = yield answer, PROOF_NBYTES
    session.check_proof(hello, answer, proof)
    return dialer, session.welcome(hello, answer)


def _check(given: bytes, right: bytes, flight: str) -> None:
    if not hmac.compare_digest(given, right):
        raise AuthenticationError(f"wrong HMAC in its {flight}: it does not hold the session key")
