"""Securing: the TLS handshakes of all TCP connections of one rank, in one event loop, without a thread.

Both ends know each other's certificate by the digest in its record, which the rendezvous has told them; they show it in the
plain, so that each can make it the only one that it trusts::

    each   -> other    certificate    4 bytes: nbytes, 4096 at most; then the certificate, DER
    higher -> lower    TLS 1.3, the higher rank as the client; both ask for the other's certificate

A connection that cannot be secured does not keep the others waiting: it is shut, which its other end sees, and what went
wrong is raised when all are done.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from struct import Struct

from ..deadline import Deadline
from ..errors import RendezvousError
from ..transport.certificate import Certificate, is_described
from ..transport.endpoint import Endpoint
from ..transport.tls import Encrypted
from .record import Blame

__all__ = ["Securing"]

_LENGTH = Struct("<I")
# A certificate with a key on P-256 and no extensions has about 300 bytes.
_MAX_CERTIFICATE_NBYTES = 4096
_READ_NBYTES = 16 * 1024


class _Failure(Exception):
    """One connection cannot be secured: why, and how much that says."""

    def __init__(self, reason: str, blame: Blame) -> None:
        super().__init__(reason)
        self.reason, self.blame = reason, blame


class _Connection:
    """One connection while it is being secured: bytes in, bytes out."""

    __slots__ = (
        "_certificate",
        "_digest",
        "_mine",
        "_received",
        "_serves",
        "done",
        "outgoing",
        "peer",
        "sock",
        "stream",
        "who",
    )

    def __init__(self, sock: socket.socket, peer: int, endpoint: Endpoint, mine: Certificate, serves: bool) -> None:
        self.sock, self.peer = sock, peer
        self.who = f"rank {peer} ({endpoint.host}, pid {endpoint.pid})"
        self._digest = endpoint.digest
        self._mine = mine
        self._serves = serves
        self._received = b""
        self._certificate = b""
        self.outgoing = _LENGTH.pack(len(mine.der)) + mine.der
        self.stream: Encrypted | None = None
        self.done = False  # but for what is still to be sent

    def take(self, data: bytes) -> None:
        """Go on with what has come.

        Raises
        ------
        _Failure
        """
        if self.stream is None:
            self._received += data
            if not self._read_certificate():
                return
            self.stream = self._begin()
            data, self._received = self._received, b""
        self.stream.incoming.write(data)
        try:
            self.stream.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            # An alert says that the other end has found something: what, it can say better.
            told = "ALERT" in (exc.reason or "")
            text = (
                f"{self.who} refused this rank's part of the TLS handshake" if told else f"no TLS handshake with {self.who}"
            )
            detail = getattr(exc, "verify_message", "") or exc.reason or str(exc)
            raise _Failure(f"{text}: {detail}", Blame.WAITED if told else Blame.DIALED) from exc
        else:
            # The only one that is trusted, so it can be no other; but this is what everything rests on.
            if self.stream.tls.getpeercert(binary_form=True) != self._certificate:
                raise _Failure(f"{self.who} has the key of another certificate than it has shown", Blame.DIALED)
            self.done = True
        finally:
            self.outgoing += self.stream.outgoing.read()

    def _read_certificate(self) -> bool:
        """Whether the certificate has come; what follows it stays in `_received`."""
        received = self._received
        if len(received) < _LENGTH.size:
            return False
        (nbytes,) = _LENGTH.unpack_from(received)
        if not 0 < nbytes <= _MAX_CERTIFICATE_NBYTES:
            raise _Failure(
                f"{self.who} sent no certificate but {received[:8]!r}: something between the two ranks alters what they "
                f"send, or they run different versions",
                Blame.DIALED,
            )
        end = _LENGTH.size + nbytes
        if len(received) < end:
            return False
        self._certificate, self._received = received[_LENGTH.size : end], received[end:]
        if not is_described(self._certificate, self._digest):
            raise _Failure(
                f"the certificate that {self.who} has shown is not the one that its record describes: somebody between the "
                f"two ranks poses as it",
                Blame.DIALED,
            )
        return True

    def _begin(self) -> Encrypted:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._serves else ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname = False  # the certificates name nobody
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(self._mine.path)
            context.load_verify_locations(cadata=self._certificate)
            if self._serves:
                context.num_tickets = 0  # nobody comes back, and they would be sent after the handshake
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            return Encrypted(self.sock, context.wrap_bio(incoming, outgoing, self._serves), incoming, outgoing)
        except OSError as exc:  # ssl.SSLError too
            raise _Failure(f"cannot prepare TLS for {self.who}: {exc}", Blame.OWN) from exc


class Securing:
    """The connections of one rank while they are being secured.

    Parameters
    ----------
    rank : int
    endpoints : list of Endpoint
    sockets : list of socket or None
        Connected and non-blocking, by rank; stay the caller's.  Those of AF_UNIX are left as they are.
    certificate : Certificate
        This rank's.

    Attributes
    ----------
    streams : dict
        By rank, the connections that are secured.
    blame : Blame
        How much the error says that `run` has raised.
    """

    def __init__(
        self, rank: int, endpoints: list[Endpoint], sockets: Sequence[socket.socket | None], certificate: Certificate
    ) -> None:
        self.streams: dict[int, Encrypted] = {}
        self.blame = Blame.WAITED
        self._failures: dict[int, _Failure] = {}
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        for peer, sock in enumerate(sockets):
            if sock is not None and sock.family != socket.AF_UNIX:
                connection = _Connection(sock, peer, endpoints[peer], certificate, serves=peer > rank)
                self._connections[sock.fileno()] = connection
                self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def run(self, deadline: Deadline) -> None:
        """Secure all connections.

        Raises
        ------
        RendezvousError
            A peer has not shown the certificate of its record, has gone, or did not answer before the deadline.
        """
        self.secure(deadline)
        failures = list(self._failures.values())
        if self._connections:
            waited = [connection.who for connection in self._connections.values()]
            more = f" and {len(waited) - 3} more" if len(waited) > 3 else ""
            text = f"after {deadline.timeout or 0:.1f} s {', '.join(waited[:3])}{more} did not answer in the TLS handshake"
            failures.append(_Failure(f"{text}; slow, stopped or dead", Blame.WAITED))
        if failures:
            failure = max(failures, key=lambda each: each.blame)  # the first of them
            self.blame = failure.blame
            raise RendezvousError(failure.reason) from failure

    def secure(self, deadline: Deadline) -> dict[int, tuple[str, Blame]]:
        """Secure what can be secured; return by rank why others could not be, and how much that says."""
        while self._connections and not deadline.expired():
            for fd, event in self._epoll.poll(deadline.remaining()):
                connection = self._connections[fd]
                try:
                    self._step(connection, event)
                except _Failure as exc:
                    self._give_up(connection, exc)
        late = f"it did not answer in the TLS handshake within {deadline.timeout or 0:.1f} s"
        reasons = {connection.peer: (late, Blame.WAITED) for connection in self._connections.values()}
        return reasons | {peer: (failure.reason, failure.blame) for peer, failure in self._failures.items()}

    def _step(self, connection: _Connection, event: int) -> None:
        if event & ~select.EPOLLOUT:
            try:
                data = connection.sock.recv(_READ_NBYTES)
            except BlockingIOError:
                data = None
            except OSError as exc:
                text = f"the connection to {connection.who} broke in the TLS handshake: {exc.strerror or exc}"
                raise _Failure(text, Blame.WAITED) from exc
            if data == b"":
                raise _Failure(f"{connection.who} ended the connection in the TLS handshake; see its log", Blame.WAITED)
            if data:
                connection.take(data)
        if connection.outgoing:
            try:
                sent = connection.sock.send(connection.outgoing)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                text = f"the connection to {connection.who} broke in the TLS handshake: {exc.strerror or exc}"
                raise _Failure(text, Blame.WAITED) from exc
            connection.outgoing = connection.outgoing[sent:]
        if connection.done and not connection.outgoing:
            self._forget(connection)
            assert connection.stream is not None
            self.streams[connection.peer] = connection.stream
        else:
            writing = select.EPOLLOUT if connection.outgoing else 0
            self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | writing)

    def _give_up(self, connection: _Connection, failure: _Failure) -> None:
        self._failures[connection.peer] = failure
        self._forget(connection)
        with suppress(OSError):  # an alert that says why, as a rule
            connection.sock.send(connection.outgoing)
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    def _forget(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        self._epoll.unregister(fd)
        del self._connections[fd]

    def close(self) -> None:
        self._epoll.close()
