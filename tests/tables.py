"""Tables for any mapping, made in MiniStack as the mapping and the source say; and what is in them."""

import json
import sqlite3
from collections.abc import Mapping as AnyMapping
from contextlib import closing
from pathlib import Path
from typing import Any

from accession.cli.template import define_keys
from accession.items import KeySchema, find_key_schemas
from accession.mapping import Mapping, load_mapping
from accession.run.relation import find_affinities
from conftest import Library
from driver import Driver


def create_tables(client: Any, mapping: Mapping, source: Path, environment: str) -> dict[str, KeySchema]:
    """Create the tables of a mapping, and return the keys of its entities."""
    with closing(sqlite3.connect(source)) as db:
        schemas = find_key_schemas(mapping, find_affinities(db, mapping))
    for name in (name for name in mapping.entities if mapping.find_table_mates(name)[0] == name):
        client.create_table(**define_table(mapping, name, schemas, environment))
    return schemas


def define_table(mapping: Mapping, name: str, schemas: AnyMapping[str, KeySchema], environment: str) -> dict[str, Any]:
    """Return the request that creates the table of an entity."""
    return {
        "TableName": mapping.entities[name].table(environment),
        "BillingMode": "PAY_PER_REQUEST",
        **define_keys(mapping, name, schemas),
    }


def make_driver(library: Library, folder: Path, schema: str, mapping: str, **params: Any) -> Driver:
    """A source with this schema and data, a mapping, and their tables; the first run of the migration."""
    source, file = folder / "source.db", folder / "mapping.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(schema)
    file.write_text(mapping)
    loaded = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), loaded, source, library.environment)
    return Driver(library, source, mapping=loaded, **params)


def later(first: Driver, **params: Any) -> Driver:
    """The next run of the same migration."""
    return Driver(first.library, first.source, mapping=first.mapping, **params)


def edit(driver: Driver, statements: str) -> None:
    """Change the source."""
    with closing(sqlite3.connect(driver.source)) as db, db:
        db.executescript(statements)


def scan_all(driver: Driver) -> dict[str, list[str]]:
    """The items of every table."""
    return {
        name: sorted(json.dumps(item, sort_keys=True) for item in driver.scan(name)) for name in driver.mapping.entities
    }


def read(driver: Driver, entity: str, *keys: str) -> dict[Any, dict[str, Any]]:
    """The items of a table by their keys, values without their types."""
    items = [{name: plain(value) for name, value in item.items()} for item in driver.scan(entity)]
    return {tuple(item.pop(key) for key in keys): item for item in items}


def plain(value: dict[str, Any]) -> Any:
    [(kind, content)] = value.items()
    return None if kind == "NULL" else int(content) if kind == "N" else content


def select(driver: Driver, query: str) -> list[tuple[Any, ...]]:
    """Rows of the source."""
    with closing(sqlite3.connect(driver.source)) as db:
        return db.execute(query).fetchall()
