"""The certificate of one rank for one rendezvous, and its private key.

Both live in memory only.  Python's ssl takes a private key from a file alone: it gets one that has no name and no disk, a
memfd (memfd_create(2), Linux 3.17), or where Python was built without it, an unnamed file in the tmpfs of /dev/shm.
"""

from __future__ import annotations

import hmac
import os
from datetime import datetime
from hashlib import sha256

__all__ = ["Certificate", "is_described", "make_certificate"]

_MEMORY = "/dev/shm"  # of this process alone, see below # nosec B108

# Which certificate is right is known by its digest, and it is forgotten after the rendezvous: hosts whose clocks differ
# need not agree on when it is valid. RFC 5280, 4.1.2.5, has the end as that of what does not expire.
_BEGIN, _END = datetime(2000, 1, 1), datetime(9999, 12, 31, 23, 59, 59)


class Certificate:
    """A self-signed certificate, with its private key until it is closed.

    Attributes
    ----------
    der : bytes
        What the peers are shown.
    digest : bytes, 32
        SHA-256 of it, which tells them beforehand that it is the right one.
    """

    __slots__ = ("_fd", "der", "digest")

    def __init__(self, der: bytes, pem: bytes) -> None:
        self.der = der
        self.digest = sha256(der).digest()
        self._fd = _memory_file()
        try:
            os.write(self._fd, pem)  # half a page: never in parts
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """Where certificate and key can be read in PEM, by this process, until `close`."""
        if self._fd < 0:
            raise ValueError("the certificate is closed: its private key is gone")
        return f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        """Forget the private key."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def make_certificate() -> Certificate:
    """Make a new certificate, with a new key on the curve P-256.

    Raises
    ------
    ImportError
        The package cryptography is missing: ``pip install 'gloompi[tls]'``.
    OSError
        There is no memory that can be read as a file.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
        from cryptography.x509.oid import NameOID
    except ImportError as exc:
        text = f"Device(tls=True) (GLOOMPI_TLS=1) needs the package {exc.name}: pip install 'gloompi[tls]'"
        raise ImportError(text, name=exc.name) from exc
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gloompi")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certificate(made.public_bytes(Encoding.DER), made.public_bytes(Encoding.PEM) + private)


def is_described(der: bytes, digest: bytes) -> bool:
    """Whether a certificate is the one that a digest was made of."""
    return hmac.compare_digest(sha256(der).digest(), digest)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):  # builds against a C library before glibc 2.27 lack it
        return os.memfd_create("gloompi", os.MFD_CLOEXEC)
    return os.open(_MEMORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
