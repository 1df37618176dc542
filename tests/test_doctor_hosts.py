"""The doctor on three hosts with two ranks each: what it says about each fault, and that it says nothing about what is well.

The hosts are network namespaces (`hosts.py`).  Faults are planted on eth1, because MPI itself talks over eth0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hosts import RANKS_PER_HOST, Host, Hosts, missing, several_hosts
from launch import Job

pytest.importorskip("rich", reason="needs rich: pip install 'gloompi[doctor]'")

RANKS = 3 * RANKS_PER_HOST
LIMIT = 60.0
ETH1 = {"GLOOMPI_SOCKET_IFNAME": "eth1"}
RANGE = (20_000, 20_019)
NODE0 = r"10\.88\.0\.1:\d+"
ADVICE = "ask the administrators; until then name an interface that all hosts have (GLOOMPI_SOCKET_IFNAME)"


@pytest.fixture
def hosts(mpi_jobs: None) -> Iterator[Hosts]:
    """Three hosts on one network, eth0."""
    if reason := missing():
        pytest.skip(reason)
    with several_hosts(3) as hosts:
        yield hosts


@pytest.fixture
def joined(hosts: Hosts) -> Hosts:
    """Hosts that are on eth1 too."""
    hosts.network("eth1", "10.88.0.0/24")
    return hosts


def examine(hosts: Hosts, *args: object, program: tuple[object, ...] = ("ailing_rank.py", "none", "0"), **env: str) -> str:
    """Run the doctor; its text.  The exit code must say whether there is anything wrong in it."""
    done = Job(RANKS, *map(str, program), *args, env=env, launcher=hosts.launcher()).finish(LIMIT)
    assert done.returncode == int("nothing is wrong" not in done.stdout), done.stdout + done.stderr
    assert bool(done.returncode) == bool(wrong(done.stdout))
    return done.stdout


def wrong(text: str) -> list[str]:
    """The errors and warnings of a text."""
    return re.findall(r"^(?:error|warning) .*", text, re.MULTILINE)


def assert_only(text: str, *patterns: str) -> None:
    """The text has findings that match the patterns, in this order, and no others."""
    found = wrong(text)
    assert len(found) == len(patterns), found
    for finding, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, finding), finding


def filter_eth1(node: Host, verdict: str) -> None:
    """Let only the port range in."""
    node.sh(f"""nft 'table inet firewall {{ chain input {{ type filter hook input priority 0; iifname != "eth1" accept;
        ct state established,related accept; meta l4proto icmpv6 accept;
        tcp dport {RANGE[0]}-{RANGE[1]} accept; {verdict}; }}; }}'""")


# -- healthy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", range(3))
def test_healthy(hosts: Hosts, attempt: int) -> None:
    text = examine(hosts)
    assert wrong(text) == []
    for index in range(3):
        assert re.search(rf"│ node{index}\.invalid │ {2 * index}-{2 * index + 1} ", text)
        assert f"eth0: 10.77.0.{index + 1}/24" in text
    assert len(re.findall(r"│ 4 +│ tcp +│ shared subnet 10\.77\.0\.0/24 │ +\d+ us │ +\d+ MB/s │", text)) == 3


def test_healthy_on_ipv6_alone(hosts: Hosts) -> None:
    hosts.network("eth1", "fd88::/64")
    assert "shared subnet fd88::/64" in examine(hosts, "--no-measure", **ETH1)


def test_networks_that_others_do_not_have_are_no_fault(hosts: Hosts) -> None:
    hosts.docker()
    hosts.network("ib0", "10.88.0.0/24", only=[1])
    hosts.nodes[2].sh("ip link set docker0 down")
    assert wrong(examine(hosts, "--no-measure")) == []


# -- ports ----------------------------------------------------------------------------------------------------------------


def no_way_to_node0(why: str) -> list[str]:
    """One finding for each of the other hosts."""
    return [
        rf"error rank {dialer} \(node{there}\.invalid\) could not connect to rank 0 \(node0\.invalid\){why}; so with 4 "
        rf"pairs of node0\.invalid and node{there}\.invalid: 0-{dialer}, 0-{dialer + 1}, 1-{dialer}, 1-{dialer + 1}"
        for there, dialer in ((1, 2), (2, 4))
    ]


def test_filtered_ports(joined: Hosts) -> None:
    filter_eth1(joined.nodes[0], "drop")
    text = examine(joined, "--timeout", 2, **ETH1)
    assert_only(text, *no_way_to_node0(rf" at {NODE0}: timed out \(no answer within \d\.\d s\)"))
    advice = (
        "filtered: a firewall drops the packets (open a range and set GLOOMPI_PORT_RANGE=low:high), or the address is of "
    )
    assert text.count(advice) == 2
    # The pairs that are connected have been measured nevertheless.
    assert text.count("none") == 16
    assert re.search(r"│ node1\.invalid │ node2\.invalid │ 4 +│ tcp .*\d+ us │ +\d+ MB/s │", text)
    assert re.search(r"│ node0\.invalid │ node1\.invalid │ 0 of 4 │ ", text)
    # It is good advice.
    low, high = RANGE
    assert wrong(examine(joined, "--no-measure", GLOOMPI_PORT_RANGE=f"{low}:{high}", **ETH1)) == []


@pytest.mark.parametrize(
    ("verdict", "why", "advice"),
    [
        (
            "reject with tcp reset",
            r"refused \(ECONNREFUSED\)",
            "a firewall rejects the port: open a range and set GLOOMPI_PORT",
        ),
        ("reject with icmpx admin-prohibited", r"unreachable \(EHOSTUNREACH\)", "there is no route, or a firewall says so"),
    ],
)
def test_rejected_ports(joined: Hosts, verdict: str, why: str, advice: str) -> None:
    filter_eth1(joined.nodes[0], verdict)
    text = examine(joined, "--timeout", 1, "--no-measure", **ETH1)
    assert_only(text, *no_way_to_node0(f" at {NODE0}: {why}"))
    assert text.count(f"\n        {advice}") == 2


# -- speed ----------------------------------------------------------------------------------------------------------------


def test_slow_host(joined: Hosts) -> None:
    joined.nodes[1].sh("tc qdisc add dev eth1 root tbf rate 100mbit burst 32kb latency 100ms")
    assert_only(
        examine(joined, **ETH1),
        r"warning host node1\.invalid is slow: \d+ MB/s at best to every other host, other hosts have \d+ MB/s between "
        r"them; its round trips take \d+ us",
    )


def test_slow_network(joined: Hosts) -> None:
    joined.rate("eth1", "100mbit")
    slow = (
        r"warning the link node{}\.invalid - node{}\.invalid is slow: \d+ MB/s over interfaces that claim 1250 MB/s or more"
    )
    assert_only(examine(joined, **ETH1), *(slow.format(a, b) for a, b in ((0, 1), (0, 2), (1, 2))))


# -- interfaces -----------------------------------------------------------------------------------------------------------


CANNOT_LISTEN = (
    r"error rank 4 \(node2\.invalid\) cannot listen \(nor can rank 5\): no interface that is up matches "
    r"GLOOMPI_SOCKET_IFNAME='eth1'; there are: lo \(127\.0\.0\.1/8, ::1/128\), eth0 \(10\.77\.0\.3/24, .*\){}"
)
IS = r"warning interface eth1 is {} on node2\.invalid; 2 other hosts have it"


def test_interface_is_missing(hosts: Hosts) -> None:
    hosts.network("eth1", "10.88.0.0/24", only=[0, 1])
    text = examine(hosts, **ETH1)
    assert_only(text, CANNOT_LISTEN.format(""), IS.format("missing"))
    assert "\n        set GLOOMPI_SOCKET_IFNAME to interfaces that every host has (eth0), or to a network such as" in text
    assert re.search(r"│ node0\.invalid │ node1\.invalid │ 4 +│ tcp .*\d+ us │ +\d+ MB/s │", text)
    # Where it is not asked for, it may still be a fault.
    text = examine(hosts, "--no-measure")
    assert_only(text, IS.format("missing"))
    assert f"\n        {ADVICE}\n" in text


def test_interface_is_down(joined: Hosts) -> None:
    joined.nodes[2].sh("ip link set eth1 down")
    assert_only(examine(joined, "--no-measure", **ETH1), CANNOT_LISTEN.format(r", eth1 \(down\)"), IS.format("down"))
    assert_only(examine(joined, "--no-measure"), IS.format("down"))


def test_interface_is_without_address(joined: Hosts) -> None:
    joined.nodes[2].sh("ip address flush dev eth1 scope global")  # its link-local address stays
    assert_only(examine(joined, "--no-measure"), IS.format("without address"))


def test_nothing_in_common(hosts: Hosts) -> None:
    hosts.network("eth1", "fd88::/64", only=[0])
    hosts.network("eth1", "10.88.0.0/24", only=[1, 2])
    text = examine(hosts, "--no-measure", GLOOMPI_SOCKET_IFNAME="fd88::/64,10.88.0.0/24")
    assert_only(text, *no_way_to_node0(": no address of one can be reached from an address of the other"))
    assert text.count("give both an interface of one network (GLOOMPI_SOCKET_IFNAME), or the same address family") == 2


# -- single ranks ---------------------------------------------------------------------------------------------------------


def ailing(hosts: Hosts, ailment: str, ranks: str, *args: object) -> str:
    return examine(hosts, ailment, ranks, *args, program=("ailing_rank.py",))


def test_one_rank_cannot_listen(hosts: Hosts) -> None:
    text = ailing(hosts, "setting=GLOOMPI_SOCKET_IFNAME:ib0", "3")
    assert_only(
        text, r"error rank 3 \(node1\.invalid\) cannot listen: no interface that is up matches GLOOMPI_SOCKET_IFNAME='ib0'.*"
    )
    rows = re.findall(r"^│ \d ((?:│ +\w* ){6})│$", text, re.MULTILINE)
    assert [row.count("none") for row in rows] == [1, 1, 1, 5, 1, 1]


def test_clock(hosts: Hosts) -> None:
    assert_only(
        ailing(hosts, "clock=5", "2,3"),
        r"warning the clock of node1\.invalid is 5\.0 s ahead of that of node0\.invalid",
    )
