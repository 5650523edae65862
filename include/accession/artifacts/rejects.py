"""The rejects in an ID map: rows that were not migrated, and what became of those of the run before."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from accession.artifacts.id_map import attach, open_id_map
from accession.items import RowKey


class RejectedRow(NamedTuple):
    """One row that was not migrated."""

    old_key: RowKey
    column: str
    reason: str
    held: int


def add_rejects(connection: sqlite3.Connection, rejects: Iterable[RejectedRow]) -> None:
    """Append rejected rows."""
    connection.executemany("INSERT INTO rejects VALUES (?,?,?,?)", rejects)


def compare_rejects(path: Path, head: Path | None) -> dict[str, int]:
    """Count the rejects that are new, remaining or resolved since the head."""
    counts = {"new": 0, "remaining": 0, "resolved": 0}
    for _, since in list_rejects(path, head):
        counts[since] += 1
    return counts


def list_rejects(path: Path, head: Path | None) -> Iterator[tuple[RejectedRow, str]]:
    """Yield each reject with its status since the head: new, remaining, or resolved. The resolved ones come last."""
    with closing(open_id_map(path)) as connection:
        if head is None:
            for row in connection.execute("SELECT * FROM rejects ORDER BY rowid"):
                yield RejectedRow(*row), "new"
            return
        attach(connection, head, "head")
        # IS, because a row without a key is a reject too.
        known = "EXISTS (SELECT 1 FROM head.rejects h WHERE h.old_key IS r.old_key)"
        for *row, remains in connection.execute(f"SELECT *, {known} FROM main.rejects r ORDER BY rowid"):
            yield RejectedRow(*row), "remaining" if remains else "new"
        resolved = "NOT EXISTS (SELECT 1 FROM main.rejects r WHERE r.old_key IS h.old_key)"
        for row in connection.execute(f"SELECT * FROM head.rejects h WHERE {resolved} ORDER BY rowid"):
            yield RejectedRow(*row), "resolved"
