"""Runs a random program over a module that looks like `mpi4py.MPI`: `execute(program, MPI)` gives this rank's results.

A program is a list of steps, plain JSON-able dicts (see `tests/programs.py`).  It holds no rank and no size: every
number in it is taken modulo what makes sense on the communicator of the step, so that a program runs on any number of
ranks, and is still a program when steps or numbers are taken away.
The module comes as an argument; nothing here imports mpi4py.
"""

from __future__ import annotations

from typing import Any

from .collectives import collective
from .completion import finish
from .messages import messages
from .misuse import misuse
from .objects import collective_of_objects
from .scene import Scene

# What a step's result begins with when the step has raised, which no correct program does.
RAISED = "raised"


def execute(program: list[dict[str, Any]], MPI: Any) -> list[Any]:
    """Run a program on all ranks of ``MPI.COMM_WORLD``; return one result per step: numbers, texts, bytes, lists, dicts."""
    scene = Scene(MPI)
    results: list[Any] = []
    try:
        for step in program:
            try:
                results.append(_perform(scene, step))
            except Exception as exc:
                results.append([RAISED, f"{type(exc).__name__}: {exc}"])
                break  # the other ranks, and what is pending, are in an unknown state
        return results
    finally:
        if not (results and results[-1] and results[-1][0] == RAISED):
            scene.close()


def _perform(scene: Scene, step: dict[str, Any]) -> Any:
    do = step["do"]
    if do == "overlap":
        return _overlap(scene, step)
    comm = scene.comm(step["comm"])
    tag = scene.next_tag()
    if not comm:  # this rank is not in it
        return ["not a member"]
    if do == "messages":
        with scene.attached(step, comm):
            posted = messages(scene, step, comm, tag)
            done = finish(scene, posted.pending, step["finish"], step["shuffle"], again=step["again"])
            results = [*posted.results, done]
        if posted.fenced:
            comm.Barrier()
        return results
    if do == "objects":
        return [collective_of_objects(scene, step, comm)]
    if do == "misuse":
        return misuse(scene, step, comm, tag)
    if do == "cancel":
        return _cancel(scene, step, comm, tag)
    if do == "nothing":
        return _wait_for_nothing(scene.MPI)
    if do == "inquire":
        return _inquire(scene, comm)
    result, pending = collective(scene, step, comm)
    return [result, finish(scene, pending, step["finish"], step["shuffle"], again=step["again"])]


def _overlap(scene: Scene, step: dict[str, Any]) -> Any:
    """Post all parts, in the same order on all ranks, then complete what is pending in this rank's own order."""
    pending, results = [], []
    for part in step["parts"]:
        comm, tag = scene.comm(part["comm"]), scene.next_tag()
        if not comm:
            continue
        if part["do"] == "messages":
            posted = messages(scene, part, comm, tag, alone=False)
            results += posted.results
            pending += posted.pending
        elif part["do"] == "objects":
            results.append(collective_of_objects(scene, part, comm))
        else:
            result, more = collective(scene, part, comm)
            results.append(result)
            pending += more
    return [*results, finish(scene, pending, step["finish"], step["shuffle"], again=step["again"])]


def _cancel(scene: Scene, step: dict[str, Any], comm: Any, tag: int) -> Any:
    """A receive that nobody sends to: the only one whose cancellation has a certain outcome."""
    buffer, status = bytearray(8), scene.MPI.Status()
    request = comm.Irecv(buffer, step["root"] % comm.Get_size(), tag)
    request.Cancel()
    request.Wait(status)
    return [status.Is_cancelled(), bool(request), bytes(buffer)]


def _wait_for_nothing(MPI: Any) -> Any:
    request, null = MPI.Request, MPI.REQUEST_NULL
    none_pending = [request.Waitall([]), request.Waitany([]), request.Waitsome([])]
    none_pending += [request.Testall([]), request.Testany([]), request.Testsome([])]
    nulls = [request.Waitall([null, null]), request.Waitany([null, null]), request.Waitsome([null, null])]
    nulls += [request.Testall([null]), request.Testany([null]), request.Testsome([null])]
    lower = [request.waitall([]), request.waitany([]), request.waitsome([]), request.waitany([null])]
    return [none_pending, nulls, lower, null.Test(), null.Wait()]


def _inquire(scene: Scene, comm: Any) -> Any:
    world, compare = scene.MPI.COMM_WORLD, scene.MPI.Comm.Compare
    names = [comm.Get_rank(), comm.Get_size(), comm.rank, comm.size, comm.Is_inter(), comm.Is_intra(), bool(comm)]
    alike = [compare(comm, comm), compare(comm, world), comm == world, comm != world, comm == comm]
    with_copy = comm.Dup()
    alike += [compare(comm, with_copy), comm == with_copy, with_copy.Get_rank(), with_copy.Get_size()]
    with_copy.Free()
    return [names, alike, bool(with_copy)]
