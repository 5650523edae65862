"""Watch a run that has not ended: derive the progress of each step from its artifacts on S3. Read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from accession.artifacts import Attempt, PartStep, RunFolder, StagedEntity, Store
from accession.audit.hash_chain import IN_FLIGHT
from accession.audit.history import RunDocuments
from accession.mapping import Mapping
from accession.threads import run_all


@dataclass(frozen=True)
class StepProgress:
    """The progress of a step; `done` and `total` count its parts."""

    name: str
    state: Literal["done", "at work", "waiting"]
    done: int
    total: int
    note: str


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run: its steps, and how many of the items that it puts or updates are written."""

    steps: list[StepProgress]
    written: int
    total: int
    per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class Step:
    """A step before it is known whether it could start. `parents` are steps of the same stage that come first."""

    name: str
    done: int
    total: int = 1
    note: str = ""
    parents: Sequence[str] = ()


@dataclass(frozen=True)
class _Writes:
    """The parts and items of an entity: all of them, those begun, and those written."""

    parts: int = 1  # until the entity is staged, nobody knows how many
    parts_begun: int = 0
    parts_done: int = 0
    items: int = 0
    items_done: int = 0

    @property
    def note(self) -> str:
        if not self.items:
            return ""
        at_work = self.parts_begun - self.parts_done
        return f"{self.items_done:,} of {self.items:,} items" + (f", {at_work:,} parts at work" if at_work > 0 else "")


@dataclass(frozen=True)
class _Traces:
    """The artifacts that a run has left so far."""

    mapping: Mapping
    documents: RunDocuments
    staged: dict[str, StagedEntity]
    attempts: dict[PartStep, list[Attempt]]  # at each part that was begun
    writes: dict[str, _Writes]  # of staged entities


def watch_run(store: Store, mapping: Mapping, documents: RunDocuments, now: datetime | None = None) -> RunProgress:
    """Return the progress of a run. `documents` are those that it has left so far."""
    folder = RunFolder(store, documents.manifest.run)
    traces = _find_traces(folder, mapping, documents)
    stages = [
        ("", _watch_backup(traces)),
        ("stage.", _watch_staging(traces)),
        ("", _watch_plan(traces)),
        ("", _watch_opening(traces)),
        ("migrate.", _watch_writing(traces)),
        ("verify.", _watch_verification(traces)),
    ]
    written = sum(writes.items_done for writes in traces.writes.values())
    total = sum(writes.items for writes in traces.writes.values())
    seconds = _measure_writing(folder, traces.attempts, now or datetime.now(UTC))
    per_second = written / seconds if seconds else 0.0
    return RunProgress(
        steps=judge_steps(stages),
        written=written,
        total=total,
        per_second=per_second,
        seconds_left=(total - written) / per_second if per_second else None,
    )


def _find_traces(folder: RunFolder, mapping: Mapping, documents: RunDocuments) -> _Traces:
    staged = {name: entity for name in mapping.order if (entity := folder.find_staged(name)) is not None}
    attempts = folder.list_attempts()
    writes = {name: _count_writes(name, entity, attempts) for name, entity in staged.items()}
    return _Traces(mapping, documents, staged, attempts, writes)


def _watch_backup(traces: _Traces) -> list[Step]:
    """Return the backup as done: without it there would be no manifest, and no run to watch."""
    return [Step("backup", 1, note=f"{traces.documents.manifest.snapshot.bytes:,} bytes")]


def _watch_staging(traces: _Traces) -> list[Step]:
    mapping, rows = traces.mapping, traces.documents.manifest.snapshot.rows
    return [
        Step(
            name,
            done=int(name in traces.staged),
            note=f"{rows.get(table, 0):,} rows" if (table := mapping.entities[name].source.table) else "a query",
            parents=mapping.parents[name],
        )
        for name in mapping.order
    ]


def _watch_plan(traces: _Traces) -> list[Step]:
    plan = traces.documents.plan
    return [Step("plan", int(plan is not None), note=f"{plan.writes:,} items to write" if plan else "")]


def _watch_opening(traces: _Traces) -> list[Step]:
    is_open = traces.documents.is_open
    return [Step("open_run", int(is_open), note="" if is_open else "after approval, if the run needs one")]


def _watch_writing(traces: _Traces) -> list[Step]:
    steps = []
    for name in traces.mapping.order:
        writes = traces.writes.get(name, _Writes())
        steps.append(Step(name, writes.parts_done, writes.parts, writes.note, traces.mapping.parents[name]))
    return steps


def _watch_verification(traces: _Traces) -> list[Step]:
    verified = {verification.entity for verification in traces.documents.verifications}
    return [Step(name, int(name in verified)) for name in traces.mapping.order]


def judge_steps(stages: list[tuple[str, list[Step]]]) -> list[StepProgress]:
    """Return for each step whether it is done, at work, or waiting for earlier stages or its parents."""
    judged: list[StepProgress] = []
    is_ready = True
    for prefix, steps in stages:
        done = {step.name for step in steps if step.done >= step.total}
        for step in steps:
            can_start = is_ready and done.issuperset(step.parents)
            state: Literal["done", "at work", "waiting"] = (
                "done" if step.name in done else "at work" if can_start else "waiting"
            )
            judged.append(StepProgress(f"{prefix}{step.name}", state, step.done, step.total, step.note))
        is_ready = is_ready and len(done) == len(steps)
    return judged


def _count_writes(name: str, entity: StagedEntity, attempts: dict[PartStep, list[Attempt]]) -> _Writes:
    newest = {part.part: attempts.get(PartStep(name, part.part, "migrate"), [])[-1:] for part in entity.parts}
    begun = sum(bool(found) for found in newest.values())
    done = [part for part in entity.parts if any(attempt.has_ended for attempt in newest[part.part])]
    items, items_done = (sum(part.put + part.update for part in parts) for parts in (entity.parts, done))
    return _Writes(len(entity.parts), begun, len(done), items, items_done)


def _measure_writing(folder: RunFolder, attempts: dict[PartStep, list[Attempt]], now: datetime) -> float | None:
    """Return the seconds since the first part began, at least one; None if none began."""
    begun = [folder.path_of_mark(found[0]) for at, found in sorted(attempts.items()) if at.step == "migrate"]
    marks = [found for _, found in run_all(begun[:IN_FLIGHT], folder.store.find, IN_FLIGHT) if found]
    times = [mark.data.decode().split()[0] for mark in marks]
    return max((now - datetime.fromisoformat(min(times))).total_seconds(), 1.0) if times else None
