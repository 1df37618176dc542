"""Examinations that are made up, for tests of what the doctor concludes from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gloompi.doctor.examination import Examination
from gloompi.doctor.facts import Facts, Port
from gloompi.doctor.measure import Measured
from gloompi.doctor.trial import Outcome

LO = Port("lo", True, ["127.0.0.1/8", "::1/128"], 0, 65536)
GIGA = 1e9


def eth(number: int, host: int, **changes: Any) -> Port:
    return replace(Port(f"eth{number}", True, [f"10.{number}.0.{host}/24", "fe80::1/64"], 0, 1500), **changes)


def examined(hosts: str, **changes: Callable[[int], Any]) -> Examination:
    """A healthy job with one rank for each letter, on the host of that name; `changes` are facts as functions of the rank.

    Bandwidth is 1 GB/s between hosts, 5 GB/s within them; round trips take 50 us.
    """
    ranks = range(len(hosts))
    facts = [
        Facts(
            rank=rank,
            pid=1000 + rank,
            cores=list(range(8)),
            processors=8,
            load=0.25,
            host=f"node-{host}",
            host_id=host,
            launcher="PMI",
            launched_size=len(hosts),
            job={},
            versions={"Python": "3.12.1", "gloompi": "0.1.0"},
            interfaces=[LO, eth(0, ord(host))],
            open_files=4096,
            open_files_hard=-1,
            open_files_used=30,
            somaxconn=4096,
            buffers={},
            settings={},
            no_settings=[],
        )
        for rank, host in enumerate(hosts)
    ]
    facts = [replace(each, **{name: of(each.rank) for name, of in changes.items()}) for each in facts]
    ways = [
        [Outcome("self" if a == b else "unix" if hosts[a] == hosts[b] else "tcp", why="some reason") for b in ranks]
        for a in ranks
    ]
    rates = [[5 * GIGA if hosts[a] == hosts[b] else GIGA for b in ranks] for a in ranks]
    measured = [{b: Measured(50e-6, rates[a][b], 0.0) for b in ranks if b != a} for a in ranks]
    published = [["AF_UNIX", f"10.0.0.{ord(host)}:4000"] for host in hosts]
    return Examination(facts, published, [""] * len(hosts), ways, [False] * len(hosts), measured, [""] * len(hosts))


def measure(exam: Examination, one: int, other: int, **changes: float) -> None:
    """Change what both sides have measured."""
    for a, b in ((one, other), (other, one)):
        exam.measured[a][b] = replace(exam.measured[a][b], **changes)


def disconnect(
    exam: Examination, one: int, other: int, failure: str = "", error: int | None = None, address: str = ""
) -> None:
    """The higher rank has dialed in vain; without an address it had none."""
    exam.outcomes[one][other] = Outcome(failure="it did not connect")
    exam.outcomes[other][one] = Outcome("", address, "", failure, error, bool(address))
    del exam.measured[one][other], exam.measured[other][one]
