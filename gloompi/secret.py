"""The secret that ranks share beforehand, where the channel that they meet over can be read by others."""

from __future__ import annotations

import logging
import os
import stat

from .settings import long_enough, value

__all__ = ["shared_secret"]

_log = logging.getLogger("gloompi")

_VARIABLE = "GLOOMPI_SECRET_FILE"


def shared_secret(secret: bytes | str | None) -> bytes:
    """The secret as bytes: the one given, else the content of the file that GLOOMPI_SECRET_FILE names, else empty.

    Raises
    ------
    TypeError, ValueError
        The secret is neither bytes nor str, or has fewer than 16 bytes.
    OSError
        The file cannot be read, or somebody else can have written it.
    """
    if secret is not None:
        if not isinstance(secret, bytes | str):
            raise TypeError(f"secret must be bytes or str, not {type(secret).__name__}")
        if not secret:
            raise ValueError("secret must not be empty; None is no secret")
        return long_enough("secret", secret.encode(errors="surrogatepass") if isinstance(secret, str) else secret)
    content: bytes = value(_VARIABLE, b"")
    if content:
        path = os.environ[_VARIABLE]
        if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            _log.warning("%s=%s: other users may read it; chmod 600 %s", _VARIABLE, path, path)
    return content
