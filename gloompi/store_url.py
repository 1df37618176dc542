"""URLs of stores: one parser for all of them, the kinds that there are, and what of a URL may be shown.

``scheme://[user[:password]@]host[:port][,host[:port]...][/path][?options]``.  In a URL that does not read like that,
anything may be the password: a "/" in it makes a path of its end, a missing "@" a port.  So nothing of such a URL is shown
but the scheme, and an "@" that does not end the user info makes it one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["FORMS", "StoreURL", "check_url", "parse_url", "shown"]

_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+)(?::(?P<port>[0-9]{1,5}))?")
# What has no place for a password, such as a URL without its scheme.
_PLAIN = re.compile(r"[\w./~-]*(?::[0-9]*)?|file:[\w./~-]*")
_SCHEME = re.compile(r"[A-Za-z]{1,12}(?=://)")


@dataclass(frozen=True, repr=False)
class StoreURL:
    """The parts of a URL; as text, those of them that may be shown.

    Attributes
    ----------
    scheme : str
        In small letters.
    user, password : str or None
        Unquoted.
    hosts : tuple of (str, int or None)
        Names or addresses, the latter without brackets, and ports; empty if the URL has none.
    path, options : str
        As they stand there, the path with its first slash.
    """

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    options: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"

    def __repr__(self) -> str:
        return f"StoreURL({str(self)!r})"

    @property
    def netloc(self) -> str:
        """Hosts and ports."""
        named = ((f"[{name}]" if ":" in name else name, port) for name, port in self.hosts)
        return ",".join(name if port is None else f"{name}:{port}" for name, port in named)

    @property
    def host(self) -> str:
        """The one host that there is, without brackets; empty if there are none or several."""
        return self.hosts[0][0] if len(self.hosts) == 1 else ""

    @property
    def port(self) -> int | None:
        """The port of the one host that there is."""
        return self.hosts[0][1] if len(self.hosts) == 1 else None


def parse_url(url: str) -> StoreURL:
    """Take a URL apart; opens nothing.

    Raises
    ------
    ValueError
        It does not read like one.  The text says what is wrong and shows nothing of it.
    """
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError("a blank or control character is in it; write it as %20 or the like")
    parts = _PARTS.fullmatch(url)
    if parts is None:
        raise ValueError("it is not scheme://host:port/path; in user and password, / ? # @ are %2F %3F %23 %40")
    scheme, path, options = parts["scheme"].lower(), parts["path"] or "", parts["options"] or ""
    bare = scheme == "file" and not parts["hosts"] and parts["user"] is None  # has nothing to be confused with
    if "@" in options or ("@" in path and not bare):
        raise ValueError("an @ is in its path or options, or a / or ? in its password: @ / ? # are %40 %2F %3F %23 there")
    hosts = tuple(map(_host, parts["hosts"].split(","))) if parts["hosts"] else ()
    user, password = (None if each is None else unquote(each) for each in (parts["user"], parts["password"]))
    return StoreURL(scheme, user, password, hosts, path, options)


def _host(text: str) -> tuple[str, int | None]:
    parts = _HOST.fullmatch(text)
    if parts is None:
        raise ValueError("a host has no name or address, or its port is no number")
    port = None if parts["port"] is None else int(parts["port"])
    if port is not None and not 0 < port < 65536:
        raise ValueError("a port is not one of 1-65535")
    return parts["name"].strip("[]"), port


def shown(url: str) -> str:
    """A URL as it may be shown: no user, password or options; its scheme alone if it does not read like one."""
    try:
        return str(parse_url(url))
    except ValueError:
        if _PLAIN.fullmatch(url):
            return url
        scheme = _SCHEME.match(url)
        return f"{scheme[0]}://..." if scheme else "..."


class _Form(NamedTuple):
    """What URLs of a scheme look like: for people, and whether the parts of one do."""

    example: str
    fits: Callable[[StoreURL], object]


def _has_host(parts: StoreURL) -> bool:
    return bool(parts.host)


def _is_folder(parts: StoreURL) -> bool:
    return bool(parts.path) and not parts.hosts and parts.user is None and not parts.options


def _is_port(parts: StoreURL) -> bool:
    return parts.port is not None and parts.user is None and not parts.path.strip("/") and not parts.options


# Each store knows better what else its URLs may have.
FORMS = {
    "redis": _Form("redis://host:port/db", _has_host),
    "rediss": _Form("rediss://host:port/db", _has_host),
    "file": _Form("file:///folder", _is_folder),
    "etcd": _Form("etcd://host:port", _has_host),
    "etcds": _Form("etcds://host:port", _has_host),
    "zookeeper": _Form("zookeeper://host:port", lambda parts: parts.hosts),
    "tcp": _Form("tcp://host:port", _is_port),
}
"""The kinds of URLs that there are, by scheme."""


def check_url(url: str) -> StoreURL:
    """Return the parts of a URL that names a store; opens nothing.

    Raises
    ------
    ValueError
        The URL names no store.
    """
    forms = ", ".join(form.example for form in FORMS.values())
    try:
        parts = parse_url(url)
    except ValueError as exc:
        raise ValueError(f"{shown(url)!r} ({exc}) names no store; there are: {forms}") from None
    if parts.scheme not in FORMS or not FORMS[parts.scheme].fits(parts):
        raise ValueError(f"{shown(url)!r} names no store; there are: {forms}")
    return parts
