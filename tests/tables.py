"""Tables for any mapping, made in MiniStack as the mapping and the source say."""

import sqlite3
from collections.abc import Mapping as AnyMapping
from contextlib import closing
from pathlib import Path
from typing import Any

from accession.items import KeySchema, find_attribute_type, find_key_schemas
from accession.mapping import Mapping
from accession.run.staging_query import find_affinities


def create_tables(client: Any, mapping: Mapping, source: Path, environment: str) -> dict[str, KeySchema]:
    """Create the tables of a mapping, and return the keys of its entities."""
    with closing(sqlite3.connect(source)) as db:
        schemas = find_key_schemas(mapping, find_affinities(db, mapping))
    for name in mapping.entities:
        client.create_table(**define_table(mapping, name, schemas, environment))
    return schemas


def define_table(mapping: Mapping, name: str, schemas: AnyMapping[str, KeySchema], environment: str) -> dict[str, Any]:
    """Return the request that creates the table of an entity."""
    entity, key = mapping.entities[name], schemas[name]
    types = dict(zip(key.names, key.types, strict=True))
    for attribute in entity.index_keys - types.keys():
        types[attribute] = find_attribute_type(entity, attribute, schemas) or "S"
    indexes = [
        {"IndexName": index, "KeySchema": _list_keys(names), "Projection": {"ProjectionType": "ALL"}}
        for index, names in entity.indexes.items()
    ]
    return {
        "TableName": entity.table(environment),
        "KeySchema": _list_keys(key.names),
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in types.items()],
        "BillingMode": "PAY_PER_REQUEST",
        **({"GlobalSecondaryIndexes": indexes} if indexes else {}),
    }


def _list_keys(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"AttributeName": n, "KeyType": kind} for n, kind in zip(names, ("HASH", "RANGE"), strict=False)]
