"""The change set on S3: written once whoever is late, and of a size that a worker's memory can take."""

import gc
import gzip
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from accession.artifacts import Store
from accession.audit import audit_target
from accession.cli.sample import write_sample
from accession.errors import StoreError
from accession.mapping import Mapping, load_mapping
from conftest import Library
from driver import IMPATIENT, Driver

BLOBS = """
name: blobs
entities:
  blob:
    source: {table: blob, key: id}
    target: {table: "Blobs-{environment}", key: blob_id}
    attributes:
      note: {column: note, type: string}
      data: {column: data, type: binary}
"""
BLOB_BYTES = 300_000
MB = 1024**2


def edit(source: Path, *statements: str) -> None:
    with closing(sqlite3.connect(source)) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.fixture
def mapping(library: Library, tmp_path: Path) -> Mapping:
    """A mapping of large items, and its table."""
    library.aws.client("dynamodb").create_table(
        TableName=f"Blobs-{library.environment}",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "blob_id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "blob_id", "KeyType": "HASH"}],
    )
    path = tmp_path / "blobs.yaml"
    path.write_text(BLOBS)
    return load_mapping(path)


def write_blobs(path: Path, rows: int) -> Path:
    edit(path, "CREATE TABLE blob (id INTEGER PRIMARY KEY, note TEXT, data BLOB)")
    numbers = f"WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    edit(path, f"{numbers} INSERT INTO blob SELECT i, 'as it was', randomblob({BLOB_BYTES}) FROM n")
    return path


def measure_peak(call: Callable[[], Any]) -> float:
    """Call a function, and return by how much the resident memory of this process grew meanwhile at most, in MB.

    (tracemalloc counts what orjson reserves for each text, ten times what it fills.)
    """

    def read(name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0])

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
    before = read("VmRSS")
    call()
    return (read("VmHWM") - before) / 1024


# Written once


def test_a_late_attempt_to_stage_changes_nothing_that_its_run_recorded(library: Library, tmp_path: Path) -> None:
    """It reads the target, is overtaken by its retry and all that follows, and only then uploads what it made."""
    source = write_sample(tmp_path / "site.db", users=3, books=4, user_books=5, orphans=0, odd=0)
    first = Driver(library, source)
    first.run()
    books = {entry.old_key: entry.new_id for entry in first.id_map("book")}
    edit(source, "UPDATE book SET title = 'ours' WHERE id IN (1, 2)")
    driver = Driver(library, source, on_conflict="keep")
    driver.start()
    driver.stage("user")
    late = Driver(library, source, on_conflict="keep")
    late.run_name = driver.run_name
    client = boto3.client("s3")
    late.store = Store(client, library.bucket, late.mapping.name, library.environment, IMPATIENT)
    overtaken: list[str] = []

    def overtake(**_: Any) -> None:
        if not overtaken:
            overtaken.append(driver.run_name)
            library.aws.client("dynamodb").update_item(
                TableName=library.tables["book"],
                Key={"book_id": {"S": books[1]}},
                UpdateExpression="SET title = :theirs",
                ExpressionAttributeValues={":theirs": {"S": "theirs"}},
            )
            driver.stage("book")
            driver.stage("user_book")
            driver.plan()
            driver.open()
            driver.migrate_all()
            for name in driver.mapping.order:
                driver.verify(name)
            assert driver.end().status == "verified"

    client.meta.events.register_first("before-parameter-build.s3.PutObject", overtake)
    staged = late.stage("book")
    assert overtaken
    assert staged == driver.index("book"), "the index is that of the attempt which came first"
    audit = audit_target(driver.store)
    assert audit.ok, audit.first_problem
    assert {note.reason for note in audit.unregistered} == {"left by an attempt that another one overtook"}
    driver.undo()
    titles = {key: item["title"]["S"] for key, item in first.items("book").items()}
    assert titles[1] == "theirs"
    assert "ours" not in titles.values()


def test_an_id_map_of_a_parent_that_was_altered_is_refused(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db", users=3, books=4, user_books=5, orphans=0, odd=0))
    driver.start()
    user, book = driver.stage("user"), driver.stage("book")
    driver.store.put(driver.store.path(user.id_map), driver.store.get(driver.store.path(book.id_map)))
    with pytest.raises(StoreError, match="is damaged: its SHA-256 is not"):
        driver.stage("user_book")


# Bounded by bytes


def test_large_items_are_staged_in_small_parts_and_flat_memory(
    library: Library, mapping: Mapping, tmp_path: Path
) -> None:
    """70 MB of lines. The uploads of boto3 hold two pieces of 8 MB."""
    rows = 175
    driver = Driver(library, write_blobs(tmp_path / "blobs.db", rows), mapping=mapping)
    driver.start()
    assert measure_peak(lambda: driver.stage("blob")) < 60
    paths = list(driver.store.list(f"runs/{driver.run_name}/changes/blob/0"))
    sizes = [len(gzip.decompress(driver.store.get(path))) for path in paths]
    assert len(paths) == 2
    assert all(size <= 64 * MB for size in sizes)
    keys: list[Any] = [change.old_key for change in driver.changes("blob")]
    assert sorted(keys) == list(range(1, rows + 1))
    folder, (part, *_) = driver.steps.folder, driver.index("blob").parts
    assert measure_peak(lambda: sum(1 for _ in folder.read_lines("blob", part))) < 30


def test_large_items_that_change_are_staged_in_flat_memory(library: Library, mapping: Mapping, tmp_path: Path) -> None:
    """Each is read from the table before: 100 items of 400 KB of JSON, as they were and as they will be."""
    source = write_blobs(tmp_path / "blobs.db", 100)
    assert Driver(library, source, mapping=mapping).run().status == "verified"
    for statement, count in (("UPDATE blob SET note = 'as it is'", "updated"), ("DELETE FROM blob", "deleted")):
        edit(source, statement)
        driver = Driver(library, source, mapping=mapping)
        driver.start()
        assert measure_peak(lambda driver=driver: driver.stage("blob")) < 70  # type: ignore[misc]
        assert getattr(driver.index("blob").counts, count) == 100
