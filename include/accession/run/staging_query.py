"""The SQL of staging. It reads rows and their records in key order, so that memory does not grow with their number.

The snapshot is `main`; the parents' ID maps are attached as map_<entity>, and the head's ID map as `head`.
"""

import sqlite3

from accession.artifacts import RESOLVING
from accession.mapping import Entity
from accession.run.match import Recorded
from accession.source import find_affinity, quote

RECORDED = ", ".join(f"h.{field}" for field in Recorded._fields)


def count_rows(snapshot: sqlite3.Connection, entity: Entity) -> int:
    """Return the number of source rows of an entity."""
    rows: int = snapshot.execute(f"SELECT count(*) FROM main.{quote(entity.source.table)}").fetchone()[0]
    return rows


def find_key_affinity(snapshot: sqlite3.Connection, entity: Entity) -> str:
    """Return the declared affinity of the key column, or an empty string if the table does not declare the column."""
    for _, name, declared, *_ in snapshot.execute("SELECT * FROM pragma_table_xinfo(?)", (entity.source.table,)):
        if name.lower() == entity.source.key.lower():
            return find_affinity(declared)
    return ""


def select_rows(entity: Entity, has_head: bool) -> str:
    """Return the query of all rows in key order: key, columns, new ids of the parents, and the record of the head.

    The plus removes the affinity of a column, so that keys compare as the ID map declares them, and its index can be
    used for every row. SQLite's own foreign keys compare like this too, by the declaration of the parent.
    """
    key = quote(entity.source.key)
    columns = [f"s.{key}", *(f"s.{quote(column)}" for column in entity.columns)]
    joins = []
    for number, (attribute, parent) in enumerate(entity.references.items()):
        column = quote(entity.attributes[attribute].column or "")
        columns.append(f"p{number}.new_id")
        joins.append(
            f"LEFT JOIN map_{parent}.id_map p{number} ON p{number}.old_key = +s.{column} "
            f"AND p{number}.latest AND p{number}.state IN {RESOLVING}"
        )
    if has_head:
        columns.append(RECORDED)
        joins.append(f"LEFT JOIN head.id_map h ON h.old_key = +s.{key} AND h.latest")
    return f"SELECT {', '.join(columns)} FROM main.{quote(entity.source.table)} s {' '.join(joins)} ORDER BY s.{key}"


def select_gone(entity: Entity) -> str:
    """Return the query of records of the head that have no row in the source: old key, record, and `latest`.

    It includes items of earlier generations that were kept.
    """
    key = quote(entity.source.key)
    return (
        f"SELECT h.old_key, {RECORDED}, h.latest FROM head.id_map h "
        f"LEFT JOIN main.{quote(entity.source.table)} s ON h.old_key = s.{key} COLLATE BINARY "
        f"WHERE h.state != 'tombstone' AND (s.{key} IS NULL OR NOT h.latest) ORDER BY h.old_key, h.generation"
    )


def is_rejected(snapshot: sqlite3.Connection, parent: str, old_key: object) -> bool:
    """Tell whether a parent row was rejected."""
    query = f"SELECT 1 FROM map_{parent}.rejects WHERE old_key = ?"
    return snapshot.execute(query, (old_key,)).fetchone() is not None
