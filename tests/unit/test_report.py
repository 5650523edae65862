"""The numbers of a run: the stable report.json, its one line, the table in the log; and no value that is sensitive."""

import json
from typing import Any

import pytest
from pydantic import ValidationError
from test_report_page import RUN, make_report

from accession.artifacts import GOOD, EntityReport, Report
from accession.run import show_summary
from accession.run.summary import COLUMNS

# The format of report.json is stable (include/accession/artifacts/report.py): others build on these names.
STABLE = {
    "run",
    "airflow_run_id",
    "mapping",
    "environment",
    "status",
    "snapshot",
    "entities",
    "id_maps",
    "write_units",
    "price_usd",
    "seconds",
    "triggered_by",
    "approved_by",
    "source_changed_during_run",
    "artifacts",
}
STABLE_ENTITY = {
    "table",
    "source_rows",
    "put",
    "updated",
    "unchanged",
    "deleted",
    "rejected",
    "conflicts",
    "adjusted",
    "outdated",
    "verified",
    "missing",
    "mismatched",
    "drifted",
    "lost",
    "held",
    "unexpected",
}


def test_the_names_that_others_build_on_are_there() -> None:
    document = json.loads(make_report().dump())
    assert document.keys() >= STABLE
    assert document["snapshot"].keys() >= {"sha256", "uri", "bytes"}
    assert document["entities"]["user"].keys() == STABLE_ENTITY
    for name in ("write_units", "price_usd"):
        assert document[name].keys() == {"planned", "consumed"}


def test_a_report_is_read_back_as_it_was_written() -> None:
    report = make_report(steps=[], approved_by=None)
    assert Report.model_validate_json(report.dump()) == report
    assert Report.model_validate_json(report.dump()).dump() == report.dump()


@pytest.mark.parametrize(
    "change", [{"status": "fine"}, {"extra": 1}, {"entities": {"user": {"table": "T", "rows": 1}}}]
)
def test_an_unknown_status_or_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Report.model_validate({**make_report().model_dump(), **change})


def test_only_three_statuses_are_good() -> None:
    assert GOOD == ("verified", "unchanged", "dry_run")


def test_totals_add_up_all_entities() -> None:
    entities = {name: EntityReport(table=name, put=3, held=1, unexpected=number) for number, name in enumerate("abc")}
    totals = make_report(entities=entities).totals
    assert (totals["put"], totals["held"], totals["unexpected"], totals["missing"]) == (9, 3, 3, 0)
    assert totals.keys() == STABLE_ENTITY - {"table"}


@pytest.mark.parametrize(
    ("status", "numbers", "note"),
    [
        ("verified", {"put": 3, "deleted": 1, "unchanged": 25996}, "3 put, 1 deleted, 25,996 unchanged, verified"),
        ("unchanged", {"unchanged": 5}, "5 unchanged, unchanged"),
        ("dry_run", {"put": 1}, "1 put, dry run"),
        ("rolled_back", {}, "rolled back"),
        ("failed", {"mismatched": 2, "rejected": 1, "drifted": 4}, "1 rejected, 2 mismatched, 4 drifted, failed"),
    ],
)
def test_the_note_says_in_one_line_what_the_run_did(status: Any, numbers: dict[str, int], note: str) -> None:
    report = make_report(status=status, entities={"user": EntityReport(table="T", **numbers)})
    assert report.note == note


def test_the_summary_is_a_table_of_all_entities_with_a_total() -> None:
    lines = show_summary(make_report()).splitlines()
    assert lines[0] == f"Run {RUN}: VERIFIED"
    assert lines[2].split() == ["table", *COLUMNS]
    assert lines[4].split() == ["BookLibrary-Users-dev", "120", "120", *"00000", "120", "0", "0"]
    assert lines[5].split() == ["BookLibrary-Books-dev", "2,200", "2,000", "0", "200", *"000", "2,200", "0", "0"]
    assert lines[7].split() == ["total", "2,320", "2,120", "0", "200", *"000", "2,320", "0", "0"]
    assert len({len(line) for line in lines[1:8]}) == 1
    assert "9,120 write units consumed, 9,000 planned, $0.0061" in lines[8]


def test_the_summary_says_why_a_run_failed() -> None:
    summary = show_summary(make_report(status="failed", reason="index x is missing: deploy it first."))
    assert summary.splitlines()[:2] == [f"Run {RUN}: FAILED", "index x is missing: deploy it first."]


def test_a_run_without_entities_is_told_too() -> None:
    """One that failed before anything was staged."""
    assert "total" in show_summary(make_report(status="failed", entities={}, steps=[], seconds={}))
