"""What the doctor concludes from what it has seen: findings, slowness, tables, all on examinations that are made up."""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from examined import GIGA, LO, disconnect, eth, examined, measure
from rich.console import Console

from gloompi.doctor.examination import Examination
from gloompi.doctor.facts import Port
from gloompi.doctor.findings import Finding, Severity, diagnose
from gloompi.doctor.measure import rounds
from gloompi.doctor.slowness import suspects
from gloompi.doctor.text import _ranges, print_examination
from gloompi.doctor.trial import Outcome
from gloompi.errors import RendezvousError


def texts(exam: Examination, severity: Severity = Severity.WARNING) -> list[str]:
    return [finding.text for finding in diagnose(exam) if finding.severity >= severity]


@pytest.mark.parametrize("hosts", ["a", "aa", "ab", "aabbcc", "aaabbc", "a" * 8, "abcd" * 5])
def test_nothing_is_wrong(hosts: str) -> None:
    assert diagnose(examined(hosts)) == []
    exam = examined(hosts)
    exam.measured, exam.trouble = [], []  # --no-measure
    assert diagnose(exam) == []


def test_order_of_findings() -> None:
    exam = examined("aab", cores=lambda _: [0], somaxconn=lambda _: 1, open_files=lambda _: 40)
    assert [finding.severity.name for finding in diagnose(exam)] == ["ERROR"] * 2 + ["WARNING"] * 2 + ["NOTE"]


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        ("too few file descriptors: 30 of 40 are in use", "ulimit -n 4096 in the job script"),
        ("no free port in 5000-5001", "widen GLOOMPI_PORT_RANGE to at least twice the ranks of a host"),
        (
            "no interface that is up matches GLOOMPI_SOCKET_IFNAME='ib0'",
            "set GLOOMPI_SOCKET_IFNAME to interfaces that every host has (eth0), or to a network such as 10.0.0.0/8",
        ),
        (
            "Device(tls=True) (GLOOMPI_TLS=1) needs the package cryptography: pip install 'gloompi[tls]'",
            "install it on node-b, or set GLOOMPI_TLS=0 on all ranks",
        ),
        ("GLOOMPI_PORT_RANGE must be low:high, not 'many'", ""),
        ("cannot listen on 10.0.0.4 (eth0): [Errno 105] No buffer space available", ""),
    ],
)
def test_rank_that_cannot_listen(failure: str, advice: str) -> None:
    exam = examined("aabbb")
    for rank in (2, 3, 4):
        exam.failures[rank] = failure
        for other in set(range(5)) - {rank}:
            exam.outcomes[rank][other] = exam.outcomes[other][rank] = Outcome(failure=f"rank {rank} does not listen")
    text = f"rank 2 (node-b) cannot listen (nor can rank 3, 4): {failure}"
    assert diagnose(exam) == [Finding(Severity.ERROR, text, advice)]


FILTERED = (
    "filtered: a firewall drops the packets (open a range and set GLOOMPI_PORT_RANGE=low:high), or the address is of a "
    "network that the other host cannot reach (GLOOMPI_SOCKET_IFNAME, GLOOMPI_ADVERTISE behind NAT)"
)
REFUSED = (
    "a firewall rejects the port: open a range and set GLOOMPI_PORT_RANGE=low:high, or take another interface "
    "(GLOOMPI_SOCKET_IFNAME)"
)
UNREACHABLE = "there is no route, or a firewall says so: take an interface that all hosts share (GLOOMPI_SOCKET_IFNAME)"
GIVE_BOTH = "give both an interface of one network (GLOOMPI_SOCKET_IFNAME), or the same address family"
DEBUG = "run with GLOOMPI_LOG_LEVEL=debug to see every attempt"


@pytest.mark.parametrize(
    ("failure", "error", "reason", "advice"),
    [
        ("no answer within 4.0 s", None, "timed out (no answer within 4.0 s)", FILTERED),
        ("no answer yet", None, "timed out (no answer yet)", FILTERED),
        ("ECONNREFUSED", errno.ECONNREFUSED, "refused (ECONNREFUSED)", REFUSED),
        ("EHOSTUNREACH", errno.EHOSTUNREACH, "unreachable (EHOSTUNREACH)", UNREACHABLE),
        ("it closed the connection during the handshake", None, "it closed the connection during the handshake", DEBUG),
        ("[Errno 24] Too many open files", None, "[Errno 24] Too many open files", DEBUG),
        ("no address of one can be reached", None, "no address of one can be reached", GIVE_BOTH),
    ],
)
def test_pair_that_is_not_connected(failure: str, error: int | None, reason: str, advice: str) -> None:
    exam = examined("aabb")
    address = "" if advice is GIVE_BOTH else "10.0.0.1:4000"
    disconnect(exam, 1, 2, failure, error, address)
    text = f"rank 2 (node-b) could not connect to rank 1 (node-a){f' at {address}' if address else ''}: {reason}"
    assert diagnose(exam) == [Finding(Severity.ERROR, text, advice)]


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


def test_measuring_that_ended_early() -> None:
    exam = examined("abc")
    exam.trouble = ["", "lost rank 2 (node-c, pid 1002)", "lost rank 1"]  # rank 2 stopped because rank 1 did
    exam.silence = RendezvousError("rank 2 of 3 has not got through")
    assert texts(exam) == [
        "some rank did not say what it measured, so this is only what rank 0 knows: rank 2 of 3 has not got through",
        "rank 1 (node-b) stopped measuring: lost rank 2 (node-c, pid 1002)",
    ]


# -- limits, interfaces, software, clocks ---------------------------------------------------------------------------------


W, E = Severity.WARNING, Severity.ERROR


@pytest.mark.parametrize(
    ("limit", "hard", "severity", "possible"),
    [(-1, -1, None, 0), (1024, 4096, None, 0), (1023, 4096, W, 977), (50, -1, W, 4), (49, -1, E, 3), (20, 4095, E, 0)],
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
    text = "node-a lets 1 connections wait at a listening socket (somaxconn), there are 2 ranks: connecting may take seconds"
    assert texts(examined("aa", somaxconn=lambda _: somaxconn)) == [f"{text} longer"] * short


ETH1, DOWN, BARE = eth(1, 1), eth(1, 1, up=False), eth(1, 1, addresses=["fe80::1/64"])
DOCKER = Port("docker0", True, ["172.17.0.1/16"], 0, 1500)


@pytest.mark.parametrize(
    ("ports", "states"),
    [
        ([[ETH1], [ETH1], [ETH1], [ETH1]], ""),
        ([[ETH1], [], [ETH1], [ETH1]], "missing on node-b; 3 other hosts have it"),
        ([[ETH1], [DOWN], [ETH1], [ETH1]], "down on node-b; 3 other hosts have it"),
        ([[ETH1], [BARE], [ETH1], [ETH1]], "without address on node-b; 3 other hosts have it"),
        ([[ETH1], [], [DOWN], [ETH1]], ""),  # two of four: who is right?
        ([[], [DOCKER], [DOCKER], [DOCKER]], ""),  # leads to no other host
    ],
)
def test_interfaces(ports: list[list[Port]], states: str) -> None:
    exam = examined("abcd", interfaces=lambda rank: [LO, eth(0, rank), *ports[rank]])
    assert texts(exam) == [f"interface eth1 is {states}"] * bool(states)


def test_versions() -> None:
    versions = [{"gloompi": "0.1", "numpy": "2.1"}] * 3 + [{"gloompi": "0.2"}]
    assert texts(examined("aabb", versions=lambda rank: versions[rank])) == [
        "the ranks have different versions of gloompi: 0.1, 0.2; 0.2 on rank 3 (node-b)",
        "the ranks have different versions of numpy: 2.1, missing; missing on rank 3 (node-b)",
    ]


def test_launcher_of_more_processes() -> None:
    assert texts(examined("a", launched_size=lambda _: 4)) == ["PMI has started 4 processes, but this is a job of 1 rank"]


@pytest.mark.parametrize(("bound", "crowded"), [([[0], [1]], False), ([[0], [0]], True), ([[0, 1], [0, 1]], False)])
def test_more_ranks_than_cores(bound: list[list[int]], crowded: bool) -> None:
    text = "node-a has 2 ranks on 1 core: they wait for each other"
    assert texts(examined("aa", cores=lambda rank: bound[rank]), Severity.NOTE) == [text] * crowded


@pytest.mark.parametrize(("clock", "says"), [(1.0, ""), (1.01, "1.0 s ahead of"), (-90.0, "90.0 s behind"), (-1.0, "")])
def test_clocks(clock: float, says: str) -> None:
    exam = examined("abb")
    for rank in (1, 2):
        exam.measured[0][rank] = replace(exam.measured[0][rank], clock=clock)
    assert texts(exam) == [f"the clock of node-b is {says} that of node-a"] * bool(says)


# -- speed ----------------------------------------------------------------------------------------------------------------


def slow(hosts: str, *pairs: tuple[int, int], claim: int = 0, **changes: float) -> Examination:
    """Some pairs are slower; the interfaces in use claim so many Mbit/s, the others little."""
    exam = examined(hosts, interfaces=lambda rank: [LO, eth(0, ord(hosts[rank]), speed=claim), eth(1, 1, speed=10)])
    for one, other in pairs:
        measure(exam, one, other, **changes)
    return exam


TO_C = [(one, other) for one in range(4) for other in (4, 5)]
LINK = "the link node-a - node-b is slow: "


@pytest.mark.parametrize(
    ("exam", "found"),
    [
        (
            slow("aabbcc", *TO_C, bandwidth=0.01 * GIGA),
            "host node-c is slow: 10 MB/s at best to every other host, other hosts have 1000 MB/s between them; its round "
            "trips take 50 us",
        ),
        (slow("abc", (0, 1), bandwidth=0.25 * GIGA), ""),
        (slow("abc", (0, 1), bandwidth=0.249 * GIGA), LINK + "249 MB/s, the best link has 1000 MB/s"),
        (slow("abc", (0, 1), seconds=1.04e-3), ""),
        (slow("abc", (0, 1), seconds=1.06e-3), LINK + "a round trip takes 1060 us, 50 us on the fastest link"),
        (slow("ab", (0, 1), claim=1000, bandwidth=26e6), ""),
        (slow("ab", (0, 1), claim=1000, bandwidth=24e6), LINK + "24 MB/s over interfaces that claim 125 MB/s or more"),
        (slow("ab", (0, 1), claim=100_000, bandwidth=251e6), ""),  # one stream cannot fill it
        (slow("ab", (0, 1), claim=100_000, bandwidth=249e6), LINK + "249 MB/s over interfaces that claim 1250 MB/s or more"),
        (slow("ab", (0, 1), bandwidth=1e6), ""),  # nothing to compare it with
    ],
)
def test_slow_hosts_and_links(exam: Examination, found: str) -> None:
    assert texts(exam) == [found] * bool(found)


def test_link_that_is_slow_in_one_direction() -> None:
    exam = examined("abc")
    exam.measured[1][0] = replace(exam.measured[1][0], bandwidth=0.1 * GIGA)
    assert texts(exam) == [LINK + "100 MB/s, the best link has 1000 MB/s"]


@pytest.mark.parametrize(
    ("hosts", "rate", "usual"),
    [("aaa", 1.24, 5000), ("aaa", 1.26, 0), ("aa", 0.1, 0), ("abab", 0.249, 1000), ("abab", 0.251, 0), ("abb", 0.1, 0)],
)
def test_slow_pair(hosts: str, rate: float, usual: int) -> None:
    exam = slow(hosts, (0, 1), bandwidth=rate * GIGA)
    assert suspects(exam) == [(0, 1)] * bool(usual)
    text = (
        f"the pair {exam.who(0)} - {exam.who(1)} is slow: {rate * 1e3:.0f} MB/s, other pairs of its hosts have {usual} MB/s"
    )
    assert [found for found in texts(exam) if "pair" in found] == [text] * bool(usual)
    exam.facts[:] = [replace(each, cores=[0]) for each in exam.facts]
    assert suspects(exam) == []  # crowded: these are the scheduler's times


def test_variables_that_are_no_settings() -> None:
    text = "GLOOMPI_TRANPORT is no setting of gloompi and has no effect; did you mean GLOOMPI_TRANSPORT?"
    assert diagnose(examined("aabb", no_settings=lambda _: [text])) == [Finding(Severity.WARNING, text)]
    some = examined("aabb", no_settings=lambda rank: [text] * (rank in (1, 3)))
    assert diagnose(some) == [Finding(Severity.WARNING, f"{text} (set for rank 1, 3)")]


def test_ranks_that_do_not_agree_on_encryption() -> None:
    exam = examined("aabb")
    exam.encrypts[:] = [True] * 4
    assert diagnose(exam) == []
    exam.encrypts[2] = False
    assert texts(exam) == [
        "rank 2 (node-b) does not encrypt and rank 0 (node-a) does: no program can connect them, and here they were "
        "connected without TLS"
    ]
    exam.failures[2] = "no free port in 5000-5001"  # so that nobody knows what it wants
    assert not any("encrypt" in text for text in texts(exam))


# -- time for the job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "load", "processors", "says"),
    [
        ("aa", None, 8, ""),
        ("aa", 6.15, 8, ""),  # the ranks have cores of their own
        ("aa", 6.3, 8, "6.1"),
        ("a" * 8, 1.7, 8, ""),  # less than one process more
        ("a" * 8, 1.85, 8, "1.1"),  # the ranks themselves have added something
        ("a", 1.05, 1, ""),
        ("a", 1.35, 1, "1.2"),
    ],
)
def test_busy_host(hosts: str, load: float | None, processors: int, says: str) -> None:
    exam = examined(hosts, load=lambda _: load, processors=lambda _: processors)
    cores = "1 core" if processors == 1 else f"{processors} cores"
    text = f"node-a is busy: {says} processes besides this job's ranks want to run on its {cores} (load average of the last "
    text += "minute)"
    advice = "see what it is (top); what is measured beside it is worse than it need be"
    assert diagnose(exam) == [Finding(Severity.NOTE, text, advice)] * bool(says)


@pytest.mark.parametrize(
    ("seconds", "load", "cores", "says"),
    [
        (0.99e-3, 0.1, 8, ""),
        (6.3e-3, 0.1, 8, "6300 us at best, less than 1000 us are usual"),
        (6.3e-3, 9.3, 8, "6300 us at best, less than 1000 us are usual; node-a is busy with something else (load 9.1)"),
        (6.3e-3, 0.1, 1, ""),  # they wait for each other
        (6.3e-3, 9.3, 1, "6300 us at best, less than 1000 us are usual; node-a is busy with something else (load 9.1)"),
    ],
)
def test_slow_round_trips_within_a_host(seconds: float, load: float, cores: int, says: str) -> None:
    exam = examined("aa", load=lambda _: load, cores=lambda _: list(range(cores)))
    measure(exam, 0, 1, seconds=seconds)
    assert texts(exam) == [f"round trips within node-a are slow: {says}"] * bool(says)


def test_slow_round_trips_within_a_host_are_those_of_its_best_pair() -> None:
    exam = examined("aaa")
    measure(exam, 0, 1, seconds=6.3e-3)
    measure(exam, 0, 2, seconds=6.3e-3)
    assert texts(exam) == []
    measure(exam, 1, 2, seconds=2e-3)
    assert texts(exam) == ["round trips within node-a are slow: 2000 us at best, less than 1000 us are usual"]


@pytest.mark.parametrize(
    ("seconds", "why", "load", "says"),
    [
        (4.9e-3, "shared subnet 10.0.0.0/24", 0.1, ""),
        (6e-3, "routed from 10.0.0.97", 0.1, ""),  # who knows how far
        (6e-3, "shared subnet 10.0.0.0/24", 0.1, "6000 us at best, less than 5000 us are usual"),
        (
            6e-3,
            "shared subnet 10.0.0.0/24",
            9.1,
            "6000 us at best, less than 5000 us are usual; node-a is busy with something else (load 9.0); node-b is busy "
            "with something else (load 9.0)",
        ),
    ],
)
def test_slow_round_trips_in_a_network(seconds: float, why: str, load: float, says: str) -> None:
    exam = examined("ab", load=lambda _: load)
    measure(exam, 0, 1, seconds=seconds)
    for one, other in ((0, 1), (1, 0)):
        exam.outcomes[one][other] = replace(exam.outcomes[one][other], why=why)
    assert texts(exam) == [LINK + says] * bool(says)


# -- the rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 13])
def test_rounds(size: int) -> None:
    found = [pairs for pairs in rounds(size) if pairs]
    assert len(found) == (size - 1 + size % 2) * (size > 1)
    for pairs in found:
        assert len({rank for pair in pairs for rank in pair}) == 2 * len(pairs)
    assert sorted(tuple(sorted(pair)) for pairs in found for pair in pairs) == list(combinations(range(size), 2))


def test_hosts_with_one_name_are_told_apart() -> None:
    exam = examined("abca", host=lambda rank: "box" if rank != 1 else "other")
    assert exam.hosts == ["box#0", "other", "box#2"]
    assert exam.who(3) == "rank 3 (box#0)"


def printed(exam: Examination) -> str:
    out = Console(file=io.StringIO(), width=140, force_terminal=False, soft_wrap=True)
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
    assert re.search(r"^error rank \d+ .* so with 16 pairs of node-a and node-e: 0-4, .* and 10 more$", text, re.MULTILINE)
    assert "no room for a matrix of 20 hosts" in printed(examined("abcdefghijklmnopqrst"))


def test_tables_say_whose_figures_they_are() -> None:
    exam = examined("aabb", load=lambda rank: 0.25 + rank)
    measure(exam, 0, 2, seconds=10e-6)
    measure(exam, 0, 3, bandwidth=2 * GIGA)
    text = printed(exam)
    assert "┃ best round trip ┃ best bandwidth ┃" in text
    assert "│ node-a │ node-b │ 4     │ tcp       │ some reason │           10 us │      2000 MB/s │" in text
    assert "\nMB/s from rank to rank, round trip in us\n" in text
    assert "\nload average of the last minute: 0.25 to 2.25 (node-b)\n" in text
    assert re.search(r"│ node-b +│ 2-3 +│ 8 +│ 2\.25 │", text)
    assert "\nthe best pair's MB/s from host to host, round trip in us\n" in printed(examined("abcde" * 4))
    assert "\nload average of the last minute: unknown\n" in printed(examined("ab", load=lambda _: None))


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "nothing is wrong"),
        ({"cores": lambda _: [0]}, "nothing is wrong but what the notes say"),
        ({"open_files": lambda _: 40}, "        ulimit -n 4096 in the job script"),
    ],
)
def test_last_line(changes: dict[str, Callable[[int], Any]], last: str) -> None:
    assert printed(examined("aa", **changes)).splitlines()[-1] == last


def test_ranges() -> None:
    assert [_ranges(ranks) for ranks in ([3], [0, 1], [0, 1, 2, 8], [0, 2, 4, 5])] == ["3", "0-1", "0-2, 8", "0, 2, 4-5"]
