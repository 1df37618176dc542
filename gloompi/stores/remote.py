"""What stores that talk to a server have in common: optional packages, addresses without passwords, failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ..errors import RendezvousError
from .store import Store

__all__ = ["extra", "unreachable", "without_password"]


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the import of an optional package: an ImportError says which extra brings it."""
    try:
        yield
    except ImportError as exc:
        raise ImportError(f"{what} needs the package {exc.name}: pip install 'gloompi[{name}]'", name=exc.name) from exc


def without_password(url: str) -> str:
    """A URL as it may be shown: no user, password or options."""
    scheme, _, rest = url.partition(":")
    if "@" in rest or "@" in scheme:  # whatever is before it, quoted or not, may be a password
        return f"{scheme if '@' not in scheme else ''}://{url.rpartition('@')[2].partition('?')[0]}"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def unreachable(store: Store, server: str, why: object) -> RendezvousError:
    """The error for a server that does not answer."""
    return RendezvousError(f"{store!r} cannot be used: {why}; is {server} running there, and is the address right?")
