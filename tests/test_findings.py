"""What the doctor concludes from what it has seen: findings, slowness, tables, all on examinations that are made up."""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
from examined import GIGA, LO, disconnect, eth, examined, measure

from gloompi.doctor.examination import Examination
from gloompi.doctor.facts import Port
from gloompi.doctor.findings import Finding, Severity, diagnose
from gloompi.doctor.measure import rounds
from gloompi.doctor.slowness import suspects
from gloompi.doctor.trial import Outcome
from gloompi.errors import RendezvousError


def texts(exam: Examination, severity: Severity = Severity.WARNING) -> list[str]:
    return [finding.text for finding in diagnose(exam) if finding.severity >= severity]


def only(exam: Examination) -> Finding:
    (finding,) = diagnose(exam)
    return finding


@pytest.mark.parametrize("hosts", ["a", "aa", "ab", "aabbcc", "aaabbc", "a" * 8, "abcd" * 5])
def test_nothing_is_wrong(hosts: str) -> None:
    assert diagnose(examined(hosts)) == []
    exam = examined(hosts)
    exam.measured, exam.trouble = [], []  # --no-measure
    assert diagnose(exam) == []


def test_order_of_findings() -> None:
    exam = examined("ab", cores=lambda _: [0], somaxconn=lambda _: 1, open_files=lambda _: 40)
    exam.facts[1] = replace(exam.facts[1], cores=[])
    assert [finding.severity.name for finding in diagnose(exam)] == ["ERROR"] * 2 + ["WARNING"] * 2 + ["NOTE"]


# -- listening ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        ("too few file descriptors: 30 of 40 are in use", "ulimit -n 4096 in the job script"),
        ("no free port in 5000-5001", "widen GLOOMPI_PORT_RANGE to at least twice the ranks of a host"),
        (
            "no interface that is up matches GLOOMPI_SOCKET_IFNAME='ib0'",
            "set GLOOMPI_SOCKET_IFNAME to interfaces that every host has (eth0), or to a network such as 10.0.0.0/8",
        ),
    ],
)
def test_rank_that_cannot_listen(failure: str, advice: str) -> None:
    exam = examined("aabbb")
    for rank in (2, 3, 4):
        exam.failures[rank] = failure
        for other in set(range(5)) - {rank}:
            exam.outcomes[rank][other] = exam.outcomes[other][rank] = Outcome(failure=f"rank {rank} does not listen")
    text = f"rank 2 (node-b) cannot listen (nor can rank 3, 4): {failure}"
    assert only(exam) == Finding(Severity.ERROR, text, advice)


def test_ranks_of_several_hosts_that_cannot_listen() -> None:
    exam = examined("ab")
    exam.failures[:] = ["no interface", "no interface"]
    assert texts(exam) == ["rank 0 (node-a) cannot listen: no interface", "rank 1 (node-b) cannot listen: no interface"]


# -- connections ----------------------------------------------------------------------------------------------------------

FILTERED = (
    "filtered: a firewall drops the packets (open a range and set GLOOMPI_PORT_RANGE=low:high), or the address is of a network "
    "that the other host cannot reach (GLOOMPI_SOCKET_IFNAME, GLOOMPI_ADVERTISE behind NAT)"
)
REFUSED = (
    "a firewall rejects the port: open a range and set GLOOMPI_PORT_RANGE=low:high, or take another interface "
    "(GLOOMPI_SOCKET_IFNAME)"
)
UNREACHABLE = "there is no route, or a firewall says so: take an interface that all hosts share (GLOOMPI_SOCKET_IFNAME)"
DEBUG = "run with GLOOMPI_LOG_LEVEL=debug to see every attempt"


@pytest.mark.parametrize(
    ("failure", "error", "reason", "advice"),
    [
        ("no answer within 4.0 s", None, "timed out (no answer within 4.0 s)", FILTERED),
        ("no answer yet", None, "timed out (no answer yet)", FILTERED),
        ("ECONNREFUSED", errno.ECONNREFUSED, "refused (ECONNREFUSED)", REFUSED),
        ("EHOSTUNREACH", errno.EHOSTUNREACH, "unreachable (EHOSTUNREACH)", UNREACHABLE),
        ("ENETUNREACH", errno.ENETUNREACH, "unreachable (ENETUNREACH)", UNREACHABLE),
        ("it closed the connection during the handshake", None, "it closed the connection during the handshake", DEBUG),
        ("[Errno 24] Too many open files", None, "[Errno 24] Too many open files", DEBUG),
    ],
)
def test_pair_that_is_not_connected(failure: str, error: int | None, reason: str, advice: str) -> None:
    exam = examined("aabb")
    disconnect(exam, 1, 2, failure, error, "10.0.0.1:4000")
    text = f"rank 2 (node-b) could not connect to rank 1 (node-a) at 10.0.0.1:4000: {reason}"
    assert only(exam) == Finding(Severity.ERROR, text, advice)


def test_pairs_without_a_way() -> None:
    exam = examined("ab")
    disconnect(exam, 0, 1, "no address of one can be reached from an address of the other")
    finding = only(exam)
    assert finding.text == (
        "rank 1 (node-b) could not connect to rank 0 (node-a): no address of one can be reached from an address of the other"
    )
    assert finding.advice == "give both an interface of one network (GLOOMPI_SOCKET_IFNAME), or the same address family"


def test_pair_that_is_connected_on_one_side() -> None:
    exam = examined("ab")
    exam.outcomes[0][1] = Outcome(failure="it did not connect")
    assert texts(exam) == ["rank 1 (node-b) could not connect to rank 0 (node-a): it was connected on one side only"]


def test_pairs_with_one_reason_are_one_finding() -> None:
    exam = examined("aaaabbbbc")
    for one in range(4):
        for other in range(4, 8):
            disconnect(exam, one, other, "ECONNREFUSED", errno.ECONNREFUSED, f"10.0.0.1:{4000 + one}")
    disconnect(exam, 0, 8, "ECONNREFUSED", errno.ECONNREFUSED, "10.0.0.1:4000")
    disconnect(exam, 1, 8, "EHOSTUNREACH", errno.EHOSTUNREACH, "10.0.0.1:4001")
    disconnect(exam, 0, 1, "ECONNREFUSED", errno.ECONNREFUSED, "127.0.0.1:4000")
    disconnect(exam, 2, 3, "ECONNREFUSED", errno.ECONNREFUSED, "127.0.0.1:4002")
    assert texts(exam) == [
        "rank 1 (node-a) could not connect to rank 0 (node-a) at 127.0.0.1:4000: refused (ECONNREFUSED); so with 2 pairs of "
        "node-a: 0-1, 2-3",
        "rank 4 (node-b) could not connect to rank 0 (node-a) at 10.0.0.1:4000: refused (ECONNREFUSED); so with 16 pairs of "
        "node-a and node-b: 0-4, 0-5, 0-6, 0-7, 1-4, 1-5 and 10 more",
        "rank 8 (node-c) could not connect to rank 0 (node-a) at 10.0.0.1:4000: refused (ECONNREFUSED)",
        "rank 8 (node-c) could not connect to rank 1 (node-a) at 10.0.0.1:4001: unreachable (EHOSTUNREACH)",
    ]


def test_trouble_is_told_once() -> None:
    exam = examined("abc")
    exam.trouble = ["", "lost rank 2 (node-c, pid 1002)", "lost rank 1"]
    assert texts(exam) == ["rank 1 (node-b) stopped measuring: lost rank 2 (node-c, pid 1002)"]


def test_silence() -> None:
    exam = examined("ab")
    exam.silence = RendezvousError("rank 1 of 2 has not got through")
    assert texts(exam) == [
        "some rank did not say what it measured, so this is only what rank 0 knows: rank 1 of 2 has not got through"
    ]


# -- limits, interfaces, software, clocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "hard", "severity", "possible"),
    [
        (-1, -1, None, 0),
        (1024, 4096, None, 0),
        (1023, 4096, Severity.WARNING, 977),
        (50, -1, Severity.WARNING, 4),
        (49, -1, Severity.ERROR, 3),
        (20, 4095, Severity.ERROR, 0),
    ],
)
def test_open_files(limit: int, hard: int, severity: Severity | None, possible: int) -> None:
    exam = examined("aabb", open_files=lambda rank: limit if rank == 3 else 4096, open_files_hard=lambda _: hard)
    advice = "ulimit -n 4096 in the job script"
    if hard == 4095:
        advice += ", once the administrators have raised the hard limit, which is 4095"
    text = f"rank 3 (node-b) may open {limit} files and has 30 open: enough for {possible} ranks, there are 4"
    assert diagnose(exam) == ([] if severity is None else [Finding(severity, text, advice)])


@pytest.mark.parametrize(("somaxconn", "short"), [(0, False), (1, True), (2, False)])
def test_somaxconn(somaxconn: int, short: bool) -> None:
    text = "node-a lets 1 connections wait at a listening socket (somaxconn), there are 2 ranks: connecting may take seconds longer"
    assert texts(examined("aa", somaxconn=lambda _: somaxconn)) == [text] * short


DOWN, BARE = eth(1, 1, up=False), eth(1, 1, addresses=["fe80::1/64"])


@pytest.mark.parametrize(
    ("others", "states"),
    [
        ([eth(1, 1)] * 3, ""),
        ([[], eth(1, 1), eth(1, 1)], "missing on node-b; 3 other hosts have it"),
        ([DOWN, eth(1, 1), eth(1, 1)], "down on node-b; 3 other hosts have it"),
        ([BARE, eth(1, 1), eth(1, 1)], "without address on node-b; 3 other hosts have it"),
        ([[], DOWN, eth(1, 1)], ""),  # two of four: who is right?
        ([[], [], []], ""),
    ],
)
def test_interfaces(others: list[Port | list[Port]], states: str) -> None:
    ports = [eth(1, 1), *others]
    exam = examined("abcd", interfaces=lambda rank: [LO, eth(0, rank), *(ports[rank] and [ports[rank]])])
    assert texts(exam) == [f"interface eth1 is {states}"] * bool(states)


def test_interfaces_of_containers_are_not_compared() -> None:
    docker = Port("docker0", True, ["172.17.0.1/16"], 0, 1500)
    assert texts(examined("abc", interfaces=lambda rank: [LO, eth(0, rank), *[docker] * (rank > 0)])) == []


def test_versions() -> None:
    exam = examined(
        "aabb",
        versions=lambda rank: {"numpy": "2.1"} | {"gloompi": "0.2" if rank == 3 else "0.1"} | {"MPI": "x"} * (rank < 3),
    )
    assert texts(exam) == [
        "the ranks have different versions of MPI: missing, x; missing on rank 3 (node-b)",
        "the ranks have different versions of gloompi: 0.1, 0.2; 0.2 on rank 3 (node-b)",
    ]


def test_launcher_of_more_processes() -> None:
    assert texts(examined("a", launched_size=lambda _: 4)) == ["PMI has started 4 processes, but this is a job of 1 rank"]


@pytest.mark.parametrize(("bound", "crowded"), [([[0], [1]], False), ([[0], [0]], True), ([[0, 1], [0, 1]], False)])
def test_more_ranks_than_cores(bound: list[list[int]], crowded: bool) -> None:
    text = "node-a has 2 ranks on 1 cores: they wait for each other"
    assert texts(examined("aa", cores=lambda rank: bound[rank]), Severity.NOTE) == [text] * crowded


@pytest.mark.parametrize(("clock", "says"), [(1.0, ""), (1.01, "1.0 s ahead of"), (-90.0, "90.0 s behind"), (-1.0, "")])
def test_clocks(clock: float, says: str) -> None:
    exam = examined("abb")
    for rank in (1, 2):
        exam.measured[0][rank] = replace(exam.measured[0][rank], clock=clock)
    assert texts(exam) == [f"the clock of node-b is {says} that of node-a"] * bool(says)


# -- speed ----------------------------------------------------------------------------------------------------------------


def slow(hosts: str, *pairs: tuple[int, int], **changes: float) -> Examination:
    exam = examined(hosts)
    for one, other in pairs:
        measure(exam, one, other, **changes)
    return exam


def test_slow_host() -> None:
    exam = slow("aabbcc", *((one, other) for one in range(4) for other in (4, 5)), bandwidth=0.01 * GIGA)
    assert texts(exam) == [
        "host node-c is slow: 10 MB/s at best to every other host, other hosts have 1000 MB/s between them; its round trips take 50 us"
    ]


@pytest.mark.parametrize(("bandwidth", "is_slow"), [(0.25, False), (0.249, True)])
def test_slow_link(bandwidth: float, is_slow: bool) -> None:
    text = "the link node-a - node-b is slow: 249 MB/s, the best link has 1000 MB/s"
    assert texts(slow("abc", (0, 1), bandwidth=bandwidth * GIGA)) == [text] * is_slow


def test_link_that_is_slow_in_one_direction() -> None:
    exam = examined("abc")
    exam.measured[1][0] = replace(exam.measured[1][0], bandwidth=0.1 * GIGA)
    assert texts(exam) == ["the link node-a - node-b is slow: 100 MB/s, the best link has 1000 MB/s"]


@pytest.mark.parametrize(("milliseconds", "is_slow"), [(1.05, False), (1.06, True)])
def test_slow_round_trip(milliseconds: float, is_slow: bool) -> None:
    text = "the link node-a - node-b is slow: a round trip takes 1060 us, 50 us on the fastest link"
    assert texts(slow("abc", (0, 1), seconds=milliseconds * 1e-3)) == [text] * is_slow


@pytest.mark.parametrize(
    ("claim", "rate", "claimed"), [(1000, 26, ""), (1000, 24, "125"), (100_000, 251, ""), (100_000, 249, "1250"), (0, 1, "")]
)
def test_interface_that_claims_more(claim: int, rate: int, claimed: str) -> None:
    exam = slow("ab", (0, 1), bandwidth=rate * 1e6)
    for rank in (0, 1):
        exam.facts[rank] = replace(
            exam.facts[rank], interfaces=[LO, eth(0, ord("ab"[rank]), speed=claim), eth(1, 1, speed=10)]
        )
    text = f"the link node-a - node-b is slow: {rate} MB/s over interfaces that claim {claimed} MB/s or more"
    assert texts(exam) == [text] * bool(claimed)


@pytest.mark.parametrize(
    ("hosts", "rate", "found"), [("aaa", 1.24, [(0, 1)]), ("aaa", 1.26, []), ("aa", 0.1, []), ("aabb", 0.1, [])]
)
def test_slow_pair_of_a_host(hosts: str, rate: float, found: list[tuple[int, int]]) -> None:
    exam = slow(hosts, (0, 1), bandwidth=rate * GIGA)
    assert suspects(exam) == found
    text = "the pair rank 0 (node-a) - rank 1 (node-a) is slow: 1240 MB/s, other pairs of its hosts have 5000 MB/s"
    assert texts(exam) == [text] * bool(found)
    exam.facts[:] = [replace(each, cores=[0]) for each in exam.facts]
    assert suspects(exam) == []  # crowded


def test_slow_pair_of_two_hosts() -> None:
    assert suspects(slow("aabb", (1, 2), bandwidth=0.2 * GIGA)) == [(1, 2)]


# -- the rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 13])
def test_rounds(size: int) -> None:
    found = list(rounds(size))
    assert len(found) == (0 if size == 1 else size - 1 + size % 2)
    for pairs in found:
        assert len({rank for pair in pairs for rank in pair}) == 2 * len(pairs)
    assert sorted(tuple(sorted(pair)) for pairs in found for pair in pairs) == list(combinations(range(size), 2))


def test_hosts_with_one_name_are_told_apart() -> None:
    exam = examined("abca", host=lambda rank: "box" if rank != 1 else "other")
    assert exam.hosts == ["box#0", "other", "box#2"]
    assert exam.who(3) == "rank 3 (box#0)"


def printed(exam: Examination, width: int = 140) -> str:
    pytest.importorskip("rich", reason="needs rich: pip install 'gloompi[doctor]'")
    from rich.console import Console

    from gloompi.doctor.text import print_examination

    out = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_examination(exam, diagnose(exam), out)
    return out.file.getvalue()


def test_matrix_of_hosts() -> None:
    exam = examined("abcde" * 4)
    for one, other in exam.pairs():
        if {exam.host(one), exam.host(other)} == {0, 4}:
            disconnect(exam, one, other, "ECONNREFUSED", errno.ECONNREFUSED, "10.0.0.1:4000")
    text = printed(exam)
    assert "MB/s from host to host, round trip in us" in text
    assert "│ node-a #0 │ 5000 │ 1000 │ 1000 │ 1000 │ none │\n│           │   50 │   50 │   50 │   50 │      │\n" in text
    assert "│ node-a │ 0, 5, 10, 15 │ 8 " in text
    assert "│ node-a │ node-e │ 0 of 16 │ " in text
    assert (
        re.search(
            "^error rank 4 .* so with 16 pairs of node-a and node-e: 0-4, 0-9, 0-14, 0-19, 5-9, .* and 10 more$", text, re.M
        )
        is None
    )
    assert "no room for a matrix of 20 hosts" in printed(examined("abcdefghijklmnopqrst"))


def test_ranges() -> None:
    pytest.importorskip("rich", reason="needs rich: pip install 'gloompi[doctor]'")
    from gloompi.doctor.text import _ranges

    assert [_ranges(ranks) for ranks in ([3], [0, 1], [0, 1, 2, 8], [0, 2, 4, 5])] == ["3", "0-1", "0-2, 8", "0, 2, 4-5"]
