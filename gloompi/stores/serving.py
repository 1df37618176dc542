"""The side of a TCPStore that serves: its frames, what it answers, how much it keeps, and where it listens."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from struct import Struct

from ..settings import INTERFACES, value
from ..transport.interfaces import select
from .bounded import MAX_NBYTES
from .hash import HashStore

__all__ = [
    "ANSWER",
    "LENGTH",
    "MAX_NBYTES",
    "MAX_STRINGS",
    "REFUSAL",
    "ServedStore",
    "answer",
    "listen",
    "pack",
    "packed_nbytes",
    "unpack",
]

_log = logging.getLogger("gloompi")

# Each string of a frame stands behind its length; None has the length -1.
LENGTH = Struct("<i")
# In a frame of 16 MiB there would be millions, each of which costs time to take out and memory to keep.
MAX_STRINGS = 1 << 16
# First string of an answer: what was asked for follows, or why there is no room; anything else is the text of an error.
ANSWER, REFUSAL = b"ok", b"refused"

# What is kept, with what each key costs beside its own length: a rendezvous of 10,000 ranks takes 60,000 keys and 10 MB.
_MAX_KEYS, _MAX_KEPT, _KEY_NBYTES = 1 << 18, 64 * 1024**2, 128


# A longer value could not be read: it goes into one answer.
_MAX_VALUE = MAX_NBYTES - 2 * LENGTH.size - len(ANSWER)


class FullError(ValueError):
    """The store holds as much as it may."""


class ServedStore(HashStore):
    """A store in memory that holds no more than a limit, whoever writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self._nbytes = 0

    def _write(self, items: Mapping[str, bytes]) -> None:
        with self._lock:
            self._admit(items)
            self._items.update(items)

    def _swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        with self._lock:
            if self._items.get(key) != old:
                return False
            self._admit({key: new})
            self._items[key] = new
            return True

    def _remove(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                gone = self._items.pop(key, None)
                if gone is not None:
                    self._nbytes -= _cost(key, gone)

    def _admit(self, items: Mapping[str, bytes]) -> None:
        longest = max(map(len, items.values()), default=0)
        if longest > _MAX_VALUE:
            raise FullError(
                f"a value of {longest} bytes; a TCPStore keeps up to {_MAX_VALUE}, which is what it gives at once"
            )
        fresh = sum(key not in self._items for key in items)
        replaced = sum(_cost(key, self._items[key]) for key in items if key in self._items)
        nbytes = self._nbytes - replaced + sum(_cost(key, value) for key, value in items.items())
        if len(self._items) + fresh > _MAX_KEYS or nbytes > _MAX_KEPT:
            raise FullError(
                f"no room: the store has {len(self._items)} keys of {self._nbytes} bytes, and takes up to {_MAX_KEYS} keys "
                f"and {_MAX_KEPT} bytes"
            )
        self._nbytes = nbytes


def _cost(key: str, value: bytes) -> int:
    return len(key) + len(value) + _KEY_NBYTES


def pack(strings: Sequence[bytes | None]) -> bytes:
    """A frame: the length of all, then each byte string behind its own length."""
    packed = b"".join(LENGTH.pack(-1) if each is None else LENGTH.pack(len(each)) + each for each in strings)
    return LENGTH.pack(len(packed)) + packed


def packed_nbytes(strings: Sequence[bytes | None]) -> int:
    """The length of a frame without its first length."""
    return sum(LENGTH.size + len(each or b"") for each in strings)


def unpack(packed: bytes) -> list[bytes | None]:
    """What `pack` was given, from a frame without its first length.

    Raises
    ------
    ValueError
        The bytes are no such frame.
    """
    strings: list[bytes | None] = []
    at = 0
    while at < len(packed):
        if at + LENGTH.size > len(packed):
            raise ValueError("a length is cut off")
        if len(strings) == MAX_STRINGS:
            raise ValueError(f"more than {MAX_STRINGS} strings")
        (nbytes,) = LENGTH.unpack_from(packed, at)
        at += LENGTH.size
        if nbytes < -1 or at + nbytes > len(packed):
            raise ValueError(f"a string of {nbytes} bytes does not fit")
        strings.append(None if nbytes == -1 else packed[at : at + nbytes])
        at += max(nbytes, 0)
    return strings


def answer(store: HashStore, request: Sequence[bytes | None]) -> list[bytes | None]:
    """Do what a request asks for.

    Raises
    ------
    ValueError
        It is no request.
    """
    try:
        return _done(store, request)
    except FullError as exc:
        return [REFUSAL, str(exc).encode()]


def _done(store: HashStore, request: Sequence[bytes | None]) -> list[bytes | None]:
    match request:
        case [b"read", *keys]:
            return [ANSWER, *store._read(list(map(_text, keys)))]
        case [b"write", *items] if len(items) % 2 == 0:
            store._write({_text(key): value or b"" for key, value in zip(items[::2], items[1::2], strict=True)})
        case [b"swap", key, old, bytes(new)]:
            return [ANSWER, b"1" if store._swap(_text(key), old, new) else b""]
        case [b"remove", *keys]:
            store._remove(list(map(_text, keys)))
        case [b"add", key, bytes(n)]:
            try:
                return [ANSWER, b"%d" % store._add(_text(key), int(n))]
            except FullError:
                raise
            except ValueError as exc:
                return [str(exc).encode()]
        case [b"append", key, bytes(value)]:
            store._append(_text(key), value)
        case _:
            raise ValueError(f"no request: {request[:1]!r} with {len(request) - 1} arguments")
    return [ANSWER]


def _text(key: bytes | None) -> str:
    if key is None:
        raise ValueError("a key is missing")
    return key.decode()


def listen(host: str, ports: Sequence[int]) -> list[socket.socket]:
    """Listen on the first free port, on the addresses of this host that `host` names.

    A name that /etc/hosts maps to loopback, or to an address that is not this host's own (NAT), does not tell where others
    will come from: then it is every address that the ranks of the job may use (GLOOMPI_SOCKET_IFNAME), each by a socket of
    its own.

    Raises
    ------
    OSError
        All ports are taken, or the name cannot be resolved.
    """
    named = list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    here = _addresses(None)
    addresses = [each for each in named if each in here or ip_address(each).is_loopback]
    literal = host in named or host == "localhost"
    if not addresses:
        _log.info("%s is no address of this host; serving the store on all that the job may use", host)
    if not addresses or (not literal and all(ip_address(each).is_loopback for each in addresses)):
        chosen = next((value(name) for name in INTERFACES if os.environ.get(name)), None)
        addresses += [each for each in _addresses(chosen) if each not in addresses]
    failure: OSError | None = None
    for port in ports:
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                try:
                    sockets.append(socket.create_server((address, port), family=family, backlog=1024))
                except OSError as exc:
                    if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or family == socket.AF_INET:
                        raise
            return sockets
        except OSError as exc:
            for each in sockets:
                each.close()
            if exc.errno != errno.EADDRINUSE:
                raise
            failure = exc
    shown = ", ".join(map(str, ports))
    raise OSError(
        errno.EADDRINUSE,
        f"cannot serve a store on port {shown} of {', '.join(addresses)}: {failure}; end the program that listens there "
        f"(ss -ltnp), or choose another port",
    )


def _addresses(pattern: str | None) -> list[str]:
    return [str(address.ip) for _, address in select(pattern) if not address.ip.is_link_local]
