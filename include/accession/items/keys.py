"""Keys: of an item in its table, and of a row in the source. Pure.

An item's key travels as one text, in ID maps, change sets, reports and between modules: the string itself in a table
with a single string key, else a JSON array of the texts of its attributes. Only a `KeySchema` makes typed attributes of
it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

import orjson

from accession.column_types import KeyType, SqliteValue, TypedValue
from accession.items.typed_json import TypedItem, canonical_number
from accession.mapping import Entity

ItemKey = NewType("ItemKey", str)
"""The key of an item, as the one text that its table's `KeySchema` makes of it."""

RowKey = SqliteValue
"""The key of a source row, as SQLite holds it. Rows that can be migrated have an integer or a text."""


def show_row_key(key: RowKey) -> str:
    """Return a row's key as people read it; bytes in hexadecimal, and nothing for NULL."""
    return key.hex() if isinstance(key, bytes) else "" if key is None else str(key)


@dataclass(frozen=True)
class KeySchema:
    """The key attributes of a table: the partition key first, then the sort key if the table has one."""

    names: tuple[str, ...]
    types: tuple[KeyType, ...] = ("S",)

    @classmethod
    def of(cls, entity: Entity) -> "KeySchema":
        """Return the key of an entity's table: a partition key that takes the new ids."""
        return cls((entity.target.key,))

    def read(self, item: TypedItem) -> ItemKey:
        """Return the key of an item. Numbers are normalised, so that equal keys have equal texts."""
        if self.types == ("S",):
            return ItemKey(item[self.names[0]]["S"])
        texts = [_read_text(item[name], kind) for name, kind in zip(self.names, self.types, strict=True)]
        return ItemKey(orjson.dumps(texts).decode())

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
        if self.types == ("S",):
            item[self.names[0]] = {"S": key}
        else:
            for name, kind, text in zip(self.names, self.types, orjson.loads(key), strict=True):
                item[name] = {kind: text}


@dataclass(frozen=True)
class Table:
    """A DynamoDB table: its name, and the attributes that its items are found by."""

    name: str
    key: KeySchema

    @classmethod
    def of(cls, entity: Entity, environment: str) -> "Table":
        """Return the table of an entity in `environment`."""
        return cls(entity.table(environment), KeySchema.of(entity))


def _read_text(value: TypedValue, kind: KeyType) -> str:
    text = str(value[kind])
    return canonical_number(text) if kind == "N" else text
