"""A row becomes an item: values, typed JSON, limits, checksum. Pure."""

from accession.items.builder import (
    MASK,
    TRANSFORM_VERSION,
    ItemBuilder,
    Orphan,
    Prepared,
    Reject,
    is_same_thing,
    is_unicode,
)
from accession.items.keys import ItemKey, KeySchema, KeyType, RowKey, Table, show_row_key
from accession.items.typed_json import TypedItem, checksum_item, checksum_items, measure_item
from accession.items.values import TypedValue

__all__ = [
    "MASK",
    "TRANSFORM_VERSION",
    "ItemBuilder",
    "ItemKey",
    "KeySchema",
    "KeyType",
    "Orphan",
    "Prepared",
    "Reject",
    "RowKey",
    "Table",
    "TypedItem",
    "TypedValue",
    "checksum_item",
    "checksum_items",
    "is_same_thing",
    "is_unicode",
    "measure_item",
    "show_row_key",
]
