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
from accession.items.typed_json import TypedItem, checksum_item, checksum_items, measure_item
from accession.items.values import TypedValue

__all__ = [
    "MASK",
    "TRANSFORM_VERSION",
    "ItemBuilder",
    "Orphan",
    "Prepared",
    "Reject",
    "TypedItem",
    "TypedValue",
    "checksum_item",
    "checksum_items",
    "is_same_thing",
    "is_unicode",
    "measure_item",
]
