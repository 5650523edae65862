"""Preflight: check everything that can be checked before a run begins. Each failure is one sentence with its remedy."""

import logging
from collections.abc import Iterable
from collections.abc import Mapping as AnyMapping
from pathlib import Path

from accession.artifacts import RunFolder, Store
from accession.dynamodb import DynamoDB, IndexKey, TableDescription
from accession.errors import RefusedError, TargetError
from accession.items import KeySchema, find_attribute_type, find_key_schemas
from accession.mapping import Entity, Mapping
from accession.params import MigrateParams
from accession.run.lineage import check_resumable, expect_entities
from accession.run.relation import name_field
from accession.run.table_owner import expect_owner
from accession.source import check_queries, check_source, lacks_wal
from accession.target import expect_state, load_state, refuse_if_taken

logger = logging.getLogger(__name__)


def check_all(mapping: Mapping, params: MigrateParams, source: Path | None, store: Store, dynamodb: DynamoDB) -> None:
    """Check source, bucket, tables and the state of the target. Read-only, except for a probe object that is removed.

    `source` is None if a run is resumed, which reads its backup. Raises the AccessionError of the first failure.
    """
    schemas = None
    if source is not None:
        schemas = _check_source(mapping, source)
        logger.info("source: it is sound and has %s", ", ".join(mapping.source_tables) or "what the queries name")
        if lacks_wal(source):
            logger.warning("source: it is in WAL mode without a -wal; if it was copied without it, rows are missing")
    store.probe()
    logger.info("bucket %s: it is writable and honours conditional writes", store.bucket)
    tables = describe_tables(mapping, params.environment, dynamodb)
    if schemas is None:
        schemas = find_staged_schemas(RunFolder(store, params.resume or ""), mapping, tables)
    for name, table in tables.items():
        check_table(mapping.entities[name], table, schemas)
        expect_owner(store, dynamodb, table)
    check_target(mapping, params, store, dynamodb)


def _check_source(mapping: Mapping, source: Path) -> dict[str, KeySchema]:
    """Check the source, and return the key of each entity's table as the columns are declared in it."""
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


def check_table(entity: Entity, table: TableDescription, schemas: AnyMapping[str, KeySchema]) -> None:
    """Check that the table is ACTIVE, and has the key and indexes of the mapping. `schemas` has the keys of all tables.

    Raises TargetError.
    """
    if table.status not in ("ACTIVE", "UPDATING"):
        raise TargetError(f"Table {table.name} is {table.status}: wait until it is ACTIVE.")
    wanted_key = schemas[entity.name]
    if table.schema != (wanted_key.names, wanted_key.types):
        raise TargetError(
            f"Table {table.name} has the key {_show_key(*table.schema)}, the mapping says "
            f"{_show_key(wanted_key.names, wanted_key.types)}: name the right table."
        )
    for index, names in entity.indexes.items():
        if index not in table.indexes:
            has = ", ".join(table.indexes) or "none"
            raise TargetError(
                f"Table {table.name} has no index {index} on {', '.join(names)} (it has {has}): deploy it first."
            )
        _expect_simple(table, index)
        wanted = IndexKey(names[:1], names[1:])
        if table.indexes[index] != wanted:
            raise TargetError(
                f"Index {index} of table {table.name} is keyed by {table.indexes[index]}, the mapping says {wanted}: "
                "correct the index or the mapping."
            )
        if table.index_status[index] != "ACTIVE":
            raise TargetError(
                f"Index {index} of table {table.name} is {table.index_status[index]}: wait until it is ACTIVE."
            )
        for name in names:
            made, found = find_attribute_type(entity, name, schemas), table.attribute_types.get(name, "S")
            if made != found:
                raise TargetError(
                    f"Index {index} of table {table.name} takes {name} as {found}, the mapping makes it {made}: "
                    "correct either."
                )
    for index in table.indexes.keys() - entity.indexes:
        names = table.indexes[index].names
        if any(name in entity.attributes for name in names):
            _expect_simple(table, index)
            raise TargetError(
                f"Table {table.name} has an index {index} on {', '.join(names)}, which the mapping does not list: "
                f"add it to the indexes of {entity.name}, so that rejected values are found before the first write."
            )
    logger.info("table %s: it is active and has %s", table.name, ", ".join(entity.indexes) or "no index that is used")


def _show_key(names: Iterable[str], types: Iterable[str]) -> str:
    return " and ".join(f"{name} ({kind})" for name, kind in zip(names, types, strict=True))


def _expect_simple(table: TableDescription, index: str) -> None:
    """Raise TargetError if a mapping cannot describe the key of an index."""
    key = table.indexes[index]
    if not key.is_simple:
        raise TargetError(
            f"Index {index} of table {table.name} is keyed by {key}: a mapping has only indexes of one partition key "
            "and at most one sort key. Delete the index, and create it again after the migration."
        )


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
