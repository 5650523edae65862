"""Keys: of an item in its table, and of a row in the source. Pure.

An item's key travels as one text, in ID maps, change sets, reports and between modules: the string or number itself in
a table with a single key, else a JSON array of the texts of its attributes. Only a `KeySchema` makes typed attributes
of it. The key of a row with several columns is a JSON array, too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NewType
from uuid import UUID

import orjson

from accession.column_types import KeyType, SqliteValue, TypedValue
from accession.items.mask import KeyMask, show_row_key
from accession.items.typed_json import TypedItem, canonical_number
from accession.mapping import Entity, KeyPart
from accession.mapping import Mapping as MappingFile

ItemKey = NewType("ItemKey", str)
"""The key of an item, as the one text that its table's `KeySchema` makes of it."""

RowKey = SqliteValue
"""The key of a source row, as SQLite holds it. Rows that can be migrated have an integer or a text."""


def join_key(values: Sequence[object]) -> str:
    """Return the key of a row with several key columns, each an integer or text, as one text: a JSON array.

    Raises UnicodeEncodeError for a text that is not valid Unicode.
    """
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def show_key(values: Sequence[RowKey]) -> str:
    """Return the key of a row with several key columns as people read it, whatever the columns hold."""
    return join_key([value if isinstance(value, int | float | None) else show_row_key(value) for value in values])


def clean_key(key: RowKey) -> int | float | str | None:
    """Return the key of a rejected row as it is stored: bytes as Python writes them, and ? for what is not Unicode."""
    return key if isinstance(key, int | float | None) else str(key).encode(errors="replace").decode()


@dataclass(frozen=True)
class KeySchema:
    """The key attributes of a table: the partition key first, then the sort key if the table has one."""

    names: tuple[str, ...]
    types: tuple[KeyType, ...] = ("S",)

    def read(self, item: TypedItem) -> ItemKey:
        """Return the key of an item. Numbers are normalised, so that equal keys have equal texts."""
        if self.types == ("S",):
            return ItemKey(item[self.names[0]]["S"])
        texts = [_read_text(item[name], kind) for name, kind in zip(self.names, self.types, strict=True)]
        return ItemKey(texts[0] if len(texts) == 1 else orjson.dumps(texts).decode())

    def read_all(self, items: Iterable[TypedItem]) -> list[ItemKey]:
        """Return the keys of many items."""
        if self.types == ("S",):
            name = self.names[0]
            return [ItemKey(item[name]["S"]) for item in items]
        return [self.read(item) for item in items]

    def write(self, key: ItemKey) -> TypedItem:
        """Return the typed attributes of a key, as DynamoDB wants them: {"user_id": {"S": "…"}}."""
        item: TypedItem = {}
        self.add_to(item, key)
        return item

    def add_to(self, item: TypedItem, key: ItemKey) -> None:
        """Set the key attributes of an item."""
        if len(self.types) == 1:
            item[self.names[0]] = {self.types[0]: key}
        else:
            for name, kind, text in zip(self.names, self.types, orjson.loads(key), strict=True):
                item[name] = {kind: text}

    def find_type(self, name: str | None) -> KeyType:
        """Return the type of one attribute of the key; None means the first."""
        return self.types[self.names.index(name) if name is not None else 0]


Affinities = Mapping[str, str]
"""The declared affinity of each column of a source table, by the column's name in lower case."""


def find_key_schemas(mapping: MappingFile, affinities: Mapping[str, Affinities]) -> dict[str, KeySchema]:
    """Return the key of each entity's table. `affinities` has those of each entity's source table.

    A table that the mapping declares has the types that it says. Elsewhere a column that is kept and whose type no
    attribute declares is a number if the source declares it as an integer.
    """
    schemas: dict[str, KeySchema] = {}
    for name in mapping.order:
        entity = mapping.entities[name]
        declared = mapping.tables.get(entity.target.table)
        types = (
            declared.key_types
            if declared
            else tuple(_find_part_type(entity, part, schemas, affinities.get(name, {})) for part in entity.key_parts)
        )
        schemas[name] = KeySchema(entity.target.keys, types)
    return schemas


def _find_part_type(entity: Entity, part: KeyPart, schemas: Mapping[str, KeySchema], affinities: Affinities) -> KeyType:
    if part.name in entity.attributes:
        return find_attribute_type(entity, part.name, schemas) or "S"
    is_rowid = entity.source.has_rowid and part.column == entity.source.key
    return "N" if is_rowid or (part.column and affinities.get(part.column.lower()) == "INTEGER") else "S"


def find_attribute_type(entity: Entity, name: str, schemas: Mapping[str, KeySchema]) -> KeyType | None:
    """Return the type of an attribute as a key; None if its type cannot be one. `schemas` has those of the parents."""
    if name in entity.target.keys and entity.name in schemas:
        return schemas[entity.name].find_type(name)
    attribute = entity.attributes[name]
    return schemas[attribute.parent].find_type(attribute.part) if attribute.parent else attribute.key_type


@dataclass(frozen=True)
class Table:
    """A DynamoDB table: its name, the attributes that its items are found by, and what people may see of their keys."""

    name: str
    key: KeySchema
    mask: KeyMask = field(default=KeyMask(), compare=False)


def find_mask(mapping: MappingFile, entity: str, namespace: UUID) -> KeyMask:
    """Return what covers the keys of an entity in the target with that namespace."""
    return KeyMask(namespace if mapping.entities[entity].secret else None)


def _read_text(value: TypedValue, kind: KeyType) -> str:
    text = str(value[kind])
    return canonical_number(text) if kind == "N" else text
