"""What an entity's rows are selected from: its table, a view of those that its `where` takes, or the rows of its query.

Views and rows are temporary: they belong to a connection to the snapshot, and the snapshot stays as it is.
"""

import sqlite3

from accession.items import Affinities
from accession.mapping import Entity, Mapping
from accession.source import describe_query, find_affinity, guarding, materialise_query, quote


def name_relation(entity: Entity) -> str:
    """Return what an entity's rows are selected from, as queries have it; `make_relations` makes it."""
    if entity.source.table is not None and entity.source.where is None:
        return f"main.{quote(entity.source.table)}"
    return f"temp.{quote(_name_rows(entity))}"


def name_field(entity: Entity) -> str:
    """Return the field of the mapping that has the SQL of an entity."""
    return f"entities.{entity.name}.source.{'where' if entity.source.query is None else 'query'}"


def make_relations(snapshot: sqlite3.Connection, mapping: Mapping, entity: Entity) -> None:
    """Make what the rows of an entity are selected from, and those of the parents that it finds by other columns.

    Call it before other databases are attached, so that the mapping's SQL cannot mean their tables. Raises SourceError
    if SQLite refuses that SQL, or if its result depends on more than the source.
    """
    found = (a.parent for a in entity.attributes.values() if a.parent is not None and a.by is not None)
    for name in dict.fromkeys((entity.name, *found)):
        _make_relation(snapshot, mapping, mapping.entities[name])


def _make_relation(snapshot: sqlite3.Connection, mapping: Mapping, entity: Entity) -> None:
    source, field, rows = entity.source, name_field(entity), _name_rows(entity)
    if source.query is not None:
        unique = mapping.list_found_by(entity.name)
        columns = mapping.query_columns[entity.name]
        materialise_query(snapshot, field, source.query, rows, columns, source.keys, unique)
    elif source.where is not None and source.table is not None:
        names = "rowid AS rowid, *" if source.has_rowid else "*"
        select = f"SELECT {names} FROM main.{quote(source.table)} WHERE ({source.where}\n)"
        with guarding(snapshot, field):  # the condition is evaluated for every row
            snapshot.execute(f"SELECT count(*) FROM ({select})").fetchone()
        snapshot.execute(f"CREATE TEMP VIEW {quote(rows)} AS {select}")


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
