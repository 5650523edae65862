"""What a schema has that a mapping file lacks, and the other way round."""

import sqlite3
from pathlib import Path

from accession.draft.keys import Keyless, find_key
from accession.draft.names import show_name
from accession.draft.schema import TableSchema, fold_case, read_schema
from accession.draft.values import read_values
from accession.mapping import Entity, Mapping
from accession.source import reading


def compare_schema(source: Path, mapping: Mapping) -> list[str]:
    """Return a sentence for each table and column that only the database has, or only the mapping. Read-only.

    Tables and columns that no draft takes are not missing. Raises SourceError.
    """
    entities: dict[bytes, list[Entity]] = {}
    for entity in mapping.entities.values():
        if entity.source.table is not None:
            entities.setdefault(fold_case(entity.source.table), []).append(entity)
    queries = " ".join(entity.source.query or "" for entity in mapping.entities.values()).lower()
    with reading(source) as db:
        db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        schema = read_schema(db)
        left_out = {fold_case(name) for name in schema.left_out}
        found = []
        for table in schema.tables:
            using = entities.get(fold_case(table.name), [])
            if using:
                found += _compare_columns(table, using)
            elif table.name.lower() not in queries and _has_key(db, table):  # of a query, SQLite alone knows its tables
                found.append(f"Table {show_name(table.name)} is in no entity.")
    known = {fold_case(table.name) for table in schema.tables} | left_out
    for table_name, using in entities.items():
        if table_name not in known:
            found += [
                f"entities.{one.name}: there is no table {show_name(one.source.table or one.name)}." for one in using
            ]
    return found


def _has_key(db: sqlite3.Connection, table: TableSchema) -> bool:
    """Tell whether a draft takes a table."""
    try:
        find_key(db, table, read_values(db, table), "entity", new_ids=False)
    except Keyless:
        return False
    return True


def _compare_columns(table: TableSchema, entities: list[Entity]) -> list[str]:
    found = []
    used: set[bytes] = set()
    known = {fold_case(column) for column in (*table.columns, *table.unreadable)}
    for entity in entities:
        named = dict.fromkeys([*entity.columns, *(() if entity.source.has_rowid else entity.source.keys)])
        used |= {fold_case(column) for column in named}
        where = f"entities.{entity.name}: table {show_name(table.name)}"
        found += [f"{where} has no column {show_name(name)}." for name in named if fold_case(name) not in known]
    missing = [show_name(name) for name in table.columns if fold_case(name) not in used]
    return found + [f"Column {name} of table {show_name(table.name)} is in no attribute." for name in missing]
