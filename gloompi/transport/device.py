"""A Device: which interfaces, ports and transports a rank uses.  It opens the listening sockets of a rendezvous."""

from __future__ import annotations

import errno
import logging
import os
import socket
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, NamedTuple

from .. import settings
from ..signatures import public
from .credentials import is_own_user_known
from .endpoint import MAX_ADDRESSES, Address, Endpoint, Nearness
from .interfaces import Interface, IPInterface, host_id, select
from .memory import is_permitted
from .options import tune

if TYPE_CHECKING:
    from .certificate import Certificate

__all__ = ["Device", "Listeners"]

_log = logging.getLogger("gloompi")

_UNKNOWN_USER = (
    "this process's user has no number of its own in its user namespace (/proc/self/uid_map), so that nobody can tell whose "
    'AF_UNIX connections are; transport="tcp" (GLOOMPI_TRANSPORT) does without'
)


class Listeners(NamedTuple):
    """The listening sockets of one rendezvous and the endpoint that names them.

    Attributes
    ----------
    sockets : list of socket
    endpoint : Endpoint
    certificate : Certificate or None
        What the connections are encrypted with; None if they are not.
    """

    sockets: list[socket.socket]
    endpoint: Endpoint
    certificate: Certificate | None = None

    def close(self) -> None:
        """Listen no more, and forget the private key."""
        for listener in self.sockets:
            listener.close()
        self.sockets.clear()
        if self.certificate is not None:
            self.certificate.close()


@public
class Device:
    """Which interfaces, ports and transports to use.

    Parameters
    ----------
    interface : str, optional
        Interfaces to use, in NCCL_SOCKET_IFNAME's syntax: comma-separated name prefixes, ``=`` for exact names,
        ``^`` to exclude; an item with ``/`` is a network in CIDR notation.  Default: GLOOMPI_SOCKET_IFNAME, else
        GLOO_SOCKET_IFNAME, else NCCL_SOCKET_IFNAME, else every interface that is up.
    host : str, optional
        One IP address of this host to listen on, instead of `interface`.
    advertise : str, optional
        The IP address at which other hosts reach the one that this rank listens on, where that is another one: behind NAT,
        or in a container with ports of its own.  The port is the same on both sides: give `port` too.  Needs one address to
        listen on: `host`, or an `interface` that has one.  Default: GLOOMPI_ADVERTISE, else the address itself.
    port : int or (int, int)
        A fixed port, or the lowest and highest of a range (both included) for jobs behind a firewall.  0 lets the
        kernel choose.  Default: GLOOMPI_PORT_RANGE (``low:high``) if it is set.
    family : {4, 6}, optional
        Use only IPv4 or only IPv6.
    transport : {"auto", "tcp", "unix"}
        "auto" takes AF_UNIX sockets between ranks of one user on one host, and TCP elsewhere; "tcp" takes TCP everywhere
        (loopback on one host); "unix" AF_UNIX only, so that all ranks must share host and user.  Default:
        GLOOMPI_TRANSPORT, else "auto".
    single_copy : bool, optional
        Read large messages of ranks on this host in their memory (process_vm_readv(2)) where they are connected over AF_UNIX
        and the kernel permits it; where it does not, or with False, they come over the socket.  Default: GLOOMPI_SINGLE_COPY
        (0 or 1), else True.
    tls : bool, optional
        Encrypt TCP connections with TLS 1.3; both sides prove who they are with certificates that are made for the
        rendezvous.  All ranks or none.  What goes over AF_UNIX stays in the kernel and is not encrypted.  Needs the package
        cryptography (``pip install 'gloompi[tls]'``).  Default: GLOOMPI_TLS (0 or 1), else False.
    checksum : bool, optional
        Send a checksum with every frame, on connections that are not encrypted: what was altered on the way gives a
        PeerLostError.  A connection has it if either of its ranks asks for it.  Memory of such a rank is not read, whatever
        `single_copy` says.  Default: GLOOMPI_CHECKSUM (0 or 1), else False.

    Raises
    ------
    ValueError, TypeError
        A parameter, or the environment variable that stands for it, has no meaning.
    """

    def __init__(
        self,
        interface: str | None = None,
        *,
        host: str | None = None,
        advertise: str | None = None,
        port: int | tuple[int, int] = 0,
        family: int | None = None,
        transport: str | None = None,
        single_copy: bool | None = None,
        tls: bool | None = None,
        checksum: bool | None = None,
    ) -> None:
        if interface is not None and host is not None:
            raise ValueError(f"give interface or host, not both: {interface!r}, {host!r}")
        if family is not None and host is not None:
            raise ValueError(f"give family or host, not both: an address such as {host!r} has its family")
        if family not in (None, 4, 6):
            raise ValueError(f"family must be 4, 6 or None, not {family!r}")
        self.interface, self._interface_source = interface, "interface"
        if interface is None and host is None:
            for variable in settings.INTERFACES:
                self.interface = settings.value(variable)
                if self.interface is not None:
                    self._interface_source = variable
                    break
        self.host = host
        if host is not None and ip_address(host).is_unspecified:
            raise ValueError(f"host must be one address of this host, not {host}: gloompi never listens on all")
        if advertise:
            self.advertise = settings.reachable("advertise", str(advertise))
        else:
            self.advertise = settings.value("GLOOMPI_ADVERTISE")
        self.ports = settings.ports("port", port) if port != 0 else settings.value("GLOOMPI_PORT_RANGE", (0, 0))
        self.family = family
        if transport:
            self.transport = settings.transport("transport", transport)
        else:
            self.transport = settings.value("GLOOMPI_TRANSPORT", "auto")
        self.single_copy = settings.value("GLOOMPI_SINGLE_COPY", True) if single_copy is None else bool(single_copy)
        self.tls = settings.value("GLOOMPI_TLS", False) if tls is None else bool(tls)
        self.checksum = settings.value("GLOOMPI_CHECKSUM", False) if checksum is None else bool(checksum)

    def __repr__(self) -> str:
        low, high = self.ports
        port = low if low == high else (low, high)
        advertise = "" if self.advertise is None else f"advertise={str(self.advertise)!r}, "
        return (
            f"Device(interface={self.interface!r}, host={self.host!r}, {advertise}port={port}, "
            f"family={self.family}, transport={self.transport!r}{'' if self.single_copy else ', single_copy=False'}"
            f"{', tls=True' if self.tls else ''}{', checksum=True' if self.checksum else ''})"
        )

    def check(self) -> None:
        """Find the addresses that were asked for, and open nothing: for a rank that is alone.

        Raises
        ------
        ValueError
            There is no such interface or address; if none was asked for, none is needed.
        """
        asked = any(each is not None for each in (self.interface, self.host, self.family, self.advertise))
        if asked and self.transport != "unix":
            low = self.ports[0]
            self._advertised([_address(interface, address, low) for interface, address in self._addresses()])

    def listen(self, backlog: int) -> Listeners:
        """Open one listening socket per published address, bound to that address alone.

        Raises
        ------
        ValueError
            No interface is usable.
        ImportError
            Connections are to be encrypted, and the package for it is missing.
        OSError
            The port range is used up, or the system has no socket to give.
        """
        certificate = None
        if self.tls:
            from .certificate import make_certificate  # brings hashlib, which only its users pay for

            certificate = make_certificate()
        sockets: list[socket.socket] = []
        try:
            unix = b""
            if self.transport == "unix" and not is_own_user_known():
                raise OSError(_UNKNOWN_USER)
            if self.transport != "tcp" and is_own_user_known():
                unix = os.urandom(16)
                sockets.append(_listen_unix(unix, backlog))
            addresses = []
            unusable: OSError | None = None
            for interface, address in self._addresses() if self.transport != "unix" else ():
                try:
                    listener = self._listen_tcp(interface, address, backlog)
                except OSError as exc:
                    # An IPv6 address that is still being checked for duplicates cannot be bound; others will do.
                    if exc.errno != errno.EADDRNOTAVAIL or self.host is not None:
                        raise
                    _log.debug("not listening on %s (%s): %s", address.ip, interface.name, exc)
                    unusable = exc
                    continue
                sockets.append(listener)
                port = listener.getsockname()[1]
                addresses.append(_address(interface, address, port))
                nearness = addresses[-1].nearness.name.lower()
                _log.debug("listening on %s:%d (%s, %s)", address.ip, port, interface.name, nearness)
            if unusable is not None and not addresses:
                raise unusable
            addresses = self._advertised(addresses)
        except BaseException:
            for listener in sockets:
                listener.close()
            if certificate is not None:
                certificate.close()
            raise
        cores = os.sched_getaffinity(0)
        who = (socket.gethostname(), os.getpid(), len(cores), host_id())
        endpoint = Endpoint(
            *who,
            unix,
            tuple(addresses),
            first_core=min(cores),
            readable=self.single_copy and not self.checksum and is_permitted(),  # what is read has no checksum
            digest=b"" if certificate is None else certificate.digest,
            checksum=self.checksum,
            uid=os.geteuid(),
        )
        return Listeners(sockets, endpoint, certificate)

    def _addresses(self) -> list[tuple[Interface, IPInterface]]:
        if self.host is not None:
            wanted = ip_interface(self.host).ip
            found = [pair for pair in select(None) if pair[1].ip == wanted]
            if not found:
                known = ", ".join(str(address.ip) for _, address in select(None))
                raise ValueError(f"host {self.host} is no address of this host; there are: {known}")
            return found
        found = select(self.interface, self._interface_source)
        if self.family is not None:
            found = [pair for pair in found if pair[1].version == self.family]
            if not found:
                raise ValueError(f"no interface that is up has an IPv{self.family} address")
        # A loopback address serves the ranks of one host alone: one of them is enough, and it must not be cut off.
        local = [pair for pair in found if pair[0].nearness(pair[1]) is Nearness.LOOPBACK][:1]
        others = [pair for pair in found if pair[0].nearness(pair[1]) is not Nearness.LOOPBACK]
        return others[: MAX_ADDRESSES - len(local)] + local

    def _advertised(self, addresses: list[Address]) -> list[Address]:
        """What to publish: the addresses themselves, or the one that stands for them elsewhere."""
        if self.advertise is None or self.transport == "unix":
            return addresses
        local = [address for address in addresses if self.host is None and address.nearness is Nearness.LOOPBACK]
        others = [address for address in addresses if address not in local]
        if len(others) != 1:
            shown = ", ".join(map(str, others)) or "none"
            raise ValueError(
                f"advertise={self.advertise} (GLOOMPI_ADVERTISE) needs one address to listen on, there are {len(others)}: "
                f"{shown}; give host=, or a network that has one of them: interface= (GLOOMPI_SOCKET_IFNAME), such as "
                f"10.0.0.0/8"
            )
        outside = Address(ip_interface(self.advertise), others[0].port, Nearness.ORDINARY)
        _log.debug("advertising %s for %s", outside, others[0])
        return [outside, *local]

    def _listen_tcp(self, interface: Interface, address: IPInterface, backlog: int) -> socket.socket:
        low, high = self.ports
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        scope = interface.index if address.ip.is_link_local and address.version == 6 else 0
        # Ranks of one host share the range: each starts at its own place in it.
        start = int.from_bytes(os.urandom(4), "little") % (high - low + 1)
        for offset in range(high - low + 1):
            port = low + (start + offset) % (high - low + 1)
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                # Without it, a port whose last connections are in TIME_WAIT counts as used for a minute.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tune(listener)  # before the first connection, which inherits it, can come
                listener.bind((str(address.ip), port) if family == socket.AF_INET else (str(address.ip), port, 0, scope))
                listener.listen(backlog)
                return listener
            except OSError as exc:
                listener.close()
                if low == 0:
                    raise OSError(exc.errno, f"cannot listen on {address.ip} ({interface.name}): {exc}") from exc
                last = exc
        raise OSError(
            last.errno, f"no free port in {low}-{high} on {address.ip} ({interface.name}): {last}; widen the range"
        )


def _address(interface: Interface, address: IPInterface, port: int) -> Address:
    return Address(address, port, interface.nearness(address), interface.index)


def _listen_unix(name: bytes, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Abstract: no file to clean up, and gone with the network namespace. Who connects still has to authenticate.
        listener.bind(unix_address(name))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def unix_address(name: bytes) -> str:
    """The abstract AF_UNIX address for the 16 bytes in an endpoint."""
    return f"\0gloompi-{name.hex()}"
