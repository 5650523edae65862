"""The page of real runs: what is sensitive never reaches it, and what it says is what happened."""

import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from test_audit import History

from accession.artifacts import run_path
from accession.commands import show_rollback
from accession.errors import ConflictError

SECRET = "s3cr3t-marker"


@pytest.fixture
def history(library: Any, tmp_path: Path) -> History:
    return History(library, tmp_path)


def find_sensitive(history: History) -> set[bytes]:
    """Every e-mail and password hash of the source, as they would show in a text."""
    with closing(sqlite3.connect(history.source)) as db:
        db.text_factory = bytes
        rows = db.execute("SELECT CAST(email AS BLOB), CAST(password_hash AS BLOB) FROM user").fetchall()
    return {value[:40] for row in rows for value in row} | {SECRET.encode()}


def test_sensitive_values_never_reach_the_page(history: History) -> None:
    """Each of these rows is rejected because of its sensitive column, or refers to one that is."""
    with closing(sqlite3.connect(history.source)) as db, db:
        broken = [
            (101, "blob", sqlite3.Binary(SECRET.encode() + b"\xff"), f"{SECRET}-hash"),
            (102, "long", SECRET + "@" + "e" * 3000, f"{SECRET}-hash"),
            (103, "hash", "h@example.org", SECRET + "#" * 500_000),
            (104, "text", f"{SECRET}\ud83d@example.org".encode("utf-16", "surrogatepass"), f"{SECRET}-hash"),
        ]
        db.executemany("INSERT INTO user VALUES (?, ?, ?, ?)", broken)
        db.execute(
            "INSERT INTO user VALUES (105, 'cast', CAST(? AS TEXT), 'secret-hash')", (SECRET.encode() + b"\xff",)
        )
        db.execute("UPDATE user_book SET user_id = 103 WHERE id = 1")
    report = history.run(max_rejects=10)
    assert report.status == "verified"
    assert report.totals["rejected"] >= 4
    folder = run_path(report.run)
    for name in ("report.html", "report.json", "rejects.csv", "plan.json", "manifest.json"):
        data = history.store.get(folder + name)
        for value in find_sensitive(history):
            assert value not in data, (name, value)
    page = history.store.get(folder + "report.html").decode()
    assert "password_hash" in page
    assert "user 103" in page
    assert "that was rejected itself" in page


def test_the_page_is_made_for_every_end(history: History) -> None:
    dry = history.stage(dry_run=True)
    history.end(dry)
    refused = history.stage()
    history.end(refused, failure="index gone", is_refused=True)
    rejected = history.stage()
    history.end(rejected, rejected_by="ann")
    failed = history.stage()
    history.write(failed)
    report = history.end(failed, failure="the proof failed.")
    assert report.is_open
    pages = [
        history.store.get(run_path(manifest.run, "report.html")).decode()
        for manifest in (dry, refused, rejected, failed)
    ]
    for page, words in zip(
        pages,
        ("A rehearsal", "refused before its first write", "said no to the plan", "the target stays open"),
        strict=True,
    ):
        assert words in page
    environment = history.library.environment
    assert f">make migrate ENVIRONMENT={environment} RESUME={failed.run}<" in pages[-1]
    undo = f">{show_rollback(environment, failed.run)}<"
    assert unescape(pages[-1]).count(undo) == 2, "in the reason, and under How to undo this run"
    assert "the proof failed. The target stays open" in pages[-1]


def test_an_undo_that_met_the_applications_work_is_told_on_the_page(history: History) -> None:
    manifest = history.stage()
    epoch = history.write(manifest)
    (item, *_) = history.library.scan("user")
    key = item["user_id"]
    history.library.aws.client("dynamodb").update_item(
        TableName=history.library.tables["user"],
        Key={"user_id": key},
        UpdateExpression="SET username = :u",
        ExpressionAttributeValues={":u": {"S": "renamed by the application"}},
    )
    with pytest.raises(ConflictError):
        history.undo(manifest.run)
    report = history.end(manifest, failure="the undo met conflicts", epoch=epoch)
    page = history.store.get(run_path(manifest.run, "report.html")).decode()
    assert report.is_open
    assert key["S"] in page
    assert "changed by the application since" in page
    assert "renamed by the application" not in page
    assert history.audit().ok
