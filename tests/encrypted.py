"""Encrypted connections for tests: both ends of one, and a wire in between that a test may look at and alter."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gloompi.transport.certificate import Certificate, make_certificate
from gloompi.transport.tls import Encrypted

__all__ = ["Alter", "encrypt", "proxy"]

Alter = Callable[[bool, int, bytes], bytes]
"""What becomes of bytes on their way: whether they go to the listener, how many went that way before, and the bytes."""


def encrypt(near: socket.socket, far: socket.socket) -> tuple[Encrypted, Encrypted]:
    """Shake hands in memory, for two sockets; the first is the server's."""
    one, other = make_certificate(), make_certificate()
    try:
        ends = _end(near, one, other, True), _end(far, other, one, False)
    finally:
        one.close()
        other.close()
    left = set(ends)
    while left:
        for end, peer in (ends, ends[::-1]):
            try:
                end.tls.do_handshake()
                left.discard(end)
            except ssl.SSLWantReadError:
                pass
            peer.incoming.write(end.outgoing.read())
    return ends


def _end(sock: socket.socket, mine: Certificate, theirs: Certificate, serves: bool) -> Encrypted:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(mine.path)
    context.load_verify_locations(cadata=theirs.der)
    if serves:
        context.num_tickets = 0
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    sock.setblocking(False)
    return Encrypted(sock, context.wrap_bio(incoming, outgoing, serves), incoming, outgoing)


@contextmanager
def proxy(to: Callable[[], tuple[str, int]], alter: Alter) -> Iterator[tuple[str, int]]:
    """A TCP proxy in a thread: the address to dial instead; it dials `to` for everybody who comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop, stopping = socket.socketpair()
        thread = threading.Thread(target=_relay, args=(listener, stop, to, alter), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            stopping.close()
            thread.join(20)
            stop.close()
            assert not thread.is_alive()


def _relay(listener: socket.socket, stop: socket.socket, to: Callable[[], tuple[str, int]], alter: Alter) -> None:
    ways: dict[socket.socket, tuple[socket.socket, bool]] = {}  # by where bytes come from: where they go
    passed = {True: 0, False: 0}
    opened: list[socket.socket] = []
    try:
        while True:
            ready, _, _ = select.select([listener, stop, *ways], [], [])
            if stop in ready:
                return
            for sock in ready:
                if sock is listener:
                    dialer, _ = listener.accept()
                    reached = socket.create_connection(to())
                    opened += dialer, reached
                    ways[dialer], ways[reached] = (reached, True), (dialer, False)
                    continue
                other, forth = ways[sock]
                try:
                    data = sock.recv(1 << 16)
                except OSError:
                    data = b""
                with suppress(OSError):
                    if data:
                        other.sendall(alter(forth, passed[forth], data))
                        passed[forth] += len(data)
                    else:
                        del ways[sock]
                        other.shutdown(socket.SHUT_WR)
    finally:
        for sock in opened:
            sock.close()
