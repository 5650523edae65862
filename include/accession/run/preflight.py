"""Preflight: check everything that can be checked before a run begins. Each failure is one sentence with its remedy."""

import logging
from collections.abc import Iterable
from collections.abc import Mapping as AnyMapping
from pathlib import Path

from accession.artifacts import RunFolder, Store
from accession.dynamodb import DynamoDB, IndexKey, TableDescription
from accession.errors import RefusedError, TargetError
from accession.items import KeySchema, find_attribute_type, find_key_schemas
from accession.mapping import Entity, Index, Mapping
from accession.params import MigrateParams
from accession.run.lineage import check_resumable, expect_entities
from accession.run.relation import name_field
from accession.run.table_owner import expect_owner
from accession.source import check_queries, check_source, lacks_wal
from accession.target import expect_state, load_state, refuse_if_taken
from accession.validation import list_words

logger = logging.getLogger(__name__)


def check_all(mapping: Mapping, params: MigrateParams, source: Path | None, store: Store, dynamodb: DynamoDB) -> None:
    """Check source, bucket, tables and the state of the target. Read-only, except for a probe object that is removed.

    `source` is None if a run is resumed, which reads its backup. Raises the AccessionError of the first failure.
    """
    schemas = None
    if source is not None:
        schemas = find_source_schemas(mapping, source)
        logger.info("source: it is sound and has %s", ", ".join(mapping.source_tables) or "what the queries name")
        if lacks_wal(source):
            logger.warning("source: it is in WAL mode without a -wal; if it was copied without it, rows are missing")
    store.probe()
    logger.info("bucket %s: it is writable and honours conditional writes", store.bucket)
    tables = describe_tables(mapping, params.environment, dynamodb)
    if schemas is None:
        schemas = find_staged_schemas(RunFolder(store, params.resume or ""), mapping, tables)
    for name, table in tables.items():
        check_table(mapping, name, table, schemas)
        expect_owner(store, dynamodb, table)
    check_target(mapping, params, store, dynamodb)


def find_source_schemas(mapping: Mapping, source: Path) -> dict[str, KeySchema]:
    """Check the source, and return the key of each entity's table as the columns are declared in it. Read-only.

    Raises SourceError.
    """
    keys, queries = [], {}
    for name, entity in mapping.entities.items():
        if entity.source.table is not None:
            found_by = ((column,) for column in mapping.list_found_by(name))
            keys += [(entity.source.table, key) for key in (entity.source.keys, *found_by)]
        elif entity.source.query is not None:
            queries[name_field(entity)] = entity.source.query, mapping.query_columns[name]
    shapes = check_source(source, mapping.source_tables, keys)
    described = check_queries(source, queries)
    affinities = {
        name: {column.lower(): found.affinity for column, found in shapes[entity.source.table].columns.items()}
        if entity.source.table is not None
        else described[name_field(entity)]
        for name, entity in mapping.entities.items()
    }
    return find_key_schemas(mapping, affinities)


def describe_tables(mapping: Mapping, environment: str, dynamodb: DynamoDB) -> dict[str, TableDescription]:
    """Return the description of each entity's table. Raises TargetError if one does not exist."""
    return {name: dynamodb.describe_table(entity.table(environment)) for name, entity in mapping.entities.items()}


def find_deployed_schemas(mapping: Mapping, tables: AnyMapping[str, TableDescription]) -> dict[str, KeySchema]:
    """Return the key of each entity's table if no source is at hand: the tables have the types of columns that are
    kept."""
    affinities = {
        name: {
            part.column.lower(): "INTEGER" if table.attribute_types.get(part.name) == "N" else "TEXT"
            for part in mapping.entities[name].key_parts
            if part.column
        }
        for name, table in tables.items()
    }
    return find_key_schemas(mapping, affinities)


def find_staged_schemas(
    folder: RunFolder, mapping: Mapping, tables: AnyMapping[str, TableDescription]
) -> dict[str, KeySchema]:
    """Return the key of each entity's table as a run was staged; as it is deployed if that run has none."""
    staged = {name: found.key for name in mapping.entities if (found := folder.find_staged(name)) and found.key}
    return find_deployed_schemas(mapping, tables) | staged


def check_table(mapping: Mapping, name: str, table: TableDescription, schemas: AnyMapping[str, KeySchema]) -> None:
    """Check that an entity's table is ACTIVE, and has the key and indexes of the mapping. `schemas` has all keys.

    Raises TargetError.
    """
    entity, indexes = mapping.entities[name], mapping.indexes[name]
    if table.status not in ("ACTIVE", "UPDATING"):
        raise TargetError(f"Table {table.name} is {table.status}: wait until it is ACTIVE.")
    expect_key(mapping, name, table, schemas)
    for index in indexes:
        _check_index(entity, index, table, schemas)
        if entity.target.table in mapping.tables:
            _check_projection(index, table)
    for unlisted in table.indexes.keys() - {index.name for index in indexes}:
        names = table.indexes[unlisted].names
        if any(name in entity.attributes for name in names):
            is_own = table.indexes[unlisted].is_simple and entity.target.table not in mapping.tables
            place = f"the indexes of {entity.name}" if is_own else "the table's indexes, under tables"
            raise TargetError(
                f"Table {table.name} has an index {unlisted} on {table.indexes[unlisted]}, which the mapping does not "
                f"list: add it to {place}, so that rejected values are found before the first write."
            )
    named = ", ".join(index.name for index in indexes)
    logger.info("table %s: it is active and has %s", table.name, named or "no index that is used")


def expect_key(mapping: Mapping, name: str, table: TableDescription, schemas: AnyMapping[str, KeySchema]) -> None:
    """Raise TargetError if an entity's table has another key than the mapping says."""
    wanted = schemas[name]
    names, types = table.schema
    if (names, types) == (wanted.names, wanted.types):
        return
    remedy = "name the right table"
    if names == wanted.names:
        others = [one for one, kind, made in zip(names, types, wanted.types, strict=True) if kind != made]
        if others == [one for one in others if one in find_open_types(mapping, name)]:
            remedy = (
                f"either declare {list_words(others, 'and')} under attributes of {name} with the type that the table "
                "has, or delete the table and make it with SOURCE= the database"
            )
    raise TargetError(
        f"Table {table.name} has the key {_show_key(names, types)}, the mapping says "
        f"{_show_key(wanted.names, wanted.types)}: {remedy}."
    )


def find_open_types(mapping: Mapping, name: str) -> list[str]:
    """Return the attributes of an entity's key whose types the mapping leaves to the columns of the source."""
    entity = mapping.entities[name]
    if entity.target.table in mapping.tables:
        return []
    return [part.name for part in entity.key_parts if part.column and part.name not in entity.attributes]


def find_index_changes(mapping: Mapping, name: str, table: TableDescription) -> list[str]:
    """Return the indexes that must be created or deleted so that a table has those of the mapping.

    One that must be deleted and created again is listed twice.
    """
    wanted = {
        (index.name, IndexKey(index.partition, index.sort), _sort_projection(index)) for index in mapping.indexes[name]
    }
    found = {(index, key, table.projections[index]) for index, key in table.indexes.items()}
    return sorted(index for index, _, _ in wanted ^ found)


def _check_index(entity: Entity, index: Index, table: TableDescription, schemas: AnyMapping[str, KeySchema]) -> None:
    wanted = IndexKey(index.partition, index.sort)
    if index.name not in table.indexes:
        has = ", ".join(table.indexes) or "none"
        raise TargetError(f"Table {table.name} has no index {index.name} on {wanted} (it has {has}): deploy it first.")
    if table.indexes[index.name] != wanted:
        raise TargetError(
            f"Index {index.name} of table {table.name} is keyed by {table.indexes[index.name]}, the mapping says "
            f"{wanted}: correct the index or the mapping."
        )
    if table.index_status[index.name] != "ACTIVE":
        raise TargetError(
            f"Index {index.name} of table {table.name} is {table.index_status[index.name]}: wait until it is ACTIVE."
        )
    for name in index.names:
        if not entity.may_have(name):
            continue  # another entity of the table has it
        made, found = find_attribute_type(entity, name, schemas), table.attribute_types.get(name, "S")
        if made != found:
            raise TargetError(
                f"Index {index.name} of table {table.name} takes {name} as {found}, the mapping makes it {made}: "
                "correct either."
            )


def _check_projection(index: Index, table: TableDescription) -> None:
    found, wanted = table.projections[index.name], _sort_projection(index)
    if found != wanted:
        raise TargetError(
            f"Index {index.name} of table {table.name} projects {_show_projection(found)}, the mapping says "
            f"{_show_projection(wanted)}: correct the index or the mapping."
        )


def _sort_projection(index: Index) -> str | tuple[str, ...]:
    return tuple(sorted(index.projection)) if isinstance(index.projection, tuple) else index.projection


def _show_projection(projection: str | tuple[str, ...]) -> str:
    return projection if isinstance(projection, str) else ", ".join(projection)


def _show_key(names: Iterable[str], types: Iterable[str]) -> str:
    return " and ".join(f"{name} ({kind})" for name, kind in zip(names, types, strict=True))


def check_target(mapping: Mapping, params: MigrateParams, store: Store, dynamodb: DynamoDB) -> None:
    """Check that the target is neither open nor sealed, and that the tables of a first run are empty.

    Raises RefusedError.
    """
    if params.resume:
        check_resumable(RunFolder(store, params.resume), mapping)
        return
    expect_state(store)
    state = load_state(store)
    if state is not None:
        unsealed = state.model_copy(update={"sealed": None}) if params.unseal or params.dry_run else state
        refuse_if_taken(store, unsealed)
    if state is not None and state.head is not None:
        expect_entities(RunFolder(store, state.head), mapping)
    elif params.existing_items == "refuse":
        check_empty(mapping, params.environment, dynamodb)


def check_empty(mapping: Mapping, environment: str, dynamodb: DynamoDB) -> None:
    """Raise RefusedError if a table of a first run has items."""
    for entity in mapping.entities.values():
        table = entity.table(environment)
        if not dynamodb.is_empty(table):
            raise RefusedError(
                f"Table {table} has items that no run of ours wrote: empty it, or set existing_items=keep to leave "
                "them and write beside them."
            )
