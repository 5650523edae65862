"""Finish a run: commit it, release its target or leave it open, and write report and record."""

import hashlib
from typing import Any

import orjson

from accession.artifacts import Changed, Found, Report
from accession.commands import show_commands
from accession.errors import TransientError
from accession.run.context import RunContext
from accession.run.end import End, Evidence, Outcome, decide_end
from accession.run.facts import RunFacts
from accession.run.report_page import render_html
from accession.target import LogRecord, State, append_record, find_last_record, load_state, make_seal, settle, take_over


def end_run(run: RunContext, outcome: Outcome) -> Report:
    """Commit, release or leave the target, write report.json and report.html, and record the end in the register.

    Safe to repeat: the end of a run is recorded once.
    """
    for _ in range(5):
        # Before the state: so what an end that is recorded later writes is not taken for what was there before.
        seen = {
            name: run.store.find(run.folder.path(name)) for name in ("verification.json", "report.json", "report.html")
        }
        state = load_state(run.store)
        assert state is not None
        epoch = _find_epoch(run, outcome, state)
        # A run that was left open and resumed ends again, even if its first end is the last record.
        if epoch is None:
            last = find_last_record(run.store, state, run.manifest.log_sequence, lambda one: one.run == run.name)
            if (recorded := _find_recorded(run, last)) is not None:
                return recorded
            if last is not None and last.action == "undo" and last.closed:
                outcome = outcome.model_copy(update={"is_rolled_back": True})
        try:
            return _Ending(run, outcome, epoch, state, seen).record()
        except Changed:
            continue  # another report of the same run came first
    raise TransientError(f"Other reports of run {run.name} keep being written: try again later.")


def _find_epoch(run: RunContext, outcome: Outcome, state: State) -> int | None:
    """Return the epoch in which the DAG run of this outcome has the target open, or None if it has not.

    If `open_run` could not tell its epoch, the target is that DAG run's only if nobody has taken it over since.
    """
    opened = state.open
    if opened is None or opened.run != run.name:
        return None
    if outcome.epoch is None:
        return opened.epoch if opened.origin is None and not run.params.resume else None
    return opened.epoch if outcome.epoch in (opened.epoch, opened.origin) else None


class _Ending:
    """The end of a run: what it leaves is written over what was there when it began to look, or not at all."""

    def __init__(
        self, run: RunContext, outcome: Outcome, epoch: int | None, state: State, seen: dict[str, Found | None]
    ) -> None:
        self.run, self.outcome, self.epoch, self.seen = run, outcome, epoch, seen
        self.is_open = state.open is not None and state.open.run == run.name
        self.last_record = state.log_tail.sequence

    def record(self) -> Report:
        """Write everything, and return the report. Raises Changed if another end was recorded meanwhile."""
        run, outcome, is_owner = self.run, self.outcome, self.epoch is not None
        self._merge_verifications()
        facts = RunFacts(run)
        if self.epoch is not None and not facts.may_have_written:
            facts = self._stop_writers(self.epoch)
        plan, params = facts.plan, run.params
        end = decide_end(
            Evidence(
                # An automatic rollback that took the target over has undone some of what was verified.
                outcome=outcome.model_copy(update={"is_verified": outcome.is_verified and outcome.epoch == self.epoch}),
                is_owner=is_owner,
                may_have_written=facts.may_have_written,
                is_proved=facts.is_proved,
                has_plan=plan is not None,
                is_empty=plan is not None and plan.is_empty,
                refusal=plan.refused if plan is not None else None,
                is_dry_run=params.dry_run,
                records_changed=facts.records_changed,
                wants_seal=bool(params.seal),
                lost=facts.count_problems("lost"),
                changed=facts.count_problems("drifted") + facts.count_problems("held"),
                accepts_lost=params.on_conflict == "keep" or params.accept_drift,
                accepts_changed=params.accept_drift,
            )
        )
        is_open, reason = self.is_open and not end.closes, end.reason
        if is_open:
            commands = show_commands(run.manifest.environment, run.name, run.manifest.mapping)
            reason = f"{(reason or end.status).rstrip('.')}. The target stays open; finish it or undo it:\n{commands}"
        report = facts.build_report(
            status=end.status,
            reason=reason,
            is_open=is_open,
            approved_by=outcome.approved_by,
            preflight=outcome.preflight,
            source_at_end=outcome.source_at_end,
            source_rows_now=outcome.source_rows_now,
        )
        page = render_html(report, facts.rejects_csv, facts.rollback).encode()
        written = {
            run.folder.path("report.json"): self._replace("report.json", report.dump()),
            run.folder.path("report.html"): self._replace("report.html", page),
        }
        self._append_record(end, report, written)
        return report

    def _stop_writers(self, epoch: int) -> RunFacts:
        """Take the target over before it is released, since a writer may be about to begin, and look again."""
        origin = epoch if self.outcome.epoch is None else self.outcome.epoch
        opened = take_over(self.run.store, self.run.name, origin).open
        assert opened is not None
        self.epoch = opened.epoch
        settle(self.run.host)
        return RunFacts(self.run)

    def _replace(self, name: str, data: bytes) -> str:
        return self.run.store.replace(self.run.folder.path(name), data, self.seen[name])

    def _append_record(self, end: End, report: Report, written: dict[str, str]) -> None:
        run, by = self.run, self.outcome.by or self.run.manifest.triggered_by
        is_owner = self.epoch is not None
        seal = make_seal(run.store, run.params.seal, by) if end.seals and run.params.seal else None

        def change(now: State) -> dict[str, Any]:
            is_open = now.open is not None and now.open.run == run.name
            newer = find_last_record(run.store, now, self.last_record, lambda one: one.run == run.name)
            is_ours = all(run.store.hash(path) == digest for path, digest in written.items())
            if is_open != self.is_open or newer is not None or not is_ours:
                raise Changed(run.folder.path("report.json"))
            changes: dict[str, Any] = {"closed": end.closes}
            if end.commits and (is_owner or (now.open is None and now.head == run.manifest.parent)):
                changes["head"] = run.name
            return changes | ({"sealed": seal} if seal else {})

        append_record(
            run.store,
            action="run",
            by=by,
            run=run.name,
            status=end.status,
            note=f"{report.note}, sealed" if seal else report.note,
            artifacts=report.artifacts | written,
            epoch=self.epoch if end.closes else None,
            change=change,
        )

    def _merge_verifications(self) -> None:
        """Write `verification.json`: the proofs of all entities in one document."""
        found = self.run.folder.find_verifications(self.run.mapping.order)
        if found:
            proofs = {name: verification.model_dump(mode="json") for name, verification in found.items()}
            self._replace("verification.json", orjson.dumps(proofs, option=orjson.OPT_INDENT_2))


def _find_recorded(run: RunContext, record: LogRecord | None) -> Report | None:
    """Return the report of a run that has ended already, or None. This happens if a task was retried or cleared."""
    if record is None or record.action != "run":
        return None
    path = run.folder.path("report.json")
    report = run.store.find(path)
    if report is None or hashlib.sha256(report.data).hexdigest() != record.artifacts.get(path):
        return None
    return run.folder.load_report()
