"""What stores that talk to a server have in common: optional packages, addresses without passwords, failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ..errors import RendezvousError
from .store import Store

__all__ = ["extra", "refused", "unreachable", "without_password"]


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the import of an optional package: an ImportError says which extra brings it."""
    try:
        yield
    except ImportError as exc:
        raise ImportError(f"{what} needs the package {exc.name}: pip install 'gloompi[{name}]'", name=exc.name) from exc


def without_password(url: str) -> str:
    """A URL as it may be shown: no user, password or options."""
    if "@" not in url:
        return url.partition("?")[0].partition("#")[0]
    try:
        parts = urlsplit(url)
        clear = bool(parts.hostname) and (parts.port or 1) and "@" not in parts.path + parts.fragment
    except ValueError:
        clear = False
    if clear:
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    # Not a URL as it should be: whatever is before the last "@" may be a password.
    scheme, colon, _ = url.partition(":")
    rest = url.rpartition("@")[2].partition("?")[0].lstrip("/")
    return f"{scheme if colon and '@' not in scheme else ''}://{rest}"


def unreachable(store: Store, server: str, why: object) -> RendezvousError:
    """The error for a server that does not answer."""
    return RendezvousError(f"{store!r} cannot be used: {why}; is {server} running there, and is the address right?")


def refused(store: Store, why: object) -> RendezvousError:
    """The error for a server that answers with one."""
    return RendezvousError(f"{store!r} refused a request: {why}")
