"""Finish: decide how a run ends, commit it, release its target or leave it open, write the report, record the end."""

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
    """How the run went, as Airflow saw it.

    `failure` is the message of the first task that failed. `by` is who resumed the run, if anybody did. `epoch` is the
    one in which the run had the target.
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
    """What decides the end of a run: what Airflow says of its tasks, and what the run has left on S3."""

    outcome: Outcome
    is_owner: bool  # the run has the target open
    is_begun: bool  # something of the change set may be in the tables
    is_proved: bool  # the last proof of every entity is on S3 and holds
    has_plan: bool
    is_empty: bool  # the plan has nothing to write
    refusal: str | None  # why the policies refuse the plan
    is_dry_run: bool
    records_changed: bool  # the ID maps say something that the head's do not


class End(NamedTuple):
    """How a run ends. `commits`: it becomes the head. `closes`: it gives the target up."""

    status: Status
    reason: str | None
    commits: bool
    closes: bool


def decide_end(evidence: Evidence) -> End:
    """Decide how a run ends. Pure.

    A run commits if it is verified, or if it is unchanged and its records are not those of the head. A target is closed
    by a commit, and by a run that has not begun to write; in any other case it stays open.
    """
    status, reason = _decide_status(evidence)
    commits = status == "verified" or (status == "unchanged" and evidence.records_changed and not evidence.is_owner)
    return End(status, reason, commits, closes=evidence.is_owner and (commits or not evidence.is_begun))


def _decide_status(evidence: Evidence) -> tuple[Status, str | None]:
    outcome = evidence.outcome
    if outcome.is_verified and evidence.is_owner and evidence.is_proved:
        return "verified", None
    if outcome.is_rolled_back:
        return "rolled_back", outcome.failure
    if evidence.refusal:
        return "refused", evidence.refusal
    if outcome.failure:
        return ("refused" if outcome.is_refused and not evidence.is_begun else "failed"), outcome.failure
    if not evidence.has_plan:
        return "failed", "The run was stopped before its plan was made."
    if evidence.is_dry_run:
        return "dry_run", None
    if evidence.is_empty and not evidence.is_begun:
        return "unchanged", None
    if outcome.rejected_by:
        return "rejected", f"Rejected by {outcome.rejected_by}. Nothing was written."
    return "failed", "The run was stopped before it was proved."


def end_run(run: RunContext, outcome: Outcome) -> Report:
    """Commit, release or leave the target, write report.json and report.html, and record the end in the register.

    Safe to repeat: a run that has ended stays as it is.
    """
    state = load_state(run.store)
    assert state is not None
    is_owner = state.open is not None and state.open.run == run.name
    # A run that was left open and resumed ends again, although its first end may be the last record.
    recorded = None if is_owner else _find_recorded(run, state)
    report, is_last = recorded or (_record_end(run, outcome, is_owner), True)
    # A retry that finds nothing after the run's own record makes up for a seal that failed.
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
            is_begun=facts.is_begun,
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
    """Write `verification.json`: what every entity's proof says, in one place."""
    found = run.folder.find_verifications(run.mapping.order)
    if found:
        proofs = {name: verification.model_dump(mode="json") for name, verification in found.items()}
        run.store.put(run.folder.path("verification.json"), orjson.dumps(proofs, option=orjson.OPT_INDENT_2))


def _find_recorded(run: RunContext, state: State) -> tuple[Report, bool] | None:
    """Return the report of the run's last end, if it has ended already, and whether nothing was recorded since.

    A task was retried or cleared then.
    """
    for sequence in range(state.log_tail.sequence, 0, -1):
        record = LogRecord.model_validate_json(run.store.get(log_path(sequence)))
        if record.at < run.manifest.started_at[: len("2026-01-05T12:34:56")]:
            return None  # older than the run
        if record.action == "run" and record.run == run.name:
            path = run.folder.path("report.json")
            report = run.store.find(path)
            if report is None or hashlib.sha256(report.data).hexdigest() != record.artifacts.get(path):
                return None
            return Report.model_validate_json(report.data), sequence == state.log_tail.sequence
    return None
