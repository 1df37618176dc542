"""Ranks on several hosts: which way every pair takes, and what is said when there is none.

The hosts are network namespaces of this machine (`hosts.py`).  MPI itself talks over eth0 in all of them.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hosts import RANKS_PER_HOST, Hosts, missing, several_hosts

Ranks = list[dict[str, Any]]

# Seconds that a rendezvous in which nothing goes wrong stays below: it takes 0.1 s, and looking up a name 5 s at least.
QUICK = 4.0


@pytest.fixture
def possible(mpi_jobs: None) -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def hosts(possible: None) -> Iterator[Hosts]:
    """Three hosts on one network, eth0."""
    with several_hosts(3) as hosts:
        yield hosts


def run(hosts: Hosts, connect_timeout: float = 20.0, only_tcp: str = "", **env: str) -> Ranks:
    """Run the job; `only_tcp` names the ranks that do not offer AF_UNIX, such as ``"0,1"``."""
    return hosts.run("across_hosts.py", connect_timeout, only_tcp, env=env)


def assert_ways(ranks: Ranks, way: Callable[[int, int], list[str]], *, quick: bool = True) -> None:
    """Ranks of a host use AF_UNIX; those of two hosts TCP, to the peer's address on the network `way(host, host)`."""
    for rank, found in enumerate(ranks):
        assert "error" not in found, found
        assert found["seconds"] < QUICK or not quick
        for peer, (name, pid, transport, address) in enumerate(found["peers"]):
            mine, theirs = rank // RANKS_PER_HOST, peer // RANKS_PER_HOST
            assert (name, pid) == (f"node{theirs}.invalid", ranks[peer]["pid"])
            if mine != theirs:
                assert (transport, _ip(address)) == ("tcp", way(mine, theirs)[theirs]), found
            elif peer != rank:
                assert transport == "unix", found


def assert_same_error(ranks: Ranks) -> str:
    """Every rank raised the same RendezvousError; return its text."""
    assert {found.get("error") for found in ranks} == {"RendezvousError"}, ranks
    (text,) = {found["text"] for found in ranks}
    return text


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


# -- which way ------------------------------------------------------------------------------------------------------------


def test_one_network(hosts: Hosts) -> None:
    assert_ways(run(hosts), lambda *_: hosts.eth0)


def test_subnets_that_are_not_shared_are_not_used(hosts: Hosts) -> None:
    for index in range(3):
        hosts.network("eth1", f"10.88.{index}.0/24", only=[index])
    assert_ways(run(hosts), lambda *_: hosts.eth0)


def test_fast_network_serves_the_hosts_that_share_it(hosts: Hosts) -> None:
    ib0 = hosts.network("ib0", "10.88.0.0/24", only=[0, 1])
    assert_ways(run(hosts), lambda mine, theirs: hosts.eth0 if 2 in (mine, theirs) else ib0)


def test_fast_networks_of_one_subnet_that_are_not_joined(hosts: Hosts) -> None:
    for index in range(3):
        hosts.network("ib0", "10.88.0.0/24", only=[index])
    assert_ways(run(hosts), lambda *_: hosts.eth0, quick=False)


def test_routed_subnets(hosts: Hosts) -> None:
    eth1 = [hosts.network("eth1", f"10.88.{n}.0/24", only=[n], routed="10.88.0.0/16")[n] for n in range(3)]
    assert_ways(run(hosts, GLOOMPI_SOCKET_IFNAME="eth1"), lambda *_: eth1)


def test_bridge_with_one_address_on_all_hosts(hosts: Hosts) -> None:
    hosts.docker()
    assert_ways(run(hosts), lambda *_: hosts.eth0)


@pytest.mark.parametrize("only_tcp", ["2,3", "2", "0,1,2,3,4,5"])
def test_tcp_within_a_host(hosts: Hosts, only_tcp: str) -> None:
    ranks = run(hosts, only_tcp=only_tcp)
    for rank, found in enumerate(ranks):
        neighbour = rank ^ 1  # with 2 ranks a host
        _, _, transport, address = found["peers"][neighbour]
        if str(rank) in only_tcp or str(neighbour) in only_tcp:
            assert (transport, _ip(address)) == ("tcp", "127.0.0.1")
            found["peers"][neighbour][2] = "unix"
    assert_ways(ranks, lambda *_: hosts.eth0)


# -- slow and narrow links --------------------------------------------------------------------------------------------------


def test_small_packets(hosts: Hosts) -> None:
    hosts.mtu("eth0", 1400)
    assert_ways(run(hosts), lambda *_: hosts.eth0)


def test_slow_link(hosts: Hosts) -> None:
    hosts.rate("eth0", "100mbit")
    assert_ways(run(hosts), lambda *_: hosts.eth0)


# -- no way ---------------------------------------------------------------------------------------------------------------


def test_firewall_lets_the_port_range_through(hosts: Hosts) -> None:
    eth1 = hosts.network("eth1", "10.88.0.0/24")
    hosts.firewall("eth1", ports=(20_000, 20_019))
    ranks = run(hosts, GLOOMPI_SOCKET_IFNAME="eth1", GLOOMPI_PORT_RANGE="20000:20019")
    assert_ways(ranks, lambda *_: eth1)


@pytest.mark.parametrize(("verdict", "answer"), [("drop", "no answer"), ("reject", "ECONNREFUSED")])
def test_firewall_without_the_port_range(hosts: Hosts, verdict: str, answer: str) -> None:
    hosts.network("eth1", "10.88.0.0/24")
    hosts.firewall("eth1", ports=(20_000, 20_019), verdict=verdict)
    ranks = run(hosts, connect_timeout=2.0, GLOOMPI_SOCKET_IFNAME="eth1")
    text = assert_same_error(ranks)
    assert max(found["seconds"] for found in ranks) < 3.0
    assert "peers are missing: " in text
    assert "a firewall" in text
    assert re.search(rf"could not connect to rank \d \(node\d.invalid, pid \d+\) at 10\.88\.0\.\d:\d+: {answer}", text), text


def test_address_that_is_advertised_for_another(hosts: Hosts) -> None:
    """All ranks listen on the same private address, behind a translation of addresses on every host."""
    outside = hosts.network("eth1", "10.88.0.0/24")
    hosts.nat("172.30.0.2", outside, (40_000, 40_009))
    ranks = hosts.run("behind_nat.py", *outside)
    for rank, found in enumerate(ranks):
        for peer, (transport, address, why) in enumerate(found["peers"]):
            mine, theirs = rank // RANKS_PER_HOST, peer // RANKS_PER_HOST
            if mine == theirs:
                assert transport == ("self" if peer == rank else "unix")
            elif peer < rank:
                assert (transport, _ip(address), why) == ("tcp", outside[theirs], f"routed from {outside[mine]}/32")
            else:
                assert (transport, _ip(address), why) == ("tcp", outside[theirs], "advertised address, it dialed")


def test_bridge_with_one_address_on_all_hosts_leads_nowhere(hosts: Hosts) -> None:
    hosts.docker()
    ranks = run(hosts, GLOOMPI_SOCKET_IFNAME="172.17.0.0/16")  # not its link-local address, which differs
    text = assert_same_error(ranks)
    assert text.startswith(
        f"rendezvous failed at rank 0 (node0.invalid, pid {ranks[0]['pid']}): there is no way to rank 2 ("
    )
    assert text.count("172.17.0.1:") == 2
    assert max(found["seconds"] for found in ranks) < QUICK


# -- the hosts themselves -------------------------------------------------------------------------------------------------


def wait_for_end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended, and its parent knows
            end = os.pidfd_open(pid)
            try:
                assert select.select([end], [], [], 10)[0], f"process {pid} lives"
            finally:
                os.close(end)


def test_nothing_is_left_of_hosts(possible: None) -> None:
    before = psutil.net_if_addrs().keys()
    with suppress(KeyboardInterrupt), several_hosts(2) as hosts:
        asleep = subprocess.Popen(
            hosts.nodes[1].command("sh", "-c", "echo there; exec sleep 60"), stdout=subprocess.PIPE, text=True
        )
        assert asleep.stdout is not None
        assert asleep.stdout.readline() == "there\n"
        raise KeyboardInterrupt
    asleep.communicate(timeout=10)
    assert asleep.returncode == -signal.SIGKILL
    wait_for_end([host.pid for host in (hosts.switch, *hosts.nodes)])
    assert psutil.net_if_addrs().keys() == before


def test_nothing_is_left_of_a_job_that_hangs(hosts: Hosts) -> None:
    with pytest.raises(AssertionError, match="the job was not over after 1 s"):
        hosts.run("-c", "import time; time.sleep(60)", timeout=1)
    for host in (hosts.switch, *hosts.nodes):
        wait_for_end([pid for pid in host.processes() if pid != host.pid])


def test_hosts_end_with_the_process_that_made_them(possible: None) -> None:
    program = """
import os, signal
from hosts import several_hosts
with several_hosts() as hosts:
    print(*[host.pid for host in (hosts.switch, *hosts.nodes)], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for_end([int(pid) for pid in done.stdout.split()])
