"""The choice among interfaces, on a host that these tests make up."""

from __future__ import annotations

import socket
from ipaddress import ip_interface
from types import SimpleNamespace

import psutil
import pytest

from gloompi.transport import interfaces as module
from gloompi.transport.endpoint import Nearness
from gloompi.transport.interfaces import Interface, host_id, interfaces, select


def interface(name: str, *addresses: str, up: bool = True) -> Interface:
    return Interface(name, up, tuple(map(ip_interface, addresses)))


HOST = [
    interface("lo", "127.0.0.1/8", "::1/128"),
    interface("docker0", "172.17.0.1/16"),
    interface("eth0", "fe80::4/64", "fd00::4/64", "10.0.0.4/24"),
    interface("eth1", "10.1.0.4/16"),
    interface("eth10", "10.2.0.4/16"),
    interface("eth2", "10.9.0.4/24", up=False),
    interface("wlan0"),
    interface("ib0", "192.168.5.4/24"),
    interface("hsn0", "172.30.0.4/20"),
]
EVERYTHING = [
    "192.168.5.4",
    "172.30.0.4",
    "10.0.0.4",
    "10.1.0.4",
    "10.2.0.4",
    "fd00::4",
    "172.17.0.1",
    "fe80::4",
    "127.0.0.1",
    "::1",
]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "interfaces", lambda: list(HOST))


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        (None, EVERYTHING),
        ("", EVERYTHING),
        # a prefix
        ("eth1", ["10.1.0.4", "10.2.0.4"]),
        ("eth", ["10.0.0.4", "10.1.0.4", "10.2.0.4", "fd00::4", "fe80::4"]),
        ("hsn", ["172.30.0.4"]),
        # exact
        ("=eth1", ["10.1.0.4"]),
        ("=eth0", ["10.0.0.4", "fd00::4", "fe80::4"]),
        # without
        ("^eth,docker,ib,hsn", ["127.0.0.1", "::1"]),
        ("^eth1", [each for each in EVERYTHING if each not in ("10.1.0.4", "10.2.0.4")]),
        ("^=eth1", [each for each in EVERYTHING if each != "10.1.0.4"]),
        ("^=eth", EVERYTHING),
        # networks
        ("10.0.0.0/8", ["10.0.0.4", "10.1.0.4", "10.2.0.4"]),
        ("10.1.0.0/16", ["10.1.0.4"]),
        ("10.1.2.3/16", ["10.1.0.4"]),
        ("fd00::/8", ["fd00::4"]),
        ("0.0.0.0/0", [each for each in EVERYTHING if ":" not in each]),
        ("^0.0.0.0/0", [each for each in EVERYTHING if ":" in each]),
        # several
        ("eth10,hsn,lo", ["172.30.0.4", "10.2.0.4", "127.0.0.1", "::1"]),
        (" eth1 , 172.30.0.0/16 ,", ["172.30.0.4", "10.1.0.4", "10.2.0.4"]),
        ("=eth1,172.30.0.0/16", ["172.30.0.4", "10.1.0.4"]),
        ("^10.0.0.0/8,lo,docker", ["192.168.5.4", "172.30.0.4", "fd00::4", "fe80::4"]),
        ("nosuch,eth10", ["10.2.0.4"]),
        # one that is down does not count
        ("eth2,eth10", ["10.2.0.4"]),
        ("10.9.0.0/16,10.2.0.0/16", ["10.2.0.4"]),
    ],
)
def test_select(pattern: str | None, chosen: list[str]) -> None:
    assert [str(address.ip) for _, address in select(pattern)] == chosen


@pytest.mark.usefixtures("host")
def test_select_returns_the_interface_of_each_address() -> None:
    assert [(each.name, str(address)) for each, address in select("eth1,ib")] == [
        ("ib0", "192.168.5.4/24"),
        ("eth1", "10.1.0.4/16"),
        ("eth10", "10.2.0.4/16"),
    ]


# A list of this length has no room for the addresses: it has to fit a record of the rendezvous as a whole.
THERE_ARE = "lo, docker0, eth0, eth1, eth10, eth2 (down), wlan0, ib0, hsn0"


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("pattern", ["nosuch", "=eth", "eth2", "wlan0", "10.9.0.0/24", "192.0.2.0/24", "^lo,d,e,i,h"])
def test_select_of_nothing_lists_what_there_is(pattern: str) -> None:
    with pytest.raises(ValueError, match="no interface that is up") as caught:
        select(pattern, "GLOOMPI_SOCKET_IFNAME")
    assert str(caught.value) == (
        f"no interface that is up matches GLOOMPI_SOCKET_IFNAME='{pattern}'; there are: {THERE_ARE}"
    )


def test_a_short_list_has_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [interface("lo", "127.0.0.1/8", "::1/128"), interface("eth0", "10.0.0.4/24")]
    monkeypatch.setattr(module, "interfaces", lambda: there)
    with pytest.raises(ValueError, match=r"there are: lo \(127\.0\.0\.1/8, ::1/128\), eth0 \(10\.0\.0\.4/24\)$"):
        select("ib")


def test_select_on_a_host_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "interfaces", lambda: [interface("lo", "127.0.0.1/8", up=False), interface("eth0")])
    with pytest.raises(ValueError, match="no interface is usable") as caught:
        select(None)
    assert str(caught.value) == "no interface is usable; there are: lo (down), eth0 (no address)"


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("pattern", ["10.0.0.0/33", "eth0,10.0.0/24", "eth/0"])
def test_select_refuses_what_is_no_network(pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern.rpartition(",")[2]):
        select(pattern)


@pytest.mark.parametrize(
    ("name", "address", "nearness"),
    [
        ("hsn1", "10.0.0.4/24", Nearness.FAST),
        ("ib0", "10.0.0.4/24", Nearness.FAST),
        ("ibp65s0", "fd00::4/64", Nearness.FAST),
        ("eth0", "10.0.0.4/24", Nearness.ORDINARY),
        ("bond0", "10.0.0.4/24", Nearness.ORDINARY),
        ("docker0", "172.17.0.1/16", Nearness.VIRTUAL),
        ("br-5f2e", "172.18.0.1/16", Nearness.VIRTUAL),
        ("br0", "10.0.0.4/24", Nearness.ORDINARY),  # a bridge that a host's own address often sits on
        ("virbr0", "192.168.122.1/24", Nearness.VIRTUAL),
        ("veth12ab", "10.88.0.1/16", Nearness.VIRTUAL),
        ("eth0", "fe80::4/64", Nearness.LINK_LOCAL),
        ("ib0", "169.254.3.4/16", Nearness.LINK_LOCAL),
        ("docker0", "fe80::1/64", Nearness.LINK_LOCAL),
        ("lo", "127.0.0.1/8", Nearness.LOOPBACK),
        ("lo", "::1/128", Nearness.LOOPBACK),
        ("lo", "10.9.9.9/32", Nearness.ORDINARY),  # a service address, reachable from elsewhere
    ],
)
def test_nearness(name: str, address: str, nearness: Nearness) -> None:
    assert interface(name).nearness(ip_interface(address)) is nearness


def test_interfaces_reads_what_psutil_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(family: int, address: str, netmask: str | None) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=address, netmask=netmask)

    def addresses() -> dict[str, list[SimpleNamespace]]:
        return {
            "eth0": [
                entry(socket.AF_INET, "10.0.0.4", "255.255.240.0"),
                entry(socket.AF_INET6, "fe80::4%eth0", "ffff:ffff:ffff:ffff::"),
                entry(socket.AF_PACKET, "02:fc:00:00:00:01", None),
            ],
            "tun0": [entry(socket.AF_INET, "10.8.0.2", None), entry(socket.AF_INET6, "fd00::2", None)],
            "gone0": [entry(socket.AF_INET6, "fd00::3", "ffff::")],
        }

    def stats() -> dict[str, SimpleNamespace]:
        return {"eth0": SimpleNamespace(isup=True), "tun0": SimpleNamespace(isup=False)}

    monkeypatch.setattr(psutil, "net_if_addrs", addresses)
    monkeypatch.setattr(psutil, "net_if_stats", stats)
    assert interfaces() == [
        interface("eth0", "10.0.0.4/20", "fe80::4/64"),
        interface("tun0", "10.8.0.2/32", "fd00::2/128", up=False),
        interface("gone0", "fd00::3/16", up=False),
    ]


def test_interfaces_of_this_host() -> None:
    found = {each.name: each for each in interfaces()}
    assert found["lo"].up
    assert ip_interface("127.0.0.1/8") in found["lo"].addresses
    assert found.keys() <= {name for _, name in socket.if_nameindex()}


def test_host_id_is_the_same_each_time() -> None:
    assert len(host_id()) == 16
    assert host_id() == host_id() != bytes(16)


def test_host_id_without_proc_is_made_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise FileNotFoundError(path)

    ids = set()
    monkeypatch.setattr(module, "open", refuse, raising=False)
    for name in ("node1", "node2", "node1"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        ids.add(host_id())
    assert [len(each) for each in ids] == [16, 16]
