"""Row → item: typed JSON, keys, limits, checksum. Pure."""

from accession.column_types import KeyType, TypedValue
from accession.items.builder import (
    MASK,
    TRANSFORM_VERSION,
    Converted,
    ItemBuilder,
    Orphan,
    Prepared,
    Reject,
    is_same_thing,
    is_unicode,
)
from accession.items.keys import ItemKey, KeySchema, RowKey, Table
from accession.items.typed_json import TypedItem, checksum_item, checksum_items, measure_item

__all__ = [
    "MASK",
    "TRANSFORM_VERSION",
    "Converted",
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
]
