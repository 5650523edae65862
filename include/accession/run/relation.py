"""What an entity's rows are selected from: its table, a view of those that its `where` takes, or the rows of its query.

Views and rows are temporary: they belong to a connection to the snapshot, and the snapshot stays as it is.
"""

import sqlite3
from collections.abc import Sequence

from accession.items import Affinities
from accession.mapping import Entity, Mapping
from accession.source import SourceConnection, describe_query, find_affinity, guarding, materialise_query, quote


def name_relation(snapshot: SourceConnection, entity: Entity) -> str:
    """Return what an entity's rows are selected from, as queries have it; `make_relations` makes it."""
    if entity.source.table is not None and entity.source.where is None and not _is_copied(snapshot, entity):
        return f"main.{quote(entity.source.table)}"
    return f"temp.{quote(_name_rows(entity))}"


def name_field(entity: Entity) -> str:
    """Return the field of the mapping that has the SQL of an entity."""
    return f"entities.{entity.name}.source.{'where' if entity.source.query is None else 'query'}"


def make_relations(snapshot: SourceConnection, mapping: Mapping, entity: Entity) -> None:
    """Make what the rows of an entity are selected from, and those of the parents whose rows its references look for.

    Call it before other databases are attached, so that the mapping's SQL cannot mean their tables. Raises SourceError
    if SQLite refuses that SQL, or if its result depends on more than the source.
    """
    found = (parent for name, parent in entity.references.items() if list_searched(snapshot, mapping, entity, name))
    for name in dict.fromkeys((entity.name, *found)):
        _make_relation(snapshot, mapping, mapping.entities[name])


def _make_relation(snapshot: SourceConnection, mapping: Mapping, entity: Entity) -> None:
    source, field, rows = entity.source, name_field(entity), _name_rows(entity)
    if source.query is not None:
        unique = mapping.list_found_by(entity.name)
        columns = mapping.query_columns[entity.name]
        materialise_query(snapshot, field, source.query, rows, columns, source.keys, unique)
    elif source.table is not None and (source.where is not None or _is_copied(snapshot, entity)):
        names = "rowid AS rowid, *" if source.has_rowid else "*"
        kind, hint = ("TABLE", "NOT INDEXED") if _is_copied(snapshot, entity) else ("VIEW", "")
        select = f"SELECT {names} FROM main.{quote(source.table)} {hint} WHERE ({source.where or 'true'}\n)"
        with guarding(snapshot, field):  # the condition is evaluated for every row
            snapshot.execute(f"SELECT count(*) FROM ({select})").fetchone()
        snapshot.execute(f"CREATE TEMP {kind} {quote(rows)} AS {select}")


def _is_copied(snapshot: SourceConnection, entity: Entity) -> bool:
    """Tell whether an entity's table is copied, because its schema names a collation that only the application has.

    The copy has neither its indexes nor its collations, so everything compares byte by byte there.
    """
    return (entity.source.table or "").lower() in snapshot.affected


def list_searched(snapshot: SourceConnection, mapping: Mapping, entity: Entity, name: str) -> list[str]:
    """Return the columns by which the row of a reference's parent is searched, each with its collation.

    It is empty if the reference has the parent's key, and keys are compared byte by byte: the ID map is enough then. It
    has no collation itself, because a key must be found again exactly as it was written.
    """
    parent, by = mapping.entities[entity.references[name]], entity.attributes[name].by
    columns = (by,) if by else parent.source.keys
    collations = _find_collations(snapshot, parent, columns)
    if by is None and set(collations) == {"BINARY"}:
        return []
    return [f"{quote(one)} COLLATE {collation}" for one, collation in zip(columns, collations, strict=True)]


def _find_collations(snapshot: SourceConnection, entity: Entity, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the collation by which each of these columns is compared: that of the unique index on them.

    Without such an index, and for a collation that only the application has, it is BINARY, so that a value never finds
    two rows.
    """
    wanted = [column.lower() for column in columns]
    query = """SELECT name FROM main.pragma_index_list(?) WHERE "unique" AND NOT partial
        ORDER BY origin = 'c', origin = 'u', seq"""
    for (index,) in snapshot.execute(query, (entity.source.table,)).fetchall():
        members = snapshot.execute("SELECT name, coll FROM main.pragma_index_xinfo(?) WHERE key", (index,)).fetchall()
        collations = {name.lower(): collation for name, collation in members if name is not None}
        is_known = snapshot.unknown.isdisjoint(map(str.lower, collations.values()))
        if is_known and len(members) == len(wanted) and collations.keys() == set(wanted):
            return tuple(collations[column].upper() for column in wanted)
    return ("BINARY",) * len(wanted)


def _name_rows(entity: Entity) -> str:
    return f"rows of {entity.name}"


def find_affinities(snapshot: sqlite3.Connection, mapping: Mapping) -> dict[str, Affinities]:
    """Return the declared affinities of each entity's columns."""
    return {name: read_affinities(snapshot, mapping, entity) for name, entity in mapping.entities.items()}


def read_affinities(snapshot: sqlite3.Connection, mapping: Mapping, entity: Entity) -> Affinities:
    """Return the affinity of each column of an entity's table or query, by its name in lower case."""
    if entity.source.query is not None:
        columns = mapping.query_columns[entity.name]
        return describe_query(snapshot, name_field(entity), entity.source.query, columns)
    declared = snapshot.execute("SELECT name, type FROM main.pragma_table_xinfo(?)", (entity.source.table,))
    return {name.lower(): find_affinity(kind) for name, kind in declared}
