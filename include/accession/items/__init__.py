"""A row becomes an item: values, typed JSON, limits, checksum. Pure."""

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
from accession.items.keys import ItemKey, KeySchema, RowKey, Table, show_row_key
from accession.items.typed_json import TypedItem, checksum_item, checksum_items, measure_item

__all__ = [
    "MASK",
    "TRANSFORM_VERSION",
    "Converted",
    "ItemBuilder",
    "ItemKey",
    "KeySchema",
    "Orphan",
    "Prepared",
    "Reject",
    "RowKey",
    "Table",
    "TypedItem",
    "checksum_item",
    "checksum_items",
    "is_same_thing",
    "is_unicode",
    "measure_item",
    "show_row_key",
]
