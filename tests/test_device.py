"""Devices: their settings, and the sockets they listen on."""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_interface
from typing import Any

import numpy as np
import psutil
import pytest

from gloompi import Context
from gloompi.deadline import Deadline
from gloompi.engine.fingerprint import fingerprint
from gloompi.rendezvous.exchange import Exchange
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import run_ranks
from gloompi.transport import device as device_module
from gloompi.transport import interfaces
from gloompi.transport.device import Device
from gloompi.transport.endpoint import MAX_ADDRESSES, Address, Nearness
from gloompi.transport.interfaces import Interface
from gloompi.transport.memory import Offer, Reader

pytestmark = pytest.mark.usefixtures("nothing_leaks")

has_ipv6 = pytest.mark.skipif(
    not any(each.address == "::1" for each in psutil.net_if_addrs().get("lo", ())), reason="lo has no ::1"
)


def published(device: Device) -> list[str]:
    """The addresses that a device listens on, each bound as published."""
    listeners = device.listen(4)
    try:
        tcp = [each for each in listeners.sockets if each.family != socket.AF_UNIX]
        bound = [each.getsockname()[:2] for each in tcp]
        assert bound == [(str(address.ip.ip), address.port) for address in listeners.endpoint.addresses]
        return [host for host, _ in bound]
    finally:
        listeners.close()


def pretend(monkeypatch: pytest.MonkeyPatch, *host: Interface) -> None:
    monkeypatch.setattr(interfaces, "interfaces", lambda: list(host))


# -- settings -----------------------------------------------------------------------------------------------------------


def test_repr_shows_the_settings() -> None:
    assert repr(Device()) == "Device(interface=None, host=None, port=0, family=None, transport='auto')"
    assert repr(Device("=eth0", port=(5000, 5010), family=6, transport="tcp")) == (
        "Device(interface='=eth0', host=None, port=(5000, 5010), family=6, transport='tcp')"
    )
    assert repr(Device(host="10.0.0.4", port=5000)) == (
        "Device(interface=None, host='10.0.0.4', port=5000, family=None, transport='auto')"
    )


VARIABLES = ("GLOOMPI_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.mark.parametrize("first", range(3))
def test_interface_comes_from_the_first_variable_that_is_set(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    for number, variable in enumerate(VARIABLES):
        monkeypatch.setenv(variable, "" if number < first else f"if{number}")
    assert Device().interface == f"if{first}"
    assert Device("eth0").interface == "eth0"
    assert Device(host="127.0.0.1").interface is None


@pytest.mark.parametrize("variable", VARIABLES)
def test_error_names_the_variable_that_matches_nothing(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    pretend(monkeypatch, Interface("lo", True, (ip_interface("127.0.0.1/8"),)))
    monkeypatch.setenv(variable, "=ib7")
    with pytest.raises(ValueError, match="no interface that is up") as caught:
        Device().listen(4)
    assert str(caught.value) == f"no interface that is up matches {variable}='=ib7'; there are: lo (127.0.0.1/8)"


@pytest.mark.parametrize("variable", VARIABLES)
def test_listen_obeys_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "=lo")
    assert published(Device(family=4)) == ["127.0.0.1"]


def test_port_range_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_PORT_RANGE", "40000:40100")
    assert Device().ports == (40000, 40100)
    assert Device(port=5000).ports == (5000, 5000)
    assert Device(port=(5000, 5001)).ports == (5000, 5001)


@pytest.mark.parametrize("text", ["40000", "40000-40100", ":", "40000:", "a:b", "-1:5", "1:2:3", "1.0:2", " "])
def test_port_range_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GLOOMPI_PORT_RANGE", text)
    with pytest.raises(ValueError, match="GLOOMPI_PORT_RANGE") as caught:
        Device()
    assert str(caught.value) == f"GLOOMPI_PORT_RANGE must be low:high, not {text!r}"


@pytest.mark.parametrize(("text", "shown"), [("5:4", (5, 4)), ("0:4", (0, 4)), ("1:65536", (1, 65536))])
def test_port_range_beyond_the_limits(monkeypatch: pytest.MonkeyPatch, text: str, shown: tuple[int, int]) -> None:
    monkeypatch.setenv("GLOOMPI_PORT_RANGE", text)
    with pytest.raises(ValueError, match="GLOOMPI_PORT_RANGE") as caught:
        Device()
    assert str(caught.value) == (f"GLOOMPI_PORT_RANGE must be 0, a port or a range low <= high within 1-65535, not {shown}")


@pytest.mark.parametrize("port", [-1, 65536, (5, 4), (0, 4), (1, 65536)])
def test_bad_port(port: Any) -> None:
    with pytest.raises(ValueError, match="port must be") as caught:
        Device(port=port)
    assert str(caught.value) == f"port must be 0, a port or a range low <= high within 1-65535, not {port}"


def test_single_copy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Device().single_copy is True
    monkeypatch.setenv("GLOOMPI_SINGLE_COPY", "0")
    assert Device().single_copy is False
    assert repr(Device(transport="unix")).endswith("transport='unix', single_copy=False)")
    assert Device(single_copy=True).single_copy is True
    monkeypatch.setenv("GLOOMPI_SINGLE_COPY", "no")
    with pytest.raises(ValueError, match="GLOOMPI_SINGLE_COPY") as caught:
        Device()
    assert str(caught.value) == "GLOOMPI_SINGLE_COPY must be 0 or 1, not 'no'"


@pytest.mark.parametrize("single_copy", [True, False])
def test_single_copy_decides_whether_memory_is_read(monkeypatch: pytest.MonkeyPatch, single_copy: bool) -> None:
    read: list[int] = []
    original = Reader.read

    def spy(self: Reader, pid: int, offer: Offer, position: int, into: memoryview) -> None:
        read.append(len(into))
        original(self, pid, offer, position, into)

    monkeypatch.setattr(Reader, "read", spy)

    def body(ctx: Context) -> None:
        x = np.full(2**18, 1.5 + ctx.rank)
        assert np.all(ctx.allreduce(x) == 4.0)

    run_ranks(2, body, device=Device(single_copy=single_copy))
    assert bool(read) is single_copy


@pytest.mark.parametrize("blind", [{1}, {0, 1, 2}])
def test_no_algorithm_for_reading_where_a_rank_forbids_it(blind: set[int]) -> None:
    def body(exchange: Exchange) -> tuple[list[bool], bytes]:
        device = Device(single_copy=exchange.rank not in blind)
        with Context._from_exchange(exchange, device, 10.0, Deadline(10.0)) as ctx:
            x = np.full(2**18, 1.5 + ctx.rank)
            assert np.all(ctx.allreduce(x) == 7.5)
            return [peer.readable for peer in ctx.peers], ctx._plan.broadcast(x, 0, "auto").mark

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(body, local_exchanges(3)))
    mark = fingerprint("broadcast", np.dtype(float), 2**18, 0, "", "scatter_allgather")
    assert found == [([rank not in blind for rank in range(3)], mark)] * 3


@pytest.mark.parametrize("single_copy", [True, False])
@pytest.mark.parametrize("checksum", [True, False])
def test_who_wants_checksums_is_not_read(monkeypatch: pytest.MonkeyPatch, single_copy: bool, checksum: bool) -> None:
    monkeypatch.setattr(device_module, "is_permitted", lambda: True)
    listeners = Device(single_copy=single_copy, checksum=checksum).listen(4)
    listeners.close()
    assert (listeners.endpoint.readable, listeners.endpoint.checksum) == (single_copy and not checksum, checksum)


def test_transport_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TRANSPORT", "tcp")
    assert Device().transport == "tcp"
    assert Device(transport="unix").transport == "unix"
    monkeypatch.setenv("GLOOMPI_TRANSPORT", "")
    assert Device().transport == "auto"


def test_bad_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="transport") as caught:
        Device(transport="udp")
    assert str(caught.value) == "transport must be one of auto, tcp, unix, not 'udp'"
    monkeypatch.setenv("GLOOMPI_TRANSPORT", "ucx")
    with pytest.raises(ValueError, match="not 'ucx'"):
        Device()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Device("eth0", host="10.0.0.4"), "give interface or host, not both: 'eth0', '10.0.0.4'"),
        (lambda: Device(family=5), "family must be 4, 6 or None, not 5"),
        (
            lambda: Device(host="0.0.0.0"),
            "host must be one address of this host, not 0.0.0.0: gloompi never listens on all",
        ),
        (lambda: Device(host="::"), "host must be one address of this host, not ::: gloompi never listens on all"),
        (lambda: Device(host="node7"), "'node7' does not appear to be an IPv4 or IPv6 address"),
    ],
    ids=["both", "family", "all", "all IPv6", "name"],
)
def test_bad_settings(make: Callable[[], Device], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        make()
    assert str(caught.value) == text


# -- listening ----------------------------------------------------------------------------------------------------------


def test_listen_never_listens_on_all_addresses() -> None:
    hosts = published(Device())
    assert hosts
    assert not any(ip_address(host).is_unspecified for host in hosts)
    assert len(set(hosts)) == len(hosts) <= MAX_ADDRESSES


def test_endpoint_says_who_listens() -> None:
    listeners = Device("=lo", family=4).listen(4)
    listeners.close()
    endpoint = listeners.endpoint
    assert (endpoint.host, endpoint.pid, endpoint.host_id) == (socket.gethostname(), os.getpid(), interfaces.host_id())
    assert endpoint.cores == len(os.sched_getaffinity(0))
    (address,) = endpoint.addresses
    assert str(address.ip) == "127.0.0.1/8"
    assert (address.nearness, address.scope) == (Nearness.LOOPBACK, socket.if_nametoindex("lo"))


@pytest.mark.parametrize(("transport", "unix", "tcp"), [("auto", True, True), ("tcp", False, True), ("unix", True, False)])
def test_transport_decides_which_sockets_there_are(transport: str, unix: bool, tcp: bool) -> None:
    listeners = Device("=lo", family=4, transport=transport).listen(4)
    try:
        families = [each.family for each in listeners.sockets]
        assert families == [socket.AF_UNIX] * unix + [socket.AF_INET] * tcp
        assert len(listeners.endpoint.unix) == 16 * unix
        assert len(listeners.endpoint.addresses) == tcp
        if unix:
            assert listeners.sockets[0].getsockname() == f"\0gloompi-{listeners.endpoint.unix.hex()}".encode()
    finally:
        listeners.close()


def test_unix_alone_needs_no_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert published(Device(transport="unix")) == []


def test_listening_sockets_never_block() -> None:
    listeners = Device("=lo").listen(4)
    try:
        for listener in listeners.sockets:
            with pytest.raises(BlockingIOError):
                listener.accept()
    finally:
        listeners.close()


def test_every_call_listens_at_a_place_of_its_own() -> None:
    device = Device("=lo", family=4)
    one, other = device.listen(4), device.listen(4)
    one.close()
    other.close()
    assert one.endpoint.unix != other.endpoint.unix
    assert one.endpoint.addresses[0].port != other.endpoint.addresses[0].port


def test_random_numbers_of_the_program_stay_as_they_are() -> None:
    random.seed(1)
    before = random.getstate()
    Device("=lo", port=(20000, 60000)).listen(4).close()
    assert random.getstate() == before


def test_host_picks_one_address() -> None:
    assert published(Device(host="127.0.0.1")) == ["127.0.0.1"]


@has_ipv6
def test_host_may_be_ipv6() -> None:
    assert published(Device(host="::1")) == ["::1"]


def test_host_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch,
        Interface("lo", True, (ip_interface("127.0.0.1/8"),)),
        Interface("eth0", True, (ip_interface("10.0.0.4/24"),)),
        Interface("eth1", False, (ip_interface("10.0.0.5/24"),)),
    )
    for host in ("10.0.0.3", "10.0.0.5"):
        with pytest.raises(ValueError, match="is no address") as caught:
            Device(host=host).listen(4)
        assert str(caught.value) == f"host {host} is no address of this host; there are: 10.0.0.4, 127.0.0.1"


@pytest.mark.parametrize("family", [4, pytest.param(6, marks=has_ipv6)])
def test_family_leaves_out_the_other(family: int) -> None:
    hosts = published(Device(family=family))
    assert hosts
    assert {ip_address(host).version for host in hosts} == {family}


def test_family_that_no_interface_has(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Interface("lo", True, (ip_interface("127.0.0.1/8"),)))
    with pytest.raises(ValueError, match="IPv6") as caught:
        Device(family=6).listen(4)
    assert str(caught.value) == "no interface that is up has an IPv6 address"


def test_one_loopback_address_is_enough() -> None:
    assert published(Device("=lo")) == ["127.0.0.1"]


def test_many_addresses_leave_room_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Interface(f"eth{n}", True, (ip_interface(f"10.{n}.0.4/16"),)) for n in range(20)]
    pretend(monkeypatch, Interface("lo", True, (ip_interface("127.0.0.1/8"),)), *many)
    chosen = [str(address.ip) for _, address in Device()._addresses()]
    assert chosen == [f"10.{n}.0.4" for n in range(MAX_ADDRESSES - 1)] + ["127.0.0.1"]


# -- ports --------------------------------------------------------------------------------------------------------------


def bound(port: int = 0) -> socket.socket:
    taken = socket.socket()
    try:
        taken.bind(("127.0.0.1", port))
        taken.listen()
    except OSError:
        taken.close()
        raise
    return taken


def neighbours() -> tuple[socket.socket, socket.socket]:
    """Two listening sockets, the second at the port after the first's."""
    for _ in range(100):
        low = bound()
        try:
            return low, bound(low.getsockname()[1] + 1)
        except (OSError, OverflowError):
            low.close()
    raise AssertionError("no two neighbouring ports are free")


def test_fixed_port() -> None:
    with bound() as taken:
        port = taken.getsockname()[1]
    listeners = Device(host="127.0.0.1", port=port, transport="tcp").listen(4)
    listeners.close()
    assert listeners.endpoint.addresses[0].port == port


def test_port_range_is_searched_for_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = neighbours()
    with low:
        port = high.getsockname()[1]
        high.close()
        monkeypatch.setenv("GLOOMPI_PORT_RANGE", f"{port - 1}:{port}")
        for _ in range(8):  # wherever the search begins
            listeners = Device(host="127.0.0.1").listen(4)
            listeners.close()
            assert listeners.endpoint.addresses[0].port == port


def test_port_range_used_up_names_the_range() -> None:
    low, high = neighbours()
    with low, high:
        first, last = low.getsockname()[1], high.getsockname()[1]
        with pytest.raises(OSError, match="no free port") as caught:
            Device(host="127.0.0.1", port=(first, last)).listen(4)
        assert caught.value.strerror == (
            f"no free port in {first}-{last} on 127.0.0.1 (lo): [Errno 98] Address already in use; widen the range"
        )


def test_what_cannot_be_bound_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Interface("lo", True, (ip_interface("192.0.2.77/24"),)))  # TEST-NET-1: nobody's
    with pytest.raises(OSError, match="cannot listen") as caught:
        Device("=lo").listen(4)
    assert caught.value.strerror == ("cannot listen on 192.0.2.77 (lo): [Errno 99] Cannot assign requested address")


def test_accepted_connections_are_tuned() -> None:
    listeners = Device(host="127.0.0.1", transport="tcp").listen(4)
    try:
        (listener,) = listeners.sockets
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()) as dialer:
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
                assert accepted.getpeername() == dialer.getsockname()
    finally:
        listeners.close()


def test_an_address_that_cannot_be_bound_yet_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    unbindable = Interface("eth9", True, (ip_interface("203.0.113.7/24"),))
    loopback = Interface("lo", True, (ip_interface("127.0.0.1/8"),))
    monkeypatch.setattr(interfaces, "interfaces", lambda: [unbindable, loopback])
    monkeypatch.setattr("socket.if_nametoindex", lambda name: 1)
    listeners = Device().listen(1)
    try:
        assert [str(address.ip.ip) for address in listeners.endpoint.addresses] == ["127.0.0.1"]
    finally:
        listeners.close()
    monkeypatch.setattr(interfaces, "interfaces", lambda: [unbindable])
    with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.7 \(eth9\)"):
        Device(transport="tcp").listen(1)


# -- advertising --------------------------------------------------------------------------------------------------------


def test_advertised_address_is_published_with_the_port_that_is_listened_on() -> None:
    listeners = Device(host="127.0.0.1", advertise="192.0.2.7", transport="tcp").listen(4)
    try:
        ((host, port),) = [each.getsockname() for each in listeners.sockets]
        assert host == "127.0.0.1"
        assert [str(address) for address in listeners.endpoint.addresses] == [f"192.0.2.7:{port}"]
    finally:
        listeners.close()


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> None:
    """One address besides loopback, for which 127.0.0.2 stands: it can be bound anywhere."""
    monkeypatch.setattr(Interface, "nearness", lambda self, address: Nearness.ORDINARY)
    monkeypatch.setattr(Interface, "index", 3)
    pretend(monkeypatch, Interface("eth0", True, (ip_interface("127.0.0.2/24"),)))


@pytest.mark.parametrize("variable", [False, True])
def test_advertised_address_stands_for_the_own(container: None, monkeypatch: pytest.MonkeyPatch, variable: bool) -> None:
    if variable:
        monkeypatch.setenv("GLOOMPI_ADVERTISE", "192.0.2.7")
    listeners = Device(advertise=None if variable else "192.0.2.7", transport="tcp").listen(4)
    try:
        (host, port) = listeners.sockets[0].getsockname()
        assert host == "127.0.0.2"
        assert listeners.endpoint.addresses == (Address(ip_interface("192.0.2.7/32"), port, Nearness.ORDINARY),)
        assert listeners.endpoint.unpack(listeners.endpoint.pack()) == listeners.endpoint
    finally:
        listeners.close()


def test_advertised_address_needs_one_to_listen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interface, "nearness", lambda self, address: Nearness.ORDINARY)
    monkeypatch.setattr(Interface, "index", 3)
    pretend(monkeypatch, Interface("eth0", True, (ip_interface("127.0.0.2/24"), ip_interface("127.0.0.3/24"))))
    with pytest.raises(ValueError, match="advertise=192") as caught:
        Device(advertise="192.0.2.7", port=(40_000, 40_000)).listen(4)
    assert str(caught.value) == (
        "advertise=192.0.2.7 (GLOOMPI_ADVERTISE) needs one address to listen on, there are 2: 127.0.0.2:40000, "
        "127.0.0.3:40000; give host=, or a network that has one of them: interface= (GLOOMPI_SOCKET_IFNAME), such as "
        "10.0.0.0/8"
    )


@pytest.mark.parametrize(
    "advertise", ["node7", "10.0.0.0/8", "10.0.0.4:5000", "0", "0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0"]
)
def test_advertised_address_that_is_none(advertise: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(advertise))):
        Device(host="127.0.0.1", advertise=advertise)


def test_advertise_is_shown() -> None:
    assert repr(Device(host="10.0.0.4", advertise="192.0.2.7", port=5000)) == (
        "Device(interface=None, host='10.0.0.4', advertise='192.0.2.7', port=5000, family=None, transport='auto')"
    )


def test_interfaces_that_are_not_used_are_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "gloompi")
    lo, down = Interface("lo", True, (ip_interface("127.0.0.1/8"),)), Interface("eth7", False, (ip_interface("10.0.0.4/8"),))
    pretend(monkeypatch, lo, down, Interface("docker0", True, (ip_interface("172.17.0.1/16"),)))
    assert published(Device("^docker", transport="tcp")) == ["127.0.0.1"]
    said = [record.getMessage() for record in caplog.records]
    assert "not using eth7 (10.0.0.4/8): it is down" in said
    assert "not using docker0 (172.17.0.1/16): interface='^docker'" in said
    assert any(text.startswith("listening on 127.0.0.1:") and text.endswith(" (lo, loopback)") for text in said)
