"""`Context.shrink` on ranks that are processes of their own, see `jobs/survivors.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from launch import JOBS, reports

MEBIBYTE = 1024 * 1024
PROMPT = 2.0

_needs_cryptography = pytest.mark.skipif(importlib.util.find_spec("cryptography") is None, reason="needs cryptography")


def everywhere(names: str, *cases: Any) -> pytest.MarkDecorator:
    """All cases over AF_UNIX, one of them over each other transport: what differs there is not who dies, and when."""
    among = [case if isinstance(case, tuple) else (case,) for case in cases]
    return pytest.mark.parametrize(
        f"{names},transport" if names else "transport",
        [
            *[pytest.param(*case, "unix", id="-".join(map(str, (*case, "unix")))) for case in among],
            pytest.param(*among[-1], "tcp", id="-".join(map(str, (*among[-1], "tcp")))),
            pytest.param(*among[0], "tls", marks=_needs_cryptography, id="-".join(map(str, (*among[0], "tls")))),
        ],
    )


def _run(
    program: str, size: int, transport: str = "unix", *, timeout: float = 100.0, **options: Any
) -> list[dict[str, Any]]:
    """What the ranks have reported; nothing has failed on any of them, and nothing is left behind."""
    options.update(program=program, size=size, transport=transport)
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    process = subprocess.Popen(
        [sys.executable, str(JOBS / "survivors.py"), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert not err, err
    assert not process.returncode
    ranks = reports(size, out)
    assert all(ranks), ranks
    for found in ranks:
        assert found.get("remains", {"files": [], "threads": [], "children": []}) == {
            "files": [],
            "threads": [],
            "children": [],
        }
    return ranks


def _survivors(ranks: list[dict[str, Any]], *victims: int) -> list[dict[str, Any]]:
    assert {rank for rank, found in enumerate(ranks) if "killed" in found} == set(victims)
    return [found for rank, found in enumerate(ranks) if rank not in victims]


def _assert_shrunk(ranks: list[dict[str, Any]], *victims: int) -> None:
    """All survivors have ended together, each error was prompt, and so was each shrinking."""
    left = [rank for rank in range(len(ranks)) if rank not in victims]
    deaths = [ranks[victim]["killed"] for victim in victims]
    for found in _survivors(ranks, *victims):
        assert found["views"][-1] == left
        assert [error["error"] for error in found["errors"]] == ["PeerLostError"] * len(found["errors"])
        first = found["errors"][0]
        assert first["ended"] - max(first["began"], min(deaths)) < PROMPT
        assert max(found["seconds"]) < PROMPT


# -- who dies, and when ---------------------------------------------------------------------------------------------------


@everywhere("victim,moment", *product(range(4), ["before", "amid"]))
def test_shrink_without_any_rank_of_small_allreduces(victim: int, moment: str, transport: str) -> None:
    ranks = _run("working", 4, transport, steps=40, count=8, victims={victim: [3, moment]})
    _assert_shrunk(ranks, victim)


@everywhere("victim", 0, 1, 3)
def test_shrink_after_a_death_in_large_allreduces(victim: int, transport: str) -> None:
    ranks = _run("working", 4, transport, steps=3, count=8 * MEBIBYTE, victims={victim: [1, "amid"]})
    _assert_shrunk(ranks, victim)


@everywhere("victim", 0, 3)
def test_shrink_once_nobody_reads_any_more(victim: int, transport: str) -> None:
    """Whoever meets the loss first has ceased to read, while others still have megabytes for it: it is not given up."""
    options = {"steps": 3, "count": 8 * MEBIBYTE, "gather": True}
    _assert_shrunk(_run("working", 4, transport, victims={victim: [1, "amid"]}, **options), victim)


@everywhere("victim", 0, 2)
def test_shrink_after_a_death_while_idle(victim: int, transport: str) -> None:
    ranks = _run("idle", 3, transport, victim=victim)
    _assert_shrunk(ranks, victim)


@everywhere("victims", ((0, 1),), ((1, 4),), ((0, 2, 4),), ((1, 2, 3, 4),))
def test_shrink_after_several_deaths_at_once(victims: tuple[int, ...], transport: str) -> None:
    ranks = _run("working", 5, transport, steps=5, count=1000, victims={victim: [2, "before"] for victim in victims})
    _assert_shrunk(ranks, *victims)


@everywhere("", ())
def test_shrink_again_and_again_down_to_one_rank(transport: str) -> None:
    victims = {1: [2, "before"], 0: [4, "before"], 4: [6, "before"], 3: [8, "before"]}
    ranks = _run("working", 5, transport, steps=10, count=1000, victims=victims)
    _assert_shrunk(ranks, *victims)
    assert ranks[2]["views"] == [[0, 2, 3, 4], [2, 3, 4], [2, 3], [2]]


@everywhere("second,number", *product([0, 3], range(1, 7)))
def test_shrink_while_another_rank_dies_at_each_word(second: int, number: int, transport: str) -> None:
    """Of 4 ranks, 2 are lost; a rank says 2 words in a round, and tells 2 what is decided."""
    ranks = _run("working", 4, transport, steps=6, count=1000, victims={1: [3, "before"], second: [3, number]})
    if "killed" not in ranks[second]:  # the others were quicker to decide
        _assert_shrunk(ranks, 1)
    else:
        _assert_shrunk(ranks, 1, second)


# -- who does not shrink --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True], ids=["elsewhere", "stopped"])
def test_shrink_without_a_living_rank_times_out(stopped: bool) -> None:
    ranks = _run("away", 4, stopped=stopped)
    late, *others = _survivors(ranks, 0)
    for found in others:
        lost, waited = found["errors"]
        assert lost["error"] == "PeerLostError"
        assert waited["error"] == "OperationTimeoutError"
        assert 1.0 <= waited["ended"] - waited["began"] < 2.0
        assert re.fullmatch(
            r"shrink timed out after 1\.0 s: no word from rank 1 \(\S+, pid \d+, unix @gloompi-\w+\): "
            r"all survivors must call it",
            waited["text"],
        ), waited["text"]
    assert late["views"] == [[1]]


@everywhere("way", "close", "with", "abort", "collected", "fork")
def test_shrink_without_a_rank_that_does_not_go_on(way: str, transport: str) -> None:
    ranks = _run("closing", 4, transport, way=way)
    for found in _survivors(ranks, 0)[1:]:
        assert found["views"] == [[2, 3]]
        assert max(found["seconds"]) < PROMPT


# -- what can be shrunk ---------------------------------------------------------------------------------------------------


def test_shrink_of_a_context_that_was_not_broken_says_so() -> None:
    ranks = _run("misuse", 3)
    works = "shrink is for a Context that an error has broken; this one works"
    over = (
        "this Context cannot be shrunk: it was closed, aborted or interrupted here, or it or one that shares its "
        "connections has been shrunk before"
    )
    for found in ranks:
        assert found["errors"][-1] == {"texts": [works, over, over]}


@pytest.mark.parametrize(("shrink", "views"), [("parent", [[0, 2, 3]] * 3), ("halves", [[0, 2], [0, 2], [3]])])
def test_shrink_of_contexts_that_share_their_connections(shrink: str, views: list[list[int]]) -> None:
    ranks = _run("children", 4, shrink=shrink)
    assert [found["views"][-1] for found in _survivors(ranks, 1)] == views


def test_shrink_of_a_context_of_one_rank() -> None:
    (found,) = _run("alone", 1)
    assert found["views"] == [[0]]
