"""Settings: environment variables by which those who cannot change a program change what it does.

One table says which there are, what each means and how it is checked: for whoever reads one, for `check`, for the doctor and
for the documentation.  A variable that is empty counts as not set.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

__all__ = [
    "INTERFACES",
    "PREFIX",
    "SETTINGS",
    "TRANSPORTS",
    "Setting",
    "check",
    "given",
    "long_enough",
    "ports",
    "reachable",
    "transport",
    "unknown",
    "value",
    "warn_of_unknown",
]

PREFIX = "GLOOMPI_"
TRANSPORTS = ("auto", "tcp", "unix")
# The interface setting of a job may be there under another library's name.
INTERFACES = ("GLOOMPI_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


# Of its bytes; and no file of a secret is longer.
_MIN_SECRET, _MAX_SECRET = 16, 64 * 1024


class Setting(NamedTuple):
    """An environment variable that gloompi reads.

    Attributes
    ----------
    name : str
    meaning : str
        For people, in a line.
    read : callable
        Makes the value from where the text comes from, such as the name, and the text.  Raises ValueError if it has none.
    device : str
        The argument of `Device` that takes its place; empty if none does.
    """

    name: str
    meaning: str
    read: Callable[[str, str], Any]
    device: str = ""


def _text(source: str, text: str) -> str:
    return text


def _switch(source: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{source} must be 0 or 1, not {text!r}")
    return text == "1"


def _pickles(source: str, text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"{source} must be on or off, not {text!r}")
    return text == "on"


def transport(source: str, text: str) -> str:
    """Return a name in `TRANSPORTS`; ValueError if it is none."""
    if text not in TRANSPORTS:
        raise ValueError(f"{source} must be one of {', '.join(TRANSPORTS)}, not {text!r}")
    return text


def ports(source: str, port: int | tuple[int, int]) -> tuple[int, int]:
    """Return the lowest and the highest port, (0, 0) for any; ValueError if it is no port and no range."""
    low, high = (port, port) if isinstance(port, int) else port
    if not (0 <= low <= high <= 65535 and (low > 0 or high == 0)):
        raise ValueError(f"{source} must be 0, a port or a range low <= high within 1-65535, not {port!r}")
    return low, high


def _port_range(source: str, text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal()):
        raise ValueError(f"{source} must be low:high, not {text!r}")
    return ports(source, (int(low), int(high)))


def reachable(source: str, text: str) -> IPv4Address | IPv6Address:
    """Return an IP address; ValueError if it is none, or one that nobody can be reached at."""
    from ipaddress import ip_address

    try:
        address = ip_address(text)
    except ValueError as exc:
        raise ValueError(f"{source} must be an IP address, not {text!r}") from exc
    if address.is_unspecified or address.is_multicast or "%" in str(address):
        raise ValueError(f"{source} must be an address that others can reach, not {text!r}")
    return address


def _seconds(source: str, text: str) -> float | None:
    from .deadline import check_timeout

    try:
        return check_timeout(float(text))
    except ValueError:
        raise ValueError(f"{source} must be seconds >= 0, not {text!r}") from None


def _level(source: str, text: str) -> int:
    from logging import getLevelName

    level = getLevelName(text.upper())
    if not isinstance(level, int):
        raise ValueError(f"{source} must be debug, info, warning or error, not {text!r}")
    return level


def _url(source: str, text: str) -> str:
    from .store_url import check_url

    try:
        check_url(text)
    except ValueError as exc:
        raise ValueError(f"{source}: {exc}") from exc
    return text


def _secret(source: str, path: str) -> bytes:
    from .files import read_trusted

    try:
        content = read_trusted(path, _MAX_SECRET).strip()
    except OSError as exc:
        raise OSError(exc.errno, f"cannot read the file that {source} names: {exc.strerror}", path) from exc
    if not content:
        raise ValueError(f"{source}={path}: the file is empty; fill it with random text: openssl rand -hex 32")
    return long_enough(f"{source}={path}: the secret", content)


def long_enough(source: str, secret: bytes) -> bytes:
    """Return a secret; ValueError if whoever reads what is signed with it could find it by trying."""
    if len(secret) < _MIN_SECRET:
        raise ValueError(f"{source} has {len(secret)} bytes and needs {_MIN_SECRET}, at random: openssl rand -hex 32")
    return secret


SETTINGS = {
    each.name: each
    for each in (
        Setting("GLOOMPI_STORE", "URL of the store over which from_env() finds the other ranks", _url),
        Setting("GLOOMPI_SECRET_FILE", "file with the secret that all ranks share", _secret),
        # Which of them there are is asked when a Context is made: see `Device.check`.
        Setting("GLOOMPI_SOCKET_IFNAME", "interfaces to use, by name or network", _text, "interface"),
        Setting("GLOO_SOCKET_IFNAME", "the same, where GLOOMPI_SOCKET_IFNAME is not set", _text, "interface"),
        Setting("NCCL_SOCKET_IFNAME", "the same, where neither is set", _text, "interface"),
        Setting("GLOOMPI_ADVERTISE", "address at which the others reach this rank", reachable, "advertise"),
        Setting("GLOOMPI_PORT_RANGE", "low:high, ports to listen on", _port_range, "port"),
        Setting("GLOOMPI_TRANSPORT", "auto, tcp or unix", transport, "transport"),
        Setting("GLOOMPI_SINGLE_COPY", "0: no large message is read in the sender's memory", _switch, "single_copy"),
        Setting("GLOOMPI_TLS", "1: TCP connections are encrypted", _switch, "tls"),
        Setting("GLOOMPI_CHECKSUM", "1: every frame has a checksum", _switch, "checksum"),
        Setting("GLOOMPI_PICKLE", "off: operations on objects are refused", _pickles),
        Setting("GLOOMPI_TIMEOUT", "default budget of an operation, seconds", _seconds),
        # A folder that cannot be made is a warning: a job that runs is worth more than its trace.
        Setting("GLOOMPI_TRACE", "folder to which each rank writes its calls", _text),
        Setting("GLOOMPI_LOG_LEVEL", "debug, info, warning or error: log to stderr", _level),
    )
}


def value(name: str, default: Any = None) -> Any:
    """Return what a setting says, `default` if it is not set.

    Raises
    ------
    ValueError
        Its text has no meaning.
    OSError
        It names a file that cannot be read.
    """
    text = os.environ.get(name)
    return SETTINGS[name].read(name, text) if text else default


def check(secret: bool = False) -> None:
    """Raise, as `value`, for the first setting without a meaning, whether it is used or not.

    Those that an argument of `Device` can take the place of are left to it; with `secret`, an argument has taken that of
    GLOOMPI_SECRET_FILE.
    """
    for setting in SETTINGS.values():
        if not setting.device and not (secret and setting.name == "GLOOMPI_SECRET_FILE"):
            value(setting.name)


def given() -> dict[str, str]:
    """Return the settings that are set, as they may be shown: without passwords."""
    found = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    if "GLOOMPI_STORE" in found:
        from .store_url import shown

        found["GLOOMPI_STORE"] = shown(found["GLOOMPI_STORE"])
    return found


def unknown() -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none, without its text: that may be a secret."""
    found = []
    for name, text in sorted(os.environ.items()):
        if name.startswith(PREFIX) and text and name not in SETTINGS:
            from difflib import get_close_matches  # which only who has made a mistake pays for

            known = [each.removeprefix(PREFIX) for each in SETTINGS if each.startswith(PREFIX)]
            near = get_close_matches(name.removeprefix(PREFIX), known, 1)
            advice = f"did you mean {PREFIX}{near[0]}?" if near else "python -m gloompi doctor --help lists the settings"
            found.append(f"{name} is no setting of gloompi and has no effect; {advice}")
    return found


_lock = threading.Lock()
_told: set[str] = set()


def warn_of_unknown() -> None:
    """Warn of each variable that looks like a setting and is none, once a process."""
    with _lock:  # ranks may be threads
        fresh = [text for text in unknown() if text not in _told]
        _told.update(fresh)
    for text in fresh:
        warnings.warn(text, RuntimeWarning, stacklevel=6)  # whoever called from_mpi, from_store or from_env
