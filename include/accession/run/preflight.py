"""Preflight: check everything that can be checked before a run begins. Each failure is one sentence with its remedy."""

import logging
from pathlib import Path

from accession.artifacts import RunFolder, Store
from accession.dynamodb import DynamoDB
from accession.errors import RefusedError, TargetError
from accession.mapping import Attribute, Entity, Mapping
from accession.params import MigrateParams
from accession.run.lineage import check_resumable, expect_entities
from accession.source import check_source
from accession.target import expect_state, load_state, refuse_if_taken

logger = logging.getLogger(__name__)


def check_all(mapping: Mapping, params: MigrateParams, source: Path | None, store: Store, dynamodb: DynamoDB) -> None:
    """Check source, bucket, tables and the state of the target. Read-only, except for a probe object that is removed.

    `source` is None if a run is resumed, which reads its backup. Raises the AccessionError of the first failure.
    """
    if source is not None:
        keys = {entity.source.table: entity.source.key for entity in mapping.entities.values()}
        check_source(source, mapping.source_tables, keys)
        logger.info("source: it is sound and has %s", ", ".join(mapping.source_tables))
    store.probe()
    logger.info("bucket %s: it is writable and honours conditional writes", store.bucket)
    for entity in mapping.entities.values():
        check_table(entity, params.environment, dynamodb)
    check_target(mapping, params, store, dynamodb)


def check_table(entity: Entity, environment: str, dynamodb: DynamoDB) -> None:
    """Check that the table exists, is ACTIVE, and has the key and indexes of the mapping. Raises TargetError."""
    table = dynamodb.describe_table(entity.table(environment))
    if table.status not in ("ACTIVE", "UPDATING"):
        raise TargetError(f"Table {table.name} is {table.status}: wait until it is ACTIVE.")
    found = f"{table.key} ({table.key_type}){f' and {table.sort_key}' if table.sort_key else ''}"
    if (table.key, table.key_type, table.sort_key) != (entity.target.key, "S", None):
        raise TargetError(
            f"Table {table.name} has the key {found}, the mapping says {entity.target.key} (S): name the right table."
        )
    for index, names in entity.indexes.items():
        if index not in table.indexes:
            has = ", ".join(table.indexes) or "none"
            raise TargetError(
                f"Table {table.name} has no index {index} on {', '.join(names)} (it has {has}): deploy it first."
            )
        if table.indexes[index] != names:
            raise TargetError(
                f"Index {index} of table {table.name} is keyed by {', '.join(table.indexes[index])}, the mapping says "
                f"{', '.join(names)}: correct the index or the mapping."
            )
        if table.index_status[index] != "ACTIVE":
            raise TargetError(
                f"Index {index} of table {table.name} is {table.index_status[index]}: wait until it is ACTIVE."
            )
        for name in names:
            _check_key_type(table.name, index, name, entity.attributes[name], table.attribute_types.get(name, "S"))
    for index in table.indexes.keys() - entity.indexes:
        names = table.indexes[index]
        if any(name in entity.attributes for name in names):
            raise TargetError(
                f"Table {table.name} has an index {index} on {', '.join(names)}, which the mapping does not list: "
                f"add it to the indexes of {entity.name}, so that rejected values are found before the first write."
            )
    logger.info("table %s: it is active and has %s", table.name, ", ".join(entity.indexes) or "no index that is used")


def _check_key_type(table: str, index: str, name: str, attribute: Attribute, found: str) -> None:
    wanted = attribute.key_type
    if found != wanted:
        raise TargetError(
            f"Index {index} of table {table} takes {name} as {found}, the mapping makes it {wanted}: correct either."
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
