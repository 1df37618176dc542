"""What became of the tests of one file: the journals of all ranks (`jobs/conform.py`), put together."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["passed", "skipped", "excluded", "failed"]


@dataclass(frozen=True)
class Verdict:
    """What became of one instance: a method run in one class, on all ranks."""

    outcome: Outcome
    message: str = ""


@dataclass
class Journal:
    """What one rank has written down.

    Attributes
    ----------
    plan : dict
        For every instance, ``Class.method``: the method, ``Definer.method``, and whether it is excluded.
    begun : list of str
    ended : dict
        Instance to outcome and message.
    broken : str
        Why tests could not even begin.
    refused : dict or None
        How many calls of which of MPI's communication functions were refused; None: they were not counted.
    trace : str
        Where the rank was when the time was over.
    """

    plan: dict[str, tuple[str, bool]] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    ended: dict[str, Verdict] = field(default_factory=dict)
    broken: str = ""
    over: bool = False
    library: str = ""
    refused: dict[str, int] | None = None
    trace: str = ""


@dataclass
class Result:
    """What became of one file on one number of ranks."""

    file: str
    ranks: int
    verdicts: dict[str, Verdict]
    methods: int
    refused: dict[str, int] | None
    problem: str = ""
    library: str = ""
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> int:
        """How many instances have this outcome; a file that has failed as a whole has one failure at least."""
        found = sum(verdict.outcome == outcome for verdict in self.verdicts.values())
        return max(found, 1) if outcome == "failed" and self.problem else found


def read(folder: Path, ranks: int) -> list[Journal]:
    """The journals of all ranks, by rank; an empty one for a rank that wrote nothing."""
    found = []
    for rank in range(ranks):
        texts = [path.read_text() if path.exists() else "" for path in (folder / f"{rank}.jsonl", folder / f"{rank}.trace")]
        found.append(parse(*texts))
    return found


def parse(lines: str, trace: str = "") -> Journal:
    """One rank's journal from its lines.  The last one may be incomplete: the rank was killed while it wrote."""
    journal = Journal(trace=trace)
    for line in lines.splitlines():
        try:
            facts: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            break
        if "plan" in facts:
            journal.plan = {instance: (method, excluded) for instance, method, excluded in facts["plan"]}
        elif "begin" in facts:
            journal.begun.append(facts["begin"])
        elif "end" in facts:
            journal.ended[facts["end"]] = Verdict(facts["outcome"], facts.get("message", ""))
        elif "broken" in facts:
            journal.broken = journal.broken or facts["broken"]
        else:
            journal.over, journal.library, journal.refused = facts["over"], facts["library"], facts["refused"]
    return journal


def merge(file: str, journals: list[Journal], problem: str = "") -> Result:
    """One verdict per instance: a failure, a skip or an unfinished test on one rank is one of the whole.

    Parameters
    ----------
    problem : str
        What was wrong with the job as a whole: its exit code, or that it was not over in time.
    """
    plan = {instance: facts for journal in journals for instance, facts in journal.plan.items()}
    verdicts = {instance: _verdict(instance, journals, excluded) for instance, (_, excluded) in plan.items()}
    broken = [f"rank {rank}: {journal.broken}" for rank, journal in enumerate(journals) if journal.broken]
    unfinished = [rank for rank, journal in enumerate(journals) if not journal.over]
    if unfinished:
        broken.append(f"{_ranks(unfinished)} did not come to the end")
    if problem:
        broken.append(problem)
    if not plan:
        broken.append("no test was loaded")
    refused: Counter[str] | None = Counter()
    for journal in journals:
        refused = None if refused is None or journal.refused is None else refused + Counter(journal.refused)
    return Result(
        file,
        len(journals),
        verdicts,
        methods=len({method for method, _ in plan.values()}),
        refused=None if refused is None else dict(refused),
        problem="\n".join(broken),
        library=next((journal.library for journal in journals if journal.library), ""),
    )


def _verdict(instance: str, journals: list[Journal], excluded: bool) -> Verdict:
    if excluded:
        return Verdict("excluded")
    ends = [journal.ended.get(instance) for journal in journals]
    by_rank = [(rank, end) for rank, end in enumerate(ends) if end is not None]
    for rank, end in by_rank:
        if end.outcome == "failed":
            return Verdict("failed", f"rank {rank}: {end.message}")
    missing = [rank for rank, end in enumerate(ends) if end is None]
    if missing:
        inside = [rank for rank in missing if instance in journals[rank].begun]
        if not inside:
            return Verdict("failed", f"{_ranks(missing)} did not begin it")
        traces = [f"rank {rank} was here:\n{journals[rank].trace}" for rank in inside if journals[rank].trace]
        return Verdict("failed", "\n".join([f"{_ranks(inside)} did not finish it", *traces]))
    for rank, end in by_rank:
        if end.outcome == "skipped":
            return Verdict("skipped", end.message if len(by_rank) == 1 else f"rank {rank}: {end.message}")
    return Verdict("passed")


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
