"""Decide how a run ends, from the outcome of its tasks and from what it left on S3. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from accession.artifacts import Document, SourceAtEnd, Status, Step


class Outcome(Document):
    """The outcome of the run's tasks, as Airflow saw it.

    `failure` is the message of the first task that failed. `by` is the person who resumed the run, if any. `epoch` is
    the one in which `open_run` took the target; None if it did not, or died before it returned.
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
    source_at_end: SourceAtEnd = "unknown"
    source_rows_now: dict[str, int] | None = None


@dataclass(frozen=True)
class Evidence:
    """The evidence that decides how a run ends: the outcome of its tasks, and its artifacts on S3."""

    outcome: Outcome
    is_owner: bool  # the run has the target open, in the epoch of this outcome
    may_have_written: bool  # some of the change set may be in the tables
    is_proved: bool  # the last proof of every entity is on S3 and held, and no attempt at a part is unfinished
    has_plan: bool
    is_empty: bool  # the plan has nothing to write
    refusal: str | None  # why the policies refuse the plan
    is_dry_run: bool
    records_changed: bool  # the ID maps differ from those of the head
    wants_seal: bool
    lost: int  # items of earlier runs that are gone from the tables
    changed: int  # items of earlier runs that somebody changed, and those that are held back
    accepts_lost: bool  # the params say to leave the application's work as it is
    accepts_changed: bool  # the params say to seal over it


class End(NamedTuple):
    """The end of a run. If it `commits`, the run becomes the head. If it `closes`, the run gives the target up. If it
    `seals`, the target is handed over to the application. If a good status has a `reason`, the run did not do all that
    was asked.
    """

    status: Status
    reason: str | None
    commits: bool
    closes: bool
    seals: bool


def decide_end(evidence: Evidence) -> End:
    """Decide how a run ends. Pure.

    A run commits if it is verified, or if it is unchanged and its records differ from those of the head. A commit
    closes the target, and so does a run that cannot have written anything. Otherwise it stays open. It is sealed only
    by a commit over a source that is proved unchanged, with nothing lost, changed or held back in the tables.
    """
    status, reason = _decide_status(evidence)
    commits = status == "verified" or (status == "unchanged" and evidence.records_changed and not evidence.is_owner)
    closes = evidence.is_owner and (commits or not evidence.may_have_written)
    if status != "verified":
        return End(status, reason, commits, closes, seals=False)
    obstacles = _find_obstacles(evidence)
    if evidence.wants_seal and obstacles:
        reason = f"All is written and proved, but the target is not sealed: {'; '.join(obstacles)}."
    elif evidence.lost and not evidence.accepts_lost:
        reason = (
            f"All that this run wrote is proved, but {evidence.lost:,} items of earlier runs are gone from the tables: "
            "look them up in verification/. If the application deleted them, set on_conflict=keep."
        )
    return End(status, reason, commits, closes, seals=evidence.wants_seal and not obstacles)


def _find_obstacles(evidence: Evidence) -> list[str]:
    """Return the reasons why the target cannot be handed over."""
    obstacles = []
    if evidence.outcome.source_at_end == "changed":
        obstacles.append("the source changed after its backup, so trigger a new run")
    elif evidence.outcome.source_at_end == "unknown":
        obstacles.append("the source could not be compared with its backup, so trigger a new run where it can be read")
    if (evidence.lost or evidence.changed) and not evidence.accepts_changed:
        obstacles.append(
            f"{evidence.lost:,} items are gone from the tables and {evidence.changed:,} were changed or are held back, "
            "so look at them in verification/, then set accept_drift to hand them over as they are"
        )
    return obstacles


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
        done = "This resume wrote nothing." if evidence.may_have_written else "Nothing was written."
        return "rejected", f"Rejected by {outcome.rejected_by}. {done}"
    return "failed", "The run was stopped before it was proved."
