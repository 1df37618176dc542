"""A bare socket to every other rank, of the kind that a Context has to it: no frames, no engine.

The sockets live as long as a measurement.  Who connects shows a token that came over the Context; nothing is authenticated
beyond that.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import tempfile
from contextlib import ExitStack
from hmac import compare_digest
from pathlib import Path
from typing import Any

from ..context import Context
from ..transport.options import tune
from .addresses import ip_of, own_ips

__all__ = ["connect"]

# All ranks are here: nobody is waited for but a busy host.
_SECONDS = 30.0
_TOKEN_NBYTES = 16
_HELLO_NBYTES = _TOKEN_NBYTES + 4


def connect(ctx: Context) -> dict[int, socket.socket]:
    """Return a non-blocking socket for each other rank; collective.

    Raises
    ------
    OSError
        A rank cannot listen, or does not come.
    """
    token = os.urandom(_TOKEN_NBYTES)
    ips = own_ips(ctx)
    with ExitStack() as stack:
        listeners: list[socket.socket] = []
        path, ports, failure = "", {}, None
        try:
            folder = tempfile.mkdtemp(prefix="gloompi-bench-")  # for its owner alone
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            path = str(Path(folder) / "socket")
            listeners.append(stack.enter_context(_listen(socket.AF_UNIX, path, ctx.size)))
            for ip in ips:
                family = socket.AF_INET6 if ":" in ip else socket.AF_INET
                listeners.append(stack.enter_context(_listen(family, ip, ctx.size)))
                ports[ip] = listeners[-1].getsockname()[1]
        except OSError as exc:  # the others must not wait
            failure = f"rank {ctx.rank} cannot take part in a bare exchange: {exc}"
        published = ctx.allgather_object((path, ports, token, failure))
        for *_, failure in published:
            if failure is not None:
                raise OSError(failure)
        found: dict[int, socket.socket] = {}
        try:
            # The higher rank dials. What it sends waits in the socket until the other accepts.
            for peer in range(ctx.rank):
                their_path, their_ports, their_token, _ = published[peer]
                ip = ip_of(ctx, peer)
                address = their_path if ctx.peers[peer].transport == "unix" else (ip, their_ports[ip])
                found[peer] = _dial(address, their_token + ctx.rank.to_bytes(4, "little"))
            while len(found) < ctx.size - 1:
                found.update(_accept(listeners, token))
        except BaseException:
            for sock in found.values():
                sock.close()
            raise
    for sock in found.values():
        tune(sock)
        sock.setblocking(False)
    return found


def _listen(family: int, address: str, backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind(address if family == socket.AF_UNIX else (address, 0))
        listener.listen(backlog)
    except OSError as exc:
        listener.close()
        raise OSError(exc.errno, f"cannot listen on {address}: {exc.strerror}") from exc
    return listener


def _dial(address: Any, hello: bytes) -> socket.socket:
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.settimeout(_SECONDS)
        sock.connect(address)
        sock.sendall(hello)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot connect to {address} for a bare exchange: {exc}") from exc
    return sock


def _family(address: Any) -> int:
    if isinstance(address, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _accept(listeners: list[socket.socket], token: bytes) -> dict[int, socket.socket]:
    """The next rank that connects; nothing if it is a stranger."""
    poll = select.poll()  # not select: descriptors of large jobs are above 1023
    for listener in listeners:
        poll.register(listener, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll(1000 * _SECONDS)]
    if not ready:
        raise OSError(f"a rank did not connect for a bare exchange within {_SECONDS:.0f} s; its host may be very busy")
    sock, _ = next(listener for listener in listeners if listener.fileno() == ready[0]).accept()
    try:
        sock.settimeout(_SECONDS)
        hello = sock.recv(_HELLO_NBYTES, socket.MSG_WAITALL)
    except OSError:
        hello = b""
    if not compare_digest(hello[:_TOKEN_NBYTES], token) or len(hello) < _HELLO_NBYTES:
        sock.close()
        return {}
    return {int.from_bytes(hello[_TOKEN_NBYTES:], "little"): sock}
