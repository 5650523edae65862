"""The facts of a run: the artifacts in its folder, and the report that is made from them."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from accession.artifacts import (
    Amount,
    Attempt,
    EntityReport,
    Execution,
    Report,
    SourceAtEnd,
    Status,
    Step,
    TableReport,
    parse_attempts,
)
from accession.run.context import RunContext
from accession.run.plan import price_units

PEEKED_BYTES = 256 * 1024  # of rejects.csv: the page shows only the first rejects
PROOF_COUNTS = {"verified", "missing", "mismatched", "lost", "drifted", "held", "unexpected"}


class RunFacts:
    """The artifacts that are in the folder of a run now."""

    def __init__(self, run: RunContext) -> None:
        self.run = run
        folder, entities = run.folder, run.mapping.order
        reports = ("/report.json", "/report.html")
        self.paths = [path for path in run.store.list(folder.path()) if not path.endswith(reports)]
        self.plan = folder.find_plan()
        self.rollback = folder.find_rollback()
        self.staged = {name: staged for name in entities if (staged := folder.find_staged(name)) is not None}
        self.verifications = folder.find_verifications(entities)
        self.attempts = parse_attempts(self.paths)
        self.executions = list(self._load_executions())
        head = run.store.peek(folder.path("rejects.csv"), PEEKED_BYTES)
        self.rejects_csv = head[: head.rfind(b"\n") + 1]

    def _load_executions(self) -> Iterator[tuple[Attempt, Execution]]:
        for attempts in self.attempts.values():
            for attempt in attempts:
                if attempt.has_ended:
                    yield attempt, self.run.folder.load_execution(attempt)

    @property
    def may_have_written(self) -> bool:
        """Tell whether a part was begun, so that some of its changes may be in the tables."""
        return bool(self.attempts)

    def count_problems(self, kind: str) -> int:
        """Return how many items of that kind, such as `lost`, the proofs of all entities found."""
        return sum(getattr(verification, kind) for verification in self.verifications.values())

    @property
    def is_proved(self) -> bool:
        """Tell whether the last proof of every entity held, and no writer is at work.

        A task that a person marked as a success proves nothing. Neither does a proof from before the last write.
        """
        names = self.run.mapping.order
        has_ended = all(attempts[-1].has_ended for attempts in self.attempts.values())
        return has_ended and all(name in self.verifications and self.verifications[name].ok for name in names)

    @property
    def records_changed(self) -> bool:
        """Tell whether the ID maps differ from those of the head."""
        return any(staged.records_changed for staged in self.staged.values())

    def build_report(
        self,
        *,
        status: Status,
        reason: str | None,
        is_open: bool,
        approved_by: str | None,
        preflight: Step | None,
        source_at_end: SourceAtEnd,
        source_rows_now: dict[str, int] | None,
    ) -> Report:
        """Return the report: numbers, times and prices of all steps, and the digest of every artifact."""
        manifest, plan = self.run.manifest, self.plan
        entities = {name: self._report_entity(name) for name in self.run.mapping.order}
        steps = [*([preflight] if preflight else []), *self._list_steps()]
        write_units = sum(execution.write_units for _, execution in self.executions)
        write_units += self.rollback.write_units if self.rollback else 0
        read_units = sum(staged.counts.read_units for staged in self.staged.values())
        read_units += sum(execution.read_units for _, execution in self.executions)
        read_units += sum(verification.read_units for verification in self.verifications.values())
        read_units += self.rollback.read_units if self.rollback else 0
        consumed = float(price_units(write_units, read_units))
        return Report(
            run=manifest.run,
            airflow_run_id=manifest.airflow_run_id,
            mapping=manifest.mapping,
            environment=manifest.environment,
            status=status,
            reason=reason,
            snapshot=manifest.snapshot,
            entities=entities,
            tables=_add_tables(entities),
            rejects={name: staged.rejects for name, staged in self.staged.items()},
            id_maps={name: staged.id_map for name, staged in self.staged.items()},
            write_units=Amount(planned=plan.write_units if plan else 0, consumed=write_units),
            price_usd=Amount(planned=float(plan.price_usd) if plan else 0.0, consumed=consumed),
            seconds={step.name: _count_seconds(step) for step in steps},
            steps=steps,
            triggered_by=manifest.triggered_by,
            approved_by=approved_by or self._find_approval(),
            source_changed_during_run=source_at_end == "changed",
            source_at_end=source_at_end,
            source_rows_now=source_rows_now,
            parent=manifest.parent,
            is_open=is_open,
            started_at=manifest.started_at,
            ended_at=self.run.host.timestamp(),
            artifacts=self._hash_artifacts(),
        )

    def _find_approval(self) -> str | None:
        """Return who approved the run, according to its earlier report. A resumed run is not approved again."""
        earlier = self.run.folder.find_report()
        return earlier.approved_by if earlier else None

    def _report_entity(self, name: str) -> EntityReport:
        table = self.run.mapping.entities[name].table(self.run.manifest.environment)
        counts: dict[str, Any] = {}
        if name in self.staged:
            counts = self.staged[name].counts.model_dump(include=set(EntityReport.model_fields))
        newest = {attempts[-1] for attempts in self.attempts.values()}
        met = sum(len(e.conflicts) for attempt, e in self.executions if e.entity == name and attempt in newest)
        counts["conflicts"] = counts.get("conflicts", 0) + met
        if name in self.verifications:
            counts |= self.verifications[name].model_dump(include=PROOF_COUNTS)
        return EntityReport(**{**counts, "table": table})

    def _list_steps(self) -> Iterator[Step]:
        """Yield the time at which each step was at work. Steps that did not run are left out."""
        yield _span("backup", [self.run.manifest])
        for name, staged in self.staged.items():
            yield _span(f"stage.{name}", [staged])
        if self.plan:
            yield _span("plan", [self.plan])
        for name in self.run.mapping.order:
            if migrated := [e for a, e in self.executions if a.at.step == "migrate" and e.entity == name]:
                yield _span(f"migrate.{name}", migrated)
        if removed := [e for a, e in self.executions if a.at.step == "remove"]:
            yield _span("remove", removed)
        for name, verification in self.verifications.items():
            yield _span(f"verify.{name}", [verification])
        if self.rollback:
            yield _span("rollback", [self.rollback])

    def _hash_artifacts(self) -> dict[str, str]:
        """Return the SHA-256 of every object of the run, and of the backup and the auditor.

        Large objects were hashed when they were written.
        """
        run = self.run
        known = run.manifest.shared
        if not run.manifest.unchanged:
            for name, staged in self.staged.items():
                known[run.store.path(staged.id_map)] = staged.id_map_sha256
                known |= {run.folder.path_of_part(name, part): part.sha256 for part in staged.parts}
        unknown = {path: run.store.hash(path) or "" for path in self.paths if path not in known}
        return dict(sorted({**known, **unknown}.items()))


def _add_tables(entities: Mapping[str, EntityReport]) -> dict[str, TableReport]:
    """Return the results of each table. Of entities that share one, the first has the unexpected items."""
    tables: dict[str, TableReport] = {}
    for name, entity in entities.items():
        found = tables.get(entity.table, TableReport(entities=(), unexpected=0))
        tables[entity.table] = TableReport(
            entities=(*found.entities, name), unexpected=found.unexpected + entity.unexpected
        )
    return tables


class _Timed(Protocol):
    @property
    def started_at(self) -> str: ...
    @property
    def ended_at(self) -> str: ...


def _span(name: str, documents: Iterable[_Timed]) -> Step:
    started, ended = zip(*((document.started_at, document.ended_at) for document in documents), strict=True)
    return Step(name=name, started_at=min(started), ended_at=max(ended))


def _count_seconds(step: Step) -> float:
    seconds = datetime.fromisoformat(step.ended_at) - datetime.fromisoformat(step.started_at)
    return round(seconds.total_seconds(), 3)
