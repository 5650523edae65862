"""Rows of hundreds of kilobytes: migrated, edited, migrated again and undone, in the same memory for any number."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from lab import Lab
from sections import say

from accession.run.comparison import SEGMENTS

ENTITY = "document"
MAPPING = """
name: documents
entities:
  document:
    source: {table: document, key: id}
    target: {table: "Documents-{environment}", key: document_id}
    attributes:
      note: {column: note, type: string}
      data: {column: data, type: binary}
"""
ROW_BYTES = 390_000
BLOCK_BYTES = 7_800  # of which a row is made: it repeats within the 32 KB that gzip looks back


def measure_large(lab: Lab, few: int, many: int) -> dict[str, Any]:
    """Peak memory of every step on `few` and on `many` rows of 390 KB, each in a process of its own."""
    mapping = lab.scratch / "documents.yaml"
    mapping.write_text(MAPPING)
    return {str(rows): _measure(lab, mapping, rows) for rows in (few, many)}


def _measure(lab: Lab, mapping: Path, rows: int) -> dict[str, Any]:
    """One library: its first run, a second one after an edit of every row, and the undo of both."""
    environment = f"large{rows}"
    bucket, table = lab.bucket(environment), f"Documents-{environment}"
    here = {"bucket": bucket, "environment": environment, "mapping": str(mapping)}
    lab.s3.create_bucket(Bucket=bucket)
    lab.tell(
        "CreateTable",
        TableName=table,
        KeySchema=[{"AttributeName": "document_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "document_id", "AttributeType": "S"}],
    )
    lab.tell("StandIn.Set", latency=0, units=0)
    source = _write_documents(lab.scratch / f"documents-{rows}.db", rows)
    costs: dict[str, dict[str, Any]] = {}

    def step(kind: str, title: str, **request: Any) -> dict[str, Any]:
        costs[title] = lab.step(step=kind, **here, **request)
        return costs[title]

    def migrate(title: str) -> str:
        run: str = step("backup", f"{title}: backup", source=str(source))["run"]
        step("stage", f"{title}: stage", run=run, name=ENTITY)
        step("plan", f"{title}: plan", run=run)
        epoch = step("open", f"{title}: open", run=run)["epoch"]
        step("migrate", f"{title}: migrate", run=run, name=ENTITY, epoch=epoch)
        lab.tell("StandIn.Pages", table=table, segments=SEGMENTS, limit=0)
        step("verify", f"{title}: verify", run=run, name=ENTITY)
        step("report", f"{title}: report", run=run, epoch=epoch)
        return run

    first = migrate("first run")
    migrated = lab.tell("StandIn.Report", table=table)
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("UPDATE document SET note = 'edited'")
    second = migrate("edited")
    edited = lab.tell("StandIn.Report", table=table)
    step("undo", "undo of the edit", run=second)
    undone = lab.tell("StandIn.Report", table=table)
    step("undo", "undo of the first run", run=first)
    emptied = lab.tell("StandIn.Report", table=table)

    lab.tell("StandIn.Empty", table=table)
    for entry in lab.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket).search("Contents[]"):
        lab.s3.delete_object(Bucket=bucket, Key=entry["Key"])
    source.unlink()
    verified = [costs[f"{title}: verify"]["rows"] for title in ("first run", "edited")]
    seconds = sum(cost["wall"] for cost in costs.values())
    peaks = {title: cost["rss_peak"] / 2**20 for title, cost in costs.items()}
    say(f"  {rows:,} rows of 390 KB: {seconds:.0f} s, at most {max(peaks.values()):.0f} MiB")
    return {
        "bytes": rows * ROW_BYTES,
        "exact": verified == [rows, rows]
        and (migrated["items"], edited["items"], emptied["items"]) == (rows, rows, 0)
        and migrated["checksum"] == undone["checksum"] != edited["checksum"],
        "peak_mib": peaks,
        "seconds": {title: cost["wall"] for title, cost in costs.items()},
    }


def _write_documents(path: Path, rows: int) -> Path:
    """Write rows that all differ."""
    chance = random.Random(rows)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("CREATE TABLE document (id INTEGER PRIMARY KEY, note TEXT, data BLOB)")
        db.executemany(
            "INSERT INTO document VALUES (?, 'as it was', ?)",
            ((key, chance.randbytes(BLOCK_BYTES) * (ROW_BYTES // BLOCK_BYTES)) for key in range(1, rows + 1)),
        )
    return path
