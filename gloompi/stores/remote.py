"""Parts of all stores that talk to a server: optional packages and failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RendezvousError
from ..foreign import plain
from .store import Store

__all__ = ["USERS", "extra", "refused", "unreachable"]

# See `Store._exposed`.
USERS = "whoever can use that server, or is between it and a rank,"

# What a server says may be anything, of any length.
_MAX_SHOWN = 1000


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the import of an optional package: an ImportError says which extra brings it."""
    try:
        yield
    except ImportError as exc:
        raise ImportError(f"{what} needs the package {exc.name}: pip install 'gloompi[{name}]'", name=exc.name) from exc


def unreachable(store: Store, server: str, why: object) -> RendezvousError:
    """The error for a server that does not answer."""
    said = plain(str(why), _MAX_SHOWN)
    return RendezvousError(f"{store!r} cannot be used: {said}; is {server} running there, and is the address right?")


def refused(store: Store, why: object) -> RendezvousError:
    """The error for a server that answers with one."""
    return RendezvousError(f"{store!r} refused a request: {plain(str(why), _MAX_SHOWN)}")
