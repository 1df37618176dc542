"""Random programs give the same over gloompi.MPI and over mpi4py.MPI; and the comparison finds planted faults."""

from __future__ import annotations

import json
from typing import Any

import pytest
from differential import GLOOMPI, SIZES, compare, described, smallest
from minimising import shrink
from programs import Program, random_programs

# Fixed: every run of the tests runs the same programs.  `python tests/differential.py --seed N` runs others.
SEED = 4
PROGRAMS = 500


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("mpi_jobs")
def test_random_programs_give_the_same(size: int) -> None:
    key = SEED * 10 + size
    programs = random_programs(PROGRAMS // len(SIZES), key)
    for failure in compare(programs, size, module=GLOOMPI, patience=20, most=1):
        pytest.fail(described(failure, key, programs, size, trials=40))


def test_random_programs_of_a_seed_are_the_same() -> None:
    first, second, other = random_programs(20, 7), random_programs(20, 7), random_programs(20, 8)
    assert first == second
    assert first != other
    assert json.loads(json.dumps(first)) == first


# Small already: shrinking these takes few jobs.
_ENDING = {"root": 0, "salt": 0, "finish": "Wait", "shuffle": 0, "again": 0}
_MEMORY = {**_ENDING, "dtype": "h", "count": 2, "counts": [1], "gap": 0, "spelling": 0}


def _collective(name: str, **changes: Any) -> dict[str, Any]:
    return {"do": name, "comm": "dup", **_MEMORY, "form": "blocking", "way": "listed", "in_place": 0, **changes}


def _messages(**changes: Any) -> dict[str, Any]:
    step = {"do": "messages", "comm": "world", **_MEMORY, "kind": "text", "derived": "none", "shift": 1}
    return {**step, "any_source": 0, "any_tag": 0, "how": ["Isend", "Recv"], "pattern": "ring", **changes}


def _objects(call: str) -> dict[str, Any]:
    return {"do": "objects", "comm": "world", **_ENDING, "call": call, "kind": "list", "count": 4, "reduction": "SUM int"}


def _overlap(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"do": "overlap", "parts": list(parts), "finish": "Waitany", "shuffle": 2, "again": 0}


# Without Barrier, Allgather, Recv and bcast, in which the faults of jobs/broken_mpi.py are.
_HARMLESS = [
    _collective("Allreduce", op="SUM"),
    _overlap(_collective("Alltoallv", form="non-blocking"), _messages(how=["isend", "irecv"], pattern="all")),
    _objects("allgather"),
    {"do": "misuse", "comm": "halves", **_ENDING, "mistake": "count -1"},
    _messages(how=["Ssend", "Mprobe"]),
]


def _with(step: dict[str, Any]) -> Program:
    return [*_HARMLESS[:3], step, *_HARMLESS[3:]]


@pytest.mark.usefixtures("mpi_jobs")
def test_module_without_fault_does_not_differ() -> None:
    program = _with(_overlap(_collective("Allgather"), _messages()))
    assert compare([program], 3, module="broken_mpi", patience=20) == []


@pytest.mark.parametrize(
    ("fault", "step", "reason"),
    [
        (
            "swapped",
            _overlap(_messages(how=["Isend", "Irecv"]), _collective("Allgather")),
            "rank 1: step 0 (Allgather blocking): result[0][1][1]: 4 bytes differ from byte 0 on, "
            "mpi4py has f1 ff fd ff, the other ff ff fd f1",
        ),
        ("tag", _messages(), "rank 0: step 0 (messages ['Isend', 'Recv']): result[0][1]: mpi4py has 8, the other 9"),
    ],
)
@pytest.mark.usefixtures("mpi_jobs")
def test_fault_is_found_and_shrunk(fault: str, step: dict[str, Any], reason: str) -> None:
    program, env = _with(step), {"FAULT": fault}
    [failure] = compare([_HARMLESS, program, _HARMLESS], 2, module="broken_mpi", patience=20, env=env)
    assert failure.number == 1
    assert "step 3" in failure.reason
    small, why = smallest(program, 2, module="broken_mpi", env=env)
    assert len(small) == 1
    assert reason in why.splitlines()


@pytest.mark.usefixtures("mpi_jobs")
def test_programs_after_a_failure_are_run() -> None:
    program, harmless = [_messages()], _HARMLESS
    failures = compare([program, harmless, program], 2, module="broken_mpi", patience=20, env={"FAULT": "tag"})
    assert [failure.number for failure in failures] == [0, 2]


@pytest.mark.usefixtures("mpi_jobs")
def test_hang_names_its_program_and_ranks() -> None:
    program = _with(_collective("Barrier"))
    [failure] = compare([_HARMLESS, program], 2, module="broken_mpi", patience=3, env={"FAULT": "hangs"}, most=1)
    assert failure.number == 1
    assert "rank 0 did not end program 1 over the other module" in failure.reason
    assert "broken_mpi.py" in failure.reason  # the traceback says where it hangs


@pytest.mark.usefixtures("mpi_jobs")
def test_error_of_one_rank_is_told() -> None:
    [failure] = compare([_with(_objects("bcast"))], 2, module="broken_mpi", patience=3, env={"FAULT": "raises"})
    assert failure.number == 0
    assert "raised" in failure.reason
    assert "RuntimeError: a fault" in failure.reason


def test_shrink_keeps_what_fails() -> None:
    program = random_programs(30, 3)[-1] + [_collective("Scan", op="SUM", counts=[5, 9, 2], salt=77, gap=2, shuffle=500)]

    def fails(candidate: Program) -> bool:
        return any(step["do"] == "Scan" and step["salt"] > 40 for step in candidate)

    [step] = shrink(program, fails, trials=1000)
    smallest_numbers = {"counts": [0], "count": 0, "gap": 0, "spelling": 0, "shuffle": 0, "salt": 41}
    assert step == _collective("Scan", op="SUM", comm="world", **smallest_numbers)
