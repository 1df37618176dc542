"""Faults 10 to 15: links that go down, lose, delay or reorder, streams that break off, addresses that lead nowhere.

Hosts are network namespaces of this machine (`hosts.py`), with two ranks each where nothing else is said.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts, missing, several_hosts

from faults.processes import (
    PROMPT,
    Processes,
    allreduce_number,
    assert_lost,
    assert_nothing_left,
    assert_same_later,
    processes,
)
from faults.weather import weather

MEBIBYTE = 1024 * 1024

# A keepalive that a test need not wait for: seconds idle, seconds between probes, probes.
KEEPALIVE, KEEPALIVE_SECONDS = "1,1,1", 2.0
DEFAULT_SECONDS = 30.0  # the library's

# What ranks do when the link goes, and how many ranks they are on three hosts.
SCENES = {"work": 6, "idle": 3, "receive": 3}

transports = pytest.mark.parametrize("transport", ["unix", "tcp"])


@pytest.fixture
def possible() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def hosts(possible: None) -> Iterator[Hosts]:
    """Three hosts on one network, eth0."""
    with several_hosts(3) as hosts:
        yield hosts


@pytest.fixture
def two_hosts(possible: None) -> Iterator[Hosts]:
    with several_hosts(2) as hosts:
        yield hosts


# -- ways to cut a host off -----------------------------------------------------------------------------------------------


def interface_down(hosts: Hosts, index: int) -> None:
    hosts.nodes[index].sh("ip link set eth0 down")


def cable_out(hosts: Hosts, index: int) -> None:
    """The switch's end goes down."""
    hosts.switch.sh(f"ip link set br0-{index} down")


def packets_dropped(hosts: Hosts, index: int) -> None:
    """Nobody is told anything."""
    hosts.nodes[index].sh("""nft 'table inet cut {
        chain input { type filter hook input priority 0; iifname eth0 drop; };
        chain output { type filter hook output priority 0; oifname eth0 drop; }; }'""")


cuts = pytest.mark.parametrize("cut", [interface_down, cable_out, packets_dropped], ids=lambda cut: cut.__name__)


Found = dict[str, list[dict[str, Any]]]


def cut_off(
    hosts: Hosts, folder: Path, cut: Callable[[list[Processes]], object], sizes: dict[str, int], limit: float, **options: Any
) -> tuple[float, Found]:
    """Run the scenes of `cut_off.py` at the same time, and cut while they are at it.

    Returns when it was cut, and the reports of the ranks that live, by scene.
    """
    arguments = {"nbytes": 8 * MEBIBYTE, "timeout": 60.0, "keepalive": KEEPALIVE, **options}
    with ExitStack() as stack:
        scenes: dict[str, Processes] = {}
        for scene, size in sizes.items():
            (folder / scene).mkdir()
            scenes[scene] = stack.enter_context(
                processes(size, "cut_off.py", folder / scene, scene, *arguments.values(), hosts=hosts.nodes)
            )
        for ranks in scenes.values():
            ranks.reports(timeout=60)
        time.sleep(random.uniform(0.0, 0.05))  # no wait for anything: all moments are as good
        cut(list(scenes.values()))
        when = time.monotonic()
        if "idle" in scenes:
            idle = scenes["idle"]
            idle.tell([rank for rank in range(sizes["idle"]) if idle.alive(rank)])
        found = {
            scene: ranks.reports([rank for rank in range(sizes[scene]) if ranks.alive(rank)], limit + 20.0)
            for scene, ranks in scenes.items()
        }
        for ranks in scenes.values():
            ranks.finish()
    return when, found


def assert_cut_off(when: float, found: Found, limit: float, *, hosts: int = 3, alone: int = 1) -> None:
    """Every rank has lost one of those that it was cut off from, or was told so by one that has; `alone` is a host."""
    for scene, ranks in found.items():
        size = SCENES[scene] if hosts == 3 else hosts
        far = {rank for rank in range(size) if rank * hosts // size == alone}
        near = set(range(size)) - far
        for each in ranks:
            assert each["wrong"] == []
            number, own = "recv", "recv"
            if scene != "receive":
                number, own = f"allreduce #{allreduce_number(each, ranks)}", f"allreduce #{each['finished'] + 2}"
            assert_lost(each["outcome"], near if each["rank"] in far else far, number, when, limit, own=own)
            assert_same_later(each["outcome"], each["later"])
            assert each["closing"]["error"] == ""
        assert_nothing_left(ranks)


# -- links that go down -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def default_keepalive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[tuple[float, Found]]]]:
    """Ranks that are cut off by the library's own times, while other tests run: call it for what became of them."""
    if reason := missing():
        pytest.skip(reason)
    with several_hosts(3) as hosts, several_hosts(2) as two_hosts, ThreadPoolExecutor() as pool:
        folders = [tmp_path_factory.mktemp("cut off") for _ in range(2)]
        limit = DEFAULT_SECONDS + PROMPT
        options = {"limit": limit, "keepalive": "default", "timeout": None}
        mesh = pool.submit(cut_off, hosts, folders[0], lambda _: cable_out(hosts, 1), {"work": 6}, **options)
        pair = pool.submit(cut_off, two_hosts, folders[1], lambda _: cable_out(two_hosts, 1), {"work": 2}, **options)
        yield lambda: [mesh.result(), pair.result()]


@cuts
@pytest.mark.usefixtures("default_keepalive")  # begins with the first test
def test_case_10_link_down(hosts: Hosts, tmp_path: Path, cut: Callable[[Hosts, int], None]) -> None:
    """Keepalive notices on connections on which nothing is being sent; in a mesh there are some."""
    limit = KEEPALIVE_SECONDS + PROMPT
    when, found = cut_off(hosts, tmp_path, lambda _: cut(hosts, 1), SCENES, limit)
    assert {scene: len(ranks) for scene, ranks in found.items()} == SCENES
    assert_cut_off(when, found, limit)


def test_case_10_link_down_and_the_timeout_comes_first(hosts: Hosts, tmp_path: Path) -> None:
    timeout = 1.0
    when, found = cut_off(hosts, tmp_path, lambda _: cable_out(hosts, 1), SCENES, timeout, timeout=timeout)
    for scene, ranks in found.items():
        for each in ranks:
            outcome = each["outcome"]
            assert each["wrong"] == []
            assert outcome["error"] == "OperationTimeoutError", outcome
            assert outcome["operation"].startswith("recv" if scene == "receive" else "allreduce #")
            assert f"{outcome['operation']} timed out after {timeout} s: " in outcome["text"]
            assert outcome["ended"] - max(when, outcome["began"]) < timeout + 1.0
            assert_same_later(outcome, each["later"])
        assert_nothing_left(ranks)


@cuts
def test_case_10_link_down_between_two_ranks(two_hosts: Hosts, tmp_path: Path, cut: Callable[[Hosts, int], None]) -> None:
    """Both have sent something that is not acknowledged, and have no other connection: keepalive is silent."""
    limit = KEEPALIVE_SECONDS + PROMPT
    sizes = {"work": 2, "idle": 2}
    when, found = cut_off(two_hosts, tmp_path, lambda _: cut(two_hosts, 1), sizes, limit, timeout=None)
    assert_cut_off(when, found, limit, hosts=2)
    for ranks in found.values():
        # Each finds out by itself; the two are as one in that, and one may see the other's end.
        texts = [each["outcome"]["text"] for each in ranks]
        assert any(re.search(r" no answer for \d\.\d s, [1-9]\d* bytes unacknowledged", text) for text in texts), texts


def test_case_10_link_is_back_in_time(hosts: Hosts, tmp_path: Path) -> None:
    with processes(6, "cut_off.py", tmp_path, "idle", 8 * MEBIBYTE, 60.0, "1,1,20", hosts=hosts.nodes) as ranks:
        ranks.reports(timeout=40)
        hosts.switch.sh("ip link set br0-1 down")
        ranks.tell()
        time.sleep(1.0)  # the fault itself
        hosts.switch.sh("ip link set br0-1 up")
        found = ranks.reports()
        assert ranks.finish() == [0] * 6
    for each in found:
        assert each["outcome"]["error"] == "", each
        assert each["right"]
    assert_nothing_left(found)


def test_case_10_peer_that_does_not_read_is_no_lost_peer(two_hosts: Hosts, tmp_path: Path) -> None:
    """It is stopped for longer than keepalive takes, with its sockets full; its kernel answers for it."""
    keepalive, seconds = "1,1,2", 3.0
    with processes(2, "cut_off.py", tmp_path, "idle", 8 * MEBIBYTE, 60.0, keepalive, hosts=two_hosts.nodes) as ranks:
        ranks.reports(timeout=40)
        ranks.kill(1, signal.SIGSTOP)
        ranks.tell()
        time.sleep(1.5 * seconds)  # the fault itself
        ranks.kill(1, signal.SIGCONT)
        found = ranks.reports()
        assert ranks.finish() == [0, 0]
    for each in found:
        assert each["outcome"]["error"] == "", each
        assert each["right"]
    assert_nothing_left(found)


def test_case_11_vanished_without_fin(hosts: Hosts, tmp_path: Path) -> None:
    """The host is cut off, and then its ranks are killed: what their kernel says of it reaches nobody."""

    def vanish(scenes: list[Processes]) -> None:
        packets_dropped(hosts, 1)
        for ranks in scenes:
            for rank in range(ranks.size):
                if rank * 3 // ranks.size == 1:
                    ranks.kill(rank)

    limit = KEEPALIVE_SECONDS + PROMPT
    when, found = cut_off(hosts, tmp_path, vanish, SCENES, limit)
    assert {scene: [each["rank"] for each in ranks] for scene, ranks in found.items()} == {
        "work": [0, 1, 4, 5],
        "idle": [0, 2],
        "receive": [0, 2],
    }
    assert_cut_off(when, found, limit)


# -- streams that break off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize(
    ("transport", "how", "nbytes", "told"),
    [
        ("unix", "end", 10, "connection closed by peer, 10 bytes into a header"),
        ("tcp", "end", 63, "connection closed by peer, 63 bytes into a header"),
        ("unix", "end", 64 + 1000, "connection closed by peer"),
        ("tcp", "end", 64 + 1000, "connection closed by peer"),
        ("tcp", "reset", 10, "Connection reset by peer"),
        ("tcp", "reset", 64 + 1000, "Connection reset by peer"),
    ],
)
def test_case_12_stream_breaks_off(
    nothing_leaks: None, tmp_path: Path, victim: int, transport: str, how: str, nbytes: int, told: str
) -> None:
    with processes(4, "break_off.py", tmp_path, victim, transport, how, nbytes) as ranks:
        ranks.reports()
        ranks.tell([victim])
        found = ranks.reports()
        ranks.finish()
    broke = found[victim]["broke"]
    others = [each for each in found if each["rank"] != victim]
    for each in others:
        assert_lost(each["outcome"], [victim], "allreduce #2", broke)
        assert_same_later(each["outcome"], each["later"])
        assert each["closing"]["error"] == ""
    # One of them has got the piece, and has told the others.
    assert any(f"in allreduce #2: {told}" in each["outcome"]["text"] for each in others), others
    assert_nothing_left(found)


def reset(hosts: Hosts, index: int) -> None:
    """A firewall that answers whatever comes and goes with a reset, to both sides."""
    hosts.nodes[index].sh("""nft 'table inet cut {
        chain input { type filter hook input priority 0; iifname eth0 meta l4proto tcp reject with tcp reset; };
        chain output { type filter hook output priority 0; oifname eth0 tcp flags & rst == 0 reject with tcp reset; }; }'""")


def test_case_12_reset_by_the_network(hosts: Hosts, tmp_path: Path) -> None:
    sizes = {"work": SCENES["work"], "idle": SCENES["idle"]}
    when, found = cut_off(hosts, tmp_path, lambda _: reset(hosts, 1), sizes, PROMPT)
    assert_cut_off(when, found, PROMPT)
    for ranks in found.values():
        assert any("Connection reset by peer" in each["outcome"]["text"] for each in ranks)


# -- links that are bad -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [{"loss": 0.01}, {"loss": 0.05}, {"overtaken": 0.1}, {"delay": 0.1}, {"loss": 0.02, "overtaken": 0.1, "delay": 0.02}],
    ids=str,
)
def test_case_13_bad_weather(hosts: Hosts, tmp_path: Path, kind: dict[str, float]) -> None:
    turns = 1 if "delay" in kind else 3
    with weather(hosts.nodes, **kind) as network:
        with processes(3, "in_weather.py", tmp_path, "tun0", turns, hosts=hosts.nodes) as ranks:
            found = ranks.reports(timeout=80)
            assert ranks.finish() == [0] * 3
        counts = network.clear()
    for rank, each in enumerate(found):
        assert each["wrong"] == []
        assert each["transports"] == ["self" if other == rank else "tcp" for other in range(3)]
    assert counts["packets"] > 1000
    assert (counts["lost"] > 0, counts["overtaken"] > 0) == ("loss" in kind, "overtaken" in kind)
    assert_nothing_left(found)


@transports
@pytest.mark.parametrize("what", ["1", "65", "buffers"])
def test_case_14_slices_and_tiny_buffers(nothing_leaks: None, tmp_path: Path, transport: str, what: str) -> None:
    with processes(3, "in_slices.py", tmp_path, transport, what) as ranks:
        found = ranks.reports(timeout=80)
        assert ranks.finish() == [0] * 3
    for each in found:
        if what == "buffers":
            assert max(each["buffers"]) < 10_000
        else:
            assert each["kind"] == "Sliced"
    assert_nothing_left(found)


# -- nowhere ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advertise", "why"),
    [([], "no answer"), (["10.77.0.99"], "no answer|EHOSTUNREACH")],
    ids=["packets dropped", "address of nobody"],
)
def test_case_15_black_hole(hosts: Hosts, tmp_path: Path, advertise: list[str], why: str) -> None:
    connect_timeout = 3.0
    if not advertise:
        hosts.everywhere("nft 'table inet hole { chain input { type filter hook input priority 0; iifname eth0 drop; }; }'")
    with processes(6, "astray.py", tmp_path, connect_timeout, *advertise, hosts=hosts.nodes) as ranks:
        ranks.reports()
        ranks.tell()
        found = ranks.reports()
        assert ranks.finish() == [0] * 6
    for each in found:
        outcome = each["outcome"]
        assert outcome["error"] == "RendezvousError", outcome
        assert outcome["ended"] - outcome["began"] < connect_timeout + 1.0
        where = r"rank \d \(node\d\.invalid, pid \d+\) at 10\.77\.0\.\d+:\d+"
        assert re.search(rf"could not connect to {where}: ({why})", outcome["text"])
        assert "a firewall, a wrong interface (GLOOMPI_SOCKET_IFNAME) or a rank that died" in outcome["text"]
        assert each["listening"] == []
    assert len({each["outcome"]["text"] for each in found}) == 1
    assert_nothing_left(found)


# -- what has taken its time meanwhile --------------------------------------------------------------------------------------


def test_case_10_link_down_with_the_keepalive_of_the_library(
    default_keepalive: Callable[[], list[tuple[float, Found]]],
) -> None:
    (when_mesh, mesh), (when_pair, pair) = default_keepalive()
    assert_cut_off(when_mesh, mesh, DEFAULT_SECONDS + PROMPT)
    assert_cut_off(when_pair, pair, DEFAULT_SECONDS + PROMPT, hosts=2)
    assert min(each["outcome"]["ended"] for each in pair["work"]) - when_pair > DEFAULT_SECONDS - 1.0
