"""Completing what is pending, by every means that requests have, in an order that each rank shuffles for itself."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .scene import Scene

WAYS = ("Wait", "Waitall", "Waitany", "Waitsome", "Test", "Testall", "Testany", "Testsome")


@dataclass
class Pending:
    """A request, and how to tell what came of it, which `outcome` does from its status and the object it gave, if any.

    `repeatable` if it is persistent and both sides can start it once more.  Results of the same `group` are sorted by what
    `outcome` puts first: the source, where any source could match any receive.
    """

    request: Any
    outcome: Callable[[Any, Any], Any]
    persistent: bool = False
    repeatable: bool = False
    gives_object: bool = False
    collective: bool = False
    group: int | None = None


def finish(scene: Scene, pending: list[Pending], way: str, shuffle: int, *, again: bool = False) -> Any:
    """Complete all; the results are in the order of posting.  With `again`, start what is repeatable once more."""
    results = [_complete(scene, pending, way, shuffle)]
    if again:
        repeated = [item for item in pending if item.repeatable]
        if repeated:
            scene.MPI.Prequest.Startall([item.request for item in repeated])
        results.append(_complete(scene, repeated, way, shuffle + 1))
    for item in pending:
        if item.persistent:
            item.request.Free()
    results.append([bool(item.request) for item in pending])
    return results


def _complete(scene: Scene, pending: list[Pending], way: str, shuffle: int) -> Any:
    MPI = scene.MPI
    order = list(range(len(pending)))
    random.Random(shuffle * 101 + MPI.COMM_WORLD.Get_rank()).shuffle(order)
    requests = [pending[i].request for i in order]
    if way == "Testall" and any(item.persistent and item.collective for item in pending):
        way = "Test"  # MPICH 5.0's Testall raises where a persistent collective is among the requests
    # An object arrives through the lower-case calls alone; they complete everything else just as well.
    lower = any(item.gives_object for item in pending)
    done, last = _collect(MPI, requests, way, lower)
    results: list[Any] = [None] * len(pending)
    for place, (status, given) in done.items():
        results[order[place]] = pending[order[place]].outcome(status, given)
    groups = {item.group for item in pending if item.group is not None}
    for group in groups:  # stable: of one source, the order of the receives is the order of its messages
        places = [i for i, item in enumerate(pending) if item.group == group]
        for place, result in zip(places, sorted((results[i] for i in places), key=lambda result: result[0]), strict=True):
            results[place] = result
    return [results, last]


def _collect(MPI: Any, requests: list[Any], way: str, lower: bool) -> tuple[dict[int, Any], Any]:
    """Status and object per request, and what the means says when nothing is left."""
    done: dict[int, Any] = {}

    def note(place: int, status: Any, given: Any = None) -> None:
        assert place not in done, f"request {place} of {len(requests)} completed twice"
        done[place] = (status, given)

    def call(owner: Any, name: str, *args: Any) -> Any:
        return getattr(owner, name.lower() if lower else name)(*args)

    if way == "Wait":
        for place, request in enumerate(requests):
            status = MPI.Status()
            given = call(request, way, status)
            note(place, status, given if lower else None)
        return done, None
    if way == "Test":
        while len(done) < len(requests):
            for place in set(range(len(requests))) - set(done):
                status = MPI.Status()
                flag = call(requests[place], way, status)
                flag, given = flag if lower else (flag, None)
                if flag:
                    note(place, status, given)
            os.sched_yield()
        return done, None
    if way in ("Waitall", "Testall"):
        statuses = [MPI.Status() for _ in requests]
        answer = call(MPI.Request, way, requests, statuses)
        while way == "Testall" and not (answer[0] if lower else answer):
            os.sched_yield()
            answer = call(MPI.Request, way, requests, statuses)
        objects = (answer[1] if way == "Testall" else answer) if lower else [None] * len(requests)
        for place, (status, given) in enumerate(zip(statuses, objects, strict=True)):
            note(place, status, given)
        return done, None
    if way in ("Waitany", "Testany"):
        while len(done) < len(requests):
            status = MPI.Status()
            answer = call(MPI.Request, way, requests, status)
            answer = answer if isinstance(answer, tuple) else (answer,)
            place = answer[0]
            if way == "Testany" and not answer[1]:
                os.sched_yield()
                continue
            note(place, status, answer[-1] if lower else None)
    else:
        while len(done) < len(requests):
            statuses = [MPI.Status() for _ in requests]
            answer = call(MPI.Request, way, requests, statuses)
            places, objects = answer if lower else (answer, None)
            objects = objects or [None] * len(places)
            for place, status, given in zip(places, statuses, objects, strict=False):
                note(place, status, given)
            if not places:
                os.sched_yield()
    return done, call(MPI.Request, way, requests)
