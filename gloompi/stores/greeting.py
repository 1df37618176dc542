"""The first words between a TCPStore's client and the process that serves it.

Without a secret either side says its line, so that neither takes another program for a store, nor a store that was meant for
another port.  With one::

    client      line, nonce C
    server      line, nonce S
    client      HMAC-SHA256(secret, "client" line C S)
    server      HMAC-SHA256(secret, "server" line C S)

Nobody gets as far as a request, or anything made of the secret, before he has shown that he has it; the server computes one
HMAC for a stranger.  What follows is neither encrypted nor authenticated.
"""

from __future__ import annotations

import hmac
from secrets import token_bytes

from .bounded import BoundedSocket

__all__ = ["NONCE_NBYTES", "PROOF_NBYTES", "SecretError", "greet", "line", "proof", "same"]

NONCE_NBYTES = PROOF_NBYTES = 32


def line(port: int, secret: bytes) -> bytes:
    """The first words of either side; they end with how it goes on, and have the same length with and without a secret.

    Two jobs whose lists of ports overlap would meet if the port that the store is known by were not in it.
    """
    return f"gloompi store 2 {port:5d} {'hmac' if secret else 'open'}\n".encode()


def proof(secret: bytes, side: str, said: bytes, nonces: bytes) -> bytes:
    """The words that only a side has that has the secret."""
    return hmac.digest(secret, f"gloompi store {side} ".encode() + said + nonces, "sha256")


same = hmac.compare_digest


class SecretError(ConnectionError):
    """A store of this port answers, but has another secret."""


def greet(sock: BoundedSocket, port: int, secret: bytes) -> None:
    """Greet the process that serves, as its client.

    Raises
    ------
    SecretError
        The other side has another secret, or one of the two has none.
    OSError
        It is no store of this port.
    """
    said = line(port, secret)
    mine = token_bytes(NONCE_NBYTES) if secret else b""
    sock.sendall(said + mine)
    theirs = sock.receive(len(said))
    if theirs == line(port, b"" if secret else b"some"):
        text = "this process has a secret, it has none" if secret else "it has a secret, this process has none"
        raise SecretError(f"{text} (secret=, GLOOMPI_SECRET_FILE)")
    if theirs != said:
        raise ConnectionError(f"what answers on port {port} is not the store")
    if not secret:
        return
    nonces = mine + sock.receive(NONCE_NBYTES)
    sock.sendall(proof(secret, "client", said, nonces))
    try:
        theirs = sock.receive(PROOF_NBYTES)
    except ConnectionError:
        theirs = b""  # as it does with strangers
    if not same(theirs, proof(secret, "server", said, nonces)):
        raise SecretError("it has another secret (secret=, GLOOMPI_SECRET_FILE)")
