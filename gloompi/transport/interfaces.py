"""This host's network interfaces, and the choice among them.

psutil lists them; what is here is the selection syntax (NCCL's, plus CIDR) and the order of preference.  Nothing
resolves a host name: /etc/hosts on cluster nodes often maps the own name to 127.0.1.1.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface, ip_network

from .endpoint import Nearness

__all__ = ["IPInterface", "Interface", "host_id", "interfaces", "select"]

_log = logging.getLogger("gloompi")

IPInterface = IPv4Interface | IPv6Interface

# What fits a record of the rendezvous; a list of interfaces that is longer goes without their addresses.
_MAX_TEXT = 250

_FAST = ("hsn", "ib")
_VIRTUAL = ("docker", "br-", "virbr", "veth", "cni", "flannel", "cali", "podman", "lxc", "vnet", "tap")


@dataclass(frozen=True)
class Interface:
    """A name, whether it is up, and its addresses with prefix lengths."""

    name: str
    up: bool
    addresses: tuple[IPInterface, ...]

    def nearness(self, address: IPInterface) -> Nearness:
        if address.ip.is_loopback:
            return Nearness.LOOPBACK
        if address.ip.is_link_local:
            return Nearness.LINK_LOCAL
        if self.name.startswith(_VIRTUAL):
            return Nearness.VIRTUAL
        return Nearness.FAST if self.name.startswith(_FAST) else Nearness.ORDINARY

    @property
    def index(self) -> int:
        """The kernel's number for it; an alias such as eth0:1 has that of eth0."""
        return socket.if_nametoindex(self.name.partition(":")[0])

    @property
    def label(self) -> str:
        return self.name if self.up else f"{self.name} (down)"

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.addresses)) or "no address"
        return f"{self.name} ({shown})" if self.up else self.label


def interfaces() -> list[Interface]:
    """List this host's interfaces with their IPv4 and IPv6 addresses."""
    import psutil  # 20 ms: paid by a rendezvous, not by `import gloompi`

    up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        usable = tuple(
            _with_prefix(address.address, address.netmask)
            for address in addresses
            if address.family in (socket.AF_INET, socket.AF_INET6)
        )
        found.append(Interface(name, up.get(name, False), usable))
    return found


def _with_prefix(address: str, netmask: str | None) -> IPInterface:
    plain = address.partition("%")[0]  # psutil writes link-local addresses with their zone: fe80::1%eth0
    if netmask is None:
        return ip_interface(plain)
    if ":" in netmask:  # ipaddress takes a prefix length for IPv6, not a mask
        bits = int.from_bytes(socket.inet_pton(socket.AF_INET6, netmask), "big")
        return ip_interface(f"{plain}/{bits.bit_count()}")
    return ip_interface(f"{plain}/{netmask}")


def select(pattern: str | None, source: str = "interface") -> list[tuple[Interface, IPInterface]]:
    """Pick the usable addresses of this host, best first.

    Parameters
    ----------
    pattern : str or None
        Comma-separated name prefixes; a leading ``=`` makes the names exact, ``^`` excludes what follows, ``^=``
        excludes exact names (NCCL_SOCKET_IFNAME's syntax).  An item with a ``/`` is a network in CIDR notation and
        picks by address.  None takes every interface that is up.
    source : str
        Where the pattern comes from, for the error text.

    Raises
    ------
    ValueError
        Nothing matches; the text lists what there is.
    """
    listed = interfaces()
    try:
        exclude, exact, items = _parse(pattern or "")
    except ValueError as exc:
        raise ValueError(f"{source}={pattern!r}: {exc}") from exc
    chosen = []
    for interface in listed:
        for address in interface.addresses:
            matches = any(_matches(item, exact, interface, address) for item in items)
            if interface.up and (not items or matches != exclude):
                chosen.append((interface, address))
            else:
                why = f"{source}={pattern!r}" if interface.up else "it is down"
                _log.debug("not using %s (%s): %s", interface.name, address, why)
    if not chosen:
        asked = f"no interface that is up matches {source}={pattern!r}" if pattern else "no interface is usable"
        text = f"{asked}; there are: {', '.join(map(str, listed))}"
        if len(text) > _MAX_TEXT:
            text = f"{asked}; there are: {', '.join(interface.label for interface in listed)}"
        raise ValueError(text)
    return sorted(chosen, key=lambda pair: (pair[0].nearness(pair[1]), pair[1].version))


def _parse(pattern: str) -> tuple[bool, bool, list[str | IPv4Network | IPv6Network]]:
    exclude = pattern.startswith("^")
    exact = pattern[exclude:].startswith("=")
    items: list[str | IPv4Network | IPv6Network] = []
    for item in filter(None, (part.strip() for part in pattern[exclude + exact :].split(","))):
        items.append(ip_network(item, strict=False) if "/" in item else item)
    return exclude, exact, items


def _matches(item: str | IPv4Network | IPv6Network, exact: bool, interface: Interface, address: IPInterface) -> bool:
    if not isinstance(item, str):
        return address.ip in item
    return interface.name == item if exact else interface.name.startswith(item)


def host_id() -> bytes:
    """16 bytes that two processes share if they run on one host in one network namespace.

    Abstract AF_UNIX sockets and loopback both belong to the network namespace, so containers on one host that have
    their own are different hosts here.
    """
    from hashlib import sha256

    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read()
        namespace = os.stat("/proc/self/ns/net")
        identity = f"{boot} {namespace.st_dev} {namespace.st_ino}"
    except OSError:  # no /proc: the name is the best that is left
        identity = socket.gethostname()
    return sha256(identity.encode()).digest()[:16]
