"""The rule by which a pair picks its way."""

from __future__ import annotations

import dataclasses
import socket
from ipaddress import ip_interface
from itertools import permutations

import pytest

from gloompi.transport.endpoint import Address, Endpoint, Nearness
from gloompi.transport.interfaces import Interface
from gloompi.transport.route import Route, routes

LO = ("lo", "127.0.0.1/8")
LO6 = ("lo", "::1/128")


def endpoint(host: int, *addresses: tuple[str, str], unix: bool = True) -> Endpoint:
    """A rank on host number `host`, at port 1000 + its host; interfaces have index 2, 3, ... in the order given."""
    listed = []
    for index, (name, text) in enumerate(addresses, 2):
        ip = ip_interface(text)
        listed.append(Address(ip, 1000 + host, Interface(name, True, (ip,)).nearness(ip), index))
    return Endpoint(f"node{host}", 100 + host, 4, bytes([host]) * 16, bytes([host]) * 16 if unix else b"", tuple(listed))


def ways(mine: Endpoint, theirs: Endpoint) -> list[str]:
    return [route.text for route in routes(mine, theirs)]


# -- same host ----------------------------------------------------------------------------------------------------------


def test_same_host_takes_unix_alone() -> None:
    one = endpoint(1, ("eth0", "10.0.0.1/24"), LO)
    assert routes(one, one) == [
        Route("unix", socket.AF_UNIX, "\0gloompi-" + "01" * 16, "@gloompi-" + "01" * 16, "same host")
    ]


def test_same_host_without_unix_takes_loopback_then_the_rest() -> None:
    one = endpoint(1, ("eth0", "10.0.0.1/24"), LO, unix=False)
    assert routes(one, one) == [
        Route("tcp", socket.AF_INET, ("127.0.0.1", 1001), "127.0.0.1:1001", "same host, loopback"),
        Route("tcp", socket.AF_INET, ("10.0.0.1", 1001), "10.0.0.1:1001", "shared subnet 10.0.0.0/24"),
    ]


def test_two_users_of_one_host_take_loopback() -> None:
    """Neither could tell the other from a third."""
    mine = endpoint(1, LO)
    theirs = dataclasses.replace(mine, uid=1001)
    assert ways(mine, theirs) == ways(theirs, mine) == ["127.0.0.1:1001"]
    assert ways(endpoint(1), dataclasses.replace(endpoint(1), uid=1001)) == []


@pytest.mark.parametrize("without", ["mine", "theirs", "both"])
def test_same_host_without_unix_on_both_takes_loopback(without: str) -> None:
    mine = endpoint(1, LO, unix=without == "theirs")
    theirs = endpoint(1, LO, unix=without == "mine")
    assert ways(mine, theirs) == ["127.0.0.1:1001"]


def test_same_host_with_no_transport_in_common_is_no_way() -> None:
    tcp, unix = endpoint(1, LO, unix=False), endpoint(1)
    assert ways(tcp, unix) == []
    assert ways(unix, tcp) == []


def test_same_host_without_loopback_dials_its_own_address() -> None:
    one = endpoint(1, ("eth0", "10.0.0.1/24"), unix=False)
    assert ways(one, one) == ["10.0.0.1:1001"]


def test_same_host_ipv6_loopback() -> None:
    one = endpoint(1, LO6, unix=False)
    assert routes(one, one) == [
        Route("tcp", socket.AF_INET6, ("::1", 1001, 0, 0), "[::1]:1001", "same host, loopback"),
    ]


# -- another host -------------------------------------------------------------------------------------------------------


def test_another_host_is_never_reached_by_unix_or_loopback() -> None:
    assert ways(endpoint(1, LO, LO6), endpoint(2, LO, LO6)) == []


def test_shared_subnet_comes_before_routed() -> None:
    mine = endpoint(1, ("eth0", "10.0.0.1/24"), LO)
    theirs = endpoint(2, ("eth0", "192.168.0.2/24"), ("eth1", "10.0.0.2/24"), LO)
    assert routes(mine, theirs) == [
        Route("tcp", socket.AF_INET, ("10.0.0.2", 1002), "10.0.0.2:1002", "shared subnet 10.0.0.0/24"),
        Route("tcp", socket.AF_INET, ("192.168.0.2", 1002), "192.168.0.2:1002", "routed from 10.0.0.1/24"),
    ]


def test_one_prefix_with_two_lengths_is_not_shared() -> None:
    (way,) = routes(endpoint(1, ("eth0", "10.0.0.1/16")), endpoint(2, ("eth0", "10.0.0.2/24")))
    assert way.why == "routed from 10.0.0.1/16"


@pytest.mark.parametrize("fast", ["hsn0", "ib0"])
def test_fast_interface_comes_before_others(fast: str) -> None:
    mine = endpoint(1, ("eth0", "10.0.0.1/24"), (fast, "172.30.0.1/20"))
    theirs = endpoint(2, ("eth0", "10.0.0.2/24"), (fast, "172.30.0.2/20"))
    assert ways(mine, theirs) == ["172.30.0.2:1002", "10.0.0.2:1002"]


def test_fast_interface_of_one_side_does_not_make_a_way_fast() -> None:
    mine = endpoint(1, ("ib0", "172.30.0.1/20"), ("eth0", "10.0.0.1/24"))
    theirs = endpoint(2, ("eth1", "10.1.0.2/24"), ("eth0", "10.0.0.2/24"))
    assert ways(mine, theirs) == ["10.0.0.2:1002", "10.1.0.2:1002"]


def test_bridges_come_last_even_in_a_shared_subnet() -> None:
    mine = endpoint(1, ("virbr0", "192.168.122.1/24"), ("eth0", "10.0.0.1/24"))
    theirs = endpoint(2, ("virbr0", "192.168.122.2/24"), ("eth0", "10.1.0.2/24"))
    found = routes(mine, theirs)
    assert [way.text for way in found] == ["10.1.0.2:1002", "192.168.122.2:1002"]
    assert found[0].why == "routed from 10.0.0.1/24"


def test_bridge_with_the_same_address_on_both_hosts_is_never_dialed() -> None:
    docker = ("docker0", "172.17.0.1/16")
    assert ways(endpoint(1, docker), endpoint(2, docker)) == []
    assert ways(endpoint(1, docker, ("eth0", "10.0.0.1/24")), endpoint(2, docker, ("eth0", "10.0.0.2/24"))) == [
        "10.0.0.2:1002"
    ]


def test_link_local_comes_last_with_the_scope_of_the_dialer() -> None:
    mine = endpoint(1, ("eth0", "10.0.0.1/24"), ("eth0", "fe80::1/64"))  # index 3
    theirs = endpoint(2, ("eth0", "fe80::2/64"), ("docker0", "172.17.0.1/16"), ("eth1", "10.1.0.2/24"))
    found = routes(mine, theirs)
    assert [way.text for way in found] == ["10.1.0.2:1002", "172.17.0.1:1002", "[fe80::2]:1002"]
    assert found[-1].address == ("fe80::2", 1002, 0, 3)


def test_link_local_is_tried_on_every_link() -> None:
    mine = endpoint(1, ("eth0", "fe80::1/64"), ("eth1", "fe80::2/64"))
    assert [way.address for way in routes(mine, endpoint(2, ("eth0", "fe80::3/64")))] == [
        ("fe80::3", 1002, 0, 2),
        ("fe80::3", 1002, 0, 3),
    ]


def test_link_local_reaches_only_link_local() -> None:
    assert ways(endpoint(1, ("eth0", "fe80::1/64")), endpoint(2, ("eth0", "fd00::2/64"))) == []
    assert ways(endpoint(1, ("eth0", "fd00::1/64")), endpoint(2, ("eth0", "fe80::2/64"))) == []


def test_global_ipv6_has_no_scope() -> None:
    (way,) = routes(endpoint(1, ("eth0", "fd00::1/64")), endpoint(2, ("eth0", "fd00::2/64")))
    assert way == Route("tcp", socket.AF_INET6, ("fd00::2", 1002, 0, 0), "[fd00::2]:1002", "shared subnet fd00::/64")


def test_ipv4_comes_before_ipv6_where_all_else_is_equal() -> None:
    mine = endpoint(1, ("eth0", "fd00::1/64"), ("eth0", "10.0.0.1/24"))
    theirs = endpoint(2, ("eth0", "fd00::2/64"), ("eth0", "10.0.0.2/24"))
    assert ways(mine, theirs) == ["10.0.0.2:1002", "[fd00::2]:1002"]


@pytest.mark.parametrize(("one", "other"), [("10.0.0.1/24", "fd00::2/64"), ("fd00::1/64", "10.0.0.2/24")])
def test_no_family_in_common_is_no_way(one: str, other: str) -> None:
    assert ways(endpoint(1, ("eth0", one)), endpoint(2, ("eth0", other))) == []


def test_no_address_is_no_way() -> None:
    assert ways(endpoint(1), endpoint(2, ("eth0", "10.0.0.2/24"))) == []
    assert ways(endpoint(2, ("eth0", "10.0.0.2/24")), endpoint(1)) == []


def test_every_address_is_tried_once() -> None:
    mine = endpoint(1, ("eth0", "10.0.0.1/24"), ("eth1", "10.1.0.1/24"), ("eth2", "10.2.0.1/24"))
    assert ways(mine, endpoint(2, ("eth0", "10.0.0.2/24"), ("eth1", "10.9.0.2/24"))) == [
        "10.0.0.2:1002",
        "10.9.0.2:1002",
    ]


HOSTS = [
    endpoint(1, ("ib0", "172.30.0.1/20"), ("eth0", "10.0.0.1/24"), ("docker0", "172.17.0.1/16"), ("eth0", "fe80::1/64"), LO),
    endpoint(2, ("eth0", "10.0.0.2/24"), ("docker0", "172.17.0.1/16"), ("eth0", "fe80::2/64"), LO),
    endpoint(3, ("docker0", "172.17.0.1/16"), ("eth0", "10.0.0.3/24"), ("ib0", "172.30.0.3/20"), LO),
    endpoint(4, ("eth0", "fd00::4/64"), ("eth0", "fe80::4/64"), LO6),
]


@pytest.mark.parametrize(("one", "other"), list(permutations(range(4), 2)))
def test_both_sides_pick_the_same_link(one: int, other: int) -> None:
    def links(mine: Endpoint, theirs: Endpoint) -> list[tuple[str, int, str]]:
        # The subnet of a way that is in a shared one; that it is routed, for the others.
        return [(way.transport, way.family, way.why.partition(" from ")[0]) for way in routes(mine, theirs)][:1]

    assert links(HOSTS[one], HOSTS[other]) == links(HOSTS[other], HOSTS[one])


# -- advertised addresses -----------------------------------------------------------------------------------------------


def advertised(host: int, ip: str, port: int) -> Endpoint:
    """A rank behind NAT: no interface of its host has the address, so that its index is 0."""
    address = Address(ip_interface(ip), port, Nearness.ORDINARY)
    return Endpoint(f"node{host}", 100 + host, 4, bytes([host]) * 16, b"", (address,))


def test_ranks_behind_one_address_reach_each_other() -> None:
    """An own address that another rank has too leads back to oneself, an advertised one does not."""
    assert ways(advertised(1, "192.0.2.7", 5001), advertised(2, "192.0.2.7", 5002)) == ["192.0.2.7:5002"]
    assert ways(endpoint(1, ("eth0", "192.0.2.7/24")), endpoint(2, ("eth0", "192.0.2.7/24"))) == []


def test_advertised_address_is_routed_to() -> None:
    (route,) = routes(endpoint(1, ("eth0", "10.0.0.1/24"), LO), advertised(2, "192.0.2.7", 5002))
    assert (route.text, route.why) == ("192.0.2.7:5002", "routed from 10.0.0.1/24")
