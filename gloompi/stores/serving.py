"""The side of a TCPStore that serves: its frames, what it answers, and the thread that does so."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from struct import Struct

from ..deadline import Deadline
from ..transport.interfaces import select
from .bounded import MAX_NBYTES
from .hash import HashStore

__all__ = ["ANSWER", "LENGTH", "Server", "answer", "greeting", "listen", "pack", "unpack"]

_log = logging.getLogger("gloompi")

# Seconds until a stranger that does not greet is dropped.
_GREETING_SECONDS = 5.0
# How many may be about to greet.
_MAX_STRANGERS = 512
# Each string of a frame stands behind its length; None has the length -1.
LENGTH = Struct("<i")
# First string of an answer; anything else is the text of an error.
ANSWER = b"ok"


def greeting(port: int) -> bytes:
    """What either side says first: neither takes another program for a store, nor a store that was meant for another port.

    Two jobs whose lists of ports overlap would meet otherwise.
    """
    return f"gloompi store 1 {port:5d}\n".encode()


def pack(strings: Sequence[bytes | None]) -> bytes:
    """A frame: the length of all, then each byte string behind its own length."""
    packed = b"".join(LENGTH.pack(-1) if each is None else LENGTH.pack(len(each)) + each for each in strings)
    return LENGTH.pack(len(packed)) + packed


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
    will come from: then it is every address of this host, each by a socket of its own.

    Raises
    ------
    OSError
        All ports are taken, or the name cannot be resolved.
    """
    named = list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
    here = [str(address.ip) for _, address in select(None) if not address.ip.is_link_local]
    addresses = [each for each in named if each in here or ip_address(each).is_loopback]
    literal = host in named or host == "localhost"
    if not addresses:
        _log.info("%s is no address of this host; serving the store on all that it has", host)
    if not addresses or (not literal and all(ip_address(each).is_loopback for each in addresses)):
        addresses += [each for each in here if each not in addresses]
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
    raise OSError(errno.EADDRINUSE, f"cannot serve a store on port {shown} of {', '.join(addresses)}: {failure}")


class Server:
    """A thread that answers requests to a store until it is closed.

    Parameters
    ----------
    sockets : list of socket
        Listening; the server's from now on.
    port : int
        The port that the store is known by, the first of those that were tried.
    clients : int or None
        Stop listening when so many of different names are connected: one that comes later means the next store here.
    """

    def __init__(self, store: HashStore, sockets: list[socket.socket], port: int, clients: int | None) -> None:
        self._store = store
        self._sockets = sockets
        self._greeting = greeting(port)
        self._expected = clients
        self._listening: list[asyncio.Server] = []
        self._strangers = 0
        self._clients: dict[asyncio.StreamWriter, bytes] = {}  # with the names that they joined by
        self._closing = False
        self._alone = threading.Event()
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gloompi store", daemon=True)
        self._thread.start()

    def close(self, deadline: Deadline) -> None:
        """Wait until the clients have gone, stop listening, end the thread."""
        if not self._thread.is_alive():
            return
        try:
            self._loop.call_soon_threadsafe(self._begin_to_close)
            self._alone.wait(deadline.remaining())
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    # -- in the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        # What asyncio has to say is about strangers, such as one that finds no file descriptor free.
        self._loop.set_exception_handler(lambda _, context: _log.debug("store: %s", context.get("message")))
        for sock in self._sockets:
            self._listening.append(await asyncio.start_server(self._serve, sock=sock))
        await self._stop.wait()
        self._stop_listening()
        for writer in self._clients:
            writer.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not await self._greet(reader):
                return
            self._clients[writer] = b""
            writer.write(self._greeting)
            while True:
                (nbytes,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if not 0 < nbytes <= MAX_NBYTES:
                    return
                match unpack(await reader.readexactly(nbytes)):
                    case [b"join", bytes(name)]:
                        self._join(writer, name)
                        writer.write(pack([ANSWER]))
                    case request:
                        writer.write(pack(answer(self._store, request)))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.TimeoutError, OSError, ValueError, asyncio.CancelledError):
            pass  # it has gone, or talks another language: there is nobody to tell
        finally:
            self._clients.pop(writer, None)
            writer.close()
            self._tell_if_alone()

    async def _greet(self, reader: asyncio.StreamReader) -> bool:
        if self._strangers >= _MAX_STRANGERS:
            return False
        self._strangers += 1
        try:
            return await asyncio.wait_for(reader.readexactly(len(self._greeting)), _GREETING_SECONDS) == self._greeting
        finally:
            self._strangers -= 1

    def _join(self, writer: asyncio.StreamWriter, name: bytes) -> None:
        # All at the same time: one that has gone, or is there twice, does not take another's place.
        self._clients[writer] = name
        if len(set(self._clients.values()) - {b""}) == self._expected:
            self._stop_listening()

    def _begin_to_close(self) -> None:
        self._closing = True
        self._tell_if_alone()

    def _tell_if_alone(self) -> None:
        if self._closing and not self._clients:
            self._alone.set()

    def _stop_listening(self) -> None:
        for server in self._listening:
            server.close()
        self._listening.clear()
