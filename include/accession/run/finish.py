"""Finish a run: decide how it ends, commit it, release its target or leave it open, and write report and record."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from accession.artifacts import Document, Report, Status, Step
from accession.commands import show_commands
from accession.run.context import RunContext
from accession.run.facts import RunFacts
from accession.run.report_page import render_html
from accession.target import LogRecord, State, append_record, load_state, log_path, seal_target


class Outcome(Document):
    """The outcome of the run's tasks, as Airflow saw it.

    `failure` is the message of the first task that failed. `by` is the person who resumed the run, if any. `epoch` is
    the one in which the run owned the target.
    """

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


@dataclass(frozen=True)
class Evidence:
    """The evidence that decides how a run ends: the outcome of its tasks, and its artifacts on S3."""

    outcome: Outcome
    is_owner: bool  # the run has the target open
    may_have_written: bool  # some of the change set may be in the tables
    is_proved: bool  # the last proof of every entity is on S3 and held
    has_plan: bool
    is_empty: bool  # the plan has nothing to write
    refusal: str | None  # why the policies refuse the plan
    is_dry_run: bool
    records_changed: bool  # the ID maps differ from those of the head


class End(NamedTuple):
    """The end of a run. If it `commits`, the run becomes the head. If it `closes`, the run gives the target up."""

    status: Status
    reason: str | None
    commits: bool
    closes: bool


def decide_end(evidence: Evidence) -> End:
    """Decide how a run ends. Pure.

    A run commits if it is verified, or if it is unchanged and its records differ from those of the head. The target is
    closed by a commit, and by a run that cannot have written anything. In any other case it stays open.
    """
    status, reason = _decide_status(evidence)
    commits = status == "verified" or (status == "unchanged" and evidence.records_changed and not evidence.is_owner)
    return End(status, reason, commits, closes=evidence.is_owner and (commits or not evidence.may_have_written))


def _decide_status(evidence: Evidence) -> tuple[Status, str | None]:
    outcome = evidence.outcome
    if outcome.is_verified and evidence.is_owner and evidence.is_proved:
        return "verified", None
    if outcome.is_rolled_back:
        return "rolled_back", outcome.failure
    if evidence.refusal:
        return "refused", evidence.refusal
    if outcome.failure:
        return ("refused" if outcome.is_refused and not evidence.may_have_written else "failed"), outcome.failure
    if not evidence.has_plan:
        return "failed", "The run was stopped before its plan was made."
    if evidence.is_dry_run:
        return "dry_run", None
    if evidence.is_empty and not evidence.may_have_written:
        return "unchanged", None
    if outcome.rejected_by:
        return "rejected", f"Rejected by {outcome.rejected_by}. Nothing was written."
    return "failed", "The run was stopped before it was proved."


def end_run(run: RunContext, outcome: Outcome) -> Report:
    """Commit, release or leave the target, write report.json and report.html, and record the end in the register.

    Safe to repeat: the end of a run is recorded once.
    """
    state = load_state(run.store)
    assert state is not None
    is_owner = state.open is not None and state.open.run == run.name
    # A run that was left open and resumed ends again, even if its first end is the last record.
    recorded = None if is_owner else _find_recorded(run, state)
    report, is_last = recorded or (_record_end(run, outcome, is_owner), True)
    # If the run's own record is the last one, a retry seals again, in case the seal failed.
    if is_last and report.status in ("verified", "unchanged") and run.params.seal:
        seal_target(run.store, run.params.seal, outcome.by or run.manifest.triggered_by)
    return report


def _record_end(run: RunContext, outcome: Outcome, is_owner: bool) -> Report:
    _merge_verifications(run)
    facts = RunFacts(run)
    end = decide_end(
        Evidence(
            outcome=outcome,
            is_owner=is_owner,
            may_have_written=facts.may_have_written,
            is_proved=facts.is_proved,
            has_plan=facts.plan is not None,
            is_empty=facts.plan is not None and facts.plan.is_empty,
            refusal=facts.plan.refused if facts.plan is not None else None,
            is_dry_run=run.params.dry_run,
            records_changed=facts.records_changed,
        )
    )
    is_open, reason = is_owner and not end.closes, end.reason
    if is_open:
        commands = show_commands(run.manifest.environment, run.name, run.manifest.mapping)
        reason = f"{(reason or end.status).rstrip('.')}. The target stays open; finish it or undo it:\n{commands}"
    report = facts.build_report(
        status=end.status,
        reason=reason,
        is_open=is_open,
        approved_by=outcome.approved_by,
        preflight=outcome.preflight,
        source_changed=outcome.source_changed,
        source_rows_now=outcome.source_rows_now,
    )
    page = render_html(report, facts.rejects_csv, facts.rollback).encode()
    paths = {name: run.folder.path(name) for name in ("report.json", "report.html")}
    artifacts = {
        **report.artifacts,
        paths["report.json"]: run.store.put(paths["report.json"], report.dump()),
        paths["report.html"]: run.store.put(paths["report.html"], page),
    }

    def change(now: State) -> dict[str, Any]:
        changes: dict[str, Any] = {"closed": end.closes}
        if end.commits and (is_owner or (now.open is None and now.head == run.manifest.parent)):
            changes["head"] = run.name
        return changes

    append_record(
        run.store,
        action="run",
        by=outcome.by or run.manifest.triggered_by,
        run=run.name,
        status=end.status,
        note=report.note,
        artifacts=artifacts,
        epoch=outcome.epoch if end.commits and is_owner else None,
        change=change,
    )
    return report


def _merge_verifications(run: RunContext) -> None:
    """Write `verification.json`: the proofs of all entities in one document."""
    found = run.folder.find_verifications(run.mapping.order)
    if found:
        proofs = {name: verification.model_dump(mode="json") for name, verification in found.items()}
        run.store.put(run.folder.path("verification.json"), orjson.dumps(proofs, option=orjson.OPT_INDENT_2))


def _find_recorded(run: RunContext, state: State) -> tuple[Report, bool] | None:
    """Return the report of a run that has ended already, and whether its record is the last one; else None.

    This happens if a task was retried or cleared.
    """
    for sequence in range(state.log_tail.sequence, 0, -1):
        record = LogRecord.model_validate_json(run.store.get(log_path(sequence)))
        if record.at < run.manifest.started_at[: len("2026-01-05T12:34:56")]:
            return None  # all other records are older than the run
        if record.action == "run" and record.run == run.name:
            path = run.folder.path("report.json")
            report = run.store.find(path)
            if report is None or hashlib.sha256(report.data).hexdigest() != record.artifacts.get(path):
                return None
            return Report.model_validate_json(report.data), sequence == state.log_tail.sequence
    return None
