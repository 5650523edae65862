"""The source: a small library of authors and books in SQLite, and what its rows must become."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from simulation.s3 import S3

Row = tuple[Any, ...]

KEY = "library/site.db"
ADDRESS = f"s3://{KEY}"

SCHEMA = """
CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE book (id INTEGER PRIMARY KEY, author_id INTEGER, title TEXT, stars INTEGER);
"""
IDS = 6  # of each table: few, so that they are used again


class Source:
    """The file on S3, and its rows: entity → id → the other columns."""

    def __init__(self, service: S3, chance: random.Random) -> None:
        self._service, self._random = service, chance
        self.rows: dict[str, dict[int, Row]] = {"author": {}, "book": {}}
        self._number = 0

    def edit(self, times: int = 1) -> None:
        """Insert, change, delete or replace so many rows, as one transaction."""
        for _ in range(times):
            self._random.choice((self._insert, self._insert, self._change, self._change, self._delete, self._reuse))()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "site.db"
            has_wal = self._random.random() < 0.2
            with closing(sqlite3.connect(path if has_wal else ":memory:", isolation_level=None)) as db:
                if has_wal:
                    db.execute("PRAGMA journal_mode = WAL")
                db.executescript(SCHEMA)
                if has_wal:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                db.execute("BEGIN")
                for entity, rows in self.rows.items():
                    for number, row in sorted(rows.items()):
                        db.execute(f"INSERT INTO {entity} VALUES (?{',?' * len(row)})", (number, *row))
                db.execute("COMMIT")
                data, wal = (
                    (path.read_bytes(), path.with_name("site.db-wal").read_bytes())
                    if has_wal
                    else (db.serialize(), None)
                )
        self._service.put(KEY, data, {}, None)
        if wal is None:
            self._service.delete(f"{KEY}-wal", None)
        else:
            self._service.put(f"{KEY}-wal", wal, {}, None)

    def copy(self, other: "Source") -> None:
        """Take over the rows of another source; its file is on S3 already."""
        self.rows = {entity: dict(rows) for entity, rows in other.rows.items()}
        self._number = other._number

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _make(self, entity: str) -> Row | None:
        number = self._next()
        if entity == "author":
            return (f"Author {number}", self._random.choice((None, "Norway", "Finland")))
        if not self.rows["author"]:
            return None
        return (self._random.choice(sorted(self.rows["author"])), f"Title {number}", self._random.choice((None, 1, 5)))

    def _insert(self) -> None:
        entity = self._random.choice(("author", "book", "book"))
        free = [number for number in range(1, IDS + 1) if number not in self.rows[entity]]
        row = self._make(entity)
        if free and row:
            self.rows[entity][self._random.choice(free)] = row

    def _pick(self) -> tuple[str, int] | None:
        known = [(entity, number) for entity, rows in self.rows.items() for number in rows]
        return self._random.choice(known) if known else None

    def _change(self) -> None:
        if picked := self._pick():
            entity, number = picked
            row = self.rows[entity][number]
            if entity == "author":
                self.rows[entity][number] = (row[0], f"Country {self._next()}")
            else:
                author = self._random.choice(sorted(self.rows["author"]) or [1])
                self.rows[entity][number] = (author, row[1], self._next())

    def _delete(self) -> None:
        if picked := self._pick():
            entity, number = picked
            del self.rows[entity][number]
            if entity == "author":  # its books go with it
                self.rows["book"] = {i: row for i, row in self.rows["book"].items() if row[0] != number}

    def _reuse(self) -> None:
        """Give a row's id to another thing."""
        if (picked := self._pick()) and (row := self._make(picked[0])):
            self.rows[picked[0]][picked[1]] = row


def read_rows(data: bytes) -> dict[str, dict[int, Row]]:
    """Return the rows of a stored backup."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(data)
        return {
            entity: {number: tuple(rest) for number, *rest in db.execute(f"SELECT * FROM {entity}")}
            for entity in ("author", "book")
        }


def make_item(entity: str, key: str, row: Row, authors: dict[int, str], default: str) -> dict[str, dict[str, Any]]:
    """Return the item that a row must become. `authors` are the keys of the authors, by their ids."""
    if entity == "author":
        return {"author_id": {"S": key}, "name": {"S": row[0]}, "country": {"S": row[1] or default}}
    stars = {"NULL": True} if row[2] is None else {"N": str(row[2])}
    return {"book_id": {"S": key}, "author_id": {"S": authors[row[0]]}, "title": {"S": row[1]}, "stars": stars}
