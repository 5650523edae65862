"""Items of hundreds of kilobytes: no step holds many of them at once."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from accession.cli.sample import write_sample
from accession.dynamodb import DynamoDB
from accession.items import ItemKey, Table, TypedItem, measure_item
from accession.run.batches import READ_BYTES
from conftest import Library
from driver import Driver

ITEM_BYTES = 390_000
BOOKS = 30  # more than a read may hold


class Measuring(DynamoDB):
    """Keeps how many bytes of items each read returned."""

    read: ClassVar[list[int]] = []

    def read_items(self, table: Table, keys: Sequence[ItemKey]) -> dict[ItemKey, TypedItem]:
        found = super().read_items(table, keys)
        self.read.append(sum(map(measure_item, found.values())))
        return found


class MeasuredDriver(Driver):
    def connect(self, epoch: int | None = None) -> DynamoDB:
        return Measuring(self.client)


def edit(source: Path, statement: str) -> None:
    with closing(sqlite3.connect(source)) as db, db:
        db.execute(statement)


def test_no_step_reads_more_than_8_mb_of_items_at_once(library: Library, tmp_path: Path) -> None:
    """Staging, writing, undoing and proving read a thousand items together, of up to 400 KB each."""
    source = write_sample(tmp_path / "site.db", users=2, books=BOOKS, user_books=2, orphans=0, odd=0)
    edit(source, f"UPDATE book SET description = printf('%.{ITEM_BYTES}c', 'x')")
    Measuring.read.clear()
    assert MeasuredDriver(library, source).run().status == "verified"
    assert MeasuredDriver(library, source).run().status == "unchanged"
    samples = sum(Measuring.read)
    assert samples > BOOKS * ITEM_BYTES, "they show that the tables are not emptied"
    edit(source, "UPDATE book SET description = description || 'y'")
    updated = MeasuredDriver(library, source)
    assert updated.run().totals["updated"] == BOOKS
    assert sum(Measuring.read) - samples > 2 * BOOKS * ITEM_BYTES, "once while staging, once just before"
    edit(source, "DELETE FROM user_book")
    edit(source, "DELETE FROM book")
    removed = MeasuredDriver(library, source)
    assert removed.run().totals["deleted"] == BOOKS + 2
    assert not removed.undo().conflicts
    assert not updated.undo().conflicts
    assert max(Measuring.read) <= READ_BYTES + ITEM_BYTES + 1000
    assert sum(Measuring.read) - samples >= 7 * BOOKS * ITEM_BYTES, "what each step read"
