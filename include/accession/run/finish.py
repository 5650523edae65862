"""The outcome of a run: decide its status, commit, release or leave the target, write the report, record the end."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from accession.artifacts import (
    Amount,
    Document,
    EntityReport,
    Execution,
    Manifest,
    Plan,
    Report,
    Rollback,
    StagedEntity,
    Status,
    Step,
    Store,
    Verification,
    find_plan,
    find_rollback,
    load_verifications,
    part_path,
    run_path,
    staged_entity_path,
)
from accession.commands import show_commands
from accession.mapping import Mapping
from accession.run.plan import price_units
from accession.run.report_page import render_html
from accession.target import LogRecord, Seal, State, append_record, load_state, log_path

PEEKED_BYTES = 256 * 1024
PROVED = {"verified", "missing", "mismatched", "drifted", "held", "unexpected"}


class Outcome(Document):
    """How the run went, as Airflow saw it. `failure` is the message of the first task that failed; `by` is who resumed
    it, if anybody did."""

    is_verified: bool = False
    is_rolled_back: bool = False
    is_refused: bool = False
    failure: str | None = None
    rejected_by: str | None = None
    approved_by: str | None = None
    by: str | None = None
    epoch: int | None = None
    preflight: Step | None = None
    source_changed: bool = False
    source_rows_now: dict[str, int] | None = None


def end_run(store: Store, mapping: Mapping, manifest: Manifest, ended: Outcome) -> Report:
    """Commit, release or leave the target, write report.json and report.html, and record the end in the register.

    A verified run is committed and the target closed. A target of which no part was executed is released; any other
    stays open, and the report says so. Safe to repeat.
    """
    state = load_state(store)
    assert state is not None
    owns = state.open is not None and state.open.run == manifest.run
    # A run that was left open and resumed ends anew, though its first end may be the last record.
    recorded = None if owns else _find_recorded(store, manifest, state)
    report, is_last = recorded or (_record_end(store, mapping, manifest, ended, owns), True)
    # A retry that finds nothing after the run's own record makes up for a seal that failed.
    if is_last and report.status in ("verified", "unchanged") and manifest.params["seal"]:
        seal_target(store, manifest.params["seal"], ended.by or manifest.triggered_by)
    return report


def _record_end(store: Store, mapping: Mapping, manifest: Manifest, ended: Outcome, owns: bool) -> Report:
    _merge_verifications(store, mapping, manifest.run)
    facts = _Facts(store, mapping, manifest)
    status, reason = _decide(manifest, ended, facts, owns)
    commits = status == "verified" or (status == "unchanged" and facts.records_changed and not owns)
    closes = owns and (commits or not facts.executed)
    if owns and not closes:
        commands = show_commands(manifest.environment, manifest.run, manifest.mapping)
        reason = f"{(reason or status).rstrip('.')}. The target stays open; finish it or undo it:\n{commands}"
    report = facts.build(ended, status, reason, is_open=owns and not closes)
    artifacts = {
        **report.artifacts,
        run_path(manifest.run, "report.json"): store.put(run_path(manifest.run, "report.json"), report.dump()),
        run_path(manifest.run, "report.html"): store.put(
            run_path(manifest.run, "report.html"), render_html(report, facts.rejects_csv, facts.rollback).encode()
        ),
    }

    def change(now: State) -> dict[str, Any]:
        changes: dict[str, Any] = {"closed": closes}
        if commits and (owns or (now.open is None and now.head == manifest.parent)):
            changes["head"] = manifest.run
        return changes

    append_record(
        store,
        action="run",
        by=ended.by or manifest.triggered_by,
        run=manifest.run,
        status=status,
        note=report.note,
        artifacts=artifacts,
        epoch=ended.epoch if commits and owns else None,
        change=change,
    )
    return report


def _merge_verifications(store: Store, mapping: Mapping, run: str) -> None:
    """`verification.json`: what every entity's proof says, in one place."""
    proofs = {proof.entity: proof.model_dump(mode="json") for proof in load_verifications(store, mapping, run)}
    if proofs:
        store.put(run_path(run, "verification.json"), orjson.dumps(proofs, option=orjson.OPT_INDENT_2))


def seal_target(store: Store, reason: str, by: str) -> LogRecord:
    """Hand the target over to the application: later runs refuse to write. Repeatable."""

    def change(state: State) -> dict[str, Any]:
        return {"sealed": Seal(reason=reason, by=by, at=datetime.now(UTC).isoformat(timespec="seconds"))}

    return append_record(store, action="seal", by=by, status="sealed", note=reason, change=change)


def unseal_target(store: Store, reason: str, by: str) -> LogRecord | None:
    """Let runs write again. None, and nothing recorded, when the target was not sealed."""
    state = load_state(store)
    if state is None or state.sealed is None:
        return None
    return append_record(
        store, action="unseal", by=by, status="unsealed", note=reason, change=lambda state: {"sealed": None}
    )


def _find_recorded(store: Store, manifest: Manifest, state: State) -> tuple[Report, bool] | None:
    """The report of the run's last end, when it has ended already: a retried or cleared task. What has ended stands.
    And whether nothing was recorded since."""
    for sequence in range(state.log_tail.sequence, 0, -1):
        record = LogRecord.model_validate_json(store.get(log_path(sequence)))
        if record.at < manifest.started_at[: len("2026-01-05T12:34:56")]:
            return None  # older than the run
        if record.action == "run" and record.run == manifest.run:
            path = run_path(manifest.run, "report.json")
            report = store.find(path)
            if report is None or hashlib.sha256(report.data).hexdigest() != record.artifacts.get(path):
                return None
            return Report.model_validate_json(report.data), sequence == state.log_tail.sequence
    return None


def _decide(manifest: Manifest, ended: Outcome, facts: "_Facts", owns: bool) -> tuple[Status, str | None]:
    if ended.is_verified and owns and facts.is_proved:
        return "verified", None
    if ended.is_rolled_back:
        return "rolled_back", ended.failure
    if facts.plan is not None and facts.plan.refused:
        return "refused", facts.plan.refused
    if ended.failure:
        return ("refused" if ended.is_refused and not facts.executed else "failed"), ended.failure
    if facts.plan is None:
        return "failed", "the run was stopped before its plan was made"
    if manifest.params["dry_run"]:
        return "dry_run", None
    if facts.plan.is_empty and not facts.executed:
        return "unchanged", None
    if ended.rejected_by:
        return "rejected", f"rejected by {ended.rejected_by}; nothing was written"
    return "failed", "the run was stopped before it was proved"


class _Facts:
    """What lies in the folder of a run."""

    def __init__(self, store: Store, mapping: Mapping, manifest: Manifest) -> None:
        self.store, self.mapping, self.manifest = store, mapping, manifest
        run = manifest.run
        self.paths = [path for path in store.list(run_path(run)) if not path.endswith(("/report.json", "/report.html"))]
        self.plan: Plan | None = find_plan(store, run)
        self.rollback: Rollback | None = find_rollback(store, run)
        self.indexes = {name: self._find_staged_entity(name) for name in mapping.order}
        self.verifications: dict[str, Verification] = {v.entity: v for v in load_verifications(store, mapping, run)}
        self.executed = any(path.endswith(".started") for path in self.paths)
        self.executions = list(self._load_executions())
        # The page shows the first ones only.
        head = store.peek(run_path(run, "rejects.csv"), PEEKED_BYTES)
        self.rejects_csv = head[: head.rfind(b"\n") + 1]

    @property
    def is_proved(self) -> bool:
        """Whether the last proof of every entity held: a task that a person marked as a success proves nothing."""
        return all(name in self.verifications and self.verifications[name].ok for name in self.indexes)

    @property
    def records_changed(self) -> bool:
        return any(index is not None and index.records_changed for index in self.indexes.values())

    def _find_staged_entity(self, name: str) -> StagedEntity | None:
        return self.store.find_document(staged_entity_path(self.manifest.run, name), StagedEntity)

    def _load_executions(self) -> Iterator[tuple[str, Execution]]:
        for path in self.paths:
            if "/progress/" in path and path.endswith(".json"):
                step = path.removesuffix(".json").rsplit(".", 1)[1]
                yield step, self.store.get_document(path, Execution)

    def build(self, ended: Outcome, status: Status, reason: str | None, is_open: bool) -> Report:
        manifest, plan = self.manifest, self.plan
        steps = self._steps(ended)
        indexes = [index for index in self.indexes.values() if index is not None]
        write_units = sum(execution.write_units for _, execution in self.executions)
        write_units += self.rollback.write_units if self.rollback else 0
        read_units = sum(index.counts.read_units for index in indexes)
        read_units += sum(execution.read_units for _, execution in self.executions)
        read_units += sum(v.read_units for v in self.verifications.values())
        return Report(
            run=manifest.run,
            airflow_run_id=manifest.airflow_run_id,
            mapping=manifest.mapping,
            environment=manifest.environment,
            status=status,
            reason=reason,
            snapshot=manifest.snapshot,
            entities={name: self._report_entity(name) for name in self.mapping.order},
            rejects={index.entity: index.rejects for index in indexes},
            id_maps={index.entity: index.id_map for index in indexes},
            write_units=Amount(planned=plan.write_units if plan else 0, consumed=write_units),
            price_usd=Amount(
                planned=float(plan.price_usd) if plan else 0.0, consumed=float(price_units(write_units, read_units))
            ),
            seconds={step.name: _count_seconds(step) for step in steps},
            steps=steps,
            triggered_by=manifest.triggered_by,
            approved_by=ended.approved_by or self._find_approval(),
            source_changed_during_run=ended.source_changed,
            source_rows_now=ended.source_rows_now,
            parent=manifest.parent,
            is_open=is_open,
            started_at=manifest.started_at,
            ended_at=datetime.now(UTC).isoformat(),
            artifacts=self._hash_artifacts(),
        )

    def _find_approval(self) -> str | None:
        """Who approved the run, by the report of an earlier end of it: what is resumed is not asked for again."""
        earlier = self.store.find_document(run_path(self.manifest.run, "report.json"), Report)
        return earlier.approved_by if earlier else None

    def _report_entity(self, name: str) -> EntityReport:
        table = self.mapping.entities[name].table(self.manifest.environment)
        index = self.indexes[name]
        counts: dict[str, Any] = {}
        if index is not None:
            counts = index.counts.model_dump(include=set(EntityReport.model_fields))
        late = sum(len(e.conflicts) for _, e in self.executions if e.entity == name)
        counts["conflicts"] = counts.get("conflicts", 0) + late
        if name in self.verifications:
            counts |= self.verifications[name].model_dump(include=PROVED)
        return EntityReport(**{**counts, "table": table})

    def _steps(self, ended: Outcome) -> list[Step]:
        """When each step was at work; steps that did not come about are left out."""
        steps = [ended.preflight] if ended.preflight else []
        steps.append(_span("backup", self.manifest))
        steps += [_span(f"stage.{name}", index) for name, index in self.indexes.items() if index is not None]
        steps += [_span("plan", self.plan)] if self.plan else []
        for name in self.mapping.order:
            steps += _span_all(
                f"migrate.{name}", [e for s, e in self.executions if s == "migrate" and e.entity == name]
            )
        steps += _span_all("remove", [e for step, e in self.executions if step == "remove"])
        steps += [_span(f"verify.{name}", v) for name, v in self.verifications.items()]
        steps += [_span("rollback", self.rollback)] if self.rollback else []
        return steps

    def _hash_artifacts(self) -> dict[str, str]:
        """SHA-256 of every object of the run and its backup; large ones were hashed when they were written."""
        run = self.manifest.run
        known = {f"backups/{self.manifest.snapshot.sha256}.db": self.manifest.snapshot.sha256}
        for index in self.indexes.values():
            if index is not None and not self.manifest.unchanged:
                known[self.store.path(index.id_map)] = index.id_map_sha256
                known.update({part_path(run, index.entity, part.part): part.sha256 for part in index.parts})
        unknown = {path: self.store.hash(path) or "" for path in self.paths if path not in known}
        return dict(sorted({**known, **unknown}.items()))


def _span(name: str, document: Any) -> Step:
    return Step(name=name, started_at=document.started_at, ended_at=document.ended_at)


def _span_all(name: str, documents: list[Any]) -> list[Step]:
    if not documents:
        return []
    return [
        Step(
            name=name,
            started_at=min(document.started_at for document in documents),
            ended_at=max(document.ended_at for document in documents),
        )
    ]


def _count_seconds(step: Step) -> float:
    seconds = datetime.fromisoformat(step.ended_at) - datetime.fromisoformat(step.started_at)
    return round(seconds.total_seconds(), 3)
