"""Random programs of collectives and messages, as hypothesis makes them: what `jobs/interpreter` runs.

A program is a list of dicts of texts, integers and lists of these.  Any integer may be replaced by a smaller one, any item
of a list of dicts or integers may be left out, and what remains is still a correct MPI program (see `minimising.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "jobs"))  # where pytest looks as well

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from interpreter.completion import WAYS as FINISHES
from interpreter.dtypes import DTYPES
from interpreter.messages import DERIVED, PATTERNS, PATTERNS_OF_BOTH, WAYS, WAYS_OF_BOTH
from interpreter.misuse import MISTAKES
from interpreter.objects import KINDS, REDUCTIONS
from interpreter.scene import COMMUNICATORS

Program = list[dict[str, Any]]

MOVES = ("Barrier", "Bcast", "Gather", "Gatherv", "Scatter", "Scatterv", "Allgather", "Allgatherv")
MOVES += ("Alltoall", "Alltoallv", "Alltoallw")
REDUCING = ("Reduce", "Allreduce", "Reduce_scatter", "Reduce_scatter_block", "Scan", "Exscan")
OBJECT_CALLS = ("barrier", "bcast", "gather", "scatter", "allgather", "alltoall", "reduce", "allreduce", "scan", "exscan")

# Elements: mostly few, sometimes more than the 64 KiB that MPIs send eagerly, seldom a MiB.
_FEW = [0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 40, 64, 100]
_COUNTS = _FEW * 12 + [257, 1000, 3000] * 8 + [9000, 20_000] * 2 + [140_000]
_BLOCK_COUNTS = _FEW * 6 + [257, 1000, 3000] * 3 + [9000]

_numbers = st.integers(0, 1000)
_communicators = st.sampled_from(("world",) * 4 + COMMUNICATORS)
_ending = {"finish": st.sampled_from(FINISHES), "shuffle": _numbers, "again": st.integers(0, 1)}
_shared = {"comm": _communicators, "root": st.integers(0, 4), "salt": _numbers, **_ending}
_collective = {
    **_shared,
    "form": st.sampled_from(("blocking", "blocking", "non-blocking", "non-blocking", "persistent")),
    "counts": st.lists(st.sampled_from(_FEW), min_size=1, max_size=6),
    "way": st.sampled_from(("listed", "listed", "even", "equal")),
    "gap": st.integers(0, 3),
    "in_place": st.integers(0, 1),
    "spelling": st.integers(0, 40),
}

_kinds = [name for name, dtype in DTYPES.items() if "MAXLOC" not in dtype.operations]
_reductions = [(name, operation) for name, dtype in DTYPES.items() for operation in dtype.operations]

_moves = st.fixed_dictionaries(
    {"do": st.sampled_from(MOVES), "dtype": st.sampled_from(_kinds), "count": st.sampled_from(_BLOCK_COUNTS), **_collective}
)
_long_moves = st.fixed_dictionaries(
    {"do": st.just("Bcast"), "dtype": st.sampled_from(_kinds), "count": st.sampled_from(_COUNTS), **_collective}
)
_reducing = st.tuples(
    st.fixed_dictionaries({"do": st.sampled_from(REDUCING), "count": st.sampled_from(_BLOCK_COUNTS), **_collective}),
    st.sampled_from(_reductions),
).map(lambda drawn: {**drawn[0], "dtype": drawn[1][0], "op": drawn[1][1]})

_message = {
    "do": st.just("messages"),
    **_shared,
    "kind": st.sampled_from(KINDS),
    "dtype": st.sampled_from(_kinds),
    "derived": st.sampled_from(("none",) * 3 + DERIVED),
    "count": st.sampled_from(_COUNTS),
    "counts": st.lists(st.integers(0, 9), min_size=1, max_size=3),
    "gap": st.integers(0, 3),
    "shift": st.integers(0, 5),
    "any_source": st.integers(0, 1),
    "any_tag": st.integers(0, 1),
    "spelling": st.integers(0, 40),
}


def _messages(ways: list[list[str]]) -> st.SearchStrategy[dict[str, Any]]:
    calls = [(way, pattern) for way in ways for pattern in PATTERNS]
    calls += [(way, pattern) for way in WAYS_OF_BOTH for pattern in PATTERNS_OF_BOTH] * 8
    return st.tuples(st.fixed_dictionaries(_message), st.sampled_from(calls)).map(
        lambda drawn: {**drawn[0], "how": drawn[1][0], "pattern": drawn[1][1]}
    )


_objects = st.fixed_dictionaries(
    {
        "do": st.just("objects"),
        **_shared,
        "call": st.sampled_from(OBJECT_CALLS),
        "kind": st.sampled_from(KINDS),
        "count": st.sampled_from(_BLOCK_COUNTS),
        "reduction": st.sampled_from(REDUCTIONS),
    }
)

# Memory for buffered sends is attached for one step at a time.
_unbuffered = [way for way in WAYS if way[0] not in ("Bsend", "Ibsend", "bsend")]


def _one_of(
    weights: dict[str, int], made: dict[str, st.SearchStrategy[dict[str, Any]]]
) -> st.SearchStrategy[dict[str, Any]]:
    names = [name for name, weight in weights.items() for _ in range(weight)]
    return st.sampled_from(names).flatmap(made.__getitem__)


_part = _one_of(
    {"moves": 3, "reducing": 3, "messages": 4, "objects": 1},
    {"moves": _moves, "reducing": _reducing, "messages": _messages(_unbuffered), "objects": _objects},
)
_overlap = st.fixed_dictionaries({"do": st.just("overlap"), "parts": st.lists(_part, min_size=2, max_size=7), **_ending})
_step = _one_of(
    {"overlap": 6, "messages": 6, "moves": 4, "reducing": 4, "objects": 2, "long moves": 1, "misuse": 2, "small": 1},
    {
        "overlap": _overlap,
        "messages": _messages(WAYS),
        "moves": _moves,
        "reducing": _reducing,
        "objects": _objects,
        "long moves": _long_moves,
        "misuse": st.fixed_dictionaries({"do": st.just("misuse"), **_shared, "mistake": st.sampled_from(sorted(MISTAKES))}),
        "small": st.fixed_dictionaries({"do": st.sampled_from(("cancel", "nothing", "inquire")), **_shared}),
    },
)
programs = st.lists(_step, min_size=3, max_size=12)


def random_programs(number: int, key: int) -> list[Program]:
    """`number` programs, the same ones for the same key and release of hypothesis.

    They are made in a process of their own: hypothesis also draws constants that it finds in the modules of its process.
    """
    command = [sys.executable, __file__, str(number), str(key)]
    made: list[Program] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600).stdout)
    return made


def _made(number: int, key: int) -> list[Program]:
    found: list[Program] = []

    @seed(key)
    @settings(
        max_examples=number, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(programs)
    def collect(program: Program) -> None:
        found.append(program)

    collect()
    return found[:number]


if __name__ == "__main__":
    print(json.dumps(_made(int(sys.argv[1]), int(sys.argv[2]))))
