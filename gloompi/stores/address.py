"""URLs of stores: one parser for all of them, and what of a URL may be shown.

``scheme://[user[:password]@]host[:port][,host[:port]...][/path][?options]``.  In a URL that does not read like that,
anything may be the password: a "/" in it makes a path of its end, a missing "@" a port.  So nothing of such a URL is shown
but the scheme, and an "@" that does not end the user info makes it one of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = ["StoreURL", "parse_url", "shown"]

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
