"""Queries that a mapping brings: describe their columns, and materialise their rows beside the tables of the source."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from accession.errors import SourceError
from accession.source.database import find_affinity, quote, reading
from accession.source.guard import guarding

PROBE = "columns of a query"


def check_queries(path: Path, queries: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, dict[str, str]]:
    """Check queries with the columns that are read from them, and return the columns' affinities as `describe_query`.

    The queries are named by their fields in the mapping. Read-only, and no row is read. Raises SourceError.
    """
    with reading(path) as db:
        return {field: describe_query(db, field, query, columns) for field, (query, columns) in queries.items()}


def list_columns(db: sqlite3.Connection, field: str, query: str) -> list[str]:
    """Return the names of a query's columns. Raises SourceError if SQLite refuses it, or if it may not be used."""
    with guarding(db, field):
        return [column[0] for column in db.execute(f"SELECT * FROM (\n{query}\n) LIMIT 0").description]


def describe_query(db: sqlite3.Connection, field: str, query: str, columns: Iterable[str]) -> dict[str, str]:
    """Return the affinity of each of these columns of a query, by the column's name in lower case.

    A column has the affinity of the table's column or the CAST that it is, and BLOB, which changes no value, if it is
    another expression. Raises SourceError if SQLite refuses the query, or if it may not be used; see `guarding`.
    """
    rows = f"{_select(query, columns)} LIMIT 0"
    with guarding(db, field):
        db.execute(rows)
    db.execute(f"CREATE TEMP TABLE {quote(PROBE)} AS {rows}")
    described = db.execute("SELECT name, type FROM temp.pragma_table_xinfo(?)", (PROBE,)).fetchall()
    db.execute(f"DROP TABLE temp.{quote(PROBE)}")
    return {name.lower(): find_affinity(declared) for name, declared in described}


def materialise_query(
    db: sqlite3.Connection,
    field: str,
    query: str,
    table: str,
    columns: Sequence[str],
    key: Sequence[str],
    unique: Sequence[str],
) -> None:
    """Write the rows of a query to a temporary table, on disk, with an index on the key and on each of `unique`.

    Values stay as the query gives them; only the key and the columns in `unique` take the affinity that
    `describe_query` returns. Rows with one key may repeat. Raises SourceError if SQLite refuses the query, if it may
    not be used, or if a column in `unique` has a value more than once.
    """
    affinities = describe_query(db, field, query, columns)
    indexed = {column.lower() for column in (*key, *unique)}
    declared = (f"{quote(c)} {affinities[c.lower()] if c.lower() in indexed else ''}" for c in columns)
    db.execute(f"CREATE TEMP TABLE {quote(table)} ({', '.join(declared)})")
    with guarding(db, field):
        db.execute(f"INSERT INTO temp.{quote(table)} {_select(query, columns)}")
    name = quote(f"key of {table}")
    db.execute(f"CREATE INDEX temp.{name} ON {quote(table)} ({', '.join(map(quote, key))})")
    for column in unique:
        try:
            name = quote(f"{column} of {table}")
            db.execute(f"CREATE UNIQUE INDEX temp.{name} ON {quote(table)} ({quote(column)})")
        except sqlite3.IntegrityError as error:
            raise SourceError(
                f"{field}: its column {column}, which references find its rows by, holds a value more than once: refer "
                "to a column that is unique, or change the query."
            ) from error


def _select(query: str, columns: Iterable[str]) -> str:
    # Qualified, since SQLite reads an unknown name alone in quotes as text. A query may end with a comment.
    return f"SELECT {', '.join(f'q.{quote(column)}' for column in columns)} FROM (\n{query}\n) q"
