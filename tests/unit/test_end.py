"""How a run ends: the table of truth of `decide_end`."""

from dataclasses import replace
from itertools import product

import pytest

from accession.run import Outcome
from accession.run.end import Evidence, decide_end

WRITTEN = Evidence(
    outcome=Outcome(is_verified=True, epoch=1),
    is_owner=True,
    may_have_written=True,
    is_proved=True,
    has_plan=True,
    is_empty=False,
    refusal=None,
    is_dry_run=False,
    records_changed=True,
    wants_seal=False,
    lost=0,
    changed=0,
    accepts_lost=False,
    accepts_changed=False,
)
STOPPED = replace(WRITTEN, outcome=Outcome(), is_owner=False, may_have_written=False, is_proved=False)
FAILED = Outcome(failure="S3 is busy")


@pytest.mark.parametrize(
    ("evidence", "status", "commits", "closes"),
    [
        (WRITTEN, "verified", True, True),
        (replace(WRITTEN, is_proved=False), "failed", False, False),  # somebody marked a proof as a success
        (replace(WRITTEN, is_owner=False), "failed", False, False),  # somebody else has the target
        (replace(WRITTEN, outcome=FAILED), "failed", False, False),
        (replace(WRITTEN, outcome=FAILED, may_have_written=False), "failed", False, True),  # released
        (replace(WRITTEN, outcome=Outcome(is_rolled_back=True), is_owner=False), "rolled_back", False, False),
        (replace(WRITTEN, outcome=Outcome(failure="no", is_refused=True)), "failed", False, False),
        (replace(STOPPED, outcome=Outcome(failure="no", is_refused=True)), "refused", False, False),
        (replace(STOPPED, refusal="too many rejects"), "refused", False, False),
        (replace(STOPPED, outcome=FAILED), "failed", False, False),
        (replace(STOPPED, has_plan=False), "failed", False, False),
        (replace(STOPPED, is_dry_run=True), "dry_run", False, False),
        (replace(STOPPED, is_dry_run=True, is_empty=True), "dry_run", False, False),
        (replace(STOPPED, is_empty=True), "unchanged", True, False),
        (replace(STOPPED, is_empty=True, records_changed=False), "unchanged", False, False),
        (replace(STOPPED, outcome=Outcome(rejected_by="ann")), "rejected", False, False),
        (replace(STOPPED, is_empty=True, outcome=Outcome(rejected_by="ann")), "unchanged", True, False),
        (STOPPED, "failed", False, False),
    ],
)
def test_how_a_run_ends(evidence: Evidence, status: str, commits: bool, closes: bool) -> None:
    end = decide_end(evidence)
    assert (end.status, end.commits, end.closes) == (status, commits, closes)
    assert (end.reason is None) == (status in ("verified", "unchanged", "dry_run", "rolled_back"))


def every_evidence() -> list[Evidence]:
    outcomes = [
        Outcome(is_verified=verified, is_rolled_back=rolled_back, is_refused=refused, failure=failure, rejected_by=by)
        for verified, rolled_back, refused in product((False, True), repeat=3)
        for failure in (None, "S3 is busy")
        for by in (None, "ann")
    ]
    flags = ("is_owner", "may_have_written", "is_proved", "has_plan", "is_empty", "is_dry_run", "records_changed")
    return [
        replace(WRITTEN, outcome=outcome, refusal=refusal, **dict(zip(flags, values, strict=True)))
        for outcome in outcomes
        for refusal in (None, "too many rejects")
        for values in product((False, True), repeat=len(flags))
    ]


def test_whatever_happened() -> None:
    for evidence in every_evidence():
        end = decide_end(evidence)
        if end.status == "verified":
            assert evidence.outcome.is_verified
            assert evidence.is_owner
            assert evidence.is_proved
        if end.commits:
            assert end.status in ("verified", "unchanged")
        if end.commits and end.status == "unchanged":
            assert not evidence.may_have_written
            assert not evidence.is_owner
        if end.closes:  # only by its owner, and never over a part that was begun and not proved
            assert evidence.is_owner
            assert end.status == "verified" or not evidence.may_have_written
        if evidence.may_have_written:
            assert end.status not in ("unchanged",)
        if evidence.outcome.failure and not evidence.outcome.is_verified:
            assert end.status in ("failed", "refused", "rolled_back")
